"""Rankings made once and summed under any weights of the clips: a metric is one weight each, a bootstrap many.

A weight is how often a clip counts. Equal scores are one threshold, so that no metric depends on the order of the clips
or of the classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from audioset.errors import OptionError

# What is held at a time beside the caller's own arrays, in values: tens of megabytes, however many clips there are.
_HELD = 1 << 22

Scores = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Weights = npt.NDArray[np.unsignedinteger[Any]]


def checked(
    scores: npt.ArrayLike, targets: npt.ArrayLike, mask: npt.ArrayLike | None
) -> tuple[Scores, Bools, Bools | None]:
    """Return the three as arrays (n, c): numbers, and bools without a positive in a cell that is not rated.

    Raises
    ------
    OptionError
        A shape differs, there is no clip or no class, a score is not a finite number, or a target is neither 0 nor 1.
    """
    values = np.asarray(scores)
    if values.ndim != 2 or not values.size:
        raise OptionError(
            f"scores: shape {values.shape}; expected two axes, clips and classes, with at least one of each"
        )
    if values.dtype.kind not in "fiub":
        raise OptionError(f"scores: {values.dtype} values; expected numbers")
    bad = sum(int((~np.isfinite(values[rows])).any(axis=1).sum()) for rows in row_blocks(*values.shape))
    if bad:
        first = next(int(i) for i in range(len(values)) if not np.isfinite(values[i]).all())
        raise OptionError(
            f"scores: NaN or infinite in {bad} of {len(values)} clips, the first is row {first}; expected finite "
            "numbers. Leave these clips out, or look at what scored them"
        )
    positive = _bools("targets", targets, values.shape)
    if mask is None:
        return values, positive, None
    rated = _bools("mask", mask, values.shape)
    return values, positive & rated, rated


def _bools(name: str, given: npt.ArrayLike, shape: tuple[int, ...]) -> Bools:
    values = np.asarray(given)
    if values.shape != shape:
        raise OptionError(f"{name}: shape {values.shape}; expected that of the scores, {shape}")
    if values.dtype == np.bool_:
        return values
    if values.dtype.kind not in "fiu" or any(
        ((block != 0) & (block != 1)).any() for block in (values[rows] for rows in row_blocks(*shape))
    ):
        raise OptionError(f"{name}: {values.dtype} values that are neither 0 nor 1; expected bools")
    return values.astype(np.bool_)


def row_blocks(num_rows: int, num_columns: int) -> Iterator[slice]:
    """Slices that cover the rows, each of as many as may be held at a time."""
    step = max(1, _HELD // max(1, num_columns))
    return (slice(begin, min(begin + step, num_rows)) for begin in range(0, num_rows, step))


@dataclass(frozen=True)
class Column:
    """The clips of one class in the order of their scores, cut where the weights of a part are needed.

    Parts alternate between runs of equal scores that hold a positive, and what lies between such runs.

    Attributes
    ----------
    order : clips, highest score first; only rated ones.
    starts : place in `order` where each part begins.
    hits : parts that hold a positive.
    positives : clips that are positive, in the order of `hits`.
    first : place in `positives` where those of each part of `hits` begin.
    """

    order: npt.NDArray[np.intp]
    starts: npt.NDArray[np.intp]
    hits: npt.NDArray[np.intp]
    positives: npt.NDArray[np.intp]
    first: npt.NDArray[np.intp]

    def average_precision_and_auc(self, weights: Weights) -> tuple[Floats, Floats]:
        """Both under each column of `weights` (clips, b), as two arrays (b,); NaN where there is nothing to rank."""
        num = weights.shape[1]
        step = max(1, _HELD * 2 // max(1, len(self.order), 4 * len(self.hits)))
        results = [self._of_block(weights[:, at : at + step]) for at in range(0, num, step)]
        return np.concatenate([ap for ap, _ in results]), np.concatenate([auc for _, auc in results])

    def _of_block(self, weights: Weights) -> tuple[Floats, Floats]:
        undefined = np.full(weights.shape[1], np.nan)
        if not len(self.positives):
            return undefined, undefined
        in_part = _sums(weights[self.order], self.starts)
        through = np.cumsum(in_part, axis=0)
        in_hits = in_part[self.hits]
        true_in = _sums(weights[self.positives], self.first)
        true_through = np.cumsum(true_in, axis=0)
        num_true = true_through[-1]
        num_false = through[-1] - num_true
        through_hits = through[self.hits]
        with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN that is wanted
            precision = true_through / np.maximum(through_hits, 1)
            average_precision = (precision * true_in).sum(axis=0) / num_true
            # Negatives below a positive count one, beside it one half.
            below = num_false - (through_hits - true_through) + (in_hits - true_in) / 2
            auc = (below * true_in).sum(axis=0) / (num_true.astype(np.float64) * num_false)
        return average_precision, auc


def _sums(rows: Weights, starts: npt.NDArray[np.intp]) -> npt.NDArray[np.int64]:
    """Sums (parts, b) of the runs of `rows` that begin at `starts`; several times as fast as `np.add.reduceat`."""
    ends = np.append(starts[1:], len(rows))
    sums = rows[starts].astype(np.int64)
    for place in np.flatnonzero(ends - starts > 1):
        rows[starts[place] : ends[place]].sum(axis=0, dtype=np.int64, out=sums[place])
    return sums


def column(scores: Scores, targets: Bools, mask: Bools | None) -> Column:
    """Rank one class: `scores`, `targets` and `mask` (n,)."""
    clips = np.arange(len(scores)) if mask is None else np.flatnonzero(mask)
    order = clips[np.argsort(scores[clips])[::-1]]
    ranked, true = scores[order], targets[order]
    ends = run_ends(ranked) + 1
    run_of_true = np.searchsorted(ends, np.flatnonzero(true), side="right")
    holds, first = np.unique(run_of_true, return_index=True)
    begins = np.append(0, ends)[holds]
    starts = np.unique(np.concatenate([[0], begins, ends[holds]]))
    starts = starts[starts < len(order)].astype(np.intp)
    return Column(order, starts, np.searchsorted(starts, begins), order[true], first)


def run_ends(ranked: Scores) -> npt.NDArray[np.intp]:
    """Place of the last of each run of equal values."""
    last = np.ones(len(ranked), np.bool_)
    last[:-1] = ranked[1:] != ranked[:-1]
    return np.flatnonzero(last)


@dataclass(frozen=True)
class ClipRanks:
    """What ranking the classes within each clip gives; sums of these under weights give the metrics of clips.

    Attributes
    ----------
    num_labels : positives of each clip, (n,).
    precision_sum : sum over a clip's positives of the precision at each, (n,).
    hit : expected hit of the highest score, (n,).
    equal_recall : expected precision among as many classes as the clip has positives, (n,).
    class_precision, class_labels : sum of the precision at the positives of a class, and their number, (c,).
    pooled_clip, pooled_true : clip and truth of each prediction among its clip's `k` highest, highest score first.
    pooled_ends : place of the last of each run of equal scores among them.
    """

    num_labels: Floats
    precision_sum: Floats
    hit: Floats
    equal_recall: Floats
    class_precision: Floats
    class_labels: Floats
    pooled_clip: npt.NDArray[np.int32]
    pooled_true: npt.NDArray[np.float32]
    pooled_ends: npt.NDArray[np.intp]

    def lwlrap(self, weights: Weights) -> Floats:
        """Mean precision at a label, (b,)."""
        return ratio(weighted(self.precision_sum, weights), weighted(self.num_labels, weights))

    def hit_at_1(self, weights: Weights) -> Floats:
        """Mean over clips with a label, (b,)."""
        return ratio(weighted(self.hit, weights), weighted(self.num_labels > 0, weights))

    def perr(self, weights: Weights) -> Floats:
        """Mean over clips with a label, (b,)."""
        return ratio(weighted(self.equal_recall, weights), weighted(self.num_labels > 0, weights))

    def gap(self, weights: Weights) -> Floats:
        """Average precision of the pooled predictions, with all positives in the denominator, (b,)."""
        num_true = weighted(self.num_labels, weights)
        sums = np.empty(weights.shape[1])
        for b in range(weights.shape[1]):
            weight = weights[:, b][self.pooled_clip]
            through = np.cumsum(weight, dtype=np.int64)[self.pooled_ends]
            true_through = np.cumsum(weight * self.pooled_true, dtype=np.float64)[self.pooled_ends]
            sums[b] = (np.diff(true_through, prepend=0.0) * true_through / np.maximum(through, 1)).sum()
        return ratio(sums, num_true)


def clip_ranks(scores: Scores, targets: Bools, mask: Bools | None, k: int) -> ClipRanks:
    """Rank the classes of each clip; `k` predictions of each are pooled."""
    num_clips, num_classes = scores.shape
    k = min(k, num_classes)
    num_labels = targets.sum(axis=1)
    precision_sum, hit, equal_recall = np.zeros(num_clips), np.zeros(num_clips), np.zeros(num_clips)
    class_precision = np.zeros(num_classes)
    pooled: list[tuple[npt.NDArray[Any], ...]] = []
    for rows in row_blocks(num_clips, num_classes):
        block = scores[rows].astype(np.result_type(scores.dtype, np.float16), copy=mask is not None)
        if mask is not None:
            block[~mask[rows]] = -np.inf  # below every score that there is
        truth = targets[rows]
        _add_precisions(block, truth, precision_sum[rows], class_precision)
        labelled = np.flatnonzero(num_labels[rows])
        highest = -np.sort(-block[labelled], axis=1)
        for width, out in ((np.ones(len(labelled), np.intp), hit), (num_labels[rows][labelled], equal_recall)):
            threshold = highest[np.arange(len(labelled)), width - 1]
            above, above_true, beside, beside_true = _split(block[labelled], truth[labelled], threshold)
            out[rows][labelled] = (above_true + (width - above) * beside_true / beside) / width
        pooled.append(_top(block, truth, k, rows.start))
    score, clip, true = (np.concatenate(parts) for parts in zip(*pooled, strict=True))
    order = np.argsort(score)[::-1]
    return ClipRanks(
        num_labels=num_labels.astype(np.float64),
        precision_sum=precision_sum,
        hit=hit,
        equal_recall=equal_recall,
        class_precision=class_precision,
        class_labels=targets.sum(axis=0).astype(np.float64),
        pooled_clip=clip[order],
        pooled_true=true[order],
        pooled_ends=run_ends(score[order]),
    )


def _add_precisions(scores: Scores, truth: Bools, by_clip: Floats, by_class: Floats) -> None:
    """Add the precision at each positive to the sums of its clip and of its class."""
    clips, classes = np.nonzero(truth)
    for part in row_blocks(len(clips), scores.shape[1]):
        i, j = clips[part], classes[part]
        not_below = scores[i] >= scores[i, j][:, np.newaxis]
        precision = (not_below & truth[i]).sum(axis=1) / not_below.sum(axis=1)
        np.add.at(by_clip, i, precision)
        np.add.at(by_class, j, precision)


def _split(scores: Scores, truth: Bools, threshold: Scores) -> tuple[npt.NDArray[np.intp], ...]:
    """How many classes of each clip are above its threshold, and on it, and how many of both are positive."""
    above, beside = scores > threshold[:, np.newaxis], scores == threshold[:, np.newaxis]
    return above.sum(axis=1), (above & truth).sum(axis=1), beside.sum(axis=1), (beside & truth).sum(axis=1)


def _top(scores: Scores, truth: Bools, k: int, first_clip: int) -> tuple[npt.NDArray[Any], ...]:
    """Score, clip and truth of the `k` highest of each clip that are rated.

    Where several classes share the k-th score, each of those taken counts as true in the share of true ones among them:
    what a random choice gives on average.
    """
    places = np.argpartition(scores, -k, axis=1)[:, -k:]
    top = np.take_along_axis(scores, places, axis=1)
    true = np.take_along_axis(truth, places, axis=1).astype(np.float32)
    last = top.min(axis=1)
    _, _, beside, beside_true = _split(scores, truth, last)
    true = np.where(top == last[:, np.newaxis], (beside_true / beside)[:, np.newaxis], true).astype(np.float32)
    rated = top > -np.inf
    clips = np.broadcast_to(np.arange(first_clip, first_clip + len(scores), dtype=np.int32)[:, np.newaxis], top.shape)
    return top[rated], clips[rated], true[rated]


def weighted(values: npt.ArrayLike, weights: Weights) -> Floats:
    """Sum of `values` (n,) or (m, n) under each column of `weights` (n, b), in float64."""
    values = np.asarray(values, np.float64)
    step = max(1, _HELD // len(weights))
    blocks = [values @ weights[:, at : at + step] for at in range(0, weights.shape[1], step)]
    return np.concatenate(blocks, axis=-1)


def ratio(above: npt.ArrayLike, below: npt.ArrayLike) -> Floats:
    """The quotient, NaN where there is nothing to divide by."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(above, np.float64) / np.asarray(below, np.float64)

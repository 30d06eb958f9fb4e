"""How sure a metric is: intervals from resampling the clips."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from audioset.errors import OptionError
from audioset.evaluate import metrics
from audioset.evaluate._ranking import Bools, Floats, Scores, Weights, checked, clip_ranks, column, weighted

DEFAULT_RESAMPLES = 1000
CONFIDENCE = 0.95

# Resampled counts that are held at a time: 256 MB as bytes, all of 1,000 resamples of AudioSet's evaluation set in 20.
_HELD_COUNTS = 1 << 28


@dataclass(frozen=True)
class Resampled:
    """Metrics of each of `b` resamples.

    Attributes
    ----------
    values : dict of str to float64 (b,)
        By the name of the metric; see `audioset.evaluate.METRICS`. d′ is not among them: its bounds are those of AUC's.
    average_precision : float64 (b, c)
        NaN where a resample has no positive of a class.
    """

    values: dict[str, Floats]
    average_precision: Floats


def resample(
    scores: npt.ArrayLike,
    targets: npt.ArrayLike,
    mask: npt.ArrayLike | None = None,
    *,
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
    groups: npt.ArrayLike | None = None,
    single_label: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> Resampled:
    """Return the metrics of sets of clips drawn with replacement, as many clips as there are.

    Each class is sorted once and then only summed, with counts instead of copies of clips. 1,000 resamples of
    AudioSet's evaluation set (20,371 clips, 527 classes) take about 20 s on one core, in 0.3 GB; the time grows with
    all three.

    Parameters
    ----------
    scores, targets, mask
        See `audioset.evaluate.metrics`.
    resamples : int
        At least 2; 1,000 are enough for intervals of 95%.
    seed : int
        The same seed draws the same clips.
    groups : array (n,), optional
        Clips with the same value (one recording, one speaker) are drawn together, as many groups as there are; without
        it clips that are much alike pass for independent and intervals are too narrow.
    single_label : bool
        Also accuracy, balanced accuracy and macro F1; every clip must have exactly one class.
    progress : callable, optional
        Called with the steps done and all steps.

    Raises
    ------
    OptionError
        As all metrics; `resamples` is below 2; `groups` has another length.
    """
    values, positive, rated = checked(scores, targets, mask)
    if resamples < 2:
        raise OptionError(f"resamples: {resamples}; expected at least 2. Evaluate without intervals instead")
    if single_label:
        metrics.single_labels(positive)
    num_clips, num_classes = values.shape
    of_group = _group_of_clip(groups, num_clips)
    ranks = clip_ranks(values, positive, rated, metrics.DEFAULT_TOP_K)
    draws = _draws(num_clips, of_group, resamples, seed)
    precision, auc = np.empty((resamples, num_classes)), np.empty((resamples, num_classes))
    named: dict[str, list[Floats]] = {}
    done, steps = 0, (num_classes + 1) * -(-resamples // _block_size(num_clips))
    begin = 0
    for weights in draws:
        rows = slice(begin, begin + weights.shape[1])
        begin = rows.stop
        for j in range(num_classes):
            ranked = column(values[:, j], positive[:, j], None if rated is None else rated[:, j])
            precision[rows, j], auc[rows, j] = ranked.average_precision_and_auc(weights)
            done += 1
            if progress:
                progress(done, steps)
        clip_metrics = {
            "lwlrap": ranks.lwlrap(weights),
            "gap_20": ranks.gap(weights),
            "hit_1": ranks.hit_at_1(weights),
            "perr": ranks.perr(weights),
        }
        if single_label:
            clip_metrics |= _of_single_labels(values, positive, weights)
        for name, of_resamples in clip_metrics.items():
            named.setdefault(name, []).append(of_resamples)
        done += 1
        if progress:
            progress(done, steps)
    mean_auc = _means(auc)
    over_classes = {"map": _means(precision), "auc": mean_auc}
    return Resampled(over_classes | {name: np.concatenate(blocks) for name, blocks in named.items()}, precision)


def interval(values: npt.ArrayLike, estimate: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the bounds of the middle `confidence` of `values`, moved by what lies between their mean and `estimate`.

    In a resample some positives are there twice, side by side in the ranking, which raises average precision: with few
    positives a class, all resamples may have a higher mAP than the clips themselves, and plain percentiles would not
    hold it. Their spread is right. Bounds stay within 0 and 1. Values that are NaN are left out; NaN if none is left.
    """
    defined = np.asarray(values, np.float64)
    defined = defined[~np.isnan(defined)]
    if not len(defined) or np.isnan(estimate):
        return float("nan"), float("nan")
    tail = 50 * (1 - confidence)
    bounds = np.percentile(defined, [tail, 100 - tail]) + (estimate - defined.mean())
    low, high = np.clip(bounds, 0.0, 1.0)
    return float(min(low, estimate)), float(max(high, estimate))


def _group_of_clip(groups: npt.ArrayLike | None, num_clips: int) -> npt.NDArray[np.intp] | None:
    if groups is None:
        return None
    names = np.asarray(groups)
    if names.shape != (num_clips,):
        raise OptionError(f"groups: shape {names.shape}; expected one value for each of the {num_clips} clips")
    return np.unique(names, return_inverse=True)[1].astype(np.intp)


def _block_size(num_clips: int) -> int:
    return max(1, _HELD_COUNTS // num_clips)


def _draws(
    num_clips: int, of_group: npt.NDArray[np.intp] | None, resamples: int, seed: int
) -> Iterator[npt.NDArray[np.unsignedinteger[Any]]]:
    """How often each clip is drawn, in blocks (n, b); the same whatever the size of the blocks."""
    rng = np.random.default_rng(seed)
    size = _block_size(num_clips)
    num_units = num_clips if of_group is None else int(of_group.max()) + 1
    for begin in range(0, resamples, size):
        block = np.empty((num_clips, min(size, resamples - begin)), np.uint8)
        for b in range(block.shape[1]):
            counts = np.bincount(rng.integers(0, num_units, num_units), minlength=num_units)
            # 255 of one unit in one resample has a probability below 1e-500.
            block[:, b] = counts if of_group is None else counts[of_group]
        yield block


def _of_single_labels(scores: Scores, targets: Bools, weights: Weights) -> dict[str, Floats]:
    true, given = metrics.single_labels(targets), scores.argmax(axis=1)
    classes = np.arange(scores.shape[1])[:, np.newaxis]
    sums = (weighted(members == classes, weights).T for members in (np.where(true == given, true, -1), true, given))
    return metrics.of_confusion(*sums)


def _means(values: Floats) -> Floats:
    """Mean of each row over what it has, NaN for nothing."""
    return np.array([metrics.macro(row) for row in values])

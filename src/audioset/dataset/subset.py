"""Parts of a table of segments: by class, quality, id and length; balanced samples; splits by video."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from audioset.dataset.segments import check_columns, durations_s
from audioset.errors import OptionError

Match = Literal["any", "all"]


def select_classes(
    segments: pa.Table, classes: Iterable[str], *, match: Match = "any", descendants: bool = True
) -> pa.Table:
    """Return the segments that have one of these classes, or each of them; rows are as they were, in their order.

    Parameters
    ----------
    classes
        Display names or mids of the ontology.
    match : "any" or "all"
        Whether a segment needs one of the classes or all of them.
    descendants
        Whether a label below a class in the ontology counts as the class: "Dog" is then found by "Bark" too.

    Raises
    ------
    OptionError
        The ontology has no such class.
    """
    groups = _groups(classes, descendants)
    if not groups:
        raise OptionError("classes: none named; expected display names or mids")
    _check_match(match)
    has = np.stack([_has_any(segments, group) for group in groups])
    return segments.filter(pa.array(has.any(axis=0) if match == "any" else has.all(axis=0)))


def exclude_classes(segments: pa.Table, classes: Iterable[str], *, descendants: bool = True) -> pa.Table:
    """Return the segments that have none of these classes, nor, unless told otherwise, of those below them.

    Parameters and errors are those of `select_classes`.
    """
    keep = ~np.zeros(segments.num_rows, bool)
    for group in _groups(classes, descendants):
        keep &= ~_has_any(segments, group)
    return segments.filter(pa.array(keep))


def select_quality(segments: pa.Table, quality: pa.Table, min_quality: float, *, match: Match = "all") -> pa.Table:
    """Return the segments whose labels are all of classes of at least a quality, or that have one such label.

    Labels stay as they are: to drop a doubtful label and keep the segment would make it a false negative.

    Parameters
    ----------
    quality
        What `audioset.dataset.quality.read_quality` gives. Classes without an estimate are taken for too low.
    min_quality
        The share of true labels, from 0 to 1.
    match : "all" or "any"
        Whether all labels of a segment must be good enough, or one. A segment without labels is never kept.

    Raises
    ------
    OptionError
        The quality is out of range.
    """
    if not 0 <= min_quality <= 1:
        raise OptionError(f"min_quality: {min_quality} is out of range; expected a share from 0 to 1")
    _check_match(match)
    check_columns(quality, "mid", "quality")
    good = quality.filter(pc.greater_equal(quality["quality"], min_quality))["mid"].to_pylist()
    is_good, rows = _labels_in(segments, good)
    num_labels = np.bincount(rows, minlength=segments.num_rows)
    num_good = np.bincount(rows[is_good], minlength=segments.num_rows)
    return segments.filter(pa.array((num_good > 0) & ((match == "any") | (num_good == num_labels))))


def select_ids(segments: pa.Table, ids: Iterable[str]) -> pa.Table:
    """Return the segments of these videos, such as those that `audioset.dataset.quality.read_rerated` lists."""
    check_columns(segments, "ytid")
    return segments.filter(pc.is_in(segments["ytid"], pa.array(list(ids), pa.string())))


def select_duration(segments: pa.Table, *, min_s: float = 0.0, max_s: float = math.inf) -> pa.Table:
    """Return the segments that are no shorter and no longer than this; both ends are included.

    Raises
    ------
    OptionError
        No length can be within.
    """
    if not 0 <= min_s <= max_s:
        raise OptionError(f"duration: {min_s} to {max_s} s holds nothing; expected 0 or more, the shorter one first")
    length_s = durations_s(segments)
    return segments.filter(pa.array((length_s >= min_s) & (length_s <= max_s)))


def sample_balanced(segments: pa.Table, per_class: int, seed: int = 0) -> pa.Table:
    """Return a random part in which each class has `per_class` segments, or all it has where it has fewer.

    Segments have several labels, so a frequent class may come out with more: it comes along with rarer ones. Classes
    are filled from the rarest on; each takes what it still lacks from the segments not taken yet, first those that
    bring the fewest labels of classes that are full already, and among equals at random. The same table, number and
    seed give the same part; rows keep their order. Segments without labels are left out.

    Raises
    ------
    OptionError
        The number is below 1, or the seed is below 0.
    """
    if per_class < 1:
        raise OptionError(f"per_class: {per_class} is out of range; expected 1 or more segments")
    if seed < 0:
        raise OptionError(f"seed: {seed} is out of range; expected 0 or more")
    codes, rows, num_classes = _coded_labels(segments)
    order = np.argsort(codes, kind="stable")
    sizes = np.bincount(codes, minlength=num_classes)
    of_class = np.split(rows[order], np.cumsum(sizes)[:-1]) if num_classes else []
    first = np.searchsorted(rows, np.arange(segments.num_rows + 1))
    chance = np.random.default_rng(seed).permutation(segments.num_rows)
    taken = np.zeros(segments.num_rows, bool)
    counts = np.zeros(num_classes, np.int64)
    for label in np.argsort(sizes, kind="stable"):
        lacking = min(per_class, int(sizes[label])) - int(counts[label])
        if lacking <= 0:
            continue
        candidates = of_class[label][~taken[of_class[label]]]
        begins, ends = first[candidates], first[candidates + 1]
        is_full = (counts >= per_class)[codes[ranges(begins, ends)]]
        crowding = np.add.reduceat(is_full, np.append(0, np.cumsum(ends - begins)[:-1]), dtype=np.int64)
        chosen = candidates[np.lexsort((chance[candidates], crowding))[:lacking]]
        taken[chosen] = True
        counts += np.bincount(codes[ranges(first[chosen], first[chosen + 1])], minlength=num_classes)
    return segments.filter(pa.array(taken))


def split_by_video(segments: pa.Table, fractions: Sequence[float], seed: int = 0) -> tuple[pa.Table, ...]:
    """Return disjoint random parts of about these sizes; all segments of a video are in one part.

    Which part a video goes to depends on its id, the fractions and the seed alone: not on the order of the rows, nor on
    which other videos there are. A video therefore stays on its side when a data set grows or is filtered. Sizes are
    as those of coin tosses, not exact.

    Parameters
    ----------
    fractions
        Of the videos, one a part, that add up to 1 or less; what is left over is in no part.

    Raises
    ------
    OptionError
        The fractions are no shares of a whole.
    """
    if not fractions or any(not 0 < fraction <= 1 for fraction in fractions) or math.fsum(fractions) > 1 + 1e-9:
        raise OptionError(f"fractions: {list(fractions)} are no shares of a whole; expected some above 0, 1 in all")
    check_columns(segments, "ytid")
    edges = np.cumsum(fractions)
    if math.isclose(edges[-1], 1):
        edges[-1] = 1  # so that rounding loses none
    parts = np.searchsorted(edges, _chances(segments["ytid"].to_pylist(), seed), side="right")
    return tuple(segments.filter(pa.array(parts == part)) for part in range(len(fractions)))


def _check_match(match: str) -> None:
    if match not in ("any", "all"):
        raise OptionError(f"match: {match!r} is unknown; expected 'any' or 'all'")


def _groups(classes: Iterable[str], descendants: bool) -> list[list[str]]:
    """The mids that count as each class."""
    from audioset.dataset.ontology import Ontology

    ontology = Ontology.load()
    mids = [ontology.mid(name) for name in classes]
    return [[mid, *(ontology.descendants(mid) if descendants else ())] for mid in mids]


def _has_any(segments: pa.Table, mids: Sequence[str]) -> npt.NDArray[np.bool_]:
    is_in, rows = _labels_in(segments, mids)
    return np.bincount(rows[is_in], minlength=segments.num_rows) > 0


def _labels_in(segments: pa.Table, mids: Sequence[str]) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    """Of every label whether it is one of these, and the row that it is of."""
    check_columns(segments, "mids")
    found = pc.is_in(pc.list_flatten(segments["mids"]), pa.array(mids, pa.string()))
    return found.to_numpy(), label_rows(segments)


def label_rows(segments: pa.Table) -> npt.NDArray[np.int64]:
    """Return the row of every label, in order, shape (labels,)."""
    check_columns(segments, "mids")
    return np.repeat(np.arange(segments.num_rows), pc.list_value_length(segments["mids"]).to_numpy())


def _coded_labels(segments: pa.Table) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], int]:
    """Of every label its class as a number, and its row; how many classes there are. Repeated labels count once."""
    rows = label_rows(segments)
    mids = pc.list_flatten(segments["mids"])
    vocabulary = pc.unique(mids).sort()  # so that the order of rows decides no ties between classes
    codes = pc.index_in(mids, vocabulary).to_numpy().astype(np.int64)
    keys = sorted_unique(rows * max(1, len(vocabulary)) + codes)
    return keys % max(1, len(vocabulary)), keys // max(1, len(vocabulary)), len(vocabulary)


def sorted_unique(keys: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return what `numpy.unique` returns, several times faster for keys that are almost in order."""
    keys = np.sort(keys, kind="stable")
    return keys[np.append(True, keys[1:] != keys[:-1])] if len(keys) else keys


def ranges(begins: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the numbers of all ranges, one range after the other."""
    lengths = ends - begins
    places: npt.NDArray[np.int64] = np.arange(lengths.sum()) + np.repeat(begins + lengths - np.cumsum(lengths), lengths)
    return places


def _chances(ytids: Sequence[str], seed: int) -> npt.NDArray[np.float64]:
    """A number from 0 to below 1 for each id: the first 53 bits of its hash."""
    key = str(seed).encode()
    digests = b"".join(hashlib.blake2b(ytid.encode(), digest_size=8, key=key).digest() for ytid in ytids)
    chances: npt.NDArray[np.float64] = (np.frombuffer(digests, ">u8") >> np.uint64(11)) / 2.0**53
    return chances

"""What is learnt from, what it is validated by and what is tested: stratified by class, never through a group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from audioset.errors import DatasetError, OptionError
from audioset.finetune.data import TEST, VALID, Bools, Sounds

Indices = npt.NDArray[np.intp]

_LEAST: Final = 2  # clips a class
_ORDER: Final = 0  # purpose of the random numbers


@dataclass(frozen=True)
class Split:
    """Which clips do what, as places in `Sounds.clips`.

    Attributes
    ----------
    train, valid, test : ndarray of int
        For the final model; `valid` and `test` may be empty.
    folds : tuple of (ndarray, ndarray)
        For each fold of a cross-validation, what is learnt from and what is held out.
    warnings : tuple of str
        What is not as one would wish.
    """

    train: Indices
    valid: Indices
    test: Indices
    folds: tuple[tuple[Indices, Indices], ...]
    warnings: tuple[str, ...]


def partition(
    targets: Bools, groups: Sequence[str], shares: Sequence[float], seed: int, *, first: bool = False
) -> Indices:
    """Return the part of each clip, shape (n,): whole groups, each class spread over the parts as `shares` say.

    Groups are dealt out from those of the rarest class on, each to the part that lacks its classes most; equals in an
    order that the seed decides.

    Parameters
    ----------
    targets : ndarray of bool, shape (n, classes)
        Classes of each clip; clips without any count as a class of their own.
    groups : sequence of str
        One a clip.
    shares : sequence of float
        Of the parts; they sum to 1.
    seed : int
        Of the order.
    first : bool
        The first part gets some of every class before others get any.
    """
    _, of_group = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    columns = np.hstack([targets, ~targets.any(axis=1, keepdims=True)]).astype(np.float64)
    counts = np.zeros((int(of_group.max()) + 1, columns.shape[1]))
    np.add.at(counts, of_group, columns)
    totals = counts.sum(axis=0)
    wanted = np.outer(shares, totals)
    rarest = np.where(counts > 0, totals, np.inf).min(axis=1)
    shuffled = np.random.default_rng([seed, _ORDER]).permutation(len(counts))
    order = shuffled[np.lexsort((-counts.sum(axis=1)[shuffled], rarest[shuffled]))]
    have = np.zeros_like(wanted)
    weight = 1 / np.maximum(wanted, 1e-9)
    parts = np.zeros(len(counts), np.intp)
    for group in order:
        new = counts[group]
        if first and (have[0, new > 0] == 0).any():
            part = 0
        else:
            worse = (((have + new - wanted) ** 2 - (have - wanted) ** 2) * weight)[:, new > 0].sum(axis=1)
            part = int(worse.argmin())
        parts[group] = part
        have[part] += new
    return parts[of_group]


def split(sounds: Sounds, *, valid_fraction: float, num_folds: int = 0, seed: int = 0) -> Split:
    """Return what the data say of their split, and for the rest one by the seed.

    Parameters
    ----------
    sounds : Sounds
        The clips; those held out for testing stay so.
    valid_fraction : float
        Of the clips that are not tested, how many to validate by; 0 for none. Not asked where the data say it.
    num_folds : int
        Of a cross-validation over all that is not tested; 0 for none. Folds that the data name are kept. There are
        fewer, and a warning, where the clips do not fill them.
    seed : int
        Of what is not decided by classes and groups.

    Raises
    ------
    DatasetError
        A class has fewer than two clips to learn from.
    OptionError
        An option is out of range, or does not fit the data.
    """
    if not 0 <= valid_fraction < 1:
        raise OptionError(f"valid_fraction: {valid_fraction} is out of range; expected 0 or more, below 1")
    if num_folds < 0 or num_folds == 1:
        raise OptionError(f"folds: {num_folds} is out of range; expected 2 or more, or 0 for none")
    splits = np.array([clip.split for clip in sounds.clips], dtype=object)
    test, said = np.flatnonzero(splits == TEST), np.flatnonzero(splits == VALID)
    rest = np.flatnonzero((splits != TEST) & (splits != VALID))
    targets = sounds.targets()
    _check_counts(sounds, targets[np.concatenate([rest, said])], targets[test])
    folds = _folds(sounds, np.sort(np.concatenate([rest, said])), num_folds, seed) if num_folds else ()
    train, valid = rest, said
    if not len(said) and valid_fraction and not num_folds:
        groups = [sounds.clips[place].group for place in rest]
        parts = partition(targets[rest], groups, (1 - valid_fraction, valid_fraction), seed, first=True)
        train, valid = rest[parts == 0], rest[parts == 1]
    elif num_folds:
        train, valid = np.sort(np.concatenate([rest, said])), np.empty(0, np.intp)
    _check_learnt(sounds, targets[train])
    warnings = [*_lacking(sounds, targets, valid, "validation"), *_lacking(sounds, targets, test, "test")]
    if valid_fraction and not num_folds and not len(valid):
        warnings.append(
            "validation: no clip, because all are needed for training or are of one group; nothing is reported of it"
        )
    if len(folds) < num_folds:
        warnings.append(
            f"folds: {len(folds):,} instead of the {num_folds:,} asked for: the clips, in whole groups, fill no more"
        )
    for place, (learnt, _) in enumerate(folds):
        absent = [sounds.classes.names[c] for c in np.flatnonzero(~targets[learnt].any(axis=0))]
        if absent:
            warnings.append(f"fold {place + 1}: nothing to learn {', '.join(absent)} from; all of it is held out")
    return Split(train, valid, test, folds, tuple(warnings))


def carve(sounds: Sounds, indices: Indices, fraction: float, seed: int) -> tuple[Indices, Indices]:
    """Return some of the clips to learn from and the others to validate by."""
    targets = sounds.targets()[indices]
    groups = [sounds.clips[place].group for place in indices]
    parts = partition(targets, groups, (1 - fraction, fraction), seed, first=True)
    return indices[parts == 0], indices[parts == 1]


def inner_folds(targets: Bools, groups: Sequence[str], most: int, seed: int) -> list[tuple[Indices, Indices]]:
    """Return folds to choose a setting by: as many as the rarest class has groups, up to `most`; none if that is 1."""
    names = np.asarray(groups, dtype=object).astype(str)
    of_class = [len(np.unique(names[column])) for column in targets.T if column.any()]
    num = min([most, *of_class])
    if num < 2:
        return []
    parts = partition(targets, groups, [1 / num] * num, seed)
    return [(np.flatnonzero(parts != part), np.flatnonzero(parts == part)) for part in range(num)]


def _folds(sounds: Sounds, indices: Indices, num: int, seed: int) -> tuple[tuple[Indices, Indices], ...]:
    named = [sounds.clips[place].fold for place in indices]
    groups = [sounds.clips[place].group for place in indices]
    if all(named):
        names = sorted(set(named))
        if len(names) != num:
            raise OptionError(
                f"folds: {num}, but the data name {len(names)} ({', '.join(names[:10])}); expected as many"
            )
        parts = np.array([names.index(name) for name in named])
        in_folds: dict[str, set[int]] = {}
        for part, group in zip(parts.tolist(), groups, strict=True):
            in_folds.setdefault(group, set()).add(part)
        torn = sorted(group for group, found in in_folds.items() if len(found) > 1)
        if torn and sounds.grouped:
            raise DatasetError(
                f"folds: {len(torn)} groups are in several of those that the data name, such as "
                f"{torn[0].partition(' ')[2]!r}; expected each in one. Leave the folds or the groups out"
            )
    else:
        num_groups = len(set(groups))
        if num_groups < num:
            raise OptionError(
                f"folds: {num}, but there are {num_groups} groups to deal out; expected as many groups or more"
            )
        parts = partition(sounds.targets()[indices], groups, [1 / num] * num, seed)
    return tuple((indices[parts != part], indices[parts == part]) for part in np.unique(parts))


def _check_counts(sounds: Sounds, learnable: Bools, held: Bools) -> None:
    for name, count, tested in zip(sounds.classes.names, learnable.sum(axis=0), held.sum(axis=0), strict=True):
        if count < _LEAST:
            beside = f" beside {tested:,} held out" if tested else ""
            found = "one example" if count == 1 else "no example"
            raise DatasetError(
                f"class {name!r}: {found} to learn from{beside}; expected {_LEAST} or more, since one cannot be split "
                "into what is learnt and what it is checked by. Add clips (a long one can be cut: a csv file with "
                "start and end), or leave the class out by naming the others (--classes)"
            )
    if not sounds.multi_label and len(sounds.classes) < 2:
        raise DatasetError(
            f"classes: {sounds.classes.names[0]!r} alone; expected two or more. Add clips of something else, if only "
            "of background"
        )


def _check_learnt(sounds: Sounds, targets: Bools) -> None:
    for name, count in zip(sounds.classes.names, targets.sum(axis=0), strict=True):
        if not count:
            raise DatasetError(
                f"class {name!r}: all examples are in the part that is validated by; expected some to learn from. "
                "Change the data's split"
            )


def _lacking(sounds: Sounds, targets: Bools, indices: Indices, what: str) -> list[str]:
    absent = [sounds.classes.names[c] for c in np.flatnonzero(~targets[indices].any(axis=0))]
    if not len(indices) or not absent:
        return []
    return [f"{what}: no clip of {', '.join(absent)}; nothing is known of {'it' if len(absent) == 1 else 'them'} there"]

"""What users have, as clips to learn from: features in any form, with the classes that their labels are of."""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from audioset.classes import ClassList, class_list
from audioset.dataset import convert
from audioset.dataset._sources import find_files
from audioset.dataset.feature_dataset import FeatureDataset
from audioset.dataset.ontology import Ontology
from audioset.errors import DatasetError, OptionError, RecordError
from audioset.records.tfrecord import Damage
from audioset.train.batches import Indices
from audioset.train.head import Embedder
from audioset.weights.files import cache_dir

Talk: TypeAlias = Callable[[str], None]
Progress: TypeAlias = Callable[[int, "int | None"], None]

VALID_FRACTION = 0.1
VALID_CLIPS = 20_000  # at most: as many as AudioSet's evaluation has, so that validation stays short
_YOUTUBE8M_CLASSES = 3862
_LOT_CLIPS = 100_000  # at a time: of millions at once labels or names would take a gigabyte
_KNOWN_CLIPS, _READ_CLIPS = 1000, 50  # embeddings by which features are told from others, and how many at a time
_SEPARATOR = ";"
_NAME_COLUMNS = ("display_name", "name", "Name")
_MID_COLUMNS = ("mid", "KnowledgeGraphId")
_FEW = 5


@dataclass(frozen=True, eq=False)
class FeatureClips:
    """Clips of a `FeatureDataset`, with labels that may be others than the file's; a `Clips`.

    Attributes
    ----------
    dataset : FeatureDataset
        Their embeddings.
    starts, columns
        Their classes; see `audioset.train.batches.Clips`.
    num_classes : int
        Width of the targets.
    """

    dataset: FeatureDataset
    starts: Indices
    columns: npt.NDArray[np.int32]
    num_classes: int

    def __len__(self) -> int:
        return len(self.dataset)

    def frames(self, indices: Indices) -> tuple[npt.NDArray[Any], npt.NDArray[np.int32]]:
        """Return embeddings (n, t, dim), padded with zeros, and how many frames of each count (n,)."""
        batch = self.dataset.batch(indices)
        return batch.embeddings, batch.num_frames

    def name(self, index: int) -> str:
        """Return what messages call a clip."""
        return str(self.dataset[index].video_id)

    def counts(self) -> npt.NDArray[np.int64]:
        """Return how many clips each class has."""
        return np.bincount(self.columns, minlength=self.num_classes)

    def select(self, indices: Indices) -> FeatureClips:
        """Return some of the clips, in this order."""
        lengths = np.diff(self.starts)[indices]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        places = np.repeat(self.starts[indices] - starts[:-1], lengths) + np.arange(starts[-1])
        return FeatureClips(self.dataset.select(indices), starts, self.columns[places], self.num_classes)

    def propagated(self, ancestors: npt.NDArray[np.bool_]) -> FeatureClips:
        """Return the same clips with, for each class `i` of one, the classes `j` of `ancestors[i, j]`, once each."""
        label, implied = np.nonzero(ancestors)
        begin = np.searchsorted(label, np.arange(self.num_classes + 1))
        counts, columns = [np.zeros(1, np.int64)], [np.empty(0, np.int32)]
        for first in range(0, len(self), _LOT_CLIPS):
            starts = self.starts[first : first + _LOT_CLIPS + 1]
            given = self.columns[starts[0] : starts[-1]]
            lengths = np.diff(begin)[given]
            ends = np.cumsum(lengths)
            places = np.repeat(begin[given] - (ends - lengths), lengths) + np.arange(ends[-1] if len(ends) else 0)
            clips = np.repeat(np.repeat(np.arange(len(starts) - 1), np.diff(starts)), lengths)
            pairs = np.sort(clips * self.num_classes + implied[places])
            pairs = pairs[np.diff(pairs, prepend=-1) > 0]
            counts.append(np.bincount(pairs // self.num_classes, minlength=len(starts) - 1))
            columns.append((pairs % self.num_classes).astype(np.int32))
        return FeatureClips(self.dataset, np.cumsum(np.concatenate(counts)), np.concatenate(columns), self.num_classes)


@dataclass(frozen=True, eq=False)
class Training:
    """All that a head is trained on.

    Attributes
    ----------
    train, valid : FeatureClips
        To learn from, and to stop by.
    classes : ClassList
        Columns of the targets.
    embedder : Embedder
        What the embeddings are of.
    notes : mapping
        What was chosen, for the head to remember; JSON.
    """

    train: FeatureClips
    valid: FeatureClips
    classes: ClassList
    embedder: Embedder
    notes: Mapping[str, Any]


def open_training(
    data: str,
    valid: str | None = None,
    *,
    labels: Path | None = None,
    classes: Path | None = None,
    propagate: bool = False,
    seed: int = 0,
    talk: Talk | None = None,
    progress: Progress | None = None,
) -> Training:
    """Return the clips to train on and to validate by.

    Parameters
    ----------
    data : str
        Features in any form that `audioset dataset convert` takes, or a file that it wrote.
    valid : str, optional
        The same for validation; None takes a tenth of the clips of `data`, 20,000 at most, all of a video or file
        together.
    labels, classes : path, optional
        See `open_clips`.
    propagate : bool
        Give every clip the ancestors of its classes too, by the rule that `Ontology.propagate` calls unambiguous.
    seed : int
        Decides the tenth.
    talk, progress : callable, optional
        Told what was found and left out; and bytes done and in all while features are converted.

    Raises
    ------
    DatasetError
        Labels and clips, or the two sets of clips, do not fit each other.
    RecordError
        A file cannot be read.
    """
    say = talk or _ignore
    known = None if classes is None else read_classes(classes)
    found = open_clips(data, labels, known, talk=say, progress=progress)
    clips, known = found.clips, found.classes
    if valid is None:
        chosen = _held_out(clips.dataset, seed)
        train, held_out = clips.select(np.flatnonzero(~chosen)), clips.select(np.flatnonzero(chosen))
    else:
        other = open_clips(valid, labels, known, talk=say, progress=progress)
        found.embedder.check(other.embedder, valid)
        train, held_out = clips, other.clips
        shared = _num_shared(train.dataset, held_out.dataset)
        if shared:
            say(
                f"{shared:,} of {len(held_out):,} clips to validate by are of videos or files that are learnt from: "
                "the validation mAP is higher than it would be on others"
            )
    if propagate:
        ancestors = Ontology.load().ancestor_matrix(known.mids, rule="unambiguous")
        train, held_out = train.propagated(ancestors), held_out.propagated(ancestors)
    say(f"{len(train):,} clips to learn from, {len(held_out):,} to validate by, {len(known):,} classes")
    for clips_of, use in ((train, "learn from"), (held_out, "validate by")):
        missing = np.flatnonzero(clips_of.counts() == 0)
        if len(missing):
            say(f"classes without a clip to {use}: {len(missing):,} ({_named([known.names[i] for i in missing])})")
    notes = {
        "train": data,
        "valid": valid,
        "labels": None if labels is None else str(labels),
        "propagate": propagate,
        "num_train": len(train),
        "num_valid": len(held_out),
        "clips": _digest(train, held_out),
        "classes": hashlib.sha256("\n".join(known.mids).encode()).hexdigest(),
    }
    return Training(train, held_out, known, found.embedder, notes)


@dataclass(frozen=True, eq=False)
class Opened:
    """Clips, the classes of their labels, and what their embeddings are of."""

    clips: FeatureClips
    classes: ClassList
    embedder: Embedder


def open_clips(
    data: str,
    labels: Path | None = None,
    classes: ClassList | None = None,
    *,
    talk: Talk | None = None,
    progress: Progress | None = None,
) -> Opened:
    """Return labelled clips.

    Parameters
    ----------
    data : str
        Features; TFRecords are converted once, into the cache.
    labels : path, optional
        A csv with the columns `file` and `labels` (several with `;` between) for clips whose file has no labels: `file`
        is what was embedded, or its last part where that is clear. Clips that it does not name are left out.
    classes : ClassList, optional
        What the labels are of: by index in the file, by name or mid in the csv. By default AudioSet's 527,
        YouTube-8M's 3,862 by number, or all that the csv has, sorted by name; AudioSet's there have its mids and
        display names, by whichever they are given.
    talk, progress : callable, optional
        As for `open_training`.
    """
    dataset = open_features(data, progress=progress)
    info = dataset.info
    embedder = Embedder(info.model, info.regime, info.embedding_dim, info.weights_sha256)
    if labels is not None:
        clips, known = _labelled(dataset, data, labels, classes, talk or _ignore)
        return Opened(clips, known, embedder)
    of_file = dataset.labels
    known = classes or _published_classes(info.model)
    if not len(of_file.indices):
        raise DatasetError(f"{data}: no clip has a label; expected some. Give them with a csv (--labels)")
    if of_file.indices.min() < 0 or of_file.indices.max() >= len(known):
        raise DatasetError(
            f"{data}: labels from {of_file.indices.min()} to {of_file.indices.max()}; expected 0 to {len(known) - 1}, "
            "columns of the class list. Name the list that they are of (--classes)"
        )
    clips = FeatureClips(dataset, of_file.offsets, np.asarray(of_file.indices, np.int32), len(known))
    return Opened(clips, known, embedder)


def open_features(data: str, *, progress: Progress | None = None) -> FeatureDataset:
    """Return features in any form as a `FeatureDataset`; what has to be converted is, once, into the cache.

    Raises
    ------
    RecordError
        Nothing is there, or a record cannot be read (`audioset dataset convert` goes on past damage).
    OutputError
        There is no room in the cache.
    """
    if os.path.isfile(data):
        with Path(data).open("rb") as file:
            if file.read(6).startswith((b"ARROW1", b"PAR1")):
                return FeatureDataset(data, progress=progress)
    import filelock

    known = hashlib.sha256()
    for name in find_files(data):
        about = os.stat(name)  # noqa: PTH116
        known.update(f"{os.path.abspath(name)}|{about.st_size}|{about.st_mtime_ns}\n".encode())  # noqa: PTH100
    folder = cache_dir() / "features"
    target = folder / f"{known.hexdigest()[:32]}.arrow"
    if not target.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(f"{target}.lock"):
            if not target.is_file():
                convert.convert_features(data, target, progress=progress, on_damage=_refused)
    return FeatureDataset(target)


def read_classes(path: Path) -> ClassList:
    """Return a list of classes: a csv with a row each, in order.

    The columns are AudioSet's (`index,mid,display_name`), YouTube-8M's (`Index,…,KnowledgeGraphId,Name,…`) or just
    `name`. Without mids, names that AudioSet has get its mid, and others are their own.

    Raises
    ------
    DatasetError
        The file cannot be read, has no such column, or a name twice.
    """
    rows = _rows(path)
    columns = list(rows[0]) if rows else []
    name_column = next((name for name in _NAME_COLUMNS if name in columns), None)
    if name_column is None:
        raise DatasetError(f"{path}: columns {', '.join(columns) or 'none'}; expected display_name or name, and rows")
    mid_column = next((name for name in _MID_COLUMNS if name in columns), None)
    names = [row[name_column].strip() or f"class {place}" for place, row in enumerate(rows)]
    mids = [row[mid_column].strip() for row in rows] if mid_column else [mid_of(name) for name in names]
    twice = next((mid for mid in mids if mids.count(mid) > 1), None) if len(set(mids)) < len(mids) else None
    if twice is not None:
        raise DatasetError(f"{path}: class {twice!r} twice; expected each once")
    return ClassList(tuple(mids), tuple(names))


def mid_of(name: str) -> str:
    """Return AudioSet's mid of a display name, or the name itself."""
    return _class_of(name)[0]


def _class_of(label: str) -> tuple[str, str]:
    """Return mid and display name of AudioSet's class that has either, or the label itself as both."""
    published = class_list("audioset527")
    try:
        place = published.index(label)
    except OptionError:
        return label, label
    return published.mids[place], published.names[place]


def _published_classes(model: str) -> ClassList:
    if model == "youtube8m":
        names = tuple(str(index) for index in range(_YOUTUBE8M_CLASSES))
        return ClassList(names, names)
    return class_list("audioset527")


def _labelled(
    dataset: FeatureDataset, data: str, labels: Path, classes: ClassList | None, talk: Talk
) -> tuple[FeatureClips, ClassList]:
    rows = _rows(labels)
    if not rows or not {"file", "labels"} <= set(rows[0]):
        found = ", ".join(rows[0]) if rows else "none"
        raise DatasetError(f"{labels}: columns {found}; expected file and labels, and rows")
    named: dict[str, list[str]] = {}
    for row in rows:
        several = [label.strip() for label in (row["labels"] or "").split(_SEPARATOR)]
        named.setdefault(row["file"], []).extend(label for label in several if label)
    given = {label for several in named.values() for label in several}
    known = classes
    if known is None:
        if not given:
            raise DatasetError(f"{labels}: no label; expected some in the column labels")
        name_of = dict(map(_class_of, given))
        mids = sorted(name_of, key=lambda mid: name_of[mid])
        known = ClassList(tuple(mids), tuple(name_of[mid] for mid in mids))
    place_of = {key: place for place, pair in enumerate(zip(known.mids, known.names, strict=True)) for key in pair}
    for label in given - place_of.keys():  # AudioSet's names in other cases
        mid = mid_of(label)
        if mid in place_of:
            place_of[label] = place_of[mid]
    unknown = sorted(given - place_of.keys())
    if unknown:
        raise DatasetError(
            f"{labels}: {len(unknown)} labels that are no class: {_named(unknown)}; expected names or mids. "
            "Correct them, or add them to it (--classes)"
        )
    ids = [str(name) for name in dataset.video_ids]
    by_last_part = _unique_last_parts(named)
    matched = [name if name in named else by_last_part.get(_last_part(name)) for name in ids]
    if len(set(ids)) != len({_last_part(name) for name in ids}):  # the last part does not tell them apart
        matched = [name if name in named else None for name in ids]
    chosen = np.flatnonzero([name is not None for name in matched])
    if not len(chosen):
        raise DatasetError(
            f"{labels}: names none of the {len(ids):,} clips of {data}, such as {ids[0] if ids else 'none'!r}; "
            "expected the files that were embedded, in the column file"
        )
    used = {name for name in matched if name is not None}
    if len(chosen) < len(ids):
        talk(f"left out: {len(ids) - len(chosen):,} clips of {data} that {labels} does not name")
    if len(used) < len(named):
        lost = sorted(set(named) - used)
        talk(f"not embedded: {len(lost):,} files that {labels} names: {_named(lost)}")
    columns = [sorted({place_of[label] for label in named[matched[place] or ""]}) for place in chosen]
    starts = np.concatenate([[0], np.cumsum([len(of_clip) for of_clip in columns])]).astype(np.int64)
    flat = np.array([column for of_clip in columns for column in of_clip], np.int32)
    return FeatureClips(dataset.select(chosen), starts, flat, len(known)), known


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path}: cannot be read ({error}); expected a csv in UTF-8 with a header") from error
    short = next((place for place, row in enumerate(rows) if None in row or None in row.values()), None)
    if short is not None:
        raise DatasetError(f"{path}: row {short + 1} has more or fewer cells than the header; expected as many")
    return rows


def _last_part(name: str) -> str:
    return name.replace("\\", "/").rpartition("/")[2]


def _unique_last_parts(names: Mapping[str, object]) -> dict[str, str]:
    found: dict[str, str] = {}
    twice = set()
    for name in names:
        part = _last_part(name)
        if part in found:
            twice.add(part)
        found[part] = name
    return {part: name for part, name in found.items() if part not in twice}


def _held_out(dataset: FeatureDataset, seed: int) -> npt.NDArray[np.bool_]:
    """Choose about a tenth of the clips, or `VALID_CLIPS`, all of one id or none."""
    groups = dataset.id_groups()
    num_ids = int(groups.max(initial=-1)) + 1
    share = min(VALID_FRACTION, VALID_CLIPS / max(1, len(dataset)))
    count = max(1, round(num_ids * share)) if num_ids > 1 else 0
    chosen = np.zeros(num_ids, np.bool_)
    chosen[np.random.default_rng(seed).permutation(num_ids)[:count]] = True
    return np.asarray(chosen[groups])


def _num_shared(train: FeatureDataset, valid: FeatureDataset) -> int:
    """How many of the clips to validate by have the id of one to learn from."""
    ids = set(valid.video_ids)
    shared: set[str] = set()
    for first in range(0, len(train), _LOT_CLIPS):
        shared |= ids.intersection(train.select(np.arange(first, min(first + _LOT_CLIPS, len(train)))).video_ids)
    return sum(name in shared for name in valid.video_ids)


def _digest(*sets: FeatureClips) -> str:
    """Hash of all classes of all clips, and of the embeddings of some: other contents of the same files are found."""
    total = hashlib.sha256()
    for clips in sets:
        total.update(clips.starts.tobytes() + clips.columns.tobytes())
        some = np.linspace(0, len(clips) - 1, min(len(clips), _KNOWN_CLIPS)).astype(np.int64)
        for first in range(0, len(some), _READ_CLIPS):
            embeddings, num_frames = clips.frames(some[first : first + _READ_CLIPS])
            total.update(num_frames.tobytes() + embeddings.tobytes())
    return total.hexdigest()


def _refused(damage: Damage) -> None:
    raise RecordError(
        f"{damage}; expected whole records. `audioset dataset convert` goes on past damage: use what it writes"
    )


def _named(names: list[str]) -> str:
    more = len(names) - _FEW
    return "; ".join(names[:_FEW]) + (f" and {more:,} more" if more > 0 else "")


def _ignore(message: str) -> None:
    pass

"""Labelled clips of one's own: a folder a class, or a csv file, to clips with classes, groups and what is held out."""

from __future__ import annotations

import csv
import fnmatch
import hashlib
import io
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from audioset.classes import ClassList, class_list
from audioset.errors import DatasetError, OptionError
from audioset.inputs import expand
from audioset.storage.names import AUDIO_SUFFIXES

Bools = npt.NDArray[np.bool_]

TEST: Final = "test"
VALID: Final = "valid"
TRAIN: Final = "train"

_SEVERAL = ";"
# What a column may be called.
_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "path": ("path", "file"),
    "labels": ("labels", "label"),
    "start": ("start", "start_s"),
    "end": ("end", "end_s"),
    "group": ("group",),
    "fold": ("fold",),
    "split": ("split",),
}
_SPLITS = {"": "", "train": TRAIN, "valid": VALID, "validation": VALID, "val": VALID, "dev": VALID, "test": TEST}
_SHOWN = 5


@dataclass(frozen=True)
class Clip:
    """One labelled stretch of sound.

    Attributes
    ----------
    path : str
        The file.
    name : str
        What patterns and expressions see and messages say: the path from the data's folder on, that folder included;
        or as the csv file has it.
    labels : tuple of int
        Its classes, as columns of the class list.
    start_s, duration_s : float, float or None
        Which part of the file it is.
    group : str
        Clips of one group never sit on both sides of a split.
    fold : str
        Which fold of a cross-validation the data say that it is of; "" where they do not.
    split : str
        "train", "valid" or "test" where the data or the caller say so, else "".
    """

    path: str
    name: str
    labels: tuple[int, ...]
    start_s: float
    duration_s: float | None
    group: str
    fold: str
    split: str


@dataclass(frozen=True)
class Sounds:
    """Labelled clips.

    Attributes
    ----------
    clips : tuple of Clip
        All of them, held out or not.
    classes : ClassList
        What `labels` count; mids are the names where a class is none of AudioSet's.
    multi_label : bool
        Whether clips may have several classes, or none.
    grouped : bool
        Whether the groups are the caller's; otherwise each file is one.
    warnings : tuple of str
        What was noticed and left out, in sentences.
    sha256 : str
        Of the files' bytes, windows, labels, groups and splits: the same data give the same value wherever they lie.
    """

    clips: tuple[Clip, ...]
    classes: ClassList
    multi_label: bool
    grouped: bool
    warnings: tuple[str, ...]
    sha256: str

    def targets(self) -> Bools:
        """Return which classes each clip has, shape (clips, classes)."""
        found = np.zeros((len(self.clips), len(self.classes)), np.bool_)
        for row, clip in enumerate(self.clips):
            found[row, list(clip.labels)] = True
        return found


@dataclass(frozen=True)
class _Row:
    """A clip as it was given, with labels by name."""

    path: str
    name: str
    labels: tuple[str, ...]
    start_s: float = 0.0
    duration_s: float | None = None
    group: str = ""
    fold: str = ""
    split: str = ""


def read_sounds(
    data: str | os.PathLike[str],
    *,
    test: str | os.PathLike[str] | None = None,
    classes: Sequence[str] | None = None,
    group: str | None = None,
) -> Sounds:
    """Return the labelled clips of a folder or csv file; no audio is decoded yet.

    Parameters
    ----------
    data : path
        A folder with a subfolder a class, each searched recursively for audio files. Or a csv file with a header:
        `path` (relative to the csv file) and `labels` (several with `;` between), and optionally `start` and `end` in
        seconds, `group`, `fold` and `split` (train, valid or test).
    test : str or path, optional
        What is held out: a shell pattern for the clips' names, such as `esc10/*/4-*`; or further data, as `data`.
    classes : sequence of str, optional
        Names, or names or mids of AudioSet, in the order wanted. Clips of others are left out; where clips may have
        several classes, only the other labels are. By default all, sorted.
    group : str, optional
        Regular expression searched in the clips' names: what its first pair of brackets matches, or else all of it,
        is the clip's group. It comes before a csv file's column.

    Raises
    ------
    OptionError
        There is no such folder or file, or a pattern or an expression matches nothing.
    DatasetError
        The csv file is damaged, or a class has no clip.
    """
    warned: list[str] = []
    rows = list(_rows(data, classes, warned))
    if test is not None:
        rows = _with_test(rows, os.fspath(test), warned)
    grouped = group is not None or any(row.group for row in rows)
    if group is not None:
        rows = _grouped(rows, group, warned)
    multi_label = any(len(row.labels) != 1 for row in rows)
    names = _Classes.of((label for row in rows for label in row.labels), classes, os.fspath(data))
    digests = _digests({row.path for row in rows})
    clips = _labelled(rows, names, multi_label, warned)
    clips = _once(clips, digests, names, multi_label, warned)
    clips = _with_groups(clips, digests)
    clips = _apart(clips, warned)
    about = [(digests.get(clip.path, ""), replace(clip, path="", name="")) for clip in clips]
    sha256 = hashlib.sha256(repr((about, names.classes)).encode("utf-8", "surrogateescape")).hexdigest()
    return Sounds(tuple(clips), names.classes, multi_label, grouped, tuple(warned), sha256)


def read_class_names(text: str) -> tuple[str, ...]:
    """Return the classes that a command line names: between commas, or the lines of a file.

    Raises
    ------
    OptionError
        The file cannot be read, or no class is named.
    """
    if os.path.isfile(text):
        lines = _text(Path(text), OptionError).splitlines()
        names = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    else:
        names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise OptionError(f"classes {text!r}: none named; expected names with commas between, or a file of one a line")
    return tuple(names)


def _rows(data: str | os.PathLike[str], classes: Sequence[str] | None, warned: list[str]) -> Iterator[_Row]:
    path = Path(data).expanduser()
    if path.is_dir():
        return _folder_rows(path, classes, warned)
    if path.is_file():
        return _csv_rows(path, warned)
    raise OptionError(f"{data}: no such folder or file; expected a folder with a subfolder a class, or a csv file")


def _folder_rows(folder: Path, classes: Sequence[str] | None, warned: list[str]) -> Iterator[_Row]:
    base = folder.absolute()
    wanted = None if classes is None else {_key(name)[0] for name in classes}
    children = sorted(child for child in folder.iterdir() if not child.name.startswith("."))
    of_class = [child for child in children if child.is_dir()]
    if not of_class:
        raise DatasetError(
            f"{folder}: no subfolder; expected one for each class, with its clips. Or give a csv file with the "
            "columns path and labels"
        )
    for child in of_class:
        if wanted is not None and _key(child.name)[0] not in wanted:
            warned.append(f"{child}: not among the classes asked for; left out")
            continue
        found = expand([str(child)])
        if not found.files:
            raise DatasetError(
                f"{found.missing[0][1]}. A class needs clips: add some, delete the folder, or name the other classes"
            )
        warned += [str(error) for _, error in found.missing]
        for file in found.files:
            yield _Row(file, (Path(base.name) / Path(file).relative_to(folder)).as_posix(), (child.name,))
    loose = [child for child in children if child.is_file() and child.suffix.lower() in AUDIO_SUFFIXES]
    if loose:
        warned.append(f"{folder}: {_count(loose, 'clip')} in no class's folder, left out: {_listed(loose)}")


def _csv_rows(path: Path, warned: list[str]) -> Iterator[_Row]:
    reader = csv.reader(io.StringIO(_text(path, DatasetError), newline=""), strict=True)
    try:
        header = [cell.strip().lower() for cell in next(reader, [])]
        places = {
            column: next((header.index(name) for name in names if name in header), None)
            for column, names in _COLUMNS.items()
        }
        if places["path"] is None or places["labels"] is None:
            raise DatasetError(
                f"{path}: the first line has the columns {', '.join(map(repr, header)) or 'none'}; expected `path` and "
                "`labels` among them, with commas between"
            )
        unknown = [name for place, name in enumerate(header) if place not in places.values()]
        if unknown:
            warned.append(
                f"{path}: {'column' if len(unknown) == 1 else 'columns'} {_listed(map(repr, unknown))} not used; those "
                f"that are: {', '.join(_COLUMNS)}"
            )
        for cells in reader:
            if any(map(str.strip, cells)):
                yield _csv_row(path, reader.line_num, len(header), cells, places)
    except csv.Error as error:
        raise DatasetError(f"{path}: line {reader.line_num}: not csv ({error}); expected quotes in pairs") from error


def _csv_row(path: Path, line: int, width: int, cells: Sequence[str], places: Mapping[str, int | None]) -> _Row:
    if len(cells) != width:
        raise DatasetError(
            f"{path}: line {line}: {len(cells)} cells; expected {width}, as the first line has. Put a cell that has a "
            "comma in quotes"
        )
    found = {column: "" if place is None else cells[place].strip() for column, place in places.items()}
    if not found["path"]:
        raise DatasetError(f"{path}: line {line}: no path; expected that of an audio file")
    split = found["split"].lower()
    if split not in _SPLITS:
        raise DatasetError(f"{path}: line {line}: split {found['split']!r}; expected train, valid or test")
    start_s = _seconds(found["start"], path, line, "start") or 0.0
    end_s = _seconds(found["end"], path, line, "end")
    if end_s is not None and end_s <= start_s:
        raise DatasetError(f"{path}: line {line}: from {start_s:g} to {end_s:g} s; expected an end after the start")
    return _Row(
        path=str(path.parent / Path(found["path"]).expanduser()),
        name=Path(found["path"]).as_posix(),
        labels=tuple(label for part in found["labels"].split(_SEVERAL) if (label := part.strip())),
        start_s=start_s,
        duration_s=None if end_s is None else end_s - start_s,
        group=found["group"],
        fold=found["fold"],
        split=_SPLITS[split],
    )


def _seconds(text: str, path: Path, line: int, column: str) -> float | None:
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds >= 0):
        raise DatasetError(f"{path}: line {line}: {column} {text!r}; expected seconds, 0 or more, or nothing")
    return seconds


def _text(path: Path, error_type: type[DatasetError] | type[OptionError]) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise error_type(f"{path}: not UTF-8 ({error}); expected text. Save it as UTF-8") from error
    except OSError as error:
        raise error_type(f"{path}: cannot be read ({error.strerror}); expected a text file") from error


def _with_test(rows: list[_Row], test: str, warned: list[str]) -> list[_Row]:
    """Mark what is held out."""
    if os.path.exists(test):
        held = [replace(row, split=TEST) for row in _rows(test, None, warned)]
        if not held:
            raise DatasetError(f"{test}: no clip; expected some to test on")
        return [*rows, *held]
    marked = [replace(row, split=TEST) if _matches(row, test) else row for row in rows]
    if rows and not any(row.split == TEST for row in marked):
        raise OptionError(
            f"test {test!r}: matches no clip and is no file; expected a pattern for names such as {rows[0].name!r}"
        )
    return marked


def _matches(row: _Row, pattern: str) -> bool:
    return fnmatch.fnmatchcase(row.name, pattern) or fnmatch.fnmatchcase(Path(row.path).as_posix(), pattern)


def _grouped(rows: list[_Row], expression: str, warned: list[str]) -> list[_Row]:
    try:
        compiled = re.compile(expression)
    except re.error as error:
        raise OptionError(f"group {expression!r}: no regular expression ({error})") from error
    found = [compiled.search(row.name) for row in rows]
    lacking = [row.name for row, match in zip(rows, found, strict=True) if match is None]
    if rows and len(lacking) == len(rows):
        raise OptionError(
            f"group {expression!r}: matches no clip; expected to find a group in names such as {rows[0].name!r}"
        )
    if lacking:
        warned.append(f"group {expression!r}: not found in {_count(lacking, 'name')}: {_listed(lacking)}")
    return [
        replace(row, group="" if match is None else (match[1] or "") if compiled.groups else match[0])
        for row, match in zip(rows, found, strict=True)
    ]


@dataclass(frozen=True)
class _Classes:
    """The classes, and where each is by what it is known by."""

    classes: ClassList
    places: Mapping[str, int]

    @classmethod
    def of(cls, labels: Iterable[str], wanted: Sequence[str] | None, data: str) -> _Classes:
        given: dict[str, tuple[str, str]] = {}
        for label in sorted(set(labels), key=lambda label: (label.startswith("/"), label)):  # names before mids
            key, mid, name = _key(label)
            given.setdefault(key, (mid, name))
        given = dict(sorted(given.items(), key=lambda item: item[1][1]))
        chosen = given
        if wanted is not None:
            chosen = {}
            for label in wanted:
                key, mid, name = _key(label)
                if key not in given:
                    raise DatasetError(
                        f"class {label!r}: no example in {data}; expected two clips or more of each class. "
                        f"It has {_listed([name for _, name in given.values()])}"
                    )
                chosen[key] = (mid, name)
        if not chosen:
            raise DatasetError(f"{data}: no label; expected clips of two classes or more")
        places = {key: place for place, key in enumerate(chosen)}
        return cls(ClassList(*map(tuple, zip(*chosen.values(), strict=True))), places)


def _key(label: str) -> tuple[str, str, str]:
    """What a class is known by in any spelling; its mid, or its name where it is none of AudioSet's; its name."""
    known = class_list("audioset527")
    place = _audioset_places().get(label.casefold())
    if place is None:
        return label.casefold(), label, label
    mid = known.mids[place]
    return mid, mid, known.names[place] if label.casefold() == mid.casefold() else label


@cache
def _audioset_places() -> dict[str, int]:
    known = class_list("audioset527")
    by_name = {name.casefold(): place for place, name in enumerate(known.names)}
    return by_name | {mid.casefold(): place for place, mid in enumerate(known.mids)}


def _labelled(rows: Sequence[_Row], names: _Classes, multi_label: bool, warned: list[str]) -> list[Clip]:
    """Give clips their columns; labels that are not among the classes go, and in single-label data their clips too."""
    clips, others = [], Counter[str]()
    for row in rows:
        places = [names.places.get(_key(label)[0]) for label in row.labels]
        others.update(label for label, place in zip(row.labels, places, strict=True) if place is None)
        columns = tuple(sorted({place for place in places if place is not None}))
        if columns or multi_label:
            clips.append(Clip(row.path, row.name, columns, row.start_s, row.duration_s, row.group, row.fold, row.split))
    if others:
        said = ", ".join(f"{name} ({count:,})" for name, count in others.most_common(_SHOWN))
        more = "" if len(others) <= _SHOWN else f" and {len(others) - _SHOWN:,} more"
        what = "labels of" if multi_label else "clips of"
        warned.append(f"{what} classes that were not asked for, left out: {said}{more}")
    return clips


def _once(
    clips: Sequence[Clip], digests: Mapping[str, str], names: _Classes, multi_label: bool, warned: list[str]
) -> list[Clip]:
    """Keep the first of clips with the same sound; contradictory ones go, or are joined where that is no contradiction.

    The first of those held out for testing comes before others.
    """
    alike: dict[tuple[str, float, float | None], list[Clip]] = {}
    for clip in clips:
        key = (digests.get(clip.path, clip.path), clip.start_s, clip.duration_s)
        alike.setdefault(key, []).append(clip)
    kept, copies, contradictory = [], [], []
    for same in alike.values():
        first = next((clip for clip in same if clip.split == TEST), same[0])
        labels = tuple(sorted({label for clip in same for label in clip.labels}))
        if len({clip.labels for clip in same}) > 1 and not multi_label:
            contradictory.append(same)
            continue
        kept.append(replace(first, labels=labels))
        copies += [clip for clip in same if clip.path != first.path]
    if copies:
        warned.append(f"{_count(copies, 'copy', 'copies')} of other clips, left out: {_listed(c.name for c in copies)}")
    if contradictory:
        said = "; ".join(
            " = ".join(f"{clip.name} ({names.classes.names[clip.labels[0]]})" for clip in same)
            for same in contradictory[:_SHOWN]
        )
        more = "" if len(contradictory) <= _SHOWN else f" and {len(contradictory) - _SHOWN:,} more"
        warned.append(f"the same sound in different classes, all of it left out: {said}{more}")
    return kept


def _with_groups(clips: Sequence[Clip], digests: Mapping[str, str]) -> list[Clip]:
    """Give every clip its group: what shares a file or a group of the caller's is one, however long the chain."""
    parents: dict[str, str] = {}

    def root(name: str) -> str:
        parents.setdefault(name, name)
        while parents[name] != name:
            parents[name] = parents[parents[name]]
            name = parents[name]
        return name

    files = [f"file {digests.get(clip.path, clip.path)}" for clip in clips]
    for clip, file in zip(clips, files, strict=True):
        if clip.group:
            # The caller's name leads, so that it is what messages say.
            parents[root(file)] = root(f"group {clip.group}")
    return [replace(clip, group=root(file)) for clip, file in zip(clips, files, strict=True)]


def _apart(clips: Sequence[Clip], warned: list[str]) -> list[Clip]:
    """Leave out of training and validation what shares a group with what is tested, and so on down."""
    kept = list(clips)
    for held, of in ((TEST, "tested"), (VALID, "validated by")):
        groups = {clip.group for clip in kept if clip.split == held}
        rest = [clip for clip in kept if clip.group in groups and clip.split not in (held, TEST)]
        if rest:
            warned.append(
                f"{_count(rest, 'clip')} of the same groups or files as what is {of}, left out of training: "
                f"{_listed(clip.name for clip in rest)}"
            )
            gone = set(map(id, rest))
            kept = [clip for clip in kept if id(clip) not in gone]
    return kept


def _digests(paths: Iterable[str]) -> dict[str, str]:
    """Hash of each file's bytes; what cannot be read has none, and fails when it is decoded."""
    found = {}
    for path in paths:
        total = hashlib.sha256()
        try:
            with open(path, "rb") as file:  # noqa: PTH123 - as the decoder opens it
                while block := file.read(1 << 20):
                    total.update(block)
        except (OSError, ValueError):
            continue
        found[path] = total.hexdigest()
    return found


def _count(items: Sequence[object], one: str, many: str = "") -> str:
    return f"{len(items):,} {one if len(items) == 1 else many or one + 's'}"


def _listed(items: Iterable[object]) -> str:
    names = [str(item) for item in items]
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more:,} more" if more > 0 else "")

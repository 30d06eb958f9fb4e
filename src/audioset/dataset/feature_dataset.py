"""Features for training: any clips of an Arrow file, one by one or in batches, straight from the mapped file.

Nothing of the file is read before it is asked for, and what is read stays the system's: its pages serve all processes
and go when memory is short. Rows are found through the file itself, in which Arrow keeps where each begins, so that
opening a large file costs no more memory than opening a small one.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from audioset._files import unwritable
from audioset.dataset.convert import FeaturesInfo, Progress, convert_features
from audioset.dataset.features import FeatureRecord
from audioset.errors import OptionError, OutputError, RecordError
from audioset.records import parts
from audioset.weights.files import cache_dir

__all__ = ["FeatureBatch", "FeatureDataset", "Labels"]

Indices: TypeAlias = Sequence[int] | npt.NDArray[np.integer[Any]]
_Ints: TypeAlias = npt.NDArray[np.int64]
_Places: TypeAlias = tuple[_Ints, _Ints]

_ARROW_MAGIC = b"ARROW1"
_PARQUET_MAGIC = b"PAR1"
_SPARE_BYTES = 64 << 20  # left on the disk of the cache
# The buffers that rows are found through, and what is in them: where lists begin, and values.
_BUFFERS: dict[str, dict[str, type[np.generic]]] = {
    "video_id": {"offsets": np.int32, "values": np.uint8},
    "start_s": {"values": np.float32},
    "end_s": {"values": np.float32},
    "labels": {"offsets": np.int32, "values": np.int32},
    "num_frames": {"values": np.int32},
    "embedding": {"offsets": np.int64, "values": np.uint8},
}


@dataclass(frozen=True, eq=False)
class Labels:
    """The labels of clips: those of clip `i` are `indices[offsets[i] : offsets[i + 1]]`.

    Attributes
    ----------
    offsets : ndarray of int64, shape (clips + 1,)
        Where each clip's begin.
    indices : ndarray of int32, shape (labels,)
        Indices of classes, clip after clip.
    """

    offsets: npt.NDArray[np.int64]
    indices: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def counts(self, num_classes: int) -> npt.NDArray[np.int64]:
        """How many labels there are of each class, int64 (num_classes,); `OptionError` if one is not below it."""
        self._check(num_classes)
        return np.bincount(self.indices, minlength=num_classes)

    def targets(self, num_classes: int, dtype: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
        """1 where a clip has the class and 0 elsewhere, (clips, num_classes); `OptionError` if one is not below it."""
        self._check(num_classes)
        found = np.zeros((len(self), num_classes), dtype)
        found[np.repeat(np.arange(len(self)), np.diff(self.offsets)), self.indices] = 1
        return found

    def _check(self, num_classes: int) -> None:
        if self.indices.size and not (self.indices.min() >= 0 and self.indices.max() < num_classes):
            outside = self.indices[(self.indices < 0) | (self.indices >= num_classes)][0]
            raise OptionError(
                f"num_classes: {num_classes}, but there are labels of class {outside}; expected more. "
                "AudioSet has 527 classes, YouTube-8M 3862"
            )


@dataclass(frozen=True, eq=False)
class FeatureBatch:
    """Clips side by side.

    Attributes
    ----------
    embeddings : ndarray of uint8 or float32, shape (clips, frames, dim)
        Zero beyond a clip's last frame. Its own memory, which may be written to.
    num_frames : ndarray of int32, shape (clips,)
        Frames of each clip that are in `embeddings`.
    labels : Labels
        Classes of each clip.
    video_ids : ndarray of str objects, shape (clips,)
        Ids of videos, or names of files.
    start_s : ndarray of float32, shape (clips,)
        Where each begins in its video.
    """

    embeddings: npt.NDArray[Any]
    num_frames: npt.NDArray[np.int32]
    labels: Labels
    video_ids: npt.NDArray[np.object_]
    start_s: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.num_frames)

    def targets(self, num_classes: int, dtype: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
        """1 where a clip has the class and 0 elsewhere, (clips, num_classes)."""
        return self.labels.targets(num_classes, dtype)


class FeatureDataset:
    """Clips of a file of features, mapped into memory; also a map-style data set of PyTorch.

    Slices are views of the same file. Pickles hold the name, so that workers of a `DataLoader` map the file for
    themselves; its batches come at once, as a `FeatureBatch`, when its `collate_fn` leaves them as they are
    (`torch.utils.data.default_convert` does).

    Parameters
    ----------
    path : path
        An Arrow file that `convert_features` wrote. Or a Parquet file, of `convert_features` or of `audioset embed`: it
        is converted once into the cache (the folder that AUDIOSET_CACHE names, or the user's own) and again when it
        has changed; convert it yourself to choose the place.
    progress : callable, optional
        Called with bytes done and in all while a Parquet file is converted.

    Raises
    ------
    RecordError
        The file cannot be read, is damaged, or holds no features.
    OutputError
        There is no room in the cache for what is in a Parquet file.
    """

    def __init__(self, path: str | os.PathLike[str], *, progress: Progress | None = None) -> None:
        source = Path(path)
        kind = _magic(source)
        if kind.startswith(_PARQUET_MAGIC):
            self._open(_converted(source, progress), None)
        elif kind == _ARROW_MAGIC:
            self._open(source, None)
        else:
            raise RecordError(
                f"{source}: neither Arrow nor Parquet (it begins with {kind!r}); expected a file that "
                f"`audioset dataset convert` wrote. Run `audioset dataset convert {source} -o features.arrow`"
            )

    def _open(self, path: Path, expected: tuple[int, int] | None) -> None:
        self._table = _Table(path, expected)
        self._rows: range | _Ints = range(self._table.num_rows)

    @property
    def info(self) -> FeaturesInfo:
        """What the embeddings are: model, width, type, regime."""
        return self._table.info

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> FeatureRecord: ...
    @overload
    def __getitem__(self, index: slice) -> FeatureDataset: ...
    def __getitem__(self, index: int | slice) -> FeatureRecord | FeatureDataset:
        """A clip, its arrays read-only views of the file, or a data set of the clips in a slice."""
        if isinstance(index, slice):
            return self._view(self._rows[index])
        return self._table.record(self._place(index))

    def __getitems__(self, indices: Indices) -> FeatureBatch:
        """`batch(indices)`, for PyTorch."""
        return self.batch(indices)

    def __iter__(self) -> Iterator[FeatureRecord]:
        return (self._table.record(int(row)) for row in self._rows)

    def select(self, indices: Indices) -> FeatureDataset:
        """Return a data set of these clips in this order; indices are as for `batch`."""
        return self._view(self._places(indices))

    def batch(self, indices: Indices, *, num_frames: int | None = None) -> FeatureBatch:
        """Return clips side by side.

        Parameters
        ----------
        indices : sequence or array of int, shape (clips,)
            Which ones, in any order and as often as wanted; below zero they count from the end.
        num_frames : int, optional
            Frames of `embeddings`: longer clips are cut, shorter ones padded with zeros. By default those of the
            longest.

        Raises
        ------
        OptionError
            An index is out of range or no integer, or `num_frames` is below zero.
        """
        if num_frames is not None and num_frames < 0:
            raise OptionError(f"num_frames: {num_frames}; expected 0 or more")
        table = self._table
        at = table.locate(self._places(indices))
        embeddings, counts = table.frames(at, num_frames)
        return FeatureBatch(embeddings, counts, table.labels(at), table.video_ids(at), table.numbers("start_s", at))

    @cached_property
    def labels(self) -> Labels:
        """The labels of all clips, read at the first use: 16 bytes a clip and 4 a label."""
        return self._table.labels(self._all())

    @cached_property
    def video_ids(self) -> npt.NDArray[np.object_]:
        """The ids of all clips, str objects (clips,), read at the first use."""
        return self._table.video_ids(self._all())

    def id_groups(self) -> npt.NDArray[np.int64]:
        """Return a number for the id of each clip, (clips,), from 0 on as they first come; equal ids have the same."""
        groups: npt.NDArray[np.int32] = self._table.id_texts(self._all()).dictionary_encode().indices.to_numpy()
        found = groups.astype(np.int64)
        del groups
        pa.default_memory_pool().release_unused()  # for millions of ids Arrow else keeps hundreds of megabytes
        return found

    @property
    def num_frames(self) -> npt.NDArray[np.int32]:
        """How many frames each clip has, (clips,)."""
        return self._table.numbers("num_frames", self._all())

    @property
    def start_s(self) -> npt.NDArray[np.float32]:
        """Where each clip begins in its video, (clips,)."""
        return self._table.numbers("start_s", self._all())

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (type(self), self._table.path, self._table.version, self._rows)

    def __repr__(self) -> str:
        info = self.info
        return (
            f"FeatureDataset({str(self._table.path)!r}: {len(self)} clips, {info.dtype} (frames, {info.embedding_dim}))"
        )

    def _view(self, rows: range | _Ints) -> FeatureDataset:
        view = object.__new__(type(self))
        view._table, view._rows = self._table, rows
        return view

    def _all(self) -> _Places:
        if isinstance(self._rows, range):
            return self._table.locate(np.arange(self._rows.start, self._rows.stop, self._rows.step, dtype=np.int64))
        return self._table.locate(self._rows)

    def _place(self, index: int) -> int:
        return int(self._places([index])[0])

    def _places(self, indices: Indices) -> _Ints:
        """Rows of the file."""
        given = np.asarray(indices)
        if given.size == 0 and given.ndim == 1:
            return np.empty(0, np.int64)
        if given.dtype == bool:
            raise OptionError(
                f"indices: a mask of shape {given.shape}; expected integers of shape (clips,). "
                "Use numpy.flatnonzero(mask)"
            )
        if given.ndim != 1 or given.dtype.kind not in "iu":
            raise OptionError(f"indices: {given.dtype} of shape {given.shape}; expected integers of shape (clips,)")
        wanted = given.astype(np.int64)
        wrong = (wanted < -len(self)) | (wanted >= len(self)) | (given > np.iinfo(np.int64).max)
        if wrong.any():
            raise OptionError(f"index {given[wrong][0]}: out of range; expected {-len(self)} to {len(self) - 1}")
        wanted[wanted < 0] += len(self)
        if isinstance(self._rows, range):
            return self._rows.start + wanted * self._rows.step
        return self._rows[wanted]


def _reopened(kind: type[FeatureDataset], path: Path, version: tuple[int, int], rows: range | _Ints) -> FeatureDataset:
    dataset = object.__new__(kind)
    dataset._open(path, version)
    dataset._rows = rows
    return dataset


class _Table:
    """An Arrow file of features: where in it things are, by row."""

    def __init__(self, path: Path, expected: tuple[int, int] | None) -> None:
        self.path = path.absolute()
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                self.version = (status.st_size, status.st_mtime_ns)
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # an empty file cannot be mapped
            why = getattr(error, "strerror", None) or error
            raise RecordError(f"{path}: cannot be read ({why}); expected an Arrow file of features") from error
        if expected not in (None, self.version):
            raise RecordError(
                f"{path}: has changed since it was opened elsewhere; expected the same file. Open it again"
            )
        self.bytes = np.frombuffer(mapped, np.uint8)
        try:
            reader = pa.ipc.open_file(pa.py_buffer(mapped))
            self.info = FeaturesInfo.of(reader.schema, path)
            batches = (reader.get_batch(index) for index in range(reader.num_record_batches))
            places = [(len(batch), *self._positions(batch)) for batch in batches if len(batch)]
        except RecordError:
            raise
        except parts.damage() as error:
            raise _damaged(path, str(error)) from error
        kinds = {(column, buffer): kind for column, of in _BUFFERS.items() for buffer, kind in of.items()}
        lengths, *starts = np.array(places, np.int64).reshape(-1, 1 + len(kinds)).T
        self._first_rows = _offsets(lengths)
        # Each buffer as the whole file of its type of numbers, and where in that it starts in each batch.
        self._buffers = {
            name: (self._as(kind), start // np.dtype(kind).itemsize)
            for (name, kind), start in zip(kinds.items(), starts, strict=True)
        }
        self.num_rows = int(self._first_rows[-1])

    def _positions(self, batch: pa.RecordBatch) -> Iterator[int]:
        """Where in the file a batch's buffers are, after making sure that all of it is as its columns say."""
        batch.validate(full=True)
        for name, wanted in _BUFFERS.items():
            column = batch.column(name)
            if column.null_count or (name == "labels" and column.values.null_count):
                raise _damaged(self.path, f"column {name} has nulls")
            if column.offset:
                raise _damaged(self.path, f"column {name} begins within its buffers")
            # Numbers: validity, values. Text: validity, offsets, values. Lists: validity, offsets, validity, values.
            buffers = column.buffers()
            for buffer in (buffers[1], buffers[-1])[-len(wanted) :]:
                yield self._position(buffer, name)
        lengths = np.diff(np.frombuffer(batch.column("embedding").buffers()[1], np.int64)[: len(batch) + 1])
        if not np.array_equal(lengths, batch.column("num_frames").to_numpy() * np.int64(self.info.frame_bytes)):
            raise _damaged(self.path, "embeddings are not as long as their numbers of frames say")

    def _position(self, buffer: pa.Buffer | None, name: str) -> int:
        if buffer is None or buffer.size == 0:
            return 0  # nothing is ever read of it
        position = int(buffer.address) - int(self.bytes.ctypes.data)
        if not 0 <= position <= self.bytes.size - buffer.size or position % 8:
            raise _damaged(self.path, f"column {name} is compressed or not aligned")
        return position

    def locate(self, rows: _Ints) -> _Places:
        """The batches of the file that rows are in, and which of their rows they are."""
        batches = np.searchsorted(self._first_rows, rows, side="right") - 1
        return batches, rows - self._first_rows[batches]

    def numbers(self, column: str, at: _Places) -> npt.NDArray[Any]:
        """The values of a column of numbers."""
        return self._items(column, "values", at)

    def labels(self, at: _Places) -> Labels:
        """The labels of rows."""
        firsts, counts = self._extents("labels", at)
        return Labels(_offsets(counts), self._buffers["labels", "values"][0][_runs(firsts, counts)])

    def video_ids(self, at: _Places) -> npt.NDArray[np.object_]:
        """The ids of rows."""
        found: npt.NDArray[np.object_] = self.id_texts(at).to_numpy(zero_copy_only=False)
        return found

    def id_texts(self, at: _Places) -> pa.LargeStringArray:
        """The ids of rows, without an object for each."""
        firsts, counts = self._extents("video_id", at)
        if counts.size and counts.min() == counts.max() > 0:  # as those of videos are
            text: npt.NDArray[Any] = _windows(self.bytes, int(counts[0]))[firsts]
        else:
            text = self.bytes[_runs(firsts, counts)]
        return pa.LargeStringArray.from_buffers(len(firsts), pa.py_buffer(_offsets(counts)), pa.py_buffer(text))

    def _as(self, kind: type[np.generic]) -> npt.NDArray[Any]:
        """The whole file as numbers."""
        size = np.dtype(kind).itemsize
        return self.bytes[: self.bytes.size // size * size].view(kind)

    def _items(self, column: str, buffer: str, at: _Places) -> npt.NDArray[Any]:
        batches, places = at
        file, firsts = self._buffers[column, buffer]
        found: npt.NDArray[Any] = file[firsts[batches] + places]
        return found

    def _extents(self, column: str, at: _Places) -> tuple[_Ints, _Ints]:
        """Where in the file, in items of its values, each row of a column of lists begins, and how many it has."""
        batches, places = at
        starts = self._items(column, "offsets", at)
        counts = self._items(column, "offsets", (batches, places + 1)) - starts
        return self._buffers[column, "values"][1][batches] + starts, counts

    def frames(self, at: _Places, num_frames: int | None) -> tuple[npt.NDArray[Any], npt.NDArray[np.int32]]:
        """Embeddings side by side, and how many frames of each clip they hold."""
        frame_bytes = self.info.frame_bytes
        starts, lengths = self._extents("embedding", at)
        counts = lengths // frame_bytes
        longest = int(counts.max(initial=0)) if num_frames is None else num_frames
        np.minimum(counts, longest, out=counts)
        # What comes after a short clip in the file is copied with it, and overwritten: one kind of copy for all.
        found = self._copied(starts, longest * frame_bytes).reshape(len(starts), longest, frame_bytes)
        short = np.flatnonzero(counts < longest)
        if short.size:
            clips, frames = np.nonzero(np.arange(longest) >= counts[short, np.newaxis])
            found[short[clips], frames] = 0
        return found.view(self.info.dtype), counts.astype(np.int32)

    def _copied(self, starts: _Ints, width: int) -> npt.NDArray[np.uint8]:
        """The `width` bytes from each place on, (places, width); beyond the end of the file there are zeros."""
        if not width or not len(starts):
            return np.zeros((len(starts), width), np.uint8)
        source, size = self.bytes, self.bytes.size
        last = size - width  # the last place from which so many are left
        near_end = starts > last
        if near_end.any():
            tail = np.zeros(2 * width, np.uint8)
            kept = min(width, size)
            tail[:kept] = source[size - kept :]
            found = np.empty((len(starts), width), np.uint8)
            found[near_end] = _windows(tail, width)[starts[near_end] - (size - kept)].view(np.uint8).reshape(-1, width)
            found[~near_end] = self._copied(starts[~near_end], width)
            return found
        return _windows(source, width)[starts].view(np.uint8).reshape(-1, width)

    def record(self, row: int) -> FeatureRecord:
        """A clip, its arrays views of the file."""
        at = self.locate(np.array([row]))
        (start,), (length,) = self._extents("embedding", at)
        (first,), (num_labels,) = self._extents("labels", at)
        frames = self.bytes[start : start + length].view(self.info.dtype).reshape(-1, self.info.embedding_dim)
        return FeatureRecord(
            str(self.video_ids(at)[0]),
            float(self.numbers("start_s", at)[0]),
            float(self.numbers("end_s", at)[0]),
            self._buffers["labels", "values"][0][first : first + num_labels],
            frames,
        )


def _windows(source: npt.NDArray[np.uint8], width: int) -> npt.NDArray[np.void]:
    """`width` bytes from every place on. As one value of so many bytes each, NumPy copies them whole."""
    found: npt.NDArray[np.void] = np.ndarray((source.size - width + 1,), f"V{width}", source, strides=(1,))
    return found


def _runs(firsts: _Ints, counts: _Ints) -> _Ints:
    """`counts[0]` places from `firsts[0]` on, then `counts[1]` from `firsts[1]` on, and so forth."""
    offsets = _offsets(counts)
    return np.repeat(firsts - offsets[:-1], counts) + np.arange(offsets[-1])


def _offsets(counts: npt.NDArray[np.integer[Any]]) -> _Ints:
    """Where each begins, and the last ends, of items that lie one after another."""
    found = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=found[1:])
    return found


def _magic(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(len(_ARROW_MAGIC))
    except OSError as error:
        raise RecordError(
            f"{path}: cannot be read ({error.strerror}); expected an Arrow or Parquet file of features"
        ) from error


def _damaged(path: Path, found: str) -> RecordError:
    return RecordError(
        f"{path}: not as it was written ({found}); expected an Arrow file that "
        "`audioset dataset convert` wrote. Convert it again"
    )


def _converted(source: Path, progress: Progress | None) -> Path:
    """The Arrow file in the cache that a Parquet file was converted to, now or before.

    Its name has the source's path, size and time of change, so that what is there under it is always of the file as
    it is now.
    """
    import filelock

    place = source.resolve()
    status = place.stat()
    origin = hashlib.sha256(os.fsencode(place)).hexdigest()[:16]
    version = f"{status.st_size:x}-{status.st_mtime_ns:x}"
    folder = cache_dir() / "features"
    target = folder / f"{origin}-{version}.arrow"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / f"{origin}.lock"):
            if not target.is_file():
                _check_room(source, folder)
                convert_features(source, target, overwrite=True, progress=progress)
                for old in folder.glob(f"{origin}-*.arrow"):
                    if old != target:
                        with suppress(OSError):  # in use, where that prevents it
                            old.unlink()
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise unwritable(target, error) from error
    return target


def _check_room(source: Path, folder: Path) -> None:
    try:
        with parts.parquet_file(source) as file:
            groups = (file.metadata.row_group(index) for index in range(file.metadata.num_row_groups))
            needed = sum(group.total_byte_size for group in groups) + _SPARE_BYTES
    except parts.damage() as error:
        raise RecordError(f"{source}: cannot be read as Parquet ({error}); expected a whole file") from error
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OutputError(
            f"{folder}: {free / 1e6:,.0f} MB free; expected {needed / 1e6:,.0f} MB for what is in {source}. Free some, "
            "set AUDIOSET_CACHE to a place with more, or convert it to an Arrow file of your own"
        )

"""Records of the released features to arrays, many at once.

The records that AudioSet released, and those that this package writes, differ in the order of their four context
entries, in the lengths of ids and label lists and in the number of frames, and in nothing else:

    0a <context> { 0a <entry> { 0a <key> 12 <feature> } × 4 }
    12 <lists> { 0a <list> { 0a 0f audio_embedding 12 <frames> { 0a 86 01 0a 83 01 0a 80 01 <128 bytes> } × frames } }

So the places of everything follow from a few bytes of each record, which NumPy reads for all records of a block
together, and every other byte is compared with what it must be. A record that differs anywhere is decoded alone, as
the general protocol buffer that it may be, so that results do not depend on the layout.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from audioset.errors import RecordError
from audioset.postprocess import Pca, dequantize
from audioset.records.tfrecord import Damage, Feature, RecordBlock, decode_example, map_entry, message

EMBEDDING_DIM = 128

FEATURES_SCHEMA = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("start_s", pa.float32(), nullable=False),
        pa.field("end_s", pa.float32(), nullable=False),
        pa.field("labels", pa.list_(pa.int32()), nullable=False),
        pa.field("num_frames", pa.int32(), nullable=False),
        pa.field("embedding", pa.large_binary(), nullable=False),
    ],
    metadata={"audioset.features": json.dumps({"model": "vggish", "embedding_dim": EMBEDDING_DIM, "regime": "uint8"})},
)
"""Released features as an Arrow table: `embedding` is a record's frames one after another, `num_frames` × 128 bytes.

The metadata says what the bytes are: PCA-whitened, 8-bit embeddings of VGGish (regime "uint8").
"""

_Ints = npt.NDArray[np.int64]
_Mask = npt.NDArray[np.bool_]

_FRAME_HEADER = bytes.fromhex("0a8601 0a8301 0a8001")  # a feature, its list of bytes, and the 128 bytes
_FRAME_WORD = int.from_bytes(_FRAME_HEADER[:8], "little")
_FRAME_BYTES = len(_FRAME_HEADER) + EMBEDDING_DIM
_HIGH = 0x80  # the bit of a byte after which an integer goes on; no ASCII has it


@dataclass(frozen=True)
class _Entry:
    """An entry of the context: how long it may be, not counting its first two bytes, and how it starts."""

    key: bytes
    lengths: range
    header: npt.NDArray[np.uint8]
    varies: npt.NDArray[np.uint8]  # 1 where the byte of the header is to be added to the length, modulo 256

    def matches(self, data: bytes, places: _Ints, lengths: _Ints) -> _Mask:
        """Which of the entries at these places start as they must."""
        expected = self.header + self.varies * lengths[:, np.newaxis].astype(np.uint8)
        matches: _Mask = np.all(_gather(data, places, len(self.header)) == expected, axis=1)
        return matches


def _entry(key: bytes, lengths: range, *feature: int) -> _Entry:
    """An entry whose feature starts with these bytes; one below zero, as with a length, is less than the entry's."""
    start = [0x0A, 0, 0x0A, len(key), *key, 0x12, *feature]
    varies = [index == 1 or byte < 0 for index, byte in enumerate(start)]
    return _Entry(key, lengths, np.array(start).astype(np.uint8), np.array(varies, np.uint8))


# In the order of the lengths of their keys, by which they are told apart.
_LABELS = _entry(b"labels", range(12, 128), -10, 0x1A, -12)
_VIDEO_ID = _entry(b"video_id", range(16, 128), -12, 0x0A, -14, 0x0A, -16)
_END = _entry(b"end_time_seconds", range(28, 29), 8, 0x12, 6, 0x0A, 4)
_START = _entry(b"start_time_seconds", range(30, 31), 8, 0x12, 6, 0x0A, 4)
_ENTRIES = (_LABELS, _VIDEO_ID, _END, _START)
_NO_LABELS = 12  # the length of an entry that has no list; one with a list of none has 14


@dataclass(frozen=True, eq=False)
class FeatureRecord:
    """The released features of one clip.

    Attributes
    ----------
    video_id : str
        The id of the YouTube video.
    start_s, end_s : float
        Where the clip is in it.
    labels : ndarray of int32, shape (labels,)
        Indices of its classes, in the order of the file.
    embedding : ndarray of uint8, shape (frames, 128)
        PCA-whitened, 8-bit embeddings of VGGish: in the released files one for each whole second.
    """

    video_id: str
    start_s: float
    end_s: float
    labels: npt.NDArray[np.int32]
    embedding: npt.NDArray[np.uint8]

    def components(self, *, half_bin: bool = False) -> npt.NDArray[np.float32]:
        """The frames as PCA components in [−2, 2], float32 (frames, 128); see `audioset.postprocess.dequantize`."""
        return dequantize(self.embedding, half_bin=half_bin)

    def raw(self, pca: Pca, *, half_bin: bool = False) -> npt.NDArray[np.float32]:
        """The frames as raw embeddings of VGGish, float32 (frames, 128), but for what 8 bits and clipping took away.

        `pca` are the parameters that VGGish was published with: `audioset.load("vggish").pca`, or read from a file
        with `audioset.weights`.
        """
        return pca.invert(self.components(half_bin=half_bin))


def parse_blocks(blocks: Sequence[RecordBlock]) -> tuple[pa.RecordBatch, list[tuple[int, Damage]]]:
    """The records of one or more blocks as rows of `FEATURES_SCHEMA`, in order, and what cannot be a row.

    Each of the latter has the number of records before it.
    """
    firsts = np.cumsum([0, *(len(block.starts) for block in blocks)])
    moved = np.cumsum([0, *(len(block.data) for block in blocks)])
    data = b"".join(block.data for block in blocks)
    starts = np.concatenate([block.starts + by for block, by in zip(blocks, moved, strict=False)])
    stops = np.concatenate([block.stops + by for block, by in zip(blocks, moved, strict=False)])
    known, batch = _parse_known(data, starts, stops)
    if len(known) == len(starts):
        return batch, []
    others: dict[int, FeatureRecord] = {}
    flaws = []
    for index in np.setdiff1d(np.arange(len(starts)), known).tolist():
        try:
            others[index] = decode_row(data[starts[index] : stops[index]])
        except RecordError as error:
            which = int(np.searchsorted(firsts, index, side="right")) - 1
            flaws.append((index, blocks[which].damage(index - int(firsts[which]), str(error))))
    if others:
        order = np.argsort(np.concatenate((known, np.fromiter(others, np.int64))))
        batch = (
            pa.Table.from_batches([batch, batch_of(list(others.values()))]).take(order).combine_chunks().to_batches()[0]
        )
    return batch, flaws


def decode_row(data: bytes) -> FeatureRecord:
    """A record's data as a row, whatever encoder wrote it.

    Raises
    ------
    RecordError
        It is no ``SequenceExample``, or not one of these features; it says what is missing or differs.
    """
    example = decode_example(data)
    video_id = example.context.get("video_id", example.context.get("id"))
    if video_id is None or len(video_id) != 1 or not isinstance(video_id[0], bytes):
        raise RecordError(f"no video_id; expected one string, found {_shown(video_id)} among {_keys(example.context)}")
    try:
        name = video_id[0].decode()
    except UnicodeDecodeError as error:
        raise RecordError(f"video_id {video_id[0]!r} is not UTF-8; expected text") from error
    frames = example.feature_lists.get("audio_embedding")
    if frames is None:
        raise RecordError(f"{name}: no audio_embedding; expected it among {_keys(example.feature_lists)}")
    for index, frame in enumerate(frames):
        if len(frame) != 1 or not isinstance(frame[0], bytes) or len(frame[0]) != EMBEDDING_DIM:
            raise RecordError(f"{name}: frame {index} is {_shown(frame)}; expected one string of {EMBEDDING_DIM} bytes")
    return FeatureRecord(
        name,
        _time(name, example.context, "start_time_seconds"),
        _time(name, example.context, "end_time_seconds"),
        _labels(name, example.context.get("labels", [])),
        np.frombuffer(b"".join(frame[0] for frame in frames), np.uint8).reshape(-1, EMBEDDING_DIM),
    )


def batch_of(rows: Sequence[FeatureRecord]) -> pa.RecordBatch:
    """Rows as a batch of `FEATURES_SCHEMA`."""
    columns = (
        [row.video_id for row in rows],
        [row.start_s for row in rows],
        [row.end_s for row in rows],
        [row.labels for row in rows],
        [len(row.embedding) for row in rows],
        [row.embedding.tobytes() for row in rows],
    )
    arrays = [pa.array(column, field.type) for column, field in zip(columns, FEATURES_SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=FEATURES_SCHEMA)


def _time(name: str, context: Mapping[str, Feature], key: str) -> float:
    value = context.get(key)
    if not isinstance(value, np.ndarray) or value.dtype != np.float32 or len(value) != 1:
        raise RecordError(f"{name}: {key} is {_shown(value)}; expected one float")
    return float(value[0])


def _labels(name: str, labels: Feature) -> npt.NDArray[np.int32]:
    array = np.asarray(labels, np.int64) if len(labels) == 0 else labels
    if not isinstance(array, np.ndarray) or array.dtype != np.int64:
        raise RecordError(f"{name}: labels are {_shown(labels)}; expected integers")
    narrow = array.astype(np.int32)
    if not np.array_equal(narrow, array):
        raise RecordError(f"{name}: labels are {_shown(labels)}; expected indices of classes, within 32 bits")
    return narrow


def _shown(value: Feature | None) -> str:
    """A value in a message."""
    if value is None or len(value) == 0:
        return "nothing"
    first: Any = value[0]
    text = f"{len(first)} bytes" if isinstance(first, bytes) else f"{value.dtype} {first}"  # type: ignore[union-attr]
    return text if len(value) == 1 else f"{text} and {len(value) - 1} more"


def _keys(names: Mapping[str, object]) -> str:
    return ", ".join(sorted(names)) or "no names"


def _parse_known(data: bytes, starts: _Ints, stops: _Ints) -> tuple[_Ints, pa.RecordBatch]:
    """The records of the known layout: which they are, and their rows."""
    rows = np.arange(len(starts))
    while len(rows):
        found = _parse_fixed(data, starts[rows], stops[rows])
        if isinstance(found, pa.RecordBatch):
            return rows, found
        rows = rows[found]
    return rows, batch_of([])


def _parse_fixed(data: bytes, starts: _Ints, stops: _Ints) -> _Mask | pa.RecordBatch:
    """The records as rows if all are of the known layout, else which of them may be.

    Each check makes sure of what the next one reads; nothing is read beyond a record until its lengths are known to
    fit, except for single bytes, whose place is clipped to the data.
    """
    raw = np.frombuffer(data, np.uint8)

    def byte(places: _Ints) -> npt.NDArray[np.uint8]:
        return raw.take(places, mode="clip")

    low, high = byte(starts + 1), byte(starts + 2)
    is_long = low >= _HIGH
    context = starts + np.where(is_long, 3, 2)
    tails = context + np.where(is_long, (low & 0x7F) + (high.astype(np.int64) << 7), low)
    places = np.empty((len(_ENTRIES), len(starts)), np.int64)
    sizes, keys = np.empty_like(places), np.empty_like(places)
    place = context
    for step in range(len(_ENTRIES)):
        places[step], sizes[step], keys[step] = place, byte(place + 1), byte(place + 3)
        place = place + 2 + sizes[step]
    order = np.argsort(keys, axis=0)
    places, sizes, keys = (np.take_along_axis(values, order, axis=0) for values in (places, sizes, keys))
    fits = (byte(starts) == 0x0A) & ~(is_long & (high >= _HIGH)) & (place == tails) & (tails < stops)
    for entry, size, key in zip(_ENTRIES, sizes, keys, strict=True):
        fits &= (key == len(entry.key)) & (size >= entry.lengths.start) & (size < entry.lengths.stop)
    counts = (stops - tails) // _FRAME_BYTES
    fits &= counts > 0
    if not fits.all():
        return fits
    for entry, place, size in zip(_ENTRIES, places, sizes, strict=True):
        fits &= entry.matches(data, place, size)
    label_bytes = sizes[0] - 14
    fits &= (sizes[0] == _NO_LABELS) | (
        (label_bytes >= 0) & (byte(places[0] + 14) == 0x0A) & (byte(places[0] + 15) == label_bytes)
    )
    label_bytes = np.maximum(label_bytes, 0)
    first_frames = tails.copy()
    tail_bytes = stops - tails
    for each in np.unique(tail_bytes).tolist():
        header = _list_header(each // _FRAME_BYTES)
        chosen = np.flatnonzero(tail_bytes == each)
        fits[chosen] &= (_gather(data, tails[chosen], len(header)) == np.frombuffer(header, np.uint8)).all(axis=1)
        first_frames[chosen] += len(header)
    fits &= first_frames + counts * _FRAME_BYTES == stops
    if not fits.all():
        return fits

    frames = _runs(first_frames, counts, _FRAME_BYTES)
    _unset(
        fits,
        counts,
        (_gather(data, frames, 8).view("<u8").ravel() != _FRAME_WORD) | (raw[frames + 8] != _FRAME_HEADER[8]),
    )
    ids = raw[_runs(places[1] + 18, sizes[1] - 16)]
    _unset(fits, sizes[1] - 16, ids >= _HIGH)
    packed = raw[_runs(places[0] + 16, label_bytes)]
    goes_on = packed >= _HIGH
    # Labels of one or two bytes, that is below 16,384; the last byte of a record's must end one.
    too_long = goes_on & np.append(goes_on[1:], False)
    last = np.cumsum(label_bytes)[label_bytes > 0] - 1
    too_long[last] = goes_on[last]
    _unset(fits, label_bytes, too_long)
    if not fits.all():
        return fits

    values = (packed & 0x7F).astype(np.int32)
    second = np.flatnonzero(goes_on) + 1
    values[second] = values[second] << 7 | values[second - 1]
    ended = np.concatenate(([0], np.cumsum(~goes_on)))  # labels in so many bytes
    label_offsets = ended[np.concatenate(([0], np.cumsum(label_bytes)))]
    embedding = _gather(data, frames + len(_FRAME_HEADER), EMBEDDING_DIM)
    columns = [
        pa.StringArray.from_buffers(len(starts), _offsets(sizes[1] - 16, np.int32), pa.py_buffer(ids)),
        pa.array(_gather(data, places[3] + 28, 4).view("<f4").ravel()),
        pa.array(_gather(data, places[2] + 26, 4).view("<f4").ravel()),
        pa.ListArray.from_arrays(pa.array(label_offsets.astype(np.int32)), pa.array(values[~goes_on])),
        pa.array(counts.astype(np.int32)),
        pa.Array.from_buffers(
            pa.large_binary(),
            len(starts),
            [None, _offsets(counts * EMBEDDING_DIM, np.int64), pa.py_buffer(embedding)],
        ),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=FEATURES_SCHEMA)


@lru_cache(maxsize=1024)
def _list_header(num_frames: int) -> bytes:
    """What is between the context and the first of so many frames."""
    feature_list = bytes(num_frames * _FRAME_BYTES)
    return message(2, map_entry("audio_embedding", feature_list))[: -len(feature_list)]


def _gather(data: bytes, places: _Ints, size: int) -> npt.NDArray[np.uint8]:
    """The `size` bytes at each place, shape (places, size)."""
    # As one value of `size` bytes each, NumPy copies them whole.
    windows = np.ndarray((len(data) - size + 1,), f"V{size}", data, strides=(1,))
    gathered: npt.NDArray[np.uint8] = windows[places].view(np.uint8).reshape(-1, size)
    return gathered


def _runs(firsts: _Ints, counts: _Ints, step: int = 1) -> _Ints:
    """`counts[0]` places from `firsts[0]` on, `step` apart, then `counts[1]` from `firsts[1]` on, and so forth."""
    stops = np.cumsum(counts)
    places: _Ints = np.repeat(firsts - (stops - counts) * step, counts) + np.arange(stops[-1]) * step
    return places


def _unset(fits: _Mask, counts: _Ints, wrong: _Mask) -> None:
    """Unset the rows of which one of their `counts` values is wrong."""
    if wrong.any():
        fits[np.repeat(np.arange(len(fits)), counts)[wrong]] = False


def _offsets(lengths: _Ints, dtype: type[np.signedinteger]) -> pa.Buffer:
    return pa.py_buffer(np.concatenate(([0], np.cumsum(lengths))).astype(dtype))

"""YouTube-8M's records: frames, rated segments and videos, read and written without TensorFlow.

=======  ======================  ===================================================================================
level    message                 features
=======  ======================  ===================================================================================
frame    ``SequenceExample``     context ``id``, ``labels``; lists ``rgb`` and ``audio``: one string of 1,024 and one of
                                 128 bytes for each second, at most 300
segment  ``SequenceExample``     the same, and in the context ``segment_labels``, ``segment_start_times``,
                                 ``segment_end_times`` (seconds) and ``segment_scores``: one of each for each rating
video    ``Example``             ``id``, ``labels``, ``mean_rgb``, ``mean_audio``: float32
=======  ======================  ===================================================================================

The id is called ``video_id`` in some files. The first release has no audio: its arrays are then (frames, 0).
Format and de-quantization are those of https://github.com/google/youtube-8m.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from audioset._files import written_whole
from audioset._protobuf import Malformed, as_bytes, as_text, fields, read_varint
from audioset.dataset._layout import FEATURES_SCHEMA
from audioset.dataset._sources import OnDamage, Source, read_blocks
from audioset.errors import OptionError, RecordError
from audioset.postprocess import dequantize
from audioset.records.tfrecord import (
    Feature,
    bytes_feature,
    decode_example,
    float_feature,
    int64_feature,
    map_entry,
    message,
    write_record,
)

NUM_CLASSES = 3862
RGB_DIM = 1024
AUDIO_DIM = 128

Level: TypeAlias = Literal["frame", "segment", "video"]
LEVELS: tuple[Level, ...] = ("frame", "segment", "video")

_TAG = 0x0A  # of field 1 with a length, the only one inside a list of strings
# What ratings are called in the records, and here.
_RATINGS = ("segment_labels", "segment_start_times", "segment_end_times", "segment_scores")
_COLUMNS = ("segment_labels", "segment_start_s", "segment_end_s", "segment_scores")
_SEGMENT_S = 5  # where a file does not say when its segments end
_NOTHING = memoryview(b"")


@dataclass(frozen=True, eq=False)
class FrameRecord:
    """The features of one video, one frame a second.

    Attributes
    ----------
    video_id : str
        Its id, in the files as "id" or "video_id".
    labels : ndarray of int32, shape (labels,)
        Indices of its classes, below 3,862.
    rgb : ndarray of uint8, shape (frames, 1024)
        What is seen; (frames, 0) where a file has none.
    audio : ndarray of uint8, shape (frames, 128)
        What is heard, likewise.
    """

    video_id: str
    labels: npt.NDArray[np.int32]
    rgb: npt.NDArray[np.uint8]
    audio: npt.NDArray[np.uint8]

    @property
    def embedding(self) -> npt.NDArray[np.uint8]:
        """`rgb` and `audio` side by side, uint8 (frames, 1152)."""
        return np.hstack((self.rgb, self.audio))

    def components(self) -> npt.NDArray[np.float32]:
        """`embedding` as YouTube-8M's own reader gives it: `q · 4/255 + 4/512 − 2`, float32 (frames, 1152)."""
        return dequantize(self.embedding, half_bin=True)


@dataclass(frozen=True)
class Ratings:
    """What people said of a video's segments; of most classes nothing, which is why there is a mask.

    Attributes
    ----------
    start_s, end_s : ndarray of int32, shape (segments,)
        The rated segments, each once, in the order of the file. Frame `i` is of second `i`, so that a segment's are
        `record.rgb[start_s:end_s]`.
    scores : ndarray of float32, shape (segments, classes)
        1 where the class is there, 0 where it is not or was not rated.
    rated : ndarray of bool, shape (segments, classes)
        Where `scores` counts; losses and metrics leave out the rest.
    """

    start_s: npt.NDArray[np.int32]
    end_s: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float32]
    rated: npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class SegmentRecord(FrameRecord):
    """The features of one video, and ratings of some of its segments, of five seconds each in the released files.

    Attributes
    ----------
    segment_labels : ndarray of int32, shape (ratings,)
        The class that was rated.
    segment_start_s, segment_end_s : ndarray of int32, shape (ratings,)
        In which seconds.
    segment_scores : ndarray of float32, shape (ratings,)
        Whether it is there: 1 or 0.
    """

    segment_labels: npt.NDArray[np.int32]
    segment_start_s: npt.NDArray[np.int32]
    segment_end_s: npt.NDArray[np.int32]
    segment_scores: npt.NDArray[np.float32]

    def ratings(self, num_classes: int = NUM_CLASSES) -> Ratings:
        """The ratings segment by segment.

        Raises
        ------
        OptionError
            A rated class is not below `num_classes`.
        """
        outside = self.segment_labels[(self.segment_labels < 0) | (self.segment_labels >= num_classes)]
        if outside.size:
            raise OptionError(
                f"num_classes: {num_classes}, but {self.video_id} has ratings of class {outside[0]}; expected more"
            )
        spans = np.stack((self.segment_start_s, self.segment_end_s), 1)
        unique, first, places = np.unique(spans, axis=0, return_index=True, return_inverse=True)
        order = np.argsort(first)
        rows = np.argsort(order)[places.reshape(-1)]
        scores = np.zeros((len(unique), num_classes), np.float32)
        rated = np.zeros(scores.shape, np.bool_)
        scores[rows, self.segment_labels] = self.segment_scores
        rated[rows, self.segment_labels] = True
        return Ratings(unique[order, 0], unique[order, 1], scores, rated)


@dataclass(frozen=True, eq=False)
class VideoRecord:
    """The means of one video's features.

    Attributes
    ----------
    video_id : str
        Its id.
    labels : ndarray of int32, shape (labels,)
        Indices of its classes, below 3,862.
    mean_rgb, mean_audio : ndarray of float32, shape (1024,) and (128,)
        Means over the de-quantized frames; (0,) where a file has none.
    """

    video_id: str
    labels: npt.NDArray[np.int32]
    mean_rgb: npt.NDArray[np.float32]
    mean_audio: npt.NDArray[np.float32]

    @property
    def embedding(self) -> npt.NDArray[np.float32]:
        """`mean_rgb` and `mean_audio` one after the other, float32 (1, 1152)."""
        return np.concatenate((self.mean_rgb, self.mean_audio))[np.newaxis]


Record: TypeAlias = FrameRecord | SegmentRecord | VideoRecord


@overload
def read_youtube8m(
    path: Source, level: Literal["frame"], *, on_damage: OnDamage | None = None
) -> Iterator[FrameRecord]: ...
@overload
def read_youtube8m(
    path: Source, level: Literal["segment"], *, on_damage: OnDamage | None = None
) -> Iterator[SegmentRecord]: ...
@overload
def read_youtube8m(
    path: Source, level: Literal["video"], *, on_damage: OnDamage | None = None
) -> Iterator[VideoRecord]: ...
@overload
def read_youtube8m(path: Source, level: None = None, *, on_damage: OnDamage | None = None) -> Iterator[Record]: ...
def read_youtube8m(
    path: Source, level: Level | None = None, *, on_damage: OnDamage | None = None
) -> Iterator[FrameRecord] | Iterator[SegmentRecord] | Iterator[VideoRecord] | Iterator[Record]:
    """The records of YouTube-8M, one by one.

    Parameters
    ----------
    path : path or sequence of paths
        Shards, folders, patterns or archives, as for `audioset.dataset.features.read_features`.
    level : {"frame", "segment", "video"}, optional
        What they hold; by default the first record says. "frame" reads segment files too, without the ratings.
    on_damage : callable, optional
        Called with a `Damage` for each thing that cannot be read, after which the rest goes on. By default the first
        damage raises.

    Raises
    ------
    OptionError
        There is no such level.
    RecordError
        At the call, when there is nothing at `path`; while iterating, at damage, unless `on_damage` is given. It names
        the file, the shard in an archive, and the byte.
    """
    if level is not None and level not in LEVELS:
        raise OptionError(f"level {level!r}: unknown; expected one of {', '.join(LEVELS)}")
    blocks = read_blocks(path, on_damage)

    def records() -> Iterator[Any]:
        known = level
        for block in blocks:
            for index in range(len(block.starts)):
                data = block.record(index)
                try:
                    known = known or level_of(data)
                    yield decode(data, known)
                except RecordError as error:
                    damage = block.damage(index, str(error))
                    if on_damage is None:
                        raise RecordError(str(damage)) from error
                    on_damage(damage)

    return records()


def write_youtube8m(path: str | os.PathLike[str], records: Iterable[Record]) -> int:
    """Write records of one level to a TFRecord file, whole or not at all, and return how many there are.

    TensorFlow parses them as YouTube-8M's own files: `tf.train.Example` at the level of videos, else
    `tf.train.SequenceExample`. `read_youtube8m` gives back equal records.

    Raises
    ------
    RecordError
        A record cannot be stored: arrays of another shape or type, records of several levels.
    OutputError
        The file cannot be written.
    """
    count = 0
    first: type | None = None
    with written_whole(Path(path)) as temporary, temporary.open("wb") as stream:
        for record in records:
            first = first or type(record)
            if type(record) is not first:
                raise RecordError(
                    f"{record.video_id}: a {type(record).__name__} after a {first.__name__}; "
                    "expected records of one level in a file. Write one file for each"
                )
            write_record(stream, encode(record))
            count += 1
    return count


def level_of(data: bytes) -> Level:
    """The level of a record, by the names of its features.

    Raises
    ------
    RecordError
        It is none of YouTube-8M's.
    """
    context, lists = _split(data)
    if lists.keys() & {"rgb", "audio"}:
        return "segment" if set(_RATINGS) & context.keys() else "frame"
    if context.keys() & {"mean_rgb", "mean_audio"}:
        return "video"
    raise RecordError(
        f"features {', '.join(sorted(context.keys() | lists.keys())) or 'none'}; expected rgb or audio, or mean_rgb or "
        "mean_audio, as in YouTube-8M. read_features reads AudioSet's"
    )


def decode(data: bytes, level: Level) -> Record:
    """A record's data as a record of this level, whatever encoder wrote it; `RecordError` if it is none."""
    context, lists = _split(data)
    name = _name(context)
    labels = _whole(name, context, "labels")
    if level == "video":
        means = [_floats(name, context, key) for key in ("mean_rgb", "mean_audio")]
        if not any(len(mean) for mean in means):
            raise RecordError(f"{name}: no mean_rgb and no mean_audio; expected a record at the level of videos")
        return VideoRecord(name, labels, *means)
    found = {key: _frames(name, key, lists[key]) for key in ("rgb", "audio") if key in lists}
    if not found:
        raise RecordError(f"{name}: no rgb and no audio; expected a record at the level of frames")
    counts = {key: len(frames) for key, frames in found.items()}
    if len(set(counts.values())) > 1:
        raise RecordError(f"{name}: {counts['rgb']} frames of rgb and {counts['audio']} of audio; expected as many")
    nothing = np.empty((next(iter(counts.values())), 0), np.uint8)
    rgb, audio = found.get("rgb", nothing), found.get("audio", nothing)
    if level == "frame":
        return FrameRecord(name, labels, rgb, audio)
    rated, starts, ends = (_whole(name, context, key) for key in _RATINGS[:3])
    scores = _floats(name, context, _RATINGS[3])
    if not len(rated) == len(starts) == len(scores) or len(ends) not in (0, len(starts)):
        found_lengths = zip((rated, starts, ends, scores), _RATINGS, strict=True)
        lengths = ", ".join(f"{len(values)} {key}" for values, key in found_lengths)
        raise RecordError(f"{name}: {lengths}; expected as many of each")
    return SegmentRecord(name, labels, rgb, audio, rated, starts, ends if len(ends) else starts + _SEGMENT_S, scores)


def encode(record: Record) -> bytes:
    """The data of one record, the same bytes for the same input; `RecordError` if it cannot be stored."""
    name = record.video_id
    try:
        context = {"id": bytes_feature(name.encode())}
    except UnicodeEncodeError as error:
        raise RecordError(f"{name!r}: video_id is not Unicode text; expected the id of a video") from error
    context["labels"] = int64_feature(_stored(record, "labels", "iu", 1).tolist())
    if isinstance(record, VideoRecord):
        for key in ("mean_rgb", "mean_audio"):
            values = _stored(record, key, "f", 1)
            if values.size:
                context[key] = float_feature(values)
        return _entries(1, context)
    lists = {key: _stored(record, key, "u", 2) for key in ("rgb", "audio")}
    if len(lists["rgb"]) != len(lists["audio"]):
        raise RecordError(
            f"{name}: {len(lists['rgb'])} frames of rgb and {len(lists['audio'])} of audio; expected as many"
        )
    if isinstance(record, SegmentRecord):
        columns = ("segment_labels", "segment_start_s", "segment_end_s")
        for key, column in zip(_RATINGS, columns, strict=False):
            context[key] = int64_feature(_stored(record, column, "iu", 1).tolist())
        context[_RATINGS[3]] = float_feature(_stored(record, "segment_scores", "f", 1))
    return _entries(1, context) + _entries(
        2, {key: _encoded_frames(frames) for key, frames in lists.items() if frames.shape[1]}
    )


def schema_of(record: Record) -> pa.Schema:
    """The Arrow schema of records like this one: that of AudioSet's features, other in the width of an embedding.

    An embedding is rgb and audio side by side. Segments have their ratings in further columns; videos have one frame,
    of float32. The metadata says all this.
    """
    level = _level(record)
    video = isinstance(record, VideoRecord)
    rgb, audio = (record.mean_rgb, record.mean_audio) if isinstance(record, VideoRecord) else (record.rgb, record.audio)
    widths = {"rgb": rgb.shape[-1], "audio": audio.shape[-1]}
    about = {
        "model": "youtube8m",
        "level": level,
        "embedding_dim": sum(widths.values()),
        "parts": widths,
        "regime": "pca" if video else "uint8",
        "dtype": "float32" if video else "uint8",
    }
    columns = list(FEATURES_SCHEMA)
    if level == "segment":
        types = (pa.int32(), pa.int32(), pa.int32(), pa.float32())
        columns += [pa.field(key, pa.list_(kind), nullable=False) for key, kind in zip(_COLUMNS, types, strict=True)]
    return pa.schema(columns, metadata={"audioset.features": json.dumps(about)})


def check_widths(record: Record, schema: pa.Schema) -> None:
    """Raise RecordError if a record's arrays are not as wide as those that the schema was made for."""
    found, expected = (
        json.loads(which.metadata[b"audioset.features"])["parts"] for which in (schema_of(record), schema)
    )
    if found != expected:
        raise RecordError(f"{record.video_id}: {found} values a frame; expected {expected}, as in the first record")


def batch_of(records: Sequence[Record], schema: pa.Schema) -> pa.RecordBatch:
    """Records as rows of their schema."""
    frames = [len(record.embedding) for record in records]
    video = bool(records) and isinstance(records[0], VideoRecord)
    columns: list[Any] = [
        [record.video_id for record in records],
        [0.0] * len(records),
        # The length of a video is unknown where there are means only.
        [float("nan") if video else float(count) for count in frames],
        [record.labels for record in records],
        frames,
        [record.embedding.tobytes() for record in records],
    ]
    columns += [[getattr(record, key) for record in records] for key in _COLUMNS if key in schema.names]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def records_of(batch: pa.RecordBatch) -> Iterator[Record]:
    """The inverse of `batch_of`."""
    about = json.loads(batch.schema.metadata[b"audioset.features"])
    at = about["parts"]["rgb"]
    for row in batch.to_pylist():
        name, labels = row["video_id"], np.array(row["labels"], np.int32)
        frames = np.frombuffer(row["embedding"], about["dtype"]).reshape(row["num_frames"], about["embedding_dim"])
        if about["level"] == "video":
            yield VideoRecord(name, labels, frames[0, :at], frames[0, at:])
        elif about["level"] == "frame":
            yield FrameRecord(name, labels, frames[:, :at], frames[:, at:])
        else:
            rated, starts, ends = (np.array(row[key], np.int32) for key in _COLUMNS[:3])
            scores = np.array(row[_COLUMNS[3]], np.float32)
            yield SegmentRecord(name, labels, frames[:, :at], frames[:, at:], rated, starts, ends, scores)


def _level(record: Record) -> Level:
    if isinstance(record, VideoRecord):
        return "video"
    return "segment" if isinstance(record, SegmentRecord) else "frame"


def _split(data: bytes) -> tuple[Mapping[str, Feature], dict[str, memoryview]]:
    """The context, decoded, and the feature lists by name, not decoded: these are most of the bytes."""
    context = bytearray()
    lists: dict[str, memoryview] = {}
    try:
        for number, value in fields(memoryview(data)):
            if number == 1:
                context += message(1, bytes(as_bytes(value)))
            elif number == 2:
                for _, entry in fields(as_bytes(value)):
                    parts = dict(fields(as_bytes(entry)))
                    lists[as_text(parts.get(1, _NOTHING))] = as_bytes(parts.get(2, _NOTHING))
    except Malformed as error:
        raise RecordError(f"not a tf.train.SequenceExample or Example: {error}; expected one in each record") from error
    return decode_example(bytes(context)).context, lists


def _frames(name: str, key: str, encoded: memoryview) -> npt.NDArray[np.uint8]:
    """The strings of a feature list, of equal length, as rows."""
    if not encoded:
        return np.empty((0, RGB_DIM if key == "rgb" else AUDIO_DIM), np.uint8)
    rows = _equal_frames(encoded)
    if rows is not None:
        return rows
    features = decode_example(message(2, map_entry(key, bytes(encoded)))).feature_lists[key]
    strings = [value for feature in features for value in feature if len(feature) == 1 and isinstance(value, bytes)]
    if len(strings) != len(features) or len(set(map(len, strings))) > 1:
        raise RecordError(f"{name}: frames of {key} differ in kind or length; expected one string of bytes each")
    return np.frombuffer(b"".join(strings), np.uint8).reshape(len(strings), -1)


def _equal_frames(encoded: memoryview) -> npt.NDArray[np.uint8] | None:
    """The strings, if all are stored as the first is; else None.

    A list of strings is, for each: the tag and length of the feature, of the list in it and of the string in that.
    """
    dim = at = 0
    try:
        for _ in range(3):
            if encoded[at] != _TAG:
                return None
            dim, at = read_varint(encoded, at + 1)
    except (IndexError, Malformed):
        return None
    if not dim or len(encoded) % (at + dim):
        return None
    rows = np.frombuffer(encoded, np.uint8).reshape(-1, at + dim)
    expected = np.frombuffer(message(1, bytes_feature(bytes(dim))), np.uint8)[:at]
    if not np.array_equal(rows[:, :at], np.broadcast_to(expected, (len(rows), at))):
        return None
    return np.ascontiguousarray(rows[:, at:])


def _encoded_frames(frames: npt.NDArray[np.uint8]) -> bytes:
    # Every frame is a message of the same length, so one header serves all.
    header = np.frombuffer(message(1, bytes_feature(bytes(frames.shape[1]))), np.uint8)[: -frames.shape[1]]
    return np.hstack((np.broadcast_to(header, (len(frames), len(header))), frames)).tobytes()


def _entries(number: int, values: Mapping[str, bytes]) -> bytes:
    return message(number, b"".join(map_entry(key, values[key]) for key in sorted(values)))


def _name(context: Mapping[str, Feature]) -> str:
    found = context.get("id", context.get("video_id"))
    if found is None or len(found) != 1 or not isinstance(found[0], bytes):
        raise RecordError(f"no id and no video_id of one string among {', '.join(sorted(context)) or 'no features'}")
    try:
        return found[0].decode()
    except UnicodeDecodeError as error:
        raise RecordError(f"id {found[0]!r} is not UTF-8; expected text") from error


def _whole(name: str, context: Mapping[str, Feature], key: str) -> npt.NDArray[np.int32]:
    found = context.get(key, ())
    array = np.asarray(found, np.int64) if len(found) == 0 else np.asarray(found)
    if array.dtype != np.int64 or not np.array_equal(array, array.astype(np.int32)):
        raise RecordError(f"{name}: {key} are {array.dtype} {array[:3]}; expected integers within 32 bits")
    return array.astype(np.int32)


def _floats(name: str, context: Mapping[str, Feature], key: str) -> npt.NDArray[np.float32]:
    found = context.get(key, ())
    array = np.asarray(found, np.float32) if len(found) == 0 else np.asarray(found)
    if array.dtype != np.float32:
        raise RecordError(f"{name}: {key} are {array.dtype}; expected floats")
    return array


def _stored(record: Record, key: str, kinds: str, ndim: int) -> npt.NDArray[Any]:
    """One of the record's arrays, if it is of this kind."""
    values = np.asarray(getattr(record, key))
    expected = {"iu": "32-bit integers", "u": "uint8", "f": "float32"}[kinds]
    right = values.dtype.kind in kinds or (kinds == "iu" and values.size == 0)
    right &= kinds != "u" or values.dtype == np.uint8
    if kinds == "f":
        right &= values.dtype == np.float32
    if kinds == "iu" and right:
        right = bool(np.array_equal(values, values.astype(np.int32)))
    if values.ndim != ndim or not right:
        raise RecordError(
            f"{record.video_id}: {key} is {values.dtype} of shape {values.shape}; expected {expected} of {ndim} axes"
        )
    return values

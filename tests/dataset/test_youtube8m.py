"""YouTube-8M's records: the bytes that TensorFlow writes, at all three levels, and what is wrong with others."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audioset.dataset.features import Damage
from audioset.dataset.youtube8m import (
    FrameRecord,
    Record,
    SegmentRecord,
    VideoRecord,
    batch_of,
    decode,
    encode,
    level_of,
    read_youtube8m,
    records_of,
    schema_of,
    write_youtube8m,
)
from audioset.errors import OptionError, RecordError

from ._released import bytes_feature, framed, frames_list, labels_feature, random_records, shard
from ._released import encode as example

# Made once by TensorFlow 2.21, SerializeToString(deterministic=True) of messages with the values of RECORDS below.
FRAME = bytes.fromhex(
    "0a230a0e0a02696412080a060a04655862460a110a066c6162656c7312071a050a0303951e12320a170a05617564696f120e0a050a030a"
    "01070a050a030a01080a170a0372676212100a060a040a0200010a060a040a0202ff"
)
SEGMENT = bytes.fromhex(
    "0aa1010a0e0a02696412080a060a04655862460a110a066c6162656c7312071a050a0303951e0a1c0a117365676d656e745f656e645f74"
    "696d657312071a050a0341411e0a1a0a0e7365676d656e745f6c6162656c7312081a060a0403ac02030a220a0e7365676d656e745f7363"
    "6f7265731210120e0a0c0000803f000000000000003f0a1e0a137365676d656e745f73746172745f74696d657312071a050a033c3c1912"
    "320a170a05617564696f120e0a050a030a01070a050a030a01080a170a0372676212100a060a040a0200010a060a040a0202ff"
)
VIDEO = bytes.fromhex(
    "0a550a0e0a02696412080a060a04655862460a110a066c6162656c7312071a050a0303951e0a160a0a6d65616e5f617564696f12081206"
    "0a04000000400a180a086d65616e5f726762120c120a0a080000803e0000c0bf"
)
_LABELS = np.array([3, 3861], np.int32)
_FRAMES = (np.array([[0, 1], [2, 255]], np.uint8), np.array([[7], [8]], np.uint8))
_RATINGS = (
    *(np.array(values, np.int32) for values in ([3, 300, 3], [60, 60, 25], [65, 65, 30])),
    np.array([1, 0, 0.5], np.float32),
)
RECORDS: dict[str, tuple[bytes, Record]] = {
    "frame": (FRAME, FrameRecord("eXbF", _LABELS, *_FRAMES)),
    "segment": (SEGMENT, SegmentRecord("eXbF", _LABELS, *_FRAMES, *_RATINGS)),
    "video": (VIDEO, VideoRecord("eXbF", _LABELS, np.array([0.25, -1.5], np.float32), np.array([2], np.float32))),
}
levels = pytest.mark.parametrize("level", RECORDS)


def assert_equal(found: Record, expected: Record) -> None:
    assert type(found) is type(expected)
    for field in fields(expected):
        one, other = getattr(found, field.name), getattr(expected, field.name)
        np.testing.assert_array_equal(one, other, strict=isinstance(other, np.ndarray))


def some(rng: np.random.Generator, level: str, count: int) -> list[Record]:
    """Records of full width."""
    records: list[Record] = []
    for index in range(count):
        num_frames = int(rng.integers(1, 301)) if index else 300
        about = (f"v{index:03d}", rng.integers(0, 3862, 3, np.int32))
        rgb, audio = (rng.integers(0, 256, (num_frames, width), np.uint8) for width in (1024, 128))
        starts = rng.integers(0, 290, 5, np.int32)
        ratings = (rng.integers(0, 3862, 5, np.int32), starts, starts + 5, rng.integers(0, 2, 5).astype(np.float32))
        if level == "video":
            records.append(VideoRecord(*about, *(rng.standard_normal(width, np.float32) for width in (1024, 128))))
        elif level == "segment":
            records.append(SegmentRecord(*about, rgb, audio, *ratings))
        else:
            records.append(FrameRecord(*about, rgb, audio))
    return records


@levels
def test_a_record_of_tensorflow_is_read(level: Any) -> None:
    data, record = RECORDS[level]
    assert level_of(data) == level
    assert_equal(decode(data, level), record)


@levels
def test_a_record_has_the_bytes_that_tensorflow_writes(level: str) -> None:
    data, record = RECORDS[level]
    assert encode(record) == data


@levels
def test_what_is_written_reads_back(level: str, rng: np.random.Generator, tmp_path: Path) -> None:
    records = some(rng, level, 5)
    assert write_youtube8m(tmp_path / "x.tfrecord", records) == 5
    found = list(read_youtube8m(tmp_path / "x.tfrecord"))
    assert len(found) == 5
    for one, other in zip(found, records, strict=True):
        assert_equal(one, other)


@levels
def test_rows_of_arrow_become_the_same_records(level: str, rng: np.random.Generator) -> None:
    records = some(rng, level, 4)
    batch = batch_of(records, schema_of(records[0]))
    batch.validate(full=True)
    for one, other in zip(records_of(batch), records, strict=True):
        assert_equal(one, other)


def test_the_id_may_be_called_video_id() -> None:
    data = FRAME.replace(b"\x0a\x23\x0a\x0e\x0a\x02id", b"\x0a\x29\x0a\x14\x0a\x08video_id")
    assert decode(data, "frame").video_id == "eXbF"


def test_a_file_without_audio_has_no_columns_of_it() -> None:
    data = example({"id": bytes_feature(b"x")}, {"rgb": frames_list([b"ab", b"cd", b"ef"])})
    record = decode(data, "frame")
    assert isinstance(record, FrameRecord)
    assert (record.rgb.shape, record.audio.shape, record.embedding.shape) == ((3, 2), (3, 0), (3, 2))
    assert encode(record) == example(
        {"id": bytes_feature(b"x"), "labels": b"\x1a\x00"}, {"rgb": frames_list([b"ab", b"cd", b"ef"])}
    )


def test_a_video_without_frames_is_read() -> None:
    record = decode(example({"id": bytes_feature(b"x")}, {"rgb": b"", "audio": b""}), "frame")
    assert isinstance(record, FrameRecord)
    assert (record.rgb.shape, record.audio.shape) == ((0, 1024), (0, 128))


def test_frames_of_another_encoding_are_the_same() -> None:
    # Lengths in more bytes than they need: legal, and not how TensorFlow writes.
    odd = b"".join(b"\x0a\x86\x00" + bytes_feature(frame) for frame in (b"ab", b"cd"))
    plain = frames_list([b"ab", b"cd"])
    assert odd != plain
    found, expected = (decode(example({"id": bytes_feature(b"x")}, {"rgb": lists}), "frame") for lists in (odd, plain))
    assert_equal(found, expected)


def test_components_are_those_of_youtube8ms_reader(rng: np.random.Generator) -> None:
    (record,) = some(rng, "frame", 1)
    assert isinstance(record, FrameRecord)
    expected = np.hstack((record.rgb, record.audio)).astype(np.float64) * (4 / 255) + 4 / 512 - 2
    np.testing.assert_allclose(record.components(), expected, atol=1e-6)
    assert record.components().shape == (300, 1152)


def test_ratings_are_by_segment_with_a_mask() -> None:
    record = RECORDS["segment"][1]
    assert isinstance(record, SegmentRecord)
    found = record.ratings()
    assert (found.start_s.tolist(), found.end_s.tolist()) == ([60, 25], [65, 30])
    assert found.scores.shape == found.rated.shape == (2, 3862)
    assert list(zip(*np.nonzero(found.rated), strict=True)) == [(0, 3), (0, 300), (1, 3)]
    assert found.scores[found.rated].tolist() == [1, 0, 0.5]
    assert not found.scores[~found.rated].any()


def test_ratings_of_a_class_that_is_not_there_are_refused() -> None:
    record = RECORDS["segment"][1]
    assert isinstance(record, SegmentRecord)
    with pytest.raises(OptionError, match="num_classes: 300, but eXbF has ratings of class 300; expected more"):
        record.ratings(300)


def test_a_video_that_nobody_rated_has_no_segments() -> None:
    record = decode(FRAME, "segment")
    assert isinstance(record, SegmentRecord)
    assert record.ratings().scores.shape == (0, 3862)


def test_segments_are_read_as_frames_when_asked(tmp_path: Path) -> None:
    (tmp_path / "x.tfrecord").write_bytes(framed([SEGMENT, FRAME]))
    assert [type(record) for record in read_youtube8m(tmp_path / "x.tfrecord", "frame")] == [FrameRecord] * 2
    assert [type(record) for record in read_youtube8m(tmp_path / "x.tfrecord")] == [SegmentRecord] * 2


def test_a_bad_record_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    other = example({"id": bytes_feature(b"x")}, {"rgb": frames_list([b"ab"]), "audio": frames_list([b"c", b"d"])})
    path = tmp_path / "x.tfrecord"
    path.write_bytes(framed([FRAME, other, FRAME]))
    at = len(FRAME) + 16
    damages: list[Damage] = []
    assert len(list(read_youtube8m(path, on_damage=damages.append))) == 2
    reason = f"the record at byte {at:,}: x: 1 frames of rgb and 2 of audio; expected as many"
    assert damages == [Damage(str(path), None, at, reason)]
    records = read_youtube8m(path)
    assert_equal(next(records), RECORDS["frame"][1])
    with pytest.raises(RecordError, match=rf"x\.tfrecord: {reason}"):
        next(records)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x0b", "not a tf.train.SequenceExample or Example: a field of unknown wire type 3"),
        (example({"labels": labels_feature([1])}, {"rgb": b""}), "no id and no video_id of one string among labels"),
        (example({"id": bytes_feature(b"\xff")}, {"rgb": b""}), r"id b'\\xff' is not UTF-8"),
        (example({"id": bytes_feature(b"x")}, {"rgb": frames_list([b"a", b"bc"])}), "frames of rgb differ in kind or"),
        (example({"id": bytes_feature(b"x"), "labels": bytes_feature(b"y")}, {"rgb": b""}), "x: labels are .*; expect"),
        (example({"id": bytes_feature(b"x"), "labels": labels_feature([2**40])}, {"rgb": b""}), "within 32 bits"),
        (VIDEO, "eXbF: no rgb and no audio; expected a record at the level of frames"),
    ],
)
def test_what_is_no_record_of_frames_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(RecordError, match=reason):
        decode(data, "frame")


def test_frames_are_no_record_of_a_video() -> None:
    with pytest.raises(RecordError, match="eXbF: no mean_rgb and no mean_audio; expected a record at the level of vid"):
        decode(FRAME, "video")


def test_ratings_of_different_numbers_are_refused() -> None:
    data = example({"id": bytes_feature(b"x"), "segment_labels": labels_feature([1, 2])}, {"rgb": b""})
    with pytest.raises(RecordError, match="2 segment_labels, 0 segment_start_times, 0 segment_end_times, 0 segment_sc"):
        decode(data, "segment")


def test_records_of_audioset_are_refused_by_name(rng: np.random.Generator, tmp_path: Path) -> None:
    (tmp_path / "x.tfrecord").write_bytes(shard(random_records(rng, 1)))
    with pytest.raises(
        RecordError, match=r"features audio_embedding, end_.*; expected rgb or audio, or mean_rgb or mea"
    ):
        next(read_youtube8m(tmp_path / "x.tfrecord"))


def test_an_unknown_level_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="level 'clip': unknown; expected one of frame, segment, video"):
        read_youtube8m(tmp_path, "clip")  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"rgb": np.zeros((2, 2))}, r"eXbF: rgb is float64 of shape \(2, 2\); expected uint8 of 2 axes"),
        ({"audio": np.zeros((3, 1), np.uint8)}, "eXbF: 2 frames of rgb and 3 of audio; expected as many"),
        ({"labels": np.array([2**40])}, r"eXbF: labels is int64 of shape \(1,\); expected 32-bit integers of 1 axes"),
        ({"video_id": "\udc80"}, "video_id is not Unicode text"),
    ],
)
def test_what_cannot_be_stored_is_refused(change: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=reason):
        write_youtube8m(tmp_path / "x.tfrecord", [replace(RECORDS["frame"][1], **change)])
    assert not list(tmp_path.iterdir())


def test_a_file_holds_records_of_one_level(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="eXbF: a VideoRecord after a FrameRecord; expected records of one level"):
        write_youtube8m(tmp_path / "x.tfrecord", [RECORDS["frame"][1], RECORDS["video"][1]])


READ_WITH_TENSORFLOW = """
import sys, numpy as np, tensorflow as tf
folder = sys.argv[1]
whole, real = tf.io.VarLenFeature(tf.int64), tf.io.VarLenFeature(tf.float32)
context = {"id": tf.io.FixedLenFeature([], tf.string), "labels": whole, "segment_labels": whole,
           "segment_start_times": whole, "segment_end_times": whole, "segment_scores": real}
lists = {key: tf.io.FixedLenSequenceFeature([], tf.string) for key in ("rgb", "audio")}
found = {}
for level in ("frame", "segment"):
    for at, record in enumerate(tf.data.TFRecordDataset(f"{folder}/{level}.tfrecord")):
        about, sequences = tf.io.parse_single_sequence_example(record, context, lists)
        for key in lists:
            found[f"{level}/{at}/{key}"] = tf.io.decode_raw(sequences[key], tf.uint8).numpy()
        for key in context.keys() - {"id"}:
            found[f"{level}/{at}/{key}"] = about[key].values.numpy()
means = {"id": context["id"], "labels": whole, "mean_rgb": tf.io.FixedLenFeature([1024], tf.float32),
         "mean_audio": tf.io.FixedLenFeature([128], tf.float32)}
for at, record in enumerate(tf.data.TFRecordDataset(f"{folder}/video.tfrecord")):
    about = tf.io.parse_single_example(record, means)
    found[f"video/{at}/labels"] = about["labels"].values.numpy()
    for key in ("mean_rgb", "mean_audio"):
        found[f"video/{at}/{key}"] = about[key].numpy()
np.savez(f"{folder}/found.npz", **found)
"""


@pytest.mark.slow
def test_tensorflow_parses_what_is_written(rng: np.random.Generator, tmp_path: Path) -> None:
    interpreter = os.environ.get("AUDIOSET_TEST_TENSORFLOW", sys.executable)
    if subprocess.run([interpreter, "-c", "import tensorflow"], capture_output=True).returncode:
        pytest.skip("no TensorFlow; set AUDIOSET_TEST_TENSORFLOW to a Python interpreter that has it")
    written = {level: some(rng, level, 3) for level in RECORDS}
    for level, records in written.items():
        write_youtube8m(tmp_path / f"{level}.tfrecord", records)
    subprocess.run([interpreter, "-c", READ_WITH_TENSORFLOW, tmp_path], check=True, capture_output=True, timeout=300)
    columns = {"segment_start_times": "segment_start_s", "segment_end_times": "segment_end_s"}
    with np.load(tmp_path / "found.npz", allow_pickle=False) as found:
        assert len(found.files) == 3 * (7 + 7 + 3)
        for name in found.files:
            level, at, key = name.split("/")
            expected = getattr(written[level][int(at)], columns.get(key, key), np.empty(0))
            np.testing.assert_array_equal(found[name], expected)

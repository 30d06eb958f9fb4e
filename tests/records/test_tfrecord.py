"""TFRecord files: the same bytes as TensorFlow writes, every record of it read, and damage found."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from audioset.errors import RecordError
from audioset.records import JobInfo, read_tfrecord
from audioset.records.tfrecord import audio_record, decode_example, write_record

from .conftest import make_clips, write

FRAMES = np.array([[0, 1, 2], [253, 254, 255]], np.uint8)
# Made once by TensorFlow 2.21: tf.io.TFRecordWriter and SerializeToString(deterministic=True) of a SequenceExample with
# video_id "rain", start 0, end 1.92, no labels and FRAMES as audio_embedding.
TENSORFLOWS = bytes.fromhex(
    "8d000000000000003f0f80610a620a1c0a10656e645f74696d655f7365636f6e6473120812060a048fc2f53f0a0c0a066c6162656c731202"
    "1a000a1e0a1273746172745f74696d655f7365636f6e6473120812060a04000000000a140a08766964656f5f696412080a060a047261696e"
    "12270a250a0f617564696f5f656d62656464696e6712120a070a050a030001020a070a050a03fdfeff2f1d4b8c"
)
# Likewise: labels 0, -1, 300 and 2**62 as the one feature.
TENSORFLOWS_NUMBERS = bytes.fromhex("0a260a240a066c6162656c73121a1a180a1600ffffffffffffffffff01ac02808080808080808040")


@pytest.fixture
def rain(tmp_path: Path) -> Path:
    path = tmp_path / "rain.tfrecord"
    path.write_bytes(TENSORFLOWS * 2)
    return path


def test_a_record_has_the_bytes_that_tensorflow_writes(tmp_path: Path) -> None:
    with (tmp_path / "one.tfrecord").open("wb") as stream:
        write_record(stream, audio_record("rain", 0.0, 1.92, FRAMES))
    assert (tmp_path / "one.tfrecord").read_bytes() == TENSORFLOWS


def test_what_tensorflow_wrote_reads_back(rain: Path) -> None:
    first, second = read_tfrecord(rain)
    assert first == second
    example = decode_example(first)
    assert example.context["video_id"] == [b"rain"]
    np.testing.assert_array_equal(example.context["end_time_seconds"], np.array([1.92], np.float32))
    assert [feature[0] for feature in example.feature_lists["audio_embedding"]] == [bytes(row) for row in FRAMES]


def test_negative_and_large_numbers_read_back() -> None:
    example = decode_example(TENSORFLOWS_NUMBERS)
    np.testing.assert_array_equal(example.context["labels"], [0, -1, 300, 2**62])


def test_numbers_that_are_not_packed_read_back() -> None:
    feature = b"\x12\x05\x0d\x00\x00\x80\x3f"  # float_list { value: 1.0 }, without packing
    labels = b"\x1a\x05\x08\x01\x08\xac\x02"  # int64_list { value: 1 value: 300 }
    entry = b"".join(
        b"\x0a" + bytes([len(body)]) + body
        for body in (
            b"\x0a\x01a\x12" + bytes([len(feature)]) + feature,
            b"\x0a\x01b\x12" + bytes([len(labels)]) + labels,
        )
    )
    example = decode_example(b"\x0a" + bytes([len(entry)]) + entry)
    assert example.context["a"].tolist() == [1.0]
    assert example.context["b"].tolist() == [1, 300]


def test_no_records_in_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty.tfrecord").touch()
    assert list(read_tfrecord(tmp_path / "empty.tfrecord")) == []


@pytest.mark.parametrize("kept", [1, 11, 12, 50, 152, 156])
def test_a_file_cut_short_is_named_with_the_byte(rain: Path, kept: int) -> None:
    rain.write_bytes(rain.read_bytes()[: len(TENSORFLOWS) + kept])
    records = read_tfrecord(rain)
    assert len(next(records)) == len(TENSORFLOWS) - 16
    with pytest.raises(
        RecordError, match=rf"rain\.tfrecord: ends within the record at byte {len(TENSORFLOWS)}: {kept} bytes"
    ):
        next(records)


@pytest.mark.parametrize(("at", "part"), [(0, "length"), (9, "length"), (12, "data"), (100, "data"), (155, "data")])
def test_a_flipped_bit_is_found(rain: Path, at: int, part: str) -> None:
    damaged = bytearray(rain.read_bytes())
    damaged[len(TENSORFLOWS) + at] ^= 1
    rain.write_bytes(damaged)
    with pytest.raises(RecordError, match=rf"checksum of the {part} of the record at byte {len(TENSORFLOWS)} differs"):
        list(read_tfrecord(rain))


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.tfrecord").write_text("created,2017-03-03 and more of a csv file")
    with pytest.raises(RecordError, match=r"x\.tfrecord: the checksum of the length of the record at byte 0 differs"):
        next(read_tfrecord(tmp_path / "x.tfrecord"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"gone\.tfrecord: cannot be read \(No such file"):
        next(read_tfrecord(tmp_path / "gone.tfrecord"))


@settings(deadline=None, derandomize=True)
@given(st.binary(max_size=60))
def test_bytes_of_no_message_raise_nothing_but_a_record_error(data: bytes) -> None:
    with suppress(RecordError):
        decode_example(data)


@pytest.mark.parametrize("data", [b"\x0a\x05abc", b"\x0b", b"\x0a", b"\xff" * 12])
def test_bytes_of_no_message_are_refused(data: bytes) -> None:
    with pytest.raises(RecordError, match=r"not a tf\.train\.SequenceExample: .*; expected one in each record"):
        decode_example(data)


@settings(deadline=None, derandomize=True)
@given(
    st.text(max_size=300),
    st.floats(0, 2**24, width=32),
    st.floats(0, 2**24, width=32),
    hnp.arrays(np.uint8, st.tuples(st.integers(1, 3), st.sampled_from([1, 3, 128, 200]))),
)
def test_any_record_reads_back(video_id: str, start_s: float, end_s: float, frames: np.ndarray) -> None:
    found = decode_example(audio_record(video_id, start_s, end_s, frames))
    assert found.context["video_id"] == [video_id.encode()]
    np.testing.assert_array_equal(found.context["start_time_seconds"], np.float32([start_s]), strict=True)
    np.testing.assert_array_equal(found.context["end_time_seconds"], np.float32([end_s]), strict=True)
    np.testing.assert_array_equal(found.context["labels"], np.empty(0, np.int64), strict=True)
    assert found.feature_lists == {"audio_embedding": [[bytes(row)] for row in frames]}


def test_a_real_shard_reads_back_when_rewritten(data_dir: Path, tmp_path: Path) -> None:
    records = list(read_tfrecord(data_dir / "audioset/features/rm.tfrecord"))
    assert len(records) == 328
    with (tmp_path / "again.tfrecord").open("wb") as stream:
        for record in records:
            write_record(stream, record)
    assert (tmp_path / "again.tfrecord").read_bytes() == (data_dir / "audioset/features/rm.tfrecord").read_bytes()


def test_a_record_of_a_real_shard_differs_from_ours_in_its_labels_only(data_dir: Path) -> None:
    for record in read_tfrecord(data_dir / "audioset/features/rm.tfrecord"):
        first = decode_example(record)
        assert sorted(first.context) == ["end_time_seconds", "labels", "start_time_seconds", "video_id"]
        frames = np.array([np.frombuffer(feature[0], np.uint8) for feature in first.feature_lists["audio_embedding"]])
        start_s, end_s = (float(first.context[f"{which}_time_seconds"][0]) for which in ("start", "end"))
        second = decode_example(audio_record(first.context["video_id"][0].decode(), start_s, end_s, frames))
        assert second.feature_lists == first.feature_lists
        for key, feature in second.context.items():
            assert len(first.context["labels"])
            assert key == "labels" or feature == first.context[key]


READ_WITH_TENSORFLOW = """
import sys, numpy as np, tensorflow as tf
number = tf.io.FixedLenFeature([], tf.float32)
context = {"video_id": tf.io.FixedLenFeature([], tf.string), "start_time_seconds": number,
           "end_time_seconds": number, "labels": tf.io.VarLenFeature(tf.int64)}
lists = {"audio_embedding": tf.io.FixedLenSequenceFeature([], tf.string)}
ids, spans, frames = [], [], []
for record in tf.data.TFRecordDataset(sys.argv[1]):
    found, sequences = tf.io.parse_single_sequence_example(record, context, lists)
    values = tf.io.decode_raw(sequences["audio_embedding"], tf.uint8).numpy()
    assert not len(found["labels"].values)
    ids += [found["video_id"].numpy().decode()] * len(values)
    spans.append([found["start_time_seconds"].numpy(), found["end_time_seconds"].numpy()])
    frames.append(values)
np.savez(sys.argv[2], ids=ids, spans=spans, frames=np.concatenate(frames))
"""


@pytest.mark.slow
def test_tensorflow_reads_what_is_written(quantized: JobInfo, tmp_path: Path) -> None:
    interpreter = os.environ.get("AUDIOSET_TEST_TENSORFLOW")
    if not interpreter:
        pytest.skip("set AUDIOSET_TEST_TENSORFLOW to a Python interpreter that has TensorFlow")
    clips = make_clips(quantized, [10, 1, 300])
    write(tmp_path / "out.tfrecord", quantized, clips, format="tfrecord")
    command = [interpreter, "-c", READ_WITH_TENSORFLOW, tmp_path / "out.tfrecord", tmp_path / "found.npz"]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    with np.load(tmp_path / "found.npz", allow_pickle=False) as found:
        assert found["ids"].tolist() == [Path(clip.file).stem for clip in clips for _ in clip.values]
        np.testing.assert_array_equal(found["frames"], np.concatenate([clip.values for clip in clips]))
        spans = [[clip.start_s[0], clip.end_s[-1]] for clip in clips]
        np.testing.assert_array_equal(found["spans"], np.array(spans, np.float32))

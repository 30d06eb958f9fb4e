"""Every format gives back the rows that went in, the same bytes for the same job, and says what it cannot hold."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from audioset.errors import OptionError
from audioset.records import FORMATS, JobInfo, JobWriter, format_of, parts, read_tfrecord
from audioset.records import job as job_module
from audioset.records.formats import encode_csv, encode_jsonl
from audioset.records.tfrecord import decode_example

from .conftest import Clip, add, make_clips, write

ODD_NAMES = [
    'a, "b".wav',
    "two\nlines\r.wav",
    "Ünïcode 音.wav",
    " spaces .wav",
    "-start.wav",
    "back\\slash.wav",
    "=1+1.wav",
]


def rows_of(path: Path, format: str) -> tuple[list[str] | None, np.ndarray]:  # noqa: A002
    """Names (where the format has them) and values of every row, by the plainest reader."""
    if format == "parquet":
        table = pq.read_table(path)
        return table.column("file").to_pylist(), np.array(table.column("embedding").to_pylist())
    if format == "npz":
        with np.load(path, allow_pickle=False) as archive:
            return list(archive["files"][archive["file_index"]]), archive["embedding"]
    if format == "npy":
        return None, np.load(path, allow_pickle=False)
    if format == "csv":
        with path.open(newline="", encoding="utf-8") as stream:
            lines = list(csv.DictReader(stream))
        values = [[float(line[f"e{i}"]) for i in range(len(lines[0]) - 3)] for line in lines]
        return [line["file"] for line in lines], np.array(values)
    if format == "jsonl":
        found = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
        return [row["file"] for row in found], np.array([row["embedding"] for row in found])
    names, frames = [], []
    for record in read_tfrecord(path):
        example = decode_example(record)
        for feature in example.feature_lists["audio_embedding"]:
            names.append(example.context["video_id"][0].decode())
            frames.append(np.frombuffer(feature[0], np.uint8))
    return names, np.array(frames)


@pytest.mark.parametrize(
    ("format", "dtype"),
    [
        (name, dtype)
        for name in FORMATS
        for dtype in ("float32", "uint8")
        if dtype == "uint8" or not FORMATS[name].quantized
    ],
)
def test_every_format_gives_back_what_went_in(
    format: str,  # noqa: A002
    dtype: str,
    info: JobInfo,
    quantized: JobInfo,
    tmp_path: Path,
) -> None:
    job = info if dtype == "float32" else quantized
    clips = make_clips(job, [3, 1, 0, 5])
    out = tmp_path / f"out{FORMATS[format].extensions[0]}"
    write(out, job, clips, format=format)
    names, values = rows_of(out, format)
    np.testing.assert_array_equal(values.astype(dtype), np.concatenate([clip.values for clip in clips]))
    if names is not None:
        expected = [clip.file if format != "tfrecord" else Path(clip.file).stem for clip in clips for _ in clip.values]
        assert names == expected


@pytest.mark.parametrize("format", FORMATS)
def test_a_job_without_rows_is_a_valid_file(format: str, quantized: JobInfo, tmp_path: Path) -> None:  # noqa: A002
    out = tmp_path / "out"
    with JobWriter(out, quantized, format=format) as writer:
        writer.fail("folder/bad.wav", "no audio stream")
        summary = writer.finish()
    assert (summary.files, summary.rows, len(summary.failures)) == (0, 0, 1)
    if format not in ("csv", "jsonl", "tfrecord"):
        assert rows_of(out, format)[1].shape[0] == 0
    else:
        assert out.read_bytes() == (b"file,start_s,end_s,e0,e1,e2,e3\n" if format == "csv" else b"")


@pytest.mark.parametrize("format", FORMATS)
def test_the_same_rows_give_the_same_bytes_however_they_were_spread_over_parts(
    format: str,  # noqa: A002
    quantized: JobInfo,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parts, "MAX_ROW_GROUP_ROWS", 7)
    clips = make_clips(quantized, [3, 1, 12, 0, 5, 8])
    write(tmp_path / "one", quantized, clips, format=format)
    monkeypatch.setattr(job_module, "FLUSH_BYTES", 1)
    monkeypatch.setattr(parts, "BATCH_ROWS", 2)
    write(tmp_path / "many", quantized, clips, format=format)
    assert (tmp_path / "many").read_bytes() == (tmp_path / "one").read_bytes()


@pytest.mark.parametrize("format", ["parquet", "npz", "csv", "jsonl", "tfrecord"])
def test_odd_names_survive(format: str, quantized: JobInfo, tmp_path: Path) -> None:  # noqa: A002
    clips = [replace(clip, file=name) for clip, name in zip(make_clips(quantized, [2] * 7), ODD_NAMES, strict=True)]
    write(tmp_path / "out", quantized, clips, format=format)
    names = rows_of(tmp_path / "out", format)[0]
    expected = [Path(name).stem for name in ODD_NAMES] if format == "tfrecord" else ODD_NAMES
    assert names == [name for name in expected for _ in range(2)]


@pytest.mark.parametrize("format", FORMATS)
def test_undecodable_names_are_written_out(format: str, quantized: JobInfo, tmp_path: Path) -> None:  # noqa: A002
    clips = [replace(make_clips(quantized, [1])[0], file="caf\udce9.wav")]
    write(tmp_path / "out", quantized, clips, format=format)
    names = rows_of(tmp_path / "out", format)[0]
    if names is not None:
        assert names == [r"caf\udce9" if format == "tfrecord" else r"caf\udce9.wav"]


def test_parquet_has_the_documented_schema_and_metadata(info: JobInfo, tmp_path: Path) -> None:
    with JobWriter(tmp_path / "out.parquet", info, format="parquet") as writer:
        for clip in make_clips(info, [2, 3]):
            add(writer, clip)
        writer.fail("bad.wav", "no audio stream")
        writer.finish()
    schema = pq.read_schema(tmp_path / "out.parquet")
    value = pa.field("element", pa.float32(), nullable=False)
    expected = [("file", pa.string()), ("start_s", pa.float64()), ("end_s", pa.float64())]
    expected.append(("embedding", pa.list_(value, info.embedding_dim)))
    assert [(field.name, field.type) for field in schema] == expected
    assert not any(field.nullable for field in schema)
    about = json.loads(schema.metadata[b"audioset"])
    assert about["layout"] == 1
    assert about["job"]["weights_sha256"] == info.weights_sha256
    assert (about["files"], about["rows"], about["failures"]) == (2, 5, [["bad.wav", "no audio stream"]])


def test_parquet_row_groups_are_bounded(info: JobInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "MAX_ROW_GROUP_ROWS", 4)
    write(tmp_path / "out.parquet", info, make_clips(info, [3, 7]))
    file = pq.ParquetFile(tmp_path / "out.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [4, 4, 2]


def test_row_groups_of_wide_embeddings_have_fewer_rows(info: JobInfo) -> None:
    wide = replace(info, embedding_dim=1024)
    assert parts.row_group_rows(wide) * 1024 * 4 == parts.ROW_GROUP_BYTES
    assert parts.row_group_rows(info) == parts.MAX_ROW_GROUP_ROWS
    assert parts.row_group_rows(replace(info, embedding_dim=1 << 30)) == 1


def test_npy_can_be_memory_mapped(info: JobInfo, tmp_path: Path) -> None:
    clips = make_clips(info, [3, 2])
    write(tmp_path / "out.npy", info, clips, format="npy")
    mapped = np.load(tmp_path / "out.npy", mmap_mode="r", allow_pickle=False)
    np.testing.assert_array_equal(mapped, np.concatenate([clip.values for clip in clips]))


def test_tfrecord_holds_the_span_of_each_file(
    quantized: JobInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "BATCH_ROWS", 2)
    clips = make_clips(quantized, [3, 0, 2])
    write(tmp_path / "out.tfrecord", quantized, clips, format="tfrecord")
    first, second = (decode_example(record) for record in read_tfrecord(tmp_path / "out.tfrecord"))
    assert first.context["video_id"] == [b"clip 0"]
    assert first.context["start_time_seconds"].tolist() == [0.0]
    assert first.context["end_time_seconds"].tolist() == [float(np.float32(clips[0].end_s[-1]))]
    assert first.context["labels"].tolist() == []
    assert second.context["video_id"] == [b"clip 2"]
    assert len(second.feature_lists["audio_embedding"]) == 2


def batch_of(info: JobInfo, values: np.ndarray) -> pa.RecordBatch:
    times = np.arange(len(values)) * 0.1
    return parts.make_batch(info, ["x.wav"], [len(values)], times, times + 0.96, values)


def test_text_holds_the_shortest_decimals_that_read_back(info: JobInfo, rng: np.random.Generator) -> None:
    bits = rng.integers(0, 1 << 32, (2000, info.embedding_dim), np.uint32)
    values = bits.view(np.float32)
    values[~np.isfinite(values)] = 0.1
    lines = encode_csv(batch_of(info, values)).decode().splitlines()
    texts = [line.split(",")[3:] for line in lines]
    np.testing.assert_array_equal(np.array(texts).astype(np.float32), values)
    digits = [text.partition("e")[0].replace(".", "").strip("-0") for line in texts for text in line]
    assert max(map(len, digits)) <= 9
    found = [json.loads(line)["embedding"] for line in encode_jsonl(batch_of(info, values)).splitlines()]
    np.testing.assert_array_equal(np.array(found, np.float32), values)


def test_json_has_null_where_there_is_no_number(info: JobInfo) -> None:
    values = np.array([[np.nan, np.inf, -np.inf, 1.5]], np.float32)
    assert json.loads(encode_jsonl(batch_of(info, values)))["embedding"] == [None, None, None, 1.5]
    line = next(csv.reader(io.StringIO(encode_csv(batch_of(info, values)).decode())))
    np.testing.assert_array_equal(np.array(line[3:], np.float32), values[0])


def test_failures_beyond_the_limit_are_counted_but_not_listed(
    info: JobInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("audioset.records.info.MAX_STORED_FAILURES", 2)
    with JobWriter(tmp_path / "out.parquet", info, format="parquet") as writer:
        for i in range(5):
            writer.fail(f"{i}.wav", "empty")
        assert len(writer.finish().failures) == 5
    about = json.loads(pq.read_schema(tmp_path / "out.parquet").metadata[b"audioset"])
    assert about["num_failures"] == 5
    assert about["failures"] == [["0.wav", "empty"], ["1.wav", "empty"]]


@pytest.mark.parametrize(
    ("out", "format", "expected"),
    [
        ("a.parquet", None, "parquet"),
        ("a.b/c.PQ", None, "parquet"),
        ("a.ndjson", None, "jsonl"),
        ("a.txt", "csv", "csv"),
        ("a.npz", "npy", "npy"),
        ("-", None, "jsonl"),
        ("-", "csv", "csv"),
    ],
)
def test_the_format_is_the_one_named_or_the_extension(out: str, format: str | None, expected: str) -> None:  # noqa: A002
    assert format_of(out, format) == expected


def test_no_extension_means_two_formats() -> None:
    extensions = [extension for known in FORMATS.values() for extension in known.extensions]
    assert len(extensions) == len(set(extensions))
    assert all(format_of(f"x{extension}") in FORMATS for extension in extensions)


def test_an_unknown_extension_lists_those_that_are_known() -> None:
    with pytest.raises(
        OptionError, match=r"out\.h5: the extension '\.h5' names no format.*\.parquet \(parquet\).*tfrecord"
    ):
        format_of("out.h5")


def test_an_unknown_format_lists_those_that_are_known() -> None:
    with pytest.raises(
        OptionError, match="format 'hdf5': unknown; expected one of parquet, npz, npy, csv, jsonl, tfrecord"
    ):
        format_of("out.parquet", "hdf5")


def test_binary_formats_do_not_go_to_standard_output() -> None:
    with pytest.raises(
        OptionError, match="format 'parquet': cannot be written to standard output; expected csv or jsonl"
    ):
        format_of("-", "parquet")


def test_tfrecord_refuses_values_that_are_not_quantized(info: JobInfo, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="raw float32; add --postprocess uint8"):
        JobWriter(tmp_path / "out.tfrecord", info, format="tfrecord")
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_a_day_is_one_record(quantized: JobInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_module, "FLUSH_BYTES", 50_000)
    day: Clip = make_clips(quantized, [90_000])[0]
    with JobWriter(tmp_path / "day.tfrecord", quantized, format="tfrecord") as writer:
        for start in range(0, 90_000, 5_000):
            add(writer, day, rows=slice(start, start + 5_000), last=start == 85_000)
        assert len(list((tmp_path / ".day.tfrecord.partial").glob("part-*"))) > 5
        writer.finish()
    (record,) = read_tfrecord(tmp_path / "day.tfrecord")
    frames = decode_example(record).feature_lists["audio_embedding"]
    np.testing.assert_array_equal(np.array([list(frame[0]) for frame in frames], np.uint8), day.values)

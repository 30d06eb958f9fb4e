"""Parquet and NPZ outputs come back as arrays in one call; other files are refused by name."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from audioset.errors import RecordError
from audioset.records import JobInfo, read_embeddings

from .conftest import make_clips, write


@pytest.mark.parametrize("format", ["parquet", "npz"])
@pytest.mark.parametrize("lengths", [[3, 1, 0, 5], [0], []])
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_rows_come_back_as_arrays(
    format: str,  # noqa: A002
    lengths: list[int],
    dtype: str,
    info: JobInfo,
    quantized: JobInfo,
    tmp_path: Path,
) -> None:
    job = info if dtype == "float32" else quantized
    clips = make_clips(job, lengths)
    write(tmp_path / "out", job, clips, format=format)
    table = read_embeddings(tmp_path / "out")
    assert table.values.dtype == dtype
    assert table.values.shape == (sum(lengths), job.embedding_dim)
    for name in ("values", "start_s", "end_s"):
        np.testing.assert_array_equal(
            getattr(table, name),
            np.array([x for clip in clips for x in getattr(clip, name)]).reshape(getattr(table, name).shape),
        )
    assert table.file.tolist() == [clip.file for clip in clips for _ in clip.values]
    assert table.info == job


def test_a_text_file_is_refused_with_a_way_to_read_it(info: JobInfo, tmp_path: Path) -> None:
    write(tmp_path / "out.csv", info, make_clips(info, [1]), format="csv")
    with pytest.raises(RecordError, match=r"out\.csv: neither Parquet nor NPZ.*Read csv, jsonl and npy with pandas"):
        read_embeddings(tmp_path / "out.csv")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"gone\.parquet: cannot be opened \(No such file"):
        read_embeddings(tmp_path / "gone.parquet")


@pytest.mark.parametrize("format", ["parquet", "npz"])
def test_a_file_cut_short_is_refused(format: str, info: JobInfo, tmp_path: Path) -> None:  # noqa: A002
    out = tmp_path / "out"
    write(out, info, make_clips(info, [20]), format=format)
    out.write_bytes(out.read_bytes()[:-30])
    with pytest.raises(
        RecordError, match=f"out: cannot be read as {format}".replace("npz", "NPZ").replace("parquet", "Parquet")
    ):
        read_embeddings(out)


@pytest.mark.parametrize("format", ["parquet", "npz"])
def test_a_damaged_value_is_found(format: str, info: JobInfo, tmp_path: Path) -> None:  # noqa: A002
    out = tmp_path / "out"
    write(out, info, make_clips(info, [2000]), format=format)
    damaged = bytearray(out.read_bytes())
    damaged[len(damaged) // 3] ^= 1
    out.write_bytes(damaged)
    with pytest.raises(RecordError, match=r"out: cannot be read as (Parquet|NPZ)"):
        read_embeddings(out)


def test_a_parquet_file_of_another_program_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1]}), tmp_path / "other.parquet")
    with pytest.raises(RecordError, match=r"other\.parquet: its description of the job is missing or damaged"):
        read_embeddings(tmp_path / "other.parquet")


def test_an_npz_file_of_another_program_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", embedding=np.zeros((1, 2)))
    with pytest.raises(RecordError, match=r"other\.npz: cannot be read as NPZ"):
        read_embeddings(tmp_path / "other.npz")


def test_pickled_arrays_are_refused(info: JobInfo, tmp_path: Path) -> None:
    np.savez(tmp_path / "pickled.npz", embedding=np.array([{}], object))
    with pytest.raises(RecordError, match=r"pickled\.npz: cannot be read as NPZ"):
        read_embeddings(tmp_path / "pickled.npz")


def test_a_later_layout_is_refused(tmp_path: Path) -> None:
    table = pa.table({"x": [1]}).replace_schema_metadata({"audioset": '{"layout": 2}'})
    pq.write_table(table, tmp_path / "later.parquet")
    with pytest.raises(
        RecordError, match=r"later\.parquet: written in layout 2, this version of audioset reads layout 1"
    ):
        read_embeddings(tmp_path / "later.parquet")


def test_no_flipped_byte_of_an_archive_is_met_with_a_traceback(info: JobInfo, tmp_path: Path) -> None:
    out = tmp_path / "out.npz"
    write(out, info, make_clips(info, [20]), format="npz")
    whole = out.read_bytes()
    for at in range(0, len(whole), 97):
        damaged = bytearray(whole)
        damaged[at] ^= 0xFF
        out.write_bytes(damaged)
        with contextlib.suppress(RecordError):  # what it is for; any other error ends the test
            read_embeddings(out)

"""The csv of segments: as published, as others write it, damaged, and back."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from audioset.classes import class_list
from audioset.dataset import _text
from audioset.dataset import segments as module
from audioset.dataset.segments import SCHEMA, durations_s, read_segments, write_segments
from audioset.errors import DatasetError, OptionError, OutputError

HEADER = (
    "# Segments csv created Sun Mar  5 10:54:31 2017\n"
    "# num_ytids=3, num_segs=3, num_unique_labels=3, num_positive_labels=5\n"
    "# YTID, start_seconds, end_seconds, positive_labels\n"
)
ROWS = (
    '--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/t/dd00088"\n'
    '-bcdefghij_, 239.800, 249.800, "/m/09x0r"\n'
    'xyzXYZ01234, 0.000, 3.500, "/m/0bt9lr,/m/09x0r"\n'
)
TABLE: dict[str, list[Any]] = {
    "ytid": ["--PJHxphWEs", "-bcdefghij_", "xyzXYZ01234"],
    "start_s": [30.0, 239.8, 0.0],
    "end_s": [40.0, 249.8, 3.5],
    "mids": [["/m/09x0r", "/t/dd00088"], ["/m/09x0r"], ["/m/0bt9lr", "/m/09x0r"]],
    "indices": [[0, 451], [0], [74, 0]],
    "names": [["Speech", "Gush"], ["Speech"], ["Dog", "Speech"]],
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "segments.csv"
    path.write_text(HEADER + ROWS, encoding="utf-8")
    return path


def oracle(path: Path) -> dict[str, list[Any]]:
    """The columns by the plain csv module, one row after the other."""
    classes = class_list("audioset527")
    place = {mid: index for index, mid in enumerate(classes.mids)}
    with path.open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.reader(stream, skipinitialspace=True) if not row[0].startswith("#")]
    mids = [row[3].split(",") for row in rows]
    return {
        "ytid": [row[0] for row in rows],
        "start_s": [float(row[1]) for row in rows],
        "end_s": [float(row[2]) for row in rows],
        "mids": mids,
        "indices": [[place[mid] for mid in row] for row in mids],
        "names": [[classes.names[place[mid]] for mid in row] for row in mids],
    }


def data_lines(path: Path) -> list[bytes]:
    return [line for line in path.read_bytes().splitlines(keepends=True) if not line.startswith(b"#")]


def test_published_layout_gives_the_table(path: Path) -> None:
    table = read_segments(path)
    assert table.schema == SCHEMA
    assert table.to_pydict() == TABLE == oracle(path)


@pytest.mark.parametrize(
    "changed",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\ufeff" + text,
        lambda text: text.rstrip("\n"),
        lambda text: text.replace("\n", "\n\n"),
        lambda text: text.removeprefix(HEADER),
        lambda text: "YTID,start_seconds,end_seconds,positive_labels\n" + text.removeprefix(HEADER),
        lambda text: "ytid,start_s,end_s,mids\r\n" + text.removeprefix(HEADER),
        lambda text: text.removeprefix(HEADER).replace(", ", ","),
        lambda text: text.replace(', "', ',\t  "'),
        lambda text: text.replace("/m/09x0r,/t", "/m/09x0r, /t"),
        lambda text: text.replace('"/m/09x0r"', "/m/09x0r"),
    ],
    ids=[
        *("CRLF", "BOM", "no-last-newline", "blank-lines", "no-header", "names", "our-names"),
        *("no-spaces", "more-spaces", "spaced-mids", "unquoted"),
    ],
)
def test_variants_of_the_layout_give_the_same_table(path: Path, changed: Any) -> None:
    path.write_bytes(changed(HEADER + ROWS).encode())
    assert read_segments(path).to_pydict() == TABLE


def test_gzip_is_known_by_its_content(path: Path) -> None:
    path.write_bytes(gzip.compress((HEADER + ROWS).encode()))
    assert read_segments(path).to_pydict() == TABLE
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DatasetError, match=r"segments\.csv: its gzip data are cut short or damaged"):
        read_segments(path)


@pytest.mark.parametrize("block_bytes", [200, 211, 260, 1000])
def test_blocks_end_anywhere(path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int) -> None:
    monkeypatch.setattr(_text, "_BLOCK_BYTES", block_bytes)
    assert read_segments(path).to_pydict() == TABLE
    path.write_text(HEADER + ROWS + "x, y\n", encoding="utf-8")
    with pytest.raises(DatasetError, match=r"line 7: 2 values where 4 belong"):
        read_segments(path)


def test_ids_of_any_script_and_rows_without_labels_are_read(path: Path) -> None:
    path.write_text('日本語, 0.000, 1.000, ""\n-é, 1, 2,\nNA, 1e0, 2, "/m/09x0r"\n', encoding="utf-8")
    table = read_segments(path)
    assert table["ytid"].to_pylist() == ["日本語", "-é", "NA"]
    assert table["mids"].to_pylist() == [[], [], ["/m/09x0r"]]
    assert table.column("indices").null_count == table.column("names").null_count == 0


@pytest.mark.parametrize(
    ("name", "count", "found"),
    [("num_ytids", 4, 3), ("num_segs", 30, 3), ("num_unique_labels", 527, 3), ("num_positive_labels", 6, 5)],
)
def test_counts_of_the_header_are_checked(path: Path, name: str, count: int, found: int) -> None:
    text = (HEADER + ROWS).replace(f"{name}={found}", f"{name}={count}")
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DatasetError, match=rf"segments\.csv: {name} is {found} in its lines; expected {count}, as its"):
        read_segments(path)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("abc, 0, 1", "3 values where 4 belong"),
        ("abc, 0, 1, /m/09x0r, /m/0bt9lr", "5 values where 4 belong"),
        ("# Segments csv created", "1 values where 4 belong"),
        (', 0, 1, "/m/09x0r"', "no id"),
        ('abc, zero, 1, "/m/09x0r"', "times that are not numbers"),
        ('abc, 0, 1_0, "/m/09x0r"', "times that are not numbers"),
        ('abc, 0, , "/m/09x0r"', "times that are not numbers"),
        ('abc, 5, 1, "/m/09x0r"', "times that are not one after the other"),
        ('abc, -1, 1, "/m/09x0r"', "times that are not one after the other"),
        ('abc, nan, 1, "/m/09x0r"', "times that are not one after the other"),
        ('abc, 0, inf, "/m/09x0r"', "times that are not one after the other"),
        ('abc, 0, 1, "/m/09x0r,"', "an empty label"),
        ('abc, 0, 1, "/m/09x0r', "a quote without its other"),
        ('a"bc, 0, 1, "/m/09x0r"', "a quote without its other"),
        ('abc, 0, 1, "/m/nope,/m/09x0r"', "the mid '/m/nope', not among the 527 classes"),
    ],
)
@pytest.mark.parametrize("below", ["", 'zzz, 0.000, 1.000, "/m/09x0r"\n'], ids=["last", "between"])
def test_a_line_that_is_no_segment_is_named(path: Path, line: str, fault: str, below: str) -> None:
    path.write_text(f"{HEADER}{ROWS}{line}\n{below}", encoding="utf-8")
    with pytest.raises(DatasetError, match=rf"segments\.csv, line 7: {fault}"):
        read_segments(path)


def test_text_that_is_not_utf8_is_refused(path: Path) -> None:
    path.write_bytes((HEADER + ROWS).encode() + b'\xff\xfe, 0, 1, "/m/09x0r"\n')
    with pytest.raises(DatasetError, match=r"line 7: not UTF-8"):
        read_segments(path)


def test_a_file_without_lines_does_not_fill_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "zeros.csv.gz"
    with gzip.open(path, "wb", compresslevel=1) as stream:
        for _ in range(40):
            stream.write(bytes(1 << 20))
    with pytest.raises(DatasetError, match=r"zeros\.csv\.gz, line 1: longer than 16 MiB; expected lines of text"):
        read_segments(path)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf"], ids=["nothing", "blank", "BOM"])
def test_a_file_with_nothing_in_it_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"segments\.csv: (empty|no segments in it)"):
        read_segments(path)


def test_a_file_that_is_not_there_is_named_with_what_would_do(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"nope\.csv: no such file; expected a csv of segments, or one of balanced"):
        read_segments(tmp_path / "nope.csv")
    with pytest.raises(DatasetError, match=r"cannot be read"):
        read_segments(tmp_path)


def test_unknown_mids_can_be_kept(path: Path) -> None:
    path.write_text('abc, 0, 1, "/m/nope,/m/09x0r"\n', encoding="utf-8")
    table = read_segments(path, unknown_mids="keep")
    assert table["mids"].to_pylist() == [["/m/nope", "/m/09x0r"]]
    assert table["indices"].to_pylist() == [[-1, 0]]
    assert table["names"].to_pylist() == [["/m/nope", "Speech"]]
    with pytest.raises(OptionError, match=r"unknown_mids: 'drop' is unknown"):
        read_segments(path, unknown_mids="drop")  # type: ignore[arg-type]


@pytest.mark.parametrize("split", module.SPLITS)
def test_split_names_are_fetched(path: Path, monkeypatch: pytest.MonkeyPatch, split: str) -> None:
    asked = []

    def fetch(name: str) -> Path:
        asked.append(name)
        return path

    monkeypatch.setattr("audioset.dataset.fetch.fetch", fetch)
    assert read_segments(split).to_pydict() == TABLE
    assert asked == [split]


def test_written_segments_come_back(path: Path, tmp_path: Path) -> None:
    table = read_segments(path)
    write_segments(table, tmp_path / "again.csv")
    assert read_segments(tmp_path / "again.csv").equals(table)
    assert data_lines(tmp_path / "again.csv") == data_lines(path)
    assert (tmp_path / "again.csv").read_text(encoding="utf-8").splitlines()[1:3] == HEADER.splitlines()[1:]


def test_gzip_by_name_has_the_same_bytes_each_time(path: Path, tmp_path: Path) -> None:
    table = read_segments(path)
    for name in ("a.csv.gz", "b.csv.gz"):
        write_segments(table, tmp_path / name)
    assert read_segments(tmp_path / "a.csv.gz").equals(table)
    assert (tmp_path / "a.csv.gz").read_bytes() == (tmp_path / "b.csv.gz").read_bytes()
    with pytest.raises(OptionError, match=r"a\.parquet: segments are written as csv; expected"):
        write_segments(table, tmp_path / "a.parquet")


def test_what_is_no_arrow_table_is_refused_with_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"table: a dict; expected a pyarrow\.Table.*from_pandas"):
        write_segments({"ytid": ["a"]}, tmp_path / "s.csv")  # type: ignore[arg-type]


def test_only_published_files_are_to_be_fetched_again(tmp_path: Path) -> None:
    for name, remedy in (("eval_segments.csv", "Fetch it again"), ("mine.csv", "Check that it is the file you mean")):
        (tmp_path / name).write_text("YTID, start_seconds, end_seconds, positive_labels\n")
        with pytest.raises(DatasetError, match=rf"no segments in it; expected a line each\. {remedy}"):
            read_segments(tmp_path / name)


def test_an_unknown_mid_says_how_to_keep_it(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text('a, 0, 1, "/m/none"\n')
    with pytest.raises(DatasetError, match=r"not among the 527 classes,.*unknown_mids=\"keep\""):
        read_segments(tmp_path / "x.csv")


def test_times_finer_than_milliseconds_are_kept(tmp_path: Path) -> None:
    table = pa.table({"ytid": ["a"], "start_s": [0.1234567], "end_s": [1 / 3], "mids": [["/m/09x0r"]]})
    write_segments(table, tmp_path / "s.csv")
    back = read_segments(tmp_path / "s.csv")
    assert (back["start_s"].to_pylist(), back["end_s"].to_pylist()) == ([0.1234567], [1 / 3])


def test_no_segments_are_written_and_read(path: Path, tmp_path: Path) -> None:
    write_segments(read_segments(path).slice(0, 0), tmp_path / "none.csv")
    assert read_segments(tmp_path / "none.csv").equals(SCHEMA.empty_table())


@pytest.mark.parametrize("ytid", ['a"b', "a,b", "a\nb", "#ab", " ab", ""])
def test_ids_that_would_not_come_back_are_not_written(tmp_path: Path, ytid: str) -> None:
    table = pa.table({"ytid": [ytid], "start_s": [0.0], "end_s": [1.0], "mids": [["/m/09x0r"]]})
    with pytest.raises(DatasetError, match=r"cannot be written to a csv of segments"):
        write_segments(table, tmp_path / "s.csv")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("column", "value", "said"), [
    ("ytid", None, "a null cannot be written"),
    ("start_s", None, "a null cannot be written"),
    ("mids", None, "a null cannot be written"),
    ("mids", [None], "a null cannot be written"),
    ("start_s", float("nan"), r"a from nan to 1\.0 s cannot be written .* expected 0 ≤ start_s < end_s"),
    ("start_s", 1.0, r"a from 1\.0 to 1\.0 s cannot be written"),
    ("end_s", float("inf"), r"a from 0\.0 to inf s cannot be written"),
])  # fmt: skip
def test_segments_that_could_not_be_read_are_not_written(tmp_path: Path, column: str, value: Any, said: str) -> None:
    row = {"ytid": "a", "start_s": 0.0, "end_s": 1.0, "mids": ["/m/09x0r"], column: value}
    table = pa.table({name: pa.array([row[name]], SCHEMA.field(name).type) for name in row})
    with pytest.raises(DatasetError, match=said):
        write_segments(table, tmp_path / "s.csv")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_is_refused(path: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no column 'mids' among ytid, start_s, end_s;"):
        write_segments(read_segments(path).select(["ytid", "start_s", "end_s"]), tmp_path / "s.csv")
    with pytest.raises(OutputError, match=r"s\.csv: "):
        write_segments(read_segments(path), path / "s.csv")


def test_lengths_are_free_of_rounding() -> None:
    assert 16.4 - 6.4 < 10
    table = pa.table({"start_s": [6.4, 239.8, 0.0], "end_s": [16.4, 249.8, 3.5]})
    np.testing.assert_array_equal(durations_s(table), [10.0, 10.0, 3.5])


@pytest.mark.parametrize(
    ("name", "num_rows", "num_labels", "num_dashed", "num_short"),
    [("balanced_train", 22_160, 52_882, 459, 345), ("eval", 20_371, 51_804, 392, 361)],
)
def test_published_files_are_as_known(
    data_dir: Path, name: str, num_rows: int, num_labels: int, num_dashed: int, num_short: int
) -> None:
    table = read_segments(data_dir / "audioset" / f"{name}_segments.csv")
    assert table.num_rows == len(set(table["ytid"].to_pylist())) == num_rows
    assert sum(map(len, table["mids"].to_pylist())) == num_labels
    assert sum(ytid.startswith("-") for ytid in table["ytid"].to_pylist()) == num_dashed
    assert (durations_s(table) < 10).sum() == num_short
    assert (durations_s(table).min(), durations_s(table).max()) == (1.0, 10.0)


def test_no_video_is_in_both_published_files(data_dir: Path) -> None:
    train, evaluation = (
        set(read_segments(data_dir / "audioset" / f"{name}_segments.csv")["ytid"].to_pylist())
        for name in ("balanced_train", "eval")
    )
    assert not train & evaluation


@pytest.mark.parametrize("name", ["balanced_train", "eval"])
def test_published_files_agree_with_the_plain_reader_and_come_back_byte_for_byte(
    data_dir: Path, tmp_path: Path, name: str
) -> None:
    path = data_dir / "audioset" / f"{name}_segments.csv"
    table = read_segments(path)
    assert table.to_pydict() == oracle(path)
    write_segments(table, tmp_path / "again.csv")
    assert data_lines(tmp_path / "again.csv") == data_lines(path)
    assert (tmp_path / "again.csv").read_bytes().splitlines()[1:3] == path.read_bytes().splitlines()[1:3]

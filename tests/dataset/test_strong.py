"""Strong labels: events and frames as published, names of classes, damage."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import pytest

from audioset.classes import class_list
from audioset.dataset import _text
from audioset.dataset.strong import EVENTS_SCHEMA, FRAMES_SCHEMA, read_display_names, read_strong
from audioset.errors import DatasetError

HEADER = "segment_id\tstart_time_seconds\tend_time_seconds\tlabel\n"
EVENTS = (
    "s9d-2nhuJCQ_30000\t2.627\t7.237\t/m/053hz1\n"
    "-_aB_cDeF_G_0\t0.000\t10.000\t/m/09x0r\n"
    "-_aB_cDeF_G_1500\t1.100\t1.100\t/m/nowhere\n"
    "abcdefghijk_120000\t0.500\t0.750\t/m/0dgw9r\n"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "audioset_eval_strong.tsv"
    path.write_text(HEADER + EVENTS, encoding="utf-8")
    return path


def test_events_are_read_with_their_segment_and_name(path: Path) -> None:
    table = read_strong(path)
    assert table.schema == EVENTS_SCHEMA
    assert table.to_pydict() == {
        "ytid": ["s9d-2nhuJCQ", "-_aB_cDeF_G", "-_aB_cDeF_G", "abcdefghijk"],
        "segment_start_s": [30.0, 0.0, 1.5, 120.0],
        "start_s": [2.627, 0.0, 1.1, 0.5],
        "end_s": [7.237, 10.0, 1.1, 0.75],
        "mid": ["/m/053hz1", "/m/09x0r", "/m/nowhere", "/m/0dgw9r"],
        # The last is a class of the ontology that is none of the 527; the one before is in neither.
        "name": ["Cheering", "Speech", "/m/nowhere", "Human sounds"],
        "index": [class_list("audioset527").index("Cheering"), 0, -1, -1],
    }


def test_events_are_those_of_the_plain_reader(path: Path) -> None:
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    table = read_strong(path).to_pylist()
    assert [f"{row['ytid']}_{row['segment_start_s'] * 1000:.0f}" for row in table] == [
        row["segment_id"] for row in rows
    ]
    assert [row["start_s"] for row in table] == [float(row["start_time_seconds"]) for row in rows]
    assert [row["mid"] for row in table] == [row["label"] for row in rows]


def test_names_outside_the_ontology_come_from_the_published_list(path: Path, tmp_path: Path) -> None:
    (tmp_path / "mid_to_display_name.tsv").write_text(
        "/m/nowhere\tSound of nowhere\n/m/09x0r\tTalk\n", encoding="utf-8"
    )
    assert read_strong(path)["name"].to_pylist() == ["Cheering", "Speech", "Sound of nowhere", "Human sounds"]
    other = tmp_path / "names.tsv"
    other.write_text("/m/nowhere\tElsewhere\r\n", encoding="utf-8")
    assert read_strong(path, names=other)["name"].to_pylist()[2] == "Elsewhere"
    other.write_text("/m/nowhere Elsewhere\n", encoding="utf-8")
    with pytest.raises(DatasetError, match=r"names\.tsv, line 1: '/m/nowhere Elsewhere'; expected a mid, a tab and"):
        read_display_names(other)


def test_frames_say_what_is_present_and_what_is_not(path: Path) -> None:
    path.write_text(
        HEADER.replace("label", "label\tpresent")
        + "abcdefghijk_30000\t0.000\t0.960\t/m/09x0r\tPRESENT\n"
        + "abcdefghijk_30000\t0.960\t1.920\t/m/09x0r\tNOT_PRESENT\n",
        encoding="utf-8",
    )
    table = read_strong(path)
    assert table.schema == FRAMES_SCHEMA
    assert table["present"].to_pylist() == [True, False]
    assert table["end_s"].to_pylist() == [0.96, 1.92]


@pytest.mark.parametrize("block_bytes", [64, 100, 1000])
def test_bom_crlf_gzip_and_blocks_change_nothing(path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int) -> None:
    table = read_strong(path)
    monkeypatch.setattr(_text, "_BLOCK_BYTES", block_bytes)
    path.write_bytes(gzip.compress(("\ufeff" + HEADER + EVENTS).replace("\n", "\r\n").encode()))
    assert read_strong(path).equals(table)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("abc_0\t0\t1", "3 values where 4 belong"),
        ("abc\t0\t1\t/m/09x0r", "an id that is not YTID_MILLISECONDS"),
        ("abc_1.5\t0\t1\t/m/09x0r", "an id that is not YTID_MILLISECONDS"),
        ("abc_0\tx\t1\t/m/09x0r", "times that are not numbers"),
        ("abc_0\t3\t1\t/m/09x0r", "times that are not one after the other"),
        ("abc_0\tnan\t1\t/m/09x0r", "times that are not one after the other"),
        ("abc_0\t0\t1\t", "no label"),
    ],
)
def test_a_line_that_is_no_event_is_named(path: Path, line: str, fault: str) -> None:
    path.write_text(f"{HEADER}{EVENTS}{line}\n{EVENTS}", encoding="utf-8")
    with pytest.raises(DatasetError, match=rf"strong\.tsv, line 6: {fault}"):
        read_strong(path)


def test_frames_that_say_neither_are_named(path: Path) -> None:
    path.write_text(HEADER.replace("label", "label\tpresent") + "a_0\t0\t1\t/m/09x0r\tMAYBE\n", encoding="utf-8")
    with pytest.raises(DatasetError, match=r"line 2: neither PRESENT nor NOT_PRESENT"):
        read_strong(path)


def test_other_files_are_refused(path: Path, tmp_path: Path) -> None:
    path.write_text(EVENTS, encoding="utf-8")
    with pytest.raises(DatasetError, match=r"line 1: columns .*; expected segment_id, start_time_seconds"):
        read_strong(path)
    with pytest.raises(DatasetError, match=r"nope: no such file; expected strong labels, or one of train_strong"):
        read_strong(tmp_path / "nope")


def test_a_header_alone_gives_no_events(path: Path) -> None:
    path.write_text(HEADER, encoding="utf-8")
    assert read_strong(path).equals(EVENTS_SCHEMA.empty_table())


def test_published_names_are_fetched(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = tmp_path / "names.tsv"
    names.write_text("/m/nowhere\tFetched\n", encoding="utf-8")
    monkeypatch.setattr("audioset.dataset.fetch.fetch", {"eval_strong": path, "mid_to_display_name": names}.__getitem__)
    assert read_strong("eval_strong")["name"].to_pylist()[2] == "Fetched"

"""Estimates of the labels' quality and the videos that were rated again, read and joined on."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from audioset.dataset.quality import QUALITY_SCHEMA, read_quality, read_rerated, with_quality, with_rerated
from audioset.errors import DatasetError

HEADER = "label,num_rated,num_true\n"
COUNTS = '/m/09x0r,10,9\n"Male speech, man speaking",10,4\nDog,0,0\nFemale speech, woman speaking, 8, 8\n'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "qa_true_counts.csv"
    path.write_text(HEADER + COUNTS, encoding="utf-8")
    return path


@pytest.mark.parametrize("header", [HEADER, ""], ids=["header", "no header"])
def test_counts_by_mid_or_name_become_shares(path: Path, header: str) -> None:
    path.write_text(header + COUNTS, encoding="utf-8")
    table = read_quality(path)
    assert table.schema == QUALITY_SCHEMA
    assert table.to_pydict() == {
        "mid": ["/m/09x0r", "/m/05zppz", "/m/0bt9lr", "/m/02zsn"],
        "name": ["Speech", "Male speech, man speaking", "Dog", "Female speech, woman speaking"],
        "num_rated": [10, 10, 0, 8],
        "num_true": [9, 4, 0, 8],
        "quality": [0.9, 0.4, None, 1.0],
    }


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Cat,10", "a class and two whole numbers"),
        ("Cat,10,9.5", "a class and two whole numbers"),
        ("Cat,10,-1", "a class and two whole numbers"),
        ("Cat,10,11", "no more true than rated"),
        ("Catt,10,10", "one of AudioSet's 527 classes"),
        ("Speech,10,10", "a class once"),
    ],
)
def test_a_line_that_is_no_estimate_is_named(path: Path, line: str, expected: str) -> None:
    path.write_text(f"{HEADER}{COUNTS}{line}\n", encoding="utf-8")
    with pytest.raises(DatasetError, match=rf"counts\.csv, line 6: '{line}'; expected {expected}"):
        read_quality(path)


def test_files_without_content_are_refused(path: Path, tmp_path: Path) -> None:
    path.write_text(HEADER, encoding="utf-8")
    with pytest.raises(DatasetError, match=r"no classes in it"):
        read_quality(path)
    with pytest.raises(DatasetError, match=r"nope\.csv: no such file"):
        read_quality(tmp_path / "nope.csv")


def test_rerated_ids_are_read_once_each_in_order(tmp_path: Path) -> None:
    path = tmp_path / "ids.txt"
    path.write_bytes(b"\xef\xbb\xbfvideo_ids\r\n-bcdefghijk\r\nabcdefghij_\r\n-bcdefghijk\r\n")
    assert read_rerated(path) == ("-bcdefghijk", "abcdefghij_")
    path.write_text("<html>\n", encoding="utf-8")
    with pytest.raises(DatasetError, match=r"ids\.txt, line 1: '<html>'; expected the id of a video"):
        read_rerated(path)
    path.write_text("abcdefghij_\nnot an id\n", encoding="utf-8")
    with pytest.raises(DatasetError, match=r"ids\.txt, line 2: 'not an id'"):
        read_rerated(path)


def test_published_names_are_fetched(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audioset.dataset.fetch.fetch", {"qa_true_counts": path}.__getitem__)
    assert read_quality().equals(read_quality(path))


def test_joining_keeps_rows_and_their_order(path: Path) -> None:
    segments = pa.table({"ytid": ["b", "a", "c", "a"]})
    joined = with_rerated(segments, ("a", "x"))
    assert joined.to_pydict() == {"ytid": ["b", "a", "c", "a"], "rerated": [False, True, False, True]}
    assert with_rerated(joined, ()).to_pydict()["rerated"] == [False] * 4
    labels = pa.table({"mid": ["/m/0bt9lr", "/m/05zppz", "/m/nope", "/m/09x0r"]})
    assert with_quality(labels, read_quality(path))["quality"].to_pylist() == [None, 0.4, None, 0.9]
    with pytest.raises(DatasetError, match=r"table: no column 'mid' among ytid"):
        with_quality(segments, read_quality(path))

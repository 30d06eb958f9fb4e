"""What a job embeds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from audioset.errors import OptionError
from audioset.jobs import Item, from_names, read_manifest


@pytest.mark.parametrize(
    ("item", "key"),
    [
        (Item("a.wav"), "a.wav"),
        (Item("a.wav", 5.0, 9.5), "a.wav#t=5.0,9.5"),
        (Item("a.wav", 5.0), "a.wav#t=5.0"),
        (Item("a.wav", None, 9.5), "a.wav#t=0.0,9.5"),
        (Item("a.wav", 5.0, 9.5, "first"), "first"),
    ],
)
def test_key_tells_parts_of_one_file_apart(item: Item, key: str) -> None:
    assert item.key == key


def test_sizes_of_local_files_are_looked_up(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"12345")
    items = from_names([str(tmp_path / "a.wav"), str(tmp_path / "not-there.wav"), "s3://bucket/b.wav"])
    np.testing.assert_array_equal(items.sizes, [5, np.nan, np.nan])
    assert not items.has_ids
    assert not items.has_windows


def test_sizes_of_a_listing_are_taken() -> None:
    items = from_names(["s3://bucket/a.wav", "s3://bucket/b.wav"], {"s3://bucket/a.wav": 7})
    np.testing.assert_array_equal(items.sizes, [7, np.nan])


def test_csv_manifest(tmp_path: Path) -> None:
    path = tmp_path / "songs.csv"
    path.write_text("id,path,start,end,size,artist\n01,a.wav,0.5,2,100,X\n02,a.wav,,,200,Y\n3,b.wav,4,,,Z\n")
    items = read_manifest(path)
    assert list(items) == [
        Item("a.wav", 0.5, 2.0, "01"),
        Item("a.wav", None, None, "02"),
        Item("b.wav", 4.0, None, "3"),
    ]
    np.testing.assert_array_equal(items.sizes, [100, 200, np.nan])
    assert items.has_ids
    assert items.has_windows


def test_parquet_manifest(tmp_path: Path) -> None:
    path = tmp_path / "songs.parquet"
    pq.write_table(pa.table({"file": ["a.wav", "b.wav"], "end_s": [None, 1.5], "other": [[1], [2]]}), path)
    assert list(read_manifest(path)) == [Item("a.wav"), Item("b.wav", None, 1.5)]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("name\na.wav\n", "no column called path; found name"),
        ("path,start_s\na.wav,x\n", "column start_s: .*expected double"),
        ("path,start_s,end_s\na.wav,0,1\nb.wav,5,5\n", r"row 2 \(b.wav\): end_s 5.0 is not after start_s 5.0"),
        ("path,start_s\na.wav,-1\n", r"row 1 \(a.wav\): start_s -1.0"),
        ("path,id\na.wav,x\nb.wav,\n", r"row 2 \(b.wav\): no id"),
        ("path,id\nNA,x\n,y\n", r"row 2 \(\): no path"),
        ("path,end_s\na.tar,4\n", "a part of a.tar, which is an archive"),
        ("path,id\na.tar,x\na.tar,y\n", r"row 2 \(a.tar\): this archive comes twice"),
        ("path,size\na.wav,much\n", "column size: .*expected double"),
        ("path,path\na.wav,b.wav\n", "2 columns are called path"),
        ("path;id\na.wav;x\n", "no column called path; found path;id. .* with commas"),
        ("path\na.wav\na.wav\nb.wav\n", "a.wav: 2 items are called that"),
        ("path,id\na.wav,x\nb.wav,x\n", "x: 2 items are called that"),
    ],
)
def test_bad_manifest_is_refused_by_row(tmp_path: Path, text: str, match: str) -> None:
    path = tmp_path / "songs.csv"
    path.write_text(text)
    with pytest.raises(OptionError, match=match):
        read_manifest(path)


def test_names_that_look_like_numbers_or_nothing_are_text(tmp_path: Path) -> None:
    path = tmp_path / "songs.csv"
    path.write_bytes("\ufeffpath,id,size\r\n1.50,NA,3\r\nNA,007,\r\nnull,nan,-1\r\n".encode())
    items = read_manifest(path)
    assert list(items) == [Item("1.50", id="NA"), Item("NA", id="007"), Item("null", id="nan")]
    np.testing.assert_array_equal(items.sizes, [3, np.nan, np.nan])


def test_text_in_another_encoding_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "songs.csv"
    for encoding in ("utf-16", "latin-1"):
        path.write_text("path\ncaf\xe9.wav\n", encoding=encoding)
        with pytest.raises(OptionError, match=r"this manifest cannot be read .* CSV in UTF-8"):
            read_manifest(path)


def test_missing_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"nope\.csv: this manifest cannot be read"):
        read_manifest(tmp_path / "nope.csv")


def test_standard_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="standard input cannot be part of a job"):
        from_names(["-"])
    (tmp_path / "songs.csv").write_text("path\na.wav\n-\n")
    with pytest.raises(OptionError, match="standard input cannot be part of a job"):
        read_manifest(tmp_path / "songs.csv")


def test_member_of_an_archive_that_is_an_item_is_refused() -> None:
    with pytest.raises(OptionError, match=r"b\.tar::x\.wav: is in b\.tar, which is an item too"):
        from_names(["a.tar", "c.tar::x.wav", "b.tar::x.wav", "b.tar"])
    assert len(from_names(["a.tar", "c.tar::x.wav", "c::d.wav"])) == 3


def test_names_may_have_line_breaks(tmp_path: Path) -> None:
    """Also where the reader's blocks end within one."""
    path = tmp_path / "songs.csv"
    names = [f"{'x' * 97}\n{number}.wav" for number in range(12_000)]
    path.write_text("path\n" + "".join(f'"{name}"\n' for name in names))
    assert [item.file for item in read_manifest(path)] == names


def test_names_that_no_file_can_have_are_items_without_a_size() -> None:
    names = ["a\0b.wav", f"{'x' * 5000}.wav"]
    items = from_names(names)
    assert [item.file for item in items] == names
    assert np.isnan(items.sizes).all()


def test_parquet_that_is_no_text_is_refused(tmp_path: Path) -> None:
    offsets, text = np.array([0, 3], np.int32).tobytes(), b"a\xff."
    names = pa.StringArray.from_buffers(1, pa.py_buffer(offsets), pa.py_buffer(text))
    pq.write_table(pa.table({"path": names}), tmp_path / "songs.parquet")
    with pytest.raises(OptionError, match=r"songs\.parquet: column path: .*can't decode byte 0xff"):
        read_manifest(tmp_path / "songs.parquet")


def test_name_that_is_no_text_is_refused() -> None:
    with pytest.raises(OptionError, match=r"caf\\udce9.wav: this name is not valid Unicode"):
        from_names(["caf\udce9.wav"])


def test_bytes_of_what_is_no_table_stay_out_of_the_message(tmp_path: Path) -> None:
    path = tmp_path / "song.csv"
    path.write_bytes(b"RIFF\nWAVE,\xff\x00\x1b[31m\x07\n")
    with pytest.raises(OptionError, match="this manifest cannot be read") as caught:
        read_manifest(path)
    assert str(caught.value).isprintable()
    assert "\ufffd" not in str(caught.value)

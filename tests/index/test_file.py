"""Damage is found before USearch sees it."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest

from audioset.errors import RecordError
from audioset.index import build, load

from ._embeddings import clips, write


@pytest.fixture
def index(tmp_path: Path) -> Path:
    build(write(tmp_path / "e.parquet", clips([3, 1, 4])), tmp_path / "e.index", threads=1)
    return tmp_path / "e.index"


def test_any_byte_that_changes_is_found(index: Path) -> None:
    content = index.read_bytes()
    text_at, text_size = struct.unpack("<QI", content[-36:-24])
    places = json.loads(content[text_at : text_at + text_size])["parts"]
    covered = [at for begin, size, _ in places.values() for at in (begin, begin + size // 2, begin + size - 1)]
    covered += [text_at, text_at + text_size // 2, *range(len(content) - 36, len(content))]
    for at in covered:
        damaged = bytearray(content)
        damaged[at] ^= 0x41
        index.write_bytes(damaged)
        with pytest.raises(RecordError, match=r"e.index: (damaged|no index|an index in layout)"):
            load(index)


def test_any_part_of_a_file_is_refused(index: Path) -> None:
    content = index.read_bytes()
    for length in [*range(40), *range(40, len(content), 97), len(content) - 1]:
        index.write_bytes(content[:length])
        with pytest.raises(RecordError, match="no index, or one that was cut short"):
            load(index)
    index.write_bytes(content[100:])
    with pytest.raises(RecordError, match=r"bytes, .* by its footer"):
        load(index)


def test_a_later_layout_is_named(index: Path) -> None:
    content = bytearray(index.read_bytes())
    content[-20:-16] = struct.pack("<I", 2)
    index.write_bytes(content)
    with pytest.raises(RecordError, match="an index in layout 2, this version of audioset reads layout 1"):
        load(index)


def test_a_graph_that_is_not_of_the_tables_is_refused(index: Path, tmp_path: Path) -> None:
    from audioset.index._file import append_tables, open_file
    from audioset.index._graph import Graph

    opened = open_file(index)
    graph = Graph(opened.about.job.embedding_dim)
    graph.add(np.eye(2, 16, dtype=np.float32), 1)
    other = tmp_path / "other.index"
    graph.save(other)
    append_tables(other, opened.about, opened.arrays)
    with pytest.raises(RecordError, match=r"other.index: USearch .* cannot read it \(2 vectors of 16\); expected 8"):
        load(other)


def test_what_is_no_graph_is_refused(index: Path, tmp_path: Path) -> None:
    from audioset.index._file import append_tables, open_file

    opened = open_file(index)
    other = tmp_path / "other.index"
    other.write_bytes(
        b"\1\0\0\0\1\0\0\0 something that is no graph at all, and long enough to have a header of one" * 3
    )
    append_tables(other, opened.about, opened.arrays)
    with pytest.raises(RecordError, match=r"other.index: USearch .* cannot read it"):
        load(other)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda about: [], "its description lacks something"),
        (lambda about: about.update(rows=float("inf")), "its description lacks something: OverflowError"),
        (lambda about: about["parts"].update(names=[0, 1]), "its description lacks something"),
        (lambda about: about["parts"]["names"].__setitem__(0, -5), "names would be 48 bytes from -5 on"),
        (lambda about: about["parts"].update(names=[64, -5, 0]), "names would be -5 bytes from 64 on"),
        (lambda about: about["parts"].update(start_s=[0, 5, 0]), "start_s would be 5 bytes from 0 on"),
        (lambda about: about.update(files=-1), "first_row has 4 entries, not 0"),
        (
            lambda about: about["parts"].update(first_row=about["parts"]["name_end"]),
            "first_row does not go from 0 to 8",
        ),
    ],
)
def test_a_description_with_the_right_checksum_is_not_trusted(index: Path, change: Any, found: str) -> None:
    content = index.read_bytes()
    begin, size = struct.unpack("<QI", content[-36:-24])
    about = json.loads(content[begin : begin + size])
    changed = change(about)
    text = json.dumps(about if changed is None else changed).encode()
    footer = struct.pack("<QII", begin, len(text), google_crc32c.value(text)) + content[-20:]
    index.write_bytes(content[:begin] + text + footer)
    with pytest.raises(RecordError, match=rf"e.index: damaged \({found}"):
        load(index)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.index", tmp_path):
        with pytest.raises(RecordError, match="cannot be opened"):
            load(path)


def test_the_file_begins_with_what_usearch_itself_reads(index: Path) -> None:
    import usearch.index

    restored = usearch.index.Index.restore(str(index))
    assert (len(restored), restored.ndim) == (8, 16)

"""Where records come from: files, folders, patterns and archives; and what is reported of those that are damaged."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audioset.dataset._sources import find_files, read_blocks
from audioset.errors import RecordError
from audioset.records.tfrecord import Damage

from ._released import framed

ONE, TWO, THREE = framed([b"a" * 50, b"b" * 60]), framed([b"c" * 70]), framed([b"d" * 80])


def read(source: object, damages: list[Damage] | None = None, only: Sequence[str] = ()) -> list[str]:
    """The first letter of every record."""
    blocks = read_blocks(source, None if damages is None else damages.append, only=only)  # type: ignore[arg-type]
    return [chr(block.record(index)[0]) for block in blocks for index in range(len(block.starts))]


def tar(members: Mapping[str, bytes], **kinds: bytes) -> bytes:
    """An archive of regular members, and of links or devices by name."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        for name, kind in kinds.items():
            entry = tarfile.TarInfo(f"{name}.tfrecord")
            entry.type = kind
            entry.linkname = "/etc/passwd"
            archive.addfile(entry)
    return stream.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "-x.tfrecord").write_bytes(TWO)
    (tmp_path / "train" / "aA.tfrecord.gz").write_bytes(gzip.compress(THREE))
    (tmp_path / "b.tfrecord").write_bytes(ONE)
    (tmp_path / "notes.txt").write_text("no shard")
    (tmp_path / ".b.tfrecord").write_text("what a download left")
    return tmp_path


def test_a_folder_gives_every_shard_below_it_sorted(folder: Path) -> None:
    assert read(folder) == ["a", "b", "c", "d"]
    assert [os.path.relpath(file, folder) for file in find_files(folder)] == [
        "b.tfrecord", str(Path("train/-x.tfrecord")), str(Path("train/aA.tfrecord.gz")),
    ]  # fmt: skip


def test_of_folders_and_archives_only_shards_that_match_are_read(folder: Path) -> None:
    assert read(folder, only=["train/*"]) == ["c", "d"]
    assert read(folder, only=["a*.gz", "b.*"]) == ["a", "b", "d"]
    assert read(folder / "b.tfrecord", only=["train/*"]) == ["a", "b"]  # named itself
    assert read(f"{folder}/t*", only=["-x.tfrecord"]) == ["c"]
    with pytest.raises(RecordError, match=r"no shards in this folder that match 'test/\*' or 'x'; expected"):
        read(folder, only=["test/*", "x"])
    with pytest.raises(RecordError, match=r"no file matches this pattern and 'x'"):
        read(f"{folder}/t*", only=["x"])

    archive = folder / "features.tar"
    archive.write_bytes(tar({"v1/train/-x.tfrecord": ONE, "v1/eval/-x.tfrecord": TWO, "v1/Eval/-x.tfrecord": THREE}))
    assert read(archive, only=["eval/*"]) == ["c"]
    assert read(archive, only=["v1/Eval/*", "train/*"]) == ["a", "b", "d"]
    with pytest.raises(RecordError, match=r"no shards in this archive that match 'eval'; expected"):
        read(archive, only=["eval"])


def test_patterns_and_lists_keep_their_order_without_repetition(folder: Path) -> None:
    assert read(f"{folder}/train/*.tfrecord") == ["c"]
    assert read(f"{folder}/t*") == ["c", "d"]
    assert read([folder / "train", f"{folder}/*.tfrecord", folder / "train" / "-x.tfrecord"]) == ["c", "d", "a", "b"]


def test_a_name_that_exists_is_no_pattern(tmp_path: Path) -> None:
    (tmp_path / "[a].tfrecord").write_bytes(TWO)
    assert read(tmp_path / "[a].tfrecord") == ["c"]


def test_what_a_file_is_shows_in_its_bytes(tmp_path: Path) -> None:
    for name, content in {
        "x": ONE,
        "y.tfrecord": gzip.compress(TWO),
        "z": gzip.compress(tar({"d.tfrecord": THREE})),
    }.items():
        (tmp_path / name).write_bytes(content)
    assert read([tmp_path / "x", tmp_path / "y.tfrecord", tmp_path / "z"]) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("compressed", [False, True])
def test_an_archive_gives_its_shards_in_its_order_and_unpacks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compressed: bool
) -> None:
    members = {
        "f/aA.tfrecord": TWO,
        "f/Aa.tfrecord": THREE,
        "-C.tfrecord": ONE,
        "../../out.tfrecord": TWO,
        "/abs.tfrecord": TWO,
        "f/" + "n" * 300 + ".tfrecord": THREE,
        "f/read.me": b"no shard",
        "f/._aA.tfrecord": b"what macOS adds",
        "f/empty.tfrecord": b"",
    }
    data = tar(members, link=tarfile.SYMTYPE, hard=tarfile.LNKTYPE, null=tarfile.CHRTYPE, folder=tarfile.DIRTYPE)
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    Path("x.tar").write_bytes(gzip.compress(data) if compressed else data)
    assert read("x.tar") == ["c", "d", "a", "b", "c", "c", "d"]
    assert [path.name for path in tmp_path.rglob("*")] == ["in", "x.tar"]


@pytest.mark.parametrize("compressed", [False, True])
def test_members_that_are_compressed_are_read(tmp_path: Path, compressed: bool) -> None:
    members = {
        "a.tfrecord.gz": gzip.compress(ONE),
        "f/c.tfrecord": TWO,
        "f/d.tfrecord.gz": gzip.compress(THREE),
        "._d.tfrecord.gz": b"what macOS adds",
    }
    data = tar(members, link=tarfile.SYMTYPE)
    (tmp_path / "x.tar").write_bytes(gzip.compress(data) if compressed else data)
    assert read(tmp_path / "x.tar") == ["a", "b", "c", "d"]
    assert read(tmp_path / "x.tar", only=["f/*.gz"]) == ["d"]


def test_of_a_damaged_compressed_member_the_next_one_follows(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).bytes(100_000)
    packed = gzip.compress(framed([b"a" + noise, b"b" + noise]))
    wrong = bytearray(gzip.compress(ONE))
    wrong[-8] ^= 1
    members = {"cut.tfrecord.gz": packed[:-50], "wrong.tfrecord.gz": bytes(wrong), "no.tfrecord.gz": b""}
    (tmp_path / "x.tar").write_bytes(tar({**members, "c.tfrecord.gz": gzip.compress(TWO)}))
    damages: list[Damage] = []
    assert read(tmp_path / "x.tar", damages) == ["a", "a", "b", "c"]
    assert [damage.member for damage in damages] == list(members)
    assert damages[0].offset == len(packed) - 50
    assert damages[0].reason.startswith(f"ends at byte {len(packed) - 50:,}, within the compressed data")
    assert "incorrect data check" in damages[1].reason
    assert damages[2].reason.startswith("holds nothing")


def test_an_archive_that_ends_within_a_compressed_member_is_damage_once(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).bytes(100_000)
    data = tar({"a.tfrecord": ONE, "c.tfrecord.gz": gzip.compress(framed([b"c" + noise, b"d" + noise]))})
    (tmp_path / "x.tar").write_bytes(data[:150_000])
    damages: list[Damage] = []
    assert read(tmp_path / "x.tar", damages) == ["a", "b", "c"]
    assert [str(damage) for damage in damages] == [
        f"{tmp_path / 'x.tar'}: the archive ends at its byte 150,000, within c.tfrecord.gz; it is incomplete, get "
        "it again"
    ]


@pytest.mark.parametrize(("magic", "kind"), [(b"PAR1", "a Parquet"), (b"ARROW1", "an Arrow")])
def test_a_table_is_named_as_what_it_is(folder: Path, magic: bytes, kind: str) -> None:
    (folder / "x").write_bytes(magic + bytes(5000))
    with pytest.raises(RecordError, match=f"x: is {kind} file; expected TFRecords.*FeatureDataset.*convert"):
        read(folder / "x")
    damages: list[Damage] = []
    assert read([folder / "x", folder / "b.tfrecord"], damages) == ["a", "b"]
    assert len(damages) == 1


def test_a_member_with_holes_is_reported_and_the_next_one_follows(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(tar({"a.tfrecord": ONE}, sparse=tarfile.GNUTYPE_SPARSE))
    damages: list[Damage] = []
    assert read(tmp_path / "x.tar", damages) == ["a", "b"]
    assert [str(damage) for damage in damages] == [
        f"{tmp_path / 'x.tar'}: sparse.tfrecord: is stored with holes left out; expected a plain member. "
        "Pack it without `--sparse`"
    ]


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME], ids=["pax", "GNU"])
def test_attributes_of_a_member_that_would_fill_the_memory_are_refused(tmp_path: Path, kind: bytes) -> None:
    entry = tarfile.TarInfo("attributes")
    entry.type, entry.size = kind, 3 << 20
    content = b"%d comment=" % entry.size
    content += b"x" * (entry.size - len(content) - 1) + b"\n"
    path = tmp_path / "x.tar"
    path.write_bytes(entry.tobuf(tarfile.USTAR_FORMAT) + content + tar({"a.tfrecord": ONE}))
    with pytest.raises(RecordError, match="attributes of 3,145,728 bytes"):
        read(path)


def test_names_that_are_not_utf8_are_shown_with_their_bytes(tmp_path: Path) -> None:
    data = tar({"caf\udce9.tfrecord": ONE[:-1]})
    (tmp_path / "x.tar").write_bytes(data)
    damages: list[Damage] = []
    assert read(tmp_path / "x.tar", damages) == ["a"]
    assert [damage.member for damage in damages] == ["caf\\xe9.tfrecord"]


@pytest.mark.skipif(os.name != "posix", reason="needs links without rights")
def test_links_to_folders_are_followed_once(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "e.tfrecord").write_bytes(TWO)
    (folder / "link").symlink_to(elsewhere)
    (elsewhere / "up").symlink_to(folder)
    assert read(folder) == ["a", "b", "c", "c", "d"]


def test_a_folder_that_may_not_be_listed_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def locked(path: str) -> object:
        if str(path).endswith("train"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr("os.scandir", locked)
    with pytest.raises(RecordError, match=r"train: this folder cannot be read \(Permission denied\)"):
        find_files(folder)


def test_gzip_in_several_members_and_with_padding_is_whole(tmp_path: Path) -> None:
    data = tar({"x.tfrecord": ONE, "y.tfrecord": TWO})
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(data[:700]) + gzip.compress(data[700:]) + bytes(5000))
    assert read(tmp_path / "x.tar.gz") == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("gone.tfrecord", r"gone\.tfrecord: does not exist; expected a TFRecord file, a folder"),
        ("*.none", r"\*\.none: no file matches this pattern"),
        ("empty", r"empty: no shards in this folder; expected names ending in \.tfrecord or \.tfrecord\.gz"),
    ],
)
def test_where_there_is_nothing_it_is_said_at_the_call(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecordError, match=reason):
        read_blocks(tmp_path / name, lambda damage: None)


def test_of_a_record_with_wrong_data_the_next_one_follows(tmp_path: Path) -> None:
    data = bytearray(framed([b"a" * 50, b"b" * 60, b"c" * 70]))
    data[66 + 20] ^= 4
    (tmp_path / "x.tfrecord").write_bytes(data)
    damages: list[Damage] = []
    assert read(tmp_path / "x.tfrecord", damages) == ["a", "c"]
    assert [(damage.file, damage.member, damage.offset) for damage in damages] == [
        (str(tmp_path / "x.tfrecord"), None, 66)
    ]
    with pytest.raises(RecordError, match=r"x\.tfrecord: the checksum of the data of the record at byte 66 differs"):
        read(tmp_path / "x.tfrecord")


def test_of_a_damaged_shard_the_next_one_follows(folder: Path) -> None:
    (folder / "b.tfrecord").write_bytes(ONE[:100])
    wrong_length = bytearray(TWO)
    wrong_length[0] ^= 1
    (folder / "train" / "-x.tfrecord").write_bytes(wrong_length)
    (folder / "train" / "z.tfrecord").write_text("<html>Not found</html>")
    damages: list[Damage] = []
    assert read(folder, damages) == ["a", "d"]
    assert [(Path(damage.file).name, damage.offset) for damage in damages] == [
        ("b.tfrecord", 66), ("-x.tfrecord", 0), ("z.tfrecord", 0),
    ]  # fmt: skip
    assert "ends within the record at byte 66: 34 bytes of it, expected 76 or more" in damages[0].reason
    assert "the checksum of the length of the record at byte 0 differs" in damages[1].reason
    assert "is damaged or is no TFRecord file" in damages[2].reason


def test_of_a_file_that_cannot_be_opened_the_next_one_follows(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [folder / "b.tfrecord", folder / "train"]
    blocks = read_blocks(files, (damages := []).append)
    (folder / "b.tfrecord").unlink()
    assert [chr(block.record(0)[0]) for block in blocks] == ["c", "d"]
    assert [str(damage) for damage in damages] == [
        f"{folder / 'b.tfrecord'}: cannot be read (No such file or directory); expected a TFRecord file or an archive"
    ]


def test_a_length_beyond_all_records_is_damage_not_memory(tmp_path: Path) -> None:
    import struct

    from audioset._protobuf import masked_crc32c

    for name, length in (("x", 2**63), ("y", 2**27)):
        header = struct.pack("<Q", length)
        (tmp_path / name).write_bytes(ONE + header + struct.pack("<I", masked_crc32c(header)) + bytes(100))
    damages: list[Damage] = []
    assert read([tmp_path / "x", tmp_path / "y"], damages) == ["a", "b"] * 2
    assert [damage.offset for damage in damages] == [len(ONE)] * 2
    assert f"is {2**63:,} bytes long; expected at most 268,435,456" in damages[0].reason
    assert f"112 bytes of it, expected {2**27 + 16:,} or more" in damages[1].reason


def test_records_longer_than_a_block_are_read_whole(tmp_path: Path) -> None:
    sizes = [10, 3_000_000, 20, 1 << 20, 5]
    (tmp_path / "x").write_bytes(framed([bytes([65 + index]) * size for index, size in enumerate(sizes)]))
    blocks = list(read_blocks(tmp_path / "x"))
    assert [len(block.record(index)) for block in blocks for index in range(len(block.starts))] == sizes
    offsets = [block.offset + start - 12 for block in blocks for start in block.starts.tolist()]
    assert offsets == (np.cumsum([0, *sizes[:-1]]) + 16 * np.arange(5)).tolist()


ARCHIVE = tar({"a.tfrecord": ONE, "x/b.tfrecord": TWO, "c.tfrecord": THREE})


def test_a_damaged_member_is_named_and_the_next_one_follows(tmp_path: Path) -> None:
    data = bytearray(ARCHIVE)
    data[data.index(b"b" * 60)] ^= 1
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(data))
    damages: list[Damage] = []
    assert read(tmp_path / "x.tar.gz", damages) == ["a", "c", "d"]
    assert [(damage.member, damage.offset) for damage in damages] == [("a.tfrecord", 66)]
    with pytest.raises(
        RecordError, match=r"x\.tar\.gz: a\.tfrecord: the checksum of the data of the record at byte 66"
    ):
        read(tmp_path / "x.tar.gz")


@pytest.mark.parametrize(
    ("kept", "letters", "reason"),
    [
        (512 + 70, "a", "the archive ends at its byte 582, within a.tfrecord; it is incomplete"),
        (512 + len(ONE), "ab", "the archive is damaged at its byte 654 (unexpected end of data)"),
        (
            1024,
            "ab",
            "the archive is damaged at its byte 1,024 (empty header where a member's or the end mark belongs)",
        ),
        (1024 + 100, "ab", "the archive is damaged at its byte 1,124 (truncated header where"),
        (3 * 1024, "abcd", "the archive is damaged at its byte 3,072 (empty header where"),
    ],
)
def test_an_archive_cut_short_is_damage(tmp_path: Path, kept: int, letters: str, reason: str) -> None:
    (tmp_path / "x.tar").write_bytes(ARCHIVE[:kept])
    damages: list[Damage] = []
    assert read(tmp_path / "x.tar", damages) == list(letters)
    assert [damage.member for damage in damages] == [None]
    assert reason in damages[0].reason


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("x.tar.gz", b"", "holds nothing; expected records, fetch or write it again"),
        ("x.tfrecord.gz", gzip.compress(b"", mtime=0)[:-9], "ends at byte 11, within the compressed data"),
        ("x.tar", tar({"read.me": b"no shard"}), "no shards in this archive; expected members ending in .tfrecord"),
    ],
)
def test_an_archive_of_nothing_is_damage(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(data)
    damages: list[Damage] = []
    assert read(tmp_path / name, damages) == []
    assert len(damages) == 1
    assert damages[0].reason.startswith(reason)


def test_a_damaged_header_within_an_archive_is_not_its_end(tmp_path: Path) -> None:
    data = bytearray(ARCHIVE)
    data[1024 + 150] ^= 1
    (tmp_path / "x.tar").write_bytes(data)
    damages: list[Damage] = []
    assert read(tmp_path / "x.tar", damages) == ["a", "b"]
    assert "(bad checksum where a member's or the end mark belongs)" in damages[0].reason


def test_damage_of_the_compressed_data_ends_the_archive_and_is_told_as_such(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).bytes(200_000)
    data = gzip.compress(tar({"a.tfrecord": ONE, "b.tfrecord": framed([b"e" + noise, b"f" + noise, b"g" + noise])}))
    (tmp_path / "cut.tar.gz").write_bytes(data[:-70_000])
    damages: list[Damage] = []
    assert read([tmp_path / "cut.tar.gz"], damages) == ["a", "b", "e", "f"]
    [damage] = damages
    assert (damage.member, damage.offset) == (None, len(data) - 70_000)
    assert damage.reason.startswith(f"ends at byte {len(data) - 70_000:,}, within the compressed data; it is incompl")
    (tmp_path / "end.tar.gz").write_bytes(data[:-8] + bytes(4) + data[-4:])
    damages.clear()
    assert read([tmp_path / "end.tar.gz", tmp_path / "cut.tar.gz"], damages) == [*"abefg", *"abef"]
    assert f"the compressed data is damaged at byte {len(data) - 5:,}" in damages[0].reason
    assert "incorrect data check" in damages[0].reason


def test_a_compressed_shard_cut_short_gives_what_comes_before(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).bytes(100_000)
    data = gzip.compress(framed([b"a" + noise, b"b" + noise]))
    (tmp_path / "x.tfrecord.gz").write_bytes(data[:-50])
    damages: list[Damage] = []
    assert read(tmp_path / "x.tfrecord.gz", damages) == ["a"]
    assert [damage.offset for damage in damages] == [len(data) - 50]


def test_bytes_after_compressed_data_are_reported(tmp_path: Path) -> None:
    (tmp_path / "x.gz").write_bytes(gzip.compress(ONE) + b"garbage")
    damages: list[Damage] = []
    assert read(tmp_path / "x.gz", damages) == ["a", "b"]
    assert "incorrect header check" in damages[0].reason


@settings(deadline=None, derandomize=True, max_examples=150)
@given(data=st.data(), compressed=st.booleans())
def test_an_archive_damaged_anywhere_is_read_or_reported(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, compressed: bool
) -> None:
    archive = bytearray(gzip.compress(ARCHIVE, mtime=0) if compressed else ARCHIVE)
    for _ in range(data.draw(st.integers(1, 3))):
        archive[data.draw(st.integers(0, min(len(archive), 3100) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("fuzz") / "x.tar"
    path.write_bytes(archive[: data.draw(st.integers(0, len(archive)))])
    damages: list[Damage] = []
    letters = read(path, damages)
    assert damages or letters in (list("abcd"), list("acd")) or set(letters) <= set("abcd")
    assert all(damage.file == str(path) and damage.offset >= 0 for damage in damages)

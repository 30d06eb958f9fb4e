"""Folders on disks behave as those in object storage do; what storage cannot take is refused."""

from __future__ import annotations

import errno
import importlib.util
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from audioset.errors import AudioError, MissingExtraError, OptionError, OutputError
from audioset.storage import Folder, filesystems, list_audio, open_input, size_of
from audioset.storage.names import location

from .conftest import fail_midway


def test_outputs_are_written_whole(tmp_path: Path) -> None:
    out = Folder.at(tmp_path / "new" / "out")
    assert (out.is_local, out.names()) == (True, [])
    out.write("b.json", b"{}")
    with out.writing("a.parquet") as file:
        file.write(b"half")
        assert out.names() == ["b.json"]
        file.write(b"whole")
    assert out.names() == ["a.parquet", "b.json"]
    assert out.names("*.json") == ["b.json"]
    with out.open("a.parquet") as opened:
        assert (opened.seek(4), opened.read()) == (4, b"whole")
    assert (out.exists("b.json"), out.exists("c")) == (True, False)
    out.delete("b.json")
    out.delete("never there")
    assert out.names() == ["a.parquet"]


def test_of_a_failed_output_nothing_is_left_and_what_was_there_stays(tmp_path: Path) -> None:
    out = Folder.at(tmp_path)
    out.write("a", b"before")
    with pytest.raises(RuntimeError, match="midway"):
        fail_midway(out)
    out.sweep(0)
    assert [path.name for path in tmp_path.rglob("*")] == ["a"]
    assert out.read("a") == b"before"


def test_what_killed_writers_left_is_swept_by_its_age(tmp_path: Path) -> None:
    out = Folder.at(tmp_path)
    for name, age_s in (("old.1", 7200), ("new.2", 0)):
        left = tmp_path / "_tmp" / name
        left.parent.mkdir(exist_ok=True)
        left.write_bytes(b"half")
        os.utime(left, (time.time() - age_s,) * 2)
    out.sweep(3600)
    assert [path.name for path in (tmp_path / "_tmp").iterdir()] == ["new.2"]


def test_what_may_not_be_swept_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "_tmp").mkdir()
    (tmp_path / "_tmp/old.1").touch()

    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    Folder.at(tmp_path).sweep(-1)
    assert (tmp_path / "_tmp/old.1").exists()


def test_a_file_that_goes_while_a_folder_is_listed_hides_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        (tmp_path / name).touch()
    scan = os.scandir

    @contextmanager
    def slow(path: Path) -> Iterator[list[os.DirEntry[str]]]:
        with scan(path) as entries:
            found = list(entries)
        (tmp_path / "b").unlink()
        yield found

    monkeypatch.setattr(os, "scandir", slow)
    assert Folder.at(tmp_path).names() == ["a", "c"]


def test_a_folder_that_may_not_be_searched_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, **_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    out = Folder.at(tmp_path)
    monkeypatch.setattr(Path, "stat", refuse)
    with pytest.raises(OutputError, match=r"_job\.json: cannot be read \(Permission denied\); expected the right"):
        out.exists("_job.json")
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(OutputError, match=r"_job\.json: cannot be written \(Permission denied\)"):
        out.delete("_job.json")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="this user may write everywhere")
def test_temporary_files_of_another_user_are_in_the_way_only_where_there_are_any(tmp_path: Path) -> None:
    out, temporaries = Folder.at(tmp_path), tmp_path / "_tmp"
    temporaries.mkdir(mode=0o555)
    out.write("a", b"1")
    temporaries.rmdir()
    temporaries.mkdir()
    (temporaries / "left").touch()
    temporaries.chmod(0o555)
    with pytest.raises(OutputError, match=r"_tmp: cannot be written \(Permission denied\)"):
        out.write("b", b"1")
    temporaries.chmod(0o755)


def test_a_file_url_is_a_path(tmp_path: Path) -> None:
    out = Folder.at(tmp_path.as_uri() if os.name != "nt" else f"file://{tmp_path}")
    assert out.is_local
    out.write("a.wav", b"1")
    assert size_of(f"file://{tmp_path}/a.wav") == 1


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"gone: .*No such file"):
        Folder.at(tmp_path).read("gone")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"file.*a file is where a folder is wanted"):
        Folder.at(tmp_path / "file").write("a", b"1")
    with pytest.raises(OutputError, match=r"file: cannot be written \(a file is where a folder is wanted\)"):
        Folder.at(tmp_path / "file").names()


def test_web_servers_take_no_outputs() -> None:
    with pytest.raises(OutputError, match=r"https://host/out: a web server takes no outputs"):
        Folder.at("https://host/out")


def test_local_folders_are_listed_with_their_archives(tmp_path: Path) -> None:
    for name in ("b.wav", "a.tar", "._a.tar", "notes.txt", "deep/c.flac"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"123")
    found = list(list_audio(str(tmp_path)))
    assert [Path(entry.name).name for entry in found] == ["a.tar", "b.wav", "c.flac"]
    assert {entry.size for entry in found} == {3}


def test_storage_that_nothing_knows_is_named() -> None:
    with pytest.raises(OptionError, match=r"^nowhere://: nothing here knows this kind of storage"):
        open_input("nowhere://a/b.wav")


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(filesystems, "_opened", {})
    with pytest.raises(
        MissingExtraError, match=r"hf://: huggingface_hub is not installed; .*`pip install huggingface_hub`"
    ):
        filesystems.storage_of(location("hf://datasets/u/r/a.wav"))


def test_any_storage_of_fsspec_is_read_and_written() -> None:
    fsspec = pytest.importorskip("fsspec")
    out = Folder.at("memory://audioset-tests/out")
    try:
        out.write("a.wav", b"123456")
        assert out.names() == ["a.wav"]
        with open_input("memory://audioset-tests/out/a.wav") as file:
            assert (file.seek(2), file.read()) == (2, b"3456")
        assert [entry.size for entry in list_audio("memory://audioset-tests/**/*.wav")] == [6]
        with pytest.raises(AudioError, match="does not exist"):
            open_input("memory://audioset-tests/gone.wav")
    finally:
        fsspec.filesystem("memory").rm("/audioset-tests", recursive=True)


def test_options_errors_are_not_taken_for_missing_files() -> None:
    with pytest.raises(OptionError, match="holds a password"):
        open_input("s3://key:secret@bucket/a.wav")


def test_paths_within_a_storage_need_not_be_those_of_the_url(tmp_path: Path) -> None:
    from pyarrow.fs import LocalFileSystem

    from audioset.storage.arrow import ArrowStorage

    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.wav").write_bytes(b"123")
    storage = ArrowStorage(LocalFileSystem(), "container@account.net", tmp_path.as_posix())
    assert list(storage.files("container@account.net/d", below=True)) == [("container@account.net/d/a.wav", 3)]
    assert storage.open("container@account.net/d/a.wav", 0).read_at(1, 5) == b"23"


def test_azure_is_addressed_by_its_urls() -> None:
    storage = filesystems.storage_of(location("abfs://container@account.dfs.core.windows.net/d/a.wav"))
    assert storage.inner("container@account.dfs.core.windows.net/d/a.wav") == "container/d/a.wav"  # type: ignore[attr-defined]

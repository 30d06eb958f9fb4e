from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from audioset import _files
from audioset._files import replacing, written_whole
from audioset.errors import OutputError, WeightsError


def test_a_file_is_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "new" / "out.bin"
    with written_whole(path) as temporary:
        temporary.write_bytes(b"half")
        assert not path.exists()
    assert path.read_bytes() == b"half"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, WeightsError])
def test_what_was_there_stays_when_the_block_fails(tmp_path: Path, error: type[Exception]) -> None:
    path = tmp_path / "out.bin"
    path.write_bytes(b"old")

    def fail_halfway() -> None:
        with written_whole(path) as temporary:
            temporary.write_bytes(b"new")
            raise error("no")

    with pytest.raises(error, match="no"):
        fail_halfway()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_content_is_on_the_disk_before_its_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.bin"
    seen: list[tuple[int, bool]] = []
    real = os.fsync

    def note(handle: int) -> None:
        seen.append((os.fstat(handle).st_ino, path.exists()))
        real(handle)

    monkeypatch.setattr(os, "fsync", note)
    with replacing(path, tmp_path / "out.tmp") as temporary:
        temporary.write_bytes(b"x")
    expected = [(path.stat().st_ino, False)]
    if os.name == "posix":
        expected.append((tmp_path.stat().st_ino, True))
    assert seen == expected


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    with written_whole(tmp_path / "out.bin") as temporary:
        temporary.write_bytes(b"x")
    assert (tmp_path / "out.bin").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_name_as_long_as_the_system_allows_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 250)
    with written_whole(path) as temporary:
        temporary.write_bytes(b"x")
    assert path.is_file()


def test_a_longer_name_is_reported(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match=r"/x{300}: cannot be written \(.*\); expected .* choose another place"),
        written_whole(tmp_path / ("x" * 300)) as temporary,
    ):
        temporary.write_bytes(b"x")
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_a_folder_is_wanted_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(
            OutputError,
            match=r"out: cannot be written \(a file is where a folder is wanted\); expected a folder, or nothing",
        ),
        written_whole(tmp_path / "file" / "out"),
    ):
        pass


def test_a_full_disk_is_called_so(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="out: the disk is full; expected"), written_whole(tmp_path / "out"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert _files.is_full(OSError(errno.EDQUOT, "quota"))

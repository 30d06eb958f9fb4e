"""What users type for inputs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from audioset.errors import OptionError
from audioset.inputs import expand


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.wav", "a.FLAC", "notes.txt", ".hidden.wav", "deep/er/c.mp3", "odd[1].wav", "-dash.ogg"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return tmp_path


def test_folder_is_searched_recursively_in_sorted_order(folder: Path) -> None:
    names = [Path(name).relative_to(folder).as_posix() for name in expand([str(folder)]).files]
    assert names == ["-dash.ogg", "a.FLAC", "b.wav", "odd[1].wav", "deep/er/c.mp3"]


def test_patterns_match_at_any_depth(folder: Path) -> None:
    assert expand([f"{folder}/**/*.mp3"]).files == (str(folder / "deep/er/c.mp3"),)


def test_a_name_that_exists_is_not_a_pattern(folder: Path) -> None:
    assert expand([str(folder / "odd[1].wav")]).files == (str(folder / "odd[1].wav"),)


def test_a_named_file_is_taken_whatever_its_ending(folder: Path) -> None:
    assert expand([str(folder / "notes.txt")]).files == (str(folder / "notes.txt"),)


def test_repetitions_are_dropped_and_order_kept(folder: Path) -> None:
    wav = str(folder / "b.wav")
    files = expand([wav, "-", wav, str(folder)]).files
    assert files[:2] == (wav, "-")
    assert files.count(wav) == 1


def test_a_file_that_is_not_there_stays_to_be_reported(folder: Path) -> None:
    assert expand([str(folder / "gone.wav")]).files == (str(folder / "gone.wav"),)


def test_patterns_and_folders_without_audio_are_reported(tmp_path: Path) -> None:
    found = expand([f"{tmp_path}/*.wav", str(tmp_path)])
    assert found.files == ()
    assert [str(error).split(": ", 1)[1].split(".")[0].split(";")[0] for _, error in found.missing] == [
        "no file matches this pattern",
        "no audio file in this folder",
    ]


def test_lists_hold_one_argument_a_line(folder: Path) -> None:
    names = folder / "list.txt"
    names.write_text(f"\ufeff# recordings\n{folder / 'b.wav'}\n\n{folder}/*.FLAC\r\n", encoding="utf-8")
    assert expand([], lists=[names]).files == (str(folder / "b.wav"), str(folder / "a.FLAC"))
    names.write_text("one\u2028name.wav\r\nan\x85other.wav\n", encoding="utf-8", newline="")
    assert expand([], lists=[names]).files == ("one\u2028name.wav", "an\x85other.wav")


def test_a_list_that_cannot_be_read_is_refused(folder: Path) -> None:
    with pytest.raises(OptionError, match=r"gone\.txt: cannot read this list"):
        expand([], lists=[folder / "gone.txt"])


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_links_that_lead_back_are_followed_once(folder: Path) -> None:
    (folder / "deep" / "back").symlink_to(folder)
    (folder / "deep" / "er" / "up").symlink_to(folder / "deep")
    assert len(expand([str(folder)]).files) == 5


def test_standard_input_cannot_be_named_twice() -> None:
    with pytest.raises(OptionError, match=r"-: named more than once"):
        expand(["-"], lists=["-"])


def test_a_name_that_is_too_long_stays_to_be_reported() -> None:
    assert expand(["x" * 300]).files == ("x" * 300,)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="this user may read everything")
def test_a_folder_that_cannot_be_read_is_reported_and_the_rest_is_found(folder: Path) -> None:
    (folder / "deep").chmod(0)
    try:
        found = expand([str(folder)])
    finally:
        (folder / "deep").chmod(0o700)
    assert len(found.files) == 4
    assert "cannot be read" in str(found.missing[0][1])


def test_a_folder_that_the_system_refuses_is_reported_and_the_rest_is_found(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def refusing(path: str) -> object:
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    found = expand([str(folder)])
    assert len(found.files) == 4
    assert "deep: this folder cannot be read (Permission denied)" in str(found.missing[0][1])


def test_archives_are_taken_where_named_or_matched_and_from_folders_without_audio(folder: Path) -> None:
    (folder / "a.tar").touch()
    assert not any(name.endswith(".tar") for name in expand([str(folder)]).files)
    assert expand([str(folder / "a.tar")]).files == (str(folder / "a.tar"),)
    assert expand([f"{folder}/*.tar"]).files == (str(folder / "a.tar"),)
    shards = folder / "shards"
    shards.mkdir()
    for name in ("1.zip", "0.tar.gz", "._0.tar.gz", "index.json"):
        (shards / name).touch()
    assert expand([str(shards)]).files == (str(shards / "0.tar.gz"), str(shards / "1.zip"))


def test_members_of_archives_are_no_patterns(folder: Path) -> None:
    (folder / "a.tar").touch()
    name = f"{folder}/a.tar::take [1].wav"
    assert expand([name]).files == (name,)


def test_urls_in_lists_are_taken_as_they_are(folder: Path) -> None:
    names = folder / "list.txt"
    names.write_text("https://host/a b.wav?x=1\ns3://bucket/k.wav\n", encoding="utf-8")
    assert expand([], lists=[names]).files == ("https://host/a b.wav?x=1", "s3://bucket/k.wav")

"""Names to what models read: order, faults, archives as streams, bounds."""

from __future__ import annotations

import errno
import gc
import gzip
import io
import os
import tempfile
import threading
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from audioset import audio
from audioset.errors import AudioError
from audioset.storage import Broken, fetching, open_input, sources
from audioset.storage.archives import Held

from .conftest import tar, wav, zipped
from .servers import WebServer

AUDIO = ["a.wav", "deep/er/b é.wav", "c.wav"]
SECONDS = {"a.wav": 1.0, "deep/er/b é.wav": 1.5, "c.wav": 2.0}


def read(names: Iterable[str], **settings: object) -> dict[str, float | str]:
    """Seconds of sound of each source, or what is wrong with it."""
    found: dict[str, float | str] = {}
    for name, source in sources(names, **settings):  # type: ignore[arg-type]
        assert name not in found
        try:
            found[name] = len(audio.read(source)) / 16_000
        except AudioError as error:
            found[name] = str(error)
    return found


def test_order_is_kept_over_all_kinds(web: WebServer, tmp_path: Path, shard: dict[str, bytes]) -> None:
    (tmp_path / "local.wav").write_bytes(wav(0.5))
    web.files |= {"/x.wav": wav(1.0), "/s.tar": tar(shard), "/y.wav": wav(3.0)}
    local = str(tmp_path / "local.wav")
    names = [f"{web.url}/y.wav", local, f"{web.url}/s.tar", f"{web.url}/gone.wav", f"{web.url}/x.wav"]
    found = read(names)
    members = [f"{web.url}/s.tar::{name}" for name in AUDIO]
    assert list(found) == [names[0], local, *members, *names[3:]]
    assert [found[name] for name in members] == list(SECONDS.values())
    assert "does not exist" in str(found[names[3]])
    assert (found[names[0]], found[local], found[names[4]]) == (3.0, 0.5, 1.0)


def test_local_paths_pass_as_they_are() -> None:
    assert list(sources(["a.wav", "b c.flac"])) == [("a.wav", "a.wav"), ("b c.flac", "b c.flac")]


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tgz", ".zip"])
def test_archives_give_their_audio_alone(tmp_path: Path, shard: dict[str, bytes], suffix: str) -> None:
    path = tmp_path / f"s{suffix}"
    path.write_bytes(zipped(shard) if suffix == ".zip" else tar(shard, "w" if suffix == ".tar" else "w:gz"))
    assert read([str(path)]) == {f"{path}::{name}": seconds for name, seconds in SECONDS.items()}
    for name in AUDIO:
        assert audio.probe(f"{path}::{name}").duration_s == SECONDS[name]
        with open_input(f"{path}::{name}") as file:
            assert file.name == f"{path}::{name}"
            assert file.read() == shard[name]
            file.seek(-4, 2)
            assert file.read() == shard[name][-4:]
    with pytest.raises(AudioError, match=r"::gone\.wav: no such file in the archive"):
        open_input(f"{path}::gone.wav")


def test_a_tar_is_one_request(web: WebServer, shard: dict[str, bytes]) -> None:
    web.files["/s.tar"] = tar(shard)
    assert len(read([f"{web.url}/s.tar"])) == 3
    assert web.requests == [("GET", "/s.tar", None)]


def test_a_stream_that_breaks_is_gone_on_with(web: WebServer, shard: dict[str, bytes]) -> None:
    web.files["/s.tar.gz"] = content = tar(shard, "w:gz")
    web.faults["/s.tar.gz"].extend([503, ("cut", len(content) // 2)])
    assert len(read([f"{web.url}/s.tar.gz"])) == 3
    assert [wanted for _, _, wanted in web.requests] == [None, None, f"bytes={len(content) // 2}-"]


def test_names_to_skip_are_left_out(tmp_path: Path, shard: dict[str, bytes]) -> None:
    path = tmp_path / "s.tar"
    path.write_bytes(tar(shard))
    assert list(read(["x.wav", str(path)], skip={"x.wav", f"{path}::a.wav"})) == [
        f"{path}::{name}" for name in AUDIO[1:]
    ]
    assert read([str(path)], skip={f"{path}::{name}" for name in AUDIO}) == {}
    assert read([str(path)], skip={str(path)}) == {}


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_of_a_cut_archive_what_is_before_the_cut_is_given(tmp_path: Path, shard: dict[str, bytes], mode: str) -> None:
    path = tmp_path / ("s.tar" if mode == "w" else "s.tar.gz")
    content = tar(shard, mode)
    path.write_bytes(content[: len(content) * 3 // 4])
    found = read([str(path), "after.wav"])
    assert list(found) == [*(f"{path}::{name}" for name in AUDIO[:2]), str(path), "after.wav"]
    assert found[f"{path}::a.wav"] == 1.0
    assert "damaged or incomplete from its byte" in str(found[str(path)])


def test_bytes_that_are_no_archive_are_named(tmp_path: Path) -> None:
    for name in ("x.tar", "x.tar.gz", "x.zip"):
        (tmp_path / name).write_bytes(wav(1.0))
    (tmp_path / "empty.tar").touch()
    names = [str(tmp_path / name) for name in ("x.tar", "x.tar.gz", "x.zip", "empty.tar", "gone.tar")]
    found = read(names)
    assert list(found) == names
    assert all("expected a whole" in str(found[name]) for name in names[:4])
    assert "cannot be opened (No such file or directory)" in str(found[names[4]])


def test_a_cut_zip_is_named(tmp_path: Path, shard: dict[str, bytes]) -> None:
    path = tmp_path / "s.zip"
    path.write_bytes(zipped(shard)[:-200])
    assert "damaged or incomplete" in str(read([str(path)])[str(path)])


def test_one_damaged_member_of_a_zip_leaves_the_others(tmp_path: Path, shard: dict[str, bytes]) -> None:
    path = tmp_path / "s.zip"
    content = bytearray(zipped(shard))
    path.write_bytes(content)
    with zipfile.ZipFile(path) as archive:
        at = archive.getinfo("a.wav").header_offset + 500
    content[at : at + 50] = bytes(50)
    path.write_bytes(content)
    found = read([str(path)])
    assert "cannot be unpacked" in str(found[f"{path}::a.wav"])
    assert [found[f"{path}::{name}"] for name in AUDIO[1:]] == [1.5, 2.0]


def test_an_archive_without_audio_is_named(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    path.write_bytes(tar({"a.json": b"{}"}))
    assert "holds no audio" in str(read([str(path)])[str(path)])


def test_of_members_of_one_name_the_first_counts(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    path.write_bytes(tar([("a.wav", wav(1.0)), ("a.wav", wav(2.0))]))
    assert read([str(path)]) == {f"{path}::a.wav": 1.0}
    assert len(audio.read(f"{path}::a.wav")) == 16_000


def test_members_of_an_archive_that_was_replaced_are_the_new_ones(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    path.write_bytes(tar({"a.wav": wav(1.0), "b.wav": wav(2.0)}))
    assert len(audio.read(f"{path}::a.wav")) == 16_000
    before = path.stat()
    path.write_bytes(tar({"b.wav": wav(2.0), "a.wav": wav(1.0)}))
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
    assert len(audio.read(f"{path}::a.wav")) == 16_000


def test_sizes_that_are_no_recordings_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from audioset.storage import archives

    monkeypatch.setattr(archives, "MAX_MEMBER_BYTES", 40_000)
    content = {"big.wav": wav(2.0), "a.wav": wav(1.0)}
    (tmp_path / "s.tar").write_bytes(tar(content))
    (tmp_path / "s.zip").write_bytes(zipped(content))
    found = read([str(tmp_path / "s.tar"), str(tmp_path / "s.zip")])
    refused = [said for said in found.values() if "no plausible recording" in str(said)]
    assert len(refused) == 2
    assert list(found.values()).count(1.0) == 2


def test_silence_compresses_well_and_is_no_bomb(tmp_path: Path) -> None:
    path = tmp_path / "s.zip"
    silent = wav(1.0)[:44] + bytes(32_000)
    path.write_bytes(zipped({"a.wav": silent}))
    assert read([str(path)]) == {f"{path}::a.wav": 1.0}


def test_members_never_touch_the_disk_by_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "s.tar"
    path.write_bytes(tar({"../../out.wav": wav(1.0), "/abs/x.wav": wav(1.0)}))
    assert list(read([str(path)]).values()) == [1.0, 1.0]
    assert [found.name for found in tmp_path.iterdir()] == ["s.tar"]


def test_memory_is_bounded_and_nothing_waits_for_ever(web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_PATIENCE_S", 0.05)
    web.files["/s.tar"] = tar({f"{number}.wav": wav(1.0) for number in range(20)})
    kept = list(sources([f"{web.url}/s.tar"], max_bytes=200_000))  # nothing is closed meanwhile
    in_memory = [source for _, source in kept if isinstance(source, Held)]
    assert 0 < len(in_memory) <= 200_000 // 32_044
    assert len(kept) == 20
    assert all(len(audio.read(source)) == 16_000 for _, source in kept)


def test_memory_is_given_back_with_the_files(web: WebServer) -> None:
    names = [f"{web.url}/{number}.wav" for number in range(8)]
    web.files |= {f"/{number}.wav": wav(1.0) for number in range(8)}
    limit = 2 * fetching.SMALL_BYTES + 100_000  # room for one at a time
    kinds = [type(source) for _, source in sources(names, max_bytes=limit)]
    assert kinds == [Held] * 8


def test_large_objects_are_read_as_they_are_needed(web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "SMALL_BYTES", 100_000)
    web.files["/long.wav"] = wav(60.0)
    ((name, source),) = sources([f"{web.url}/long.wav"])
    assert name == source.name == f"{web.url}/long.wav"  # type: ignore[union-attr]
    assert web.sent_bytes <= 200_000
    assert len(audio.read(source)) == 960_000


def test_leaving_early_closes_everything(web: WebServer, shard: dict[str, bytes]) -> None:
    web.files |= {f"/{number}.tar": tar(shard) for number in range(50)}
    given = sources([f"{web.url}/{number}.tar" for number in range(50)])
    next(given)
    given.close()  # type: ignore[attr-defined]
    gc.collect()
    assert not [thread for thread in threading.enumerate() if thread.name == "audioset-fetch" and thread.is_alive()]
    assert len(web.requests) < 10


def test_names_are_taken_as_they_are_needed(web: WebServer) -> None:
    taken = 0

    def endless() -> Iterable[str]:
        nonlocal taken
        while True:
            taken += 1
            yield f"{web.url}/gone{taken}.wav"

    given = sources(endless(), connections=4)
    _, source = next(iter(given))
    assert isinstance(source, Broken)
    given.close()  # type: ignore[attr-defined]
    assert taken <= 5


def test_a_broken_source_says_what_is_wrong_and_no_more(web: WebServer) -> None:
    ((name, source),) = sources([f"{web.url}/gone.wav"])
    with pytest.raises(AudioError) as raised:
        audio.probe(source)
    assert str(raised.value).count(name) == 1


def test_a_fault_while_decoding_is_told_as_it_is(web: WebServer) -> None:
    web.files["/a.wav"] = wav(60.0)
    web.faults["/a.wav"].extend([("cut", 10**9), 403])
    with pytest.raises(AudioError, match=r"^http://[^ ]*/a\.wav: access denied"):
        audio.read(f"{web.url}/a.wav")


def test_local_names_are_taken_one_by_one() -> None:
    taken = []

    def names() -> Iterable[str]:
        for name in ("a.wav", "b.wav"):
            taken.append(name)
            yield name

    given = iter(sources(names()))
    assert next(given)[0] == "a.wav"
    assert taken == ["a.wav"]


def test_a_password_spoils_one_name_and_no_batch() -> None:
    found = read(["s3://key:secret@bucket/a.tar", "gone.wav"])
    assert "holds a password" in str(found["s3://key:secret@bucket/a.tar"])
    assert len(found) == 2


def test_an_archive_is_no_recording_and_the_message_says_what_to_name(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    path.write_bytes(tar({"a.wav": wav(1.0)}))
    with pytest.raises(
        AudioError, match=r"s\.tar: is an archive; expected one recording\. Name one in it, .*s\.tar::NAME"
    ):
        audio.read(path)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_that_may_have_been_cut_between_members_is_read_with_a_warning(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("s.tar" if mode == "w" else "s.tar.gz")
    content = tar({"a.wav": wav(1.0), "b.wav": wav(1.0)})
    content = content[: 2 * (512 + 32_256)]  # without the blocks of zeros at the end
    path.write_bytes(content if mode == "w" else gzip.compress(content))
    with pytest.warns(UserWarning, match=rf"{path.name}: lacks the mark at the end of a tar archive"):
        assert read([str(path)]) == {f"{path}::a.wav": 1.0, f"{path}::b.wav": 1.0}
    path.write_bytes(tar({"a.wav": wav(1.0)}, mode))
    assert len(read([str(path)])) == 1  # and no warning


def test_what_comes_after_the_end_of_a_tar_is_told(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    path.write_bytes(tar({"a.wav": wav(1.0)}) + tar({"b.wav": wav(1.0)}))
    with pytest.warns(UserWarning, match=r"s\.tar: goes on after the mark at its end"):
        assert read([str(path)]) == {f"{path}::a.wav": 1.0}


@pytest.mark.parametrize("suffix", ["tar", "zip"])
def test_full_disk_of_temporary_files_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    class Full(io.BytesIO):
        def write(self, data: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", Full)
    monkeypatch.setattr(fetching, "_MAX_MEMBER_IN_MEMORY", 40_000)
    content = {"a.wav": wav(1.0), "big.wav": wav(2.0)}
    path = tmp_path / f"s.{suffix}"
    path.write_bytes(tar(content) if suffix == "tar" else zipped(content))
    found = read([str(path)])
    assert found[f"{path}::a.wav"] == 1.0
    refused = found[str(path) if suffix == "tar" else f"{path}::big.wav"]
    assert "temporary files: the disk is full" in str(refused)
    assert "TMPDIR" in str(refused)

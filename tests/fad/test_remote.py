"""Recordings in archives, object storage and on web servers are measured like files, embedded once where possible."""

from __future__ import annotations

import io
import json
import os
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tests.storage.servers import ObjectStore, WebServer

import audioset
from audioset import storage
from audioset.errors import AudioError
from audioset.fad import embed_files, statistics_of
from audioset.fad.embedding import Embedded, base_of
from audioset.models.spec import ModelSpec

pytestmark = pytest.mark.filterwarnings("ignore::audioset.weights.UntrainedWeightsWarning")


@pytest.fixture
def model(tiny: ModelSpec) -> audioset.Model:
    return audioset.load("tiny", "untrained:0", threads=1)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of what is given to the model."""
    names: list[str] = []
    whole = storage.sources

    def noting(*arguments: Any, **options: Any) -> Iterator[tuple[str, Any]]:
        for name, source in whole(*arguments, **options):
            names.append(name)
            yield name, source

    monkeypatch.setattr(storage, "sources", noting)
    return names


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    from audioset.storage import troubles

    monkeypatch.setattr(troubles, "FIRST_WAIT_S", 0.001)


def wav(seed: int, seconds: float = 2.0) -> bytes:
    file = io.BytesIO()
    noise = 0.1 * np.random.default_rng(seed).standard_normal(round(16_000 * seconds))
    soundfile.write(file, noise, 16_000, format="WAV")
    return file.getvalue()


SOUNDS = {"a.wav": wav(0), "deep/b é.wav": wav(1, 3.0), "c.wav": wav(2, 1.0)}


def tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def rows(found: Embedded) -> np.ndarray:
    return np.concatenate([block.values for block in found.source.blocks()])


def names(found: Embedded) -> list[str]:
    return [name for block in found.source.blocks() for name in block.names]


@contextmanager
def stopped_after(blocks: int, model: audioset.Model, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Expect a Ctrl-C after so many blocks."""
    whole = model.embed_blocks

    def stopped(sources: Any, options: Any) -> Iterator[Any]:
        for count, block in enumerate(whole(sources, options)):
            if count == blocks:
                raise KeyboardInterrupt
            yield block

    with monkeypatch.context() as patch:
        patch.setattr(model, "embed_blocks", stopped)
        with pytest.raises(KeyboardInterrupt):
            yield


def expected(model: audioset.Model, *sounds: bytes) -> np.ndarray:
    return np.concatenate([model.embed(io.BytesIO(sound)).values for sound in sounds])


def test_objects_are_embedded_once(model: audioset.Model, store: ObjectStore, read: list[str]) -> None:
    urls = [store.put(f"gen/{name}", content) for name, content in SOUNDS.items()]
    store.put("gen/bad.wav", b"hello")
    for reused in (0, 3):
        found = embed_files(model, "s3://bucket/gen/")
        assert (names(found), found.reused) == (sorted(urls), reused)
        np.testing.assert_array_equal(rows(found), expected(model, *(SOUNDS[name] for name in sorted(SOUNDS))))
        assert [failure.file for failure in found.failures] == ["s3://bucket/gen/bad.wav"]
    assert sorted(read) == sorted([*urls, *["s3://bucket/gen/bad.wav"] * 2])
    read.clear()
    store.put("gen/a.wav", wav(3, 1.5))
    with store.counted() as requests:
        changed = embed_files(model, [*urls, "s3://bucket/gen/gone.wav"])
    assert changed.reused == 2
    assert [failure.file for failure in changed.failures] == ["s3://bucket/gen/gone.wav"]
    assert read == [urls[0], "s3://bucket/gen/gone.wav"]
    assert requests["HEAD"] <= 8  # each is asked for its time, and what has changed for its size


def test_objects_that_have_changed_are_dropped(model: audioset.Model, store: ObjectStore, isolated_cache: Path) -> None:
    other = store.put("again/other.wav", wav(9))
    for seed in range(3):
        url = store.put("again/a.wav", wav(seed, 1.0 + seed))
        np.testing.assert_array_equal(rows(embed_files(model, url)), expected(model, wav(seed, 1.0 + seed)))
        embed_files(model, other)
    assert len(list(isolated_cache.glob("fad/*/*/*.parquet"))) == 2  # of objects that were not asked for, too


def test_an_archive_in_object_storage_is_read_once(
    model: audioset.Model, store: ObjectStore, tmp_path: Path, read: list[str]
) -> None:
    url = store.put("shard.tar", tar(tmp_path / "shard.tar", SOUNDS).read_bytes())
    first = embed_files(model, url)
    np.testing.assert_array_equal(rows(first), expected(model, *SOUNDS.values()))
    assert names(first) == [f"{url}::{name}" for name in SOUNDS]
    with store.counted() as requests:
        assert embed_files(model, url).reused == 3
    assert (requests["HEAD"], requests["GET"]) == (1, 0)
    assert len(read) == 3


def test_what_web_servers_give_is_embedded_in_each_run(
    model: audioset.Model, web: WebServer, tmp_path: Path, read: list[str], isolated_cache: Path
) -> None:
    web.files = {f"/{n}.wav": content for n, content in enumerate(SOUNDS.values())}
    (tmp_path / "d.wav").write_bytes(wav(3))
    asked = [f"{web.url}/0.wav", str(tmp_path / "d.wav"), f"{web.url}/gone.wav", f"{web.url}/1.wav"]
    for reused in (0, 1):
        found = embed_files(model, asked)
        assert (names(found), found.reused) == ([asked[0], asked[1], asked[3]], reused)
        [failure] = found.failures
        assert failure.file == asked[2]
        assert "404" in failure.reason
        sounds = list(SOUNDS.values())
        np.testing.assert_array_equal(rows(found), expected(model, sounds[0], wav(3), sounds[1]))
    assert read.count(asked[0]) == 2
    assert read.count(asked[1]) == 1
    scratch = found.source._scratch.path  # type: ignore[attr-defined]
    assert list(scratch.iterdir())
    del found
    assert not scratch.exists()  # with the last who could read it
    assert len(list(isolated_cache.glob("fad/*/*/*.parquet"))) == 1


def test_a_web_server_is_asked_once_in_a_run(model: audioset.Model, web: WebServer, read: list[str]) -> None:
    from audioset.fad import cache_folder
    from audioset.fad.embedding import Embedder

    web.files["/shard.zip"] = b""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in SOUNDS.items():
            archive.writestr(name, content)
    web.files["/shard.zip"] = file.getvalue()
    info = embed_files(model, [_file(web, "x.wav")]).source.info
    assert info is not None
    read.clear()
    embedder = Embedder(info, lambda: model, cache_folder())
    url = f"{web.url}/shard.zip"
    for _ in range(2):
        assert names(embedder.embed(url, [url], base_of([url]))) == [f"{url}::{name}" for name in SOUNDS]
    assert len(read) == 3


def _file(web: WebServer, name: str) -> str:
    web.files[f"/{name}"] = wav(0, 1.0)
    return f"{web.url}/{name}"


@pytest.mark.parametrize("ending", ["tar", "zip"])
def test_an_archive_on_a_disk_is_read_once(
    ending: str, model: audioset.Model, tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"shard.{ending}"
    if ending == "tar":
        tar(path, {**SOUNDS, "a.json": b"{}"})
    else:
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in SOUNDS.items():
                archive.writestr(name, content)
    monkeypatch.chdir(tmp_path)
    for reused in (0, 3):
        found = embed_files(model, path.name)
        assert (names(found), found.reused) == ([f"{path.name}::{name}" for name in SOUNDS], reused)
        np.testing.assert_array_equal(rows(found), expected(model, *SOUNDS.values()))
    one = embed_files(model, f"{path}::c.wav")  # by its name, on another way
    assert (names(one), one.reused) == ([f"{path}::c.wav"], 1)
    both = embed_files(model, [f"{path}::c.wav", path])  # each counts once
    assert (both.source.num_files, both.reused) == (3, 3)
    assert len(read) == 3


def test_a_member_is_there_for_its_archive(model: audioset.Model, tmp_path: Path, read: list[str]) -> None:
    path = tar(tmp_path / "shard.tar", SOUNDS)
    embed_files(model, f"{path}::c.wav")
    found = embed_files(model, [path, f"{path}::a.wav"])
    assert (found.source.num_files, found.reused) == (3, 1)
    assert sorted(set(read)) == sorted(f"{path}::{name}" for name in SOUNDS)
    assert [
        failure for failure in embed_files(model, [path, f"{path}::gone.wav"]).failures if "no such" in failure.reason
    ]


def test_archives_with_failures_are_read_again(
    model: audioset.Model, tmp_path: Path, read: list[str], isolated_cache: Path
) -> None:
    path = tar(tmp_path / "shard.tar", {**SOUNDS, "bad.wav": b"hello"})
    cut = tar(tmp_path / "cut.tar", SOUNDS)
    cut.write_bytes(cut.read_bytes()[: -len(SOUNDS["c.wav"]) - 4000])
    for reused in (0, 5):
        found = embed_files(model, [path, cut])
        assert (found.source.num_files, found.reused) == (5, reused)
        assert [Path(failure.file).name for failure in found.failures] == ["shard.tar::bad.wav", "cut.tar"]
    assert [Path(name).name for name in read[-2:]] == ["shard.tar::bad.wav", "cut.tar"]  # nothing else
    assert len(read) == 9
    assert not list(isolated_cache.glob("fad/*/*/*.json"))


def test_an_archive_that_has_changed_is_another_one(
    model: audioset.Model, tmp_path: Path, isolated_cache: Path
) -> None:
    for number in range(3):
        path = tar(tmp_path / "shard.tar", {"a.wav": wav(number), f"{number}.wav": wav(9)})
        os.utime(path, ns=(number, number))
        found = embed_files(model, path)
        np.testing.assert_array_equal(rows(found), expected(model, wav(number), wav(9)))
        assert found.reused == 0
        for pattern in ("*.parquet", "*.json"):
            assert len(list(isolated_cache.glob(f"fad/*/*/{pattern}"))) == 1  # what is out of date is removed


def test_a_list_of_members_that_is_damaged_is_made_again(
    model: audioset.Model, tmp_path: Path, isolated_cache: Path
) -> None:
    path = tar(tmp_path / "shard.tar", SOUNDS)
    embed_files(model, path)
    (listed,) = isolated_cache.glob("fad/*/*/*.json")
    for damaged in ("", "[]", json.dumps({"archive": "another", "members": []})):
        listed.write_text(damaged)
        assert embed_files(model, path).reused == 3
        assert json.loads(listed.read_text())["members"] == list(SOUNDS)


def test_what_a_stopped_run_read_of_an_archive_is_kept(
    model: audioset.Model, tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tar(tmp_path / "shard.tar", SOUNDS)
    with stopped_after(2, model, monkeypatch):
        embed_files(model, path)
    read.clear()
    found = embed_files(model, path)
    np.testing.assert_array_equal(rows(found), expected(model, *SOUNDS.values()))
    assert read == [f"{path}::c.wav"]


def test_what_failed_before_a_run_was_stopped_is_tried_by_the_next(
    model: audioset.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the run that goes on it is named, with the same reason."""
    paths = []
    for name, content in SOUNDS.items():
        paths.append(tmp_path / Path(name).name)
        paths[-1].write_bytes(content)
    whole = storage.sources

    def failing(given: list[str], **_: Any) -> Iterator[tuple[str, Any]]:
        yield given[0], storage.Broken(given[0], AudioError(f"{given[0]}: not now"))
        yield from ((name, name) for name in given[1:])

    monkeypatch.setattr(storage, "sources", failing)
    with stopped_after(2, model, monkeypatch):
        embed_files(model, paths)
    monkeypatch.setattr(storage, "sources", whole)
    found = embed_files(model, paths)
    assert (found.source.num_files, [failure.reason for failure in found.failures]) == (2, [f"{paths[0]}: not now"])
    found = embed_files(model, paths)
    assert (found.source.num_files, found.failures) == (3, ())
    np.testing.assert_array_equal(rows(found), expected(model, *SOUNDS.values()))
    assert statistics_of(found.source).files == 3


def test_an_archive_that_failed_before_a_run_was_stopped_is_read_again(
    model: audioset.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, isolated_cache: Path
) -> None:
    path = tar(tmp_path / "shard.tar", {"bad.wav": b"hello", **SOUNDS})
    one = tmp_path / "z.wav"
    one.write_bytes(wav(9))
    whole = storage.sources

    def failing(given: list[str], **options: Any) -> Iterator[tuple[str, Any]]:
        members = whole(given[:1], **options)
        yield from (next(members) for _ in range(3))
        yield given[0], storage.Broken(given[0], AudioError(f"{given[0]}: not now"))
        yield given[1], given[1]

    monkeypatch.setattr(storage, "sources", failing)
    with stopped_after(4, model, monkeypatch):
        embed_files(model, [path, one])
    monkeypatch.setattr(storage, "sources", whole)
    for _ in range(2):
        found = embed_files(model, [path, one])
        assert names(found) == [*(f"{path}::{name}" for name in SOUNDS), str(one)]
        np.testing.assert_array_equal(rows(found), expected(model, *SOUNDS.values(), wav(9)))
        assert [failure.file for failure in found.failures] == [f"{path}::bad.wav"]
        assert not list(isolated_cache.glob("fad/*/*/*.json"))


def test_an_archive_of_nothing_is_named(model: audioset.Model, tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"shard.tar: holds no audio"):
        embed_files(model, tar(tmp_path / "shard.tar", {"a.txt": b"hello"}))
    with pytest.raises(AudioError, match=r"gone.tar: No such file"):
        embed_files(model, str(tmp_path / "gone.tar"))


def test_folders_stay_what_they_are_when_recordings_are_added(tmp_path: Path) -> None:
    (tmp_path / "gen").mkdir()
    local = str(tmp_path / "gen")
    assert {base_of([f"{local}{end}"]) for end in ("", "/*.wav", "/a.wav", "/a.tar::deep/b.wav")} == {local}
    remote = base_of(["s3://bucket/gen/"])
    assert {base_of([f"s3://bucket/gen/{end}"]) for end in ("*.wav", "a.wav", "a.tar::deep/b.wav")} == {remote}
    assert remote != base_of(["s3://bucket/ref/"])
    assert base_of(["s3://bucket/gen/", local])

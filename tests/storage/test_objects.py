"""Object storage: moto's S3 server on this machine."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import audioset
from audioset import audio
from audioset.errors import AudioError, OutputError
from audioset.inputs import expand
from audioset.models.spec import ModelSpec
from audioset.storage import Entry, Folder, folder, list_audio, open_input, size_of, sources
from audioset.weights import UntrainedWeightsWarning

from .conftest import fail_midway, tar, wav
from .servers import ObjectStore, WebServer

ODD_KEYS = ["a b.wav", "d/é#1?.wav", "d/x%20y.wav", "d/[z].wav"]


@pytest.fixture
def clips(store: ObjectStore) -> str:
    """The URL of a prefix with odd keys, and a file that is no audio."""
    if not store.keys("clips"):
        for key in ODD_KEYS:
            store.put(f"clips/{key}", wav(1.0))
        store.put("clips/notes.txt", b"none")
    return "s3://bucket/clips"


@pytest.fixture
def shards(store: ObjectStore, shard: dict[str, bytes]) -> str:
    """The URL of a prefix with two archives, one of them cut."""
    if not store.keys("shards"):
        store.put("shards/0.tar", tar(shard))
        store.put("shards/1.tar", tar(shard)[:50_000])
    return "s3://bucket/shards"


def test_a_prefix_is_listed_in_order_with_sizes(clips: str) -> None:
    expected = [Entry(f"{clips}/{key}", 32_044) for key in ("a b.wav", "d/[z].wav", "d/x%20y.wav", "d/é#1?.wav")]
    assert list(list_audio(f"{clips}/")) == expected
    assert list(list_audio(clips)) == expected


def test_patterns_match_keys(clips: str, store: ObjectStore) -> None:
    assert expand([f"{clips}/*.wav"]).files == (f"{clips}/a b.wav",)
    assert expand([f"{clips}/*"]).files == (f"{clips}/a b.wav", f"{clips}/notes.txt")
    assert expand([f"{clips}/**/x*"]).files == (f"{clips}/d/x%20y.wav",)


def test_a_pattern_in_one_folder_does_not_list_what_is_below(clips: str, store: ObjectStore) -> None:
    with store.counted() as requests:
        assert len(list(list_audio("s3://bucket/*.none"))) == 0
    assert requests == {"GET": 1}


def test_a_key_that_exists_is_no_pattern(clips: str) -> None:
    assert expand([f"{clips}/d/[z].wav"]).files == (f"{clips}/d/[z].wav",)


def test_single_objects_are_taken_without_a_request(store: ObjectStore) -> None:
    with store.counted() as requests:
        assert expand(["s3://bucket/gone.wav", "https://host/a.wav?x=*"]).files == (
            "s3://bucket/gone.wav",
            "https://host/a.wav?x=*",
        )
    assert not requests


def test_archives_are_taken_where_there_is_nothing_else(shards: str, clips: str) -> None:
    assert expand([f"{shards}/"]).files == (f"{shards}/0.tar", f"{shards}/1.tar")
    assert not any(name.endswith(".tar") for name in expand(["s3://bucket/"]).files)


def test_what_cannot_be_listed_is_reported_and_the_rest_is_found(clips: str) -> None:
    found = expand(["s3://bucket/none/", "https://host/audio/", f"{clips}/*.wav"])
    assert found.files == (f"{clips}/a b.wav",)
    assert [str(error).split(";")[0] for _, error in found.missing] == [
        "s3://bucket/none/: no audio file and no archive there",
        "https://host/audio/: web servers cannot be listed",
    ]


@pytest.mark.parametrize("key", ODD_KEYS)
def test_keys_of_any_letters_are_read(clips: str, key: str) -> None:
    assert len(audio.read(f"{clips}/{key}")) == 16_000
    assert size_of(f"{clips}/{key}") == 32_044


def test_models_take_urls(clips: str, tiny: ModelSpec, tmp_path: Path) -> None:
    with pytest.warns(UntrainedWeightsWarning):
        model = audioset.load("tiny", "untrained:0")
    (tmp_path / "a.wav").write_bytes(wav(1.0))
    assert (model.embed(f"{clips}/a b.wav").values == model.embed(tmp_path / "a.wav").values).all()


def test_an_archive_is_one_stream_and_its_damage_is_named(shards: str, store: ObjectStore) -> None:
    with store.counted() as requests:
        found = dict(sources([f"{shards}/0.tar", f"{shards}/1.tar"]))
    assert requests == {"HEAD": 2, "GET": 2}
    assert list(found) == [
        *(f"{shards}/0.tar::{name}" for name in ("a.wav", "deep/er/b é.wav", "c.wav")),
        f"{shards}/1.tar::a.wav",
        f"{shards}/1.tar",
    ]
    with pytest.raises(AudioError, match=r"1\.tar: damaged or incomplete from its byte 50,000 on"):
        audio.read(found[f"{shards}/1.tar"])


def test_members_are_read_by_name(shards: str, shard: dict[str, bytes]) -> None:
    with open_input(f"{shards}/0.tar::c.wav") as file:
        assert file.read() == shard["c.wav"]
    assert len(audio.read(f"{shards}/0.tar::deep/er/b é.wav")) == 24_000


def test_what_is_not_there_is_named(store: ObjectStore, clips: str) -> None:
    with pytest.raises(AudioError, match=r"s3://bucket/gone\.wav: does not exist \(nothing of this name is there\)"):
        audio.read("s3://bucket/gone.wav")
    with pytest.raises(AudioError, match=r"s3://bucket/clips: does not exist .* the name of a folder ends in /"):
        audio.read(clips)
    with pytest.raises(AudioError, match=r"s3://bucket/clips/: is a folder; .* To list it, end it with /"):
        audio.read(f"{clips}/")


def test_faults_of_the_storage_are_waited_out_or_named(web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", web.url)
    web.files["/bucket/a.wav"] = wav(1.0)
    web.faults["/bucket/a.wav"].append(500)
    assert len(audio.read("s3://bucket/a.wav")) == 16_000
    web.faults["/bucket/a.wav"].append(403)
    with pytest.raises(
        AudioError, match=r"a\.wav: access denied .*ACCESS_DENIED.* for a public bucket add \?anonymous=1"
    ):
        audio.read("s3://bucket/a.wav")


def test_public_buckets_need_no_credentials(web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", web.url)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    web.files["/bucket/a.wav"] = wav(1.0)
    assert len(audio.read("s3://bucket/a.wav?anonymous=1")) == 16_000


def test_the_endpoint_may_stand_in_the_url(store: ObjectStore, clips: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    address = store.endpoint.removeprefix("http://")
    url = f"{clips}/a b.wav?endpoint_override={address}&scheme=http&region=us-east-1"
    assert len(audio.read(url)) == 16_000
    query = url.partition("?")[2]
    assert [entry.name for entry in list_audio(f"{clips}/*.wav?{query}")] == [url]


def test_outputs_are_written_whole(store: ObjectStore) -> None:
    out = Folder.at("s3://bucket/out/")
    assert (out.name, out.is_local, out.names()) == ("s3://bucket/out", False, [])
    out.write("b.json", b"{}")
    with out.writing("a.parquet") as file:
        pq.write_table(pa.table({"x": [1, 2]}), file)
    assert out.names() == ["a.parquet", "b.json"]
    assert out.names("*.json") == ["b.json"]
    assert out.read("b.json") == b"{}"
    with out.open("a.parquet") as file:
        assert pq.read_table(file)["x"].to_pylist() == [1, 2]
    out.write("b.json", b"[]")
    assert out.read("b.json") == b"[]"
    assert (out.exists("b.json"), out.exists("c")) == (True, False)
    for name in ("a.parquet", "b.json", "never there"):
        out.delete(name)
    assert store.keys("out") == []


def test_a_small_output_is_one_request(store: ObjectStore) -> None:
    out = Folder.at("s3://bucket/one")
    out.names()
    with store.counted() as requests:
        out.write("a", b"1")
    assert requests == {"PUT": 1}


def test_a_large_output_is_uploaded_under_another_name(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "_ONE_WRITE_BYTES", 1000)
    content = os.urandom(3500)
    out = Folder.at("s3://bucket/large")
    out.write("a", content)
    assert out.read("a") == content
    assert store.keys("large") == ["large/a"]


@pytest.mark.parametrize("limit", [1 << 22, 10])
def test_of_a_failed_output_nothing_is_left(store: ObjectStore, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(folder, "_ONE_WRITE_BYTES", limit)
    with pytest.raises(RuntimeError, match="midway"):
        fail_midway(Folder.at("s3://bucket/failed"))
    assert store.keys("failed") == []


def test_an_upload_that_breaks_leaves_nothing(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    class Breaking(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell():
                raise OSError(5, "disk")
            return super().read(size)

    monkeypatch.setattr(folder, "_ONE_WRITE_BYTES", 1000)
    out = Folder.at("s3://bucket/broken")
    with pytest.raises(OutputError, match=r"s3://bucket/broken/a: failed \(.*disk"):
        out._upload(Breaking(bytes(5000)), "a")
    assert store.keys("broken") == []


def test_what_killed_writers_left_is_swept(store: ObjectStore) -> None:
    store.put("swept/_tmp/a.1234", b"half")
    store.put("swept/a", b"whole")
    out = Folder.at("s3://bucket/swept")
    out.sweep(3600)
    assert store.keys("swept") == ["swept/_tmp/a.1234", "swept/a"]
    out.sweep(-1)
    assert store.keys("swept") == ["swept/a"]


def test_a_bucket_that_is_not_there_is_named(store: ObjectStore) -> None:
    with pytest.raises(OutputError, match=r"s3://nobody-has-it/out/a: does not exist .*Check the name of the bucket"):
        Folder.at("s3://nobody-has-it/out").write("a", b"1")


def test_listing_tells_the_sizes_of_inputs(clips: str) -> None:
    assert expand([f"{clips}/"]).sizes == {f"{clips}/{key}": 32_044 for key in ODD_KEYS}

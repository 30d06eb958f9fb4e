"""Jobs whose recordings and whose output are on object storage and web servers."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

import audioset
from audioset import EmbedOptions, Model, jobs
from audioset.models.spec import ModelSpec
from audioset.storage import Folder

from .conftest import tar, wav
from .servers import ObjectStore, WebServer

pytestmark = pytest.mark.filterwarnings("ignore::audioset.weights.UntrainedWeightsWarning")

AUDIO = ("a.wav", "deep/er/b é.wav", "c.wav")


@pytest.fixture
def model(tiny: ModelSpec) -> Model:
    return audioset.load("tiny", "untrained:0", threads=1)


def run(items: jobs.Items, out: str, model: Model, *, retry_failed: bool = False) -> jobs.Summary:
    output = jobs.begin(items, out, jobs.describe_model(model, EmbedOptions()), workers=2)
    return jobs.run_here(jobs.Plan(items, output, retry_failed=retry_failed), model, EmbedOptions())


def read(out: str) -> dict[tuple[str, float], list[float]]:
    folder = Folder.at(out)
    found: dict[tuple[str, float], list[float]] = {}
    for name in folder.names("part-*.parquet"):
        with folder.open(name) as stream:
            for row in pq.read_table(stream).to_pylist():
                assert (row["file"], row["start_s"]) not in found
                found[row["file"], row["start_s"]] = row["embedding"]
    return found


def test_job_from_object_storage_to_object_storage(store: ObjectStore, shard: dict[str, bytes], model: Model) -> None:
    clips = [store.put(f"songs/{number}.wav", wav(1 + number / 4, 200.0 + 50 * number)) for number in range(6)]
    packed = store.put("songs/shard.tar", tar(shard))
    missing = "s3://bucket/songs/none.wav"
    items = jobs.from_names([*clips[:3], packed, missing, *clips[3:]])
    out = "s3://bucket/embeddings"

    plan = jobs.Plan(items, jobs.begin(items, out, jobs.describe_model(model, EmbedOptions()), workers=2))
    parts = jobs.run_tasks(model, plan.tasks(), EmbedOptions(), plan.output)
    next(parts)
    parts.close()  # type: ignore[attr-defined]
    summary = run(items, out, model)
    assert (summary.complete, summary.files, summary.failures) == (True, 9, 1)
    assert 0 < summary.done_files < 9
    assert run(items, out, model).done_files == 0

    found = read(out)
    for clip in clips:
        expected = model.embed(clip)
        for start_s, values in zip(expected.start_s, expected.values, strict=True):
            np.testing.assert_array_equal(np.array(found[clip, float(start_s)], np.float32), values)
    assert {name for name, _ in found} == {*clips, *(f"{packed}::{name}" for name in shard if name in AUDIO)}
    manifest = json.loads(Folder.at(out).read("_manifest.json"))
    assert manifest["rows"] == len(found)
    assert {key.rpartition("/")[2].partition("-")[0] for key in store.keys("embeddings")} == {
        "_errors.parquet",
        "_job.json",
        "_manifest.json",
        "part",
    }

    store.put("songs/none.wav", wav(1.0))
    summary = run(items, out, model, retry_failed=True)
    assert (summary.failures, summary.done_files) == (0, 1)


def test_manifest_and_recordings_on_a_web_server(
    web: WebServer, tmp_path_factory: pytest.TempPathFactory, model: Model
) -> None:
    web.files["/a b.wav"] = wav(3.0)
    web.files["/songs.csv"] = (
        f"path,start_s,end_s\n{web.url}/a%20b.wav,0.5,2.0\n{web.url}/a%20b.wav,2.0,\n{web.url}/none.wav,,\n"
    ).encode()
    items = jobs.read_manifest(f"{web.url}/songs.csv")
    out = tmp_path_factory.mktemp("out")
    summary = run(items, str(out), model)
    assert (summary.complete, summary.files, summary.failures) == (True, 2, 1)
    table = audioset.read_embeddings(out)
    assert table.start_s.tolist() == [0.5, 2.0]

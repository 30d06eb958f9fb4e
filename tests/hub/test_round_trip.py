"""What was pushed to a stand-in of the Hub comes back by its name, byte for byte, and works as before."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import audioset
from audioset import hub as hugging
from audioset import models, weights
from audioset.errors import OptionError, WeightsError
from audioset.hub import download

from ._server import Hub

# The library sends files by an argument that the one below it has another name for now.
pytestmark = pytest.mark.filterwarnings("ignore:Use .content=:DeprecationWarning")


@pytest.fixture
def clip(rng: np.random.Generator) -> npt.NDArray[np.float32]:
    return rng.standard_normal(16_000).astype(np.float32) * np.float32(0.1)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_model_of_ones_own_comes_back_the_same(hub: Hub, pets: Path, clip: npt.NDArray[np.float32]) -> None:
    pushed = hugging.push(pets, "owner/pets")

    repo = hub.repos["models/owner/pets"]
    assert sorted(repo.files) == ["README.md", "config.json", "model.safetensors"]
    assert repo.files["model.safetensors"] == pets.read_bytes()
    about = json.loads(repo.files["config.json"])["audioset"]
    assert (about["kind"], about["sha256"]) == ("model", sha256(pets.read_bytes()))
    assert pushed == hugging.Pushed(f"hf://owner/pets@{repo.branches['main']}", f"{hub.url}/owner/pets")

    here, there = audioset.load(pets), audioset.load("hf://owner/pets")
    np.testing.assert_array_equal(there.tag(clip, 16_000).values, here.tag(clip, 16_000).values)
    np.testing.assert_array_equal(there.embed(clip, 16_000).values, here.embed(clip, 16_000).values)
    assert there.tag(clip, 16_000).class_names == ("Dog", "cat", "Ämsel")
    assert (there.name, there.weights.name) == ("pets", pushed.name)
    assert there.weights.sha256 == here.weights.sha256


def test_the_token_is_for_the_hub_alone(hub: Hub, pets: Path) -> None:
    hugging.push(pets, "owner/pets", private=True)
    assert hugging.pull("owner/pets").path.read_bytes() == pets.read_bytes()
    assert any("/storage/" in request for request in hub.requests)
    assert hub.tokens_to_storage == []


def test_a_model_pushes_itself(hub: Hub, pets: Path) -> None:
    pushed = audioset.load(pets).push_to_hub("owner/pets", message="from here")
    assert hub.repos["models/owner/pets"].messages[-1] == "from here"
    model = hugging.from_pretrained("owner/pets", threads=1)
    assert (model.name, model.threads, model.weights.name) == ("pets", 1, pushed.name)
    assert model.push_to_hub("owner/copy").name.startswith("hf://owner/copy@")
    copy = hub.repos["models/owner/copy"].files["model.safetensors"]
    assert copy == pets.read_bytes()


def test_a_model_of_the_registry_is_not_pushed(hub: Hub) -> None:
    with pytest.raises(OptionError, match=r"mini: no model of your own; expected one from a file that `audioset fine"):
        audioset.load("mini").push_to_hub("owner/mini")
    assert hub.requests == []


def test_a_head_is_pushed_and_known_for_one(hub: Hub, tmp_path: Path) -> None:
    from audioset.train.head_file import is_head
    from audioset.weights import safetensors_file

    about = {
        "kind": "logistic",
        "options": {},
        "classes": [["a", "a"]],
        "embedder": {"model": "vggish", "regime": "raw", "dim": 128, "weights": ""},
        "notes": {},
    }
    path = tmp_path / "head.safetensors"
    safetensors_file.write(path, {"x": np.zeros(1, np.float32)}, {"audioset_head": json.dumps(about)})
    pushed = hugging.push(path, "owner/head")
    found = hugging.pull("owner/head")
    assert (found.name, found.kind, found.path.read_bytes()) == (pushed.name, "head", path.read_bytes())
    assert is_head("hf://owner/head")
    with pytest.raises(WeightsError, match=r"hf://owner/head@\w{40}: a head on embeddings; expected a model"):
        hugging.from_pretrained("owner/head")


@pytest.mark.slow  # for PyTorch's import; the test above is of the same names and bytes
def test_a_head_comes_back_the_same(hub: Hub, tmp_path: Path, rng: np.random.Generator) -> None:
    pytest.importorskip("torch")
    from audioset.classes import ClassList
    from audioset.train.head import Embedder, Head
    from audioset.train.head_file import is_head

    head = Head.new("logistic", ClassList(("a", "b"), ("a", "b")), Embedder("vggish", "raw", 128, "ab" * 32))
    head.save(tmp_path / "head.safetensors")
    hugging.push(tmp_path / "head.safetensors", "owner/head")
    assert hub.repos["models/owner/head"].files["model.safetensors"] == (tmp_path / "head.safetensors").read_bytes()
    assert is_head("hf://owner/head")
    embeddings = rng.standard_normal((4, 3, 128), np.float32)
    np.testing.assert_array_equal(Head.load("hf://owner/head").predict(embeddings), head.predict(embeddings))


def test_weights_come_back_the_same(hub: Hub, tmp_path: Path) -> None:
    mini = weights.load("mini")
    weights.save(mini, tmp_path / "better.safetensors")
    pushed = hugging.push(tmp_path / "better.safetensors", "owner/better")
    model = audioset.load("mini", "hf://owner/better")
    assert (model.weights.name, model.weights.sha256) == (pushed.name, mini.sha256)
    found = weights.convert("hf://owner/better", tmp_path / "converted.safetensors", model="mini")
    assert found.sha256 == mini.sha256


@pytest.mark.parametrize("name", ["owner/rows", "datasets/owner/rows"])
def test_embeddings_come_back_the_same(name: str, hub: Hub, rows: Path) -> None:
    pushed = hugging.push(rows, name)
    repo = hub.repos["datasets/owner/rows"]
    assert repo.files["embeddings.parquet"] == rows.read_bytes()
    assert pushed.name == f"hf://datasets/owner/rows@{repo.branches['main']}"
    assert pushed.url == f"{hub.url}/datasets/owner/rows"
    found = hugging.pull("datasets/owner/rows")
    assert (found.name, found.kind, found.sha256) == (pushed.name, "embeddings", sha256(rows.read_bytes()))
    np.testing.assert_array_equal(
        audioset.read_embeddings(found.path).values, audioset.read_embeddings(rows).values, strict=True
    )


def test_what_is_pushed_again_is_what_is_loaded_next_and_the_old_stays(hub: Hub, pets: Path, tmp_path: Path) -> None:
    first = hugging.push(pets, "owner/pets")
    assert audioset.load("hf://owner/pets").weights.name == first.name
    second = hugging.push(renamed(pets, tmp_path / "more.safetensors"), "owner/pets")
    assert second.name != first.name
    assert audioset.load("hf://owner/pets").name == "more"
    old = audioset.load(first.name)
    assert (old.name, old.weights.name) == ("pets", first.name)


def test_all_steps_of_a_process_read_one_commit_until_it_is_loaded_anew(hub: Hub, pets: Path, tmp_path: Path) -> None:
    hugging.push(pets, "owner/pets")
    assert models.get("hf://owner/pets").name == "pets"
    other = renamed(pets, tmp_path / "more.safetensors").read_bytes()
    about = {"layout": 1, "kind": "model", "file": "model.safetensors", "sha256": sha256(other)}
    hub.repos["models/owner/pets"].commit(  # as somebody else would
        {"model.safetensors": other, "config.json": json.dumps({"audioset": about}).encode()}
    )
    hub.requests.clear()
    assert weights.load("hf://owner/pets").model == "pets"
    assert models.get("hf://owner/pets").name == "pets"
    assert hub.requests == []
    assert audioset.load("hf://owner/pets").name == "more"
    assert models.get("hf://owner/pets").name == "more"


def test_branches_are_made_and_named(hub: Hub, pets: Path, tmp_path: Path) -> None:
    hugging.push(pets, "owner/pets")
    more = renamed(pets, tmp_path / "more.safetensors")
    pushed = hugging.push(more, "owner/pets", revision="v2")
    repo = hub.repos["models/owner/pets"]
    assert pushed.name == f"hf://owner/pets@{repo.branches['v2']}"
    assert repo.files["model.safetensors"] == pets.read_bytes()
    assert audioset.load("hf://owner/pets@v2").name == "more"
    assert hugging.from_pretrained("owner/pets", "v2").name == "more"
    assert audioset.load("hf://owner/pets").name == "pets"


def test_a_commit_that_is_in_the_cache_needs_no_hub(hub: Hub, pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pushed = hugging.push(pets, "owner/pets")
    hugging.pull("owner/pets")
    hub.close()
    monkeypatch.setattr(download, "_known", {})  # as in another process
    assert audioset.load(pushed.name).name == "pets"
    assert audioset.load("hf://owner/pets").weights.name == pushed.name  # what was there last


def test_offline_it_is_what_was_fetched_last(hub: Hub, pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pushed = hugging.push(pets, "owner/pets")
    hugging.pull("owner/pets")
    monkeypatch.setattr(download, "_known", {})
    monkeypatch.setenv("AUDIOSET_OFFLINE", "1")
    hub.requests.clear()
    assert audioset.load("hf://owner/pets").weights.name == pushed.name
    assert hub.requests == []


def test_the_endpoint_and_the_token_can_be_given(hub: Hub, pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ._server import TOKEN

    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.undo()  # the library as it is installed: its endpoint is Hugging Face's
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(pets.parent / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    pushed = hugging.push(pets, "owner/pets", private=True, endpoint=hub.url, token=TOKEN)
    model = hugging.from_pretrained("owner/pets", endpoint=f"{hub.url}/", token=TOKEN)
    assert model.weights.name == pushed.name


def renamed(path: Path, to: Path) -> Path:
    """The same model under another name, and so another file."""
    from audioset.weights import safetensors_file

    tensors, metadata = safetensors_file.read(path)
    safetensors_file.write(to, tensors, {**metadata, "model": to.stem})
    return to

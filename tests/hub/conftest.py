"""A Hub to push to, an empty cache of what was pulled, and files to push."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from audioset import models, weights
from audioset.classes import ClassList
from audioset.hub import download
from audioset.models import own
from audioset.records import JobInfo, JobWriter

from ._server import TOKEN, Hub

PETS = ClassList(("/m/0bt9lr", "cat", "Ämsel"), ("Dog", "cat", "Ämsel"))


@pytest.fixture
def hub(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A stand-in that `HF_ENDPOINT` names and whose token is known, with nothing fetched from it yet."""
    constants = pytest.importorskip("huggingface_hub.constants")
    served = Hub()
    # What the library reads from the environment when it is imported. The stand-in has no Xet storage.
    monkeypatch.setattr(constants, "ENDPOINT", served.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", served.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path_factory.mktemp("hub")))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path_factory.mktemp("home") / "token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.delenv("AUDIOSET_OFFLINE", raising=False)
    monkeypatch.setattr(download, "_known", {})
    yield served
    served.close()


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of what takes long to make, to be copied from: pets.safetensors and rows.parquet.

    The first is a model of one's own as `audioset finetune` writes it: mini up to its embedding, three classes.
    """
    rng = np.random.default_rng(0)
    base = weights.load("mini")
    tensors = {name: values for name, values in base.tensors.items() if not name.startswith("logits/")}
    tensors["head/weights"] = rng.standard_normal((models.get("mini").embedding_dim, 3)).astype(np.float32)
    tensors["head/biases"] = rng.standard_normal(3).astype(np.float32)
    trained_on = {"clips": {"train": 40, "valid": 0, "test": 8, "unreadable": 1}, "clips_of_class": {"Dog": 40}}
    provenance = {
        "source": "fine-tuned from mini",
        "method": "frozen",
        "trained_from_sha256": base.sha256,
        "trained_on": json.dumps(trained_on),
        "seed": "3",
        "audioset_version": "0.1.0",
        "licence": "Apache-2.0",
        "citation": "somebody",
    }
    folder = tmp_path_factory.mktemp("written")
    own.save(own.OwnModel("mini", PETS, "softmax"), tensors, folder / "pets.safetensors", provenance=provenance)
    write_rows(folder / "rows.parquet")
    return folder


@pytest.fixture
def pets(written: Path, tmp_path: Path) -> Path:
    """A model of one's own."""
    return Path(shutil.copy(written / "pets.safetensors", tmp_path))


def write_rows(path: Path, dtype: Literal["float32", "uint8"] = "float32", dim: int = 128) -> Path:
    """Write embeddings of three files as `audioset embed` writes them, the same at every call."""
    rng = np.random.default_rng(1)
    regime: Literal["raw", "uint8"] = "raw" if dtype == "float32" else "uint8"
    info = JobInfo("vggish", "vggish", "ab" * 32, dim, dtype, regime, 0.96, "short", "none")
    with JobWriter(path, info, format="parquet") as writer:
        for name, length in (("a.wav", 3), ("folder/b.wav", 1), ("Ämsel.ogg", 40)):
            values = rng.integers(0, 256, (length, dim)).astype(dtype)
            start_s = np.arange(length) * 0.96
            writer.append(name, start_s, start_s + 0.96, values, last=True)
        writer.finish()
    return path


@pytest.fixture
def rows(written: Path, tmp_path: Path) -> Path:
    """Embeddings, float32."""
    return Path(shutil.copy(written / "rows.parquet", tmp_path))

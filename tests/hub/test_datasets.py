"""Embeddings in Hugging Face's own library, as they are and from a repository; another process, as it takes seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

import audioset
from audioset import EmbedOptions
from audioset import hub as hugging
from audioset.records import JobInfo, JobWriter

from ._server import Hub
from .conftest import write_rows

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Use .content=:DeprecationWarning")]

# Loads what it is told to, twice, and says what it found.
PROGRAM = """
import json, sys
from datasets import Features, load_dataset
what, options = json.loads(sys.argv[1])
whole = load_dataset(what, split="train", **options)
stream = load_dataset(what, split="train", streaming=True, **options)
print(json.dumps({
    "features": {name: str(of) for name, of in whole.features.items()},
    "yaml": whole.features._to_yaml_list(),
    "same": list(stream) == list(whole),
    "of_stream": stream.features == whole.features,
    **{name: whole[name][:] for name in whole.column_names},
}))
"""


def loaded(tmp_path: Path, what: str, environment: dict[str, str], **options: Any) -> dict[str, Any]:
    """What `datasets` makes of it, in an empty cache."""
    pytest.importorskip("datasets")
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps([what, options])],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1", **environment},
    )
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def check(found: dict[str, Any], path: Path, dtype: str) -> None:
    """The columns and values are those of the file."""
    expected = audioset.read_embeddings(path)
    assert found["features"] == {
        "file": "Value('string')",
        "start_s": "Value('float64')",
        "end_s": "Value('float64')",
        "embedding": f"List(Value('{dtype}'), length=128)",
    }
    np.testing.assert_array_equal(np.array(found["embedding"], expected.values.dtype), expected.values, strict=True)
    np.testing.assert_array_equal(found["start_s"], expected.start_s)
    np.testing.assert_array_equal(found["end_s"], expected.end_s)
    assert found["file"] == expected.file.tolist()
    assert found["same"]
    assert found["of_stream"]


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_embeddings_load_as_they_are(dtype: Literal["float32", "uint8"], tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.parquet", dtype)
    offline = {"HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}
    check(loaded(tmp_path, "parquet", offline, data_files=str(path)), path, dtype)


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_a_repository_loads_by_its_name_with_the_columns_that_its_card_says(
    dtype: Literal["float32", "uint8"], tmp_path: Path, hub: Hub
) -> None:
    yaml = pytest.importorskip("yaml")
    path = write_rows(tmp_path / "rows.parquet", dtype)
    hugging.push(path, "owner/rows")
    found = loaded(tmp_path, "owner/rows", {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1"})
    check(found, path, dtype)
    header = yaml.safe_load(hugging.card(path, "owner/rows").split("---\n")[1])
    assert header["dataset_info"]["features"] == found["yaml"]


def test_embeddings_of_real_sound_go_to_a_repository_and_load(
    tmp_path: Path, hub: Hub, pets: Path, data_dir: Path
) -> None:
    files = sorted((data_dir / "music_and_nature").iterdir())[:3]
    hugging.push(pets, "owner/pets")
    model = audioset.load("hf://owner/pets")
    options = EmbedOptions()
    info = JobInfo(
        model.name, model.weights.name, model.weights.sha256, 128, "float32", "raw", model.spec.hop_s, "all", "none"
    )
    with JobWriter(tmp_path / "real.parquet", info, format="parquet") as writer:
        for block in model.embed_blocks([(file, None) for file in files], options):
            writer.append(str(files[block.index]), block.start_s, block.end_s, block.values, last=block.last)
        writer.finish()
    hugging.push(tmp_path / "real.parquet", "owner/real")
    found = loaded(tmp_path, "owner/real", {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1"})
    check(found, tmp_path / "real.parquet", "float32")
    assert len(found["file"]) > 10
    here = audioset.load(pets).embed(files[0]).values
    np.testing.assert_array_equal(np.array(found["embedding"], np.float32)[: len(here)], here)

"""Heads on disk: what was saved predicts the same, and takes no embeddings but those that it was trained on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from audioset.classes import ClassList
from audioset.errors import OptionError, OutputError, WeightsError
from audioset.train.head import Embedder, Head
from audioset.train.head_file import is_head
from audioset.train.heads import HEADS, HeadOptions
from audioset.weights import safetensors_file

PETS = ClassList(("/m/0bt9lr", "cat"), ("Dog", "cat"))
RELEASED = Embedder("vggish", "uint8", 16)
SMALL = HeadOptions(hidden=8, layers=2, clusters=4)


@pytest.fixture
def head() -> Head:
    torch.manual_seed(0)
    return Head.new("feature_attention", PETS, RELEASED, SMALL)


@pytest.mark.parametrize("kind", HEADS)
def test_a_head_read_back_predicts_the_same(kind: str, tmp_path: Path, rng: np.random.Generator) -> None:
    head = Head.new(kind, PETS, RELEASED, SMALL)
    embeddings = rng.integers(0, 256, (5, 3, 16), dtype=np.uint8)
    head.network.expect(embeddings.reshape(-1, 16))
    head.save(tmp_path / "pets.safetensors")
    read = Head.load(tmp_path / "pets.safetensors")
    np.testing.assert_array_equal(read.predict(embeddings), head.predict(embeddings))
    assert (read.kind, read.options, read.classes, read.embedder) == (kind, SMALL, PETS, RELEASED)
    assert is_head(tmp_path / "pets.safetensors")


def test_clips_of_any_length_are_scored_as_if_alone(head: Head, rng: np.random.Generator) -> None:
    clips = [rng.integers(0, 256, (length, 16), dtype=np.uint8) for length in (4, 1, 7)]
    together = head.predict(clips)
    alone = np.concatenate([head.predict(clip[np.newaxis]) for clip in clips])
    np.testing.assert_allclose(together, alone, atol=1e-6)  # sums of float32 in another order
    assert head.predict([]).shape == (0, 2)


def test_bytes_are_dequantized_before_they_are_normed(head: Head, rng: np.random.Generator) -> None:
    released = rng.integers(0, 256, (3, 2, 16), dtype=np.uint8)
    head.network.expect(released.reshape(-1, 16))
    plain = (released * (4 / 255) - 2).astype(np.float32)
    np.testing.assert_allclose(head.predict(released), head.predict(plain), atol=1e-5)
    np.testing.assert_allclose(head.network.get_buffer("mean").numpy(), plain.mean(axis=(0, 1)), atol=1e-6)


def test_a_dimension_that_never_moves_is_not_blown_up(head: Head) -> None:
    head.network.expect(np.zeros((10, 16), np.float32))
    assert np.isfinite(head.predict(np.ones((1, 2, 16), np.float32))).all()


def test_other_embeddings_are_refused_by_name() -> None:
    expected = Embedder("vggish", "raw", 128, "a" * 64)
    expected.check(Embedder("vggish", "raw", 128, "a" * 64), "x")
    expected.check(Embedder("vggish", "raw", 128), "x")  # of unknown weights: all that is known agrees
    for other in (
        Embedder("yamnet", "raw", 128),
        Embedder("vggish", "uint8", 128),
        Embedder("vggish", "raw", 64),
        Embedder("vggish", "raw", 128, "b" * 64),
    ):
        with pytest.raises(WeightsError, match=r"rain\.parquet: embeddings of .* expects vggish \(raw, 128 wide"):
            expected.check(other, "rain.parquet")


def test_wrong_shapes_are_refused(head: Head) -> None:
    with pytest.raises(OptionError, match=r"shape \(3, 16\); expected \(clips, frames, 16\)"):
        head.predict(np.zeros((3, 16), np.uint8))
    with pytest.raises(OptionError, match=r"clip 1 has shape \(2, 8\)"):
        head.predict([np.zeros((2, 16), np.uint8), np.zeros((2, 8), np.uint8)])


def test_what_is_no_embedding_as_released_is_refused(head: Head) -> None:
    released = np.full((2, 3, 16), 200, np.uint8)
    for other in (np.int8, np.int64):  # bytes read as signed ones, or widened
        with pytest.raises(OptionError, match=r"int\d+ values; expected floats or uint8: vggish \(uint8"):
            head.predict(released.astype(other))
    raw = Head.new("logistic", PETS, Embedder("vggish", "raw", 16))
    with pytest.raises(OptionError, match=r"uint8 values; expected floats: vggish \(raw"):
        raw.predict(released)
    with pytest.raises(OptionError, match="clip 1 has float32 values, clip 0 uint8; expected all alike"):
        head.predict([released[0], released[0].astype(np.float32)])
    with pytest.raises(OptionError, match=r"num_frames: shape \(1,\); expected one number for each of 2 clips"):
        head.predict(released, [3])


def test_sizes_that_a_file_only_claims_take_no_memory(head: Head, tmp_path: Path) -> None:
    path = tmp_path / "pets.safetensors"
    head.save(path)
    tensors, metadata = safetensors_file.read(path)
    about = json.loads(metadata["audioset_head"])
    for claim in ({"hidden": 10**7}, {"layers": 10**9}):  # 400 TB; modules for hours
        options = {"options": about["options"] | claim}
        safetensors_file.write(path, tensors, {"audioset_head": json.dumps(about | options)})
        with pytest.raises(WeightsError, match=r"pets\.safetensors: a head that cannot be used"):
            Head.load(path)
    halved = {name: values.astype(np.float16) for name, values in tensors.items()}
    safetensors_file.write(path, halved, metadata)
    with pytest.raises(WeightsError, match=r"cannot be used \(\w+ is torch.float16\)"):
        Head.load(path)


def test_files_are_checked_when_written_and_read(head: Head, tmp_path: Path) -> None:
    path = tmp_path / "pets.safetensors"
    head.save(path)
    with pytest.raises(OutputError, match="exists already"):
        head.save(path)
    with pytest.raises(OptionError, match="ends in"):
        head.save(tmp_path / "pets.pt")

    tensors, metadata = safetensors_file.read(path)
    about = json.loads(metadata["audioset_head"])
    for change in ({"kind": "psychic"}, {"classes": [["a", "a"]] * 3}, {"options": {"depth": 3}}, {"embedder": {}}):
        safetensors_file.write(path, tensors, {"audioset_head": json.dumps(about | change)})
        with pytest.raises(WeightsError, match=r"pets\.safetensors: a head that cannot be used"):
            Head.load(path)
    safetensors_file.write(path, tensors, {})
    with pytest.raises(WeightsError, match=r"no head of `audioset train`"):
        Head.load(path)
    assert not is_head(path)


def test_a_head_that_diverged_is_not_written(head: Head, tmp_path: Path) -> None:
    with torch.no_grad():
        head.network.get_parameter("head.attend.bias")[0] = torch.nan
    with pytest.raises(WeightsError, match=r"head\.attend\.bias has values that are NaN"):
        head.save(tmp_path / "pets.safetensors")
    assert not list(tmp_path.iterdir())

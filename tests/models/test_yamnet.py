"""YAMNet's table of layers: sizes that are published."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import audioset
from audioset.features import num_examples
from audioset.models.layers import Conv, walk
from audioset.models.spec import INPUT_SHAPE
from audioset.models.yamnet import SPEC
from audioset.weights import load, save


def test_widths_are_the_published_ones() -> None:
    assert SPEC.outputs == {"embedding": 1024, "scores": 521}


def test_number_of_weights_is_the_published_one() -> None:
    # 3,751,369 in the published file: two more numbers (mean, variance) a channel, less the bias that they became.
    channels = sum(shape[0] for name, shape in SPEC.tensor_shapes.items() if name.endswith("biases")) - 521
    assert SPEC.num_weights + 2 * channels == 3_751_369


def test_last_map_is_three_by_two() -> None:
    *_, last = (leaving for layer, _, leaving in walk(SPEC.layers, INPUT_SHAPE) if isinstance(layer, Conv))
    assert last == (3, 2, 1024)


@pytest.mark.parametrize(("seconds", "count"), [(0.5, 1), (0.975, 1), (1.0, 2), (3.0, 6)])
def test_waveform_is_padded_to_whole_hops(seconds: float, count: int) -> None:
    assert num_examples(round(seconds * 16_000), hop_s=SPEC.hop_s, pad=SPEC.pad) == count


def test_scores_agree_with_the_official_8_bit_runtime(data_dir: Path) -> None:
    file = data_dir / "yamnet" / "lite-model_yamnet_classification_tflite_1.tflite"
    model = audioset.load("yamnet", file)
    with np.load(data_dir / "yamnet" / "golden.npz") as golden:
        names = [name.removesuffix("/scores") for name in golden if name.endswith("/scores")]
        assert len(names) == 13
        for name in names:
            got = model.tag(golden[f"{name}/waveform"], 16_000, pad="none").values[0]
            expected = golden[f"{name}/scores"]
            # theirs computes in 8 bits, ours in float: the worst seen is 0.984
            assert np.corrcoef(got, expected)[0, 1] >= 0.98, name
            assert expected[got.argmax()] >= expected.max() - 0.1, name


def test_the_8_bit_file_has_activations_that_end_at_six_also_once_converted(data_dir: Path, tmp_path: Path) -> None:
    file = data_dir / "yamnet" / "lite-model_yamnet_classification_tflite_1.tflite"
    save(load("yamnet", file), tmp_path / "converted.safetensors")
    for path in (file, tmp_path / "converted.safetensors"):
        layers = audioset.load("yamnet", path).spec.layers
        assert [getattr(layer, "activation", None) for layer in layers].count("relu6") == 27


def test_variants_have_the_same_tensors() -> None:
    for source_format in SPEC.variants:
        assert SPEC.of_format(source_format).tensor_shapes == SPEC.tensor_shapes
    assert SPEC.of_format("keras-h5") == SPEC.of_format(None) == SPEC

"""YAMNet's table of layers: sizes that are published."""

from __future__ import annotations

import pytest

from audioset.features import num_examples
from audioset.models.layers import Conv, walk
from audioset.models.spec import INPUT_SHAPE
from audioset.models.yamnet import SPEC


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

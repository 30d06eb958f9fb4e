"""The tensors of a network in 8 bits: how they are made of float32 ones, and what holds them together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from audioset import graph
from audioset.graph import Scale
from audioset.models.spec import ModelSpec

_LEVELS: Final = 255  # steps from the lowest 8-bit value that a layer reads to the highest
_SMALLEST: Final = 1e-12  # of a scale: where all weights of a channel are zero, any will do
_LARGEST_BIAS: Final = 2**30  # leaves as much of 32 bits to sums of products: 12,288 of 255 · 127 need a third of it
_PIECE_ROWS: Final = 256  # of a matrix at a time: float64 and masks of all of it would be gigabytes


@dataclass(frozen=True, eq=False)
class Int8Weights:
    """The weights of one network in 8 bits.

    Attributes
    ----------
    tensors : mapping of str to ndarray
        By the names and in the layouts of `graph.build`: int8 weights, int32 biases and float32 scales of the layers
        in 8 bits, float32 weights and biases of the others.
    scales : mapping of int to Scale
        Of what each layer reads, by its index.
    sha256 : str
        Of the tensors and scales.
    calibration : str
        What the scales were measured on, in words.
    path : Path or None
        The file that the tensors are mapped from.
    """

    tensors: Mapping[str, npt.NDArray[Any]]
    scales: Mapping[int, Scale]
    sha256: str
    calibration: str
    path: Path | None = None


def scale_of(low: float, high: float) -> Scale:
    """Return the scale that spans values from `low` to `high`; zero is always among them, exactly."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = float(np.float32(max((high - low) / _LEVELS, _SMALLEST)))
    return Scale(scale, min(max(round(-low / scale), 0), _LEVELS))


def int8_tensors(
    spec: ModelSpec, tensors: Mapping[str, npt.NDArray[np.float32]], scales: Mapping[int, Scale], *, bits: int
) -> dict[str, npt.NDArray[Any]]:
    """Return the tensors of the network in 8 bits.

    Parameters
    ----------
    spec : ModelSpec
        The network.
    tensors : mapping of str to ndarray of float32
        Its tensors, in the layouts of its layers.
    scales : mapping of int to Scale
        Of what each layer reads.
    bits : {7, 8}
        Of the weights; 7 for processors whose sums of products saturate.
    """
    made: dict[str, npt.NDArray[Any]] = dict(graph.onnx_tensors(spec, tensors))
    largest = 2 ** (bits - 1) - 1
    for index, layer in graph.int8_weighted(spec).items():
        weights, biases = f"{layer.name}/weights", f"{layer.name}/biases"
        of_input = np.float32(scales[index].scale)
        # A channel of all but dead weights may have a bias that is no whole number of their tiny steps below 2³¹.
        least = np.abs(made[biases]) / (_LARGEST_BIAS * of_input)
        rounded, scale = _rounded(made[weights], graph.channel_axis(layer), largest, least)
        of_sums = scale * of_input
        whole = np.rint(made[biases].astype(np.float64) / of_sums).astype(np.int32)
        made |= {weights: rounded, f"{weights}_scale": scale, biases: whole, f"{biases}_scale": of_sums}
    return made


def _rounded(
    weights: npt.NDArray[np.float32], axis: int, largest: int, least: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Integers from -largest to largest, and the scale of each channel, no less than `least`."""
    others = tuple(place for place in range(weights.ndim) if place != axis)
    peak = np.maximum(weights.max(axis=others), -weights.min(axis=others))
    scale = np.maximum(np.maximum(peak / largest, least), _SMALLEST).astype(np.float32)
    divisor = np.expand_dims(scale, others)
    rounded = np.empty(weights.shape, np.int8)
    for at in range(0, len(weights), _PIECE_ROWS):
        rows = slice(at, at + _PIECE_ROWS)
        by = divisor[rows] if axis == 0 else divisor
        rounded[rows] = np.rint(weights[rows] / by).clip(-largest, largest)
    return rounded, scale

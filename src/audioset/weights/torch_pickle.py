"""PyTorch state dicts (.pth, .pt), read by PyTorch itself with code execution off, and the names torchvggish gives."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from audioset.errors import MissingExtraError, WeightsFormatError

Array: TypeAlias = npt.NDArray[Any]

_ZIP_MAGIC: Final = b"PK\x03\x04"
# Files older than PyTorch 1.6 are a run of pickles whose first is this number: protocol 2, a 10-byte integer.
_LEGACY_MAGIC: Final = b"\x80\x02\x8a\x0a" + 0x1950A86A20F9469CFC6C.to_bytes(10, "little")

# torchvggish v0.1: convolutions (out, in, height, width), matrices (out, in); the image is flattened channels last, as
# TensorFlow does it, so the rows of the first matrix are in TensorFlow's order.
_TORCHVGGISH: Final = {
    "features.0": "vggish/conv1",
    "features.3": "vggish/conv2",
    "features.6": "vggish/conv3/conv3_1",
    "features.8": "vggish/conv3/conv3_2",
    "features.11": "vggish/conv4/conv4_1",
    "features.13": "vggish/conv4/conv4_2",
    "embeddings.0": "vggish/fc1/fc1_1",
    "embeddings.2": "vggish/fc1/fc1_2",
    "embeddings.4": "vggish/fc2",
}
_TORCHVGGISH_PCA: Final = "pproc."  # it keeps the PCA parameters beside the network's


def is_torch(head: bytes, path: Path) -> bool:
    """Return whether the file is a zip archive with PyTorch's pickle in it, or begins as older PyTorch files do."""
    if head.startswith(_LEGACY_MAGIC):
        return True
    if not head.startswith(_ZIP_MAGIC):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/data.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return b"/data.pkl" in head  # a cut archive has lost its list of names, which PyTorch will say better


def read(path: Path) -> dict[str, Array]:
    """Return the tensors of a state dict by name, mapped where the file allows; nothing pickled is executed.

    Raises
    ------
    MissingExtraError
        If PyTorch is not installed.
    WeightsFormatError
        If the file is damaged, or holds anything but a state dict.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError(
            f"{path}: a PyTorch file, and PyTorch is not installed; expected it, to read the file. Install it with "
            "`pip install torch`, or convert the file to safetensors where it is installed."
        ) from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path) or None)
    except Exception as error:  # damaged pickles raise whatever their bytes happen to spell
        reason = str(error).strip().partition("\n")[0]
        raise WeightsFormatError(
            f"{path}: PyTorch cannot load it as plain tensors ({type(error).__name__}: {reason:.200}); "
            "expected a state dict. If the file is whole, save it again with `torch.save(model.state_dict(), path)`."
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]  # as Lightning and many training scripts nest it
    if not isinstance(content, Mapping):
        raise WeightsFormatError(
            f"{path}: holds a {type(content).__name__}; expected a state dict of named tensors. "
            "Save it again with `torch.save(model.state_dict(), path)`."
        )
    return {
        str(name): (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).detach().numpy()
        for name, tensor in content.items()
        if isinstance(tensor, torch.Tensor)
    }


def from_torchvggish(tensors: Mapping[str, Array]) -> dict[str, Array] | None:
    """Return tensors that have torchvggish's names under VGGish's own, in its layouts; None if they have others."""
    if not any(f"{layer}.weight" in tensors for layer in _TORCHVGGISH):
        return None
    renamed = {}
    for name, values in tensors.items():
        layer, _, what = name.rpartition(".")
        if layer not in _TORCHVGGISH or what not in ("weight", "bias"):
            if not name.startswith(_TORCHVGGISH_PCA):
                renamed[name] = values  # for whoever compares names to report
            continue
        if what == "weight":
            values = np.transpose(values, (2, 3, 1, 0)) if values.ndim == 4 else values.T
        renamed[f"{_TORCHVGGISH[layer]}/{'weights' if what == 'weight' else 'biases'}"] = values
    return renamed

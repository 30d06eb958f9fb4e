"""Libraries that only some of the package needs: looked for before work begins, named where they are missing."""

from __future__ import annotations

import importlib.util

from audioset.errors import MissingExtraError

# Module: what it is called, and what pip calls it.
_LIBRARIES = {
    "fsspec": ("fsspec", "fsspec"),
    "huggingface_hub": ("huggingface_hub", "huggingface_hub"),
    "keras": ("Keras", "keras"),
    "lightning": ("Lightning", "lightning"),
    "openvino": ("OpenVINO", "openvino"),
    "ray": ("Ray", "'ray[data]'"),
    "sounddevice": ("sounddevice", "sounddevice"),
    "sklearn": ("scikit-learn", "scikit-learn"),
    "tensorboard": ("TensorBoard", "tensorboard"),
    "tensorflow": ("TensorFlow", "tensorflow"),
    "torch": ("PyTorch", "torch"),
    "usearch": ("USearch", "usearch"),
    "yaml": ("PyYAML", "pyyaml"),
}


def check_installed(subject: str, *modules: str) -> None:
    """Raise MissingExtraError, naming `subject` and all that is missing, unless these modules can be imported."""
    missing = [_LIBRARIES[module] for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        names = [name for name, _ in missing]
        listed = " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
        are, them = ("is", "it") if len(names) == 1 else ("are", "them all")
        raise MissingExtraError(
            f"{subject}: {listed} {are} not installed; expected {them}. "
            f"Install {them.partition(' ')[0]} with `pip install {' '.join(package for _, package in missing)}`"
        )

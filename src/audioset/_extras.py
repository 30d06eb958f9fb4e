"""Libraries that only some of the package needs: looked for before work begins, named where they are missing."""

from __future__ import annotations

import importlib.util

from audioset.errors import MissingExtraError

# Module: what it is called, and what pip calls it.
_LIBRARIES = {
    "lightning": ("Lightning", "lightning"),
    "sklearn": ("scikit-learn", "scikit-learn"),
    "tensorboard": ("TensorBoard", "tensorboard"),
    "torch": ("PyTorch", "torch"),
    "yaml": ("PyYAML", "pyyaml"),
}


def check_installed(subject: str, *modules: str) -> None:
    """Raise MissingExtraError, naming `subject` and all that is missing, unless these modules can be imported."""
    missing = [_LIBRARIES[module] for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        names = " and ".join(name for name, _ in missing)
        raise MissingExtraError(
            f"{subject}: {names} not installed; expected them all. "
            f"Install them with `pip install {' '.join(package for _, package in missing)}`"
        )

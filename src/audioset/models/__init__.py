"""The models: one file each, one line each in the registry."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

from audioset.errors import OptionError
from audioset.models import mini, vggish, yamnet
from audioset.models.spec import ModelSpec

REGISTRY = MappingProxyType(
    {
        "vggish": vggish.SPEC,
        "yamnet": yamnet.SPEC,
        "mini": mini.SPEC,
    }
)


def built_in(name: str) -> Path | None:
    """Return the weights that ship with the package beside the model's own file, if they do."""
    path = Path(__file__).with_name(f"{name}.safetensors")
    return path if path.is_file() else None


def get(name: str) -> ModelSpec:
    """Return the model called `name`, or raise OptionError naming those that exist."""
    try:
        return REGISTRY[name]
    except KeyError:
        raise OptionError(f"unknown model {name!r}; expected one of {', '.join(REGISTRY)}") from None

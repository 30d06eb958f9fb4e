"""The models: one file each, one line each in the registry."""

from __future__ import annotations

from types import MappingProxyType

from audioset.errors import OptionError
from audioset.models import vggish, yamnet
from audioset.models.spec import ModelSpec

REGISTRY = MappingProxyType(
    {
        "vggish": vggish.SPEC,
        "yamnet": yamnet.SPEC,
    }
)


def get(name: str) -> ModelSpec:
    """Return the model called `name`, or raise OptionError naming those that exist."""
    try:
        return REGISTRY[name]
    except KeyError:
        raise OptionError(f"unknown model {name!r}; expected one of {', '.join(REGISTRY)}") from None

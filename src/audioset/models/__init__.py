"""The models: one file each, one line each in the registry."""

from __future__ import annotations

import os
from pathlib import Path
from types import MappingProxyType

from audioset.errors import OptionError
from audioset.models import mini, own, vggish, yamnet
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
    """Return the model called `name`, which may also be a model of one's own: its path, or hf://owner/name.

    Raises
    ------
    OptionError
        There is no such model; the message names those that exist.
    WeightsError
        The file at the path does not say of which network it is, or is damaged.
    """
    if name in REGISTRY:
        return REGISTRY[name]
    if own.is_own(name):
        return own.read_spec(name)
    is_path = name.endswith(own.SUFFIX) or Path(name).name != name
    if is_path and not os.path.exists(os.path.expanduser(name)):  # noqa: PTH111  (raises where nobody is)
        raise OptionError(
            f"model {name}: no such file; expected one that `audioset finetune` wrote, or one of {', '.join(REGISTRY)}"
        )
    raise OptionError(
        f"unknown model {name!r}; expected one of {', '.join(REGISTRY)}, or a file of your own, as "
        f"`audioset finetune` writes it ({own.SUFFIX})"
    )

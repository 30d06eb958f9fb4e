"""What tells a head's file from other safetensors files; apart from the heads, so that asking needs no PyTorch."""

from __future__ import annotations

import os
from typing import Final

from audioset.weights import safetensors_file
from audioset.weights.files import locate

KEY: Final = "audioset_head"


def is_head(path: str | os.PathLike[str]) -> bool:
    """Return whether a safetensors file says that it is a head."""
    return KEY in safetensors_file.read(locate(path)[0])[1]

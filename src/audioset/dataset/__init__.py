"""AudioSet and YouTube-8M as data: segments, labels, ontology, released features, and the sound itself.

Each module is one kind of file; what it reads comes back as an Arrow table, a small dataclass or a NumPy array.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from audioset.dataset.download import download_audio

__all__ = ["download_audio"]

# Loaded when first asked for, as in `audioset`.
_LAZY = {"download_audio": "audioset.dataset.download"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""VGGish embeddings and AudioSet tools for any audio.

`audioset.load("vggish")` gives a model; `model.embed("street.wav")` its embeddings. See `audioset.audio`,
`audioset.features`, `audioset.postprocess` and `audioset.records` for the stages one by one.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from audioset._version import __version__
from audioset.errors import AudioSetError

if TYPE_CHECKING:
    from audioset.embed import Embeddings, EmbedOptions, Model, load
    from audioset.live import Stream
    from audioset.records import read_embeddings
    from audioset.scores import Event, Scores

__all__ = [
    "AudioSetError",
    "EmbedOptions",
    "Embeddings",
    "Event",
    "Model",
    "Scores",
    "Stream",
    "__version__",
    "load",
    "read_embeddings",
]

# Loaded when first asked for, so that `import audioset` costs nothing.
_LAZY = {
    "EmbedOptions": "audioset.embed",
    "Embeddings": "audioset.embed",
    "Event": "audioset.scores",
    "Model": "audioset.embed",
    "Scores": "audioset.scores",
    "Stream": "audioset.live",
    "load": "audioset.embed",
    "read_embeddings": "audioset.records",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

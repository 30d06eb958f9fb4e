"""AudioSet and YouTube-8M as data: segments, labels, ontology, released features, and the sound itself.

Each module is one kind of file; what it reads comes back as an Arrow table, a small dataclass or a NumPy array. What
most people need of them is here by name.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from audioset.dataset.convert import convert_features
    from audioset.dataset.download import download_audio
    from audioset.dataset.feature_dataset import FeatureBatch, FeatureDataset
    from audioset.dataset.features import FeatureRecord, read_features, write_features
    from audioset.dataset.ontology import Ontology
    from audioset.dataset.segments import read_segments, write_segments
    from audioset.dataset.strong import read_strong
    from audioset.dataset.youtube8m import read_youtube8m

__all__ = [
    "FeatureBatch",
    "FeatureDataset",
    "FeatureRecord",
    "Ontology",
    "convert_features",
    "download_audio",
    "read_features",
    "read_segments",
    "read_strong",
    "read_youtube8m",
    "write_features",
    "write_segments",
]

# Loaded when first asked for, as in `audioset`.
_LAZY = {
    "FeatureBatch": "feature_dataset",
    "FeatureDataset": "feature_dataset",
    "FeatureRecord": "features",
    "Ontology": "ontology",
    "convert_features": "convert",
    "download_audio": "download",
    "read_features": "features",
    "read_segments": "segments",
    "read_strong": "strong",
    "read_youtube8m": "youtube8m",
    "write_features": "features",
    "write_segments": "segments",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""Jobs on Ray: one task after another to a pool of processes, on one machine or many, each of which holds the model.

    dataset = embed_dataset("s3://bucket/sounds/", "s3://bucket/embeddings")   # parts in a folder, as `audioset embed`
    dataset = embed_dataset("songs.parquet")                                  # rows, for Ray Data to go on with

What `audioset.jobs` says of tasks and parts holds here too. Which process does what, doing again what was lost with a
machine, and more machines where there is more work are Ray's.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from audioset.cluster.datasets import embed_dataset
    from audioset.cluster.running import describe_on_ray, run_on_ray

__all__ = ["describe_on_ray", "embed_dataset", "run_on_ray"]

_LAZY = {"describe_on_ray": "running", "embed_dataset": "datasets", "run_on_ray": "running"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"audioset.cluster.{_LAZY[name]}"), name)

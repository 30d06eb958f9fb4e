"""Files wherever they are: on disks, in object storage, on web servers, and within archives in any of these.

Names are paths (`clips/a.wav`), URLs (`s3://bucket/a.wav`, `gs://…`, `hf://…`, `https://…`) and members of archives
(`shard.tar::a.wav`, `s3://bucket/shard.tar::a.wav`). `sources` gives models what such names stand for, `list_audio`
says what there is, and `Folder` is where outputs go.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from audioset.storage.base import Entry
    from audioset.storage.fetching import Broken, open_input, sources
    from audioset.storage.folder import Folder
    from audioset.storage.listing import list_audio, size_of
    from audioset.storage.names import is_archive, is_url

__all__ = ["Broken", "Entry", "Folder", "is_archive", "is_url", "list_audio", "open_input", "size_of", "sources"]

# Loaded when first asked for: what only looks at names needs none of the rest.
_LAZY = {
    "Broken": "fetching",
    "Entry": "base",
    "Folder": "folder",
    "is_archive": "names",
    "is_url": "names",
    "list_audio": "listing",
    "open_input": "fetching",
    "size_of": "listing",
    "sources": "fetching",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f"audioset.storage.{_LAZY[name]}"), name)
    globals()[name] = found  # asked for once for each of millions of names
    return found

"""What a file is that is to be pushed: checked, and what it says of itself."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from audioset import models
from audioset.classes import ClassList
from audioset.errors import WeightsError, WeightsFormatError
from audioset.hub.download import EMBEDDINGS
from audioset.models import own
from audioset.records.info import Metadata
from audioset.train.head_file import KEY as HEAD_KEY
from audioset.weights import content, safetensors_file
from audioset.weights.files import sha256_of, unreadable, user_path

_JSON: Final = ("trained_on", "options", "own_model")  # of a model's metadata, what is JSON in itself


@dataclass(frozen=True)
class Contents:
    """A file that can be pushed.

    Attributes
    ----------
    kind : {"model", "head", "weights", "embeddings"}
        See `Pulled`.
    path : Path
        The file.
    sha256, num_bytes : str, int
        Of its bytes.
    title : str
        What it calls itself.
    base : str
        The model of the registry that it is, builds on, or was made with.
    classes : ClassList or None
        What it scores.
    about : mapping
        What else it says of itself.
    job : Metadata or None
        Of embeddings, how they were made.
    """

    kind: str
    path: Path
    sha256: str
    num_bytes: int
    title: str
    base: str
    classes: ClassList | None = None
    about: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    job: Metadata | None = None

    @property
    def notes(self) -> Mapping[str, Any]:
        """What training noted with a head."""
        notes: Mapping[str, Any] = self.about.get("notes", {})
        return notes

    @property
    def embedded(self) -> Metadata:
        """How embeddings were made."""
        if self.job is None:
            raise WeightsError(f"{self.path}: {self.kind}; expected embeddings")
        return self.job


def examine(path: str | os.PathLike[str]) -> Contents:
    """Return what a file is.

    Raises
    ------
    WeightsError, RecordError
        It cannot be read, is damaged, or none of what this package writes.
    """
    file = user_path(path)
    try:
        with file.open("rb") as stream:
            head = stream.read(16)
        num_bytes = file.stat().st_size
    except OSError as error:
        raise unreadable(file, error) from error
    if head.startswith(b"PAR1"):
        found = _embeddings(file)
    elif safetensors_file.is_safetensors(head, file):
        found = _safetensors(file)
    else:
        raise WeightsError(
            f"{file}: neither safetensors nor Parquet; expected a model that `audioset finetune` wrote, a head of "
            "`audioset train`, embeddings of `audioset embed`, or weights. Bring weights of other formats into "
            "safetensors with `audioset models convert`"
        )
    return Contents(path=file, sha256=sha256_of([file]), num_bytes=num_bytes, **found)


def _safetensors(file: Path) -> dict[str, Any]:
    metadata = safetensors_file.read(file)[1]
    if HEAD_KEY in metadata:
        return _head(file, metadata[HEAD_KEY])
    if (wrong := content.verify(file)) or "model" not in metadata:
        raise WeightsFormatError(
            f"{file}: {wrong or 'does not say of which model it is'}. Expected a file as this package wrote it"
        )
    about: dict[str, Any] = {name: _parsed(text) if name in _JSON else text for name, text in metadata.items()}
    if "own_model" in metadata:
        spec = own.read_spec(str(file))
        content.check_names_and_shapes(spec, safetensors_file.read(file)[0], file)
        base = about["own_model"]["base"]
        return {"kind": "model", "title": spec.name, "base": base, "classes": spec.classes, "about": about}
    spec = models.get(metadata["model"])
    content.open_safetensors(spec.name, file, file.name)
    return {"kind": "weights", "title": file.stem, "base": spec.name, "classes": spec.classes, "about": about}


def _head(file: Path, text: str) -> dict[str, Any]:
    """Return what a head's file says; the head itself is not built, which needs PyTorch."""
    try:
        about = json.loads(text)
        pairs = [(str(mid), str(name)) for mid, name in about["classes"]]
        base = str(about["embedder"]["model"])
        kind, notes = str(about["kind"]), dict(about["notes"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise WeightsError(
            f"{file}: a head that cannot be used ({error}); expected one as `audioset train` writes it"
        ) from error
    classes = ClassList(tuple(mid for mid, _ in pairs), tuple(name for _, name in pairs))
    about = {"kind": kind, "embedder": about["embedder"], "notes": notes}
    return {"kind": "head", "title": file.stem, "base": base, "classes": classes, "about": about}


def _embeddings(file: Path) -> dict[str, Any]:
    from audioset.records.table import read_metadata

    job = read_metadata(file, "parquet")
    return {"kind": EMBEDDINGS, "title": file.stem, "base": job.job.model, "job": job}


def _parsed(text: str) -> Any:
    """Return JSON in metadata, or the text where it is none: then others wrote it."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text

"""Weights as the rest of the package sees them: a model's tensors, complete and checked, with a hash and a history."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from audioset import models
from audioset._files import unwritable
from audioset.errors import OutputError, WeightsError
from audioset.models.spec import ModelSpec
from audioset.weights import safetensors_file
from audioset.weights.catalogue import PUBLISHED, WEIGHTS, catalogue
from audioset.weights.readers import RENAMES, SAFETENSORS, Source

Array: TypeAlias = npt.NDArray[Any]
Tensors: TypeAlias = Mapping[str, npt.NDArray[np.float32]]

_SHOWN_NAMES: Final = 3
_PIECE_ELEMENTS: Final = 1 << 20
_MODEL, _SHA256 = "model", "content_sha256"  # metadata; what else is there is provenance
_DECIDING: Final = ("source_format", "own_model")


@dataclass(frozen=True, eq=False)
class Weights:
    """The weights of one network.

    Attributes
    ----------
    model : str
        The model that they are for.
    name : str
        What the user would recognise: the catalogue's name, "untrained:SEED", or the file's name.
    tensors : mapping of str to ndarray
        float32, C-contiguous and read-only, in the order of the model's layers; mapped from a file where there is one.
    sha256 : str
        Of the content (see `content_sha256`): the same weights give the same value whatever file they came in.
    provenance : mapping of str to str
        Where they came from: `source`, `source_sha256`, `source_format`, `url`, `licence`, `citation`, as far as known.
    path : Path or None
        The safetensors file that the tensors are mapped from.
    """

    model: str
    name: str
    tensors: Tensors
    sha256: str
    provenance: Mapping[str, str]
    path: Path | None = None

    @property
    def published(self) -> bool:
        """Whether they were read from the file that the model's authors published, by its hash."""
        return self.provenance.get("source_sha256") in PUBLISHED


def content_sha256(tensors: Mapping[str, Array]) -> str:
    """Return the sha256 of one line `NAME DTYPE SHAPE SHA256-OF-THE-BYTES` for each tensor, sorted by name.

    Two tensors of the same name, type, shape and values hash alike; order, file format and alignment do not matter.
    """
    total = hashlib.sha256()
    for name in sorted(tensors):
        values = np.ascontiguousarray(tensors[name])
        digest = hashlib.sha256(values.reshape(-1).view(np.uint8).data).hexdigest()
        shape = ",".join(map(str, tensors[name].shape))
        total.update(f"{name} {values.dtype.name} {shape} {digest}\n".encode())
    return total.hexdigest()


def canonical(model: str, source: Source) -> dict[str, npt.NDArray[np.float32]]:
    """Return the model's tensors, read from any format: its own names and layouts, float32, finite, nothing missing.

    Raises
    ------
    WeightsError
        If tensors are missing, unknown, misshapen, not numbers with a fraction, or not finite.
    WeightsFormatError
        If the file is damaged.
    """
    spec = models.get(model)
    shapes = spec.tensor_shapes
    tensors: Mapping[str, Array] = source.reader.read(source.path)
    for rename in RENAMES.get(model, ()):
        renamed = rename(tensors)
        if renamed is not None:
            tensors = renamed
            break
    if source.reader.holds_training_state:
        tensors = {name: values for name, values in tensors.items() if not _beside_the_network(name, shapes)}
    check_names_and_shapes(spec, tensors, source.path)
    checked = {}
    for name in shapes:
        values = tensors[name]
        if values.dtype.kind != "f":
            raise WeightsError(
                f"{source.path}: {name} holds {values.dtype.name}; expected floating-point numbers. "
                "Convert weights before they are quantized."
            )
        with np.errstate(over="ignore"):  # what overflows is found as infinite below
            checked[name] = np.ascontiguousarray(values, dtype=np.float32)
        check_finite(checked[name], name, source.path)
    return checked


def check_names_and_shapes(spec: ModelSpec, tensors: Mapping[str, Array], path: Path) -> None:
    """Raise WeightsError unless the tensors are exactly those of the model, naming the first few that are not."""
    shapes = spec.tensor_shapes
    missing = [name for name in shapes if name not in tensors]
    extra = [name for name in tensors if name not in shapes]
    if missing or extra:
        found = [f"lacks {_listed(missing)}"] * bool(missing) + [f"has also {_listed(extra)}"] * bool(extra)
        raise WeightsError(
            f"{path}: {' and '.join(found)}; expected the {len(shapes)} tensors of {spec.name} and no others. "
            "Check that the weights are of this model."
        )
    wrong = [
        f"{name} {tensors[name].shape} where {shape} belongs"
        for name, shape in shapes.items()
        if tensors[name].shape != shape
    ]
    if wrong:
        raise WeightsError(
            f"{path}: {_listed(wrong)}; expected the shapes of {spec.name}. Check that it is this model's."
        )


def check_finite(values: npt.NDArray[np.float32], name: str, path: Path) -> None:
    """Raise WeightsError if an element is NaN or infinite; memory beyond the array stays small."""
    flat = values.reshape(-1)
    for start in range(0, flat.size, _PIECE_ELEMENTS):
        if not np.isfinite(flat[start : start + _PIECE_ELEMENTS]).all():
            raise WeightsError(
                f"{path}: {name} has values that are NaN or infinite; expected finite numbers. "
                "Take weights from before training diverged."
            )


def from_tensors(model: str, name: str, tensors: Tensors, provenance: Mapping[str, str]) -> Weights:
    """Return weights made of these tensors, hashed."""
    return Weights(
        model, name, MappingProxyType(dict(tensors)), content_sha256(tensors), MappingProxyType(dict(provenance))
    )


def save(weights: Weights, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Write weights to a safetensors file, with their hash and provenance in its metadata; whole or not at all.

    Raises
    ------
    OutputError
        If the file exists (and `overwrite` is not set) or cannot be written.
    """
    path = Path(path)
    check_output(path, overwrite=overwrite)
    safetensors_file.write(
        path, weights.tensors, {**weights.provenance, _MODEL: weights.model, _SHA256: weights.sha256}
    )


def check_output(path: Path, *, overwrite: bool) -> None:
    """Raise OutputError if a file exists that may not be replaced, or no file can be written there."""
    try:
        if path.is_dir():
            raise OutputError(f"{path}: is a folder; expected the name of a file to write. Name a file in it.")
        if path.exists() and not overwrite:
            raise OutputError(
                f"{path}: exists already; expected a new file. Choose another name, or ask to overwrite it."
            )
        if not path.absolute().parent.is_dir():
            raise OutputError(f"{path}: its folder does not exist; expected an existing folder. Create it first.")
    except OutputError:
        raise
    except OSError as error:
        raise unwritable(path, error) from error


def open_safetensors(model: str, path: Path, name: str) -> Weights | None:
    """Return the weights in a safetensors file, mapped; None if its tensors have other names or types than the model's.

    The hash is the one that the file states. A file of unknown origin that states none is hashed and checked here.

    Raises
    ------
    WeightsError
        If the file says that it is another model's, or has tensors that do not fit.
    WeightsFormatError
        If the file is damaged.
    """
    spec = models.get(model)
    tensors, metadata = safetensors_file.read(path)
    of_model = metadata.pop(_MODEL, None)
    sha256 = metadata.pop(_SHA256, None)
    if sha256 is not None and of_model is not None and of_model != spec.name:
        raise WeightsError(
            f"{path}: weights of {of_model}; expected those of {spec.name}. Choose the model or other weights."
        )
    shapes = spec.tensor_shapes
    if not shapes.keys() & tensors.keys() or any(values.dtype != np.float32 for values in tensors.values()):
        return None
    check_names_and_shapes(spec, tensors, path)
    ordered = {key: tensors[key] for key in shapes}
    if sha256 is None:
        for key, values in ordered.items():
            check_finite(values, key, path)
        return from_tensors(spec.name, name, ordered, {"source": path.name, "source_format": "safetensors", **metadata})
    return Weights(spec.name, name, MappingProxyType(ordered), sha256, MappingProxyType(metadata), path)


def verify(path: Path) -> str:
    """Return what is wrong with the content of a safetensors file when hashed again, or nothing.

    Raises
    ------
    WeightsFormatError
        If the file is damaged.
    """
    tensors, metadata = safetensors_file.read(path)
    stated = metadata.get(_SHA256)
    if stated is None:
        return "states no hash of its content; write it with `audioset models convert`"
    got = content_sha256(tensors)
    return "" if got == stated else f"content hash {got}; expected {stated}"


def provenance(source: Source, source_sha256: str) -> dict[str, str]:
    """Return what is known of a source; terms and URL are the catalogue's if it has a file of this hash.

    What decides the network goes on from safetensors to safetensors: the format that the weights first came in.
    """
    known = {"source": source.path.name, "source_sha256": source_sha256, "source_format": source.reader.name}
    if source.reader is SAFETENSORS:
        metadata = safetensors_file.read(source.path)[1]
        known |= {name: metadata[name] for name in _DECIDING if name in metadata}
    for entry in catalogue().values():
        if entry.sha256 == source_sha256 and entry.kind == WEIGHTS:
            known |= {"url": entry.url, "licence": entry.licence, "citation": entry.citation}
    return known


def _beside_the_network(name: str, shapes: Collection[str]) -> bool:
    """Return whether a variable is training's own: outside the network's scope, or a slot of one of its tensors."""
    scopes = {tensor.partition("/")[0] for tensor in shapes}
    return name.partition("/")[0] not in scopes or any(name.startswith(f"{tensor}/") for tensor in shapes)


def _listed(names: list[str]) -> str:
    more = len(names) - _SHOWN_NAMES
    return ", ".join(names[:_SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")

"""Where weights come from: fetched by name, read from any format by path, or drawn from a seed.

    load("vggish")                 # the published ones: from the cache, else fetched, verified and converted, once
    load("vggish", "mine.ckpt")    # safetensors, TensorFlow checkpoints of both versions, PyTorch state dicts
    load("vggish", "untrained:0")  # random ones, for tests and for trying things out

A new format is a line in readers.py; what can be fetched is in catalogue.py.
"""

from __future__ import annotations

import os
import warnings
import zipfile

import numpy as np
import numpy.typing as npt

from audioset import models
from audioset.errors import WeightsError, WeightsFormatError
from audioset.weights import readers, untrained
from audioset.weights.cache import Check, built_in, close_match, find_present, ready, select, verify
from audioset.weights.catalogue import PCA, WEIGHTS, CatalogueEntry, catalogue
from audioset.weights.content import Weights, content_sha256, from_tensors, save
from audioset.weights.conversion import (
    convert,
    open_built_in,
    open_converted,
    open_own,
    open_path,
    open_ready,
    open_untrained,
)
from audioset.weights.download import Progress, fetch
from audioset.weights.files import cache_dir, unreadable, user_path
from audioset.weights.untrained import UntrainedWeightsWarning

__all__ = [
    "CatalogueEntry",
    "Check",
    "Progress",
    "UntrainedWeightsWarning",
    "Weights",
    "built_in",
    "cache_dir",
    "catalogue",
    "content_sha256",
    "convert",
    "fetch",
    "find_present",
    "from_tensors",
    "load",
    "load_pca",
    "ready",
    "save",
    "select",
    "verify",
]

_PCA_SHAPES = {"pca_eigen_vectors": (128, 128), "pca_means": (128,)}


def load(model: str, weights: str | os.PathLike[str] | None = None, *, progress: Progress | None = None) -> Weights:
    """Return the weights of a model, memory-mapped wherever they come from a file.

    Parameters
    ----------
    model
        A model of the registry, such as "vggish", or the path of a model of one's own, or "hf://owner/name" of one on
        Hugging Face.
    weights
        None for those that ship with the package or else the published ones; the name of a catalogue entry;
        "untrained:SEED"; or a path to safetensors, a TensorFlow checkpoint (version 1: the file; version 2: the prefix
        or the `.index`), a PyTorch state dict, a Keras or a TensorFlow Lite file, told apart by content. A catalogue
        name wins over a file of the same name: write `./vggish` for the file. "hf://owner/name" is a file on Hugging
        Face, as `audioset.hub.push` puts it there.
    progress
        Called as `progress(bytes_done, bytes_total)` while something is downloaded.

    Warns
    -----
    UntrainedWeightsWarning
        If the weights are random.

    Raises
    ------
    WeightsError
        If the weights are unknown or do not fit the model; WeightsFormatError if their file is damaged.
    FetchError
        If they have to be fetched and cannot be.
    MissingExtraError
        If their format needs a library that is not installed.
    """
    models.get(model)
    found = _load(model, weights, progress)
    if found.provenance.get("source_format") == untrained.PREFIX:
        warnings.warn(
            f"{model} has random weights ({found.provenance['source']}): its output means nothing. "
            "Use it for tests only.",
            UntrainedWeightsWarning,
            stacklevel=2,
        )
    return found


def load_pca(
    path: str | os.PathLike[str] | None = None, *, progress: Progress | None = None
) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]]:
    """Return VGGish's PCA parameters: eigenvectors (128, 128), one a row, and means (128,), in the file's precision.

    Parameters
    ----------
    path
        An .npz file with `pca_eigen_vectors` and `pca_means`; None for the published one, fetched if need be.
    progress
        As for `load`.

    Raises
    ------
    WeightsError
        If the file is unreadable or what it holds has other names or shapes or is not finite.
    FetchError
        If the published file has to be fetched and cannot be.
    """
    file = fetch(catalogue()["vggish-pca"], progress=progress) if path is None else user_path(path)
    hint = "Fetch it again with `audioset models fetch vggish-pca`."
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as archive:
            found = {name: archive[name] for name in _PCA_SHAPES}
    except FileNotFoundError as error:
        raise unreadable(file, error) from error
    except (OSError, ValueError, KeyError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise WeightsFormatError(
            f"{file}: cannot be read ({error}); expected an .npz file with {' and '.join(_PCA_SHAPES)}. {hint}"
        ) from error
    for name, shape in _PCA_SHAPES.items():
        values = found[name]
        if values.shape != shape or values.dtype.kind != "f" or not np.isfinite(values).all():
            raise WeightsFormatError(
                f"{file}: {name} is {values.dtype} {values.shape}; expected finite floats {shape}. {hint}"
            )
    return found["pca_eigen_vectors"], found["pca_means"]


def _load(model: str, weights: str | os.PathLike[str] | None, progress: Progress | None) -> Weights:
    if weights is None and models.own.is_own(model):
        return open_own(model)
    entries = catalogue()
    if weights is None:
        shipped = models.built_in(model)
        if shipped is not None:
            return open_built_in(model, shipped)
        if model not in entries:
            raise WeightsError(f"{model}: nothing published under this name; expected a path. {_accepted(model)}")
        return _load_entry(model, entries[model], progress)
    if isinstance(weights, str):
        if weights.startswith(untrained.PREFIX):
            return open_untrained(model, weights)
        if weights in entries:
            return _load_entry(model, entries[weights], progress)
        if not weights.startswith(models.own.HUB):
            _refuse_unless_file(model, weights, entries)
    return open_path(model, weights)


def _load_entry(model: str, entry: CatalogueEntry, progress: Progress | None) -> Weights:
    if entry.kind != WEIGHTS or entry.model != model:
        what = "post-processing parameters" if entry.kind == PCA else "weights"
        raise WeightsError(f"{entry.name}: {what} of {entry.model}; expected weights of {model}. {_accepted(model)}")
    ready = open_ready(model, entry.sha256, entry.name)
    if ready is not None:
        return ready
    return open_converted(model, readers.find(fetch(entry, progress=progress)), entry.sha256, entry.name)


def _refuse_unless_file(model: str, weights: str, entries: dict[str, CatalogueEntry]) -> None:
    path = user_path(weights)
    try:
        if path.name and (path.exists() or readers.has_prefix(path)):
            return
    except OSError as error:
        raise unreadable(path, error) from error
    looks_like_path = path.suffix or os.sep in weights or "/" in weights
    found = "no such file" if looks_like_path else "unknown weights, and no file of this name"
    names = [name for name, entry in entries.items() if entry.model == model and entry.kind == WEIGHTS]
    raise WeightsError(f"{weights}: {found}.{close_match(weights, [*names, 'untrained:0'])} {_accepted(model)}")


def _accepted(model: str) -> str:
    names = [entry.name for entry in catalogue().values() if entry.model == model and entry.kind == WEIGHTS]
    named = f"{', '.join(names)}, " if names else ""
    return (
        f"Accepted for {model}: {named}untrained:SEED, or a path to a file in one of the formats "
        f"{', '.join(reader.name for reader in readers.READERS)}."
    )

"""Recordings that are not in an index, as something to search it for: by its model, its weights and its options."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from audioset import models
from audioset.audio import AudioSource
from audioset.embed import Model, check_cores
from audioset.errors import OptionError
from audioset.features import ShortClipWarning
from audioset.index._rows import Rows, about, is_called, read_rows
from audioset.index.search import Query, SoundIndex, in_time
from audioset.models.own import HUB
from audioset.postprocess import Pca
from audioset.weights import Progress, catalogue, load_pca
from audioset.weights import load as load_weights
from audioset.weights.untrained import PREFIX

_EMBEDDER = ("model", "weights_sha256", "regime", "pca_sha256", "embedding_dim")


def model_of(
    index: SoundIndex,
    weights: str | os.PathLike[str] | None = None,
    *,
    pca: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Model:
    """Return the model that an index's embeddings are of, in float32.

    Parameters
    ----------
    index : SoundIndex
        The index.
    weights : str or path, optional
        As `audioset.load` takes them; by default those that the index names, where a name is enough to have them. For
        an index of a model of one's own, the file or "hf://owner/name" of that.
    pca : path, optional
        PCA parameters, for indexes of PCA components and released bytes; the published ones by default.
    threads : int, optional
        Cores to use.
    progress : callable, optional
        Told of downloads.

    Raises
    ------
    OptionError
        The weights or PCA parameters are others than the index's.
    WeightsError, FetchError
        They cannot be had.
    """
    job = index.job
    check_cores(threads, None)
    if weights is None:
        weights = _by_name(index)
    name = job.model
    if name not in models.REGISTRY and weights is not None:  # one's own: its file says what network it is
        name, weights = os.fspath(weights), None
    found = load_weights(name, weights, progress=progress)
    if found.sha256 != job.weights_sha256:
        raise OptionError(
            f"weights {found.name}: sha256 {found.sha256[:16]}…, {index.path} is of {job.weights_name} with "
            f"{job.weights_sha256[:16]}…; expected the same. Name them (--weights)"
        )
    parameters = None
    if job.regime != "raw":
        parameters = Pca(*load_pca(pca, progress=progress))
        if parameters.sha256 != job.pca_sha256:
            raise OptionError(
                f"PCA parameters: others than those that {index.path} was made with; expected the same. "
                "Name their file (--pca)"
            )
    elif pca is not None:
        raise OptionError(f"--pca: would not be used; {index.path} is of raw embeddings")
    return Model(models.get(name), found, threads=threads, pca=parameters)


def embed_query(
    index: SoundIndex, model: Model, source: AudioSource, start_s: float = 0.0, duration_s: float | None = None
) -> Query:
    """Return a recording, or a part of it, embedded as the recordings of an index were.

    Raises
    ------
    AudioError
        It cannot be read.
    OptionError
        It is too short for an embedding, or the part is none.
    """
    job = index.job
    options: dict[str, Any] = {"hop_s": job.hop_s, "pad": job.pad, "pool": job.pool}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ShortClipWarning)  # what was padded is found as it was put in
        found = model.embed(
            source,
            start_s=start_s,
            duration_s=duration_s,
            postprocess="none" if job.regime == "raw" else job.regime,
            **options,
        )
    return index.query(found)


def query_in(
    index: SoundIndex,
    path: str | os.PathLike[str],
    file: str | None = None,
    start_s: float = 0.0,
    duration_s: float | None = None,
) -> Query:
    """Return a recording of an embeddings file, or a part of it, as something to search an index for.

    Parameters
    ----------
    index : SoundIndex
        The index.
    path : path
        Parquet or NPZ that `audioset embed` wrote, or a folder of parts, with the index's model.
    file : str, optional
        Which of its recordings, by its name or the last part of it, as for `SoundIndex.query_of`; may be left out
        where there is one.
    start_s, duration_s
        As for `SoundIndex.query_of`.

    Raises
    ------
    RecordError
        The embeddings file cannot be read.
    OptionError
        It is of another model or weights, or there is no such recording or part.
    """
    source = Path(path)
    job, _ = about(source)
    index.check_embedder({key: getattr(job, key) for key in _EMBEDDER}, str(source))
    chosen: list[Rows] = []
    names: dict[str, None] = {}
    for rows in read_rows(source):
        names.update(dict.fromkeys(rows.names))
        wanted = next(iter(names)) if file is None else file
        chosen.append(rows.only(is_called(name, wanted) for name in rows.names))
    called = [name for name in names if file is None or is_called(name, file)]
    if file in names:
        called = [file]
    if len(called) != 1:
        few = ", ".join([*(called or names)][:3]) or "none"
        found = "which recording is not said" if file is None else f"{len(called) or 'no'} recordings called {file}"
        raise OptionError(f"{source}: {found}; it has {len(names):,}, such as {few}. Expected the name of one (--file)")
    chosen = [rows.only(name == called[0] for name in rows.names) for rows in chosen]
    start, end = (np.concatenate([getattr(rows, of) for rows in chosen]) for of in ("start_s", "end_s"))
    values = np.concatenate([rows.values for rows in chosen])
    taken = in_time(start, end, start_s, duration_s)
    return index.query_from(values[taken], start[taken], end[taken], called[0])


def _by_name(index: SoundIndex) -> str | None:
    """The weights of an index as `load` takes them; None for those of the registry's model."""
    job = index.job
    if job.weights_name.startswith((f"{PREFIX}:", HUB)) or job.weights_name in catalogue():
        return job.weights_name
    if job.model in models.REGISTRY and job.weights_name == job.model:
        return None
    raise OptionError(
        f"weights: {index.path} is of {job.model} with weights from {job.weights_name} (sha256 "
        f"{job.weights_sha256[:16]}…), which have no name to find them by; expected their file. Name it (--weights)"
    )

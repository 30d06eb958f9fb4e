"""Recordings to embeddings in the cache: only those that are not there yet, and on from where a run was stopped."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Protocol, TypeAlias

from audioset._runtime import Place, choose
from audioset.embed import EmbedOptions
from audioset.errors import AudioError, OutputError
from audioset.fad.cache import CachedSource, Group, Span, cache_folder, identity
from audioset.fad.sources import EmbeddingSource
from audioset.features import ShortClipWarning
from audioset.inputs import expand
from audioset.records import Failure, JobInfo, JobWriter
from audioset.records.info import reason_of, storable

if TYPE_CHECKING:
    from audioset.embed import Model
    from audioset.models.spec import ModelSpec
    from audioset.weights import Weights


class Progress(Protocol):
    """Called as files are embedded."""

    def __call__(self, files: int, audio_s: float, failures: int) -> None:
        """Take how many files and seconds are done, and how many files have failed."""


Watch: TypeAlias = Callable[[Sequence[str]], Progress]


@dataclass(frozen=True)
class Embedded:
    """Recordings as embeddings.

    Attributes
    ----------
    source : EmbeddingSource
        Their rows, in order.
    failures : tuple of Failure
        Recordings that could not be read, and why.
    reused : int
        Recordings that were embedded before.
    """

    source: EmbeddingSource
    failures: tuple[Failure, ...]
    reused: int


class Embedder:
    """Embeds recordings that the cache does not hold.

    Parameters
    ----------
    info : JobInfo
        The options that decide the values.
    make_model : callable
        Returns the model; called when first needed.
    folder : Path
        The cache.
    """

    def __init__(self, info: JobInfo, make_model: Callable[[], Model], folder: Path) -> None:
        self.info = info
        self._make_model = make_model
        self._model: Model | None = None
        self._folder = folder

    def embed(
        self,
        name: str,
        files: Sequence[str],
        base: str,
        *,
        watch: Watch | None = None,
        say: Callable[[str], None] | None = None,
    ) -> Embedded:
        """Return the embeddings of recordings, from the cache where it has them.

        Parameters
        ----------
        name : str
            What messages call them.
        files : sequence of str
            Their paths.
        base : str
            The folder that they are in.
        watch : callable, optional
            Called with the files that are to be embedded; returns what to report progress to.
        say : callable, optional
            Called with what there is to wait for.

        Raises
        ------
        AudioError
            Not one of them could be read.
        OutputError
            The cache cannot be written.
        """
        known: dict[str, str] = {}  # by the identity, as it is stored
        failures: list[Failure] = []
        for file in files:
            try:
                if not S_ISREG(os.stat(file).st_mode):  # noqa: PTH116
                    raise OSError(0, "no regular file")
                known[storable(identity(file))] = file
            except OSError as error:
                failures.append(Failure(file, f"{file}: {error.strerror}; expected a recording on a disk"))
        group = Group(self._folder, self.info, base)
        index = group.index()
        reused = sum(key in index for key in known)
        if reused < len(known):
            failures += self._add(group, name, known, watch, say)
            index = group.index()
        spans: list[tuple[str, Span]] = [(file, index[key]) for key, file in known.items() if key in index]
        if not spans:
            reasons = "; ".join(failure.reason for failure in failures[:3])
            raise AudioError(f"{name}: no recording could be read ({reasons}); expected audio files")
        return Embedded(CachedSource(name, self.info, spans), tuple(failures), reused)

    def _add(
        self,
        group: Group,
        name: str,
        known: dict[str, str],
        watch: Watch | None,
        say: Callable[[str], None] | None,
    ) -> list[Failure]:
        def waiting() -> None:
            if say is not None:
                say(f"{name}: waiting for another process, which is embedding these recordings")

        with group.adding(waiting) as path:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of damage, which was said
                index = group.index()  # what the other process did
            todo = {key: file for key, file in known.items() if key not in index}
            try:
                failures = self._embed(path, todo, watch) if todo else []
            except OutputError as error:
                raise OutputError(
                    f"{path}: the cache cannot be written ({error.__cause__ or error}); expected a folder with room. "
                    "Make room or choose another with --cache; what is done is kept"
                ) from error
            # What was written just now is used, even where a recording has changed since it was asked for.
            group.drop_outdated({path, *(span.shard.path for key, span in index.items() if key in known)})
        return failures

    def _embed(self, path: Path, todo: dict[str, str], watch: Watch | None) -> list[Failure]:
        with JobWriter(path, self.info, format="parquet", resume=True) as writer, warnings.catch_warnings():
            warnings.simplefilter("ignore", ShortClipWarning)
            left = [(key, file) for key, file in todo.items() if key not in writer.completed]
            progress = watch([file for _, file in left]) if watch is not None and left else None
            files, audio_s, rows = 0, 0.0, 0
            if left and self._model is None:
                self._model = self._make_model()
            options = EmbedOptions(hop_s=self.info.hop_s)
            for block in self._model.embed_blocks(((file, None) for _, file in left), options) if self._model else ():
                key, file = left[block.index]
                if block.error is not None:
                    writer.fail(key, reason_of(file, block.error))
                else:
                    writer.append(key, block.start_s, block.end_s, block.values, last=block.last)
                    rows += len(block.values)
                files += block.last
                audio_s += block.duration_s if block.last else 0.0
                if progress is not None:
                    progress(files, audio_s, len(writer.failures))
            failed = {failure.file: failure.reason for failure in writer.failures}
            if rows or writer.completed - failed.keys():
                writer.finish()
            else:
                writer.discard()
        return [Failure(file, failed[key]) for key, file in todo.items() if key in failed]


def embed_files(
    model: Model,
    recordings: str | Sequence[str | os.PathLike[str]],
    *,
    hop_s: float | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> Embedded:
    """Return the embeddings of recordings, embedding only those that are new or have changed since.

    Parameters
    ----------
    model : Model
        What `audioset.load` returns.
    recordings : str, or sequence of paths
        A file, a folder or a pattern, as on the command line; or files.
    hop_s : float, optional
        Seconds from one example to the next; the model's own by default.
    cache : path, optional
        Folder to keep them in; by default `fad` in the package's cache.

    Raises
    ------
    AudioError
        No recording could be read.
    OutputError
        The cache cannot be written.
    """
    given = [recordings] if isinstance(recordings, str) else [os.fspath(path) for path in recordings]
    inputs = expand(given)
    if inputs.missing:
        raise inputs.missing[0][1]
    precision = model.place.precision
    int8_sha256 = None
    if precision == "int8":
        from audioset import int8

        int8_sha256 = int8.load(model.spec, model.weights).sha256
    info = job_info(model.spec, model.weights, model.place, hop_s, choose(model.place), int8_sha256)
    name = given[0] if len(given) == 1 else f"{len(inputs.files)} recordings"
    return Embedder(info, lambda: model, cache_folder(cache)).embed(name, inputs.files, base_of(given))


def job_info(
    spec: ModelSpec, weights: Weights, place: Place, hop_s: float | None, engine: str, int8_sha256: str | None
) -> JobInfo:
    """Return the options that decide the values: the model's own embeddings, at a hop."""
    hop_s, pad = EmbedOptions(hop_s=hop_s).resolve(spec)
    return JobInfo(
        model=spec.name,
        weights_name=weights.name,
        weights_sha256=weights.sha256,
        embedding_dim=spec.embedding_dim,
        dtype="float32",
        regime="raw",
        hop_s=hop_s,
        pad=pad,
        pool="none",
        precision=place.precision,
        int8_sha256=int8_sha256,
        engine=engine,
        device=place.device,
    )


def base_of(arguments: Sequence[str]) -> str:
    """Return the folder that files, folders and patterns are in: what stays the same when recordings are added."""
    folders = []
    for argument in arguments:
        path = os.path.abspath(argument)  # noqa: PTH100
        while not os.path.isdir(path):
            path = os.path.dirname(path)  # noqa: PTH120
        folders.append(path)
    try:
        return os.path.commonpath(folders)
    except ValueError:  # on several drives
        return folders[0]

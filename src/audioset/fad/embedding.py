"""Recordings to embeddings in the cache: only those that are not there yet, and on from where a run was stopped."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

from audioset import storage
from audioset._runtime import Place, choose
from audioset.embed import EmbedOptions
from audioset.errors import AudioError, OutputError
from audioset.fad.cache import CachedSource, Group, Scratch, Span, cache_folder
from audioset.fad.identity import holder, identities, stamps_of
from audioset.fad.sources import EmbeddingSource
from audioset.features import ShortClipWarning
from audioset.inputs import expand
from audioset.records import Failure, JobInfo, JobWriter
from audioset.records.info import reason_of, storable
from audioset.storage.names import fixed_folder, is_archive, is_audio, is_url, member_name, split_member

if TYPE_CHECKING:
    from audioset.audio import AudioSource
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
        Recordings, and what else was named, that could not be read, and why.
    reused : int
        Recordings that were embedded before.
    """

    source: EmbeddingSource
    failures: tuple[Failure, ...]
    reused: int


class _Held:
    """What a group holds of what is asked for.

    Parameters
    ----------
    group : Group
        A group of the cache.
    asked : dict of str to str
        Names of recordings and archives, by their identities.
    """

    def __init__(self, group: Group, asked: dict[str, str]) -> None:
        self.group = group
        self.asked = asked
        self.index = group.index()
        # What is in the archives, where that is known.
        self.members = {
            key: members
            for key, name in asked.items()
            if _is_whole_archive(name) and (members := group.members(key)) is not None
        }

    def recordings(self, key: str) -> list[tuple[str, str]]:
        """Return name and identity of a recording, or of those in an archive."""
        name = self.asked[key]
        if not _is_whole_archive(name):
            return [(name, key)]
        return [(member_name(name, member), _in_archive(key, member)) for member in self.members.get(key, ())]

    def todo(self) -> dict[str, str]:
        """Return what is to be read: recordings without rows, and archives that may hold some."""
        return {
            key: name
            for key, name in self.asked.items()
            if (_is_whole_archive(name) and key not in self.members)
            or any(identity not in self.index for _, identity in self.recordings(key))
        }


class _Done:
    """Names of recordings that need not be read; notes the members of archives, of each of which it is asked.

    Parameters
    ----------
    todo : dict of str to str
        Names by their identities.
    identities : collections of str
        Of recordings that have rows.
    """

    def __init__(self, todo: Mapping[str, str], *identities: Container[str]) -> None:
        self.members: dict[str, dict[str, None]] = {}  # by the identity of the archive, in its order
        self._keys = {name: key for key, name in todo.items()}
        self._identities = identities

    def identity(self, name: str) -> str:
        if name in self._keys:
            return self._keys[name]
        archive, member = split_member(name) or (name, "")
        return _in_archive(self._keys[archive], member)

    def __contains__(self, name: object) -> bool:
        file = str(name)
        parts = split_member(file)
        if parts is not None and parts[0] in self._keys and is_audio(parts[1]):
            self.members.setdefault(self._keys[parts[0]], {})[parts[1]] = None
        identity = self.identity(file)
        return any(identity in some for some in self._identities)


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
        self._scratch: Scratch | None = None

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
            Paths and URLs of recordings and of archives, and members of these.
        base : str
            The folder that they are in, as `base_of` gives it.
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
        order: list[tuple[Path, str]] = []  # the cache and the identity there, as it is stored
        asked: dict[Path, dict[str, str]] = {}
        failures: list[Failure] = []
        for file, found in identities(files):
            if isinstance(found, AudioError):
                failures.append(Failure(file, str(found)))
                continue
            folder = self._folder if found is not None else self._for_this_run()
            key = storable(f"::{file}" if found is None else found)
            order.append((folder, key))
            asked.setdefault(folder, {})[key] = file
        held: dict[Path, _Held] = {}
        before: dict[Path, Container[str]] = {}
        for folder, names in asked.items():
            group = Group(folder, self.info, base)
            held[folder] = _Held(group, names)
            before[folder] = held[folder].index
            if held[folder].todo():
                held[folder], failed = self._add(group, name, names, watch, say)
                failures += failed
        spans: dict[tuple[Path, str], tuple[str, Span]] = {}
        for folder, key in order:
            for file, identity in held[folder].recordings(key):
                if identity in held[folder].index:
                    spans[folder, identity] = file, held[folder].index[identity]
        if not spans:
            reasons = "; ".join(failure.reason for failure in failures[:3])
            raise AudioError(f"{name}: no recording could be read ({reasons}); expected audio files")
        reused = sum(identity in before[folder] for folder, identity in spans)
        return Embedded(CachedSource(name, self.info, list(spans.values()), self._scratch), tuple(failures), reused)

    def _for_this_run(self) -> Path:
        """A cache for what may have changed by the next run, where nobody says whether it has."""
        if self._scratch is None:
            self._scratch = Scratch()
        return self._scratch.path

    def _add(
        self, group: Group, name: str, asked: dict[str, str], watch: Watch | None, say: Callable[[str], None] | None
    ) -> tuple[_Held, list[Failure]]:
        def waiting() -> None:
            if say is not None:
                say(f"{name}: waiting for another process, which is embedding these recordings")

        failures: list[Failure] = []
        with group.adding(waiting) as path:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of damage, which was said
                held = _Held(group, asked)  # with what the other process did
            if held.todo():
                try:
                    failures = self._embed(path, held, watch)
                except OutputError as error:
                    raise OutputError(
                        f"{path}: the cache cannot be written ({error.__cause__ or error}); expected a folder with "
                        "room. Make room or choose another with --cache; what is done is kept"
                    ) from error
            # What was written just now is used, even where a recording has changed since it was asked for.
            used = {
                held.index[identity].shard.path
                for key in asked
                for _, identity in held.recordings(key)
                if identity in held.index
            }
            group.drop_outdated({path, *used}, stamps_of(asked))
        held.index = group.index()
        return held, failures

    def _embed(self, path: Path, held: _Held, watch: Watch | None) -> list[Failure]:
        todo = held.todo()
        failures: list[Failure] = []
        with JobWriter(path, self.info, format="parquet", resume=True) as writer, warnings.catch_warnings():
            warnings.simplefilter("ignore", ShortClipWarning)
            # What failed before the job was stopped is tried again by the next one: here it might be done twice.
            earlier = writer.completed - {key for key, file in todo.items() if _is_whole_archive(file)}
            failed = {failure.file: failure.reason for failure in writer.failures if failure.file in earlier}
            done = _Done(todo, held.index, earlier)
            left = [file for file in todo.values() if file not in done]
            given: list[tuple[str, str]] = []  # identity and name of what the model was given

            def sources() -> Iterator[tuple[AudioSource, None]]:
                identities = set()
                for file, source in storage.sources(left, skip=done):
                    identity = done.identity(file)
                    if identity not in identities:  # a member may be asked for beside its archive
                        identities.add(identity)
                        given.append((identity, file))
                        yield source, None

            progress = watch(left) if watch is not None and left else None
            files, audio_s, rows = 0, 0.0, 0
            if left and self._model is None:
                self._model = self._make_model()
            options = EmbedOptions(hop_s=self.info.hop_s)
            for block in self._model.embed_blocks(sources(), options) if self._model and left else ():
                identity, file = given[block.index]
                if block.error is not None:
                    failures.append(Failure(file, reason_of(file, block.error)))
                    writer.fail(identity, failures[-1].reason)
                else:
                    writer.append(identity, block.start_s, block.end_s, block.values, last=block.last)
                    rows += len(block.values)
                files += block.last
                audio_s += block.duration_s if block.last else 0.0
                if progress is not None:
                    progress(files, audio_s, len(failures))
            if rows or earlier - failed.keys():
                writer.finish()
            else:
                writer.discard()
        held.members |= {key: list(members) for key, members in done.members.items()}
        for key in todo:
            failures += [
                Failure(file, failed[identity]) for file, identity in held.recordings(key) if identity in failed
            ]
        incomplete = {holder(failure.file) for failure in failures}
        for key in done.members:  # an archive is read again where something failed
            if held.asked[key] not in incomplete:
                held.group.keep_members(key, held.members[key])
        return failures


def embed_files(
    model: Model,
    recordings: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    hop_s: float | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> Embedded:
    """Return the embeddings of recordings, embedding only those that are new or have changed since.

    Parameters
    ----------
    model : Model
        What `audioset.load` returns.
    recordings : path, or sequence of paths
        A file, a folder, an archive, a pattern or a URL of these, as on the command line; or several.
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
    several = [recordings] if isinstance(recordings, str | os.PathLike) else recordings
    given = [os.fspath(path) for path in several]
    inputs = expand(given)
    missing = tuple(Failure(name, str(error)) for name, error in inputs.missing)
    if not inputs.files:
        raise AudioError("; ".join(failure.reason for failure in missing) or "recordings: none; expected some")
    precision = model.place.precision
    int8_sha256 = None
    if precision == "int8":
        from audioset import int8

        int8_sha256 = int8.load(model.spec, model.weights).sha256
    info = job_info(model.spec, model.weights, model.place, hop_s, choose(model.place), int8_sha256)
    name = given[0] if len(given) == 1 else f"{len(inputs.files)} recordings"
    found = Embedder(info, lambda: model, cache_folder(cache)).embed(name, inputs.files, base_of(given))
    return replace(found, failures=(*missing, *found.failures))


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
    folders = [_folder_of(holder(argument)) for argument in arguments]
    try:
        return os.path.commonpath(folders)  # which leaves URLs no URLs, but tells them apart
    except ValueError:  # on several drives, or not all of them on a disk
        return folders[0]


def _folder_of(argument: str) -> str:
    if is_url(argument):
        return fixed_folder(argument)
    path = os.path.abspath(argument)  # noqa: PTH100
    while not os.path.isdir(path) and os.path.dirname(path) != path:  # noqa: PTH120
        path = os.path.dirname(path)  # noqa: PTH120
    return path


def _is_whole_archive(name: str) -> bool:
    return is_archive(name) and split_member(name) is None


def _in_archive(identity: str, member: str) -> str:
    """The identity of a member, as it is stored."""
    return storable(member_name(identity, member))

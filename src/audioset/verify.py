"""Two ways of running one network, compared on recordings: what `audioset verify` does.

    found = verify(audioset.load("yamnet"), files, precision="int8")
    found.outputs["embedding"].correlation

Both run on the same examples, which are decoded once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Final, TypeAlias

import numpy as np

from audioset import engine as running
from audioset._excerpts import excerpts
from audioset._runtime import resolve
from audioset.agreement import (
    ByteAgreement,
    ClassAgreement,
    Groups,
    NeighbourAgreement,
    OutputAgreement,
    compare_bytes,
    compare_classes,
    compare_neighbours,
    compare_rows,
    means_of_files,
)
from audioset.embed import Model, available_cores, check_cores
from audioset.errors import AudioError, OptionError
from audioset.features import Float32Array
from audioset.models.spec import ModelSpec
from audioset.network import Network
from audioset.postprocess import Pca

MAX_EXAMPLES: Final = 10_000
_MANY_FILES: Final = 20  # from which on neighbours among files say something
_NAMED: Final = 5
_OTHER: Final = "other "  # before the names of outputs of the second network

Progress: TypeAlias = Callable[[int], None]
_Rows: TypeAlias = dict[str, Float32Array]


@dataclass(frozen=True)
class Agreement:
    """How two ways of running a network agree on some recordings.

    Attributes
    ----------
    files : tuple of str
        The recordings that gave examples.
    examples : int
        How many they gave.
    outputs : dict of str to OutputAgreement
        Of the embeddings and, where the network classifies, of the scores.
    neighbours : NeighbourAgreement or None
        Of embeddings; None where none have neighbours.
    file_neighbours : NeighbourAgreement or None
        Of the files' mean embeddings; None for fewer than 20 files, or where each has one row.
    classes : ClassAgreement or None
        Of scores.
    released : ByteAgreement or None
        Of the released 8-bit form, where PCA parameters were given.
    failures : tuple of (str, Exception)
        Files that could not be read, which are left out.
    """

    files: tuple[str, ...]
    examples: int
    outputs: dict[str, OutputAgreement]
    neighbours: NeighbourAgreement | None
    file_neighbours: NeighbourAgreement | None
    classes: ClassAgreement | None
    released: ByteAgreement | None
    failures: tuple[tuple[str, Exception], ...] = ()

    @property
    def correlation(self) -> float:
        """The mean-centred correlation of the output in which it is lowest."""
        return min(output.correlation for output in self.outputs.values())

    def to_dict(self) -> dict[str, Any]:
        """Return this for JSON, with the lowest files by name."""
        found = asdict(self)
        for output in found["outputs"].values():
            output["lowest_file"] = self.files[output["lowest_file"]]
        return {
            **found,
            "files": len(self.files),
            "failures": [{"file": file, "reason": str(error)} for file, error in self.failures],
        }


def verify(
    model: Model,
    files: Iterable[str | os.PathLike[str]],
    *,
    precision: str = "int8",
    engine: str | None = None,
    device: str = "cpu",
    max_examples: int = MAX_EXAMPLES,
    pca: Pca | None = None,
    threads: int | None = None,
) -> Agreement:
    """Return how a model in another precision, by another library or on another device agrees with float32.

    Parameters
    ----------
    model : Model
        Whose network and weights are meant, in whatever precision it runs itself.
    files, max_examples, pca, threads
        See `compare`.
    precision, engine, device
        As `audioset.load` takes them.

    Raises
    ------
    OptionError, AudioError
        As `compare` and `audioset.load` do.
    """
    place = resolve(precision, engine, device)
    check_cores(threads, None)
    threads = threads or available_cores()
    reference = Network(model.spec, model.weights, calls=threads)
    other = Network(model.spec, model.weights, place=place, calls=threads)
    return compare(reference, other, files, max_examples=max_examples, pca=pca, threads=threads)


def compare(
    reference: Network,
    other: Network,
    files: Iterable[str | os.PathLike[str]],
    *,
    max_examples: int = MAX_EXAMPLES,
    pca: Pca | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Agreement:
    """Return how two ways of running a network agree on recordings.

    Parameters
    ----------
    reference, other : Network
        The same network, run in two ways.
    files : iterable of path
        Audio of any format. One that cannot be read does not stop the others: it is in `failures`.
    max_examples : int
        To compare, at most: spread evenly over the files, and over time within longer ones. Their rows are held in
        memory, 8 bytes for each number of each output.
    pca : Pca, optional
        To compare the released 8-bit form too.
    threads : int, optional
        Cores to use; all that the process may use by default.
    progress : callable, optional
        Called with the number of examples that are done.

    Raises
    ------
    OptionError
        The networks are not the same, an option is out of range, or there are not two examples that differ.
    AudioError
        No recording gave an example.
    """
    spec = reference.spec
    if spec != other.spec or reference.weights.sha256 != other.weights.sha256:
        raise OptionError(f"{spec.name} and {other.spec.name}: expected one network twice, with the same weights")
    if max_examples < 2:
        raise OptionError(f"max_examples: {max_examples} is out of range; expected 2 or more")
    check_cores(threads, None)
    pieces = excerpts([os.fspath(file) for file in files], max_examples, hop_s=spec.hop_s, pad=spec.pad)
    blocks: list[list[_Rows]] = [[] for _ in pieces]
    failed: dict[str, Exception] = {}
    done = 0
    for block in running.run(
        (piece.open for piece in pieces),
        partial(_run_both, reference, other),
        hop_s=spec.hop_s,
        pad=spec.pad,
        log_offset=spec.log_offset,
        threads=threads or available_cores(),
    ):
        if block.values:
            blocks[block.index].append(block.values)
            done += _length(block.values)
        if block.error is not None:
            failed.setdefault(pieces[block.index].file, block.error)
        if progress is not None:
            progress(done)
    by_file: dict[str, list[_Rows]] = {}
    for piece, found in zip(pieces, blocks, strict=True):
        if found and piece.file not in failed:
            by_file.setdefault(piece.file, []).extend(found)
    if not by_file:
        raise nothing_read(failed)
    counts = [sum(map(_length, found)) for found in by_file.values()]
    every = [rows for found in by_file.values() for rows in found]
    blocks.clear()
    rows = {name: np.concatenate([part.pop(name) for part in every]) for name in list(every[0])}
    agreement = _agreement(spec, rows, np.repeat(np.arange(len(counts)), counts), tuple(by_file), pca)
    return replace(agreement, failures=tuple(failed.items()))


def compare_examples(
    reference: Network, other: Network, examples: Float32Array, *, progress: Progress | None = None
) -> Agreement:
    """Return how two ways of running a network agree on examples (k, 96, 64), each of which counts as a file."""
    parts = []
    for at in range(0, len(examples), running.DEFAULT_BATCH_SIZE):
        parts.append(_run_both(reference, other, examples[at : at + running.DEFAULT_BATCH_SIZE]))
        if progress is not None:
            progress(min(at + running.DEFAULT_BATCH_SIZE, len(examples)))
    rows = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}
    names = tuple(f"example {number}" for number in range(len(examples)))
    return _agreement(reference.spec, rows, np.arange(len(examples)), names, None)


def nothing_read(failed: Mapping[str, Exception]) -> AudioError:
    """Return the error for recordings of which none gave an example."""
    reasons = [str(error).rstrip(".") for error in failed.values()]
    more = f"; and {len(reasons) - _NAMED:,} more" if len(reasons) > _NAMED else ""
    return AudioError(
        "no recording gave an example; expected some seconds of audio in files that can be read. "
        + ("Failed: " + "; ".join(reasons[:_NAMED]) + more if reasons else "Name files, or folders that hold some")
    )


def _run_both(reference: Network, other: Network, batch: Float32Array) -> _Rows:
    outputs = tuple(reference.spec.outputs)
    second = {f"{_OTHER}{name}": rows for name, rows in other.run(batch, outputs).items()}
    return {**reference.run(batch, outputs), **second}


def _length(rows: _Rows) -> int:
    return len(next(iter(rows.values())))


def _agreement(spec: ModelSpec, rows: _Rows, files: Groups, names: tuple[str, ...], pca: Pca | None) -> Agreement:
    pairs = {name: (rows[name], rows[f"{_OTHER}{name}"]) for name in spec.outputs if name in rows}
    if not pairs:
        raise nothing_read({})
    embeddings = pairs["embedding"]
    by_file = None
    if _MANY_FILES <= len(names) < len(files):
        means, other_means = (means_of_files(values, files) for values in embeddings)
        by_file = compare_neighbours(means, other_means, np.arange(len(names)))
    return Agreement(
        files=names,
        examples=len(files),
        outputs={name: compare_rows(*pair, files) for name, pair in pairs.items()},
        neighbours=compare_neighbours(*embeddings, files),
        file_neighbours=by_file,
        classes=compare_classes(*pairs["scores"]) if "scores" in pairs else None,
        released=None if pca is None else compare_bytes(*embeddings, pca),
    )

"""The network in 8 bits, calibrated on the user's own recordings."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from audioset import engine, features
from audioset._excerpts import excerpts
from audioset.embed import available_cores, check_cores
from audioset.errors import OptionError
from audioset.features import Float32Array
from audioset.int8.making import Progress
from audioset.int8.store import save
from audioset.int8.tensors import Int8Weights
from audioset.models.spec import ModelSpec
from audioset.verify import nothing_read
from audioset.weights import Weights

MAX_EXAMPLES: Final = 512


@dataclass(frozen=True, eq=False)
class Recordings:
    """Examples of recordings to calibrate on.

    Attributes
    ----------
    examples : ndarray of float32, shape (k, 96, 64)
        As the model's front end makes them.
    files : tuple of str
        The recordings that gave them.
    failures : tuple of (str, Exception)
        Those that could not be read, and why.
    """

    examples: Float32Array
    files: tuple[str, ...]
    failures: tuple[tuple[str, Exception], ...]


def quantize_on(
    spec: ModelSpec,
    weights: Weights,
    files: Iterable[str | os.PathLike[str]],
    *,
    max_examples: int = MAX_EXAMPLES,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Int8Weights:
    """Make the network in 8 bits for the sound of one's own recordings, in the cache in place of what is there.

    From then on `audioset.load(..., precision="int8")` uses it with these weights.

    Parameters
    ----------
    spec, weights
        The network, and its weights in float32.
    files, max_examples, threads
        See `read_recordings`.
    progress : callable, optional
        Called with the number of examples that have been measured.

    Raises
    ------
    AudioError
        No recording gave an example; the cache is as it was.
    OptionError
        An option is out of range.
    OutputError
        The cache cannot be written.
    """
    found = read_recordings(spec, files, max_examples=max_examples, threads=threads)
    return save_on(spec, weights, found, progress=progress)


def save_on(
    spec: ModelSpec, weights: Weights, recordings: Recordings, *, progress: Progress | None = None
) -> Int8Weights:
    """Make the network in 8 bits for the sound of recordings that have been read, as `quantize_on` does."""
    count = len(recordings.files)
    calibration = f"{count:,} {'recording' if count == 1 else 'recordings'} of one's own"
    return save(spec, weights, [recordings.examples], calibration=calibration, progress=progress)


def read_recordings(
    spec: ModelSpec,
    files: Iterable[str | os.PathLike[str]],
    *,
    max_examples: int = MAX_EXAMPLES,
    threads: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Recordings:
    """Return examples of recordings to calibrate on.

    Parameters
    ----------
    spec : ModelSpec
        The network.
    files : iterable of path
        Audio of any format. One that cannot be read does not stop the others: it is in `failures`.
    max_examples : int
        How many to take at most: spread evenly over the files, and over time within longer ones.
    threads : int, optional
        Cores to use; all that the process may use by default.
    progress : callable, optional
        Called with the number of examples that have been read.

    Raises
    ------
    AudioError
        No recording gave an example.
    OptionError
        An option is out of range.
    """
    if not 1 <= max_examples <= 100_000:
        raise OptionError(f"max_examples: {max_examples} is out of range; expected 1 to 100,000")
    check_cores(threads, None)
    pieces = excerpts([os.fspath(file) for file in files], max_examples, hop_s=features.EXAMPLE_S, pad="short")
    found: list[list[Float32Array]] = [[] for _ in pieces]
    failed: dict[str, Exception] = {}
    done = 0
    for block in engine.run(
        (piece.open for piece in pieces),
        lambda batch: {"examples": batch},
        hop_s=features.EXAMPLE_S,
        pad="short",
        log_offset=spec.log_offset,
        threads=threads or available_cores(),
    ):
        if block.values:
            found[block.index].append(block.values["examples"])
            done += len(block.values["examples"])
        if block.error is not None:
            failed.setdefault(pieces[block.index].file, block.error)
        if progress is not None:
            progress(done)
    usable = [(piece.file, parts) for piece, parts in zip(pieces, found, strict=True) if piece.file not in failed]
    examples = [part for _, parts in usable for part in parts]
    if not examples:
        raise nothing_read(failed)
    files_used = dict.fromkeys(file for file, parts in usable if parts)
    return Recordings(np.concatenate(examples), tuple(files_used), tuple(failed.items()))

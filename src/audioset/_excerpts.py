"""A bounded share of many recordings, spread evenly by a fixed rule: what measurements on users' sound read.

Every file gets the same share of examples, to within one, and what short ones leave goes to the longer ones. Of a file
that is longer than its share, evenly spaced pieces are read. Of more files than examples, evenly spaced ones are taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from audioset import audio, features
from audioset.errors import AudioSetError
from audioset.features import Float32Array, Pad

_PIECES: Final = 16  # of one file at most: opening it again for each example would take longer than reading all of it


@dataclass(frozen=True)
class Excerpt:
    """Some seconds of one file; all of it where there is no duration."""

    file: str
    start_s: float = 0.0
    duration_s: float | None = None

    @property
    def open(self) -> Callable[[], Iterator[Float32Array]]:
        """What `engine.run` takes."""
        return partial(audio.stream, self.file, start_s=self.start_s, duration_s=self.duration_s)


def excerpts(files: Sequence[str], most: int, *, hop_s: float, pad: Pad) -> list[Excerpt]:
    """Return what to read of the files for at most `most` examples (1 or more), in order.

    A file that cannot be read is among them: reading it says why.
    """
    chosen = [files[i * len(files) // most] for i in range(most)] if len(files) > most else files
    counts = [_num_examples(file, hop_s, pad) for file in chosen]
    shares = _shares([most if count is None else count for count in counts], most)
    return [
        piece
        for file, count, share in zip(chosen, counts, shares, strict=True)
        for piece in _pieces(file, count, share, hop_s)
    ]


def _num_examples(file: str, hop_s: float, pad: Pad) -> int | None:
    """How many examples a file gives by what its header says; None where it does not say."""
    try:
        num_samples = audio.probe(file).num_samples
    except AudioSetError:
        return 0
    return None if num_samples is None else features.num_examples(num_samples, hop_s=hop_s, pad=pad)


def _shares(counts: Sequence[int], most: int) -> list[int]:
    """How many examples each file gives: `most` in all, or all that there are."""
    shares = list(counts)
    left = most
    by_size = sorted(range(len(counts)), key=counts.__getitem__)
    for place, file in enumerate(by_size):
        share, rest = divmod(left, len(counts) - place)
        if counts[file] > share:
            longer = sorted(by_size[place:])
            one_more = {longer[number * len(longer) // rest] for number in range(rest)}
            for other in longer:
                shares[other] = share + (other in one_more)
            break
        left -= counts[file]
    return shares


def _pieces(file: str, count: int | None, share: int, hop_s: float) -> list[Excerpt]:
    if count is None:
        return [Excerpt(file, 0.0, _seconds(share, hop_s))]
    if count <= share:
        return [Excerpt(file)]
    pieces = min(share, _PIECES)
    # Piece p holds examples p · share / pieces to (p + 1) · share / pieces of the share; what is not read lies between.
    edges = [piece * share // pieces for piece in range(pieces + 1)]
    gap = (count - share) / pieces
    return [
        Excerpt(file, (first + int((piece + 0.5) * gap)) * hop_s, _seconds(edges[piece + 1] - first, hop_s))
        for piece, first in enumerate(edges[:-1])
    ]


def _seconds(count: int, hop_s: float) -> float:
    """The length of so many examples."""
    return (count - 1) * hop_s + features.EXAMPLE_SAMPLES / features.SAMPLE_RATE_HZ

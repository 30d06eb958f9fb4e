"""Sound that arrives in chunks → rows as soon as they can be known: what `Model.stream` gives."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from audioset import features
from audioset.audio import WaveformStream
from audioset.errors import AudioError
from audioset.features import ExampleStream, Float32Array, Pad

Rows = TypeVar("Rows", covariant=True)

_NO_EXAMPLE = np.empty((0, features.NUM_FRAMES, features.NUM_MEL_BANDS), np.float32)


class MakeRows(Protocol[Rows]):
    """Makes what a `Stream` gives of values (k, width) and what else it knows of them."""

    def __call__(
        self,
        values: Float32Array,
        *,
        start_s: npt.NDArray[np.float64],
        end_s: npt.NDArray[np.float64],
        duration_s: float,
        padded_short: bool,
    ) -> Rows:
        """Fields are those of `audioset.Embeddings`."""


class Stream(Generic[Rows]):
    """Embeddings or scores of a sound while it arrives; made by `audioset.Model.stream`.

    All rows that `push` and `finish` give, one after the other, are those of the whole: of `Model.embed` or `Model.tag`
    with the array of all chunks, bit for bit, however it was cut (on engines where a row does not depend on its batch:
    see `audioset.network.Network`). Memory does not grow, so it may go on for ever.

    How late a row comes, counted from the last sample of its example (0.975 s after the first; `end_s` is 0.015 s
    earlier): at once at 16 kHz with the models' own hops, and with any other hop that is 0.96 s or more, a multiple of
    0.16 s, or no multiple of 0.01 s. Other hops share frames of 0.01 s, which are computed 16 at a time: up to 0.15 s
    later. Sound at other rates is resampled first: up to 0.085 s later at 11,025 to 192,000 Hz, 0.112 s at 8,000 Hz
    (measured). To that comes the time that the network takes.

    For one thread at a time; `push` works in the caller's.

    Attributes
    ----------
    sample_rate : int
        Of the chunks, in Hz.
    ended : bool
        No more can be pushed: after `finish`, and after an error that was not of the chunk alone.
    """

    def __init__(
        self,
        sample_rate: int,
        network: Callable[[Float32Array], Float32Array],
        *,
        rows: MakeRows[Rows],
        channels: int | None,
        hop_s: float,
        pad: Pad,
        log_offset: float,
        batch_size: int,
    ) -> None:
        self._waveform = WaveformStream(sample_rate, channels)
        self._examples = ExampleStream(hop_s=hop_s, pad=pad, log_offset=log_offset)
        self._network = network
        self._rows = rows
        self._hop_s = hop_s
        self._batch_size = batch_size
        self._num_rows = 0
        self.sample_rate = self._waveform.sample_rate
        self.ended = False

    @property
    def duration_s(self) -> float:
        """Seconds of sound so far: of what the resampler has given; after `finish`, of all."""
        return self._examples.num_samples / features.SAMPLE_RATE_HZ

    def push(self, chunk: npt.NDArray[Any]) -> Rows:
        """Take the next chunk and return the rows that it completes.

        Parameters
        ----------
        chunk : ndarray of float32 or float64 in [-1, 1], int16, int32 or uint8, shape (n,) or (n, channels)
            The next frames; n may be 0, and differ from chunk to chunk. Integers are divided by full scale, channels
            averaged.

        Returns
        -------
        Embeddings or Scores
            Of k rows, often 0; `start_s` and `end_s` count from the beginning of the stream. `duration_s` is the time
            from the first row's start to the end of the sound so far.

        Raises
        ------
        AudioError
            The chunk is of another type or number of channels than those before, or holds NaN or Inf: nothing of it
            has been taken, and it may be mended and pushed again. Or the stream has ended.
        """
        self._check("push")
        waveform = self._waveform.push(chunk)
        self.ended = True  # until all is well: what an error leaves half done cannot be gone on with
        rows = self._run(self._examples.push(waveform))
        self.ended = False
        return rows

    def finish(self) -> Rows:
        """Return the rows left when the sound ends, padded as the policy says; none where nothing was pushed.

        Raises
        ------
        AudioError
            The stream has ended.

        Warns
        -----
        ShortClipWarning
            The whole is shorter than one example (0.975 s) and was zero-padded to one.
        """
        self._check("finish")
        self.ended = True
        tail = self._waveform.finish()
        rows = self._run(itertools.chain(self._examples.push(tail), self._examples.finish()))
        if self._examples.padded_short:
            features.warn_short()
        return rows

    def _check(self, doing: str) -> None:
        if self.ended:
            raise AudioError(
                f"<stream>: {doing} after its end; expected a stream that has neither been finished nor failed. "
                "Begin another with Model.stream"
            )

    def _run(self, pieces: Iterable[Float32Array]) -> Rows:
        """Rows of examples, in batches where there are many."""
        parts = []
        held: list[Float32Array] = []
        for examples in pieces:
            held.append(examples)
            if sum(map(len, held)) >= self._batch_size:
                parts.append(self._network(np.concatenate(held)))
                held.clear()
        parts.append(self._network(np.concatenate([_NO_EXAMPLE, *held])))
        values = np.concatenate(parts)
        start_s, _, end_s = features.example_times(len(values), hop_s=self._hop_s, first=self._num_rows)
        self._num_rows += len(values)
        return self._rows(
            values,
            start_s=start_s,
            end_s=end_s,
            duration_s=self.duration_s - float(start_s[0]) if len(values) else 0.0,
            padded_short=self._examples.padded_short,
        )

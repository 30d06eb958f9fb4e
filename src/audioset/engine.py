"""Many waveforms through one network: decoding, front end and network overlap, and memory stays flat.

A few equal worker threads share two kinds of work: *advance* a file (decode some audio and cut it into examples) and
*run* a batch of examples, from as many files as it takes, through the network. A worker runs a batch whenever a full
one waits and advances the earliest unfinished file otherwise, so every core stays busy whichever kind of work is
scarce. All the heavy parts release the interpreter lock. Where the network runs on another device, a few workers at
most wait for it and the others decode ahead.

Results leave in the order of the inputs. What has been decoded and not yet taken by the caller is bounded, so neither
the number of files, nor their length, nor a slow caller makes memory grow. One more thread takes the inputs from the
caller's iterable, a few ahead, so that an iterable that waits (a watched folder, a queue) delays nobody.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count

import numpy as np

from audioset.features import ExampleStream, Float32Array, Pad

DEFAULT_BATCH_SIZE = 32

# Batches decoded and not yet taken by the caller, for each worker and two more, for the first unfinished file and for
# all others: two batches a worker keep all of them busy, and results are smaller than examples. With two workers and
# batches of 32 that is 6 MB of log-mel each.
_MAX_BATCHES_HELD = 2
# Files opened ahead of the first unfinished one, or four for each example of a batch: many very short clips are needed
# to fill one.
_MAX_WINDOW = 256
_MAX_WINDOW_EXAMPLE = 4
# Inputs taken from the caller's iterable ahead of need.
_MAX_AHEAD = 32
# How long a batch that is not full waits for more examples while another worker, or nothing else, is at work.
_PATIENCE_S = 0.05
# How long the threads may take to end what they are doing when the caller wants no more; a batch takes some 0.3 s.
_FAREWELL_S = 2.0
# Below this, a batch costs more in reading the network's weights than a second core gains.
_MIN_SPLIT = 4

OpenWaveform = Callable[[], Iterator[Float32Array]]
RunNetwork = Callable[[Float32Array], dict[str, Float32Array]]


@dataclass(frozen=True)
class Block:
    """Some of one file's results.

    Attributes
    ----------
    index : int
        Which input, counted from 0.
    first : int
        Which example of the file the first row is.
    values : dict of str to ndarray of float32, shape (n, width)
        The network's outputs; empty in a block that only ends a file.
    last : bool
        No more blocks of this file follow.
    num_samples : int
        Samples of the whole waveform at 16 kHz; known in the last block, 0 before.
    padded_short : bool
        The clip was shorter than one example and was padded; known in the last block.
    error : Exception or None
        Why the file failed; its earlier blocks, if any, are of the part before the fault.
    """

    index: int
    first: int
    values: dict[str, Float32Array]
    last: bool = False
    num_samples: int = 0
    padded_short: bool = False
    error: Exception | None = None


@dataclass
class _File:
    index: int
    stream: ExampleStream
    examples: Iterator[Float32Array]
    advancing: bool = False
    ended: bool = False
    error: Exception | None = None
    num_examples: int = 0
    next_out: int = 0
    results: dict[int, dict[str, Float32Array]] = field(default_factory=dict)

    @property
    def held(self) -> int:
        """Examples cut and not yet taken by the caller."""
        return self.num_examples - self.next_out

    @property
    def can_advance(self) -> bool:
        return not (self.advancing or self.ended)


@dataclass(frozen=True)
class _Piece:
    file: _File
    first: int
    examples: Float32Array


def run(
    waveforms: Iterable[OpenWaveform],
    network: RunNetwork,
    *,
    hop_s: float,
    pad: Pad,
    log_offset: float,
    batch_size: int = DEFAULT_BATCH_SIZE,
    threads: int = 1,
    calls: int | None = None,
) -> Iterator[Block]:
    """Yield the results of every waveform, in order.

    Parameters
    ----------
    waveforms : iterable of callables
        Each opens one waveform: an iterator of float32 chunks (n,) at 16 kHz. Taken lazily, so it may be endless.
    network : callable
        Takes examples (n, 96, 64) and returns outputs by name (n, width); called from several threads at once.
    hop_s, pad, log_offset
        As in `features.examples`.
    batch_size : int
        Examples a call of `network`, at most.
    threads : int
        Workers.
    calls : int, optional
        Calls of `network` at once, at most; as many as workers by default.

    Yields
    ------
    Block
        At least one a waveform, the last with `last=True`. An exception from opening or reading a waveform is that
        file's `error`; one from `network` or from `waveforms` is raised here.
    """

    def open_file(index: int, open_waveform: OpenWaveform) -> _File:
        stream = ExampleStream(hop_s=hop_s, pad=pad, log_offset=log_offset)
        return _File(index, stream, _examples(open_waveform, stream))

    engine = _Engine(map(open_file, count(), waveforms), network, batch_size, threads, calls or threads)
    workers = [
        threading.Thread(target=engine.work, name=f"audioset-{number}", daemon=True) for number in range(threads)
    ]
    inputs = threading.Thread(target=engine.take_inputs, name="audioset-inputs", daemon=True)
    for thread in (inputs, *workers):
        thread.start()
    try:
        yield from engine.blocks()
    finally:
        engine.stop()
        # A worker that reads a silent pipe, and an iterable that waits, may never come back: they are left behind.
        deadline = time.monotonic() + _FAREWELL_S
        for thread in (*workers, inputs):
            thread.join(max(0.0, deadline - time.monotonic()))
        if not any(worker.is_alive() for worker in workers):
            engine.close()


def _examples(open_waveform: OpenWaveform, stream: ExampleStream) -> Iterator[Float32Array]:
    for chunk in open_waveform():
        yield from stream.push(chunk)
    yield from stream.finish()


class _Engine:
    """What the workers and the caller share; every attribute is guarded by `_changed`."""

    def __init__(self, files: Iterator[_File], network: RunNetwork, batch_size: int, threads: int, calls: int) -> None:
        self._inputs = files
        self._ahead: deque[_File] = deque()
        self._inputs_ended = False
        self._network = network
        self._batch_size = batch_size
        self._max_held = _MAX_BATCHES_HELD * batch_size * (threads + 2)
        self._max_window = max(_MAX_WINDOW, _MAX_WINDOW_EXAMPLE * batch_size)
        self._calls = calls
        self._running = 0
        self._changed = threading.Condition()
        self._window: deque[_File] = deque()
        self._ready: deque[_Piece] = deque()
        self._num_ready = 0
        self._held = 0
        self._idle = 0
        self._advancing = 0
        self._stopped = False
        self._fault: BaseException | None = None

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def close(self) -> None:
        """Close files that were left open; no worker may be running."""
        for file in self._window:
            close = getattr(file.examples, "close", None)
            if close is not None:
                close()

    def blocks(self) -> Iterator[Block]:
        """Give the caller what is finished, in order."""
        while True:
            with self._changed:
                while (block := self._next_block()) is None:
                    if self._fault is not None:
                        raise self._fault
                    if self._no_more_files() and not self._window:
                        return
                    self._changed.wait()
                self._changed.notify_all()
            yield block

    def take_inputs(self) -> None:
        """Take inputs from the caller's iterable until it ends; it may wait as long as it likes."""
        try:
            for file in self._inputs:
                with self._changed:
                    self._ahead.append(file)
                    self._changed.notify_all()
                    while len(self._ahead) >= _MAX_AHEAD and not self._stopped:
                        self._changed.wait()
                    if self._stopped:
                        return
            with self._changed:
                self._inputs_ended = True
                self._changed.notify_all()
        except BaseException as fault:
            self._fail(fault)

    def work(self) -> None:
        """Do whatever is most useful until nothing is left."""
        try:
            while True:
                with self._changed:
                    task = self._next_task()
                if task is None:
                    return
                if isinstance(task, _File):
                    self._advance(task)
                else:
                    self._run(task)
        except BaseException as fault:
            self._fail(fault)

    def _fail(self, fault: BaseException) -> None:
        with self._changed:
            self._fault = fault
            self._stopped = True
            self._changed.notify_all()

    def _no_more_files(self) -> bool:
        return self._inputs_ended and not self._ahead

    def _next_task(self) -> _File | list[_Piece] | None:
        patient = True
        while not self._stopped:
            free_calls = self._calls - self._running
            if free_calls and self._num_ready >= self._batch_size:
                return self._take_batch(self._batch_size)
            file = self._next_file()
            if file is not None:
                file.advancing = True
                self._advancing += 1
                return file
            # More may be on the way for a batch that is not full, but from a pipe it may take for ever.
            more_to_come = self._advancing or not (self._inputs_ended or self._ahead)
            if free_calls and self._num_ready and not (patient and more_to_come):
                # Nothing more can join the batch for now: what there is is shared among the workers without work.
                share = -(-self._num_ready // min(self._idle + 1, free_calls))
                return self._take_batch(max(share, _MIN_SPLIT))
            if self._no_more_files() and not self._advancing and not any(file.can_advance for file in self._window):
                return None
            self._idle += 1
            patient = self._changed.wait(_PATIENCE_S if self._num_ready else None)
            self._idle -= 1
        return None

    def _next_file(self) -> _File | None:
        """The earliest file that may be advanced now."""
        for position, file in enumerate(self._window):
            held = file.held if position == 0 else self._held
            if file.can_advance and held < self._max_held:
                return file
        room = len(self._window) < self._max_window and (self._held < self._max_held or not self._window)
        if not (room and self._ahead):
            return None
        started = self._ahead.popleft()
        self._window.append(started)
        self._changed.notify_all()
        return started

    def _take_batch(self, size: int) -> list[_Piece]:
        self._running += 1
        batch = []
        while size > 0 and self._ready:
            piece = self._ready.popleft()
            if len(piece.examples) > size:
                rest = _Piece(piece.file, piece.first + size, piece.examples[size:])
                self._ready.appendleft(rest)
                piece = _Piece(piece.file, piece.first, piece.examples[:size])
            batch.append(piece)
            size -= len(piece.examples)
            self._num_ready -= len(piece.examples)
        return batch

    def _advance(self, file: _File) -> None:
        pieces = []
        error = None
        taken = 0
        try:
            for examples in file.examples:
                pieces.append(examples)
                taken += len(examples)
                if taken >= self._batch_size:
                    break
            ended = taken < self._batch_size
        except Exception as fault:
            error, ended = fault, True
        with self._changed:
            for examples in pieces:
                self._ready.append(_Piece(file, file.num_examples, examples))
                file.num_examples += len(examples)
            self._num_ready += taken
            self._held += taken
            file.error, file.ended, file.advancing = error, ended, False
            self._advancing -= 1
            self._changed.notify_all()

    def _run(self, batch: list[_Piece]) -> None:
        outputs = self._network(np.concatenate([piece.examples for piece in batch]))
        with self._changed:
            at = 0
            for piece in batch:
                end = at + len(piece.examples)
                # Copied, so that a row kept by the caller does not keep the whole batch.
                piece.file.results[piece.first] = {name: values[at:end].copy() for name, values in outputs.items()}
                at = end
            self._running -= 1
            self._changed.notify_all()

    def _next_block(self) -> Block | None:
        if not self._window:
            return None
        file = self._window[0]
        first = file.next_out
        rows = []
        while file.next_out in file.results:
            values = file.results.pop(file.next_out)
            rows.append(values)
            file.next_out += len(next(iter(values.values())))
        taken = file.next_out - first
        self._held -= taken
        last = file.ended and file.next_out == file.num_examples
        if not rows and not last:
            return None
        if last:
            self._window.popleft()
        values = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]} if rows else {}
        return Block(
            file.index,
            first,
            values,
            last=last,
            num_samples=file.stream.num_samples if last else 0,
            padded_short=file.stream.padded_short,
            error=file.error if last else None,
        )

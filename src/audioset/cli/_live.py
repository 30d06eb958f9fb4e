"""What `audioset tag --live` does: the microphone, or samples in a pipe, tagged while they are heard."""

from __future__ import annotations

import csv
import json
import queue
import signal
import sys
import threading
import warnings
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import replace
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TextIO, TypeVar

import typer

from audioset.cli._common import PcmChoice, clock, raw_input
from audioset.cli._reports import DEFAULT_TOP, Row, Selection, event_row
from audioset.errors import AudioError, MissingExtraError, OptionError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from rich.console import Console
    from rich.table import Table

    from audioset.audio import Pcm
    from audioset.embed import Model
    from audioset.inputs import Inputs
    from audioset.scores import Event, Scores

    Chunk = npt.NDArray[Any]

T = TypeVar("T")

_COLUMNS = ("start_s", "end_s", "name", "mid", "score")
# A microphone's chunks: long enough to cost little, and short beside the 0.96 s of an example.
_CHUNKS_PER_S = 20
# Sound that waits for a network that is too slow, before some is lost.
_MOST_WAITING_S = 60
# How often a microphone that gives nothing is looked after.
_PATIENCE_S = 0.5


class Sound(Protocol):
    """Where sound comes from."""

    name: str
    sample_rate: int
    channels: int
    num_overflows: int

    def chunks(self) -> Generator[Chunk, None, None]:
        """Yield it as it comes."""


class Piped:
    """Samples in a pipe."""

    def __init__(self, pcm: Pcm) -> None:
        self.name = "standard input"
        self.sample_rate = pcm.sample_rate
        self.channels = pcm.channels
        self.num_overflows = 0
        self._pcm = pcm

    def chunks(self) -> Generator[Chunk, None, None]:
        """Yield whole frames as they arrive."""
        yield from self._pcm.chunks()


class Microphone:
    """An input device at its own sample rate; the default one unless a name or number is given.

    Raises
    ------
    MissingExtraError
        sounddevice or PortAudio is not installed.
    OptionError, AudioError
        There is no such device, or none at all.
    """

    def __init__(self, name_or_number: str | None, channels: int) -> None:
        self._portaudio = _portaudio()
        device = _find(self._portaudio, name_or_number)
        self.name = str(device["name"])
        self.sample_rate = round(device["default_samplerate"])
        self.channels = channels
        self.num_overflows = 0
        self._device = device["index"]
        self._heard: queue.Queue[Chunk] = queue.Queue(_MOST_WAITING_S * _CHUNKS_PER_S)

    def chunks(self) -> Generator[Chunk, None, None]:
        """Yield all that has been heard since the last chunk, for ever."""
        import numpy as np

        try:
            device = self._portaudio.InputStream(
                device=self._device,
                samplerate=self.sample_rate,
                blocksize=self.sample_rate // _CHUNKS_PER_S,
                channels=self.channels,
                dtype="float32",
                callback=self._hear,
            )
            with device:
                while True:
                    try:
                        chunks = [self._heard.get(timeout=_PATIENCE_S)]
                    except queue.Empty:
                        if device.active:
                            continue
                        raise AudioError(
                            f"microphone {self.name!r}: stopped giving sound; expected it to stay. Check that it is "
                            "still plugged in"
                        ) from None
                    while not self._heard.empty():
                        chunks.append(self._heard.get())
                    yield np.concatenate(chunks)
        except self._portaudio.PortAudioError as error:
            raise AudioError(
                f"microphone {self.name!r}: cannot be recorded at {self.sample_rate:,} Hz, channels: {self.channels} "
                f"({error}); expected a device that is free. Close what else uses it, or choose another with "
                "--microphone"
            ) from error

    def _hear(self, samples: npt.NDArray[np.float32], frames: int, time: object, status: Any) -> None:
        self.num_overflows += bool(status.input_overflow)
        try:
            self._heard.put_nowait(samples.copy())
        except queue.Full:
            self.num_overflows += 1


def open_sound(
    inputs: Inputs, microphone: str | None, pcm: int | None, pcm_format: PcmChoice | None, channels: int | None
) -> Sound:
    """Return the sound that the options of the command mean.

    Raises
    ------
    OptionError
        They do not fit each other, or the inputs.
    """
    if pcm is not None and microphone is not None:
        raise OptionError("--microphone: would not be used beside --pcm; expected one of the two")
    raw = raw_input(pcm, pcm_format, None if pcm is None else channels, inputs)
    if raw is not None:
        return Piped(raw.open())
    if inputs.files or inputs.missing:
        raise OptionError(
            "--live: hears the microphone or, with --pcm RATE, raw samples on standard input (-); expected no other "
            "input. Leave it out to tag recordings"
        )
    if channels is not None and channels < 1:
        raise OptionError(f"--channels: {channels} is out of range; expected 1 or more")
    return Microphone(microphone, 1 if channels is None else channels)


def _portaudio() -> Any:
    from audioset._extras import check_installed

    check_installed("audioset tag --live", "sounddevice")
    try:
        import sounddevice
    except Exception as error:  # OSError without the library; its own, of no known name, where it cannot start
        raise MissingExtraError(
            f"audioset tag --live: sounddevice cannot be used ({error}); expected the PortAudio library. Install it "
            "with `apt install libportaudio2` or `brew install portaudio`, or pipe sound in: "
            "`audioset tag - --live --pcm 16000`"
        ) from error
    return sounddevice


def _find(portaudio: Any, wanted: str | None) -> dict[str, Any]:
    number = int(wanted) if wanted is not None and wanted.isdecimal() else wanted
    try:
        device: dict[str, Any] = portaudio.query_devices(number, "input")
    except (ValueError, portaudio.PortAudioError) as error:
        reason = " ".join(str(error).split())  # of several that match there is a line for each
        inputs = [device for device in portaudio.query_devices() if device["max_input_channels"] > 0]
        listed = ", ".join(f"{device['index']} ({device['name']})" for device in inputs)
        if wanted is None:
            there = f"Choose one with --microphone: {listed}" if inputs else "Plug one in"
            raise AudioError(
                f"microphone: there is no default one ({reason}); expected an input device. {there}"
            ) from error
        known = f"one of {listed}" if inputs else "an input device, of which there is none"
        raise OptionError(f"--microphone {wanted}: not found ({reason}); expected {known}") from error
    return device


def listen(model: Model, sound: Sound, selection: Selection, form: str | None, hop_s: float | None) -> None:
    """Tag a sound until it ends or Ctrl-C is pressed, writing results to standard output as they come.

    Parameters
    ----------
    form : str or None
        table, json (lines) or csv; None is a table on a terminal and json in a pipe.
    """
    from audioset.features import ShortClipWarning
    from audioset.scores import DEFAULT_THRESHOLD, EventStream

    stream = model.stream(sound.sample_rate, channels=sound.channels, output="scores", hop_s=hop_s)
    display = _display(sound, selection, form)
    classes = model.spec.classes
    events = EventStream(classes, selection.threshold or DEFAULT_THRESHOLD) if selection.timeline and classes else None
    num_examples = num_events = 0
    fault: AudioError | None = None
    if isinstance(sound, Microphone):
        typer.echo(f"listening to {sound.name}; Ctrl-C ends", err=True)

    def show(scores: Scores) -> None:
        nonlocal num_examples
        num_examples += len(scores)
        if events is None:
            display.show(scores, stream.duration_s)
        else:
            tell(events.push(scores))

    def tell(found: list[Event]) -> None:
        nonlocal num_events
        num_events += len(found)
        display.show_events([event_row(event) for event in found])

    with display, _Interrupt() as interrupt, warnings.catch_warnings():
        warnings.simplefilter("ignore", ShortClipWarning)
        try:
            with closing(sound.chunks()) as chunks:
                for chunk in interrupt.until_asked(chunks):
                    show(stream.push(chunk))
        except AudioError as error:
            if stream.ended:
                raise
            fault = error  # what was heard before is told first
        show(stream.finish())
        if events is not None:
            tell(events.finish(stream.duration_s))
    if num_examples or fault is None:
        what = f"{num_examples:,} {'example' if num_examples == 1 else 'examples'}"
        if events is not None:
            what += f", {num_events:,} {'event' if num_events == 1 else 'events'}"
        typer.echo(f"{clock(stream.duration_s)} of {sound.name} heard: {what}", err=True)
    if sound.num_overflows:
        typer.echo(_lost(sound), err=True)
    if fault is not None:
        raise fault


def _lost(sound: Sound) -> str:
    times = "once" if sound.num_overflows == 1 else f"{sound.num_overflows:,} times"
    return f"sound was lost {times}: it came faster than it could be tagged"


class _Interrupt:
    """Makes Ctrl-C the way to end: it ends a wait for sound at once, but work only when it is pressed twice."""

    def __init__(self) -> None:
        self._asked = False
        self._waiting = False
        self._before: Any = None

    def __enter__(self) -> _Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def until_asked(self, items: Iterator[T]) -> Iterator[T]:
        """Yield items until Ctrl-C is pressed."""
        while True:
            try:
                self._waiting = True
                if self._asked:
                    return
                item = next(items)
                self._waiting = False
            except (StopIteration, KeyboardInterrupt):
                return
            finally:
                self._waiting = False
            yield item

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._asked or self._waiting:
            self._asked = True
            raise KeyboardInterrupt
        self._asked = True


def _display(sound: Sound, selection: Selection, form: str | None) -> _Display:
    from rich.console import Console

    if form is None:
        form = "table" if sys.stdout.isatty() else "json"
    if form == "json":
        return _JsonLines(sys.stdout, selection)
    if form == "csv":
        return _Csv(sys.stdout, selection)
    console = Console(file=sys.stdout)
    if selection.timeline or not console.is_terminal or console.is_dumb_terminal:
        return _Columns(sys.stdout, selection)
    return _LiveTable(console, sound, selection)


class _Display:
    """Shows results as they come; every line leaves at once."""

    def __init__(self, stream: TextIO, selection: Selection) -> None:
        self._stream = stream
        self._selection = selection

    def __enter__(self) -> _Display:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def show(self, scores: Scores, heard_s: float) -> None:
        """Show new examples."""
        for i in range(len(scores)):
            rows = slice(i, i + 1)
            one = replace(scores, values=scores.values[rows], start_s=scores.start_s[rows], end_s=scores.end_s[rows])
            start_s, end_s = (round(float(times[i]), 8) for times in (scores.start_s, scores.end_s))
            self._write_example(start_s, end_s, self._selection.rows(one))
        self._stream.flush()

    def show_events(self, rows: list[Row]) -> None:
        """Show events that have ended."""
        for row in rows:
            self._write(row)
        self._stream.flush()

    def _write_example(self, start_s: float, end_s: float, tags: list[Row]) -> None:
        for tag in tags:
            self._write({"start_s": start_s, "end_s": end_s, **tag})

    def _write(self, row: Row) -> None:
        raise NotImplementedError


class _JsonLines(_Display):
    """An object a line: an example with its tags, or an event."""

    def _write_example(self, start_s: float, end_s: float, tags: list[Row]) -> None:
        self._dump({"start_s": start_s, "end_s": end_s, "tags": tags})

    def _write(self, row: Row) -> None:
        self._dump({column: row[column] for column in _COLUMNS})

    def _dump(self, item: dict[str, Any]) -> None:
        self._stream.write(json.dumps(item, ensure_ascii=False) + "\n")


class _Csv(_Display):
    """A header, then a line a tag or event."""

    def __init__(self, stream: TextIO, selection: Selection) -> None:
        super().__init__(stream, selection)
        self._writer = csv.DictWriter(stream, _COLUMNS, lineterminator="\n")
        self._writer.writeheader()

    def _write(self, row: Row) -> None:
        self._writer.writerow(row)


class _Columns(_Display):
    """Aligned columns."""

    def __init__(self, stream: TextIO, selection: Selection) -> None:
        super().__init__(stream, selection)
        stream.write(f"{'START':>9}  {'END':>9}  SCORE  CLASS\n")
        stream.flush()

    def _write(self, row: Row) -> None:
        self._stream.write(f"{row['start_s']:9.2f}  {row['end_s']:9.2f}  {row['score']:.3f}  {row['name']}\n")


class _LiveTable(_Display):
    """The latest example's classes on a terminal, drawn again in place."""

    def __init__(self, console: Console, sound: Sound, selection: Selection) -> None:
        from rich.live import Live

        super().__init__(sys.stdout, selection)
        self._sound = sound
        self._live = Live(
            self._table([], 0.0), console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        )

    def __enter__(self) -> _Display:
        self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, scores: Scores, heard_s: float) -> None:
        if len(scores):
            latest = replace(scores, values=scores.values[-1:], start_s=scores.start_s[-1:], end_s=scores.end_s[-1:])
            self._live.update(self._table(self._selection.rows(latest), heard_s), refresh=True)

    def _table(self, rows: list[Row], heard_s: float) -> Table:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        title = Text(f"{self._sound.name}  {clock(heard_s)}", style="bold", no_wrap=True, overflow="ellipsis")
        if self._sound.num_overflows:
            title.append(f"  {_lost(self._sound)}", style="yellow")
        table = Table(
            box=None, pad_edge=False, show_header=False, title=title, title_justify="left", title_style="", expand=True
        )
        table.add_column(width=4)
        table.add_column(width=24)
        table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        for row in rows:
            score = row["score"]
            table.add_row(f"{score:.2f}", ProgressBar(1.0, score, width=24), Text(row["name"]))
        for _ in range((self._selection.top or DEFAULT_TOP) - len(rows)):
            table.add_row("", "", "")  # as high as ever, so that nothing jumps
        return table

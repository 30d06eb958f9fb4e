"""What several commands share: the progress bar, and how files that failed are named."""

from __future__ import annotations

import os
import signal
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from audioset.errors import AudioSetError, OptionError
from audioset.inputs import STDIN, Inputs, standard_input

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from audioset.audio import AudioSource, Pcm, PcmFormat

# With few inputs, their lengths are looked up so that the progress bar can count seconds instead of files.
_FEW = 16
_NAMED_FAILURES = 20

BUILT_IN = "mini"
INTERRUPTED = 128 + signal.SIGINT  # the status that shells give


class PcmChoice(str, Enum):
    """Of `audioset.audio.PcmFormat`."""

    s16 = "s16"
    s32 = "s32"
    f32 = "f32"
    f64 = "f64"
    u8 = "u8"


PcmOption = Annotated[
    int | None,
    typer.Option(
        "--pcm",
        metavar="RATE",
        help="Standard input (-) is raw samples at this rate in Hz, as `ffmpeg -f s16le -ac 1 -ar RATE -` writes them.",
    ),
]
PcmFormatOption = Annotated[
    PcmChoice | None,
    typer.Option("--pcm-format", help="Of raw samples, little-endian.", show_default="s16"),
]


@dataclass(frozen=True)
class RawInput:
    """How to read standard input that is raw samples."""

    sample_rate: int
    format: PcmFormat
    channels: int

    def open(self) -> Pcm:
        """Return standard input as a source of sound."""
        from audioset.audio import Pcm

        return Pcm(standard_input(), self.sample_rate, self.format, self.channels, name=STDIN)


def raw_input(pcm: int | None, pcm_format: PcmChoice | None, channels: int | None, inputs: Inputs) -> RawInput | None:
    """Return what --pcm and the options beside it say of the inputs, None without it.

    Raises
    ------
    OptionError
        They do not fit each other, or the inputs.
    """
    from audioset.audio import MAX_SAMPLE_RATE_HZ, MIN_SAMPLE_RATE_HZ

    if pcm is None:
        for option, value in (("--pcm-format", pcm_format), ("--channels", channels)):
            if value is not None:
                raise OptionError(f"{option}: would not be used; expected --pcm RATE beside it, for raw samples")
        return None
    if inputs.files != (STDIN,) or inputs.missing:
        raise OptionError("--pcm: is for standard input; expected - as the only input")
    if not MIN_SAMPLE_RATE_HZ <= pcm <= MAX_SAMPLE_RATE_HZ:
        raise OptionError(
            f"--pcm: {pcm} is out of range; expected a rate of {MIN_SAMPLE_RATE_HZ:,} to {MAX_SAMPLE_RATE_HZ:,} Hz"
        )
    if channels is not None and channels < 1:
        raise OptionError(f"--channels: {channels} is out of range; expected 1 or more")
    return RawInput(pcm, "s16" if pcm_format is None else pcm_format.value, 1 if channels is None else channels)


def source_of(name: str, raw: RawInput | None) -> AudioSource:
    """Return what to read for an input as users name it."""
    if name != STDIN:
        return name
    return standard_input() if raw is None else raw.open()


def report_failures(reasons: Sequence[str], *, all_with: str = "--json") -> None:
    """Name files that could not be read on stderr; `reasons` are their errors' messages."""
    for reason in reasons[:_NAMED_FAILURES]:
        typer.echo(f"failed: {reason}", err=True)
    if len(reasons) > _NAMED_FAILURES:
        typer.echo(f"failed: {len(reasons) - _NAMED_FAILURES} more; {all_with} lists them all", err=True)


def write_columns(rows: Sequence[Sequence[str]]) -> None:
    """Print rows as columns two spaces apart, as wide as terminals show their widest cell."""
    for line in in_columns(rows):
        typer.echo(line)


def in_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines that `write_columns` prints."""
    from rich.cells import cell_len

    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell + " " * (width - cell_len(cell)) for cell, width in zip(cells, widths, strict=True)).rstrip()
        for cells in rows
    ]


class Bar:
    """Progress in files, or in seconds of audio where the inputs are few and their lengths known."""

    def __init__(
        self,
        progress: Progress | None,
        doing: str,
        files: Sequence[str],
        start_s: float = 0.0,
        duration_s: float | None = None,
    ) -> None:
        self._progress = progress
        self._began = time.perf_counter()
        if progress is None:
            return
        self._total_s = _total_seconds(files, start_s, duration_s)
        self._task: TaskID = progress.add_task(doing, total=self._total_s or len(files), talk="")

    def update(self, files: int, audio_s: float, failures: int) -> None:
        """Show how many files and seconds are done, and how many files have failed."""
        if self._progress is None:
            return
        rate = audio_s / max(time.perf_counter() - self._began, 1e-3)
        talk = f"{clock(audio_s)} of audio, {rate:.0f}× real time" + (f", {failures} failed" if failures else "")
        self._progress.update(self._task, completed=audio_s if self._total_s else files, talk=talk)


def progress_on(stream: TextIO) -> Progress | None:
    """Return bars that are drawn on a terminal and vanish at the end; None where the stream is no terminal."""
    if not stream.isatty():
        return None
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[talk]}"),
        TimeRemainingColumn(),
        console=Console(file=stream),
        transient=True,
        redirect_stdout=False,  # results may go there
    )


@contextmanager
def one_interrupt() -> Iterator[None]:
    """Let a first Ctrl-C end what is inside, and no second one what is then put in order."""
    try:
        yield
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise


@contextmanager
def interrupted_says(message: str) -> Iterator[None]:
    """End the command with a message and status 130 at a Ctrl-C inside."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(message, err=True)
        raise typer.Exit(INTERRUPTED) from None


def is_read_once(name: str) -> bool:
    """Return whether an input is gone once it has been read: standard input, a named pipe."""
    return name == STDIN or (os.path.exists(name) and stat.S_ISFIFO(os.stat(name).st_mode))  # noqa: PTH116


def check_not_an_input(out: str, files: Iterable[str], option: str = "--out") -> None:
    """Raise OptionError if an output would take the place of one of the recordings."""
    if os.path.exists(out):
        for file in files:
            if os.path.exists(file) and os.path.samefile(out, file):  # noqa: PTH121
                raise OptionError(
                    f"{option} {out}: one of the inputs; expected another name. Recordings are never replaced"
                )


def seconds_of(name: str, start_s: float, duration_s: float | None) -> float | None:
    """Return how many seconds of a file a window holds, None where its container does not say its length."""
    from audioset import audio

    length_s = audio.probe(name).duration_s
    if length_s is None:
        return None
    rest_s = max(0.0, length_s - start_s)
    return rest_s if duration_s is None else min(rest_s, duration_s)


def say_if_small(model: str) -> None:
    """Say on stderr of the built-in model that it is no match for the published ones."""
    if model == BUILT_IN:
        typer.echo(
            f"{BUILT_IN} is a small model for trying things out: expect rough results. For real work fetch yamnet "
            "(`audioset models fetch yamnet`) and use --model yamnet",
            err=True,
        )


def clock(seconds: float) -> str:
    """Return a length as hours, minutes and seconds: 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


def _total_seconds(files: Sequence[str], start_s: float, duration_s: float | None) -> float | None:
    if len(files) > _FEW or any(map(is_read_once, files)):
        return None
    total = 0.0
    for name in files:
        try:
            seconds = seconds_of(name, start_s, duration_s)
        except AudioSetError:
            continue
        if seconds is None:
            return None
        total += seconds
    return total or None

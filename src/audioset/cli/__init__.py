"""The `audioset` command: one file a verb."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, TextIO

try:
    import typer

    from audioset._version import __version__
    from audioset.cli import (
        check,
        dataset,
        distill,
        embed,
        evaluate,
        export,
        fad,
        finetune,
        hub,
        index,
        jobs,
        models,
        quantize,
        tag,
        train,
        verify,
    )
    from audioset.cli._common import INTERRUPTED
    from audioset.errors import AudioSetError, OptionError
except KeyboardInterrupt:  # loading takes some tenths of a second, in which there is no `main` to end it
    sys.stderr.write("interrupted\n")
    raise SystemExit(130) from None  # `INTERRUPTED`

app = typer.Typer(
    name="audioset",
    help="VGGish embeddings and AudioSet tools for any audio.",
    epilog="Exit status: 0 all good, 1 some inputs failed (each is named, with why), 2 wrong usage.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(embed.embed)
app.command()(tag.tag)
app.command()(quantize.quantize)
app.command()(verify.verify)
app.command()(check.check)
app.command()(export.export)
app.command()(train.train)
app.command()(finetune.finetune)
app.command()(evaluate.evaluate)
app.command()(fad.fad)
app.command()(distill.distill)
app.add_typer(index.app, name="index")
app.add_typer(hub.app, name="hub")
app.add_typer(jobs.app, name="jobs")
app.add_typer(models.app, name="models")
app.add_typer(dataset.app, name="dataset")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"audioset {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line: errors that are the user's to mend become one message and an exit status."""
    warnings.showwarning = _show_warning
    # PyTorch's threads wait for each other without sleeping, unless told before it is loaded: where other programs run
    # too, steps of a small head then take several times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Arrow's own allocator keeps some 30 MB more, which gains nothing here.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    # Closed ones are None, of which no library knows.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: PTH123, SIM115 - for as long as the process
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        # Files and pipes take UTF-8 wherever they are made, and names of any bytes; a terminal knows its own encoding.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding=None if stream.isatty() else "utf-8", errors="backslashreplace")
    noted: list[int] = []
    try:
        with _noting(noted):
            app()
    except OptionError as error:
        _fail(error, status=2)
    except AudioSetError as error:
        _fail(error, status=1)
    except KeyboardInterrupt:  # before a command has begun
        typer.echo("interrupted", err=True)
        sys.exit(_status(noted))
    except SystemExit as ended:  # a command has said what is left
        if ended.code == INTERRUPTED:
            sys.exit(_status(noted))
        raise
    except OSError as error:  # such as a full disk under standard output
        _fail(AudioSetError(f"{error.filename or 'output'}: {error.strerror or error}"), status=1)
    except Exception:
        if not noted:
            raise
        typer.echo("interrupted", err=True)  # while a library was being loaded, which made another error of it
        sys.exit(_status(noted))


@contextmanager
def _noting(noted: list[int]) -> Iterator[None]:
    """Let Ctrl-C do what it does, SIGTERM do the same once, and have them in the list as well.

    SIGTERM is how `kill`, containers and batch systems end what has no time left.
    """

    def note(number: int, frame: object) -> None:
        noted.append(number)
        if number == signal.SIGTERM:
            signal.signal(number, signal.SIG_DFL)  # a second one ends at once
        raise KeyboardInterrupt

    # In the background of a shell Ctrl-C is ignored; and only the main thread may ask for signals.
    ordinary = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    is_main = threading.current_thread() is threading.main_thread()
    before = {number: how for number, how in ordinary.items() if is_main and signal.getsignal(number) is how}
    for number in before:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, how in before.items():
            if signal.getsignal(number) is note:
                signal.signal(number, how)


def _status(noted: list[int]) -> int:
    """Return the status that shells give what a signal has ended."""
    return 128 + signal.SIGTERM if signal.SIGTERM in noted else INTERRUPTED


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    typer.echo(f"audioset: warning: {message}", err=True)


def _fail(error: AudioSetError, *, status: int) -> None:
    typer.echo(f"audioset: {error}", err=True)
    sys.exit(status)

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
import typer.main

from audioset import cli
from audioset.cli._common import interrupted_says

# What Ctrl-C does while typer is being loaded.
SCRIPT = """
import sys

class Interrupted:
    def find_spec(self, name, *_):
        if name == "typer":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupted())
from audioset.cli import main
"""


def test_an_interrupt_while_the_command_is_loaded_ends_it_in_a_word() -> None:
    ended = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "interrupted\n")


@pytest.fixture
def ordinary_signals() -> Iterator[None]:
    """What Python begins with, whatever runs the tests; and found again."""
    ordinary = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, how) for number, how in ordinary.items()}
    yield
    found = {number: signal.signal(number, how) for number, how in before.items()}
    assert found == ordinary


SIGNALS = pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"]
)


@SIGNALS
@pytest.mark.usefixtures("ordinary_signals")
def test_an_interrupt_that_a_library_makes_another_error_of_ends_in_a_word(
    number: signal.Signals, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As those do that were being loaded and cannot find themselves."""

    def app() -> None:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(number)
        raise AttributeError("partially initialized module 'pandas' has no attribute 'plotting'")

    monkeypatch.setattr(cli, "app", app)
    with pytest.raises(SystemExit, match=f"^{status}$"):
        cli.main()
    assert capsys.readouterr().err == "interrupted\n"


@SIGNALS
@pytest.mark.usefixtures("ordinary_signals")
def test_a_command_says_what_is_left_and_the_status_says_what_ended_it(
    number: signal.Signals, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @cli.app.command("waiting", hidden=True)
    def waiting() -> None:
        with interrupted_says("interrupted; this much is kept"):
            signal.raise_signal(number)

    monkeypatch.setattr("sys.argv", ["audioset", "waiting"])
    monkeypatch.setattr("typer.main.get_command", typer.main.get_command.__wrapped__)  # type: ignore[attr-defined]
    try:
        with pytest.raises(SystemExit, match=f"^{status}$"):
            cli.main()
    finally:
        cli.app.registered_commands.pop()
    assert capsys.readouterr().err == "interrupted; this much is kept\n"


@pytest.mark.usefixtures("ordinary_signals")
def test_a_second_sigterm_is_not_held_up(monkeypatch: pytest.MonkeyPatch) -> None:
    after: list[object] = []

    def app() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            after.append(signal.getsignal(signal.SIGTERM))

    monkeypatch.setattr(cli, "app", app)
    with pytest.raises(SystemExit, match=r"^143$"):
        cli.main()
    assert after == [signal.SIG_DFL]


def test_an_error_without_an_interrupt_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def app() -> None:
        raise AttributeError("a fault of ours")

    monkeypatch.setattr(cli, "app", app)
    with pytest.raises(AttributeError, match="a fault of ours"):
        cli.main()

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys

import pytest

from audioset import cli

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


def test_an_interrupt_that_a_library_makes_another_error_of_ends_in_a_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As those do that were being loaded and cannot find themselves."""

    def app() -> None:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        raise AttributeError("partially initialized module 'pandas' has no attribute 'plotting'")

    monkeypatch.setattr(cli, "app", app)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(SystemExit, match=r"^130$"):
            cli.main()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "interrupted\n"


def test_an_error_without_an_interrupt_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def app() -> None:
        raise AttributeError("a fault of ours")

    monkeypatch.setattr(cli, "app", app)
    with pytest.raises(AttributeError, match="a fault of ours"):
        cli.main()

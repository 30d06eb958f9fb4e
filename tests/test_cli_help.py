"""`--help` of every command shows what was written: Markdown swallows no asterisk."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from rich.text import Text
from typer.testing import CliRunner

from audioset.cli import app


def commands(command: Any, *words: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield words, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, *words, name)


def written(command: Any) -> str:
    """All that a command's help is made of, without escapes."""
    texts = [command.help, *(getattr(param, "help", None) for param in command.params)]
    return "\n\n".join(text for text in texts if text).replace(r"\*", "*")


COMMANDS = list(commands(typer.main.get_command(app)))


@pytest.mark.parametrize(("words", "command"), COMMANDS, ids=[" ".join(words) or "audioset" for words, _ in COMMANDS])
def test_help_shows_asterisks_and_examples_as_they_are_typed(
    words: tuple[str, ...], command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")  # no line is broken
    shown = Text.from_ansi(CliRunner().invoke(app, [*words, "--help"]).output).plain
    text = written(command)
    expected = [word.strip("`.,;") for word in text.split() if "*" in word]
    expected += [line.strip() for line in re.findall(r"^ +audioset .+$", text, re.MULTILINE)]
    assert [part for part in expected if part not in shown] == []


def test_the_examples_of_the_site_have_no_escapes() -> None:
    path = Path(__file__).parents[1] / "docs" / "_hooks.py"
    spec: Any = importlib.util.spec_from_file_location("_hooks", path)
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    page = hooks._command_line()
    assert "--test 'esc10/*/4-*' --group '(\\d-\\d+)'" in page
    assert "`esc10/*/4-*`" in page
    assert r"\*" not in page

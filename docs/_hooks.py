"""Pages of the site that come from the code, made when the site is built."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
# Headings for the tables of the docstrings, by their number of columns.
HEADINGS = {2: ("format", "what it holds"), 3: ("part", "name", "what it holds")}
MODELS_TABLE = "<!-- table of models -->"


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages."""
    pages = {
        "reference/cli.md": _command_line(),
        "reference/formats.md": _formats(),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
    }
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in the table of models."""
    return markdown.replace(MODELS_TABLE, models_table()) if MODELS_TABLE in markdown else markdown


def models_table() -> str:
    """The registry as a table."""
    from audioset import models

    columns = ("model", "hop", "padding", "embedding", "classes", "weights", "their licence")
    rows = [
        (
            f"`{spec.name}`",
            f"{spec.hop_s:g} s",
            f"`{spec.pad}`",
            str(spec.embedding_dim),
            "–" if spec.num_classes is None else str(spec.num_classes),
            f"{spec.num_weights / 1e6:.1f} million",
            spec.licence,
        )
        for spec in models.REGISTRY.values()
    ]
    return _table(columns, rows)


def _command_line() -> str:
    """Every command with its help, as typer writes it, with the examples as code."""
    command = [sys.executable, "-m", "typer", "audioset.cli", "utils", "docs", "--name", "audioset"]
    text = subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout  # noqa: S603 - our own
    text = text.replace("# `audioset`", "# Command line", 1)
    # The lists of commands cut what they say short; the table of contents lists them anyway.
    text = re.sub(r"\*\*Commands\*\*:\n\n(?:\* .*\n)+\n", "", text)
    # An example is a line that is indented by two; those of one command become one block.
    return re.sub(r"(?:^  \S.*\n\n?)+", _as_code, text, flags=re.MULTILINE)


def _as_code(match: re.Match[str]) -> str:
    # Outside code, as in the terminal's help, asterisks in pairs would be emphasis: there they are escaped.
    lines = [line.strip().replace(r"\*", "*") for line in match[0].splitlines() if line.strip()]
    return "\n".join(["```bash", *lines, "```", "", ""])


def _formats() -> str:
    """What the modules of records say of their formats."""
    from audioset import records
    from audioset.records import tfrecord

    parts = (("# Output formats", records.__doc__), ("## TFRecord", tfrecord.__doc__))
    return "\n\n".join(f"{heading}\n\n{_as_markdown(text or '')}" for heading, text in parts)


def _as_markdown(docstring: str) -> str:
    """Docstring with reStructuredText's simple tables and roles to Markdown."""
    text = re.sub(r"^(=+(?: +=+)+)\n(.*?)\n\1$", _as_table, docstring, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r":\w+:`([^`]+)`", r"`\1`", text).replace("``", "`")
    # Outside code, < would begin a tag.
    return "`".join(part if i % 2 else part.replace("<", "&lt;") for i, part in enumerate(text.split("`")))


def _as_table(match: re.Match[str]) -> str:
    edges = [found.start() for found in re.finditer(r"=+", match[1])]
    rows: list[list[str]] = []
    for line in match[2].splitlines():
        ends: list[int | None] = [*edges[1:], None]
        cells = [line[start:end].strip() for start, end in zip(edges, ends, strict=True)]
        if cells[-1] and not any(cells[:-1]):  # a continued line
            rows[-1][-1] += f" {cells[-1]}"
        else:
            rows.append(cells)
    return _table(HEADINGS[len(edges)], rows)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in (columns, *rows)]
    return "\n".join([lines[0], "|---" * len(columns) + "|", *lines[1:]])

"""Pages of the site that come from the code, made when the site is built."""

from __future__ import annotations

import base64
import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.structure.files import Files

ROOT = Path(__file__).parents[1]
# Headings for the tables of the docstrings, by their number of columns.
HEADINGS = {2: ("format", "what it holds"), 3: ("part", "name", "what it holds")}
log = logging.getLogger("mkdocs.hooks")  # whose warnings a strict build counts
MODELS_TABLE = "<!-- table of models -->"


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages."""
    from mkdocs.structure.files import File  # tests use this module where MkDocs is not installed

    pages: dict[str, str | bytes] = {
        "reference/cli.md": _command_line(),
        "reference/formats.md": _formats(),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
    }
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        pages.update(notebook_files(notebook))
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in the table of models."""
    return markdown.replace(MODELS_TABLE, models_table()) if MODELS_TABLE in markdown else markdown


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Warn of what a browser would fetch from elsewhere: the site is one to read offline."""
    for tag in re.findall(r"<(?:script|img|iframe|audio|source|video|link(?! rel=.canonical))\b[^>]*>", output):
        if re.search(r"""\b(?:src|href)=["']?(?:https?:)?//""", tag):
            log.warning("%s: fetches from elsewhere: %s", page.file.src_uri, tag)
    return output


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


def notebook_files(path: Path) -> dict[str, str | bytes]:
    """A notebook as a page with its pictures beside it, and as it is."""
    name = f"notebooks/{path.stem}"
    text = path.read_text(encoding="utf-8")
    files: dict[str, str | bytes] = {f"{name}.ipynb": text}
    parts = []
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            # In the repository the pages are in docs/, and a notebook's page has its name.
            parts.append(re.sub(r"\]\((?:\.\./docs/([^)]+)|(\w+)\.ipynb)\)", _as_link, source))
            continue
        parts.append(f"```python\n{source}\n```")
        for kind, content in _outputs(cell):
            if kind == "image/png":
                picture = f"{name}-{len(files)}.png"
                files[picture] = base64.b64decode(content)
                parts.append(f"![What the code above draws]({Path(picture).name})")
            elif kind == "text/html":
                parts.append(f"<div>{content}</div>")
            else:
                parts.append(f"```text\n{content.rstrip()}\n```")
    title, *rest = parts
    download = f"[Download the notebook]({path.name})"
    files[f"{name}.md"] = "\n\n".join([title, download, *rest]) + "\n"
    return files


def _as_link(match: re.Match[str]) -> str:
    return f"](../{match[1]})" if match[1] else f"]({match[2]}.md)"


def _outputs(cell: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Type and content of what a cell gave: the first that there is of those that a page can show."""
    for output in cell["outputs"]:
        if output["output_type"] == "stream":
            yield "text/plain", "".join(output["text"])
            continue
        data = output["data"]
        kind = next(kind for kind in ("image/png", "text/html", "text/plain") if kind in data)
        yield kind, "".join(data[kind])


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

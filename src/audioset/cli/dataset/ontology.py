"""`audioset dataset ontology`: which classes of sound there are, and which are kinds of which."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from audioset.cli._common import write_columns
from audioset.errors import OptionError

if TYPE_CHECKING:
    from rich.console import Console

    from audioset.dataset.ontology import Ontology

app = typer.Typer(
    help="""Look classes up in AudioSet's ontology: what they are kinds of, and what is a kind of them.

    A class goes by its name, in upper or lower case, or by its mid. The hierarchy comes with the package; descriptions
    and examples come with `audioset dataset fetch ontology`.

    Examples:

      audioset dataset ontology show Dog

      audioset dataset ontology tree Animal --depth 2

      audioset dataset ontology search bark

      audioset dataset ontology path Growling
    """,
    no_args_is_help=True,
)

OntologyOption = Annotated[
    Path | None,
    typer.Option(
        "--ontology",
        help="An ontology.json as published, or one of your own in its form; plain or gzip.",
        show_default="the fetched one if there is one, else the package's table",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Write JSON.")]
ClassArgument = Annotated[str, typer.Argument(metavar="CLASS", help="Its display name or mid.", show_default=False)]

_PLAIN_WIDTH = 100  # of descriptions in a pipe
_MAX_LINES = 100_000  # of a tree; AudioSet's whole one has under a thousand
_STEP = " > "
_LISTS = {"audioset527": "AudioSet's", "yamnet521": "YAMNet's"}


@app.command()
def show(name: ClassArgument, ontology: OntologyOption = None, as_json: JsonOption = False) -> None:
    """Print what is known of a class.

    That is its mid, restrictions (abstract: it only holds others; blacklist: it was left out of labelling), place in
    the lists of 527 and 521 classes, ways from a root, parents, children and number of descendants. Description and
    examples need the published file.

    Examples:

      audioset dataset ontology show Dog

      audioset dataset ontology show /m/0bt9lr --json

      audioset dataset ontology show Growling --ontology ontology.json
    """
    graph = _load(ontology)
    facts = _facts(graph, name)
    if as_json:
        _write_json(facts)
        return
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        console = Console(highlight=False)
        console.print(Text(facts["name"], style="bold"), Text(facts["mid"], style="dim"))
        table = Table.grid(padding=(0, 2))
        table.add_column(style="cyan", no_wrap=True)
        table.add_column(overflow="fold")
        for label, lines in _labelled(graph, facts):
            table.add_row(label, Text("\n".join(lines)))
        console.print(table)
        if ontology is None and not facts["description"]:
            typer.echo("`audioset dataset fetch ontology` gets descriptions and examples", err=True)
        return
    typer.echo(f"{facts['name']}  {facts['mid']}")
    rows = list(_labelled(graph, facts))
    width = max(len(label) for label, _ in rows)
    for label, lines in rows:
        wrapped = [part for line in lines for part in textwrap.wrap(line, _PLAIN_WIDTH - width, break_on_hyphens=False)]
        for line in wrapped:
            typer.echo(f"{label:{width}}  {line}")
            label = ""


@app.command()
def tree(
    name: Annotated[
        str | None,
        typer.Argument(metavar="CLASS", help="Its display name or mid.", show_default="the seven roots"),
    ] = None,
    depth: Annotated[int, typer.Option("--depth", "-d", min=0, max=100, help="Levels below the class.")] = 2,
    ontology: OntologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print a class with the classes below it, or all of the ontology.

    Behind a name stand its restrictions in brackets, `also under` with the other parents of a class that has several
    (it is printed below each of them), and `+3` where 3 descendants are below the last level.

    Examples:

      audioset dataset ontology tree --depth 1

      audioset dataset ontology tree Dog

      audioset dataset ontology tree --depth 99 > ontology.txt
    """
    graph = _load(ontology)
    tops = graph.roots if name is None else (graph.mid(name),)
    _check_size(graph, tops, depth)
    if as_json:
        items = [_nested(graph, mid, depth) for mid in tops]
        _write_json(items if name is None else items[0])
    elif sys.stdout.isatty():
        from rich.console import Console

        _print_rich(Console(highlight=False), graph, tops, depth)
    else:
        for top in tops:
            for line in _plain_lines(graph, top, depth):
                typer.echo(line)


@app.command()
def search(
    text: Annotated[list[str], typer.Argument(metavar="TEXT...", help="Words; all of them must occur.")],
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Classes to show.")] = 20,
    ontology: OntologyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find classes by words of their name, mid or (with the published file) description, best first.

    INDEX is the place among AudioSet's 527 classes, - for a class that is not one of them. The exit status is 1 if
    nothing is found.

    Examples:

      audioset dataset ontology search bark

      audioset dataset ontology search water tap --limit 5

      audioset dataset ontology search dog --json | jq -r '.[].mid'
    """
    graph = _load(ontology)
    words = " ".join(text)
    found = graph.search(words)
    shown = [_brief(graph, mid) for mid in found[:limit]]
    if as_json:
        _write_json(shown)
    else:
        rows: list[tuple[str, ...]] = [("INDEX", "MID", "CLASS", "UNDER")] if shown else []
        for item in shown:
            index = "-" if item["index"] is None else str(item["index"])
            rows.append((index, item["mid"], item["name"], "; ".join(map(graph.name, item["parents"])) or "-"))
        write_columns(rows)
    if len(found) > limit:
        typer.echo(f"{len(found) - limit} more; --limit {len(found)} shows them all", err=True)
    if not found:
        try:
            graph.mid(words)
        except OptionError as error:  # which has the names closest to it
            typer.echo(f"audioset: {error}", err=True)
        raise typer.Exit(1)


@app.command()
def path(name: ClassArgument, ontology: OntologyOption = None, as_json: JsonOption = False) -> None:
    """Print every way from a root to a class, one a line.

    Examples:

      audioset dataset ontology path Dog

      audioset dataset ontology path Growling --json
    """
    graph = _load(ontology)
    paths = graph.paths(name)
    if as_json:
        _write_json([[{"mid": mid, "name": graph.name(mid)} for mid in way] for way in paths])
        return
    for way in paths:
        typer.echo(_STEP.join(map(graph.name, way)))


def _load(file: Path | None) -> Ontology:
    """Return the ontology of a file, else the fetched one, else the package's own."""
    from audioset.dataset.fetch import present
    from audioset.dataset.ontology import Ontology

    return Ontology.load(present("ontology") if file is None else file)


def _index(mid: str, classes: str) -> int | None:
    from audioset.classes import class_list

    mids = class_list(classes).mids
    return mids.index(mid) if mid in mids else None


def _brief(graph: Ontology, mid: str) -> dict[str, Any]:
    return {
        "mid": mid,
        "name": graph.name(mid),
        "index": _index(mid, "audioset527"),
        "restrictions": graph.restrictions(mid),
        "parents": graph.parents(mid),
        "num_descendants": len(graph.descendants(mid)),
    }


def _facts(graph: Ontology, name: str) -> dict[str, Any]:
    node = graph.node(name)
    return {
        **_brief(graph, node.mid),
        "yamnet_index": _index(node.mid, "yamnet521"),
        "depth": graph.depth(node.mid),
        "paths": graph.paths(node.mid),
        "children": graph.children(node.mid),
        "description": node.description,
        "citation_uri": node.citation_uri,
        "examples": node.examples,
    }


def _labelled(graph: Ontology, facts: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """The facts as lines of text, each with a label; what there is none of is left out."""
    from audioset.classes import class_list

    places = [(facts["index"], "audioset527"), (facts["yamnet_index"], "yamnet521")]
    numbers = [f"{at} of {_LISTS[name]} {len(class_list(name))}" for at, name in places if at is not None]
    several = len(facts["paths"]) > 1
    yield "class", [", ".join(numbers) or "neither AudioSet's nor YAMNet's"]
    yield "restrictions", [", ".join(facts["restrictions"]) or "none"]
    yield "paths" if several else "path", [_STEP.join(map(graph.name, way)) for way in facts["paths"]]
    for label in ("parents", "children"):
        if facts[label]:
            yield label, [f"{graph.name(mid)}  {mid}" for mid in facts[label]]
    yield "descendants", [str(facts["num_descendants"])]
    for label, lines in (
        ("description", [facts["description"]]),
        ("from", [facts["citation_uri"]]),
        ("examples", facts["examples"]),
    ):
        if any(lines):
            yield label, list(lines)


def _note(graph: Ontology, mid: str, parent: str | None, below: bool) -> str:
    """What stands behind the name of a class in a tree."""
    notes = [f"[{', '.join(graph.restrictions(mid))}]"] if graph.restrictions(mid) else []
    others = [other for other in graph.parents(mid) if other != parent]
    if parent is not None and others:
        notes.append(f"also under {'; '.join(map(graph.name, others))}")
    descendants = len(graph.descendants(mid))
    if descendants and not below:
        notes.append(f"+{descendants}")
    return "  ".join(notes)


def _nested(graph: Ontology, mid: str, depth: int) -> dict[str, Any]:
    item = _brief(graph, mid)
    if depth:
        item["children"] = [_nested(graph, child, depth - 1) for child in graph.children(mid)]
    return item


def _plain_lines(graph: Ontology, mid: str, depth: int, parent: str | None = None) -> Iterator[str]:
    yield "  ".join(filter(None, (graph.name(mid), _note(graph, mid, parent, depth > 0))))
    children = graph.children(mid) if depth else ()
    for child in children:
        last = child == children[-1]
        first, rest = ("└── ", "    ") if last else ("├── ", "│   ")
        for number, line in enumerate(_plain_lines(graph, child, depth - 1, mid)):
            yield (rest if number else first) + line


def _print_rich(console: Console, graph: Ontology, tops: tuple[str, ...], depth: int) -> None:
    from rich.text import Text
    from rich.tree import Tree

    def label(mid: str, parent: str | None, left: int) -> Text:
        note = _note(graph, mid, parent, left > 0)
        return Text.assemble((graph.name(mid), "" if parent else "bold"), *([("  " + note, "dim")] if note else []))

    def grow(branch: Tree, mid: str, left: int) -> None:
        for child in graph.children(mid) if left else ():
            grow(branch.add(label(child, mid, left - 1)), child, left - 1)

    for top in tops:
        trunk = Tree(label(top, None, depth), guide_style="dim")
        grow(trunk, top, depth)
        console.print(trunk)


def _check_size(graph: Ontology, tops: tuple[str, ...], depth: int) -> None:
    """Raise OptionError for a tree that no one could read; parents shared on every level double it on each."""
    lines = dict.fromkeys((node.mid for node in graph.nodes), 1)
    for _ in range(depth):
        lines = {mid: 1 + sum(lines[child] for child in graph.children(mid)) for mid in lines}
    total = sum(lines[top] for top in tops)
    if total > _MAX_LINES:
        raise OptionError(f"--depth {depth}: {total:,} lines; expected {_MAX_LINES:,} or fewer. Use a smaller one")


def _write_json(value: Any) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False, indent=1))

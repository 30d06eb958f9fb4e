"""`audioset models`: which weights there are, and getting, converting, finding and verifying them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from audioset.cli._common import write_columns

if TYPE_CHECKING:
    from audioset.weights import CatalogueEntry, Progress

app = typer.Typer(
    help="""List, fetch, convert, find and verify the weights of models.

    Examples:

      audioset models list

      audioset models fetch vggish

      audioset models convert vggish_model.ckpt -o vggish.safetensors

      audioset models verify
    """,
    epilog="Fetched and converted weights are kept in the user's cache, or in the folder that AUDIOSET_CACHE names. "
    "AUDIOSET_CATALOGUE names a JSON file with further weights or mirrors; AUDIOSET_OFFLINE=1 forbids the network.",
    no_args_is_help=True,
)

_COLUMNS = ("NAME", "MODEL", "RATE", "HOP", "DIM", "CLASSES", "SIZE", "LICENCE", "PRESENT")


@app.command("list")
def list_(
    as_json: Annotated[bool, typer.Option("--json", help="Write all that is known of each, as JSON.")] = False,
) -> None:
    """Show every model's weights: size, licence, and whether they are here.

    DIM is the width of an embedding, HOP the seconds from one to the next. PRESENT is yes if no network is needed.

    Examples:

      audioset models list

      audioset models list --json | jq '.[] | select(.present) | .name'
    """
    rows = _rows()
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    write_columns([_COLUMNS, *map(_cells, rows)])


@app.command()
def fetch(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Names that `list` shows; a model's name means all of its files.", show_default="all"),
    ] = None,
) -> None:
    """Download weights, verify them and make them ready, so that later runs need no network.

    What is here already is verified and kept; a download that was cut is continued. If one fails, it is named with the
    reason, the others go on, and the exit status is 1. Paths go to standard output.

    Examples:

      audioset models fetch vggish

      AUDIOSET_CACHE=/data/weights audioset models fetch
    """
    from audioset import weights
    from audioset.errors import AudioSetError

    failed = False
    shipped = {name: place for name in names or [] if (place := weights.built_in(name)) is not None}
    for name, place in shipped.items():
        typer.echo(f"{name}: comes with the package, nothing to fetch", err=True)
        typer.echo(place)
    rest = [name for name in names or [] if name not in shipped]
    for entry in weights.select(rest) if rest or not names else []:
        try:
            path = _fetch_one(entry)
        except AudioSetError as error:
            typer.echo(f"audioset: {error}", err=True)
            failed = True
        else:
            typer.echo(path)
    if failed:
        raise typer.Exit(1)


@app.command()
def convert(
    source: Annotated[
        str,
        typer.Argument(
            help="TensorFlow checkpoint (version 1: the file; version 2: its prefix), .pth, .h5, .tflite or "
            "safetensors; or untrained:SEED, random ones to measure with."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The safetensors file to write.")],
    model: Annotated[str, typer.Option("--model", "-m", help="The model that the weights are of.")] = "vggish",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")] = False,
) -> None:
    """Write weights of any format that can be read to one safetensors file, checked and with their provenance.

    The format is told by content, not by name. `--weights` takes all of them as they are; a converted file starts at
    once on every machine, and holds the network alone, without what training kept beside it.

    Examples:

      audioset models convert vggish_model.ckpt -o vggish.safetensors

      audioset models convert run7/model.ckpt-20000 -o mine.safetensors

      audioset embed street.wav --weights mine.safetensors

      audioset models convert untrained:0 -o seed0.safetensors
    """
    from audioset import weights

    found = weights.convert(source, out, model=model, overwrite=overwrite)
    origin = found.provenance["source_format"]
    typer.echo(f"{out}: {len(found.tensors)} tensors of {model} from {origin}, content sha256 {found.sha256}", err=True)


@app.command()
def path(
    name: Annotated[str, typer.Argument(help="A name that `list` shows.")],
) -> None:
    """Print where a file of the catalogue is (as published if it is here, else as converted), or the package's own.

    Examples:

      audioset models path vggish

      cp "$(audioset models path vggish-pca)" pca.npz
    """
    from audioset import weights
    from audioset.errors import WeightsError

    place = weights.built_in(name)
    if place is None:
        exact = [entry for entry in weights.select([name]) if entry.name == name]
        place = next(filter(None, map(weights.find_present, exact)), None)
    if place is None:
        raise WeightsError(f"{name}: not in {weights.cache_dir()}. Run `audioset models fetch {name}`.")
    typer.echo(place)


@app.command()
def verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Names that `list` shows, or safetensors files of your own.", show_default="all that is in the cache"
        ),
    ] = None,
) -> None:
    """Hash files again and compare: with the catalogue as fetched, with what they say of themselves as converted.

    Networks in 8 bits in the cache are held to what they say of themselves too, and weights that come with the package
    are read again. One line a file goes to standard output; the exit status is 1 if any is not as it should be. What
    int8 and other ways of running a network change is for `audioset verify`.

    Examples:

      audioset models verify

      audioset models verify vggish mine.safetensors
    """
    from audioset import weights

    checks = weights.verify(names or [])
    if not checks:
        typer.echo(f"{weights.cache_dir()}: nothing there to verify", err=True)
    for check in checks:
        typer.echo(f"{'ok ' if check.ok else 'BAD'}  {check.name}  {check.path}{': ' * bool(check.found)}{check.found}")
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


@contextmanager
def downloading(name: str) -> Iterator[Progress | None]:
    """Give a function to report a download of `name` to: a bar on a terminal, which appears when something comes."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich import progress as rich_progress
    from rich.console import Console

    columns = (
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        rich_progress.DownloadColumn(),
        rich_progress.TransferSpeedColumn(),
        rich_progress.TimeRemainingColumn(),
    )
    with rich_progress.Progress(*columns, console=Console(stderr=True)) as bar:
        tasks: list[rich_progress.TaskID] = []

        def show(done: int, total: int | None) -> None:
            if not tasks:
                tasks.append(bar.add_task(name, total=total))
            bar.update(tasks[0], completed=done, total=total)

        yield show


def _fetch_one(entry: CatalogueEntry) -> Path:
    """Fetch one file and, if it is the weights of a model that is known here, convert it; return its path."""
    from audioset import models, weights
    from audioset.weights.catalogue import WEIGHTS

    with downloading(entry.name) as progress:
        path = weights.fetch(entry, progress=progress)
    found = "verified"
    if entry.kind == WEIGHTS and entry.model in models.REGISTRY:
        found += f" and ready, content sha256 {weights.load(entry.model, entry.name).sha256}"
    typer.echo(f"{entry.name}: {found}", err=True)
    return path


def _rows() -> list[dict[str, Any]]:
    """Return what is known of each entry of the catalogue and of each model that needs none."""
    from dataclasses import asdict

    from audioset import models, weights
    from audioset.features import SAMPLE_RATE_HZ

    entries = weights.catalogue()
    rows: list[dict[str, Any]] = []
    for entry in entries.values():
        place = weights.find_present(entry)
        found = {"present": weights.ready(entry.name), "path": None if place is None else str(place)}
        rows.append({**asdict(entry), **found})
    for spec in models.REGISTRY.values():
        if spec.name not in entries:
            about = {"licence": spec.licence, "citation": spec.citation, "about": spec.summary}
            place = weights.built_in(spec.name)
            found = {"present": place is not None, "path": None if place is None else str(place)}
            size = {"size_bytes": None if place is None else place.stat().st_size}
            rows.append({"name": spec.name, "model": spec.name, "kind": "weights", **size, **about, **found})
    for row in rows:
        spec_of_row = models.REGISTRY.get(row["model"])
        if spec_of_row is not None:
            row |= {
                "sample_rate_hz": SAMPLE_RATE_HZ,
                "hop_s": spec_of_row.hop_s,
                "embedding_dim": spec_of_row.embedding_dim,
                "num_classes": spec_of_row.num_classes,
            }
    return rows


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    """Return a row as the text of its columns; what does not apply is a dash."""
    network = row["kind"] == "weights"
    rate, hop, dim, classes = (
        row.get(key) if network else None for key in ("sample_rate_hz", "hop_s", "embedding_dim", "num_classes")
    )
    return (
        row["name"],
        row["model"],
        "-" if rate is None else f"{rate / 1000:g} kHz",
        "-" if hop is None else f"{hop:g} s",
        "-" if dim is None else str(dim),
        "-" if classes is None else str(classes),
        _size(row.get("size_bytes")),
        row["licence"] or "-",
        "yes" if row["present"] else "no",
    )


def _size(num_bytes: int | None) -> str:
    if num_bytes is None:
        return "-"
    return f"{num_bytes / 1e6:.1f} MB" if num_bytes >= 1e6 else f"{num_bytes / 1e3:.1f} kB"

"""`audioset dataset fetch` and `files`: AudioSet's published files, into the cache, and what there is of them."""

from __future__ import annotations

import json
import shutil
import textwrap
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from audioset.cli._common import in_columns, interrupted_says
from audioset.cli.models import downloading

if TYPE_CHECKING:
    from audioset.dataset.catalogue import DatasetFile

_COLUMNS = ("NAME", "GROUP", "SIZE", "LICENCE", "PRESENT")
_WIDTH = 80  # of a line that says what a file is


class RegionChoice(str, Enum):
    """Of `audioset.dataset.catalogue.REGIONS`."""

    us = "us"
    eu = "eu"
    asia = "asia"


def fetch(
    what: Annotated[
        list[str],
        typer.Argument(
            help="segments, labels, ontology, quality, strong or features; or the names of single files, which "
            "`audioset dataset files` shows."
        ),
    ],
    region: Annotated[
        RegionChoice,
        typer.Option("--region", help="Where to fetch the features from; all else is published in one place."),
    ] = RegionChoice.us,
    out_dir: Annotated[
        Path | None,
        typer.Option("--out-dir", "-o", help="Copy the files to this folder too, under their published names."),
    ] = None,
    base_url: Annotated[
        str | None,
        typer.Option(
            "--base-url",
            help="Fetch from a folder elsewhere that has the files under their published names, such as an "
            "institute's copy. Known hashes are checked all the same.",
            show_default="AUDIOSET_DATASET_URL, else where they are published",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files in --out-dir that are not the same.")
    ] = False,
) -> None:
    """Download files of AudioSet, verify them and keep them in the cache, so that later commands need no network.

    What is here already is verified and kept; a download that was cut is continued. If one fails, it is named with the
    reason, the others go on, and the exit status is 1. Paths go to standard output.

    Examples:

      audioset dataset fetch segments labels ontology

      audioset dataset fetch features --region eu

      audioset dataset fetch eval train_strong -o labels
    """
    from audioset.dataset.catalogue import select
    from audioset.errors import AudioSetError, OptionError

    wanted = select(what)
    failed = False
    for number, file in enumerate(wanted):
        rest = ", ".join(left.name for left in wanted[number:])
        with interrupted_says(
            f"interrupted: {number} of {len(wanted)} done, left: {rest}. Run it again to continue where it stopped"
        ):
            try:
                path = _fetch_one(file, region.value, base_url)
                typer.echo(path if out_dir is None else _copy(path, out_dir / file.file_name, overwrite))
            except OptionError:  # as true of the others
                raise
            except AudioSetError as error:
                typer.echo(f"audioset: {error}", err=True)
                failed = True
    if failed:
        raise typer.Exit(1)


def files(
    as_json: Annotated[bool, typer.Option("--json", help="Write all that is known of each, as JSON.")] = False,
) -> None:
    """Show AudioSet's files that can be fetched: size, licence, and whether they are here.

    PRESENT is yes if the file is in the cache, whole and unchanged: those that are there are read through. Sizes of
    files without a known hash are approximate. A line below each says what it is.

    Examples:

      audioset dataset files

      audioset dataset files --json | jq '.[] | select(.present) | .path'
    """
    rows = _rows()
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    header, *lines = in_columns([_COLUMNS, *map(_cells, rows)])
    typer.echo(header)
    for line, row in zip(lines, rows, strict=True):
        typer.echo(line)
        typer.echo(textwrap.fill(row["about"], _WIDTH, initial_indent="    ", subsequent_indent="    "))


def _fetch_one(file: DatasetFile, region: str, base_url: str | None) -> Path:
    from audioset.dataset.fetch import fetch

    with downloading(file.name) as progress:
        path = fetch(file.name, region=region, base_url=base_url, progress=progress)
    how = "verified" if file.sha256 else "as its server and its structure say; no hash of it is published"
    typer.echo(f"{file.name}: {how}; {file.licence}", err=True)
    return path


def _copy(source: Path, target: Path, overwrite: bool) -> Path:
    """Copy a file of the cache to where the user wants it; what is there and the same is kept."""
    import filecmp

    from audioset._files import unwritable, written_whole
    from audioset.errors import OutputError

    try:
        if target.is_file() and filecmp.cmp(source, target, shallow=False):
            return target
    except OSError as error:
        raise unwritable(target, error) from error
    if target.exists() and not overwrite:
        raise OutputError(
            f"{target}: exists and is not the file that was fetched ({source}); expected it or nothing there. "
            "Use --overwrite to replace it, or another --out-dir."
        )
    with written_whole(target) as temporary:
        shutil.copyfile(source, temporary)
    return target


def _rows() -> list[dict[str, Any]]:
    """Return what is known of each file, and where it is."""
    from audioset.dataset.catalogue import FILES
    from audioset.dataset.fetch import present
    from audioset.errors import DatasetError

    rows = []
    for file in FILES:
        try:
            path = present(file.name)
        except DatasetError:  # may not be read
            path = None
        shown = ("name", "group", "url", "sha256", "size_bytes", "licence", "citation", "about", "in_regions")
        row = {field: getattr(file, field) for field in shown}
        rows.append({**row, "present": path is not None, "path": None if path is None else str(path)})
    return rows


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    from audioset.dataset.catalogue import size_text

    yes = "yes" if row["present"] else "no"
    return (row["name"], row["group"], size_text(row["size_bytes"]) or "-", row["licence"], yes)

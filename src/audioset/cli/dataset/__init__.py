"""`audioset dataset`: AudioSet's segments, labels, ontology, features and sound; one file a family of commands."""

from __future__ import annotations

import typer

from audioset.cli.dataset import fetch

app = typer.Typer(
    help="""Work with AudioSet and YouTube-8M: fetch what is published, look into it, convert it, get the sound.
    """,
    no_args_is_help=True,
)
app.command()(fetch.fetch)
app.command()(fetch.files)

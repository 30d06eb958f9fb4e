"""`audioset dataset`: AudioSet's segments, labels, ontology, features and sound; one file a family of commands."""

from __future__ import annotations

import typer

from audioset.cli.dataset import audio, features, fetch, ontology, segments

app = typer.Typer(
    help="""Work with AudioSet and YouTube-8M: fetch what is published, look into it, convert it, get the sound.
    """,
    no_args_is_help=True,
)
app.command()(fetch.fetch)
app.command()(fetch.files)
app.command()(audio.download_audio)
app.command()(audio.download_status)
app.add_typer(ontology.app, name="ontology")
app.command()(segments.stats)
app.command()(segments.subset)
app.command()(features.convert)
app.command()(features.show)

"""`audioset dataset`: AudioSet's segments, labels, ontology, features and sound; one file a family of commands."""

from __future__ import annotations

import typer

from audioset.cli.dataset import audio, features, fetch, ontology, segments

app = typer.Typer(
    help="""Work with AudioSet and YouTube-8M: fetch what is published, look into it, convert it, get the sound.

    Examples:

      audioset dataset fetch segments ontology

      audioset dataset stats balanced_train --top 20

      audioset dataset subset balanced_train --class Dog --per-class 50 -o dogs.csv

      audioset dataset download-audio dogs.csv -o clips/

      audioset dataset convert features.tar.gz -o audioset.arrow
    """,
    no_args_is_help=True,
)
app.command()(fetch.fetch)
app.command()(fetch.files)
app.add_typer(ontology.app, name="ontology")
app.command()(segments.stats)
app.command()(segments.subset)
app.command()(audio.download_audio)
app.command()(audio.download_status)
app.command()(features.convert)
app.command()(features.show)

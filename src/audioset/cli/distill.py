"""`audioset distill`: a small network that learns from a large one, on recordings of one's own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audioset.cli._common import interrupted_says

if TYPE_CHECKING:
    from audioset.train.distill import Progress

# The defaults of audioset.train.distill.Recipe; a test says so.
NUM_MIXTURES = 262_144
EPOCHS = 5


def distill(
    data: Annotated[list[Path], typer.Option("--data", "-d", help="Folder of recordings; may be repeated.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The safetensors file to write.")],
    teacher: Annotated[str, typer.Option("--teacher", help="The model to learn from.")] = "yamnet",
    teacher_weights: Annotated[
        str | None,
        typer.Option("--teacher-weights", help="Weights of the teacher.", show_default="the published ones"),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option("--exclude", help="Files to leave out, a pattern from the folder's name on; may be repeated."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Decides mixtures, first weights and order.")] = 0,
    mixtures: Annotated[int, typer.Option("--mixtures", help="Examples to learn from.")] = NUM_MIXTURES,
    epochs: Annotated[int, typer.Option("--epochs", help="How often each is seen.")] = EPOCHS,
    voices: Annotated[
        bool, typer.Option("--voices/--no-voices", help="Add speech that espeak-ng makes in many languages.")
    ] = True,
    threads: Annotated[int | None, typer.Option("--threads", help="Cores to use.", show_default="all")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")] = False,
) -> None:
    """Train the small model `mini` to say what a large one says, on random mixtures of your recordings.

    Labels are not needed: the teacher's scores and embeddings are what is learnt. What has been done is kept in a
    folder beside the output (16 kB a mixture), and the same command goes on from there after an
    interruption; the folder may be deleted at the end. The losses go to OUT.losses.csv, and to a picture where
    matplotlib is installed.

    Examples:

      audioset distill --data recordings/ -o mini.safetensors

      audioset distill -d esc10 -d music --exclude 'esc10/\\*/4-\\*' --seed 1 -o mine.safetensors
    """
    from audioset.embed import load
    from audioset.train.distill import Recipe, Teacher
    from audioset.train.distill import distill as run
    from audioset.weights.content import check_output

    check_output(out, overwrite=overwrite)
    recipe = Recipe(seed=seed, num_mixtures=mixtures, epochs=epochs, voices=voices)
    learnt_from = Teacher.of(load(teacher, teacher_weights))
    said = "interrupted; what is done is kept beside the output: the same command goes on from there"
    with interrupted_says(said), _bar() as progress:
        run(learnt_from, data, out, exclude=exclude or (), recipe=recipe, threads=threads, progress=progress)
    typer.echo(f"{out}: mini, distilled from {teacher}", err=True)


@contextmanager
def _bar() -> Iterator[Progress | None]:
    """Give a function to report stages to: bars on a terminal, nothing in a pipe."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done)

        yield show

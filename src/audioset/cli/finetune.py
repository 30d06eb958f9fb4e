"""`audioset finetune`: labelled clips to a model of one's own."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audioset.cli._common import BUILT_IN, interrupted_says, report_failures
from audioset.cli.models import downloading

if TYPE_CHECKING:
    from audioset.evaluate import Evaluation
    from audioset.finetune import Finetuned
    from audioset.finetune.options import Progress

# The defaults of audioset.finetune.FinetuneOptions; a test says so.
EPOCHS = 60
PATIENCE = 15
BATCH_SIZE = 32
LEARNING_RATE = 1e-3
LAYER_DECAY = 0.9
WEIGHT_DECAY = 1e-2
PRECISION = "32"


def finetune(
    data: Annotated[
        str,
        typer.Argument(
            help="A folder with a subfolder a class, or a csv file: `path,labels` and, if wanted, `start,end` in s, "
            "`group`, `fold`, `split`. Several labels have ; between."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write, NAME.safetensors.")],
    model: Annotated[str, typer.Option("--model", "-m", help="Where to start: mini, yamnet or vggish.")] = BUILT_IN,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            "-w",
            help="Weights to start from: a file in any format that can be read.",
            show_default="the published ones, downloaded once",
        ),
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Let all weights move, instead of fitting a linear layer on embeddings.")
    ] = False,
    test: Annotated[
        str | None,
        typer.Option(
            "--test",
            help="Clips to hold out and report on: a pattern for their names from DATA's own on, or data as DATA.",
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            "--classes",
            help="Classes, in order: names (or AudioSet's names or mids) with commas between, or a file of one a line.",
            show_default="all",
        ),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(
            "--group",
            help="Regular expression that finds a clip's group (speaker, site, day …) in its name. Groups stay whole.",
        ),
    ] = None,
    valid_fraction: Annotated[
        float | None,
        typer.Option(
            "--valid-fraction",
            help="Share of the clips not to learn from, but to report on; with --full also to stop by.",
            show_default="0.2; 0 with --test or --folds, unless --full",
        ),
    ] = None,
    folds: Annotated[
        int,
        typer.Option(
            "--folds", help="Cross-validate with so many folds, then learn from all clips.", show_default="none"
        ),
    ] = 0,
    seed: Annotated[int, typer.Option("--seed", help="Decides splits, order and augmentation.")] = 0,
    augment: Annotated[
        bool,
        typer.Option(
            "--augment/--no-augment",
            help="With --full: shift clips, change their speed and level, add noise, hide parts.",
        ),
    ] = True,
    epochs: Annotated[int, typer.Option("--epochs", help="With --full: at most so often through the clips.")] = EPOCHS,
    patience: Annotated[
        int, typer.Option("--patience", help="With --full: epochs without better validation until it ends.")
    ] = PATIENCE,
    batch_size: Annotated[int, typer.Option("--batch-size", help="With --full: clips a step.")] = BATCH_SIZE,
    learning_rate: Annotated[
        float, typer.Option("--lr", help="With --full: learning rate of the last layer.")
    ] = LEARNING_RATE,
    layer_decay: Annotated[
        float, typer.Option("--layer-decay", help="With --full: rate of each layer, as a share of that above it.")
    ] = LAYER_DECAY,
    weight_decay: Annotated[float, typer.Option("--weight-decay", help="With --full: of AdamW.")] = WEIGHT_DECAY,
    precision: Annotated[str, typer.Option("--precision", help="With --full: 32, 16-mixed or bf16-mixed.")] = PRECISION,
    report: Annotated[
        Path | None,
        typer.Option("--report", help="Also write a report: HTML, of the test clips, else folds, else validation."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
    threads: Annotated[int | None, typer.Option("--threads", help="Cores to use.", show_default="all")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin anew, and replace existing outputs.")] = False,
) -> None:
    """Teach a model sounds of your own, from labelled clips.

    Clips have one class each (softmax), or, if any clip in a csv file has several labels or none, any number (sigmoid).
    By default the network stays as it is and a linear layer is fitted on its embeddings: minutes on a CPU. With
    --full all weights move from there; what is done is kept in OUT.work, and the same command goes on after a stop.

    The file that is written is a model: `audioset tag --model OUT` and `audioset.load("OUT")` use it. What is printed
    was measured with it on clips that it did not learn from.

    Examples:

      audioset finetune birds/ -o birds.safetensors

      audioset finetune esc10/ --test 'esc10/\\*/4-\\*' --group '(\\d-\\d+)' --model yamnet -o esc10.safetensors

      audioset finetune digits.csv --full --folds 4 --report digits.html -o digits.safetensors

      audioset tag new.wav --model birds.safetensors
    """
    from audioset import models
    from audioset.errors import OptionError
    from audioset.finetune import FinetuneOptions
    from audioset.finetune import finetune as run
    from audioset.finetune.data import read_class_names
    from audioset.models.own import check_path
    from audioset.weights import load
    from audioset.weights.content import check_output

    options = FinetuneOptions(
        full=full,
        valid_fraction=valid_fraction,
        folds=folds,
        seed=seed,
        augment=augment,
        epochs=epochs,
        patience=patience,
        batch_size=batch_size,
        learning_rate=learning_rate,
        layer_decay=layer_decay,
        weight_decay=weight_decay,
        precision=precision,  # type: ignore[arg-type]  # checked there
    )
    check_output(check_path(out), overwrite=overwrite)
    if report is not None:
        check_output(report, overwrite=overwrite)
    if model not in models.REGISTRY:
        raise OptionError(f"--model {model}: unknown; expected one of {', '.join(models.REGISTRY)}")
    chosen = None if classes is None else read_class_names(classes)
    with downloading(model) as progress:
        found = load(model, weights, progress=progress)
    kept = (
        "checkpoints, if any, are kept beside the output: the same command goes on from there"
        if full
        else "nothing written"
    )
    with interrupted_says(f"interrupted; {kept}"), _bars() as show:
        result = run(
            data,
            out,
            model=model,
            weights=found,
            test=test,
            classes=chosen,
            group=group,
            options=options,
            threads=threads,
            overwrite=overwrite,
            progress=show,
        )
    if report is not None:
        _write_report(result, report)
    for warning in result.warnings:
        typer.echo(f"note: {warning}", err=True)
    if json:
        typer.echo(result.to_json())
    else:
        typer.echo("\n".join(_said(result)))
    report_failures(result.failed)
    if result.failed:
        num = len(result.failed)
        typer.echo(f"{num:,} {'clip' if num == 1 else 'clips'} could not be read, left out", err=True)
        raise typer.Exit(1)


def _said(result: Finetuned) -> Iterator[str]:
    """Lines for people."""
    from audioset.finetune.result import confusion_text

    how = "all weights moved" if result.options.full else "linear layer on frozen embeddings"
    kind = "any number of classes a clip" if result.multi_label else "one class a clip"
    yield f"{result.path}: {len(result.classes)} classes on {result.base}, {how}, {kind}"
    learnt = ", ".join(f"{num:,} {what}" for what, num in result.num_clips.items())
    yield f"clips: {learnt}; C = {result.strength:g}" + ("" if result.epochs is None else f", {result.epochs} epochs")
    if result.folds:
        yield f"\n{len(result.folds)} folds, mean ± standard deviation"
        for name, middle, spread in result.fold_summary():
            yield f"  {name:<18} {middle:.4f} ± {spread:.4f}"
    of_parts = (("validation", result.valid), ("all folds", result.pooled), ("test", result.test))
    for what, evaluation in of_parts:
        if evaluation is None:
            continue
        yield f"\n{what}: {evaluation.num_clips:,} clips" + (" (95% intervals)" if evaluation.resamples else "")
        for name, value, interval in evaluation.to_table():
            yield f"  {name:<18} {value}  {interval}".rstrip()
        yield ""
        yield from _class_lines(evaluation, result.num_learnt)
        if evaluation.confusion is not None:
            yield "\n  confusion (rows: the clip's class; columns: what it was given)"
            yield from (f"  {line}" for line in confusion_text(evaluation).splitlines())


def _class_lines(evaluation: Evaluation, learnt: Sequence[int]) -> Iterator[str]:
    from rich.cells import cell_len, set_cell_size

    wide = min(max(cell_len(of.name) for of in evaluation.classes), 32)
    confusion = evaluation.confusion
    columns = "learnt  clips     AP" + ("  recall  precision" if confusion is not None else "    AUC")
    yield f"  {set_cell_size('class', wide)}  {columns}"
    for place, of in enumerate(evaluation.classes):
        cells = f"{learnt[place]:>6,} {of.positives:>6,} {_share(of.average_precision)}"
        if confusion is None:
            cells += f" {_share(of.auc)}"
        else:
            given = sum(row[place] for row in confusion)
            hit = confusion[place][place]
            cells += f" {_share(hit / of.positives if of.positives else None, 7)}"
            cells += f" {_share(hit / given if given else None, 10)}"
        yield f"  {set_cell_size(of.name, wide)}  {cells}"


def _share(value: float | None, width: int = 6) -> str:
    return "–".rjust(width) if value is None or value != value else f"{value:{width}.3f}"


def _write_report(result: Finetuned, path: Path) -> None:
    from audioset.evaluate import write_report

    named = (("test clips", result.test), ("cross-validation", result.pooled), ("validation clips", result.valid))
    found = next(((what, evaluation) for what, evaluation in named if evaluation is not None), None)
    if found is None:
        typer.echo(f"note: {path}: not written, because no clip was held out; see --test, --folds", err=True)
        return
    what, evaluation = found
    parameters = {
        "model": result.path.name,
        "base": f"{result.base} {result.weights[:12]}",
        "method": "full" if result.options.full else "frozen",
        "clips": ", ".join(f"{num:,} {part}" for part, num in result.num_clips.items()),
        "seed of the job": result.options.seed,
    }
    write_report(evaluation, path, title=f"{result.path.stem}: {what}", parameters=parameters)


@contextmanager
def _bars() -> Iterator[Progress | None]:
    """Give a function to report stages to: bars on a terminal; in a pipe a line a validation."""
    if not sys.stderr.isatty():
        said = ""

        def tell(stage: str, done: int, total: int, talk: str) -> None:
            nonlocal said
            if talk and talk != said:
                said = talk
                typer.echo(f"{stage}: step {done:,} of at most {total:,}: {talk}", err=True)

        yield tell
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[talk]}"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int, talk: str) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total, talk="")
            bars.update(tasks[stage], completed=done, total=total, talk=talk)

        yield show

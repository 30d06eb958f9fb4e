"""`audioset train`: a head on embeddings, to a file that predicts."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from audioset.cli._common import interrupted_says

if TYPE_CHECKING:
    from audioset.train.config import TrainConfig
    from audioset.train.fit import Progress, Report

# What `audioset.train.heads.HEADS` has: written out, because importing it takes seconds.
_HEADS = (
    "logistic",
    "logistic_max",
    "mlp",
    "moe",
    "average",
    "max",
    "single_attention",
    "multi_attention",
    "feature_attention",
    "gru",
    "lstm",
    "netvlad",
    "dbof",
)


def train(
    data: Annotated[
        str,
        typer.Argument(
            help="Features to learn from: released ones as TFRecord (shard, folder, pattern, features.tar.gz), what "
            "`audioset dataset convert` made of them, or the Parquet file of `audioset embed` with --labels."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The safetensors file to write.")],
    valid: Annotated[
        str | None,
        typer.Option(
            "--valid", help="Features to validate by, as DATA.", show_default="a tenth of DATA, 20,000 clips at most"
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels", help="csv with the columns file and labels (several with ; between), for own features."
        ),
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option(
            "--classes",
            help="csv with a row a class, in order: columns mid and display_name, or name alone.",
            show_default="AudioSet's 527, YouTube-8M's 3,862, or those in --labels",
        ),
    ] = None,
    propagate: Annotated[
        bool,
        typer.Option("--propagate", help="Give every clip the ancestors of its classes too (AudioSet's ontology)."),
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="YAML or JSON file with any of the options below, by name."),
    ] = None,
    head: Annotated[
        str | None,
        typer.Option("--head", help=f"Kind: {', '.join(_HEADS)}.", show_default="feature_attention"),
    ] = None,
    hidden: Annotated[int | None, typer.Option("--hidden", help="Hidden units.", show_default="1024")] = None,
    layers: Annotated[int | None, typer.Option("--layers", help="Hidden layers.", show_default="3")] = None,
    dropout: Annotated[
        float | None, typer.Option("--dropout", help="Share of units dropped.", show_default="0.5")
    ] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="Clips a step.", show_default="512")] = None,
    learning_rate: Annotated[float | None, typer.Option("--lr", help="Learning rate.", show_default="0.001")] = None,
    epoch_steps: Annotated[
        int | None, typer.Option("--epoch-steps", help="Steps from one validation to the next.", show_default="500")
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="At most so many of them.", show_default="40")] = None,
    patience: Annotated[
        int | None, typer.Option("--patience", help="Epochs without a better mAP until it ends.", show_default="8")
    ] = None,
    balanced: Annotated[
        bool | None,
        typer.Option(
            "--balanced/--natural", help="Draw every class equally often, or every clip.", show_default="balanced"
        ),
    ] = None,
    mixup: Annotated[
        float | None, typer.Option("--mixup", help="Mix clips; 0.4 is usual, 0 mixes none.", show_default="0")
    ] = None,
    precision: Annotated[
        str | None, typer.Option("--precision", help="32, 16-mixed or bf16-mixed.", show_default="32")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Decides all that is random.", show_default="0")] = None,
    accelerator: Annotated[str, typer.Option("--accelerator", help="auto, cpu, gpu, mps …")] = "auto",
    devices: Annotated[int, typer.Option("--devices", help="Devices that train together.")] = 1,
    nodes: Annotated[int, typer.Option("--nodes", help="Machines that train together, as SLURM starts them.")] = 1,
    workers: Annotated[int, typer.Option("--workers", help="Processes that load ahead.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin anew, and replace an existing output.")] = False,
) -> None:
    """Train a classifier on embeddings: frames of a clip in, a score a class out.

    Checkpoints and logs (`metrics.csv`, TensorBoard's) are kept in OUT.work, and the same command goes on from there
    after an interruption, to the same weights as without one. The weights with the best mean average precision on the
    validation clips are kept. OUT holds them with the classes and what they expect; `audioset evaluate` takes it.

    Options can also come from a file: `--config` names one; what is given here comes before it.

    Examples:

      audioset train train.arrow --valid validate.arrow -o attention.safetensors

      audioset train birds.parquet --labels birds.csv --head logistic -o birds.safetensors

      audioset train bal_train/ --valid eval/ --head multi_attention --propagate --mixup 0.4 -o multi.safetensors
    """
    from audioset._extras import check_installed

    check_installed("audioset train", "torch", "lightning", "tensorboard", "yaml")

    from audioset.train.config import Machine
    from audioset.train.fit import discard, fit
    from audioset.train.sources import open_training
    from audioset.weights.content import check_output

    given = {
        "head": head,
        "hidden": hidden,
        "layers": layers,
        "dropout": dropout,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "epoch_steps": epoch_steps,
        "epochs": epochs,
        "patience": patience,
        "balanced": balanced,
        "mixup": mixup,
        "precision": precision,
        "seed": seed,
    }
    settings = read_config(config, {name: value for name, value in given.items() if value is not None})
    machine = Machine(accelerator, devices, nodes, workers)
    main = not _rank()
    work = out.with_name(f"{out.name}.work")
    if main:  # the other processes of a job run all of this too, a little later
        check_output(out, overwrite=overwrite)
        if overwrite:
            discard(work)
    source = open_training(
        data,
        valid,
        labels=labels,
        classes=classes,
        propagate=propagate,
        seed=settings.seed,
        talk=_say if main else None,
    )
    said = "interrupted; what is done is kept beside the output: the same command goes on from there"
    with interrupted_says(said), _bar() as progress:
        fitted = fit(
            source.train,
            source.valid,
            source.classes,
            source.embedder,
            settings,
            work,
            machine=machine,
            notes=source.notes,
            progress=progress,
        )
    if not fitted.main:
        return
    fitted.head.save(out, overwrite=overwrite)
    typer.echo(f"{out}: {settings.head}, validation mAP {fitted.mean_ap:.4f} after {fitted.steps:,} steps", err=True)


def read_config(path: Path | None, given: dict[str, Any]) -> TrainConfig:
    """Return the configuration in a YAML or JSON file, with what was given on the command line before it.

    Raises
    ------
    OptionError
        The file cannot be read or has something else in it.
    """
    import yaml

    from audioset.errors import OptionError
    from audioset.train.config import TrainConfig

    found: Any = {}
    if path is not None:
        try:
            found = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise OptionError(f"--config {path}: no such file; expected one with `name: value` lines") from error
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise OptionError(
                f"--config {path}: cannot be read as YAML ({error}); expected `name: value` lines"
            ) from error
        if not isinstance(found, dict):
            raise OptionError(f"--config {path}: holds a {type(found).__name__}; expected `name: value` lines")
        TrainConfig.of(found, f"--config {path}")
    return TrainConfig.of({**found, **given}, "options")


def _rank() -> int:
    """Which process of a job this is, as Lightning, torchrun or SLURM tells it; 0 for the first, and where it is alone.

    Each variable may be 0 for others than the first process: in a shell that SLURM gave, its own is 0 for all.
    """
    return max(int(os.environ.get(name, 0)) for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))


def _say(message: str) -> None:
    typer.echo(message, err=True)


@contextmanager
def _bar() -> Iterator[Progress | None]:
    """Give a function to report steps to: a bar on a terminal; in a pipe a line a validation."""
    if not sys.stderr.isatty():

        def tell(report: Report) -> None:
            if report.mean_ap is not None:
                best = f"best {report.best_mean_ap:.4f}"
                _say(f"step {report.step:,} of at most {report.num_steps:,}: mAP {report.mean_ap:.4f}, {best}")

        yield tell
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[talk]}"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bars:
        task = bars.add_task("training", total=None, talk="")
        loss = scored = ""

        def show(report: Report) -> None:
            nonlocal loss, scored
            loss = loss if report.loss is None else f"loss {report.loss:.4f}"
            if report.best_mean_ap is not None:
                last = "" if report.mean_ap is None else f", mAP {report.mean_ap:.4f}"
                scored = f"{last or scored.partition(', best')[0]}, best {report.best_mean_ap:.4f}"
            bars.update(task, completed=report.step, total=report.num_steps, talk=f"{loss}{scored}")

        yield show

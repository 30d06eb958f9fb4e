"""`audioset evaluate`: how good scores are, from a file of predictions or made on the spot by a head."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audioset.cli._common import interrupted_says

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import numpy.typing as npt

    from audioset.evaluate import Evaluation, PrecisionRecall, Predictions

_BATCH = 4096  # clips that go through the head between two reports


def evaluate(
    what: Annotated[
        str,
        typer.Argument(
            help="A head that `audioset train` wrote, a model that tags (a name, or a file that `audioset finetune` "
            "wrote), or a Parquet file of predictions (--predictions)."
        ),
    ],
    data: Annotated[
        str | None,
        typer.Argument(
            help="For a head: labelled features in any form that `audioset train` takes. For a model: labelled sounds, "
            "as `audioset finetune` takes them."
        ),
    ] = None,
    weights: Annotated[str | None, typer.Option("--weights", "-w", help="Weights of a model given by name.")] = None,
    test: Annotated[
        str | None, typer.Option("--test", help="Only sounds whose names match this pattern, such as `esc10/*/4-*`.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option("--labels", help="csv with the columns file and labels, for own features.")
    ] = None,
    propagate: Annotated[
        bool, typer.Option("--propagate", help="Give every clip the ancestors of its classes too, as in training.")
    ] = False,
    predictions: Annotated[
        Path | None, typer.Option("--predictions", help="Also write scores and labels to this Parquet file.")
    ] = None,
    report: Annotated[Path | None, typer.Option("--report", help="Also write this HTML page, with plots.")] = None,
    curve: Annotated[
        list[str] | None,
        typer.Option(
            "--curve",
            help="Class whose precision-recall curve the report draws; may be repeated.",
            show_default="the best, the middle and the worst",
        ),
    ] = None,
    quality: Annotated[
        str | None,
        typer.Option(
            "--quality",
            help="AudioSet's qa_true_counts.csv, or `fetched`: the report relates results to label quality.",
        ),
    ] = None,
    resamples: Annotated[
        int, typer.Option("--resamples", help="Of the clips, for the intervals; 0 gives none.")
    ] = 1000,
    seed: Annotated[int, typer.Option("--seed", help="Of the resamples.")] = 0,
    top: Annotated[int, typer.Option("--top", help="Best and worst classes to print; 0 prints none.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Write everything to standard output as JSON.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing outputs.")] = False,
) -> None:
    """Measure a classifier: mAP, AUC, d', lwlrap, GAP@20, Hit@1, PERR, each with a 95% interval by bootstrap.

    Classes without a positive clip are in no mean over classes; how many there are is said. Where every clip has one
    class there are also accuracy, macro F1 and a confusion matrix.

    Examples:

      audioset evaluate attention.safetensors eval.arrow --report attention.html

      audioset evaluate birds.safetensors birds.parquet --labels test.csv --predictions birds-scores.parquet

      audioset evaluate birds-scores.parquet --json | jq .metrics.map

      audioset evaluate mine.safetensors sounds/ --test 'sounds/\\*/held-out-\\*' --report mine.html
    """
    from audioset.errors import OptionError
    from audioset.evaluate import evaluate as measure
    from audioset.evaluate import read_predictions, write_report

    for path in (predictions, report):
        _check_output(path, overwrite)
    if resamples < 0 or top < 0:
        raise OptionError("--resamples and --top: below 0; expected 0 or more")
    if curve and report is None:
        raise OptionError("--curve: draws in the report, and none is written; expected --report too")
    if data is not None and _is_parquet(what):
        raise OptionError(
            f"{data}: {what} is predictions, which take no DATA; expected it alone, or a head or a model before DATA"
        )
    kind = "predictions" if data is None and not _is_model(what) else "a head" if _is_head(what) else "a model"
    _check_options(what, kind, {"--labels": labels, "--propagate": propagate}, {"--weights": weights, "--test": test})
    with interrupted_says("interrupted; no file was written"):
        if kind == "predictions":
            found = read_predictions(what)
        elif data is None:
            raise OptionError(
                f"{what}: {kind}, with nothing to measure it on; expected DATA behind it: labelled "
                + ("features" if kind == "a head" else "sounds")
            )
        elif kind == "a head":
            found = _predicted(what, data, labels, propagate=propagate)
        else:
            found = _tagged(what, weights, data, test)
        truth = found.targets
        if truth is None:
            raise OptionError(f"{what}: has scores and no labels; expected both. Predict on labelled clips")
        with _bar() as progress:
            evaluation = measure(
                found.scores,
                truth,
                found.classes,
                mask=found.mask,
                quality=None if quality is None else _qualities(quality, found.classes.mids),
                resamples=resamples,
                seed=seed,
                progress=progress,
            )
        if predictions is not None:
            _write_predictions(predictions, found)
        if report is not None:
            write_report(
                evaluation,
                report,
                title=f"Evaluation of {Path(what).name}",
                curves=_curves(found, truth, evaluation, curve),
                parameters={"evaluated": what, **({"data": data} if data else {}), **found.info},
            )
    if as_json:
        typer.echo(evaluation.to_json())
    else:
        _print(evaluation, top)
    for path in (predictions, report):
        if path is not None:
            typer.echo(f"→ {path}", err=True)


def _check_output(path: Path | None, overwrite: bool) -> None:
    from audioset.weights.content import check_output

    if path is not None:
        check_output(path, overwrite=overwrite)


def _check_options(what: str, kind: str, of_heads: dict[str, object], of_models: dict[str, object]) -> None:
    """Raise OptionError for what would change nothing."""
    from audioset.errors import OptionError

    others = {"a head": of_models, "a model": of_heads}.get(kind, {**of_heads, **of_models})
    given = [name for name, value in others.items() if value]
    if given:
        takes = {"a head": ", ".join(of_heads), "a model": ", ".join(of_models)}.get(kind, "none of them")
        raise OptionError(f"{', '.join(given)}: {what} is {kind}, which this does not concern; expected {takes}")


def _is_model(what: str) -> bool:
    """Return whether a name is that of a model or of a file of weights, and not of predictions."""
    from audioset import models
    from audioset.models import own

    return what in models.REGISTRY or own.is_own(what)


def _is_parquet(what: str) -> bool:
    """Return whether a name is that of a Parquet file, as predictions are, and not of a model."""
    from audioset import models

    if what in models.REGISTRY or not os.path.isfile(what):
        return False
    with Path(what).open("rb") as file:
        return file.read(4) == b"PAR1"


def _is_head(what: str) -> bool:
    """Return whether a name is that of a head's file, and not of a model."""
    from audioset import models
    from audioset.train.head_file import is_head

    there = os.path.isfile(what) or what.startswith(models.own.HUB)
    return what not in models.REGISTRY and there and is_head(what)


def _tagged(what: str, weights: str | None, data: str, test: str | None) -> Predictions:
    """Return what a model says of labelled sounds."""
    from audioset import embed, models
    from audioset.cli.models import downloading
    from audioset.evaluate.sounds import predict_sounds
    from audioset.weights import load

    spec = models.get(what)
    with downloading(what) as progress:
        model = embed.Model(spec, load(what, weights, progress=progress))
    with _bar() as show:
        found, said = predict_sounds(model, data, test=test, progress=show)
    for sentence in said:
        typer.echo(sentence, err=True)
    return found


def _predicted(what: str, data: str, labels: Path | None, *, propagate: bool) -> Predictions:
    """Return what a head says of labelled features."""
    import numpy as np

    from audioset._extras import check_installed

    check_installed(f"{what}: a head, to run it", "torch")

    from audioset.dataset.ontology import Ontology
    from audioset.evaluate import Predictions
    from audioset.train.batches import finite_frames, targets
    from audioset.train.head import Head
    from audioset.train.sources import open_clips

    head = Head.load(what)
    opened = open_clips(data, labels, head.classes, talk=lambda message: typer.echo(message, err=True))
    head.embedder.check(opened.embedder, data)
    clips = opened.clips
    if propagate:
        clips = clips.propagated(Ontology.load().ancestor_matrix(head.classes.mids, rule="unambiguous"))
    scores = np.empty((len(clips), len(head.classes)), np.float32)
    truth = np.empty(scores.shape, np.bool_)
    with _bar() as progress:
        for start in range(0, len(clips), _BATCH):
            places = np.arange(start, min(start + _BATCH, len(clips)))
            scores[places] = head.predict(*finite_frames(clips, places))
            truth[places] = targets(clips, places) > 0
            if progress is not None:
                progress(int(places[-1]) + 1, len(clips))
    ids = tuple(map(str, clips.dataset.video_ids))
    info = {"head": head.kind, "embedder": str(head.embedder), "training": json.dumps(dict(head.notes))}
    return Predictions(ids, scores, truth, None, head.classes, info)


def _write_predictions(path: Path, found: Predictions) -> None:
    from audioset.evaluate import PredictionBatch, write_predictions

    batch = PredictionBatch(found.ids, found.scores, found.targets, found.mask)
    write_predictions(path, found.classes, [batch], info=found.info)


def _qualities(source: str, mids: tuple[str, ...]) -> list[float]:
    from audioset.dataset.quality import read_quality

    table = read_quality(source)
    known = dict(zip(table["mid"].to_pylist(), table["quality"].to_pylist(), strict=True))
    return [float("nan") if known.get(mid) is None else float(known[mid]) for mid in mids]


def _curves(
    found: Predictions, truth: npt.NDArray[np.bool_], evaluation: Evaluation, wanted: list[str] | None
) -> dict[str, PrecisionRecall]:
    from audioset.evaluate import precision_recall

    if wanted:
        places = [found.classes.index(name) for name in wanted]
    else:
        ranked = _ranked(evaluation)
        places = [ranked[0], ranked[len(ranked) // 2], ranked[-1]] if ranked else []
    return {
        found.classes.names[place]: precision_recall(
            found.scores[:, place], truth[:, place], None if found.mask is None else found.mask[:, place]
        )
        for place in dict.fromkeys(places)
    }


def _ranked(evaluation: Evaluation) -> list[int]:
    """Columns with a positive, the best average precision first."""
    places = [place for place, of_class in enumerate(evaluation.classes) if of_class.positives]
    return sorted(places, key=lambda place: -evaluation.classes[place].average_precision)


def _print(evaluation: Evaluation, top: int) -> None:
    rows = evaluation.to_table()
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for name, value, interval in rows:
        typer.echo(f"{name.ljust(widths[0])}  {value.rjust(widths[1])}  {interval}".rstrip())
    typer.echo(f"\n{evaluation.num_clips:,} clips, {len(evaluation.classes):,} classes")
    if evaluation.num_undefined:
        typer.echo(f"{evaluation.num_undefined:,} classes without a positive clip are in no mean over classes")
    ranked = _ranked(evaluation)
    if top and len(ranked) > 1:
        shown = ranked if len(ranked) <= 2 * top else [*ranked[:top], -1, *ranked[-top:]]
        typer.echo("\n   AP  clips  class")
        for place in shown:
            of_class = evaluation.classes[place]
            typer.echo(
                "  ..." if place < 0 else f"{of_class.average_precision:5.3f}  {of_class.positives:5}  {of_class.name}"
            )


@contextmanager
def _bar() -> Iterator[Callable[[int, int], None] | None]:
    """Give a function to report to: a bar on a terminal, nothing in a pipe."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(file=sys.stderr), transient=True) as bars:
        task = bars.add_task("evaluating", total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)

"""`audioset embed -o FOLDER/`: jobs of any size, by one process, a share of it, or a Ray cluster."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audioset.cli._common import clock, interrupted_says, one_interrupt, progress_on, report_failures
from audioset.errors import AudioError, OptionError

if TYPE_CHECKING:
    from collections.abc import Callable

    from audioset.embed import Model
    from audioset.inputs import Inputs
    from audioset.jobs import Items, Progress, Recipe, Summary

DEFAULT_FOLDER = "embeddings/"

ManifestOption = Annotated[
    str | None,
    typer.Option(
        "--manifest",
        help="Table of what to embed, Parquet or CSV: `path`, and where wanted `start_s`, `end_s`, `id`, `size`.",
    ),
]
ShardOption = Annotated[
    str | None,
    typer.Option("--shard", help="I/N: do the I-th of N shares of the job, counted from 1; for job arrays."),
]
RayOption = Annotated[
    str | None,
    typer.Option("--ray", help="Run on Ray: `local`, `auto`, or the address of a cluster."),
]
ConcurrencyOption = Annotated[
    int | None, typer.Option("--concurrency", help="Workers on Ray.", show_default="as many as fit")
]
NumCpusOption = Annotated[float, typer.Option("--num-cpus", help="Cores of each worker on Ray.")]
NumGpusOption = Annotated[
    float, typer.Option("--num-gpus", help="Graphics processors of each worker on Ray; 0.5 for two workers on one.")
]
RetryOption = Annotated[
    bool, typer.Option("--retry-failed", help="Try the files again that failed; in a folder of parts.")
]


@dataclass(frozen=True)
class FolderOptions:
    """The options of `audioset embed` that are of folders of parts alone."""

    manifest: str | None = None
    shard: str | None = None
    ray: str | None = None
    concurrency: int | None = None
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    retry_failed: bool = False

    def given(self) -> str | None:
        """Return the first of them that was given, as users write it."""
        for name, default in asdict(type(self)()).items():
            if getattr(self, name) != default:
                return "--" + name.replace("_", "-")
        return None


def folder_of(out: str, default: str, options: FolderOptions, output_format: str | None) -> str | None:
    """Return the folder that a job goes to, or None where it goes to one file.

    Raises
    ------
    OptionError
        An option is only of folders, and `out` is a file.
    """
    from audioset.records.formats import FORMATS
    from audioset.storage import is_url

    given = options.given()
    if given is not None and out == default:
        return DEFAULT_FOLDER
    if not (out.endswith(("/", os.sep)) or os.path.isdir(out) or is_url(out)):
        if given is not None:
            raise OptionError(f"{given}: writes a folder of parts; found --out {out}, expected --out {Path(out).stem}/")
        return None
    if is_url(out) and Path(out).suffix.lower() in {
        ending for known in FORMATS.values() for ending in known.extensions
    }:
        raise OptionError(
            f"--out {out}: one file is written on local disks only; expected a folder, {out[: out.rfind('.')]}/"
        )
    if output_format not in (None, "parquet"):
        raise OptionError(f"--format {output_format}: a folder holds Parquet parts; expected parquet, or --out a file")
    for option, needed in (("concurrency", 0), ("num_cpus", 0), ("num_gpus", 0)):
        value = getattr(options, option)
        if value != getattr(FolderOptions(), option) and options.ray is None:
            raise OptionError(f"--{option.replace('_', '-')}: would not be used; expected --ray beside it")
        if value is not None and value < needed:
            raise OptionError(f"--{option.replace('_', '-')}: {value} is out of range; expected {needed} or more")
    if options.shard is not None and options.ray is not None:
        raise OptionError("--shard: Ray divides the work itself; expected one of --shard and --ray")
    return out


def embed_to_folder(
    folder: str,
    inputs: Inputs,
    recipe: Recipe,
    options: FolderOptions,
    prepare: Callable[[Recipe], Model],
    *,
    overwrite: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Run a job, or say what it will take, and report.

    `prepare` loads the model, saying on stderr what takes long.
    """
    from audioset import jobs
    from audioset.dataset.download.clips import parse_shard

    shard = (1, 1) if options.shard is None else parse_shard(options.shard)
    if overwrite and options.shard is not None:
        raise OptionError("--overwrite: shards would remove each other's parts; remove the folder before they start")
    if overwrite and options.retry_failed:
        raise OptionError("--retry-failed: --overwrite leaves nothing to try again; expected one of them")
    inputs = _nameable(inputs)
    items = _items(inputs, options.manifest, recipe)
    if not len(items) and inputs.missing:
        report_failures([str(error) for _, error in inputs.missing])
        raise typer.Exit(1)
    workers = options.concurrency or (shard[1] if options.ray is None else os.cpu_count() or 1)
    if dry_run:
        if options.ray is not None:
            recipe = replace(recipe, threads=max(1, int(options.num_cpus)))  # as each of its workers
        _dry_run(items, inputs, recipe, prepare, workers if options.ray else shard[1], as_json=as_json)
        return
    with interrupted_says("interrupted; finished parts are kept: the same command goes on"), one_interrupt():
        model: Model | None = None
        if options.ray is not None and options.num_gpus:
            from audioset.cluster import describe_on_ray

            # This machine may have no such processor: one that has says what it would do.
            info = describe_on_ray(recipe, address=options.ray, num_cpus=options.num_cpus, num_gpus=options.num_gpus)
        else:
            model = prepare(recipe)
            info = jobs.describe_model(model, recipe.options)
        output = jobs.begin(items, folder, info, workers=workers, overwrite=overwrite)
        plan = jobs.Plan(items, output, retry_failed=options.retry_failed)
        with _bar(plan.left(shard)) as show:
            if options.ray is None:
                assert model is not None  # noqa: S101 - only Ray does without
                summary = jobs.run_here(plan, model, recipe.options, shard=shard, on_progress=show)
            else:
                from audioset.cluster import run_on_ray

                model = None  # workers have their own
                summary = run_on_ray(
                    plan,
                    recipe,
                    address=options.ray,
                    concurrency=options.concurrency,
                    num_cpus=options.num_cpus,
                    num_gpus=options.num_gpus,
                    on_progress=show,
                )
    _report(summary, inputs, as_json=as_json)
    if inputs.missing or (summary.failures if shard == (1, 1) else summary.done_failures):
        raise typer.Exit(1)


def _items(inputs: Inputs, manifest: str | None, recipe: Recipe) -> Items:
    from audioset import jobs

    if manifest is None:
        return jobs.from_names(inputs.files, inputs.sizes)
    if inputs.files or inputs.missing:
        raise OptionError("--manifest: names all that is embedded; expected no other inputs beside it")
    items = jobs.read_manifest(manifest)
    if items.has_windows and (recipe.options.start_s or recipe.options.duration_s is not None):
        raise OptionError(f"--start, --duration: {manifest} has start_s and end_s; expected one or the other")
    return items


def _nameable(inputs: Inputs) -> Inputs:
    """Return the inputs with those that a job's table cannot name among the missing ones: they stop no others."""
    from audioset.records.info import storable

    files, missing = [], list(inputs.missing)
    for name in inputs.files:
        shown = storable(name)
        if shown == name:
            files.append(name)
        else:
            said = f"{shown}: this name is not valid Unicode, and a job's table holds no other; rename the file"
            missing.append((shown, AudioError(said)))
    return replace(inputs, files=tuple(files), missing=tuple(missing))


@contextmanager
def _bar(total: int) -> Iterator[Callable[[Progress], None] | None]:
    """Give a function that shows progress: a bar on a terminal, nothing in a pipe."""
    progress = progress_on(sys.stderr)
    if progress is None:
        yield None
        return
    began = time.perf_counter()
    with progress:
        task = progress.add_task("embedding", total=total, talk="")

        def show(now: Progress) -> None:
            rate = now.audio_s / max(time.perf_counter() - began, 1e-3)
            talk = f"{now.files:,} files, {clock(now.audio_s)} of audio, {rate:,.0f}× real time"
            progress.update(
                task, completed=now.items, talk=talk + (f", {now.failures:,} failed" if now.failures else "")
            )

        yield show


def _report(summary: Summary, inputs: Inputs, *, as_json: bool) -> None:
    reasons = [str(error) for _, error in inputs.missing] + [reason for _, reason in summary.reasons]
    report_failures(reasons, all_with="_errors.parquet" if summary.complete else "`audioset jobs status`")
    if as_json:
        found = asdict(summary)
        del found["reasons"]
        found["failed"] = [{"file": file, "reason": reason} for file, reason in summary.reasons]
        found["missing"] = [{"file": name, "reason": str(error)} for name, error in inputs.missing]
        typer.echo(json.dumps(found))
        return
    talk = f"{_count(summary.rows, 'embedding')} of {_count(summary.files, 'file')} → {summary.out}"
    if summary.done_audio_s:
        rate = summary.done_audio_s / max(summary.wall_s, 1e-3)
        talk += f" ({clock(summary.done_audio_s)} of audio in {summary.wall_s:.1f} s, {rate:,.0f}× real time)"
    elif summary.complete and not summary.done_failures:
        talk += " (already complete)"
    if summary.failures:
        talk += f"; {summary.failures:,} failed"
    if not summary.complete:
        talk += f"; {_count(summary.remaining_items, 'item')} left to other shards"
    typer.echo(talk, err=True)


def _dry_run(
    items: Items, inputs: Inputs, recipe: Recipe, prepare: Callable[[Recipe], Model], workers: int, *, as_json: bool
) -> None:
    from audioset import jobs, models

    spec = models.get(recipe.model)
    model = _model_at_hand(recipe, prepare)
    found = jobs.estimate(items, spec, recipe.options, model)
    wall_s = found.wall_s(workers)
    if as_json:
        typer.echo(json.dumps({**asdict(found), "workers": workers, "wall_s": wall_s}))
        return
    size = "unknown size" if found.num_bytes is None else f"{found.num_bytes / 1e9:,.2f} GB"
    typer.echo(f"inputs    {_count(found.items, 'item')}, {size}, about {clock(found.audio_s)} of audio")
    typer.echo(f"examples  about {found.rows:,}")
    typer.echo(f"output    about {found.out_bytes / 1e6:,.1f} MB")
    if wall_s is None:
        why = "the weights are not in the cache (`audioset models fetch`)" if model is None else "nothing could be read"
        typer.echo(f"time      not measured: {why}")
    else:
        at_once = "" if workers == 1 else f", on {workers} such processes at once"
        typer.echo(f"time      about {clock(wall_s)} at {found.rate:,.0f}× real time{at_once}")
    typer.echo(f"judged by {_count(found.sampled, 'item')}, of which {found.unreadable:,} cannot be read", err=True)
    report_failures([*(str(error) for _, error in inputs.missing), *found.reasons])
    if found.reasons or inputs.missing:
        raise typer.Exit(1)


def _model_at_hand(recipe: Recipe, prepare: Callable[[Recipe], Model]) -> Model | None:
    """The model, unless that would be a download."""
    from audioset.weights import ready

    if recipe.weights is None and not os.path.exists(recipe.model) and not ready(recipe.model):
        return None
    return prepare(recipe)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"

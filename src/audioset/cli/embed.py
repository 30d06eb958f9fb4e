"""`audioset embed`: audio files to embeddings in one file."""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audioset import storage
from audioset._runtime.base import resolve
from audioset.cli._common import (
    INTERRUPTED,
    Bar,
    PcmFormatOption,
    PcmOption,
    RawInput,
    check_not_an_input,
    clock,
    is_read_once,
    one_interrupt,
    progress_on,
    raw_input,
    report_failures,
    say_if_small,
    seconds_of,
    source_of,
)
from audioset.cli._jobs import (
    ConcurrencyOption,
    FolderOptions,
    ManifestOption,
    NumCpusOption,
    NumGpusOption,
    RayOption,
    RetryOption,
    ShardOption,
    embed_to_folder,
    folder_of,
)
from audioset.cli._place import (
    CPU,
    BatchOption,
    DeviceOption,
    EngineOption,
    PrecisionChoice,
    PrecisionOption,
    place_of,
    prepare,
)
from audioset.cli.models import downloading
from audioset.features import SAMPLE_RATE_HZ, num_examples
from audioset.inputs import STDIN, Inputs, expand
from audioset.records.info import reason_of

if TYPE_CHECKING:
    from audioset.audio import AudioSource
    from audioset.embed import EmbedOptions, Model
    from audioset.jobs import Recipe
    from audioset.models.spec import ModelSpec
    from audioset.records import JobSummary, JobWriter, StreamWriter

DEFAULT_OUT = "embeddings.parquet"


class PadChoice(str, Enum):
    """Policies of `audioset.features.Pad`."""

    short = "short"
    none = "none"
    all = "all"


class PoolChoice(str, Enum):
    """Of `audioset.embed.Pool`."""

    none = "none"
    mean = "mean"


class PostprocessChoice(str, Enum):
    """Of `audioset.embed.Postprocess`."""

    none = "none"
    pca = "pca"
    uint8 = "uint8"


def embed(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            help="Audio or video files, folders (searched recursively), patterns, tar or zip archives of recordings, "
            "URLs (s3://, gs://, hf://, https://) of any of them, or - for standard input."
        ),
    ] = None,
    out: Annotated[
        str,
        typer.Option(
            "--out",
            "-o",
            help="Output; its ending sets the format. - writes JSON lines to standard output. FOLDER/, or a URL, takes "
            "Parquet parts that many processes can write at once.",
        ),
    ] = DEFAULT_OUT,
    model: Annotated[str, typer.Option("--model", "-m", help="Model; `audioset models list` shows them.")] = "vggish",
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            "-w",
            help="Weights: a safetensors file, TensorFlow checkpoint or .pth; or untrained:SEED for a dry run of the "
            "machinery. By default the published ones, downloaded once.",
        ),
    ] = None,
    hop: Annotated[
        float | None,
        typer.Option("--hop", help="Seconds from one example to the next.", show_default="0.96 for vggish"),
    ] = None,
    pad: Annotated[
        PadChoice | None,
        typer.Option(
            "--pad",
            help="What does not fill an example of 0.975 s: `short` pads a clip shorter than one to one, `none` drops "
            "it (the original), `all` pads the tail of every clip too.",
            show_default="short for vggish",
        ),
    ] = None,
    pool: Annotated[
        PoolChoice, typer.Option("--pool", help="`mean`: one row a file, the mean of its examples.")
    ] = PoolChoice.none,
    postprocess: Annotated[
        PostprocessChoice,
        typer.Option("--postprocess", help="`pca`: PCA components; `uint8`: bytes as AudioSet releases them."),
    ] = PostprocessChoice.none,
    pca: Annotated[
        Path | None, typer.Option("--pca", help="PCA parameters (.npz).", show_default="the published ones")
    ] = None,
    start: Annotated[float, typer.Option("--start", help="Skip this many seconds of each file.")] = 0.0,
    duration: Annotated[
        float | None, typer.Option("--duration", help="Read at most this many seconds of each file.")
    ] = None,
    pcm: PcmOption = None,
    pcm_format: PcmFormatOption = None,
    channels: Annotated[
        int | None, typer.Option("--channels", help="Of raw samples; averaged.", show_default="1")
    ] = None,
    files_from: Annotated[
        list[str] | None,
        typer.Option("--files-from", help="Also embed the files named in this list, one a line; may be repeated."),
    ] = None,
    manifest: ManifestOption = None,
    shard: ShardOption = None,
    ray: RayOption = None,
    concurrency: ConcurrencyOption = None,
    num_cpus: NumCpusOption = 1.0,
    num_gpus: NumGpusOption = 0.0,
    retry_failed: RetryOption = False,
    output_format: Annotated[
        str | None,
        typer.Option(
            "--format", help="parquet, npz, npy, csv, jsonl or tfrecord.", show_default="by the ending of --out"
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", help="Cores to use.", show_default="all")] = None,
    batch: BatchOption = None,
    precision: PrecisionOption = PrecisionChoice.fp32,
    engine: EngineOption = None,
    device: DeviceOption = CPU,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted job; failed files are not retried.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Only print how many examples each file would give; of a folder of parts, what it takes."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on standard output.")] = False,
) -> None:
    """Turn any audio into embeddings.

    One row for each 0.96 s: file, start_s, end_s, embedding. A file that cannot be read is named at the end and does
    not stop the others. An interrupted job goes on with --resume; a finished output is kept unless --overwrite. A job
    into a folder of parts goes on by itself when the same command runs again.

    Examples:

      audioset embed street.wav -o street.parquet

      audioset embed recordings/ 'more/*.flac' -o all.parquet --pool mean

      audioset embed talk.mp4 -o talk.npz --hop 0.5 --start 60 --duration 30

      audioset embed --manifest songs.parquet -o s3://bucket/embeddings/ --shard 3/100

      ffmpeg -i https://… -f s16le -ac 1 -ar 16000 - | audioset embed - --pcm 16000 -o - > stream.jsonl
    """
    from audioset import models
    from audioset.embed import EmbedOptions, Model, check_cores
    from audioset.errors import OptionError
    from audioset.features import ShortClipWarning
    from audioset.jobs import Recipe, describe
    from audioset.postprocess import Pca
    from audioset.records import check_output, open_writer
    from audioset.weights import load, load_pca

    inputs = expand(paths or [], lists=files_from or [])
    if not inputs.files and not inputs.missing and manifest is None:
        raise OptionError("no input: expected files, folders or patterns. `audioset embed --help` has examples")
    if as_json and out == STDIN:
        raise OptionError("--json: standard output already takes the embeddings (--out -); write them to a file")
    spec = models.get(model)
    options = EmbedOptions(hop, None if pad is None else pad.value, start, duration, pool.value, postprocess.value)
    options.resolve(spec)
    if pca is not None and options.postprocess == "none":
        raise OptionError("--pca: would not be used; expected --postprocess pca or uint8 beside it")
    check_not_an_input(out, inputs.files)
    check_cores(threads, batch)
    place = place_of(precision, engine, device)
    raw = raw_input(pcm, pcm_format, channels, inputs)
    of_folders = FolderOptions(manifest, shard, ray, concurrency, num_cpus, num_gpus, retry_failed)
    folder = folder_of(out, DEFAULT_OUT, of_folders, output_format)
    if folder is not None:
        recipe = Recipe(
            model=model,
            weights=weights,
            options=options,
            precision=place.precision,
            engine=engine and engine.value,
            device=place.device,
            batch_size=batch,
            threads=threads,
            pca=None if pca is None else str(pca),
        )
        embed_to_folder(
            folder, inputs, recipe, of_folders, _prepared, overwrite=overwrite, dry_run=dry_run, as_json=as_json
        )
        return
    if dry_run:
        _dry_run(inputs, spec, options, as_json=as_json)
        return

    say_if_small(model)
    check_output(out, format=output_format, overwrite=overwrite, resume=resume)
    with downloading(model) as progress:
        found = load(model, weights, progress=progress)
        parameters = None if options.postprocess == "none" else Pca(*load_pca(pca, progress=progress))
    prepare(spec, found, place)
    info = describe(spec, found, place, options, parameters)
    summary: JobSummary | None = None
    job: _Job | None = None
    try:
        with open_writer(
            out, info, format=output_format, overwrite=overwrite, resume=resume, inputs=inputs.files
        ) as writer:
            job = _Job(writer, raw)
            if not writer.complete:
                with warnings.catch_warnings(), one_interrupt():
                    warnings.simplefilter("ignore", ShortClipWarning)  # counted in the summary
                    # Kept by no name, so that the network's memory is free again when the output is put together.
                    job.run(
                        Model(spec, found, threads=threads, batch_size=batch, pca=parameters, place=place),
                        inputs,
                        options,
                    )
            if job.num_files or writer.completed.difference(failure.file for failure in writer.failures):
                summary = writer.finish()
            else:
                writer.discard()
    except KeyboardInterrupt:
        kept = out != STDIN and job is not None and (job.num_files or job.writer.completed)
        typer.echo("interrupted; finished files are kept: go on with --resume" if kept else "interrupted", err=True)
        raise typer.Exit(INTERRUPTED) from None
    # Without a summary, nothing could be embedded or the reader of a pipe has seen enough.
    job.report(writer.finish() if summary is None and out == STDIN else summary, as_json=as_json)
    if summary is None or summary.failures:
        raise typer.Exit(1)


@dataclass
class _Job:
    """A job while it runs: what has been done so far."""

    writer: JobWriter | StreamWriter
    raw: RawInput | None
    num_files: int = 0
    audio_s: float = 0.0
    num_short: int = 0
    num_without_rows: int = 0
    began: float = field(default_factory=time.perf_counter)

    def run(self, model: Model, inputs: Inputs, options: EmbedOptions) -> None:
        for name, error in inputs.missing:
            if name not in self.writer.completed:
                self.writer.fail(name, str(error))
        files = [name for name in inputs.files if name not in self.writer.completed]
        progress = progress_on(sys.stderr)
        with progress or nullcontext():
            bar = Bar(progress, "embedding", files, options.start_s, options.duration_s)
            rows = files_done = 0
            names: deque[str] = deque()
            for block in model.embed_blocks(self._sources(files, names), options):
                name = names[0]
                rows += len(block.values)
                if block.error is not None:
                    self.writer.fail(name, reason_of(name, block.error))
                else:
                    self.writer.append(name, block.start_s, block.end_s, block.values, last=block.last)
                if block.last:
                    names.popleft()
                    self.num_files += block.error is None
                    self.audio_s += block.duration_s
                    self.num_short += block.padded_short
                    self.num_without_rows += rows == 0 and block.error is None
                    rows = 0
                rest_s = 0.0 if block.last or not len(block.end_s) else float(block.end_s[-1]) - options.start_s
                bar.update(files_done + block.last, self.audio_s + rest_s, len(self.writer.failures))
                files_done += block.last

    def _sources(self, files: list[str], names: deque[str]) -> Iterator[tuple[AudioSource, None]]:
        """Yield what to read, noting the name of each; an archive is as many as it holds."""
        for name, source in storage.sources(files, skip=self.writer.completed):
            names.append(name)
            yield (source_of(name, self.raw) if name == STDIN else source), None

    def report(self, summary: JobSummary | None, *, as_json: bool) -> None:
        """Say how it went; there is no summary where nothing could be embedded."""
        wall_s = time.perf_counter() - self.began
        failures = self.writer.failures
        report_failures([failure.reason for failure in failures])
        out = None if summary is None or summary.path is None else str(summary.path)
        files, rows, num_bytes = (summary.files, summary.rows, summary.num_bytes) if summary else (0, 0, 0)
        if as_json:
            found = {
                "out": out,
                "files": files,
                "rows": rows,
                "bytes": num_bytes,
                "audio_s": round(self.audio_s, 3),
                "wall_s": round(wall_s, 3),
                "padded_short": self.num_short,
                "without_rows": self.num_without_rows,
                "failures": [asdict(failure) for failure in failures],
            }
            typer.echo(json.dumps(found))
            return
        for count, what in (
            (self.num_short, "shorter than one example (0.975 s), zero-padded to one; --pad none would drop them"),
            (self.num_without_rows, "too short for an example under --pad none: no row"),
        ):
            if count:
                typer.echo(f"{count} {'clip' if count == 1 else 'clips'} {what}", err=True)
        where = "nothing written" if summary is None else out or "standard output"
        of_files = f"{files:,} {'file' if files == 1 else 'files'}"
        talk = f"{rows:,} {'embedding' if rows == 1 else 'embeddings'} of {of_files} → {where}"
        if self.audio_s:
            talk += f" ({clock(self.audio_s)} of audio in {wall_s:.1f} s, {self.audio_s / wall_s:.0f}× real time)"
        elif self.writer.complete:
            talk += " (already complete)"
        if failures:
            talk += f"; {len(failures):,} failed"
        typer.echo(talk, err=True)


def _prepared(recipe: Recipe) -> Model:
    """Load what a recipe says, saying on stderr what takes long."""
    from audioset import models
    from audioset.weights import load, load_pca

    say_if_small(recipe.model)
    with downloading(recipe.model) as progress:
        found = load(recipe.model, recipe.weights, progress=progress)
        if recipe.options.postprocess != "none":
            load_pca(recipe.pca, progress=progress)
    prepare(models.get(recipe.model), found, resolve(recipe.precision, recipe.engine, recipe.device))
    return recipe.load()


def _dry_run(inputs: Inputs, spec: ModelSpec, options: EmbedOptions, *, as_json: bool) -> None:
    hop_s, pad = options.resolve(spec)
    rows: list[_Expected] = []
    failures = [(name, str(error)) for name, error in inputs.missing]
    for name, seconds in _probe_all(inputs.files, options):
        if isinstance(seconds, Exception):
            failures.append((name, str(seconds)))
            continue
        count = None if seconds is None else num_examples(round(seconds * SAMPLE_RATE_HZ), hop_s=hop_s, pad=pad)
        rows.append(_Expected(name, seconds, count and min(count, 1) if options.pool == "mean" else count))
    if as_json:
        listed = [{"file": name, "reason": reason} for name, reason in failures]
        typer.echo(json.dumps({"files": [asdict(row) for row in rows], "failures": listed}))
    else:
        for row in rows:
            length = "unknown length" if row.duration_s is None else f"{row.duration_s:.3f} s"
            typer.echo(f"{row.file}\t{length}\t{'unknown' if row.rows is None else row.rows} rows")
        known_s = sum(row.duration_s or 0.0 for row in rows)
        known_rows = sum(row.rows or 0 for row in rows)
        size = known_rows * spec.embedding_dim * (1 if options.postprocess == "uint8" else 4)
        typer.echo(f"{len(rows):,} files, {clock(known_s)}, {known_rows:,} rows, about {size / 1e6:,.1f} MB of values")
        for _, reason in failures:
            typer.echo(f"failed: {reason}", err=True)
    if failures:
        raise typer.Exit(1)


@dataclass(frozen=True)
class _Expected:
    """What a file would give, as far as its container tells."""

    file: str
    duration_s: float | None
    rows: int | None


def _probe_all(files: tuple[str, ...], options: EmbedOptions) -> Iterator[tuple[str, float | Exception | None]]:
    from audioset.errors import AudioSetError

    for name in files:
        try:
            yield name, None if is_read_once(name) else seconds_of(name, options.start_s, options.duration_s)
        except AudioSetError as error:
            yield name, error

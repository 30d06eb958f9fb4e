"""`audioset fad`: Fréchet Audio Distance of recordings, or of embeddings of any kind, from a reference."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from audioset.cli._common import (
    Bar,
    check_not_an_input,
    interrupted_says,
    one_interrupt,
    progress_on,
    report_failures,
    say_if_small,
    write_columns,
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

if TYPE_CHECKING:
    from audioset._runtime import Place
    from audioset.fad import EmbeddingSource, FadInfinity, FileDistance, Statistics
    from audioset.fad.embedding import Embedder, Progress
    from audioset.records import Failure, JobInfo

MIN_EXAMPLES = 10  # as in `audioset.fad.per_file`
_SHOWN_FILES = 20


def fad(
    reference: Annotated[
        str | None,
        typer.Argument(
            help="What to measure from: a file, folder, pattern or archive of sound, or a URL (s3://, gs://, hf://, "
            "https://) of any of them; embeddings of `audioset embed` (Parquet, NPZ, a folder of parts) or of anything "
            "(.npy), or a pattern of these; or statistics (.npz with mu and sigma)."
        ),
    ] = None,
    evaluated: Annotated[
        list[str] | None, typer.Argument(metavar="[EVAL]...", help="What to measure, in any of these forms.")
    ] = None,
    model: Annotated[str, typer.Option("--model", "-m", help="Model; `audioset models list` shows them.")] = "vggish",
    weights: Annotated[
        str | None,
        typer.Option("--weights", "-w", help="Weights, as for `audioset embed`.", show_default="the published ones"),
    ] = None,
    hop: Annotated[
        float | None,
        typer.Option("--hop", help="Seconds from one example to the next.", show_default="0.96 for vggish"),
    ] = None,
    infinity: Annotated[
        bool,
        typer.Option(
            "--infinity",
            help="Also extrapolate to endless audio (FAD∞), which removes the bias of few: from samples without "
            "replacement, unlike fadtk (see --replacement).",
        ),
    ] = False,
    seed: Annotated[int, typer.Option("--seed", help="Of the samples of --infinity.")] = 0,
    replacement: Annotated[
        bool,
        typer.Option(
            "--replacement",
            help="Draw the samples of --infinity with replacement, the smallest of 500 examples, as fadtk does, to "
            "compare with its figures. The bias stays.",
        ),
    ] = False,
    per_file: Annotated[
        bool, typer.Option("--per-file", help="Also the distance of each file from the reference, the farthest first.")
    ] = False,
    min_examples: Annotated[
        int, typer.Option("--min-examples", help="Examples from which on a file has a distance of its own.")
    ] = MIN_EXAMPLES,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="With --per-file: write all files to this csv.")
    ] = None,
    stats: Annotated[
        Path | None,
        typer.Option("--stats", help="Save the reference's statistics (.npz), to give as REFERENCE from then on."),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option("--cache", help="Folder in which embeddings are kept.", show_default="the user's cache"),
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Keep no embeddings.")] = False,
    clear_cache: Annotated[bool, typer.Option("--clear-cache", help="Remove the embeddings that are kept.")] = False,
    threads: Annotated[int | None, typer.Option("--threads", help="Cores to use.", show_default="all")] = None,
    batch: BatchOption = None,
    precision: PrecisionOption = PrecisionChoice.fp32,
    engine: EngineOption = None,
    device: DeviceOption = CPU,
    as_json: Annotated[bool, typer.Option("--json", help="Write everything to standard output as JSON.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing outputs.")] = False,
) -> None:
    """Measure the Fréchet Audio Distance (FAD) of sounds from a reference: 0 is alike, lower is closer.

    Recordings are embedded once: the next run takes what has not changed from the cache, and a run that was stopped
    goes on when it is started again. Those of web servers (https://) and hf:// are embedded in each run. Statistics are
    gathered in float64, in bounded memory.

    Examples:

      audioset fad reference/ generated/

      audioset fad reference/ model-a/ model-b/ --infinity

      audioset fad reference/ s3://bucket/generated/ shards/0001.tar

      audioset fad reference/ --stats reference.npz

      audioset fad reference.npz 'generated/\\*.wav' --per-file -o distances.csv

      audioset fad theirs/embeddings/vggish.npy mine.npy --json | jq .evaluated[0].fad
    """
    from audioset.embed import check_cores
    from audioset.errors import AudioError, OptionError, RecordError
    from audioset.fad.distance import Gaussian
    from audioset.records import Failure
    from audioset.weights.content import check_output

    if clear_cache:
        if reference is not None or no_cache:
            raise OptionError("--clear-cache: is a run of its own; expected nothing else but --cache")
        _clear(cache)
        return
    if reference is None:
        raise OptionError("REFERENCE: missing; expected sounds, embeddings or statistics. --help has examples")
    if not evaluated and stats is None:
        raise OptionError("EVAL: missing; expected what to measure from the reference, or --stats to save that one")
    if out is not None and not per_file:
        raise OptionError("--out: takes the distances of files; expected --per-file beside it")
    if not evaluated and (infinity or per_file):
        raise OptionError("--infinity and --per-file: are of what is measured; expected EVAL")
    if replacement and not infinity:
        raise OptionError("--replacement: is of the samples of --infinity; expected that beside it")
    if cache is not None and no_cache:
        raise OptionError("--cache and --no-cache: exclude each other; expected one of them")
    if seed < 0:
        raise OptionError(f"--seed: {seed} is out of range; expected 0 or more")
    if min_examples < 2:
        raise OptionError(f"--min-examples: {min_examples} is out of range; expected 2 or more")
    check_cores(threads, batch)
    for path in (stats, out):
        if path is not None:
            check_output(path, overwrite=overwrite)
    place = place_of(precision, engine, device)
    what, unread = [_Given.read(reference, model)], []
    for argument in evaluated or ():
        try:
            what.append(_Given.read(argument, model))
        except (AudioError, RecordError) as error:
            unread.append(Failure(argument, str(error)))
    for path, option in ((stats, "--stats"), (out, "--out")):
        if path is not None:
            check_not_an_input(str(path), (file for given in what for file in given.files or (given.name,)), option)
    if evaluated and len(what) == 1 and stats is None:
        report_failures([failure.reason for failure in unread])
        raise typer.Exit(1)
    for given in what[1:]:
        if given.kind == "statistics" and (infinity or per_file):
            raise OptionError(f"{given.name}: statistics, for --infinity and --per-file expected embeddings or sounds")
    say = "interrupted; recordings that were embedded are kept: the same command goes on"
    with (
        interrupted_says("interrupted" if no_cache else say),
        one_interrupt(),
        _folder(cache, no_cache) as folder,
        warnings.catch_warnings(),
    ):
        run = _Run(model, weights, hop, place, threads, batch, folder)
        run.failures += unread
        if any(given.kind == "sound" for given in what):
            say_if_small(model)
        run.check(what)
        found = _Found(run.statistics(what[0]))
        Gaussian.of(found.reference)  # what is wrong with it is said before more is embedded, and once
        warnings.filterwarnings("ignore", f"{re.escape(found.reference.source)}: its covariance", UserWarning)
        if stats is not None:
            found.reference.save(stats, overwrite=overwrite)
        for given in what[1:]:
            try:
                found.add(
                    run,
                    given,
                    infinity=infinity,
                    seed=seed,
                    replacement=replacement,
                    per_file=per_file,
                    min_examples=min_examples,
                )
            except (AudioError, RecordError) as error:  # nothing of it can be read; others can
                run.failures.append(Failure(given.name, str(error)))
        if not found.evaluated:
            out = None
        if out is not None:
            _write_csv(out, found.evaluated)
    found.report(run, as_json=as_json, listing=per_file and out is None)
    for path in (stats, out):
        if path is not None:
            typer.echo(f"→ {path}", err=True)
    if run.failures:
        raise typer.Exit(1)


@dataclass(frozen=True)
class _Given:
    """What an argument stands for."""

    name: str
    kind: str  # "sound", "embeddings" or "statistics"
    files: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    source: EmbeddingSource | None = None
    statistics: Statistics | None = None

    @property
    def info(self) -> JobInfo | None:
        known = self.source or self.statistics
        return None if known is None else known.info

    @property
    def dim(self) -> int | None:
        known = self.source or self.statistics
        return None if known is None else known.dim

    @classmethod
    def read(cls, argument: str, model: str) -> _Given:
        from audioset.errors import AudioError, OptionError
        from audioset.fad import Statistics, open_embeddings
        from audioset.fad.sources import ENDINGS, kind_of, several_files
        from audioset.inputs import STDIN, expand
        from audioset.storage.names import is_archive, is_url

        if argument == STDIN:
            raise OptionError("-: standard input can be read only once; expected files, folders or patterns")
        if is_url(argument) and argument.endswith(ENDINGS):
            raise OptionError(
                f"{argument}: embeddings or statistics behind a URL; expected recordings there. Fetch it, and give the "
                "file"
            )
        kind = None if is_archive(argument) else kind_of(argument)
        if kind == "statistics":
            return cls(argument, kind, statistics=Statistics.load(argument, model=model))
        if kind is not None or several_files(argument):
            return cls(argument, "embeddings", source=open_embeddings(argument))
        inputs = expand([argument])
        if not inputs.files:
            raise AudioError("; ".join(str(error) for _, error in inputs.missing))
        return cls(argument, "sound", inputs.files, tuple(str(error) for _, error in inputs.missing))


class _Run:
    """Turns what was given into embeddings and statistics."""

    def __init__(
        self,
        model: str,
        weights: str | None,
        hop: float | None,
        place: Place,
        threads: int | None,
        batch: int | None,
        folder: Path,
    ) -> None:
        self.failures: list[Failure] = []
        self.reused: dict[str, int] = {}
        self._model, self._weights, self._hop, self._place = model, weights, hop, place
        self._threads, self._batch, self._folder = threads, batch, folder

    @cached_property
    def embedder(self) -> Embedder:
        """What embeds sounds; its network is loaded when there is something to embed."""
        from audioset import models
        from audioset.embed import Model
        from audioset.fad.embedding import Embedder, job_info
        from audioset.weights import load

        spec = models.get(self._model)
        with downloading(self._model) as progress:
            found = load(self._model, self._weights, progress=progress)
        prepared = prepare(spec, found, self._place)
        info = job_info(spec, found, self._place, self._hop, prepared.engine, prepared.int8_sha256)
        return Embedder(
            info,
            lambda: Model(spec, found, threads=self._threads, batch_size=self._batch, place=self._place),
            self._folder,
        )

    def check(self, what: Sequence[_Given]) -> None:
        """Refuse embedders and dimensions that differ before hours are spent on embedding."""
        from audioset.fad.distance import check_dims, check_embedders

        infos = [self.embedder.info if given.kind == "sound" else given.info for given in what]
        dims = [self.embedder.info.embedding_dim if given.dim is None else given.dim for given in what]
        for given, info, dim in zip(what[1:], infos[1:], dims[1:], strict=True):
            check_embedders(infos[0], info, what[0].name, given.name)
            check_dims(dims[0], dim, what[0].name, given.name)

    def source(self, given: _Given) -> EmbeddingSource:
        """Return the embeddings of sounds, embedding what the cache does not have; or those that were given."""
        from rich.markup import escape

        from audioset.fad.embedding import base_of
        from audioset.records import Failure

        if given.source is not None:
            return given.source
        self.failures += [Failure(given.name, reason) for reason in given.missing]
        progress = progress_on(sys.stderr)

        def watch(files: Sequence[str]) -> Progress:
            if progress is not None:
                progress.start()
            return Bar(progress, escape(given.name), files).update

        try:
            found = self.embedder.embed(
                given.name,
                given.files,
                base_of([given.name]),
                watch=watch,
                say=lambda message: typer.echo(message, err=True),
            )
        finally:
            if progress is not None:
                progress.stop()
        self.failures += found.failures
        self.reused.setdefault(given.name, found.reused)  # given twice, the second finds what the first embedded
        return found.source

    def statistics(self, given: _Given) -> Statistics:
        """Return the statistics of what was given."""
        from audioset.fad import statistics_of

        return given.statistics or statistics_of(self.source(given))


@dataclass
class _Evaluated:
    """What was found of one EVAL."""

    statistics: Statistics
    fad: float
    infinity: FadInfinity | None = None
    per_file: list[FileDistance] | None = None


@dataclass
class _Found:
    """All that was found."""

    reference: Statistics
    evaluated: list[_Evaluated] = field(default_factory=list)

    def add(
        self,
        run: _Run,
        given: _Given,
        *,
        infinity: bool,
        seed: int,
        replacement: bool,
        per_file: bool,
        min_examples: int,
    ) -> None:
        from audioset import fad
        from audioset.errors import OptionError
        from audioset.records import Failure

        source, statistics = None, given.statistics
        if statistics is None:
            source = run.source(given)
            statistics = fad.statistics_of(source)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", fad.SmallSampleWarning)  # said in the end
            one = _Evaluated(statistics, fad.frechet_distance(self.reference, statistics))
        if source is not None and infinity:
            try:
                one.infinity = fad.fad_infinity(self.reference, source, seed=seed, replacement=replacement)
            except OptionError as error:  # too few examples; what else was found of it, and of others, stands
                run.failures.append(Failure(given.name, str(error)))
        if source is not None and per_file:
            one.per_file = fad.per_file(self.reference, source, min_examples=min_examples)
        self.evaluated.append(one)

    def report(self, run: _Run, *, as_json: bool, listing: bool) -> None:
        """Write what was found to standard output, and what to know of it to stderr."""
        said = self._warnings()
        if as_json:
            typer.echo(json.dumps(self._to_json(run, said), ensure_ascii=False, indent=1))
        elif self.evaluated:
            write_columns(self._rows())
        report_failures([failure.reason for failure in dict.fromkeys(run.failures)])
        if as_json:
            return
        for one in self.evaluated if listing else ():
            _list_files(one)
        info = self._info()
        reused = run.reused.get(self.reference.source)
        typer.echo(
            f"reference: {_counted(self.reference)}" + (f", {reused:,} from the cache" if reused else ""), err=True
        )
        typer.echo(f"embedder: {_described(info)}", err=True)
        samples = next((one.infinity for one in self.evaluated if one.infinity is not None), None)
        if samples is not None:
            way = "with replacement, as fadtk" if samples.replacement else "without replacement"
            typer.echo(f"FAD∞: samples drawn {way}; seed {samples.seed}", err=True)
        for sentence in said:
            typer.echo(f"warning: {sentence}", err=True)

    def _info(self) -> JobInfo | None:
        known = (self.reference.info, *(one.statistics.info for one in self.evaluated))
        return next((info for info in known if info is not None), None)

    def _warnings(self) -> list[str]:
        from audioset.fad import small_sample

        every = [self.reference, *(one.statistics for one in self.evaluated)]
        found = [said for statistics in every if (said := small_sample(statistics)) is not None]
        if self._info() is not None:
            found += [
                f"{statistics.source}: does not say which model made it; taken to be the same"
                for statistics in every
                if statistics.info is None
            ]
        found += [
            f"{statistics.source}: does not say of how many examples it is; of few, the distance comes out too large"
            for statistics in every
            if statistics.count is None
        ]
        return list(dict.fromkeys(found))  # a side may be given twice

    def _rows(self) -> list[list[str]]:
        extrapolated = any(one.infinity is not None for one in self.evaluated)
        rows = [["EVAL", "FAD", *(("FAD∞", "R²") if extrapolated else ()), "EXAMPLES", "FILES"]]
        for one in self.evaluated:
            found = one.infinity
            more = (
                () if not extrapolated else ("-", "-") if found is None else (_number(found.value), f"{found.r2:.3f}")
            )
            counts = (one.statistics.count, one.statistics.files)
            known = ["-" if count is None else f"{count:,}" for count in counts]
            rows.append([one.statistics.source, _number(one.fad), *more, *known])
        return rows

    def _to_json(self, run: _Run, said: list[str]) -> dict[str, Any]:
        info = self._info()

        def of(statistics: Statistics) -> dict[str, Any]:
            return {
                "source": statistics.source,
                "examples": statistics.count,
                "files": statistics.files,
                "from_cache": run.reused.get(statistics.source),
            }

        return {
            "reference": of(self.reference),
            "evaluated": [
                {
                    **of(one.statistics),
                    "fad": one.fad,
                    "infinity": one.infinity and asdict(one.infinity),
                    "per_file": one.per_file and [asdict(distance) for distance in one.per_file],
                }
                for one in self.evaluated
            ],
            "embedder": info and asdict(info),
            "warnings": said,
            "failures": [asdict(failure) for failure in dict.fromkeys(run.failures)],
        }


def _list_files(one: _Evaluated) -> None:
    rows = [["FILE", "FAD", "EXAMPLES"]]
    found = one.per_file or []
    for distance in found[:_SHOWN_FILES]:
        value = "too few" if distance.distance is None else _number(distance.distance)
        rows.append([distance.file, value, f"{distance.count:,}"])
    typer.echo("")
    write_columns(rows)
    if len(found) > _SHOWN_FILES:
        typer.echo(f"… and {len(found) - _SHOWN_FILES:,} nearer; --out writes all of them", err=True)


def _write_csv(path: Path, evaluated: Sequence[_Evaluated]) -> None:
    from audioset._files import written_whole
    from audioset.records.info import storable

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["eval", "file", "fad", "examples"])
    for one in evaluated:
        for found in one.per_file or ():
            distance = "" if found.distance is None else repr(found.distance)
            writer.writerow([storable(one.statistics.source), storable(found.file), distance, found.count])
    with written_whole(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8", newline="")


def _clear(cache: Path | None) -> None:
    from audioset.fad import cache_folder, clear

    cleared = clear(cache)
    left = f"; {cleared.in_use} folders are in use and were left" if cleared.in_use else ""
    typer.echo(
        f"{cleared.files:,} files, {cleared.num_bytes / 1e6:,.1f} MB removed from {cache_folder(cache)}{left}", err=True
    )


@contextmanager
def _folder(cache: Path | None, no_cache: bool) -> Iterator[Path]:
    """The cache, which is one for this run alone where none is to be kept."""
    from audioset.fad import cache_folder

    if not no_cache:
        yield cache_folder(cache)
        return
    with tempfile.TemporaryDirectory(prefix="audioset-fad-") as folder:
        yield Path(folder)


def _counted(statistics: Statistics) -> str:
    if statistics.count is None:
        return f"{statistics.source}, of an unknown number of examples"
    files = (
        "" if statistics.files is None else f" of {statistics.files:,} {'file' if statistics.files == 1 else 'files'}"
    )
    return f"{statistics.source}, {statistics.count:,} examples{files}"


def _described(info: JobInfo | None) -> str:
    from audioset.fad.distance import describe

    return "unknown; taken to be the same" if info is None else describe(info)


def _number(value: float) -> str:
    """Six digits: beyond them results differ from machine to machine."""
    return f"{value:.6g}"

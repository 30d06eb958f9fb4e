"""One job of embedding many recordings, described once, whichever way it is run."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from audioset import _runtime
from audioset._runtime import Place
from audioset.embed import EmbedOptions, Model, load
from audioset.errors import OptionError
from audioset.features import ShortClipWarning
from audioset.jobs.items import Items
from audioset.jobs.locks import alone, check_idle, remove_left
from audioset.jobs.output import Output, PartDone, State, open_output
from audioset.jobs.tasks import Task, divide, size_for, tasks_of
from audioset.jobs.work import Progress, run_tasks
from audioset.models.spec import ModelSpec
from audioset.postprocess import Pca
from audioset.records.info import JobInfo
from audioset.storage import Folder
from audioset.weights import Weights

# By when a file that is being written without sign of life belongs to a process that was killed.
_ABANDONED_S = 3600.0
# Going round again is for what two runs at once may have done twice.
_MOST_ROUNDS = 3


@dataclass(frozen=True)
class Recipe:
    """What makes embeddings of sound: everything that a worker needs to begin, in a few bytes.

    Attributes
    ----------
    model, weights, precision, engine, device, batch_size, threads, pca
        As `audioset.load` takes them.
    options : EmbedOptions
        How recordings are cut, pooled and postprocessed.
    """

    model: str = "vggish"
    weights: str | None = None
    options: EmbedOptions = field(default_factory=EmbedOptions)
    precision: str = "fp32"
    engine: str | None = None
    device: str = "cpu"
    batch_size: int | None = None
    threads: int | None = None
    pca: str | None = None

    def load(self) -> Model:
        """Return the model; see `audioset.load` for what may be wrong."""
        return load(
            self.model,
            self.weights,
            threads=self.threads,
            batch_size=self.batch_size,
            pca=self.pca,
            precision=self.precision,
            engine=self.engine,
            device=self.device,
        )


def describe(spec: ModelSpec, weights: Weights, place: Place, options: EmbedOptions, pca: Pca | None) -> JobInfo:
    """Return what decides the values of a job that runs so; a network in 8 bits is made where there is none yet."""
    hop_s, pad = options.resolve(spec)
    int8_sha256 = None
    if place.precision == "int8":
        from audioset import int8

        int8_sha256 = int8.load(spec.of_format(weights.provenance.get("source_format")), weights).sha256
    return JobInfo(
        model=spec.name,
        weights_name=weights.name,
        weights_sha256=weights.sha256,
        embedding_dim=spec.embedding_dim,
        dtype="uint8" if options.postprocess == "uint8" else "float32",
        regime=options.regime,
        hop_s=hop_s,
        pad=pad,
        pool=options.pool,
        start_s=options.start_s,
        duration_s=options.duration_s,
        pca_sha256=None if pca is None else pca.sha256,
        precision=place.precision,
        int8_sha256=int8_sha256,
        engine=_runtime.choose(place),
        device=place.device,
    )


def describe_model(model: Model, options: EmbedOptions) -> JobInfo:
    """Return what decides the values of a job of this model."""
    pca = None if options.postprocess == "none" else model.pca
    return describe(model.spec, model.weights, model.place, options, pca)


@dataclass(frozen=True)
class Summary:
    """How a run of a job went.

    Attributes
    ----------
    out : str
        The folder.
    complete : bool
        Whether every item of the job is done, by this run or others.
    files, rows, audio_s, failures : int, int, float, int
        Over all that is in the output.
    done_files, done_failures, done_audio_s, wall_s : int, int, float, float
        By this run: files, failures, seconds of sound, seconds that it took.
    remaining_items : int
        Items that are not done, of all shards.
    reasons : tuple of (str, str)
        File and reason of each failure in the output.
    """

    out: str
    complete: bool
    files: int
    rows: int
    audio_s: float
    failures: int
    done_files: int
    done_failures: int
    done_audio_s: float
    wall_s: float
    remaining_items: int
    reasons: tuple[tuple[str, str], ...] = ()


class Plan:
    """What is left of a job in its output: its tasks, divided alike by every process that looks.

    Parameters
    ----------
    items : Items
        Of the whole job.
    output : Output
        Where it goes.
    retry_failed : bool
        Whether items that failed, or archives with members that failed, are tasks again. Once a plan: what fails again
        has failed.
    """

    def __init__(self, items: Items, output: Output, *, retry_failed: bool = False) -> None:
        self.items, self.output = items, output
        self._numbers = divide(items, output.size)
        self._retried: dict[str, int] = {}
        self.look()
        if retry_failed:
            wanted = set(self.state.failures)
            self._retried = {key: attempt + 1 for key, attempt in self.state.attempts.items() if key in wanted}

    def look(self) -> State:
        """Read again what is done."""
        self.state = self.output.state()
        return self.state

    def remaining(self) -> npt.NDArray[np.bool_]:
        """Return which items are still to be done, bool (n,)."""
        return self._not_in(
            [key for key, attempt in self.state.attempts.items() if attempt >= self._retried.get(key, 0)]
        )

    def left(self, shard: tuple[int, int] = (1, 1)) -> int:
        """Return how many items of a share are still to be done."""
        return int((self.remaining() & self._is_of(shard)).sum())

    def left_in_all(self, shard: tuple[int, int] = (1, 1)) -> int:
        """Return `left` of a share, and how many items of the others were never done.

        Whether those try again what failed is their affair: one that began later has other attempts in mind.
        """
        return self.left(shard) + int((self._not_in(list(self.state.attempts)) & ~self._is_of(shard)).sum())

    def tasks(self, shard: tuple[int, int] = (1, 1)) -> Iterator[Task]:
        """Yield the tasks that are left, of a share of them all."""
        remaining = self.remaining()
        keys = self.items.keys
        attempts = np.zeros(len(self.items), np.int64)
        if self._retried:
            attempts = np.array([self._retried.get(key, 0) for key in keys.to_pylist()], np.int64)
        for attempt in np.unique(attempts):
            wanted = remaining & (attempts == attempt)
            for task in tasks_of(self.items, self._numbers, wanted, shard=shard, attempt=int(attempt)):
                done = [self.state.members.get(item.key, ()) for item in task.items]
                yield Task(task.index, task.items, task.attempt, frozenset().union(*done))

    def _is_of(self, shard: tuple[int, int]) -> npt.NDArray[np.bool_]:
        index, count = shard
        return np.asarray(self._numbers % count == index - 1)

    def _not_in(self, done: list[str]) -> npt.NDArray[np.bool_]:
        import pyarrow as pa
        import pyarrow.compute as pc

        found = pc.is_in(self.items.keys, value_set=pa.array(done, self.items.keys.type))
        return ~np.asarray(found.to_numpy(zero_copy_only=False), bool)


def begin(items: Items, out: str, info: JobInfo, *, workers: int = 1, overwrite: bool = False) -> Output:
    """Begin a job in a folder or go on with it; parameters and errors as of `open_output`.

    `workers` is for how many processes at once tasks should be small enough, in a new job. Where one is at work in a
    local folder, nothing is overwritten: that is an OutputError.
    """
    if not len(items):
        raise OptionError("no input: expected recordings, archives of them, or a manifest with rows")
    folder = Folder.at(out)
    if overwrite and folder.is_local:
        check_idle(folder.name)
    return open_output(
        out, info, size_for(items, workers), with_ids=items.has_ids, num_items=len(items), overwrite=overwrite
    )


def run_here(
    plan: Plan,
    model: Model,
    options: EmbedOptions,
    *,
    shard: tuple[int, int] = (1, 1),
    on_progress: Callable[[Progress], None] | None = None,
) -> Summary:
    """Do what is left of a job, or of one share of it, in this process.

    Raises
    ------
    OutputError
        The output cannot be written, or another process is at work on it.
    """

    def work(tasks: Iterator[Task]) -> Iterator[PartDone]:
        return run_tasks(model, tasks, options, plan.output, on_progress=on_progress)

    with alone(plan.output, shard):
        return finish(plan, work, shard=shard)


def finish(
    plan: Plan, work: Callable[[Iterator[Task]], Iterator[PartDone]], *, shard: tuple[int, int] = (1, 1)
) -> Summary:
    """Give the tasks that are left to `work` until there are none, then write what says that all is done."""
    began = time.perf_counter()
    files = failures = 0
    audio_s = 0.0
    for _ in range(_MOST_ROUNDS):
        plan.look()
        if not plan.left(shard):
            break
        plan.output.unfinish()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ShortClipWarning)
            for part in work(plan.tasks(shard)):
                files += part.files
                failures += len(part.failures)
                audio_s += part.audio_s
    state = plan.look()
    remaining = plan.left_in_all(shard)
    totals = state.totals() if remaining else plan.output.finish(state)
    if not remaining:
        # Of a job in one share on a disk, nobody else writes.
        folder = plan.output.folder
        folder.sweep(0.0 if shard == (1, 1) and folder.is_local else _ABANDONED_S)
        if folder.is_local:
            remove_left(folder.name)
    return Summary(
        out=plan.output.name,
        complete=not remaining,
        files=totals["files"],
        rows=totals["rows"],
        audio_s=totals["audio_s"],
        failures=totals["failures"],
        done_files=files,
        done_failures=failures,
        done_audio_s=round(audio_s, 3),
        wall_s=round(time.perf_counter() - began, 3),
        remaining_items=remaining,
        reasons=tuple((failure.file, failure.reason) for listed in state.failures.values() for failure in listed),
    )

"""Tasks through a pool of processes on Ray."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audioset.cluster.orders import Order, Shipped, describe_here, fitted, to_table
from audioset.cluster.session import LOCAL, connected, hushed, is_here
from audioset.cluster.workers import PartWorker, result_of
from audioset.embed import available_cores
from audioset.errors import AudioSetError, OptionError
from audioset.jobs import PartDone, Plan, Progress, Recipe, Summary, Task, alone, finish
from audioset.records import JobInfo

if TYPE_CHECKING:
    from ray.data import Dataset

# Of one task, in a row: more says that it is the task, and not the machines.
_MAX_RETRIES = 10


def run_on_ray(
    plan: Plan,
    recipe: Recipe,
    *,
    address: str = LOCAL,
    concurrency: int | tuple[int, int] | None = None,
    num_cpus: float = 1,
    num_gpus: float = 0,
    on_progress: Callable[[Progress], None] | None = None,
) -> Summary:
    """Do what is left of a job on Ray, and return how it went.

    Parameters
    ----------
    plan : Plan
        The job. A local output is a folder that all machines share.
    recipe : Recipe
        The model, which each process loads once. Files of weights need be on this machine only.
    address : str
        "local" for the cores of this machine; "auto" or "HOST:6379" for the cluster that it is part of. Where this
        process uses Ray already, that cluster is used.
    concurrency : int or (int, int), optional
        Processes: how many, or how many at least and at most; by default as many as there is room for.
    num_cpus, num_gpus : float
        What each process needs of a machine; it has a thread for each core. A share of a graphics processor is one
        that processes share.
    on_progress : callable, optional
        Called after each part.

    Raises
    ------
    OptionError
        An option is out of range, no cluster answers, or a machine of it would give other values than the job's.
    OutputError
        The output cannot be written, or another process is at work on it.
    MissingExtraError
        Ray is not installed.
    """
    recipe = fitted(recipe, num_cpus, num_gpus)
    check_concurrency(concurrency)
    with connected(address), hushed(), alone(plan.output):

        def work(tasks: Iterator[Task]) -> Iterator[PartDone]:
            order = Order(recipe, plan.output.info, plan.output.with_ids, str(Path.cwd()))
            dataset = dataset_of(
                tasks, PartWorker, order, {"output": plan.output}, concurrency, num_cpus=num_cpus, num_gpus=num_gpus
            )
            return _parts(dataset, on_progress)

        return finish(plan, work)


def describe_on_ray(recipe: Recipe, *, address: str = LOCAL, num_cpus: float = 1, num_gpus: float = 0) -> JobInfo:
    """Return what decides the values of a job as it runs on a machine of the cluster.

    For clusters whose head lacks what the machines have: a graphics processor, or a library. Parameters and errors
    are those of `run_on_ray`.
    """
    recipe = fitted(recipe, num_cpus, num_gpus)
    with connected(address):
        return described(recipe, num_cpus=num_cpus, num_gpus=num_gpus)


def described(recipe: Recipe, *, num_cpus: float, num_gpus: float) -> JobInfo:
    """Return `describe_on_ray` of a recipe that is `fitted`, on Ray that is there; without it where that will do."""
    if not num_gpus:
        return describe_here(recipe)
    import ray

    _check_room(num_cpus, num_gpus)
    task = ray.remote(num_cpus=num_cpus, num_gpus=num_gpus)(_describe)
    try:
        found = ray.get(task.remote(recipe, _shipped(recipe)))
    except ray.exceptions.RayError as broken:
        raise _of_ray(broken) from broken
    if isinstance(found, AudioSetError):
        raise found
    return found


def dataset_of(
    tasks: Iterable[Task],
    worker: type,
    order: Order,
    arguments: dict[str, Any],
    concurrency: int | tuple[int, int] | None,
    *,
    num_cpus: float,
    num_gpus: float,
) -> Dataset:
    """Return what a pool of `worker` makes of the tasks, one block each, lazily; Ray is there."""
    import ray.data

    _check_room(num_cpus, num_gpus)
    tables = [to_table(task) for task in tasks]
    blocks = ray.data.from_arrow(tables)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
        return blocks.map_batches(
            worker,
            batch_size=1,  # a number where there are cards; blocks have one row anyway
            batch_format="pyarrow",
            compute=_pool(concurrency, len(tables), num_cpus, num_gpus),
            num_cpus=num_cpus,
            num_gpus=num_gpus or None,
            fn_constructor_kwargs={"order": order, "shipped": _shipped(order.recipe), **arguments},
            **_retries(blocks),
        )


def check_concurrency(concurrency: int | tuple[int, int] | None) -> None:
    """Raise OptionError for numbers of processes that make no sense."""
    if concurrency is None:
        return
    least, most = (concurrency, concurrency) if isinstance(concurrency, int) else concurrency
    if not 1 <= least <= most:
        raise OptionError(
            f"concurrency: {concurrency} is out of range; expected a number of processes, 1 or more, or the least and "
            "the most of them"
        )


def workers_of(concurrency: int | tuple[int, int] | None, num_cpus: float) -> int:
    """Return for how many processes tasks should be small enough."""
    if concurrency is not None:
        return concurrency if isinstance(concurrency, int) else concurrency[1]
    return max(1, int(_resources().get("CPU", 1) // max(num_cpus, 1)))


def _resources() -> dict[str, float]:
    import ray

    return dict(ray.cluster_resources())  # type: ignore[no-untyped-call]


def _pool(concurrency: int | tuple[int, int] | None, tasks: int, num_cpus: float, num_gpus: float) -> Any:
    from ray.data import ActorPoolStrategy

    if concurrency is None and is_here():
        # There will not be more room: all at once, instead of as they prove too few.
        rooms = [available_cores() / num_cpus] if num_cpus else []
        rooms += [_resources().get("GPU", 0) / num_gpus] if num_gpus else []
        concurrency = max(1, int(min(rooms)))
    least, most = (concurrency, concurrency) if isinstance(concurrency, int) else concurrency or (1, None)
    return ActorPoolStrategy(min_size=min(least, tasks), max_size=tasks if most is None else min(most, tasks))


def _retries(blocks: Dataset) -> dict[str, Any]:
    """How often a task is tried again whose process dies, where Ray takes a number: it would go on without end."""
    taken = inspect.signature(blocks.map_batches).parameters.values()
    return {"max_task_retries": _MAX_RETRIES} if any(one.kind is one.VAR_KEYWORD for one in taken) else {}


def _check_room(num_cpus: float, num_gpus: float) -> None:
    """Raise OptionError for processes that never fit; of a cluster that may grow, Ray says so while it waits."""
    if not is_here():
        return
    there = _resources()
    for option, kind, needed, what in (
        ("num_cpus", "CPU", num_cpus, "cores"),
        ("num_gpus", "GPU", num_gpus, "graphics processors"),
    ):
        if needed > there.get(kind, 0):
            raise OptionError(
                f"{option}: {needed:g} a process, and this machine has {there.get(kind, 0):g} {what}; expected no more"
            )


def _shipped(recipe: Recipe) -> Any:
    """What of the model has to travel, as a reference into Ray's object store; None where all is there."""
    if is_here():
        return None
    import ray

    shipped = Shipped.of(recipe)
    return ray.put(shipped) if shipped else None


def _parts(dataset: Dataset, on_progress: Callable[[Progress], None] | None) -> Iterator[PartDone]:
    import ray

    progress = Progress(0, 0, 0.0, 0)
    blocks: Any = iter(dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0))
    try:
        for block in blocks:
            for row in block.to_pylist():
                part, items = result_of(row)
                progress = Progress(
                    progress.files + part.files + len(part.failures),
                    progress.items + items,
                    progress.audio_s + part.audio_s,
                    progress.failures + len(part.failures),
                )
                yield part
                if on_progress is not None:
                    on_progress(progress)
    except ray.exceptions.RayError as error:
        raise _of_ray(error) from error
    finally:
        close = getattr(blocks, "close", None)
        if close is not None:
            close()


def _of_ray(error: Exception) -> AudioSetError:
    """What Ray met, in one sentence; what is a worker's own has come as a row."""
    said = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if any("No module named 'audioset" in line for line in said):
        return OptionError(
            "address: audioset is not installed on the machines of this cluster; expected it on all. See "
            "docs/how-to/ray.md: an image that has it, or a runtime environment"
        )
    return AudioSetError(
        f"Ray gave up ({type(error).__name__}: {said[-1]}); parts that are finished are kept. Start it again with the "
        "same options to go on"
    )


def _describe(recipe: Recipe, shipped: Shipped | None) -> JobInfo | AudioSetError:
    """On a machine of the cluster: what decides its values, or what is wrong."""
    from audioset.jobs import describe_model

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = (shipped or Shipped(None, None, None)).load(recipe)
        return describe_model(model, recipe.options)
    except AudioSetError as error:
        return error

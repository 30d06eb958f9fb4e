"""`embed_dataset`: recordings to embeddings as a data set of Ray's."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np

from audioset import inputs as names
from audioset.cluster.orders import Order, fitted
from audioset.cluster.running import check_concurrency, dataset_of, described, run_on_ray, workers_of
from audioset.cluster.session import connect
from audioset.cluster.workers import RowWorker
from audioset.embed import EmbedOptions, Pool, Postprocess
from audioset.errors import OptionError
from audioset.features import Pad
from audioset.jobs import Items, Plan, Recipe, begin, divide, from_names, read_manifest
from audioset.jobs.tasks import size_for, tasks_of
from audioset.storage import is_url
from audioset.storage.arrow import ArrowStorage
from audioset.storage.filesystems import storage_of
from audioset.storage.names import location

if TYPE_CHECKING:
    from ray.data import Dataset

Name: TypeAlias = "str | os.PathLike[str]"

_TABLES = (".parquet", ".pq", ".csv")


def embed_dataset(
    inputs: Name | Iterable[Name] | Items,
    out: Name | None = None,
    *,
    model: Name = "vggish",
    weights: Name | None = None,
    hop_s: float | None = None,
    pad: Pad | None = None,
    start_s: float = 0.0,
    duration_s: float | None = None,
    pool: Pool = "none",
    postprocess: Postprocess = "none",
    pca: Name | None = None,
    precision: str = "fp32",
    engine: str | None = None,
    device: str = "cpu",
    batch_size: int | None = None,
    address: str | None = None,
    concurrency: int | tuple[int, int] | None = None,
    num_cpus: float = 1,
    num_gpus: float = 0,
    retry_failed: bool = False,
) -> Dataset:
    """Return the embeddings of any number of recordings as a Ray Dataset, made by processes that hold the model.

    Parameters
    ----------
    inputs : str, path, iterable of them, or Items
        Files, folders, patterns and URLs, as `audioset embed` takes them; or one manifest, a Parquet or CSV table as
        `audioset.jobs.read_manifest` reads it.
    out : str or path, optional
        A folder or URL for Parquet parts. The work is done now, what is there already is not done again, and the data
        set reads the parts. Without, rows are made when they are asked for, and kept nowhere.
    model, weights, pca, precision, engine, device, batch_size
        See `audioset.load`. Files need be on this machine only. With `num_gpus`, the device is "cuda".
    hop_s, pad, start_s, duration_s, pool, postprocess
        See `EmbedOptions`.
    address : str, optional
        "local", "auto" or "HOST:6379"; by default the Ray that this process uses, or the cluster
        that `RAY_ADDRESS` names, or one of this machine's cores. It stays connected.
    concurrency, num_cpus, num_gpus
        See `run_on_ray`.
    retry_failed : bool
        With `out`: try the files again that failed.

    Returns
    -------
    ray.data.Dataset
        Columns `file`, `start_s`, `end_s`, `id` where the manifest has ids, and `embedding`, a list of fixed size.
        Without `out` also `error`: null, or why a file has no rows but this one, which has nothing else. With `out`,
        what failed is in the folder's `_errors.parquet`.

    Raises
    ------
    OptionError
        No input, an option out of range, or no cluster at the address.
    OutputError
        The folder cannot be written, or holds another job.
    MissingExtraError
        Ray is not installed.
    """
    check_concurrency(concurrency)
    items = _items(inputs)
    recipe = Recipe(
        model=os.fspath(model),
        weights=None if weights is None else os.fspath(weights),
        options=EmbedOptions(hop_s, pad, start_s, duration_s, pool, postprocess),
        precision=precision,
        engine=engine,
        device=device,
        batch_size=batch_size,
        pca=None if pca is None else os.fspath(pca),
    )
    recipe = fitted(recipe, num_cpus, num_gpus)
    connect(address)
    import ray.data

    info = described(recipe, num_cpus=num_cpus, num_gpus=num_gpus)
    workers = workers_of(concurrency, num_cpus)
    if out is not None:
        output = begin(items, os.fspath(out), info, workers=workers)
        plan = Plan(items, output, retry_failed=retry_failed)
        run_on_ray(plan, recipe, concurrency=concurrency, num_cpus=num_cpus, num_gpus=num_gpus)
        paths, filesystem = _where(output.name, output.folder.names("part-*.parquet"))
        return ray.data.read_parquet(paths, filesystem=filesystem)
    if retry_failed:
        raise OptionError("retry_failed: nothing is kept to try again; expected it with `out`")
    tasks = tasks_of(items, divide(items, size_for(items, workers)), np.ones(len(items), bool))
    order = Order(recipe, info, items.has_ids, str(Path.cwd()))
    return dataset_of(tasks, RowWorker, order, {}, concurrency, num_cpus=num_cpus, num_gpus=num_gpus)


def _items(inputs: Name | Iterable[Name] | Items) -> Items:
    if isinstance(inputs, Items):
        found = inputs
    elif isinstance(inputs, str | os.PathLike) and PurePath(inputs).suffix.lower() in _TABLES:
        found = read_manifest(inputs)
    else:
        listed = [inputs] if isinstance(inputs, str | os.PathLike) else list(inputs)
        expanded = names.expand([os.fspath(name) for name in listed])
        if expanded.missing:
            raise OptionError(str(expanded.missing[0][1]))
        found = from_names(expanded.files, expanded.sizes)
    if not len(found):
        raise OptionError("inputs: none; expected recordings, archives of them, or a manifest with rows")
    return found


def _where(folder: str, parts: list[str]) -> tuple[list[str], Any]:
    """Parts as Ray takes them: paths, and the file system that they are in."""
    if not is_url(folder):
        return [str(Path(folder, part).absolute()) for part in parts], None
    where = location(folder)
    return [f"{where.path}/{part}" for part in parts], cast(ArrowStorage, storage_of(where)).filesystem

"""What travels to the processes of a pool: tasks as Arrow tables, and the model where it is not there already."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from audioset import _runtime, models
from audioset._version import __version__
from audioset.embed import Model
from audioset.errors import OptionError
from audioset.jobs import Item, Recipe, Task, describe_model
from audioset.models import own
from audioset.models.spec import ModelSpec
from audioset.postprocess import Pca
from audioset.records import JobInfo
from audioset.weights import Weights, catalogue, load_pca, untrained
from audioset.weights import load as load_weights

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Shipped:
    """What of a model is in files of this machine alone, to be put into Ray's object store; None for what is not.

    Processes of one machine share the arrays there. That of the network is copied by the library that runs it.
    """

    spec: ModelSpec | None
    weights: Mapping[str, Any] | None
    pca: tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]] | None

    @classmethod
    def of(cls, recipe: Recipe) -> Shipped:
        """Read what has to travel; errors as of `audioset.load`."""
        own_model = not recipe.model.startswith(own.HUB) and own.is_own(recipe.model)
        spec = models.get(recipe.model) if own_model else None
        weights = None
        if _is_path(recipe.weights) or (own_model and recipe.weights is None):
            found = load_weights(recipe.model, recipe.weights)
            weights = {
                "model": found.model,
                "name": found.name,
                "tensors": dict(found.tensors),
                "sha256": found.sha256,
                "provenance": dict(found.provenance),
            }
        pca = load_pca(recipe.pca) if recipe.pca is not None and recipe.options.postprocess != "none" else None
        return cls(spec, weights, pca)

    def __bool__(self) -> bool:
        return any(part is not None for part in (self.spec, self.weights, self.pca))

    def load(self, recipe: Recipe) -> Model:
        """Return the model of a recipe, of what is here and, for the rest, of what is on this machine."""
        if self.weights is not None:
            tensors, provenance = (MappingProxyType(self.weights[name]) for name in ("tensors", "provenance"))
            weights = Weights(**{**self.weights, "tensors": tensors, "provenance": provenance})
        else:
            weights = load_weights(recipe.model, recipe.weights)
        return Model(
            models.get(recipe.model) if self.spec is None else self.spec,
            weights,
            threads=recipe.threads,
            batch_size=recipe.batch_size,
            pca=recipe.pca if self.pca is None else Pca(*self.pca),
            place=_runtime.resolve(recipe.precision, recipe.engine, recipe.device),
        )


@dataclass(frozen=True)
class Order:
    """What every process of a pool is told once.

    Attributes
    ----------
    recipe : Recipe
        The model, and the options.
    info : JobInfo
        What the values have to be.
    with_ids : bool
        Whether the items have ids.
    folder : str
        Where the job was begun: relative names count from there.
    version : str
        Of this package, there.
    """

    recipe: Recipe
    info: JobInfo
    with_ids: bool
    folder: str
    version: str = __version__

    def check(self, found: JobInfo, where: str) -> None:
        """Raise OptionError where a process would give other values than the job's."""
        if self.version != __version__:
            raise OptionError(
                f"{where}: has audioset {__version__}, the job was begun with {self.version}; expected the same on "
                "all machines. Install it there"
            )
        if differences := self.info.differences(found):
            raise OptionError(
                f"{where}: would give other values ({'; '.join(differences)}); expected the same weights, packages "
                "and options on all machines"
            )


def fitted(recipe: Recipe, num_cpus: float, num_gpus: float) -> Recipe:
    """Return a recipe as a process with so many cores and graphics processors follows it.

    It has a thread for each core, and the card that Ray gives it: "cuda" whichever that is.

    Raises
    ------
    OptionError
        The numbers make no sense, or do not fit the device.
    """
    if not (0 <= num_cpus < 10_000 and 0 <= num_gpus < 1000 and num_cpus + num_gpus > 0):
        raise OptionError(
            f"num_cpus, num_gpus: {num_cpus:g}, {num_gpus:g} are out of range; expected what each process needs, 0 or "
            "more of both and not 0 of both"
        )
    device = recipe.device.partition(":")[0]
    if num_gpus and device == "cpu":
        device = "cuda"
    if device == "cuda" and not num_gpus:
        raise OptionError(
            "num_gpus: 0 with device cuda; expected what each process needs of a card: 1, or less to share it"
        )
    return replace(recipe, device=device, threads=recipe.threads or max(1, int(num_cpus)))


def to_table(task: Task) -> pa.Table:
    """Return a task as one row."""
    import pyarrow as pa

    item = pa.struct([("file", pa.string()), ("start_s", pa.float64()), ("end_s", pa.float64()), ("id", pa.string())])
    columns = {
        "index": pa.array([task.index], pa.int64()),
        "attempt": pa.array([task.attempt], pa.int64()),
        "items": pa.array([[vars(item) for item in task.items]], pa.list_(item)),
        # Members of archives may be called anything.
        "skip": pa.array([[os.fsencode(member) for member in sorted(task.skip)]], pa.list_(pa.binary())),
    }
    return pa.table(columns)


def from_table(table: pa.Table) -> list[Task]:
    """Return the tasks of a table, the inverse of `to_table`."""
    return [
        Task(
            row["index"],
            tuple(Item(**item) for item in row["items"]),
            row["attempt"],
            frozenset(map(os.fsdecode, row["skip"])),
        )
        for row in table.to_pylist()
    ]


def describe_here(recipe: Recipe) -> JobInfo:
    """Return what decides the values of a job of this recipe, as it runs on this machine."""
    return describe_model(recipe.load(), recipe.options)


def _is_path(weights: str | None) -> bool:
    """Whether weights are named by a path, and not by what every machine knows."""
    return not (weights is None or weights.startswith((untrained.PREFIX, own.HUB)) or weights in catalogue()) and bool(
        Path(weights).name
    )

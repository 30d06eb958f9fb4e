"""What is measured: this package's models in every precision on every engine, and the implementations beside them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from audioset.errors import AudioSetError
from audioset.weights import load, save
from audioset.weights.untrained import PREFIX
from measure.protocol import NotAvailableError, Worker, reason

PRECISIONS = ("fp32", "bf16", "int8")
ENGINES = ("onnxruntime", "openvino", "torch")
BATCH = 32
COMPARED = "vggish"


@dataclass(frozen=True)
class Configuration:
    """A model of this package, with its precision and engine."""

    model: str
    weights: str | None
    precision: str
    engine: str

    @property
    def name(self) -> str:
        return f"{self.model} {self.precision} {self.engine}"

    @property
    def options(self) -> dict[str, str]:
        """What `audioset.load` is given beside model and weights; the engine by name, so that it chooses no other."""
        return {"precision": self.precision, "engine": self.engine}

    @property
    def arguments(self) -> list[str]:
        """The same for the command line."""
        weights = [] if self.weights is None else ["--weights", self.weights]
        chosen = [part for name, value in self.options.items() for part in (f"--{name}", value)]
        return ["--model", self.model, *weights, *chosen]

    def start(self, cores: int) -> Worker:
        """Return a worker that has loaded it."""
        worker = Worker("measure.workers.ours", cores=cores)
        return _loaded(worker, model=self.model, weights=self.weights, options=self.options)


@dataclass(frozen=True, eq=False)
class Other:
    """Another implementation, in an interpreter that the user named.

    Attributes
    ----------
    ways : mapping of str to mapping
        How it can be used, by title: options of "whole".
    agrees_with : {"embedding", "relu", None}
        What its embeddings are to agree with: this package's, or these without what is below zero.
    """

    name: str
    module: str
    interpreter: str
    options: Mapping[str, object]
    ways: Mapping[str, Mapping[str, object]] = field(default_factory=lambda: {"": {}})
    agrees_with: str | None = "embedding"

    def title(self, way: str) -> str:
        return f"{self.name}, {way}" if way else self.name

    def start(self, cores: int) -> Worker:
        return _loaded(Worker(self.module, cores=cores, interpreter=self.interpreter), **self.options)


def _loaded(worker: Worker, **options: object) -> Worker:
    try:
        worker.load(**options)
    except BaseException:
        worker.close()
        raise
    return worker


def configurations(
    models: Sequence[str], weights: Mapping[str, str], precisions: Sequence[str], engines: Sequence[str]
) -> list[Configuration]:
    """Return every combination, a model's together."""
    return [
        Configuration(model, weights.get(model), precision, engine)
        for model, precision, engine in product(models, precisions, engines)
    ]


def leading(available: Sequence[Configuration]) -> list[Configuration]:
    """Return the first engine of each model and precision: what is measured where measuring takes long."""
    first: dict[tuple[str, str], Configuration] = {}
    for each in available:
        first.setdefault((each.model, each.precision), each)
    return list(first.values())


def prepared_weights(given: Mapping[str, str], models: Sequence[str], folder: Path) -> dict[str, str]:
    """Return the weights to load; drawn ones as files, because drawing them is no part of anyone's job."""
    found = dict(given)
    for model in models:
        weights = given.get(model)
        if weights is not None and weights.startswith(PREFIX):
            path = folder / f"{model}.safetensors"
            save(_quietly_loaded(model, weights), path)
            found[model] = str(path)
    return found


def write_arrays(weights: str | None, path: Path) -> None:
    """Write the weights of VGGish as .npz, names and layouts as TensorFlow's, for the others to load."""
    try:
        tensors = _quietly_loaded(COMPARED, weights).tensors
    except AudioSetError as error:
        raise NotAvailableError(reason(error)) from error
    arrays: dict[str, Any] = {name.replace("/", "|"): tensor for name, tensor in tensors.items()}
    np.savez(path, **arrays)


def _quietly_loaded(model: str, weights: str | None) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of random weights: nobody looks at the values
        return load(model, weights)

"""The options that say where and how a network runs, and what is done before it can."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from audioset._runtime.base import CPU, Place, resolve
from audioset.cli._common import interrupted_says, progress_on

__all__ = [
    "CPU",
    "BatchOption",
    "DeviceOption",
    "EngineOption",
    "PrecisionChoice",
    "PrecisionOption",
    "Prepared",
    "counting",
    "place_of",
    "prepare",
]

if TYPE_CHECKING:
    from audioset.models.spec import ModelSpec
    from audioset.weights import Weights


class PrecisionChoice(str, Enum):
    """Of `audioset._runtime.Precision`."""

    fp32 = "fp32"
    bf16 = "bf16"
    int8 = "int8"


class EngineChoice(str, Enum):
    """Of `audioset._runtime.Engine`."""

    onnxruntime = "onnxruntime"
    openvino = "openvino"
    torch = "torch"


PrecisionOption = Annotated[
    PrecisionChoice,
    typer.Option(
        "--precision",
        help="Of the network's arithmetic: `int8` makes it three to four times as fast on processors, `bf16` twice "
        "where they have it; both differ a little (`audioset verify` measures it).",
    ),
]
EngineOption = Annotated[
    EngineChoice | None,
    typer.Option(
        "--engine",
        help="Library that runs the network; OpenVINO and PyTorch are installed apart.",
        show_default="the first installed that can",
    ),
]
BatchOption = Annotated[
    int | None,
    typer.Option(
        "--batch", help="Examples that go through the network at once.", show_default="32; 256 on a graphics processor"
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option("--device", help="cpu; cuda or cuda:1, a graphics processor; coreml, Apple's."),
]


@dataclass(frozen=True)
class Prepared:
    """What a network needs to run, all of it there.

    Attributes
    ----------
    engine : str
        The library that will run it.
    int8_sha256 : str or None
        Of the network in 8 bits, where it runs in those.
    """

    engine: str
    int8_sha256: str | None


def place_of(precision: PrecisionChoice, engine: EngineChoice | None, device: str) -> Place:
    """Check the three options, before anything is read."""
    return resolve(precision.value, engine and engine.value, device)


def prepare(spec: ModelSpec, weights: Weights, place: Place) -> Prepared:
    """Choose the library and, for 8 bits, make the network once, saying so on stderr."""
    from audioset import _runtime

    engine = _runtime.choose(place)
    if place.precision != "int8":
        return Prepared(engine, None)
    from audioset import int8

    spec = spec.of_format(weights.provenance.get("source_format"))
    ready = int8.find(spec, weights)
    if ready is None:
        typer.echo(f"making {spec.name} in 8 bits, once: some seconds", err=True)
        with interrupted_says("interrupted; nothing was made"), counting("calibrating") as show:
            ready = int8.load(spec, weights, progress=show)
    return Prepared(engine, ready.sha256)


@contextmanager
def counting(doing: str) -> Iterator[Callable[[int], None] | None]:
    """Give a function to report the number of examples that are done to: a line on a terminal, nothing in a pipe."""
    progress = progress_on(sys.stderr)
    if progress is None:
        yield None
        return
    with progress:
        task = progress.add_task(doing, total=None, talk="")
        yield lambda done: progress.update(task, talk=f"{done:,} examples of sound")

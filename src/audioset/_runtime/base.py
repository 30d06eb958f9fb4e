"""What the rest of the package sees of the libraries that run networks, and which of them does what."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeAlias, cast, get_args

import numpy as np
import numpy.typing as npt

from audioset.errors import OptionError

# ONNX Runtime reports to its makers and leaves an identity in the home folder (seen with 1.31), unless it was told not
# to before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

Precision: TypeAlias = Literal["fp32", "bf16", "int8"]
Engine: TypeAlias = Literal["onnxruntime", "openvino", "torch"]
Float32Array: TypeAlias = npt.NDArray[np.float32]

PRECISIONS: Final[tuple[Precision, ...]] = get_args(Precision)
ENGINES: Final[tuple[Engine, ...]] = get_args(Engine)
CPU: Final = "cpu"
_BATCH_SIZE: Final = 32
_GPU_BATCH_SIZE: Final = 256
# On a graphics processor: one computes while the other's examples travel.
_GPU_CALLS: Final = 2
_DEVICE: Final = re.compile(r"(cpu|coreml|cuda)(?::(\d{1,3}))?")

# What each library runs where; the order is that of preference where none is named.
_RUNS: Final[tuple[tuple[Engine, str, tuple[Precision, ...]], ...]] = (
    ("onnxruntime", CPU, ("fp32", "int8")),
    ("openvino", CPU, ("fp32", "bf16", "int8")),
    ("torch", CPU, ("fp32", "bf16")),
    ("onnxruntime", "cuda", ("fp32",)),
    ("torch", "cuda", ("fp32", "bf16")),
    ("onnxruntime", "coreml", ("fp32",)),
)


class Runtime(Protocol):
    """A network with its weights in some library, ready to run; several threads may call `run` at once."""

    def run(self, batch: Float32Array, outputs: Sequence[str]) -> list[Float32Array]:
        """Return the named outputs (n, width) of a batch of one or more examples, C-contiguous (n, 96, 64)."""
        ...


@dataclass(frozen=True)
class Place:
    """Where and how a network runs.

    Attributes
    ----------
    precision : {"fp32", "bf16", "int8"}
        Of the arithmetic; results are float32 in any case.
    engines : tuple of {"onnxruntime", "openvino", "torch"}
        Libraries that can, the preferred one first; one alone where it was named.
    kind : {"cpu", "cuda", "coreml"}
        The kind of device.
    index : int
        Which of several, from 0.
    """

    precision: Precision
    engines: tuple[Engine, ...]
    kind: str
    index: int

    @property
    def batch_size(self) -> int:
        """Examples that are best run at once."""
        return _BATCH_SIZE if self.kind == CPU else _GPU_BATCH_SIZE

    def calls(self, threads: int) -> int:
        """Return how many calls of the network at once make the best of this many threads."""
        return threads if self.kind == CPU else _GPU_CALLS

    def workers(self, threads: int) -> int:
        """Return how many workers keep this many threads busy: those that wait for a graphics processor use none."""
        return threads if self.kind == CPU else threads + _GPU_CALLS

    @property
    def device(self) -> str:
        """The device as users write it."""
        return self.kind if self.kind != "cuda" else f"cuda:{self.index}"


def resolve(precision: str = "fp32", engine: str | None = None, device: str = CPU) -> Place:
    """Check where and how a network is to run, without loading any library.

    Raises
    ------
    OptionError
        One of the three is unknown, or no library does all three together.
    """
    for name, value, known in (("precision", precision, PRECISIONS), ("engine", engine, (None, *ENGINES))):
        if value not in known:
            listed = ", ".join(filter(None, known))
            raise OptionError(f"{name}: {value!r} is unknown; expected one of {listed}")
    named = _DEVICE.fullmatch(device)
    if named is None or (named[1] != "cuda" and named[2]):
        raise OptionError(f"device: {device!r} is unknown; expected cpu, cuda, cuda:1 (the second card) or coreml")
    kind = named[1]
    fitting = [(library, runs) for library, place, runs in _RUNS if place == kind]
    engines = tuple(library for library, runs in fitting if precision in runs and engine in (None, library))
    if not engines:
        possible = "; ".join(f"{library}: {', '.join(runs)}" for library, runs in fitting)
        by = f" by {engine}" if engine else ""
        raise OptionError(f"precision: {precision} is not to be had{by} on {kind}; expected one of ({possible})")
    return Place(cast(Precision, precision), engines, kind, int(named[2] or 0))

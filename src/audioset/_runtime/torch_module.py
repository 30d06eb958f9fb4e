"""Networks in PyTorch: on a graphics processor, or on the processor where PyTorch is what is there."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from audioset._runtime.base import Float32Array, Place
from audioset.errors import OptionError
from audioset.models.spec import ModelSpec
from audioset.torch.networks import Network
from audioset.weights import Weights


class TorchModule:
    """One network as a module of `audioset.torch`.

    In bf16 weights and everything between layers are bf16. Measured with VGGish on a processor, that is twice as fast
    as autocast, and agrees with float32 as well.

    Parameters
    ----------
    spec : ModelSpec
        Layers and names of outputs.
    weights : Weights
        Its tensors.
    place : Place
        Precision and device.
    threads : int
        Threads that one call of `run` uses on a processor. PyTorch's setting of their number belongs to each thread
        that calls it, and to all that are begun later, so `run` puts it back.

    Notes
    -----
    On a card, each calling thread has a stream of its own, so that one batch travels while another is computed. TF32
    is off while a call runs, in the whole process, as PyTorch has one setting; the last call puts it back.
    """

    def __init__(self, spec: ModelSpec, weights: Weights, place: Place, *, threads: int = 1) -> None:
        self._device = torch.device(place.device)
        self._dtype = torch.bfloat16 if place.precision == "bf16" else torch.float32
        self._threads = threads
        self._mine = threading.local()
        module: Any = Network.from_spec(spec, weights).eval().requires_grad_(False)
        self._module = module.to(self._device, self._dtype, memory_format=torch.channels_last)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # other streams read the weights

    def run(self, batch: Float32Array, outputs: Sequence[str]) -> list[Float32Array]:
        """Return the named outputs of a batch."""
        with ExitStack() as settings:
            settings.enter_context(torch.inference_mode())
            examples = torch.from_numpy(np.require(batch, requirements="W"))  # it warns of what may only be read
            if self._device.type == "cuda":
                settings.enter_context(_tf32_off())
                settings.enter_context(torch.cuda.stream(self._stream()))
                examples = examples.pin_memory()
            else:
                settings.enter_context(_THREADS.set_to(self._threads))
            try:
                return [found.float().cpu().numpy() for found in self._outputs(examples, outputs)]
            except torch.cuda.OutOfMemoryError as error:
                raise OptionError(
                    f"batch_size: {len(batch)} examples at once do not fit into the memory of {self._device} "
                    f"({str(error).partition('.')[0]}); expected fewer. Take half of them (`--batch`)"
                ) from error

    def _outputs(self, examples: Tensor, outputs: Sequence[str]) -> list[Tensor]:
        examples = examples.to(self._device, non_blocking=True).to(self._dtype).unsqueeze(1)
        found = self._module(examples.contiguous(memory_format=torch.channels_last))
        return [getattr(found, name) for name in outputs]

    def _stream(self) -> Any:
        """The stream of the calling thread."""
        if not hasattr(self._mine, "stream"):
            self._mine.stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        return self._mine.stream


class _Threads:
    """The number of threads that PyTorch uses in a thread that calls it.

    The first look at it in a thread takes what was set last anywhere, even over what was set in that thread before. So
    each call looks before it sets, and what to put back is what the first of several calls at once found.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls = 0
        self._before = 1

    @contextmanager
    def set_to(self, count: int) -> Iterator[None]:
        with self._lock:
            found = torch.get_num_threads()
            if not self._calls:
                self._before = found
            self._calls += 1
            torch.set_num_threads(count)
        try:
            yield
        finally:
            with self._lock:
                self._calls -= 1
                torch.set_num_threads(self._before)


class _Held:
    """Attributes that have one value for the whole process, set while any call runs and put back by the last."""

    def __init__(self, *settings: tuple[Any, str, Any]) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._calls = 0
        self._before: list[Any] = []

    def __enter__(self) -> None:
        with self._lock:
            if not self._calls:
                self._before = [getattr(holder, name) for holder, name, _ in self._settings]
                for holder, name, value in self._settings:
                    setattr(holder, name, value)
            self._calls += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._calls -= 1
            if not self._calls:
                for (holder, name, _), value in zip(self._settings, self._before, strict=True):
                    setattr(holder, name, value)


_THREADS = _Threads()


@cache
def _tf32_off() -> _Held:
    """Products of float32 in float32: TF32 keeps 10 bits of each factor, and PyTorch convolves so by default."""
    convolutions: Any = torch.backends.cudnn
    matrices: Any = torch.backends.cuda.matmul
    if hasattr(matrices, "fp32_precision"):  # from PyTorch 2.9 on, where setting the older names can be an error
        return _Held((convolutions.conv, "fp32_precision", "ieee"), (matrices, "fp32_precision", "ieee"))
    return _Held((convolutions, "allow_tf32", False), (matrices, "allow_tf32", False))

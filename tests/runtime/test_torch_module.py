"""What PyTorch has one of for the whole process is put back after each call."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from tests.test_network import SMALL, drawn, weights_of

from audioset import _runtime
from audioset._runtime import torch_module
from audioset.errors import OptionError
from audioset.network import Network


def network(rng: np.random.Generator, precision: str = "fp32") -> Network:
    return Network(SMALL, weights_of(SMALL, drawn(SMALL, rng)), place=_runtime.resolve(precision, "torch"))


@pytest.fixture
def three_threads() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_the_number_of_threads_is_one_within_a_call_and_as_before_after_it(
    three_threads: None, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    forward = torch_module.Network.forward

    def watched(self: torch_module.Network, examples: torch.Tensor) -> object:
        seen.append(torch.get_num_threads())
        return forward(self, examples)

    monkeypatch.setattr(torch_module.Network, "forward", watched)
    opened = network(rng)
    batch = np.zeros((2, 96, 64), np.float32)
    afterwards: list[int] = []

    def work() -> None:
        for _ in range(10):
            opened.run(batch)
        afterwards.append(torch.get_num_threads())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert seen == [1] * 40
    assert afterwards == [3] * 4
    assert torch.get_num_threads() == 3
    new: list[int] = []
    begun = threading.Thread(target=lambda: new.append(torch.get_num_threads()))
    begun.start()
    begun.join()
    assert new == [3]


def test_a_call_that_ends_in_another_thread_does_not_change_the_number_of_threads(three_threads: None) -> None:
    begun, ended = threading.Event(), threading.Event()
    seen: list[int] = []

    def work() -> None:
        with torch_module._THREADS.set_to(1):
            begun.set()
            assert ended.wait(60)
            seen.append(torch.get_num_threads())

    with torch_module._THREADS.set_to(1):
        thread = threading.Thread(target=work)
        thread.start()
        assert begun.wait(60)
    ended.set()
    thread.join(60)
    assert seen == [1]


def test_a_network_gives_no_gradients_and_needs_none(rng: np.random.Generator) -> None:
    opened = network(rng)
    assert not any(parameter.requires_grad for parameter in opened._runtime._module.parameters())  # type: ignore[attr-defined]
    with torch.enable_grad():
        assert isinstance(opened.run(np.zeros((1, 96, 64)))["embedding"], np.ndarray)


def test_weights_and_what_is_between_layers_are_bf16(rng: np.random.Generator) -> None:
    module = network(rng, "bf16")._runtime._module  # type: ignore[attr-defined]
    assert {parameter.dtype for parameter in module.parameters()} == {torch.bfloat16}


def test_tf32_is_off_while_any_call_runs_and_back_after_the_last() -> None:
    backends = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)

    def now() -> tuple[str, ...]:
        return tuple(backend.fp32_precision for backend in backends)

    before = now()
    held = torch_module._tf32_off()
    with held:
        with held:
            assert now() == ("ieee", "ieee")
        assert now() == ("ieee", "ieee")
    assert now() == before
    with pytest.raises(RuntimeError, match="fault"), held:
        raise RuntimeError("fault")
    assert now() == before


def test_a_batch_that_does_not_fit_says_to_take_fewer(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = network(rng)

    def full(self: object, examples: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(torch_module.Network, "forward", full)
    with pytest.raises(
        OptionError,
        match=r"batch_size: 3 examples at once do not fit .*\(CUDA out of memory\); expected fewer\. Take half",
    ):
        opened.run(np.zeros((3, 96, 64)))

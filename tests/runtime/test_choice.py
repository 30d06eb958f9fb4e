"""Which library runs a network, and what is said where none can."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import audioset
from audioset import _runtime
from audioset._extras import check_installed
from audioset.errors import MissingExtraError, OptionError
from audioset.models.spec import ModelSpec
from audioset.weights import UntrainedWeightsWarning

CPU_ALONE = ["AzureExecutionProvider", "CPUExecutionProvider"]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The optional libraries that seem to be installed: none, until the test adds some."""
    present: set[str] = set()
    find = importlib.util.find_spec

    def seeming(name: str, package: str | None = None) -> Any:
        return None if name in {"openvino", "torch"} - present else find("sys" if name in present else name, package)

    monkeypatch.setattr(importlib.util, "find_spec", seeming)
    return present


@pytest.fixture
def providers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The providers that ONNX Runtime seems to offer."""
    import onnxruntime

    offered = list(CPU_ALONE)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: offered)
    return offered


def seem_to_have_cards(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    cuda = SimpleNamespace(is_available=lambda: count > 0, device_count=lambda: count)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda, __version__="9.9"))


def test_onnxruntime_is_the_default_and_nothing_else_is_loaded(
    installed: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    installed |= {"openvino", "torch"}
    for name in installed:
        monkeypatch.setitem(sys.modules, name, None)  # importing it fails
    assert _runtime.choose(_runtime.resolve()) == "onnxruntime"
    assert _runtime.choose(_runtime.resolve("int8")) == "onnxruntime"
    assert _runtime.choose(_runtime.resolve("bf16")) == "openvino"


def test_bf16_on_a_processor_takes_what_is_installed(installed: set[str]) -> None:
    with pytest.raises(MissingExtraError, match=r"precision bf16: OpenVINO is not installed; .*`pip install openvino`"):
        _runtime.choose(_runtime.resolve("bf16"))
    installed.add("torch")
    assert _runtime.choose(_runtime.resolve("bf16")) == "torch"
    installed.add("openvino")
    assert _runtime.choose(_runtime.resolve("bf16")) == "openvino"


@pytest.mark.parametrize(("engine", "called"), [("openvino", "OpenVINO"), ("torch", "PyTorch")])
def test_an_engine_that_is_not_installed_is_named(engine: str, called: str, installed: set[str]) -> None:
    with pytest.raises(
        MissingExtraError, match=rf"engine {engine}: {called} is not installed; expected it.*pip install {engine}"
    ):
        _runtime.choose(_runtime.resolve(engine=engine))


def test_a_card_is_used_by_onnxruntime_first(
    installed: set[str], providers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    installed.add("torch")
    seem_to_have_cards(monkeypatch, 2)
    assert _runtime.choose(_runtime.resolve(device="cuda:1")) == "torch"
    providers.insert(0, "CUDAExecutionProvider")
    assert _runtime.choose(_runtime.resolve(device="cuda:1")) == "onnxruntime"
    assert _runtime.choose(_runtime.resolve("bf16", device="cuda:1")) == "torch"
    assert _runtime.choose(_runtime.resolve(engine="torch", device="cuda")) == "torch"


def test_without_a_card_the_message_says_what_was_found_and_what_to_install(
    installed: set[str], providers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        OptionError,
        match=r"device: cuda:0 cannot be used \(ONNX Runtime offers AzureExecutionProvider, CPUExecutionProvider\); "
        r"expected an NVIDIA card and onnxruntime-gpu \(`pip install` it in place of onnxruntime\) or PyTorch for CUDA",
    ):
        _runtime.choose(_runtime.resolve(device="cuda"))
    installed.add("torch")
    seem_to_have_cards(monkeypatch, 0)
    with pytest.raises(OptionError, match=r"CPUExecutionProvider; PyTorch 9\.9 finds no card\)"):
        _runtime.choose(_runtime.resolve(device="cuda"))
    with pytest.raises(OptionError, match=r"\(PyTorch 9\.9 finds no card\); expected an NVIDIA card and PyTorch for"):
        _runtime.choose(_runtime.resolve("bf16", device="cuda"))


def test_a_card_beyond_those_that_are_there_is_refused(
    installed: set[str], providers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    installed.add("torch")
    seem_to_have_cards(monkeypatch, 2)
    with pytest.raises(OptionError, match=r"device: cuda:2 cannot be used .*PyTorch 9\.9 finds 2 cards"):
        _runtime.choose(_runtime.resolve(device="cuda:2"))


def test_coreml_is_a_mac_s(providers: list[str]) -> None:
    place = _runtime.resolve(device="coreml")
    with pytest.raises(OptionError, match=r"device: coreml cannot be used .*; expected a Mac and the onnxruntime"):
        _runtime.choose(place)
    providers.insert(0, "CoreMLExecutionProvider")
    assert _runtime.choose(place) == "onnxruntime"


def test_a_library_only_for_cards_is_named_by_what_pip_calls_it(installed: set[str]) -> None:
    with pytest.raises(MissingExtraError, match=r"engine torch: PyTorch is not installed; .*`pip install torch`"):
        _runtime.choose(_runtime.resolve("bf16", device="cuda"))
    installed.add("torch")
    check_installed("", "torch")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp16"}, "precision: 'fp16' is unknown; expected one of fp32, bf16, int8"),
        ({"engine": "tensorrt"}, "engine: 'tensorrt' is unknown; expected one of onnxruntime, openvino, torch"),
        ({"device": "gpu"}, "device: 'gpu' is unknown; expected cpu, cuda, cuda:1 .* or coreml"),
        ({"device": "cpu:1"}, "device: 'cpu:1' is unknown"),
        ({"precision": "int8", "device": "cuda"}, "precision: int8 is not to be had on cuda; expected one of"),
        ({"engine": "openvino", "device": "cuda"}, "precision: fp32 is not to be had by openvino on cuda"),
        ({"precision": "bf16", "engine": "onnxruntime"}, "precision: bf16 is not to be had by onnxruntime on cpu"),
    ],
)
def test_what_no_library_does_is_refused_before_anything_is_loaded(options: dict[str, str], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        _runtime.resolve(**options)


def test_load_refuses_a_device_that_is_not_there(tiny: ModelSpec, installed: set[str], providers: list[str]) -> None:
    with (
        pytest.warns(UntrainedWeightsWarning),
        pytest.raises(OptionError, match=r"device: cuda:0 cannot be used \(ONNX Runtime offers"),
    ):
        audioset.load("tiny", "untrained:0", device="cuda")


def test_a_card_gets_larger_batches_and_workers_that_only_wait(tmp_path: Path) -> None:
    card, processor = _runtime.resolve(device="cuda:3"), _runtime.resolve()
    assert (card.batch_size, card.calls(8), card.workers(8), card.device) == (256, 2, 10, "cuda:3")
    assert (processor.batch_size, processor.calls(8), processor.workers(8), processor.device) == (32, 8, 8, "cpu")

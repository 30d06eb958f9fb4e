"""ONNX Runtime's providers for cards and Macs: what they are told, and what becomes of one that does not load."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from tests.test_network import SMALL, drawn, weights_of

from audioset import _runtime
from audioset._runtime import onnx_runtime
from audioset.errors import OptionError
from audioset.network import Network

CUDA = _runtime.resolve(device="cuda:1")


class Session:
    """Takes what ONNX Runtime's session takes, and has the providers that it was told to have."""

    present: tuple[str, ...] = ("CUDAExecutionProvider", "CoreMLExecutionProvider", "CPUExecutionProvider")
    fault: Exception | None = None
    made: list[Session]

    def __init__(self, model: bytes, **options: Any) -> None:
        if self.fault is not None:
            raise self.fault
        self.model, self.options = model, options
        self.made.append(self)

    def get_providers(self) -> list[str]:
        return [name for name in self.present if name in ("CPUExecutionProvider", self.options["providers"][0][0])]


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> type[Session]:
    import onnxruntime

    fake = type("Fake", (Session,), {"made": []})
    monkeypatch.setattr(onnxruntime, "InferenceSession", fake)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(Session.present))
    return fake


def open_network(device: str, rng: np.random.Generator) -> Network:
    return Network(SMALL, weights_of(SMALL, drawn(SMALL, rng)), place=_runtime.resolve(device=device))


def test_the_card_is_the_one_that_was_named_and_float32_is_float32(
    sessions: type[Session], rng: np.random.Generator
) -> None:
    open_network("cuda:1", rng)
    (made,) = sessions.made
    assert made.options["providers"] == [
        ("CUDAExecutionProvider", {"device_id": "1", "use_tf32": "0"}),
        "CPUExecutionProvider",
    ]
    assert made.options["enable_fallback"] == 0


def test_coreml_keeps_float32(sessions: type[Session], rng: np.random.Generator) -> None:
    open_network("coreml", rng)
    (made,) = sessions.made
    assert made.options["providers"] == [
        ("CoreMLExecutionProvider", {"ModelFormat": "MLProgram", "MLComputeUnits": "CPUAndGPU"}),
        "CPUExecutionProvider",
    ]


def test_the_model_for_a_device_is_whole_and_computes_the_same(
    sessions: type[Session], rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = weights_of(SMALL, drawn(SMALL, rng))
    Network(SMALL, held, place=CUDA)
    (made,) = sessions.made
    onnx.checker.check_model(onnx.load_from_string(made.model))
    monkeypatch.undo()
    import onnxruntime

    batch = rng.standard_normal((5, 96, 64)).astype(np.float32)
    alone = onnxruntime.InferenceSession(made.model, providers=["CPUExecutionProvider"])
    found = dict(zip(SMALL.outputs, alone.run(list(SMALL.outputs), {"examples": batch}), strict=True))
    for name, expected in Network(SMALL, held).run(batch, tuple(SMALL.outputs)).items():
        np.testing.assert_array_equal(found[name], expected)


def test_a_provider_that_silently_fell_back_is_an_error(sessions: type[Session], rng: np.random.Generator) -> None:
    sessions.present = ("CPUExecutionProvider",)
    with pytest.raises(
        OptionError,
        match=r"device: ONNX Runtime's CUDAExecutionProvider cannot use cuda:0 \(it fell back to the processor; stderr "
        r"says .*\); expected it to\. Use the CUDA and cuDNN .*pip install onnxruntime-gpu\[cuda,cudnn\]",
    ):
        open_network("cuda", rng)
    with pytest.raises(OptionError, match=r"CoreMLExecutionProvider cannot use coreml .* Use another engine"):
        open_network("coreml", rng)


def test_a_provider_that_fails_is_named_with_its_reason(sessions: type[Session], rng: np.random.Generator) -> None:
    sessions.fault = RuntimeError("CUDA failure 101: invalid device ordinal ; GPU=7\nmore of it")
    with pytest.raises(OptionError, match=r"cannot use cuda:7 \(CUDA failure 101: invalid device ordinal ; GPU=7\)"):
        open_network("cuda:7", rng)


def test_a_provider_that_is_not_compiled_in_is_an_error_and_prints_nothing(
    rng: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("it is compiled in")
    model = onnx_runtime.graph.build(SMALL)
    tensors = onnx_runtime.graph.onnx_tensors(SMALL, drawn(SMALL, rng))
    with (
        pytest.warns(UserWarning, match="not in available provider names"),
        pytest.raises(OptionError, match="CUDAExecutionProvider cannot use cuda:1"),
    ):
        onnx_runtime.open_on_device(model, tensors, CUDA)
    assert capsys.readouterr().out == ""

"""What OpenVINO is kept from doing: sending, computing in another precision than asked for, and not saying so."""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.test_network import SMALL, drawn, weights_of

from audioset import _runtime, models, weights
from audioset._runtime import open_vino
from audioset.errors import OptionError
from audioset.network import Network

if importlib.util.find_spec("openvino") is None:
    pytest.skip("OpenVINO is not installed", allow_module_level=True)

SENDS_NOTHING = """
import socket, sys

def refuse(self, address, *rest):
    raise SystemExit(f"a connection to {address}")

socket.socket.connect = socket.socket.connect_ex = refuse
socket.getaddrinfo = lambda *names, **rest: refuse(None, names)

import numpy as np
from audioset import _runtime, models, weights
from audioset.network import Network

mini = Network(models.get("mini"), weights.load("mini"), place=_runtime.resolve(engine="openvino"))
assert mini.run(np.zeros((1, 96, 64)))["embedding"].shape == (1, mini.spec.embedding_dim)
assert "openvino" in sys.modules
assert not [name for name in sys.modules if name.startswith("openvino_telemetry")]
"""


def test_nothing_is_sent_and_nobody_is_counted(tmp_path: Path) -> None:
    """Imported as it is, OpenVINO starts a thread that sends, and writes an identity into the home folder."""
    environment = {key: value for key, value in os.environ.items() if key not in ("CI", "TF_BUILD", "JENKINS_URL")}
    environment |= {"HOME": str(tmp_path), "LOCALAPPDATA": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", SENDS_NOTHING], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not list(tmp_path.rglob("*"))


def test_telemetry_that_is_there_already_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = object()
    monkeypatch.setitem(sys.modules, "openvino_telemetry", theirs)
    open_vino.import_quietly()
    assert sys.modules["openvino_telemetry"] is theirs


def test_a_processor_without_bf16_is_refused_with_its_name(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    openvino = open_vino.import_quietly()

    class OldCore(openvino.Core):  # type: ignore[misg, name-defined, unused-ignore]
        def get_property(self, device: str, name: str) -> Any:
            told = {"OPTIMIZATION_CAPABILITIES": ["FP32", "INT8"], "FULL_DEVICE_NAME": "Old Processor"}
            return told[name]

    monkeypatch.setattr(openvino, "Core", OldCore)
    held = weights_of(SMALL, drawn(SMALL, rng))
    with pytest.raises(
        OptionError,
        match=r"precision: bf16 is not in this processor's instructions \(Old Processor: FP32, INT8\); expected one "
        r"with AVX-512 BF16 or AMX\. Use int8",
    ):
        Network(SMALL, held, place=_runtime.resolve("bf16", "openvino"))
    Network(SMALL, held, place=_runtime.resolve("fp32", "openvino"))


def test_bf16_is_what_is_computed(rng: np.random.Generator) -> None:
    openvino = open_vino.import_quietly()
    core = open_vino._core(openvino)
    if "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has no bf16")
    held = weights_of(SMALL, drawn(SMALL, rng))
    for precision, computed in (("fp32", openvino.Type.f32), ("bf16", openvino.Type.bf16)):
        opened = open_vino.OpenVino(SMALL, held, precision, threads=1, calls=2)  # type: ignore[arg-type]
        compiled = opened._compiled
        assert compiled.get_property("INFERENCE_PRECISION_HINT") == computed
        assert (compiled.get_property("NUM_STREAMS"), compiled.get_property("INFERENCE_NUM_THREADS")) == (2, 2)


def test_a_call_that_fails_leaves_its_place_to_the_next(rng: np.random.Generator) -> None:
    opened = open_vino.OpenVino(SMALL, weights_of(SMALL, drawn(SMALL, rng)), "fp32", calls=1)
    batch = np.zeros((1, 96, 64), np.float32)
    with pytest.raises(KeyError, match="nothing"):
        opened.run(batch, ["nothing"])
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.extend(opened.run(batch, ["embedding"])), daemon=True)
    thread.start()
    thread.join(30)
    assert found
    assert found[0].shape == (1, 7)


def test_weights_live_as_long_as_the_network() -> None:
    """OpenVINO reads the arrays in place and does not keep them."""
    spec = models.get("mini")
    network = Network(spec, weights.load("mini"), place=_runtime.resolve(engine="openvino"))
    expected = Network(spec, weights.load("mini")).run(np.ones((40, 96, 64)))["embedding"]
    network.weights = None  # type: ignore[assignment]
    gc.collect()
    scratch = [np.full(500_000, np.nan, np.float32) for _ in range(8)]
    np.testing.assert_allclose(network.run(np.ones((40, 96, 64)))["embedding"], expected, rtol=1e-4, atol=1e-4)
    del scratch


class _Stack(ctypes.Structure):
    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def stack_for_signals() -> tuple[int | None, int, int]:
    found = _Stack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(found)) == 0
    return found.address, found.flags, found.size


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
def test_signals_find_their_stack_whenever_networks_come_and_go(rng: np.random.Generator) -> None:
    """Where OpenVINO has put its own in the main thread, Ctrl-C crashes once two are gone, the first one first."""
    held = weights_of(SMALL, drawn(SMALL, rng))
    before = stack_for_signals()
    first, second = (open_vino.OpenVino(SMALL, held, "fp32") for _ in range(2))
    first.run(np.zeros((1, 96, 64), np.float32), ["embedding"])
    assert stack_for_signals() == before
    del first, second
    gc.collect()
    assert stack_for_signals() == before

"""The whole way, from files to embeddings, in the library and on the device that was asked for."""

from __future__ import annotations

import importlib.util
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

import audioset
from audioset import _runtime
from audioset._runtime.onnx_runtime import OnnxRuntime
from audioset.cli import main
from audioset.models.spec import ModelSpec

Float32Array = npt.NDArray[np.float32]

pytestmark = pytest.mark.filterwarnings("ignore::audioset.weights.UntrainedWeightsWarning")

SECONDS = [1 + number % 12 for number in range(40)]


@pytest.fixture
def clips(tmp_path: Path, rng: np.random.Generator) -> list[Path]:
    paths = [tmp_path / f"{number}.wav" for number in range(len(SECONDS))]
    for path, duration_s in zip(paths, SECONDS, strict=True):
        soundfile.write(path, 0.1 * rng.standard_normal(16_000 * duration_s), 16_000)
    return paths


def test_a_card_is_called_twice_at_once_at_most_with_large_batches(
    clips: list[Path], tiny: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = threading.Lock()
    sizes: list[int] = []
    inside = most = 0

    class Card:
        def __init__(self, spec: ModelSpec, weights: Any) -> None:
            self._real = OnnxRuntime(spec, weights, _runtime.resolve())

        def run(self, batch: Float32Array, outputs: Sequence[str]) -> list[Float32Array]:
            nonlocal inside, most
            with lock:
                inside += 1
                most = max(most, inside)
                sizes.append(len(batch))
            time.sleep(0.01)
            with lock:
                inside -= 1
            return self._real.run(batch, outputs)

    def open_card(spec: ModelSpec, weights: Any, place: _runtime.Place, *, threads: int, calls: int) -> Card:
        assert (place.kind, place.index, calls) == ("cuda", 1, 2)
        return Card(spec, weights)

    expected = list(audioset.load("tiny", "untrained:0").embed_files(clips))
    monkeypatch.setattr(_runtime, "open_runtime", open_card)
    model = audioset.load("tiny", "untrained:0", device="cuda:1", threads=5)
    assert (model.batch_size, model.threads) == (256, 5)
    found = list(model.embed_files(clips, hop_s=0.1))
    assert most <= 2
    assert max(sizes) == 256
    assert [len(embeddings) for embeddings in found] == [(n * 16_000 - 15_600) // 1600 + 1 for n in SECONDS]
    for here, there in zip(model.embed_files(clips), expected, strict=True):
        np.testing.assert_array_equal(here.values, there.values)


@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_files_are_embedded_by_the_engine_and_the_output_says_which(
    engine: str, clips: list[Path], tiny: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec(engine) is None:
        pytest.skip(f"{engine} is not installed")
    out = tmp_path / "out.parquet"
    arguments = ["embed", *map(str, clips), "-m", "tiny", "-w", "untrained:0", "-o", str(out), "--engine", engine]
    monkeypatch.setattr(sys, "argv", ["audioset", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (0, None)
    table = audioset.read_embeddings(out)
    assert (table.info.engine, table.info.device, table.info.precision) == (engine, "cpu", "fp32")
    expected = list(audioset.load("tiny", "untrained:0").embed_files(clips))
    np.testing.assert_allclose(table.values, np.concatenate([e.values for e in expected]), rtol=0, atol=1e-5)


def test_a_device_that_is_not_there_is_wrong_usage(
    clips: list[Path],
    tiny: ModelSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    out = tmp_path / "out.parquet"
    arguments = ["embed", str(clips[0]), "-m", "tiny", "-w", "untrained:0", "-o", str(out), "--device", "coreml"]
    monkeypatch.setattr(sys, "argv", ["audioset", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "device: coreml cannot be used (ONNX Runtime offers CPUExecutionProvider); expected a Mac" in told.err
    assert not out.exists()

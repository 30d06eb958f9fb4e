"""The whole of VGGish's weights, 288 MB: what conversion costs, and that every route gives the same content."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from audioset import models, weights
from audioset.weights import content_sha256
from audioset.weights.untrained import draw

from . import _writers as write
from .test_torch_pickle import as_torchvggish

pytestmark = pytest.mark.slow

MAX_SECONDS = 5.0
MAX_BYTES = 1_000_000_000
STATUS = Path("/proc/self/status")
_SCRIPT = f"""
import json, pathlib, re, sys, time
start = time.perf_counter()
from audioset import weights
found = weights.convert(sys.argv[1], sys.argv[2])
seconds = time.perf_counter() - start
# Of this process alone: what getrusage says includes the process that started it.
peak_kib = int(re.search(r"VmHWM:\\s*(\\d+) kB", pathlib.Path("{STATUS}").read_text())[1])
print(json.dumps([seconds, peak_kib * 1024, found.sha256]))
"""


@pytest.fixture(scope="module")
def tensors() -> dict[str, np.ndarray]:
    return draw(models.get("vggish").tensor_shapes, seed=0)


@pytest.fixture(scope="module")
def expected(tensors: dict[str, np.ndarray]) -> str:
    return content_sha256(tensors)


@pytest.mark.parametrize("kind", ["v1", "v1 snappy", "v2"])
@pytest.mark.skipif(not STATUS.exists(), reason=f"measures memory with {STATUS}")
def test_a_full_checkpoint_converts_fast_in_little_memory(
    tmp_path: Path, tensors: dict[str, np.ndarray], expected: str, kind: str
) -> None:
    if kind == "v2":
        source = write.write_v2(tmp_path / "vggish", tensors)
    else:
        source = write.write_v1(tmp_path / "vggish.ckpt", tensors, snappy=kind == "v1 snappy")
    run = subprocess.run(
        [sys.executable, "-c", _SCRIPT, source, tmp_path / "out.safetensors"],
        capture_output=True,
        check=True,
        text=True,
    )
    seconds, peak_bytes, sha256 = json.loads(run.stdout)
    print(f"{kind}: {seconds:.2f} s, {peak_bytes / 1e6:.0f} MB")
    assert sha256 == expected
    assert seconds < MAX_SECONDS
    assert peak_bytes < MAX_BYTES


def test_torchvggishs_file_and_the_seed_give_the_same_content(
    tmp_path: Path, tensors: dict[str, np.ndarray], expected: str
) -> None:
    torch = pytest.importorskip("torch")
    torch.save(
        {name: torch.from_numpy(values.copy()) for name, values in as_torchvggish(tensors).items()}, tmp_path / "v.pth"
    )
    assert weights.load("vggish", tmp_path / "v.pth").sha256 == expected
    with pytest.warns(weights.UntrainedWeightsWarning):
        assert weights.load("vggish", "untrained:0").sha256 == expected

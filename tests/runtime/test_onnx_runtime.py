"""What ONNX Runtime does besides running networks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

QUIET = """
import numpy as np
from audioset import models, weights
from audioset.network import Network

mini = Network(models.get("mini"), weights.load("mini"))
assert mini.run(np.zeros((1, 96, 64)))["embedding"].shape == (1, mini.spec.embedding_dim)
"""


def test_reports_to_its_makers_are_refused() -> None:
    import audioset._runtime  # noqa: F401

    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"


@pytest.mark.slow
def test_nothing_is_left_in_the_home_folder(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("ORT_", "XDG_"))}
    environment |= {"HOME": str(tmp_path), "LOCALAPPDATA": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", QUIET], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not list(tmp_path.rglob("*"))

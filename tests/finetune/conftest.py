"""Sounds to learn: the folder that examples/make_toy_sounds.py writes."""

from __future__ import annotations

import runpy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def write_toy() -> Callable[..., None]:
    """`write(folder, num_clips, seconds, seed)` of the example."""
    found: Callable[..., None] = runpy.run_path(str(ROOT / "examples" / "make_toy_sounds.py"))["write"]
    return found


@pytest.fixture
def toy(tmp_path: Path, write_toy: Callable[..., None]) -> Path:
    """A folder of sines, constants and noises, 8 clips of 1.2 s each."""
    write_toy(tmp_path / "toy", 8, 1.2, 0)
    return tmp_path / "toy"


@pytest.fixture
def one_torch_thread() -> Iterator[None]:
    """Tiny networks on several threads spend their time waiting for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

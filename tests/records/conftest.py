"""A small job, and its rows, for the tests of what goes to disk."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audioset.records import JobInfo, JobWriter

DIM = 4


@dataclass(frozen=True)
class Clip:
    """One file and its rows."""

    file: str
    start_s: np.ndarray
    end_s: np.ndarray
    values: np.ndarray


@pytest.fixture
def info() -> JobInfo:
    return JobInfo(
        model="vggish",
        weights_name="untrained:0",
        weights_sha256="ab" * 32,
        embedding_dim=DIM,
        dtype="float32",
        regime="raw",
        hop_s=0.96,
        pad="short",
        pool="none",
    )


@pytest.fixture
def quantized(info: JobInfo) -> JobInfo:
    return replace(info, dtype="uint8", regime="uint8")


def make_clips(info: JobInfo, lengths: list[int]) -> list[Clip]:
    """Files of these many rows, the same at every call."""
    rng = np.random.default_rng(1)
    clips = []
    for i, length in enumerate(lengths):
        start = np.arange(length) * info.hop_s
        if info.dtype == "uint8":
            values = rng.integers(0, 256, (length, info.embedding_dim), np.uint8)
        else:
            values = rng.standard_normal((length, info.embedding_dim), np.float32)
        clips.append(Clip(f"folder/clip {i}.wav", start, start + 0.96, values))
    return clips


def add(writer: Any, clip: Clip, *, rows: slice = slice(None), last: bool = True) -> None:
    writer.append(clip.file, clip.start_s[rows], clip.end_s[rows], clip.values[rows], last=last)


def write(out: Path, info: JobInfo, clips: list[Clip], *, format: str = "parquet", **options: Any) -> None:  # noqa: A002
    with JobWriter(out, info, format=format, **options) as writer:
        for clip in clips:
            if clip.file not in writer.completed:
                add(writer, clip)
        writer.finish()

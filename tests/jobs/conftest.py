"""Short clips, a tiny network, and jobs on them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

import audioset
from audioset import Embeddings, EmbedOptions, Model, jobs
from audioset.models.spec import ModelSpec


@dataclass
class Bench:
    """A folder of clips, a model, and what running jobs on them needs."""

    root: Path
    model: Model
    clips: list[str]

    def begin(
        self,
        items: jobs.Items | Sequence[str],
        out: str = "out",
        options: EmbedOptions | None = None,
        **settings: bool | int,
    ) -> jobs.Plan:
        items = items if isinstance(items, jobs.Items) else jobs.from_names(items)
        retry_failed = bool(settings.pop("retry_failed", False))
        info = jobs.describe_model(self.model, options or EmbedOptions())
        output = jobs.begin(items, str(self.root / out), info, **settings)  # type: ignore[arg-type]
        return jobs.Plan(items, output, retry_failed=retry_failed)

    def run(
        self, plan: jobs.Plan, options: EmbedOptions | None = None, shard: tuple[int, int] = (1, 1)
    ) -> jobs.Summary:
        return jobs.run_here(plan, self.model, options or EmbedOptions(), shard=shard)

    def expected(self, files: Sequence[str], **options: object) -> dict[str, Embeddings]:
        return {file: self.model.embed(file, **options) for file in files}  # type: ignore[arg-type]

    def write(self, name: str, seconds: float, rng: np.random.Generator) -> str:
        path = self.root / name
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, 0.1 * rng.standard_normal(round(16_000 * seconds)), 16_000)
        return str(path)

    def pack(self, name: str, files: Sequence[str], extra: Sequence[tuple[str, bytes]] = ()) -> str:
        path = self.root / name
        with tarfile.open(path, "w") as archive:
            for file in files:
                archive.add(file, Path(file).name)
            for other, content in extra:
                (self.root / other).write_bytes(content)
                archive.add(self.root / other, other)
        return str(path)


@pytest.fixture(scope="session")
def _sounds() -> list[bytes]:
    rng = np.random.default_rng(0)
    files = [io.BytesIO() for _ in range(9)]
    for number, file in enumerate(files):
        soundfile.write(file, 0.1 * rng.standard_normal(16_000 + 4_000 * number), 16_000, format="WAV")
    return [file.getvalue() for file in files]


@pytest.fixture
def bench(tmp_path: Path, tiny: ModelSpec, _sounds: list[bytes]) -> Bench:
    """Nine clips of 1 to 3 s."""
    found = Bench(tmp_path, audioset.load("tiny", "untrained:0", threads=1), [])
    (tmp_path / "clips").mkdir()
    for number, sound in enumerate(_sounds):
        (tmp_path / f"clips/{number}.wav").write_bytes(sound)
    found.clips = [str(tmp_path / f"clips/{number}.wav") for number in range(9)]
    return found


def rows(out: Path | str) -> dict[tuple[str, float], npt.NDArray[np.float32]]:
    """Every row of a finished folder by file and start, which no two rows share."""
    import pyarrow.dataset

    table = pyarrow.dataset.dataset(str(out)).to_table()
    names, starts = table.column("file").to_pylist(), table.column("start_s").to_pylist()
    values = np.array(table.column("embedding").to_pylist(), np.float32)
    found = dict(zip(zip(names, starts, strict=True), values, strict=True))
    assert len(found) == table.num_rows, "a row is there twice"
    return found


def assert_rows(out: Path | str, expected: dict[str, Embeddings]) -> None:
    """Hold the rows of a folder to embeddings by name, bit for bit."""
    found = rows(out)
    assert {name for name, _ in found} == set(expected)
    assert len(found) == sum(map(len, expected.values()))
    for name, embeddings in expected.items():
        for start_s, value in zip(embeddings.start_s, embeddings.values, strict=True):
            np.testing.assert_array_equal(found[name, float(start_s)], value)

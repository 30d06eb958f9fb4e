"""Ray on two cores, started once for a file of tests, and jobs whose outputs can be compared."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from audioset import jobs
from audioset.jobs import Plan, Recipe, TaskSize, open_output

RECIPE = Recipe("mini")


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    pytest.importorskip("ray")
    import ray

    from audioset.cluster.session import connect

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("audioset.cluster.session.available_cores", lambda: 2)
        connect("local")
        yield
        ray.shutdown()


@dataclass
class Work:
    """A folder with clips."""

    root: Path
    files: list[str] = field(default_factory=list)

    def add(self, count: int, *, corrupt: Sequence[int] = ()) -> list[str]:
        """Make clips of noise, from 0.3 to 2.5 seconds, and what is none."""
        rng = np.random.default_rng(len(self.files))
        for number in range(count):
            path = self.root / f"{len(self.files):04d}.wav"
            if number in corrupt:
                path.write_bytes(b"RIFF, but no sound")
            else:
                soundfile.write(path, 0.1 * rng.standard_normal(int(rng.uniform(5_000, 40_000))), 16_000)
            self.files.append(str(path))
        return self.files

    def plan(self, out: str, *, items: int = 4, retry_failed: bool = False, recipe: Recipe = RECIPE) -> Plan:
        """Begin a job on the clips, or go on with it; so many in a task."""
        info = jobs.describe_model(recipe.load(), recipe.options)
        every = jobs.from_names(self.files)
        size = TaskSize(1 << 30, items)
        output = open_output(str(self.root / out), info, size, with_ids=False, num_items=len(every))
        return Plan(every, output, retry_failed=retry_failed)

    def here(self, out: str) -> jobs.Summary:
        """Do the job in this process."""
        return jobs.run_here(self.plan(out), RECIPE.load(), RECIPE.options)

    def parts(self, out: str) -> list[str]:
        return sorted(path.name for path in (self.root / out).glob("part-*.parquet"))

    def digest(self, out: str) -> str:
        """Of all rows, sorted, and of what failed."""
        rows = pq.read_table(self.root / out, schema=pq.read_schema(self.root / out / self.parts(out)[0]))
        rows = rows.replace_schema_metadata().sort_by([("file", "ascending"), ("start_s", "ascending")])
        errors = pq.read_table(self.root / out / "_errors.parquet").sort_by("file")
        total = hashlib.sha256()
        for table in (rows, errors):
            total.update(repr(table.to_pydict()).encode())
        return total.hexdigest()


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(tmp_path)


def processes_below(pid: int) -> Iterator[tuple[int, str]]:
    """Yield the processes that a process has started, and those that they have, with their command lines."""
    children: list[str] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children += path.read_text().split()
        except OSError:  # it has ended
            continue
    for child in map(int, children):
        try:
            yield child, Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        yield from processes_below(child)


def worker_pids(pid: int | None = None) -> list[int]:
    """The processes of a pool that a process, by default this one, has on its own Ray."""
    return [child for child, line in processes_below(pid or os.getpid()) if "MapWorker" in line]

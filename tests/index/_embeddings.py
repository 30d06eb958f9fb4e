"""Embeddings files that took no network to make, and the plain slow way to find what is similar in them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from audioset.jobs.output import PartDone, open_output
from audioset.jobs.rows import Rows
from audioset.jobs.tasks import TaskSize
from audioset.records import EmbeddingTable, JobInfo, JobWriter, read_embeddings

DIM = 16

INFO = JobInfo(
    model="mini",
    weights_name="untrained:0",
    weights_sha256="ab" * 32,
    embedding_dim=DIM,
    dtype="float32",
    regime="raw",
    hop_s=0.96,
    pad="short",
    pool="none",
)


def clips(lengths: list[int], *, seed: int = 0, first: int = 0) -> dict[str, np.ndarray]:
    """Files of these many rows; each stays in one of 40 clusters for some rows, and all have a mean in common."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((40, DIM))
    found = {}
    for place, length in enumerate(lengths, first):
        stays = np.repeat(rng.integers(0, len(centres), length // 4 + 1), 4)[:length]
        values = centres[stays] + 0.3 * rng.standard_normal((length, DIM)) + 2
        found[f"field/clip {place}.wav"] = values.astype(np.float32)
    return found


def write(out: Path, files: dict[str, np.ndarray], info: JobInfo = INFO) -> Path:
    with JobWriter(out, info, format=out.suffix[1:]) as writer:
        for name, values in files.items():
            start = np.arange(len(values)) * info.hop_s
            writer.append(name, start, start + 0.96, values, last=True)
        writer.finish()
    return out


def write_job(folder: Path, tasks: list[dict[str, np.ndarray]], info: JobInfo = INFO) -> Path:
    """The folder of a complete job; the rows of a file that goes on in the next part go on in time."""
    files = sum(map(len, tasks))
    output = open_output(str(folder), info, TaskSize(), with_ids=False, num_items=files)
    written: Counter[str] = Counter()
    for number, task in enumerate(tasks):
        rows = Rows(info, with_ids=False)
        for owner, (name, values) in enumerate(task.items()):
            start = (written[name] + np.arange(len(values))) * info.hop_s
            written[name] += len(values)
            rows.add(owner, name, name, start, start + 0.96, values)
        keys = tuple(f"{name}#{number}" for name in task)
        output.write(PartDone(f"part-{number:06d}.parquet", 0, keys, (), {}, len(task), rows.num_rows, 0.0), rows)
    output.finish(output.state())
    return folder


def cosines(table: EmbeddingTable, query: np.ndarray, *, centred: bool = True) -> np.ndarray:
    """Similarity of every row to a vector, in float64."""
    values = table.values.astype(np.float64)
    mean = values.mean(axis=0) if centred else np.zeros(values.shape[1])
    offsets, asked = values - mean, query - mean
    return offsets @ asked / np.linalg.norm(offsets, axis=1) / np.linalg.norm(asked)


def ranges(table: EmbeddingTable, similarities: np.ndarray, k: int) -> list[tuple[str, float, float, float]]:
    """File, start, end and peak of the k times that a walk away from each best row gives, row by row."""

    def follow(a: int, b: int) -> bool:
        return a >= 0 and b < len(table.file) and table.file[a] == table.file[b]

    found, used = [], set()
    for row in np.argsort(-similarities, kind="stable").tolist():
        if row in used or len(found) == k:
            continue
        begin = end = row
        enough = 0.8 * similarities[row]
        while enough > 0 and follow(begin - 1, begin) and begin - 1 not in used and similarities[begin - 1] >= enough:
            begin -= 1
        while enough > 0 and follow(end, end + 1) and end + 1 not in used and similarities[end + 1] >= enough:
            end += 1
        used |= {*range(begin, end + 1), *([begin - 1] if follow(begin - 1, begin) else [])}
        used |= {end + 1} if follow(end, end + 1) else set()
        middle = (table.start_s[row] + table.end_s[row]) / 2
        found.append((table.file[row], table.start_s[begin], table.end_s[end], middle))
    return found


def table_of(path: Path) -> EmbeddingTable:
    return read_embeddings(path)

"""Measure a job of many short clips on Ray's processes of this machine against the engine in one process.

    python benchmarks/cluster.py
    python benchmarks/cluster.py --clips 2000 --model vggish --weights untrained:0

The clips are a few synthesized ones of one to two seconds under many names (hard links), so the disk is no part of it.
Both take turns (A B B A …), each run in a process of its own, on the same cores and into a folder of Parquet parts. Two
rates are compared: over the whole run, with all it takes to start (Ray, its processes, the model in each), and from the
first part that was done to the last; and core seconds, which other programs disturb less. Beside them stand megabytes
(resident, what is shared counted in each) that the process of the user and Ray's workers held in each quarter of the
run: flat where memory does not grow with the clips.

Linux; a table on standard output.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import soundfile

RATE_HZ = 16_000
DISTINCT = 32
SAMPLED_EVERY_S = 0.5
WAYS = ("engine", "ray")
WORKER = "ray::"  # what Ray calls the processes that do something
ACTOR = "PartWorker"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=20_000)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--weights")
    parser.add_argument("--workers", type=int, default=2, help="cores of the engine, and processes of Ray")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--run", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.run:
        print(json.dumps(_run(options)))
        return
    results: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as name:
        clips = Path(name, "clips")
        _make_clips(clips, options.clips)
        for repeat in range(options.repeats):
            for way in WAYS if repeat % 2 == 0 else reversed(WAYS):
                result = _in_process(way, options, clips)
                results[way].append(result)
                print(f"{way}: {result['rate']:.0f} clips/s, {result['steady_rate']:.0f} once begun", file=sys.stderr)
    _report(results, options)


def _make_clips(folder: Path, count: int) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"{number:06d}.flac"
        if number >= DISTINCT:
            os.link(folder / f"{number % DISTINCT:06d}.flac", path)
            continue
        samples = int(RATE_HZ * (1 + number / DISTINCT))
        hum = np.sin(2 * np.pi * rng.uniform(100, 4000) * np.arange(samples) / RATE_HZ)
        soundfile.write(path, (0.3 * hum + 0.05 * rng.standard_normal(samples)).astype(np.float32), RATE_HZ)


def _in_process(way: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--run", way, "--folder", str(folder), "--model", options.model]
    command += ["--workers", str(options.workers)]
    command += ["--weights", options.weights] if options.weights else []
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        memory = _Memory(process.pid)
        with memory.watched():
            said, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"{way}: exit status {process.returncode}")
    wall_s = time.perf_counter() - began
    result: dict[str, Any] = json.loads(said)
    return {
        **result,
        "wall_s": wall_s,
        "rate": result["clips"] / wall_s,
        "busy_s": memory.busy_s(),
        "memory": memory.by_quarter(),
    }


def _run(options: argparse.Namespace) -> dict[str, Any]:
    """One job in this process."""
    from audioset import jobs
    from audioset.cluster import run_on_ray

    warnings.simplefilter("ignore")
    seen: list[tuple[float, int]] = []

    def show(progress: jobs.Progress) -> None:
        seen.append((time.perf_counter(), progress.items))

    items = jobs.from_names(sorted(str(path) for path in options.folder.iterdir()))
    recipe = jobs.Recipe(options.model, options.weights, threads=options.workers)
    model = recipe.load()
    with tempfile.TemporaryDirectory() as name:
        output = jobs.begin(items, name, jobs.describe_model(model, recipe.options), workers=options.workers)
        plan = jobs.Plan(items, output)
        if options.run == "engine":
            summary = jobs.run_here(plan, model, recipe.options, on_progress=show)
        else:
            del model
            recipe = jobs.Recipe(options.model, options.weights)
            summary = run_on_ray(plan, recipe, concurrency=options.workers, on_progress=show)
    assert summary.complete
    assert not summary.failures
    (first_s, first), (last_s, last) = next(pair for pair in seen if pair[1]), seen[-1]
    return {
        "clips": summary.files,
        "rows": summary.rows,
        "steady_rate": (last - first) / (last_s - first_s),
        "parts": len(plan.state.parts),
    }


class _Memory:
    """What a process and the workers below it hold, now and then."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._seen: list[dict[str, int]] = []
        self._busy_s: dict[int, float] = {}
        self._done = threading.Event()

    @contextmanager
    def watched(self) -> Iterator[None]:
        thread = threading.Thread(target=self._watch)
        thread.start()
        try:
            yield
        finally:
            self._done.set()
            thread.join()

    def by_quarter(self) -> dict[str, list[int]]:
        """The most megabytes of the process, of one of its workers, and of all else that Ray runs, in each quarter."""
        quarters = np.array_split(np.arange(len(self._seen)), 4)
        return {
            what: [max((self._seen[number][what] for number in quarter), default=0) for quarter in quarters]
            for what in ("process", "worker", "rest")
        }

    def busy_s(self) -> float:
        """Core seconds of the process and all below it, but for those that ended at once."""
        return sum(self._busy_s.values())

    def _watch(self) -> None:
        while not self._done.wait(SAMPLED_EVERY_S):
            found = {"process": _resident_mb(self._pid), "worker": 0, "rest": 0}
            for pid, command in _below(self._pid):
                self._busy_s[pid] = max(_busy_s(pid), self._busy_s.get(pid, 0.0))
                if pid == self._pid:
                    continue
                if command.startswith(WORKER) and ACTOR in command:
                    found["worker"] = max(found["worker"], _resident_mb(pid))
                else:
                    found["rest"] += _resident_mb(pid)
            self._seen.append(found)


def _below(pid: int) -> Iterator[tuple[int, str]]:
    try:
        listed = [path.read_text(encoding="ascii") for path in Path(f"/proc/{pid}/task").glob("*/children")]
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return
    yield pid, command
    for child in " ".join(listed).split():
        yield from _below(int(child))


def _resident_mb(pid: int) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20


def _busy_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _report(results: dict[str, list[dict[str, Any]]], options: argparse.Namespace) -> None:
    print(f"{options.clips:,} clips of 1 to 2 s, {options.model}, {options.workers} cores, {options.repeats} runs each")
    for way, runs in results.items():
        whole, steady = (median(run[kind] for run in runs) for kind in ("rate", "steady_rate"))
        busy_s = median(run["busy_s"] for run in runs)
        print(
            f"{way:7} {whole:7.0f} clips/s, {steady:.0f} from the first part on, {busy_s:.1f} core seconds; "
            f"{runs[-1]['parts']} parts"
        )
        for what, held in runs[-1]["memory"].items():
            if any(held):
                print(f"        {what:8} MB by quarter: {', '.join(map(str, held))}")
    for kind, of in (("rate", "whole runs"), ("steady_rate", "from the first part on"), ("busy_s", "core seconds")):
        ratios = sorted(ray[kind] / engine[kind] for engine, ray in zip(results["engine"], results["ray"], strict=True))
        print(f"ray / engine, {of}: {median(ratios):.0%} ({ratios[0]:.0%} to {ratios[-1]:.0%})")


if __name__ == "__main__":
    main()

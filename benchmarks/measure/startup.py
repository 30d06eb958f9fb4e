"""From the start of a process to its first embedding, the weights converted and in the disk cache; and its memory."""

from __future__ import annotations

import subprocess
import sys
import time
from functools import partial
from typing import Any

from measure.configurations import COMPARED, Configuration, Other
from measure.figures import Job, interleaved, spread
from measure.protocol import Reply, environment, timed
from measure.setting import Setting

PYTHON = "Python alone"


def measure(setting: Setting) -> list[dict[str, Any]]:
    """Return a row for every configuration and other implementation, and one for Python itself."""
    jobs: dict[str, Job] = {PYTHON: partial(_python, setting.cores)}
    wanted: list[Configuration | Other] = [*setting.ours]
    if any(each.model == COMPARED for each in setting.ours):
        wanted += setting.others
    for each in wanted:
        if each.name not in setting.not_available:
            jobs[each.name] = partial(_first_embedding, each, setting.cores, setting.files[0])
    replies, failed = interleaved(jobs, setting.extent.startups, lambda text: setting.say(f"start-up: {text}"))
    for name, why in failed.items():
        setting.lacks(name, why)
    parts = ("seconds", "import_s", "load_s", "first_s", "cpu_seconds", "peak_rss_mb")
    return [
        {"name": name, **{part: spread(reply[part] for reply in found) for part in parts if found[0].get(part)}}
        for name, found in replies.items()
    ]


def _python(cores: int) -> Reply:
    command = [sys.executable, "-c", "pass"]
    return timed(lambda: subprocess.run(command, check=True, env=environment(cores)))


def _first_embedding(each: Configuration | Other, cores: int, file: str) -> Reply:
    with each.start(cores) as worker:
        loaded_at = time.perf_counter()
        reply = worker.ask("first", file=file)
        ended_at = time.perf_counter()
        return {
            **worker.ask("spent"),
            "seconds": ended_at - worker.started_at,
            "first_s": ended_at - loaded_at,
            "import_s": reply["import_s"],
            "load_s": reply["load_s"],
        }

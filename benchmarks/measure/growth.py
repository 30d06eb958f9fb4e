"""How time and memory grow with work: the length of clips, the number of files, the hours of one file."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from measure.configurations import COMPARED, Configuration, leading
from measure.figures import Job, interleaved, rounded, spread
from measure.protocol import NotAvailableError, Reply, finished, timed
from measure.setting import Setting
from measure.sounds import clips_in, many, write_long

_MAX_REPEATS = 3
_FORMAT = "Vorbis"
# Of the longest file, so that three points show whether memory depends on length.
_PARTS = (1 / 16, 1 / 4, 1)
_COMMAND = """
import json
from audioset.cli import main
from measure.protocol import peak_rss_mb
try:
    main()
finally:
    print(json.dumps({"peak_rss_mb": peak_rss_mb()}))
"""


def measure(setting: Setting) -> dict[str, Any]:
    """Return rows by length of clips (one process, loaded before), by number of files and by hours (whole commands)."""
    models = list(dict.fromkeys(each.model for each in setting.ours))
    return {
        "clip_length": [row for model in models for row in _by_clip_length(setting, model)],
        "files": [*_by_files(setting), *_others_by_files(setting)],
        "hours": _by_hours(setting),
    }


def _available(setting: Setting) -> list[Configuration]:
    return leading([each for each in setting.ours if each.name not in setting.not_available])


def _by_clip_length(setting: Setting, model: str) -> list[dict[str, Any]]:
    extent = setting.extent
    out = str(setting.folder / "growth.parquet")
    rows = []
    with ExitStack() as stack:
        ours = setting.started([each for each in _available(setting) if each.model == model], setting.cores, stack)
        others = setting.started(setting.others if model == COMPARED else [], setting.cores, stack)
        if not ours:
            return []
        for clip_s in extent.clip_lengths_s:
            number = max(1, round(extent.growth_audio_s / clip_s))
            folder = setting.folder / f"clips-{model}-{clip_s:g}"
            try:
                files = clips_in(_FORMAT, setting.sound, folder, number, clip_s)
            except NotAvailableError as error:
                setting.lacks(f"clips in {_FORMAT}", str(error))
                return []
            jobs: dict[str, Job] = {}
            for other, worker in others.items():
                for way, options in other.ways.items():
                    jobs[other.title(way)] = partial(worker.ask, "whole", files=files, out=out, **options)
            for each, worker in ours.items():
                jobs[each.name] = partial(worker.ask, "whole", files=files, out=out)
            setting.say(f"{model}: clips of {clip_s:g} s")
            replies, failed = interleaved(jobs, min(extent.repeats, _MAX_REPEATS), setting.say)
            for name, why in failed.items():
                setting.lacks(f"{name}, clips of {clip_s:g} s", why)
            for name, found in replies.items():
                rows.append(
                    {
                        "name": name,
                        "model": model,
                        "clip_s": clip_s,
                        "files": number,
                        "seconds": spread(reply["seconds"] for reply in found),
                        "cpu_seconds": spread(reply["cpu_seconds"] for reply in found),
                        "times_real_time": spread(number * clip_s / reply["seconds"] for reply in found),
                    }
                )
    return rows


def _by_files(setting: Setting) -> list[dict[str, Any]]:
    rows = []
    for number in setting.extent.numbers_of_files:
        folder = many(setting.files, number, setting.folder / f"files-{number}")
        for each in _available(setting):
            rows += _noted(setting, each, f"{number} files", partial(_embed, setting, each, folder))
    return rows


def _others_by_files(setting: Setting) -> list[dict[str, Any]]:
    """The last number of files only, and what memory that takes."""
    if not any(each.model == COMPARED for each in setting.ours):
        return []
    number = setting.extent.numbers_of_files[-1]
    files = sorted(str(path) for path in (setting.folder / f"files-{number}").iterdir())
    rows = []
    for other in setting.others:
        options = list(other.ways.values())[-1]
        with ExitStack() as stack:
            for worker in setting.started([other], setting.cores, stack).values():
                setting.say(f"{other.name}: {number} files")
                try:
                    reply = worker.ask("whole", files=files, out="", **options)
                    spent = worker.ask("spent")
                except NotAvailableError as error:
                    setting.lacks(f"{other.name}, {number} files", str(error))
                    continue
                rows.append(
                    {
                        "name": other.title(list(other.ways)[-1]),
                        "files": number,
                        "seconds": rounded(reply["seconds"]),
                        "cpu_seconds": rounded(reply["cpu_seconds"]),
                        "peak_rss_mb": spent["peak_rss_mb"] and rounded(spent["peak_rss_mb"]),
                    }
                )
    return rows


def _by_hours(setting: Setting) -> list[dict[str, Any]]:
    hours = setting.extent.long_hours
    path = setting.folder / "long.flac"
    setting.say(f"writing a file of {hours:g} h")
    write_long(path, setting.sound, hours)
    rows = []
    for part in _PARTS:
        window = [] if part == 1 else ["--duration", str(part * hours * 3600)]
        for each in _available(setting):
            what = f"{part * hours:g} h in one file"
            rows += _noted(setting, each, what, partial(_embed, setting, each, path, *window))
    path.unlink()
    return rows


def _noted(setting: Setting, each: Configuration, what: str, job: Callable[[], Reply]) -> list[dict[str, Any]]:
    """One row, or none and a note of why."""
    setting.say(f"{each.name}: {what}")
    try:
        return [{"name": each.name, **job()}]
    except NotAvailableError as error:
        setting.lacks(f"{each.name}, {what}", str(error))
        return []


def _embed(setting: Setting, each: Configuration, source: Path, *more: str) -> Reply:
    """A whole `audioset embed`, start to end of the process."""
    out = setting.folder / "command.parquet"
    threads = ["--threads", str(setting.cores)]
    arguments = ["embed", str(source), "-o", str(out), "--overwrite", "--json", *threads, *each.arguments, *more]
    said: list[str] = []
    measured = timed(lambda: said.append(finished(_COMMAND, arguments, setting.cores)))
    summary, last = (json.loads(line) for line in said[0].splitlines()[-2:])
    return {
        "files": summary["files"],
        "hours": rounded(summary["audio_s"] / 3600),
        "embeddings": summary["rows"],
        "seconds": rounded(measured["seconds"]),
        "cpu_seconds": rounded(measured["cpu_seconds"]),
        "times_real_time": rounded(summary["audio_s"] / measured["seconds"]),
        "peak_rss_mb": last["peak_rss_mb"] and rounded(last["peak_rss_mb"]),
    }

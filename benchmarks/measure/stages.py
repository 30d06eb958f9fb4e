"""Each stage alone on one thread: decoding by format, resampling, front end, the network by batch, Parquet."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Any

from measure.figures import Job, interleaved, paired_ratio, spread
from measure.protocol import NotAvailableError, Reply, Worker
from measure.setting import Setting
from measure.sounds import FORMATS, OPUS_RATE_HZ, RATE_HZ, clips_in

_PARQUET_FILES, _PARQUET_ROWS = 200, 10


def measure(setting: Setting) -> dict[str, Any]:
    """Return milliseconds a second of audio of each stage, and an example of each network."""
    around = _around(setting)
    networks: list[dict[str, Any]] = []
    for model in dict.fromkeys(each.model for each in setting.ours):
        networks += _networks(setting, model)
    return {"threads": 1, "around": around, "network": networks}


def _around(setting: Setting) -> list[dict[str, Any]]:
    extent = setting.extent
    at_least_s = extent.at_least_s
    with Worker("measure.workers.stages", cores=1) as worker:
        worker.load()
        jobs: dict[str, Job] = {}
        made: dict[str, list[str]] = {}
        for name in FORMATS:
            try:
                folder = setting.folder / f"decode-{name}"
                made[name] = clips_in(name, setting.sound, folder, extent.decode_clips, extent.clip_s)
            except NotAvailableError as error:
                setting.lacks(f"decode {name}", str(error))
                continue
            rate = FORMATS[name][1] / 1000
            jobs[f"decode {name}, {rate:g} kHz"] = partial(
                worker.ask, "decode", files=made[name], at_least_s=at_least_s
            )
        given = list(setting.files[: extent.decode_clips])
        jobs["decode the given files"] = partial(worker.ask, "decode", files=given, at_least_s=at_least_s)
        wav = made["WAV"][0]
        for rate_hz in (RATE_HZ, OPUS_RATE_HZ):
            jobs[f"resample from {rate_hz / 1000:g} kHz"] = partial(
                worker.ask, "resample", file=wav, rate=rate_hz, at_least_s=at_least_s
            )
        for model in dict.fromkeys(each.model for each in setting.ours):
            jobs[f"log-mel, {model}"] = partial(worker.ask, "log_mel", file=wav, model=model, at_least_s=at_least_s)
            jobs[f"Parquet, {model}"] = partial(
                worker.ask,
                "parquet",
                model=model,
                num_files=_PARQUET_FILES,
                rows_a_file=_PARQUET_ROWS,
                out=str(setting.folder / "stage.parquet"),
                at_least_s=at_least_s,
            )
        replies, failed = interleaved(jobs, extent.repeats, lambda text: setting.say(f"stages: {text}"))
    for name, why in failed.items():
        setting.lacks(name, why)
    return [
        {
            "stage": name,
            "ms_per_audio_s": spread(1e3 * reply["seconds"] / reply["audio_s"] for reply in found),
            "cpu_ms_per_audio_s": spread(1e3 * reply["cpu_seconds"] / reply["audio_s"] for reply in found),
        }
        for name, found in replies.items()
    ]


def _networks(setting: Setting, model: str) -> list[dict[str, Any]]:
    extent = setting.extent
    rows = []
    with ExitStack() as stack:
        workers = setting.started([each for each in setting.ours if each.model == model], 1, stack)
        jobs: dict[str, Job] = {}
        about: dict[str, dict[str, Any]] = {}
        for each, worker in workers.items():
            worker.ask("hold", files=list(setting.files), at_most=max(extent.batches))
            for batch in extent.batches:
                name = f"{each.name}, batch {batch}"
                about[name] = {"name": each.name, "model": model, "precision": each.precision, "engine": each.engine}
                about[name]["batch"] = batch
                jobs[name] = partial(worker.ask, "network", batch=batch, count=batch, at_least_s=extent.at_least_s)
        replies, failed = interleaved(jobs, extent.repeats, lambda text: setting.say(f"{model} network: {text}"))
    for name, why in failed.items():
        setting.lacks(name, why)
    for name, found in replies.items():
        seconds = _per_example(found, "seconds")
        row = {
            **about[name],
            "ms_per_example": spread(1e3 * each for each in seconds),
            "cpu_ms_per_example": spread(1e3 * each for each in _per_example(found, "cpu_seconds")),
        }
        first = next(iter(workers)).name
        reference = f"{first}, batch {about[name]['batch']}"
        if reference in replies:
            row["times_as_fast_as"] = {first: paired_ratio(_per_example(replies[reference], "seconds"), seconds)}
        rows.append(row)
    return rows


def _per_example(replies: list[Reply], clock: str) -> list[float]:
    return [reply[clock] / reply["examples"] for reply in replies]

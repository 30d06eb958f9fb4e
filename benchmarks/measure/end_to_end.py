"""Whole jobs, files to finished output: beside the network alone, the limit of core time, and other implementations.

All take turns within a repeat, each in a process of its own that is idle meanwhile, on the same cores and files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from measure.configurations import COMPARED, PRECISIONS, Configuration, Other
from measure.figures import Job, interleaved, paired_ratio, rounded, spread
from measure.protocol import NotAvailableError, Reply, Worker
from measure.setting import Setting

_MAX_COMPARED_FILES = 64
# Least cosine at which another implementation of the network counts as doing the same work. Resamplers differ: with
# resampy, as the originals have it, the least of 324 examples was 0.99983.
AGREED = 0.9995


def measure(setting: Setting) -> list[dict[str, Any]]:
    """Return a row for every configuration, and for every way of every other implementation."""
    models = list(dict.fromkeys(each.model for each in setting.ours))
    for other in setting.others:
        if COMPARED not in models:
            setting.lacks(other.name, f"it is compared with {COMPARED}, which is not among the models")
    return [row for model in models for row in _measure_model(setting, model)]


def _measure_model(setting: Setting, model: str) -> list[dict[str, Any]]:
    files = list(setting.files)
    out = str(setting.folder / "whole.parquet")
    with ExitStack() as stack:
        wanted = [each for each in setting.ours if each.model == model]
        ours = setting.started(wanted, setting.cores, stack)
        others = setting.started(setting.others if model == COMPARED else [], setting.cores, stack)
        if not ours:
            return []
        jobs: dict[str, Job] = {}
        for other, worker in others.items():
            for way, options in other.ways.items():
                jobs[other.title(way)] = partial(worker.ask, "whole", files=files, out=out, **options)
        for each, worker in ours.items():
            worker.ask("hold", files=files, at_most=setting.extent.examples)
            jobs[each.name] = partial(worker.ask, "whole", files=files, out=out)
            jobs[_network(each)] = partial(worker.ask, "network")
        # The same work whatever the precision and engine, so that one of them does for all.
        jobs["around"] = partial(next(iter(ours.values())).ask, "around", files=files, out=out)
        replies, failed = interleaved(
            jobs, setting.extent.repeats, lambda text: setting.say(f"{model} end to end: {text}")
        )
        for name, why in failed.items():
            setting.lacks(name, why)
        agreements = _agreements(setting, ours, others)
    references = [other.title(way) for other in others for way in other.ways]
    rows = [
        _row(setting, name, replies, (), model=model, precision="fp32", engine=other.name)
        for other in others
        for name in map(other.title, other.ways)
        if name in replies
    ]
    for row in rows:
        row["agreement"] = agreements.get(row["engine"])
    for each in ours:
        if {each.name, _network(each), "around"} <= replies.keys() and each.name not in setting.not_available:
            row = _row(
                setting, each.name, replies, references, model=model, precision=each.precision, engine=each.engine
            )
            rows.append({**row, **_limits(setting, each, replies), "agreement": agreements.get(each.name)})
    return rows


def _network(each: Configuration) -> str:
    return f"{each.name}, network alone"


def _row(
    setting: Setting, name: str, replies: Mapping[str, list[Reply]], references: Sequence[str], **about: str
) -> dict[str, Any]:
    found = replies[name]
    seconds = _of(found, "seconds")
    row = {
        "name": name,
        **about,
        "threads": setting.cores,
        "embeddings": found[0]["embeddings"],
        "seconds": spread(seconds),
        "cpu_seconds": spread(_of(found, "cpu_seconds")),
        "times_real_time": spread(setting.audio_s / each for each in seconds),
        "times_as_fast_as": {
            other: paired_ratio(_of(replies[other], "seconds"), seconds) for other in references if other in replies
        },
        "cpu_ratio_to": {
            other: paired_ratio(_of(found, "cpu_seconds"), _of(replies[other], "cpu_seconds"))
            for other in references
            if other in replies
        },
    }
    if "resampler" in found[0]:
        row["resampler"] = found[0]["resampler"]
    return row


def _limits(setting: Setting, each: Configuration, replies: Mapping[str, list[Reply]]) -> dict[str, Any]:
    """What the job is held to: the network alone, and all that it must do, spread evenly over the cores."""
    whole, network, around = replies[each.name], replies[_network(each)], replies["around"]
    # The network alone may have had fewer examples than the files hold.
    share = whole[0]["embeddings"] / network[0]["examples"]
    alone = [share * seconds for seconds in _of(network, "seconds")]
    alone_cpu = [share * seconds for seconds in _of(network, "cpu_seconds")]
    limit = [(one + other) / setting.cores for one, other in zip(alone_cpu, _of(around, "cpu_seconds"), strict=True)]
    seconds = _of(whole, "seconds")
    return {
        "network_seconds": spread(alone),
        "network_cpu_seconds": spread(alone_cpu),
        "around_cpu_seconds": spread(_of(around, "cpu_seconds")),
        "limit_seconds": spread(limit),
        "ratio_to_network": paired_ratio(seconds, alone),
        "rate_of_limit": paired_ratio(limit, seconds),
    }


def _of(replies: Sequence[Reply], name: str) -> list[float]:
    return [reply[name] for reply in replies]


def _agreements(
    setting: Setting, ours: Mapping[Configuration, Worker], others: Mapping[Other, Worker]
) -> dict[str, dict[str, Any]]:
    """How near embeddings are to those of the first of ours, on the same files: that it is the same work.

    A lower precision that gives the very bits of the full one is not that precision: it is noted as not available.
    """
    files = list(setting.files[:_MAX_COMPARED_FILES])
    out = setting.folder / "embeddings.npy"
    reference, worker = next(iter(ours.items()))
    try:
        expected = _embeddings(worker, files, out)
    except NotAvailableError as error:
        setting.lacks(f"agreement with {reference.name}", str(error))
        return {}
    found: dict[str, dict[str, Any]] = {}
    in_full = [np.concatenate(expected)] if reference.precision == PRECISIONS[0] else []
    compared: list[tuple[Configuration | Other, Worker]] = [pair for pair in ours.items() if pair[0] != reference]
    compared += [pair for pair in others.items() if pair[0].agrees_with]
    for each, worker in compared:
        try:
            values = _embeddings(worker, files, out)
        except NotAvailableError as error:
            setting.lacks(f"agreement of {each.name}", str(error))
            continue
        if isinstance(each, Configuration):
            joined = np.concatenate(values)
            if each.precision == PRECISIONS[0]:
                in_full.append(joined)
            elif any(np.array_equal(joined, other) for other in in_full):
                why = (
                    f"its embeddings are those of {PRECISIONS[0]}, bit for bit: nothing is computed in {each.precision}"
                )
                setting.lacks(each.name, why)
                continue
        relu = isinstance(each, Other) and each.agrees_with == "relu"
        wanted = [np.maximum(part, 0) for part in expected] if relu else expected
        found[each.name] = {"with": reference.name, **agreement(wanted, values)}
        if isinstance(each, Other):
            least = found[each.name]["cosine_min"]
            found[each.name]["same_work"] = least is not None and least >= AGREED
    return found


def _embeddings(worker: Worker, files: list[str], out: Path) -> list[np.ndarray]:
    counts = worker.ask("embed", files=files, out=str(out))["counts"]
    values = np.load(out, allow_pickle=False)
    return np.split(values, np.cumsum(counts)[:-1])


def agreement(expected: Sequence[np.ndarray], values: Sequence[np.ndarray]) -> dict[str, Any]:
    """Return the cosines of rows, over the files of which both have as many rows."""
    pairs = [pair for pair in zip(expected, values, strict=True) if pair[0].shape == pair[1].shape and len(pair[0])]
    if not pairs:
        return {"files": 0, "embeddings": 0, "cosine_min": None, "cosine_median": None}
    one, other = (np.concatenate(part).astype(np.float64) for part in zip(*pairs, strict=True))
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    cosines = np.sum(one * other, axis=1) / np.maximum(lengths, np.finfo(float).tiny)
    return {
        "files": len(pairs),
        "embeddings": len(one),
        "cosine_min": rounded(float(cosines.min()), 8),
        "cosine_median": rounded(float(np.median(cosines)), 8),
    }

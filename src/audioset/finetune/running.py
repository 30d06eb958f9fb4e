"""Clips through a network, as `audioset embed` and `audioset tag` run it: decoded in parallel, batched across clips."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from audioset import audio, embed, engine
from audioset.finetune.data import Clip
from audioset.network import Network
from audioset.records.info import reason_of


def clip_means(
    network: Network,
    output: str,
    clips: Sequence[Clip],
    *,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[npt.NDArray[np.float32], dict[int, str]]:
    """Return the mean over its examples of each clip's output, and why some clips have none.

    Hop and padding are the model's own, so that `audioset.load(file).tag(clip).clip_scores()` is the same to the bit.

    Parameters
    ----------
    network : Network
        A model and its weights.
    output : str
        "embedding" or "scores".
    clips : sequence of Clip
        They may lie in one file.
    threads : int, optional
        Cores to use; all that the process may use by default.
    progress : callable, optional
        Called with the clips done and all clips.

    Returns
    -------
    ndarray of float32, shape (clips, width)
        NaN where a clip could not be read.
    dict of int to str
        Place of such a clip: the reason, in a sentence that names it.
    """
    means, _, reasons = clip_examples(network, output, clips, 0, threads=threads, progress=progress)
    return means, reasons


def clip_examples(
    network: Network,
    output: str,
    clips: Sequence[Clip],
    most_values: int,
    *,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[npt.NDArray[np.float32], list[npt.NDArray[np.float32]], dict[int, str]]:
    """Return what `clip_means` does, and between the two the output of examples of each clip.

    Of long clips these are evenly spaced ones, one or more, so many that about `most_values` numbers are kept in all.
    """
    width = network.spec.outputs[output]
    most = max(1, most_values // (width * max(1, len(clips))))
    means = np.full((len(clips), width), np.nan, np.float32)
    examples = [np.empty((0, width), np.float32)] * len(clips)
    reasons: dict[int, str] = {}
    for place, (values, error) in enumerate(_outputs(network, output, clips, threads)):
        if error is not None:
            reasons[place] = reason_of(clips[place].path, error)
        elif not len(values):
            reasons[place] = f"{clips[place].path}: no example in it; expected sound"
        elif not np.isfinite(values).all():
            reasons[place] = f"{clips[place].path}: its {output} is not finite; expected samples of ordinary size"
        else:
            means[place] = values.mean(axis=0, dtype=np.float64)
            if most_values:
                examples[place] = values[np.linspace(0, len(values) - 1, min(most, len(values))).round().astype(int)]
        if progress is not None:
            progress(place + 1, len(clips))
    return means, examples, reasons


def _outputs(
    network: Network, output: str, clips: Sequence[Clip], threads: int | None
) -> Iterator[tuple[npt.NDArray[Any], Exception | None]]:
    waveforms = (partial(audio.stream, clip.path, start_s=clip.start_s, duration_s=clip.duration_s) for clip in clips)
    nothing = np.empty((0, network.spec.outputs[output]), np.float32)
    parts: list[npt.NDArray[np.float32]] = []
    for block in engine.run(
        waveforms,
        partial(network.run, outputs=(output,)),
        hop_s=network.spec.hop_s,
        pad=network.spec.pad,
        log_offset=network.spec.log_offset,
        threads=embed.available_cores() if threads is None else threads,
    ):
        if block.values:
            parts.append(block.values[output])
        if block.last:
            yield np.concatenate(parts or [nothing]), block.error
            parts.clear()

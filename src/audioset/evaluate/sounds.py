"""Scores of labelled sounds by a model that tags: predictions to evaluate."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from audioset.errors import DatasetError, OptionError
from audioset.evaluate.predictions import Predictions
from audioset.finetune.data import Clip, read_sounds
from audioset.finetune.running import clip_means
from audioset.network import Network

if TYPE_CHECKING:
    from audioset.embed import Model

_SHOWN = 5


def predict_sounds(
    model: Model,
    data: str | os.PathLike[str],
    *,
    test: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Predictions, tuple[str, ...]]:
    """Return a model's clip scores (the mean over each clip's examples) beside the labels of the clips.

    Parameters
    ----------
    model : Model
        One with classes, as `audioset.load` gives it.
    data : path
        A folder with a subfolder a class, or a csv; see `audioset.finetune.data.read_sounds`.
    test : str, optional
        Only the clips whose names match this pattern, such as `esc10/*/4-*`.
    progress : callable, optional
        Called with the clips done and all clips.

    Returns
    -------
    Predictions
        Of the clips that could be read and have a class of the model.
    tuple of str
        What was left out and why, in sentences.

    Raises
    ------
    OptionError
        The model has no classes, or no clip matches.
    DatasetError
        The data are damaged, or no clip that can be read has a class of the model.
    """
    classes = model.spec.classes
    if classes is None:
        raise OptionError(f"{model.name}: gives embeddings and has no classes to score; expected a model that tags")
    sounds = read_sounds(data, test=test)
    said = list(sounds.warnings)
    place_of = {
        key.casefold(): place
        for place, pair in enumerate(zip(classes.names, classes.mids, strict=True))
        for key in pair
    }
    columns = [
        place_of.get(mid.casefold(), place_of.get(name.casefold()))
        for mid, name in zip(sounds.classes.mids, sounds.classes.names, strict=True)
    ]
    known: list[Clip] = []
    unknown = Counter[str]()
    for clip in sounds.clips:
        if test is not None and clip.split != "test":
            continue
        unknown.update(sounds.classes.names[label] for label in clip.labels if columns[label] is None)
        if all(columns[label] is not None for label in clip.labels):
            known.append(clip)
    if unknown:
        names = ", ".join(f"{name} ({count:,})" for name, count in unknown.most_common(_SHOWN))
        more = f" and {len(unknown) - _SHOWN:,} more" if len(unknown) > _SHOWN else ""
        said.append(f"clips of classes that {model.name} does not have, left out: {names}{more}")
    network = Network(model.spec, model.weights)
    scores, reasons = clip_means(network, "scores", known, threads=model.threads, progress=progress)
    said += reasons.values()
    read = [place for place in range(len(known)) if place not in reasons]
    if not read:
        raise DatasetError(f"{data}: no clip that can be read has a class of {model.name}; {'; '.join(said[:_SHOWN])}")
    truth = np.zeros((len(read), len(classes)), np.bool_)
    for row, place in enumerate(read):
        truth[row, [column for label in known[place].labels if (column := columns[label]) is not None]] = True
    info = {"model": model.name, "weights": model.weights.sha256}
    return Predictions(tuple(known[place].name for place in read), scores[read], truth, None, classes, info), tuple(
        said
    )

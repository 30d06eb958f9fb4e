"""The frozen way: a linear layer on clip embeddings, with its strength of regularization chosen within the data."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from audioset.evaluate.metrics import average_precision, macro
from audioset.finetune.data import Bools
from audioset.finetune.split import inner_folds

Floats = npt.NDArray[np.float64]

# Inverse strengths of regularization to choose from, by the scores that a clip will get, the means over those of its
# examples: what is right for clip embeddings may be far too sure of single examples. Of those whose accuracy (mAP) is
# within a standard error of the best, that with the lowest log loss is taken: by accuracy alone chance decides between
# clips, and log loss alone holds a probe for bad that is right but too sure of new speakers or places.
STRENGTHS: Final = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)
_UNCHOSEN: Final = 0.1  # where the data are too few to choose by
_INNER_FOLDS: Final = 5
_MAX_ITERATIONS: Final = 300
# A dimension that hardly varies is not blown up to vary as much as all others.
_LEAST_DEVIATION: Final = 0.01
# Numbers in the inputs from which on a second core helps.
_WORTH_THREADS: Final = 1 << 20
# Logit of a class that there was nothing to learn from.
_NEVER: Final = -12.0
# Log-odds beyond which nothing is surer.
_CERTAIN: Final = 30.0


@dataclass(frozen=True)
class Probe:
    """A linear layer on embeddings as they are: standardization is folded into its weights.

    Attributes
    ----------
    weights, biases : ndarray of float32, shapes (dim, classes) and (classes,)
        `embeddings @ weights + biases` are the logits.
    strength : float
        Inverse strength of regularization (scikit-learn's C).
    """

    weights: npt.NDArray[np.float32]
    biases: npt.NDArray[np.float32]
    strength: float

    def logits(self, embeddings: npt.NDArray[np.float32]) -> Floats:
        """Return logits, shape (n, classes), of embeddings (n, dim)."""
        return np.asarray(embeddings.astype(np.float64) @ self.weights + self.biases)

    def clip_logits(self, clips: Sequence[npt.NDArray[np.float32]], *, multi_label: bool) -> Floats:
        """Return the log-odds, shape (clips, classes), of clip scores: means over the scores of a clip's examples."""
        logits = self.logits(np.concatenate(clips))
        begins = np.cumsum([0, *(len(clip) for clip in clips)])[:-1]
        lengths = np.array([[len(clip)] for clip in clips])
        if multi_label:
            scores = 1 / (1 + np.exp(-logits.clip(-_CERTAIN, _CERTAIN)))
            means = np.add.reduceat(scores, begins) / lengths
            return np.asarray(np.log(means) - np.log1p(-means))
        scores = np.exp(logits - logits.max(axis=1, keepdims=True))
        means = np.add.reduceat(scores / scores.sum(axis=1, keepdims=True), begins) / lengths
        return np.asarray(np.log(np.maximum(means, np.exp(-_CERTAIN))))


def fit_probe(
    embeddings: npt.NDArray[np.float32],
    targets: Bools,
    groups: Sequence[str],
    *,
    multi_label: bool,
    examples: Sequence[npt.NDArray[np.float32]] | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Probe:
    """Return a logistic regression: multinomial where clips have one class each, else one a class.

    Parameters
    ----------
    embeddings : ndarray of float32, shape (n, dim)
        One a clip: the mean over its examples.
    targets : ndarray of bool, shape (n, classes)
        A class without an example gets a score near 0 everywhere.
    groups : sequence of str
        Clips of one group are never on both sides of the inner cross-validation that chooses the strength.
    multi_label : bool
        Whether classes are scored by themselves.
    examples : sequence of n ndarrays of float32, shape (examples, dim), optional
        One or more of each clip, by whose scores the strength is chosen; the one embedding of each by default.
    seed : int
        Of the folds of that.
    progress : callable, optional
        Called with the fits done and all fits.
    """
    folds = inner_folds(targets, groups, _INNER_FOLDS, seed)
    total = len(folds) * len(STRENGTHS) + 1
    done = 0

    def fitted(rows: Any, strength: float) -> Probe:
        nonlocal done
        found = _fit(embeddings[rows], targets[rows], strength, multi_label)
        done += 1
        if progress is not None:
            progress(done, total)
        return found

    merits: dict[float, tuple[float, float]] = {}
    for strength in STRENGTHS if folds else ():
        logits = np.empty(targets.shape)
        for learnt, held in folds:
            clips = [embeddings[place : place + 1] if examples is None else examples[place] for place in held]
            logits[held] = fitted(learnt, strength).clip_logits(clips, multi_label=multi_label)
        merits[strength] = (_share_right(logits, targets, multi_label), log_loss(logits, targets, multi_label))
    best = max((right for right, _ in merits.values()), default=0.0)
    as_good = best - math.sqrt(best * (1 - best) / len(targets))
    losses = {strength: loss for strength, (right, loss) in merits.items() if right >= as_good}
    chosen = min(losses, key=losses.__getitem__) if losses else _UNCHOSEN
    return fitted(slice(None), chosen)


def _share_right(logits: Floats, targets: Bools, multi_label: bool) -> float:
    """Accuracy; mAP where clips may have several classes."""
    if multi_label:
        return macro(average_precision(logits, targets))
    return float((logits.argmax(axis=1) == targets.argmax(axis=1)).mean())


def log_loss(logits: Floats, targets: Bools, multi_label: bool) -> float:
    """Return the mean cross entropy of clips."""
    if multi_label:
        return float((np.logaddexp(0, logits) - logits * targets).mean())
    top = logits.max(axis=1, keepdims=True)
    total = top[:, 0] + np.log(np.exp(logits - top).sum(axis=1))
    return float((total - (logits * targets).sum(axis=1)).mean())


def _fit(embeddings: npt.NDArray[np.float32], targets: Bools, strength: float, multi_label: bool) -> Probe:
    values = embeddings.astype(np.float64)
    mean, deviation = values.mean(axis=0), values.std(axis=0)
    varying = deviation[deviation > 0]
    scale = np.maximum(deviation, _LEAST_DEVIATION * np.median(varying)) if len(varying) else np.ones_like(deviation)
    inputs = (values - mean) / scale
    num_classes = targets.shape[1]
    weights, biases = np.zeros((values.shape[1], num_classes)), np.full(num_classes, _NEVER)
    if multi_label:
        for place in np.flatnonzero(targets.any(axis=0)):
            if targets[:, place].all():
                biases[place] = -_NEVER
            else:
                model = _regression(inputs, targets[:, place], strength)
                weights[:, place], biases[place] = model.coef_[0], model.intercept_[0]
    else:
        classes = targets.argmax(axis=1)
        present = np.unique(classes)
        if len(present) == 1:
            biases[present] = 0.0
        else:
            model = _regression(inputs, classes, strength)
            if len(present) == 2:  # one logit, of the second class against the first
                weights[:, present] = np.outer(model.coef_[0], [-0.5, 0.5])
                biases[present] = model.intercept_[0] * np.array([-0.5, 0.5])
            else:
                weights[:, present], biases[present] = model.coef_.T, model.intercept_
    folded = weights / scale[:, np.newaxis]
    return Probe(folded.astype(np.float32), (biases - mean @ folded).astype(np.float32), strength)


def _regression(inputs: Floats, classes: npt.NDArray[Any], strength: float) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    # Threads that wait for each other's crumbs take several times as long as one.
    limit = 1 if inputs.size < _WORTH_THREADS else None
    with warnings.catch_warnings(), _thread_pools().limit(limits=limit):
        warnings.simplefilter("ignore", ConvergenceWarning)  # what has not converged by then is regularized by that
        return LogisticRegression(C=strength, max_iter=_MAX_ITERATIONS).fit(inputs, classes)


@cache
def _thread_pools() -> Any:
    """The libraries whose threads are held back, found once: to find them takes longer than a small fit."""
    from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]  # scikit-learn brings it

    return ThreadpoolController()

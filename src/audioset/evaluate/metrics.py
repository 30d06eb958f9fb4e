"""The field's measures of scores against labels: arrays in, numbers out.

Everywhere `scores` is (n, c), clips by classes, higher meaning likelier, on any scale; `targets` is (n, c), true where
the clip has the class; `mask` is (n, c), true where that was rated, and None means everywhere. A cell that was not
rated counts neither as positive nor as negative, whatever its target says.

Equal scores are one threshold (`average_precision`, `roc_auc`, `lwlrap`, `gap`) or a draw by lot, of which the mean is
taken (`hit_at_1`, `perr`, the k-th place of `gap`), so that no result depends on the order of clips or classes; those
of the confusion matrix alone take the first of equal scores. A class without a positive has no average precision, AUC
or lwlrap: they are NaN, and `macro` leaves it out. A class without a negative has no AUC either.

All raise OptionError for shapes that differ, for no clip or no class, for scores that are NaN or infinite and for
targets that are neither 0 nor 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from audioset.errors import OptionError
from audioset.evaluate._ranking import Bools, ClipRanks, Floats, Scores, checked, clip_ranks, column, ratio, run_ends

DEFAULT_TOP_K = 20


def average_precision(scores: npt.ArrayLike, targets: npt.ArrayLike, mask: npt.ArrayLike | None = None) -> Floats:
    """Return the average precision of each class, float64 (c,), in [0, 1]: scikit-learn's `average_precision_score`.

    The sum over thresholds of precision times the step of recall, without interpolation. Its `macro` is the mAP of
    AudioSet's papers.
    """
    return _of_classes(*checked(scores, targets, mask))[0]


def roc_auc(scores: npt.ArrayLike, targets: npt.ArrayLike, mask: npt.ArrayLike | None = None) -> Floats:
    """Return the area under the ROC curve of each class, float64 (c,): scikit-learn's `roc_auc_score`.

    The share of pairs of a positive and a negative in which the positive scores higher; equal scores count one half.
    """
    return _of_classes(*checked(scores, targets, mask))[1]


def d_prime(auc: npt.ArrayLike) -> Floats:
    """Return √2 · Φ⁻¹(AUC), the distance between the scores of two unit normal classes, in the shape of `auc`.

    AudioSet's papers give that of the mean AUC, not the mean over classes. An AUC of 1 gives inf, of 0 −inf, NaN NaN.

    Raises
    ------
    OptionError
        A value is outside [0, 1].
    """
    values = np.asarray(auc, np.float64)
    if ((values < 0) | (values > 1)).any():
        raise OptionError(f"auc: values from {np.nanmin(values)} to {np.nanmax(values)}; expected areas from 0 to 1")
    quantile = NormalDist().inv_cdf

    def of_one(area: float) -> float:
        if 0 < area < 1:
            return math.sqrt(2) * quantile(area)
        return math.nan if math.isnan(area) else math.copysign(math.inf, area - 0.5)

    return np.array([of_one(area) for area in values.ravel()]).reshape(values.shape)


def macro(values: npt.ArrayLike) -> float:
    """Return the mean over the classes that have a value, NaN where none has."""
    defined = np.asarray(values, np.float64)
    defined = defined[~np.isnan(defined)]
    return float(defined.mean()) if len(defined) else math.nan


def lwlrap(scores: npt.ArrayLike, targets: npt.ArrayLike, mask: npt.ArrayLike | None = None) -> float:
    """Return the label-weighted label-ranking average precision: the mean over all labels of the precision at each.

    The precision at a label of a clip is the share of the clip's own labels among the classes that score as high or
    higher there. DCASE 2019 task 2; scikit-learn's `label_ranking_average_precision_score` with each clip weighted by
    its number of labels. NaN without any label.
    """
    ranks = _ranks(scores, targets, mask)
    return float(ratio(ranks.class_precision.sum(), ranks.class_labels.sum()))


def lwlrap_per_class(scores: npt.ArrayLike, targets: npt.ArrayLike, mask: npt.ArrayLike | None = None) -> Floats:
    """Return the mean over a class's labels of the precision at each, float64 (c,).

    Its mean, weighted by the classes' numbers of labels, is `lwlrap`.
    """
    ranks = _ranks(scores, targets, mask)
    return ratio(ranks.class_precision, ranks.class_labels)


def gap(
    scores: npt.ArrayLike, targets: npt.ArrayLike, mask: npt.ArrayLike | None = None, *, k: int = DEFAULT_TOP_K
) -> float:
    """Return the global average precision of YouTube-8M: that of every clip's `k` highest predictions in one list.

    The denominator is the number of all labels, those beyond a clip's k-th prediction too, as in the starter code of
    the challenge. Scores must be comparable between clips and classes. NaN without any label.

    Raises
    ------
    OptionError
        `k` is below 1; or as for all.
    """
    if k < 1:
        raise OptionError(f"k: {k}; expected at least 1")
    ranks = _ranks(scores, targets, mask, k)
    return float(ranks.gap(_ones(len(ranks.num_labels)))[0])


def hit_at_1(scores: npt.ArrayLike, targets: npt.ArrayLike, mask: npt.ArrayLike | None = None) -> float:
    """Return the share of clips whose highest score is of one of their labels; clips without a label are left out."""
    ranks = _ranks(scores, targets, mask)
    return float(ranks.hit_at_1(_ones(len(ranks.num_labels)))[0])


def perr(scores: npt.ArrayLike, targets: npt.ArrayLike, mask: npt.ArrayLike | None = None) -> float:
    """Return the precision at equal recall rate: of as many classes as a clip has labels, the share that are labels.

    The mean over clips with a label (YouTube-8M's paper; its starter code counts the others as 0).
    """
    ranks = _ranks(scores, targets, mask)
    return float(ranks.perr(_ones(len(ranks.num_labels)))[0])


def confusion_matrix(scores: npt.ArrayLike, targets: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Return how many clips of each class, in rows, were given each class, in columns: int64 (c, c).

    A clip is given the class of its highest score, the first of equal ones.

    Raises
    ------
    OptionError
        A clip has no label or several; or as for all.
    """
    values, positive, _ = checked(scores, targets, None)
    true = single_labels(positive)
    num_classes = positive.shape[1]
    pairs = np.bincount(true * num_classes + values.argmax(axis=1), minlength=num_classes**2)
    return pairs.reshape(num_classes, num_classes).astype(np.int64)


def accuracy(scores: npt.ArrayLike, targets: npt.ArrayLike) -> float:
    """Return the share of clips that are given their class; errors are those of `confusion_matrix`."""
    confusion = confusion_matrix(scores, targets)
    return float(of_confusion(confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0))["accuracy"])


def balanced_accuracy(scores: npt.ArrayLike, targets: npt.ArrayLike) -> float:
    """Return the mean, over classes with clips, of the share of their clips that are given it."""
    confusion = confusion_matrix(scores, targets)
    return float(of_confusion(confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0))["balanced_accuracy"])


def macro_f1(scores: npt.ArrayLike, targets: npt.ArrayLike) -> float:
    """Return the mean of F1 over the classes that clips have or are given: scikit-learn's `f1_score`, macro."""
    confusion = confusion_matrix(scores, targets)
    return float(of_confusion(confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0))["macro_f1"])


@dataclass(frozen=True)
class PrecisionRecall:
    """A precision–recall curve: what is called positive from a threshold up, one entry a distinct score.

    Attributes
    ----------
    precision, recall : float64 (t,), highest threshold first; recall rises.
    thresholds : float64 (t,), falling.
    average_precision : float, the area in steps under the curve.
    """

    precision: Floats
    recall: Floats
    thresholds: Floats
    average_precision: float


def precision_recall(
    scores: npt.ArrayLike, targets: npt.ArrayLike, mask: npt.ArrayLike | None = None
) -> PrecisionRecall:
    """Return the curve of one class; `scores`, `targets` and `mask` are (n,). Recall is NaN without a positive."""
    one = checked(np.asarray(scores)[..., np.newaxis], np.asarray(targets)[..., np.newaxis], _column_of(mask))
    values, positive = one[0][:, 0], one[1][:, 0]
    if one[2] is not None:
        values, positive = values[one[2][:, 0]], positive[one[2][:, 0]]
    order = np.argsort(values)[::-1]
    ranked = values[order]
    ends = run_ends(ranked)
    true = np.cumsum(positive[order])[ends]
    precision, recall = ratio(true, ends + 1), ratio(true, positive.sum())
    area = float((np.diff(recall, prepend=0.0) * precision).sum()) if positive.any() else math.nan
    return PrecisionRecall(precision, recall, ranked[ends].astype(np.float64), area)


def of_confusion(correct: npt.ArrayLike, true: npt.ArrayLike, given: npt.ArrayLike) -> dict[str, Floats]:
    """Accuracy, balanced accuracy and macro F1 by name, from how many clips each class has right, has, and is given.

    Classes are the last axis; leading axes stay.
    """
    correct, true, given = (np.asarray(values, np.float64) for values in (correct, true, given))
    recall, f1 = ratio(correct, true), ratio(2 * correct, true + given)
    return {
        "accuracy": ratio(correct.sum(axis=-1), true.sum(axis=-1)),
        "balanced_accuracy": ratio(np.nansum(recall, axis=-1), (true > 0).sum(axis=-1)),
        "macro_f1": ratio(np.nansum(f1, axis=-1), (true + given > 0).sum(axis=-1)),
    }


def single_labels(positive: Bools) -> npt.NDArray[np.intp]:
    """The one class of each clip, (n,); OptionError where a clip has none or several."""
    counts = positive.sum(axis=1)
    odd = np.flatnonzero(counts != 1)
    if len(odd):
        raise OptionError(
            f"targets: {len(odd)} of {len(positive)} clips do not have exactly one class, the first is row {odd[0]} "
            f"with {counts[odd[0]]}; expected one each. Use the metrics for several labels, such as average_precision"
        )
    return np.asarray(positive.argmax(axis=1), np.intp)


def _of_classes(scores: Scores, targets: Bools, mask: Bools | None) -> tuple[Floats, Floats]:
    once = _ones(len(scores))
    pairs = [
        column(scores[:, j], targets[:, j], None if mask is None else mask[:, j]).average_precision_and_auc(once)
        for j in range(scores.shape[1])
    ]
    return np.array([ap[0] for ap, _ in pairs]), np.array([auc[0] for _, auc in pairs])


def _ranks(
    scores: npt.ArrayLike, targets: npt.ArrayLike, mask: npt.ArrayLike | None, k: int = DEFAULT_TOP_K
) -> ClipRanks:
    return clip_ranks(*checked(scores, targets, mask), k)


def _ones(num_clips: int) -> npt.NDArray[np.uint8]:
    return np.ones((num_clips, 1), np.uint8)


def _column_of(mask: npt.ArrayLike | None) -> npt.NDArray[np.bool_] | None:
    return None if mask is None else np.asarray(mask)[..., np.newaxis]

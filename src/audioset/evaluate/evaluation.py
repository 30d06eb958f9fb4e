"""All metrics of one set of scores, with intervals, as one value that can be printed, kept as JSON and drawn."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from audioset.classes import ClassList
from audioset.errors import OptionError, RecordError
from audioset.evaluate import bootstrap, metrics
from audioset.evaluate._ranking import checked, clip_ranks, column, ratio

# Name in results and JSON: what people call it, in the order in which they are shown.
METRICS = MappingProxyType(
    {
        "map": "mAP",
        "auc": "AUC",
        "d_prime": "d′",
        "lwlrap": "lwlrap",
        "gap_20": "GAP@20",
        "hit_1": "Hit@1",
        "perr": "PERR",
        "accuracy": "accuracy",
        "balanced_accuracy": "balanced accuracy",
        "macro_f1": "macro F1",
    }
)

_FORMAT = "audioset evaluation 1"
_INFINITE: dict[str, float] = {"inf": math.inf, "-inf": -math.inf}


@dataclass(frozen=True)
class Estimate:
    """A metric with the bounds of its interval, which are NaN where none was asked for."""

    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class ClassResult:
    """The metrics of one class.

    Attributes
    ----------
    name, mid : str
        `mid` is empty for classes that have none.
    positives, rated : int
        Clips that have the class, and clips of which that is known.
    average_precision, auc, d_prime, lwlrap : float
        NaN where undefined: without a positive; AUC and d′ without a negative too. d′ of an AUC of 1 is inf.
    ap_low, ap_high : float
        Bounds of the interval of the average precision, NaN without one.
    quality : float
        Share of the class's labels that raters found right, NaN where unknown.
    """

    name: str
    mid: str
    positives: int
    rated: int
    average_precision: float
    ap_low: float
    ap_high: float
    auc: float
    d_prime: float
    lwlrap: float
    quality: float


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    Attributes
    ----------
    metrics : dict of str to Estimate
        By the names of `METRICS`; the last three only where every clip has exactly one class.
    classes : tuple of ClassResult
        In the order of the columns.
    confusion : tuple of tuples of int, or None
        Row: the class of the clip, column: the class it was given; None where clips may have several.
    num_clips, num_unlabelled : int
        All clips, and those without any label, which count in no metric of clips.
    resamples, seed : int
        Of the intervals; `resamples` is 0 without.
    confidence : float
        Of the intervals.
    """

    metrics: dict[str, Estimate]
    classes: tuple[ClassResult, ...]
    confusion: tuple[tuple[int, ...], ...] | None
    num_clips: int
    num_unlabelled: int
    resamples: int
    seed: int
    confidence: float = bootstrap.CONFIDENCE

    @property
    def num_undefined(self) -> int:
        """Classes without a positive, which are in no mean over classes."""
        return sum(of_class.positives == 0 for of_class in self.classes)

    def to_table(self) -> list[tuple[str, str, str]]:
        """Return a row a metric: what it is called, its value, its interval ("" without), ready to print."""
        return [
            (title, _shown(self.metrics[name].value), _shown_interval(self.metrics[name]))
            for name, title in METRICS.items()
            if name in self.metrics
        ]

    def to_json(self) -> str:
        """Return it as JSON; NaN is null, infinite values are the strings "inf" and "-inf"."""
        return json.dumps({"format": _FORMAT, **_to_plain(asdict(self))}, ensure_ascii=False, allow_nan=False, indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> Evaluation:
        """Return what `to_json` wrote.

        Raises
        ------
        RecordError
            The text is not JSON, or is not what `to_json` writes.
        """
        try:
            plain = json.loads(text)
        except ValueError as error:  # undecodable bytes too
            raise RecordError(f"evaluation: not JSON ({error}); expected what `Evaluation.to_json` writes") from error
        if not isinstance(plain, dict) or plain.get("format") != _FORMAT:
            raise RecordError(f'evaluation: JSON of something else; expected an object with "format": "{_FORMAT}"')
        try:
            confusion = plain["confusion"]
            num_classes = len(plain["classes"])
            if unknown := plain["metrics"].keys() - METRICS.keys():
                raise ValueError(f"unknown metrics {sorted(unknown)}")
            if confusion is not None and [len(row) for row in confusion] != [num_classes] * num_classes:
                raise ValueError(f"the confusion matrix is not of {num_classes} classes")
            return cls(
                metrics={str(name): _read(Estimate, of) for name, of in plain["metrics"].items()},
                classes=tuple(_read(ClassResult, of) for of in plain["classes"]),
                confusion=None if confusion is None else tuple(tuple(int(n) for n in row) for row in confusion),
                **{name: int(plain[name]) for name in ("num_clips", "num_unlabelled", "resamples", "seed")},
                confidence=float(plain["confidence"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise RecordError(
                f"evaluation: damaged ({type(error).__name__}: {error}); expected all of what `to_json` writes"
            ) from error


def evaluate(
    scores: npt.ArrayLike,
    targets: npt.ArrayLike,
    classes: ClassList | Sequence[str],
    *,
    mask: npt.ArrayLike | None = None,
    groups: npt.ArrayLike | None = None,
    quality: npt.ArrayLike | None = None,
    single_label: bool | None = None,
    resamples: int = bootstrap.DEFAULT_RESAMPLES,
    seed: int = 0,
    progress: Callable[[int, int], object] | None = None,
) -> Evaluation:
    """Return all metrics of `scores` against `targets`, with intervals.

    Parameters
    ----------
    scores, targets, mask : arrays (n, c)
        See `audioset.evaluate.metrics`.
    classes : ClassList or names
        Of the columns.
    groups : array (n,), optional
        Clips that belong together (one recording, one speaker); intervals draw them together. See `resample`.
    quality : array (c,), optional
        Share of each class's labels that are right, NaN where unknown; is put beside the results, changes none.
    single_label : bool, optional
        Whether each clip has exactly one class; then also accuracy, balanced accuracy, macro F1 and confusion matrix.
        By default it is so where all clips of `targets` have one label and all cells are rated.
    resamples : int
        For the intervals, which take nearly all of the time: 20 s for AudioSet's evaluation set. 0 for none.
    seed : int
        Of the resamples.
    progress : callable, optional
        Called with the steps done and all steps.

    Raises
    ------
    OptionError
        Shapes differ or are empty, scores are not finite, targets not 0 or 1, no cell is positive, or `single_label`
        asks for what the targets are not.
    """
    values, positive, rated = checked(scores, targets, mask)
    if not positive.any():
        raise OptionError(
            f"targets: none of {len(positive)} clips has a label; expected some. Do clips and labels match?"
        )
    num_clips, num_classes = values.shape
    mids, names = _names(classes, num_classes)
    qualities = _qualities(quality, num_classes)
    if single_label is None:
        single_label = rated is None and bool((positive.sum(axis=1) == 1).all())
    elif single_label:
        if rated is not None:
            raise OptionError("single_label: clips with cells that are not rated; expected targets without a mask")
        metrics.single_labels(positive)
    once = np.ones((num_clips, 1), np.uint8)
    columns = [
        column(values[:, j], positive[:, j], None if rated is None else rated[:, j]).average_precision_and_auc(once)
        for j in range(num_classes)
    ]
    average_precision, auc = (np.array([pair[which][0] for pair in columns]) for which in (0, 1))
    ranks = clip_ranks(values, positive, rated, metrics.DEFAULT_TOP_K)
    confusion = metrics.confusion_matrix(values, positive) if single_label else None
    found = {
        "map": metrics.macro(average_precision),
        "auc": metrics.macro(auc),
        "lwlrap": float(ranks.lwlrap(once)[0]),
        "gap_20": float(ranks.gap(once)[0]),
        "hit_1": float(ranks.hit_at_1(once)[0]),
        "perr": float(ranks.perr(once)[0]),
    }
    if confusion is not None:
        sums = metrics.of_confusion(confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0))
        found |= {name: float(value) for name, value in sums.items()}
    estimates = {name: Estimate(value) for name, value in found.items()}
    ap_bounds = [(math.nan, math.nan)] * num_classes
    if resamples:
        drawn = bootstrap.resample(
            values, positive, rated,
            resamples=resamples, seed=seed, groups=groups, single_label=single_label, progress=progress,
        )  # fmt: skip
        estimates = {
            name: Estimate(value, *bootstrap.interval(drawn.values[name], value)) for name, value in found.items()
        }
        ap_bounds = [
            bootstrap.interval(drawn.average_precision[:, j], average_precision[j]) for j in range(num_classes)
        ]
    of_auc = estimates["auc"]
    estimates["d_prime"] = Estimate(*metrics.d_prime([of_auc.value, of_auc.low, of_auc.high]).tolist())
    table = zip(
        names,
        mids,
        positive.sum(axis=0).tolist(),
        (np.full(num_classes, num_clips) if rated is None else rated.sum(axis=0)).tolist(),
        average_precision.tolist(),
        *zip(*ap_bounds, strict=True),
        auc.tolist(),
        metrics.d_prime(auc).tolist(),
        ratio(ranks.class_precision, ranks.class_labels).tolist(),
        qualities.tolist(),
        strict=True,
    )
    return Evaluation(
        metrics={name: estimates[name] for name in METRICS if name in estimates},
        classes=tuple(ClassResult(*row) for row in table),
        confusion=None if confusion is None else tuple(tuple(row) for row in confusion.tolist()),
        num_clips=num_clips,
        num_unlabelled=int((ranks.num_labels == 0).sum()),
        resamples=resamples,
        seed=seed,
    )


def _names(classes: ClassList | Sequence[str], num_classes: int) -> tuple[Sequence[str], Sequence[str]]:
    mids, names = (classes.mids, classes.names) if isinstance(classes, ClassList) else ([""] * len(classes), classes)
    if isinstance(classes, str) or len(names) != num_classes:
        raise OptionError(
            f"classes: {len(names)} names; expected one for each of the {num_classes} columns of the scores"
        )
    return mids, names


def _qualities(quality: npt.ArrayLike | None, num_classes: int) -> npt.NDArray[np.float64]:
    if quality is None:
        return np.full(num_classes, np.nan)
    values = np.asarray(quality, np.float64)
    if values.shape != (num_classes,) or ((values < 0) | (values > 1)).any():
        raise OptionError(
            f"quality: shape {values.shape}; expected a share from 0 to 1, or NaN, for each of {num_classes} classes"
        )
    return values


def _shown(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4f}"


def _shown_interval(estimate: Estimate) -> str:
    return "" if math.isnan(estimate.low) else f"{estimate.low:.4f} … {estimate.high:.4f}"


def _to_plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def _read(kind: Any, plain: dict[str, Any]) -> Any:
    """An Estimate or a ClassResult from its JSON, each field of the type that it should be."""
    readers: dict[str, Callable[[Any], Any]] = {"float": _number, "int": int, "str": str}
    return kind(**{field.name: readers[str(field.type)](plain[field.name]) for field in fields(kind)})


def _number(plain: Any) -> float:
    if plain is None:
        return math.nan
    return _INFINITE[plain] if isinstance(plain, str) else float(plain)

"""How good scores are: metrics, their intervals, a report, and files of scores to evaluate later."""

from __future__ import annotations

from audioset.evaluate.bootstrap import DEFAULT_RESAMPLES, Resampled, resample
from audioset.evaluate.evaluation import METRICS, ClassResult, Estimate, Evaluation, evaluate
from audioset.evaluate.metrics import (
    PrecisionRecall,
    accuracy,
    average_precision,
    balanced_accuracy,
    confusion_matrix,
    d_prime,
    gap,
    hit_at_1,
    lwlrap,
    lwlrap_per_class,
    macro,
    macro_f1,
    perr,
    precision_recall,
    roc_auc,
)
from audioset.evaluate.predictions import PredictionBatch, Predictions, read_predictions, write_predictions
from audioset.evaluate.report import write_report

__all__ = [
    "DEFAULT_RESAMPLES",
    "METRICS",
    "ClassResult",
    "Estimate",
    "Evaluation",
    "PrecisionRecall",
    "PredictionBatch",
    "Predictions",
    "Resampled",
    "accuracy",
    "average_precision",
    "balanced_accuracy",
    "confusion_matrix",
    "d_prime",
    "evaluate",
    "gap",
    "hit_at_1",
    "lwlrap",
    "lwlrap_per_class",
    "macro",
    "macro_f1",
    "perr",
    "precision_recall",
    "read_predictions",
    "resample",
    "roc_auc",
    "write_predictions",
    "write_report",
]

"""What fine-tuning came to: the file, how good it is on clips that it did not learn from, and what was left out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from audioset.classes import ClassList
from audioset.evaluate import METRICS, Evaluation
from audioset.finetune.options import FinetuneOptions

_SHOWN = ("accuracy", "balanced_accuracy", "macro_f1", "map", "auc")


@dataclass(frozen=True)
class Finetuned:
    """A model of one's own, and what is known of it.

    Attributes
    ----------
    path : Path
        The file, for `audioset.load` and `audioset tag --model`.
    base, weights : str
        The model that it comes from, and SHA-256 of the weights that it started with.
    classes : ClassList
        What it scores.
    multi_label : bool
        Whether it scores classes by themselves.
    options : FinetuneOptions
        How it was learnt.
    counts : mapping of str to sequence of int
        Clips of each class by what they were for: "train", "valid", "test".
    num_clips : mapping of str to int
        Clips, likewise.
    valid, test : Evaluation or None
        Of the file, run as `audioset tag` runs it, on clips that it did not learn from. Early stopping, where there was
        any, looked at the former.
    folds : tuple of Evaluation
        Of each fold's model on what was held out from it.
    pooled : Evaluation or None
        Of all folds together: each clip scored by the model that did not learn from it.
    strength : float
        Of the linear layer: scikit-learn's C, chosen by cross-validation within what was learnt from.
    epochs : int or None
        In `full`: how many the weights that were kept took.
    failed : tuple of str
        Why clips could not be read, a sentence each.
    warnings : tuple of str
        What else was left out or is lacking.
    """

    path: Path
    base: str
    weights: str
    classes: ClassList
    multi_label: bool
    options: FinetuneOptions
    counts: Mapping[str, Sequence[int]]
    num_clips: Mapping[str, int]
    valid: Evaluation | None
    test: Evaluation | None
    folds: tuple[Evaluation, ...]
    pooled: Evaluation | None
    strength: float
    epochs: int | None
    failed: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def num_learnt(self) -> Sequence[int]:
        """How many clips of each class it learnt from."""
        return self.counts["train"]

    def fold_summary(self) -> list[tuple[str, float, float]]:
        """Return a row a metric: what it is called, its mean over the folds, its standard deviation over them."""
        return [
            (METRICS[name], mean(values), stdev(values))
            for name in _SHOWN
            if len(values := [of.metrics[name].value for of in self.folds if name in of.metrics]) > 1
        ]

    def to_json(self) -> str:
        """Return it as JSON; evaluations are as `Evaluation.to_json` writes them."""
        return json.dumps(self._plain(), ensure_ascii=False, indent=1)

    def _plain(self) -> dict[str, Any]:
        def plain(evaluation: Evaluation | None) -> Any:
            return None if evaluation is None else json.loads(evaluation.to_json())

        return {
            "model": str(self.path),
            "base": self.base,
            "base_weights": self.weights,
            "classes": [{"mid": mid, "name": name} for mid, name in zip(*self._pairs(), strict=True)],
            "multi_label": self.multi_label,
            "options": asdict(self.options),
            "clips": dict(self.num_clips),
            "clips_of_class": {what: list(counts) for what, counts in self.counts.items()},
            "strength": self.strength,
            "epochs": self.epochs,
            "test": plain(self.test),
            "valid": plain(self.valid),
            "folds": [plain(of) for of in self.folds],
            "folds_pooled": plain(self.pooled),
            "folds_summary": {name: {"mean": middle, "sd": spread} for name, middle, spread in self.fold_summary()},
            "failed": list(self.failed),
            "warnings": list(self.warnings),
        }

    def _pairs(self) -> tuple[Sequence[str], Sequence[str]]:
        return self.classes.mids, self.classes.names


def confusion_text(evaluation: Evaluation, *, width: int = 100, most: int = 15) -> str:
    """Return a confusion matrix as aligned text; the most frequent confusions alone where it would be too wide.

    Rows are the classes of the clips, columns the classes that they were given; dots are zeros.

    Parameters
    ----------
    evaluation : Evaluation
        Of clips with one class each.
    width : int
        Characters in a line.
    most : int
        Confusions to list where there is no room for the matrix.
    """
    from rich.cells import cell_len, set_cell_size

    if evaluation.confusion is None:
        return ""
    names, rows = [of.name for of in evaluation.classes], evaluation.confusion
    wide = min(max(map(cell_len, names)), 24)
    cell = max(len(str(max(map(max, rows)))), len(str(len(names)))) + 1
    lines = []
    if wide + 5 + cell * len(names) <= width:
        number = len(str(len(names)))
        lines.append(" " * (wide + number + 1) + "".join(f"{place + 1:>{cell}}" for place in range(len(names))))
        for place, (name, row) in enumerate(zip(names, rows, strict=True)):
            counts = "".join(f"{count or '·':>{cell}}" for count in row)
            lines.append(f"{set_cell_size(name, wide)} {place + 1:>{number}}{counts}")
        return "\n".join(lines)
    pairs = sorted(
        ((count, i, j) for i, row in enumerate(rows) for j, count in enumerate(row) if i != j and count),
        key=lambda pair: -pair[0],
    )
    for count, i, j in pairs[:most]:
        lines.append(f"{count:>6,} of {sum(rows[i]):,} {names[i]} given {names[j]}")
    if len(pairs) > most:
        lines.append(f"{len(pairs) - most:>6,} further confusions")
    return "\n".join(lines)

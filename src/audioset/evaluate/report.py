"""An evaluation as one HTML file that needs nothing else: no network, no other file, no plotting library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path

import numpy as np

from audioset._files import written_whole
from audioset.evaluate import _charts
from audioset.evaluate._charts import Axis, Point
from audioset.evaluate.evaluation import METRICS, ClassResult, Estimate, Evaluation
from audioset.evaluate.metrics import PrecisionRecall

_MAX_BARS = 40  # more classes are dots by rank
_MAX_MATRIX = 60  # more classes have the confusions only, not the matrix
_MAX_CURVE_POINTS = 400
_NUM_CONFUSIONS = 15

_MEANINGS = {
    "map": "mean over classes of the average precision",
    "auc": "mean over classes of the area under the ROC curve",
    "d_prime": "√2 · Φ⁻¹ of the mean AUC",
    "lwlrap": "mean precision at each label among its clip's classes",
    "gap_20": "average precision of each clip's 20 highest, pooled",
    "hit_1": "clips whose highest score is right",
    "perr": "right ones among as many classes as a clip has labels",
    "accuracy": "clips given their class",
    "balanced_accuracy": "mean of it over classes",
    "macro_f1": "mean over classes of F1",
}


def write_report(
    evaluation: Evaluation,
    path: Path | str,
    *,
    title: str = "Evaluation",
    curves: Mapping[str, PrecisionRecall] | None = None,
    parameters: Mapping[str, object] | None = None,
) -> None:
    """Write an evaluation as one HTML file, whole or not at all.

    It has the metrics with their intervals, the average precision of the classes sorted, and against their numbers of
    positives and the quality of their labels where known, the confusion matrix where clips have one class each, and a
    table to sort and search. It opens offline, light or dark as the reader's system is, and prints.

    Parameters
    ----------
    evaluation : Evaluation
    path : path
        The file; it is replaced.
    title : str
        Above everything.
    curves : mapping of str to PrecisionRecall, optional
        Precision–recall curves to draw, by the name to show; see `precision_recall`.
    parameters : mapping of str to object, optional
        What was evaluated and how: model, weights, head, data, command; shown as text.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    page = _page(evaluation, title, curves or {}, parameters or {})
    with written_whole(Path(path)) as temporary:
        # Names from a file system may hold what is not Unicode.
        temporary.write_text(page, encoding="utf-8", errors="replace")


def _page(
    evaluation: Evaluation, title: str, curves: Mapping[str, PrecisionRecall], parameters: Mapping[str, object]
) -> str:
    parts = [_head(evaluation), _sorted_precision(evaluation), _curves(curves), _relations(evaluation)]
    parts += [_confusion(evaluation), _table(evaluation), _parameters(evaluation, parameters)]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        "script-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{_part('report.css')}</style></head>\n<body><h1>{escape(title)}</h1>\n"
        + "\n".join(part for part in parts if part)
        + f"\n<script>{_part('report.js')}</script></body></html>\n"
    )


def _part(name: str) -> str:
    return resources.files("audioset.evaluate").joinpath(name).read_text(encoding="utf-8")


def _head(evaluation: Evaluation) -> str:
    said = [f"{evaluation.num_clips:,} clips, {_counted(len(evaluation.classes))}."]
    if evaluation.num_undefined:
        said.append(f"{_counted(evaluation.num_undefined)} without a positive, in no mean over classes.")
    if evaluation.num_unlabelled:
        said.append(f"Clips without any label, which lwlrap, Hit@1 and PERR leave out: {evaluation.num_unlabelled:,}.")
    if evaluation.resamples:
        said.append(f"Intervals are {evaluation.confidence:.0%}, from {evaluation.resamples:,} resamples of the clips.")
    cards = "".join(
        f'<div class="card"><span>{METRICS[name]}</span><b>{_number(estimate.value)}</b>'
        f"<i>{_bounds(estimate)}</i><i>{_MEANINGS[name]}</i></div>"
        for name, estimate in evaluation.metrics.items()
    )
    return f'<p>{" ".join(said)}</p><div class="cards">{cards}</div>'


def _sorted_precision(evaluation: Evaluation) -> str:
    ranked = _ranked(evaluation)
    if not ranked:
        return ""
    points = [
        Point(rank, of.average_precision, _said(of), of.ap_low, of.ap_high) for rank, of in enumerate(ranked, start=1)
    ]
    if len(points) <= _MAX_BARS:
        named = [(of.name, point) for of, point in zip(ranked, points, strict=True)]
        chart = _charts.bars("average precision of each class", "average precision", named)
    else:
        across = Axis("classes, highest average precision first", 0, len(points) + 1)
        down = Axis("average precision", 0, 1)
        chart = _charts.scatter("average precision of each class", across, down, points, width=1100)
    return f"<h2>Average precision by class</h2><figure>{chart}</figure>"


def _curves(curves: Mapping[str, PrecisionRecall]) -> str:
    drawn = {name: curve for name, curve in curves.items() if not math.isnan(curve.average_precision)}
    if not curves:
        return ""
    key = "".join(
        f'<li><svg viewBox="0 0 26 10" aria-hidden="true"><path class="line s{i % _charts.NUM_COLOURS}'
        f'{" dashed" if i >= _charts.NUM_COLOURS else ""}" d="M0 5H26"/></svg>{escape(name)} '
        f"({curve.average_precision:.3f})</li>"
        for i, (name, curve) in enumerate(drawn.items())
    )
    without = [escape(name) for name in curves if name not in drawn]
    note = f"<p>No positive, so no curve: {', '.join(without)}.</p>" if without else ""
    axes = Axis("recall", 0, 1), Axis("precision", 0, 1)
    chart = _charts.steps("precision against recall", *axes, map(_thinned, drawn.values()), width=760, height=400)
    return (
        f'<h2>Precision and recall</h2><p>In brackets: average precision.</p><ul class="key">{key}</ul>{note}'
        f"<figure>{chart}</figure>"
    )


def _thinned(curve: PrecisionRecall) -> Sequence[tuple[float, float]]:
    """The highest precision at each recall, in as many points as can be seen."""
    recall, first = np.unique(curve.recall, return_index=True)
    precision = curve.precision[first]
    if recall[0] == 0 and len(recall) > 1:  # negatives above the first positive: where the curve begins shows them
        recall, precision = recall[1:], precision[1:]
    kept = np.unique(np.linspace(0, len(recall) - 1, min(len(recall), _MAX_CURVE_POINTS)).round().astype(int))
    return list(zip(recall[kept].tolist(), precision[kept].tolist(), strict=True))


def _relations(evaluation: Evaluation) -> str:
    ranked = _ranked(evaluation)
    if not ranked:
        return ""
    figures = []
    precision = Axis("average precision", 0, 1)
    most, least = max(of.positives for of in ranked), min(of.positives for of in ranked)
    if most > least:
        across = Axis("positives", least * 0.8, most * 1.25, log=True)
        points = [Point(of.positives, of.average_precision, _said(of)) for of in ranked]
        chart = _charts.scatter("average precision against positives", across, precision, points)
        figures.append(("Against the number of positives", chart, ""))
    rated = [of for of in ranked if not math.isnan(of.quality)]
    if rated:
        points = [Point(of.quality, of.average_precision, f"{_said(of)}, quality {of.quality:.2f}") for of in rated]
        across = Axis("share of labels that raters found right", 0, 1)
        chart = _charts.scatter("average precision against label quality", across, precision, points)
        figures.append(("Against the quality of labels", chart, f"{len(rated):,} classes with rated labels."))
    drawn = "".join(
        f"<div><h2>{head}</h2><figure>{chart}</figure>{f'<p>{note}</p>' if note else ''}</div>"
        for head, chart, note in figures
    )
    return f'<div class="two">{drawn}</div>' if drawn else ""


def _confusion(evaluation: Evaluation) -> str:
    if evaluation.confusion is None:
        return ""
    names = [of.name for of in evaluation.classes]
    counts = np.array(evaluation.confusion)
    parts = ["<h2>Confusion</h2>"]
    if len(names) <= _MAX_MATRIX:
        chart = _charts.matrix("confusion matrix", names, evaluation.confusion)
        parts.append("<p>Rows: the class of the clip; columns: the class it was given. Shade: share of the row.</p>")
        parts.append(f"<figure>{chart}</figure>")
    wrong = counts * ~np.eye(len(names), dtype=bool)
    pairs = np.argwhere(wrong)
    pairs = pairs[np.argsort(-wrong[tuple(pairs.T)], kind="stable")][:_NUM_CONFUSIONS]
    if len(pairs):
        totals = counts.sum(axis=1)
        rows = "".join(
            f'<tr><td class="n">{escape(names[i])}</td><td class="n">{escape(names[j])}</td>'
            f"<td>{wrong[i, j]:,} of {totals[i]:,}</td></tr>"
            for i, j in pairs
        )
        head = '<th class="n">class</th><th class="n">given</th><th>clips</th>'
        parts.append(
            '<h2>Most frequent confusions</h2><div class="wide" style="max-width:640px">'
            f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
        )
    return "".join(parts)


def _table(evaluation: Evaluation) -> str:
    with_mids = any(of.mid for of in evaluation.classes)
    with_quality = any(not math.isnan(of.quality) for of in evaluation.classes)
    with_rated = any(of.rated < evaluation.num_clips for of in evaluation.classes)
    heads = ["class", *(["mid"] if with_mids else []), "positives", *(["rated"] if with_rated else []), "AP"]
    heads += [*(["AP from", "to"] if evaluation.resamples else []), "AUC", "d′", "lwlrap"]
    heads += ["label quality"] if with_quality else []
    texts = 2 if with_mids else 1
    rows = []
    for of in evaluation.classes:
        numbers: list[float] = [of.positives, *([of.rated] if with_rated else []), of.average_precision]
        numbers += [*([of.ap_low, of.ap_high] if evaluation.resamples else []), of.auc, of.d_prime, of.lwlrap]
        numbers += [of.quality] if with_quality else []
        names = [of.name, of.mid][:texts]
        cells = "".join(f'<td class="n">{escape(name)}</td>' for name in names)
        rows.append(f"<tr>{cells}{''.join(map(_cell, numbers))}</tr>")
    head = "".join(
        f'<th{" class=n" if i < texts else ""}><button type="button">{name}</button></th>'
        for i, name in enumerate(heads)
    )
    return (
        '<h2>All classes</h2><input id="find" type="search" placeholder="Find a class" aria-label="Find a class">'
        f'<div class="wide"><table id="classes"><thead><tr>{head}</tr></thead><tbody>\n'
        + "\n".join(rows)
        + "\n</tbody></table></div>"
    )


def _parameters(evaluation: Evaluation, parameters: Mapping[str, object]) -> str:
    from audioset import __version__

    said: dict[str, object] = {"audioset": __version__}
    if evaluation.resamples:
        said |= {"resamples": f"{evaluation.resamples:,}", "seed": evaluation.seed}
    said |= parameters
    rows = "".join(f"<dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd>" for name, value in said.items())
    return f"<h2>How this was made</h2><dl>{rows}</dl>"


def _counted(classes: int) -> str:
    return "1 class" if classes == 1 else f"{classes:,} classes"


def _ranked(evaluation: Evaluation) -> list[ClassResult]:
    defined = [of for of in evaluation.classes if not math.isnan(of.average_precision)]
    return sorted(defined, key=lambda of: -of.average_precision)


def _said(of: ClassResult) -> str:
    bounds = "" if math.isnan(of.ap_low) else f" ({of.ap_low:.3f} to {of.ap_high:.3f})"
    return f"{of.name}: AP {of.average_precision:.3f}{bounds}, {of.positives:,} positives"


def _bounds(estimate: Estimate) -> str:
    return "" if math.isnan(estimate.low) else f"{_number(estimate.low)} to {_number(estimate.high)}"


def _number(value: float) -> str:
    if math.isnan(value):
        return "–"
    return f"{value:.3f}" if math.isfinite(value) else ("∞" if value > 0 else "−∞")


def _cell(value: float) -> str:
    if math.isnan(value):
        return "<td>–</td>"
    shown = f"{value:,}" if isinstance(value, int) else _number(value)
    return f'<td data-v="{str(value).replace("inf", "Infinity")}">{shown}</td>'

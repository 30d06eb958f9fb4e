"""The result as a picture: speed, comparisons, start-up, memory and growth, one panel each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from measure.report import cautions

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Colours that stay apart for the colour-blind (Okabe and Ito 2008): precisions; grey is for other implementations.
_COLOURS = {"fp32": "#0072B2", "bf16": "#E69F00", "int8": "#009E73"}
_OTHERS = ("#555555", "#8C8C8C", "#B9B9B9", "#D6D6D6")
_PARTS = {"import_s": ("import", "#56B4E9"), "load_s": ("load", "#0072B2"), "first_s": ("first embedding", "#D55E00")}
_MARKERS = "osD^vP*"
_LINES = {"openvino": "--", "torch": ":"}
_COLUMNS = 2

_LINE_PANEL_INCHES = 4.6


@dataclass(frozen=True)
class _Panel:
    """What draws it, and its height in inches."""

    draw: Callable[[Axes], None]
    height: float = _LINE_PANEL_INCHES


def draw(result: dict[str, Any], path: Path) -> None:
    """Write the picture of a result, with a panel for whatever was measured."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = _panels(result)
    rows = [panels[at : at + _COLUMNS] for at in range(0, len(panels), _COLUMNS)]
    heights = [max(panel.height for panel in row) for row in rows]
    figure = Figure(figsize=(8 * _COLUMNS, sum(heights, 1.0)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    if rows:
        grid = figure.add_gridspec(len(rows), _COLUMNS, height_ratios=heights)
        for number, panel in enumerate(panels):
            axes = figure.add_subplot(grid[divmod(number, _COLUMNS)])
            axes.spines[["top", "right"]].set_visible(False)
            panel.draw(axes)
    figure.suptitle(_title(result), fontsize=11)
    figure.savefig(path)


def _panels(result: dict[str, Any]) -> list[_Panel]:
    stages, growth = result.get("stages") or {}, result.get("growth") or {}
    by_model: dict[str, list[dict[str, Any]]] = {}
    for row in result.get("end_to_end") or ():
        by_model.setdefault(row["model"], []).append(row)
    wanted: list[tuple[list[dict[str, Any]], Callable[..., None]]] = [
        (rows, partial(_end_to_end, model=model, audio_s=result["inputs"]["audio_s"]))
        for model, rows in by_model.items()
    ]
    wanted += [(result.get("startup") or [], _startup), (stages.get("around") or [], _stages)]
    panels = [_Panel(partial(draw_rows, rows=rows), 1.8 + 0.26 * len(rows)) for rows, draw_rows in wanted if rows]
    lines = (
        (stages.get("network"), _networks),
        (growth.get("clip_length"), _clip_length),
        (growth.get("files"), _files),
        (growth.get("hours"), _hours),
    )
    return panels + [_Panel(partial(draw_rows, rows=rows)) for rows, draw_rows in lines if rows]


def _title(result: dict[str, Any]) -> str:
    machine, settings, inputs = result["machine"], result["settings"], result["inputs"]
    text = (
        f"audioset {machine['versions'].get('audioset', '')} on {settings['threads']} of {machine['cores']} cores, "
        f"{machine['cpu']}; {inputs['files']} files, {inputs['audio_s']:,.0f} s of audio; "
        f"medians of {settings['repeats']} repeats, bars from least to greatest"
    )
    return "\n".join([text, *cautions(settings)])


def _colour(name: str, others: list[str]) -> str:
    """By precision; greys for other implementations."""
    for precision, colour in _COLOURS.items():
        if f" {precision} " in f"{name} ":
            return colour
    if name not in others:
        others.append(name)
    return _OTHERS[others.index(name) % len(_OTHERS)]


def _bars(axes: Axes, names: list[str], figures: list[dict[str, float]], colours: list[str], ends: list[float]) -> None:
    """Horizontal bars of medians from zero, with their ranges, the first on top; the axis reaches beyond `ends`."""
    medians = [figure["median"] for figure in figures]
    below = [figure["median"] - figure["min"] for figure in figures]
    above = [figure["max"] - figure["median"] for figure in figures]
    axes.barh(range(len(names)), medians, color=colours, xerr=(below, above), error_kw={"lw": 1, "capsize": 2})
    _name_bars(axes, names)
    axes.set_xlim(0, 1.13 * max(ends))
    axes.grid(axis="x", alpha=0.25)


def _note(axes: Axes, text: str, end: float, place: int) -> None:
    """Words to the right of a bar."""
    axes.annotate(text, (end, place), xytext=(6, 0), textcoords="offset points", va="center", fontsize=8)


def _name_bars(axes: Axes, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set_axisbelow(True)


def _legend(axes: Axes) -> None:
    """Beside the panel, where it hides nothing."""
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _end_to_end(axes: Axes, *, model: str, rows: list[dict[str, Any]], audio_s: float) -> None:
    others: list[str] = []
    colours = [_colour(row["name"], others) for row in rows]
    # Beside the names: at the ends of the bars they would be taken for the marks'.
    names = [f"{row['name']}: {_number(row['times_real_time']['median'])}" for row in rows]
    figures = [row["times_real_time"] for row in rows]
    ends = [figure["max"] for figure in figures]
    for field, label, marker, size in (
        ("network_seconds", "the network alone", "|", 12),
        ("limit_seconds", "limit set by core time", "D", 4),
    ):
        rates = {place: audio_s / row[field]["median"] for place, row in enumerate(rows) if field in row}
        if rates:
            axes.plot([*rates.values()], [*rates], marker, ms=size, mew=1.6, color="black", mfc="none", label=label)
        for place, rate in rates.items():
            ends[place] = max(ends[place], rate)
    if axes.get_legend_handles_labels()[0]:
        _legend(axes)
    _bars(axes, names, figures, colours, ends)
    axes.set_xlabel("× real time (seconds of audio a second)")
    axes.set_title(f"{model}: files to finished output")


def _startup(axes: Axes, *, rows: list[dict[str, Any]]) -> None:
    names = [row["name"] for row in rows]
    at = [0.0] * len(rows)
    for part, (label, colour) in _PARTS.items():
        lengths = [row[part]["median"] if part in row else 0.0 for row in rows]
        axes.barh(range(len(rows)), lengths, left=at, color=colour, label=label)
        at = [start + length for start, length in zip(at, lengths, strict=True)]
    totals = [row["seconds"] for row in rows]
    rest = [max(0.0, total["median"] - length) for total, length in zip(totals, at, strict=True)]
    axes.barh(range(len(rows)), rest, left=at, color="#CCCCCC", label="Python and the rest")
    for place, (row, total) in enumerate(zip(rows, totals, strict=True)):
        memory = f", {_number(row['peak_rss_mb']['median'])} MB" if "peak_rss_mb" in row else ""
        _note(axes, f"{_number(total['median'])} s{memory}", total["median"], place)
    _name_bars(axes, names)
    axes.set_xlim(0, 1.25 * max(total["median"] for total in totals))
    axes.set_xlabel("seconds; peak memory beside the bars")
    axes.grid(axis="x", alpha=0.25)
    _legend(axes)
    axes.set_title("Start of the process to the first embedding")


def _stages(axes: Axes, *, rows: list[dict[str, Any]]) -> None:
    figures = [row["ms_per_audio_s"] for row in rows]
    ends = [figure["max"] for figure in figures]
    _bars(axes, [row["stage"] for row in rows], figures, ["#56B4E9"] * len(rows), ends)
    for place, (figure, end) in enumerate(zip(figures, ends, strict=True)):
        _note(axes, _number(figure["median"]), end, place)
    axes.set_xlabel("milliseconds a second of audio, one thread")
    axes.set_title("Stages around the network")


def _networks(axes: Axes, *, rows: list[dict[str, Any]]) -> None:
    batches = sorted({row["batch"] for row in rows})
    by_name: dict[str, dict[int, Any]] = {}
    for row in rows:
        by_name.setdefault(row["name"], {})[row["batch"]] = row["ms_per_example"]
    _lines(axes, by_name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(batches, [str(batch) for batch in batches])
    _plain_log(axes)
    axes.set_xlabel("batch (log)")
    axes.set_ylabel("ms an example, one thread (log)")
    axes.set_title("The networks alone")


def _plain_log(axes: Axes) -> None:
    """A logarithmic axis with numbers as people write them."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _clip_length(axes: Axes, *, rows: list[dict[str, Any]]) -> None:
    lengths = sorted({row["clip_s"] for row in rows})
    by_name: dict[str, dict[float, Any]] = {}
    for row in rows:
        by_name.setdefault(row["name"], {})[row["clip_s"]] = row["times_real_time"]
    _lines(axes, by_name)
    axes.set_xscale("log")
    axes.set_xticks(lengths, [f"{length:g} s" for length in lengths])
    axes.xaxis.minorticks_off()
    _plain_log(axes)
    axes.set_xlabel("length of each clip (log), as much audio in all")
    axes.set_ylabel("× real time (log)")
    axes.set_title("Speed by length of clips")


def _files(axes: Axes, *, rows: list[dict[str, Any]]) -> None:
    _memory(axes, rows, "files", "files in the job (log)")
    axes.set_title("Peak memory by number of files, whole processes")


def _hours(axes: Axes, *, rows: list[dict[str, Any]]) -> None:
    _memory(axes, rows, "hours", "hours in one file (log)")
    axes.set_title("Peak memory by length of one file, whole processes")


def _memory(axes: Axes, rows: list[dict[str, Any]], column: str, label: str) -> None:
    by_name: dict[str, dict[float, Any]] = {}
    for row in rows:
        if row["peak_rss_mb"] is not None:
            flat = dict.fromkeys(("median", "min", "max"), row["peak_rss_mb"])
            by_name.setdefault(row["name"], {})[row[column]] = flat
    _lines(axes, by_name)
    places = sorted({place for found in by_name.values() for place in found})
    axes.set_xscale("log")
    axes.set_xticks(places, [f"{place:.3g}" for place in places])
    axes.xaxis.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel(label)
    axes.set_ylabel("peak memory, MB")


def _lines(axes: Axes, by_name: dict[str, dict[Any, dict[str, float]]]) -> None:
    """One line a name through the medians, with ranges; colours by precision, markers by model."""
    others: list[str] = []
    models: list[str] = []
    for name, found in by_name.items():
        model = name.partition(" ")[0]
        colour = _colour(name, others)
        if name not in others and model not in models:
            models.append(model)
        engine = name.rpartition(" ")[2]
        places = sorted(found)
        medians = [found[place]["median"] for place in places]
        below = [found[place]["median"] - found[place]["min"] for place in places]
        above = [found[place]["max"] - found[place]["median"] for place in places]
        axes.errorbar(
            places,
            medians,
            yerr=(below, above),
            label=name,
            color=colour,
            marker="x" if name in others else _MARKERS[models.index(model) % len(_MARKERS)],
            linestyle=_LINES.get(engine, "-"),
            ms=5,
            lw=1.4,
            capsize=2,
        )
    axes.grid(alpha=0.25)
    _legend(axes)

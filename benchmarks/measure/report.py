"""The result as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Row = Sequence[object]

# Above this, other programs take enough of the cores to change who wins.
_QUIET_LOAD = 0.3


def report(result: dict[str, Any]) -> str:
    """Return every section that was measured as a table, medians with the range of the repeats where it matters."""
    parts = [_machine(result)]
    for name, write in (
        ("stages", _stages),
        ("end_to_end", _end_to_end),
        ("startup", _startup),
        ("growth", _growth),
    ):
        if result.get(name):
            parts += write(result[name])
    reasons: dict[str, list[str]] = {}
    for each in result["not_available"]:
        reasons.setdefault(each["why"], []).append(each["name"])
    if reasons:
        parts.append("Not available\n" + "\n".join(f"  {', '.join(names)}: {why}" for why, names in reasons.items()))
    return "\n\n".join(parts) + "\n"


def table(title: str, head: Row, rows: Sequence[Row]) -> str:
    """Return rows in columns, the first to the left and the others to the right."""
    cells = [[_text(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        ).rstrip()
        for row in cells
    ]
    rule = "-" * max(map(len, lines))
    return "\n".join([title, rule, lines[0], rule, *lines[1:]])


def _text(cell: object) -> str:
    if cell is None:
        return "–"
    if isinstance(cell, dict):
        return _number(cell["median"])
    return _number(cell) if isinstance(cell, float) else str(cell)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _range(figure: dict[str, float]) -> str:
    return f"{_number(figure['min'])}–{_number(figure['max'])}"


def _machine(result: dict[str, Any]) -> str:
    machine, inputs, settings = result["machine"], result["inputs"], result["settings"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        f"{machine['cpu']}, {settings['threads']} of {machine['cores']} cores, {machine['system']}, "
        f"Python {machine['python']}",
        f"features: {', '.join(machine['cpu_features'])}",
        versions,
        f"{inputs['files']} files, {inputs['audio_s']:,.0f} s of audio"
        + (f"; {inputs['left_out']} left out, as they cannot be read" if inputs["left_out"] else ""),
        f"medians of {settings['repeats']} repeats after one to warm up; ratios are taken within a repeat",
    ]
    return "\n".join([*lines, *cautions(settings)])


def cautions(settings: dict[str, Any]) -> list[str]:
    """Return why the figures are not to be relied on; nothing where they are."""
    found = []
    load = settings["load_before"]
    if load is not None and load > _QUIET_LOAD:
        found.append(f"the machine was busy before (load {load:g}): ratios suffer too; measure again when it is idle")
    if settings["quick"]:
        found.append("--quick: too little work for figures to be relied on")
    return found


def _stages(stages: dict[str, Any]) -> list[str]:
    around = [
        (row["stage"], row["ms_per_audio_s"], _range(row["ms_per_audio_s"]), row["cpu_ms_per_audio_s"])
        for row in stages["around"]
    ]
    networks = [
        (
            row["name"],
            row["batch"],
            row["ms_per_example"],
            _range(row["ms_per_example"]),
            row["cpu_ms_per_example"],
            *(row.get("times_as_fast_as") or {"": None}).values(),
        )
        for row in stages["network"]
    ]
    head = ("network", "batch", "ms an example", "range", "core ms", "× the model's first")
    return [
        table("Stages, one thread", ("stage", "ms a second of audio", "range", "core ms"), around),
        *([table("Networks, one thread", head, networks)] if networks else []),
    ]


def _end_to_end(rows: list[dict[str, Any]]) -> list[str]:
    speeds = [
        (
            row["name"],
            row["embeddings"],
            row["seconds"],
            _range(row["seconds"]),
            row["cpu_seconds"],
            row["times_real_time"],
            row.get("ratio_to_network"),
            row.get("rate_of_limit"),
        )
        for row in rows
    ]
    head = ("files to output", "embeddings", "s", "range", "core s", "× real time", "÷ network alone", "rate ÷ limit")
    parts = [table("End to end", head, speeds)]
    compared = [
        (
            row["name"],
            reference,
            ratio,
            _range(ratio),
            row["cpu_ratio_to"][reference],
            _range(row["cpu_ratio_to"][reference]),
        )
        for row in rows
        for reference, ratio in row["times_as_fast_as"].items()
    ]
    if compared:
        columns = ("", "beside", "× as fast", "range", "÷ its core time", "range")
        parts.append(table("Beside other implementations, in the same repeats", columns, compared))
    agreed = [
        (
            row["name"],
            row["agreement"]["with"],
            row["agreement"]["embeddings"],
            f"{row['agreement']['cosine_min']}",
            f"{row['agreement']['cosine_median']}",
            {True: "yes", False: "NO", None: None}[row["agreement"].get("same_work")],
            row.get("resampler"),
        )
        for row in rows
        if row.get("agreement")
    ]
    if agreed:
        columns = ("embeddings of", "beside", "rows", "least cosine", "median cosine", "same work", "resampler")
        parts.append(table("Agreement", columns, agreed))
    return parts


def _startup(rows: list[dict[str, Any]]) -> list[str]:
    columns = ("seconds", "import_s", "load_s", "first_s", "cpu_seconds", "peak_rss_mb")
    head = ("start to first embedding", "s", "import", "load", "embed", "core s", "peak MB")
    return [table("Start-up", head, [(row["name"], *(row.get(column) for column in columns)) for row in rows])]


def _growth(growth: dict[str, Any]) -> list[str]:
    lengths = sorted({row["clip_s"] for row in growth["clip_length"]})
    by_name: dict[str, dict[float, Any]] = {}
    for row in growth["clip_length"]:
        by_name.setdefault(row["name"], {})[row["clip_s"]] = row["times_real_time"]
    parts = []
    if by_name:
        speeds = [(name, *(found.get(length) for length in lengths)) for name, found in by_name.items()]
        head = ("× real time, by clip", *(f"{length:g} s" for length in lengths))
        parts.append(table("Length of clips", head, speeds))
    for name, title, column in (("files", "Number of files", "files"), ("hours", "Hours in one file", "hours")):
        rows = [
            (row["name"], str(row[column]), row["seconds"], row["cpu_seconds"], row.get("peak_rss_mb"))
            for row in sorted(growth[name], key=lambda row: row["name"])
        ]
        if rows:
            parts.append(table(f"{title}, whole processes", ("", column, "s", "core s", "peak MB"), rows))
    return parts

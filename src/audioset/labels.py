"""Sound events as the label files of sound editors: Audacity's label tracks and Praat's TextGrids."""

from __future__ import annotations

from collections.abc import Iterable

from audioset.scores import Event

# Praat keeps no TextGrid without tiers.
_EMPTY_TIER = "no events"


def audacity(events: Iterable[Event]) -> str:
    r"""Return an Audacity label track: a line `start TAB end TAB name` an event, in seconds."""
    return "".join(f"{event.start_s:.6f}\t{event.end_s:.6f}\t{event.name}\n" for event in events)


def textgrid(events: Iterable[Event], duration_s: float) -> str:
    """Return a Praat TextGrid (long text format) with an interval tier for each class that occurs.

    Each tier covers 0 to `duration_s` without a gap: intervals with the class's name where it is heard, empty ones
    between. Tiers are in the order in which their classes first occur; where none does there is one empty tier.

    Parameters
    ----------
    events : iterable of Event
        Within 0 to `duration_s`; those of one class do not overlap.
    duration_s : float
        Length of the audio.
    """
    tiers: dict[str, list[Event]] = {}
    for event in sorted(events, key=lambda event: event.start_s):
        tiers.setdefault(event.name, []).append(event)
    tiers = tiers or {_EMPTY_TIER: []}
    end = _seconds(duration_s)
    lines = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "xmin = 0",
        f"xmax = {end}",
        "tiers? <exists>",
        f"size = {len(tiers)}",
        "item []:",
    ]
    for number, (name, of_class) in enumerate(tiers.items(), start=1):
        intervals = _without_gaps(of_class, end)
        lines += [
            f"    item [{number}]:",
            '        class = "IntervalTier"',
            f"        name = {_quoted(name)}",
            "        xmin = 0",
            f"        xmax = {end}",
            f"        intervals: size = {len(intervals)}",
        ]
        for place, (xmin, xmax, text) in enumerate(intervals, start=1):
            lines += [
                f"        intervals [{place}]:",
                f"            xmin = {xmin}",
                f"            xmax = {xmax}",
                f"            text = {_quoted(text)}",
            ]
    return "\n".join(lines) + "\n"


def _without_gaps(events: list[Event], end: str) -> list[tuple[str, str, str]]:
    """Start, end and text of intervals from 0 to the end, as written: each starts with the very digits of the last."""
    intervals = []
    at = "0"
    for event in events:
        start_s, end_s = _seconds(event.start_s), _seconds(event.end_s)
        if start_s != at:
            intervals.append((at, start_s, ""))
        intervals.append((start_s, end_s, event.name))
        at = end_s
    if at != end:
        intervals.append((at, end, ""))
    return intervals


def _seconds(value: float) -> str:
    """In digits that tell any two samples at 16 kHz apart."""
    return f"{value:.8f}".rstrip("0").rstrip(".")


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'

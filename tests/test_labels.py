"""Label files of sound editors, read back with plain parsers."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audioset.labels import audacity, textgrid
from audioset.scores import Event

EVENTS = [
    Event("/m/a", "Dog", 0.0, 1.2, 0.9),
    Event("/m/b", 'He said "quiet", ♪', 0.5, 2.0, 0.8),
    Event("/m/a", "Dog", 1.6800625, 3.5, 0.7),
]


def read_textgrid(text: str) -> tuple[float, dict[str, list[tuple[float, float, str]]]]:
    """Length, and intervals by tier."""
    assert text.startswith('File type = "ooTextFile"\nObject class = "TextGrid"\n\nxmin = 0\n')
    tiers: dict[str, list[tuple[float, float, str]]] = {}
    for tier in re.split(r"\n    item \[\d+\]:\n", text)[1:]:
        name = re.search(r'name = "(.*)"\n', tier)
        assert name is not None
        found = re.findall(r'xmin = (\S+)\n +xmax = (\S+)\n +text = "(.*)"', tier)
        assert f"intervals: size = {len(found)}\n" in tier
        tiers[name[1].replace('""', '"')] = [(float(a), float(b), t.replace('""', '"')) for a, b, t in found]
    size = re.search(r"^size = (\d+)$", text, re.MULTILINE)
    length = re.search(r"^xmax = (\S+)$", text, re.MULTILINE)
    assert size is not None
    assert length is not None
    assert int(size[1]) == len(tiers)
    return float(length[1]), tiers


def test_label_track_has_a_line_an_event() -> None:
    rows = [line.split("\t") for line in audacity(EVENTS).splitlines()]
    assert [(float(start), float(end), name) for start, end, name in rows] == [
        (event.start_s, pytest.approx(event.end_s), event.name)
        if event.start_s != 1.6800625
        else (pytest.approx(1.6800625, abs=1e-6), event.end_s, event.name)
        for event in EVENTS
    ]
    assert audacity([]) == ""


def test_textgrid_has_a_tier_a_class_without_gaps() -> None:
    length_s, tiers = read_textgrid(textgrid(EVENTS, 3.5))
    assert length_s == 3.5
    assert tiers == {
        "Dog": [(0, 1.2, "Dog"), (1.2, 1.6800625, ""), (1.6800625, 3.5, "Dog")],
        'He said "quiet", ♪': [(0, 0.5, ""), (0.5, 2, 'He said "quiet", ♪'), (2, 3.5, "")],
    }


def test_textgrid_without_events_has_one_empty_tier() -> None:
    assert read_textgrid(textgrid([], 10)) == (10, {"no events": [(0, 10, "")]})


@given(st.lists(st.integers(0, 160_000), unique=True, max_size=12), st.integers(0, 16_000))
def test_intervals_join_to_the_digit(places: list[int], rest: int) -> None:
    ends = sorted(places)[: len(places) // 2 * 2]
    events = [Event("", "x", a / 16_000, b / 16_000, 1.0) for a, b in zip(ends[::2], ends[1::2], strict=True)]
    duration_s = (max(ends, default=0) + rest + 1) / 16_000
    _, tiers = read_textgrid(textgrid(events, duration_s))
    (intervals,) = tiers.values()
    assert [(a, b) for a, b, text in intervals if text] == [(event.start_s, event.end_s) for event in events]
    assert (intervals[0][0], intervals[-1][1]) == (0, duration_s)
    assert all(first[1] == second[0] for first, second in itertools.pairwise(intervals))
    assert all(a < b for a, b, _ in intervals)

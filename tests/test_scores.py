"""Scores of a file: whole-clip scores, and events against a slow plain reference."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audioset.classes import ClassList
from audioset.errors import OptionError
from audioset.features import EXAMPLE_SAMPLES, example_times, num_examples
from audioset.scores import Event, EventStream, Scores

CLASSES = ClassList(("/m/a", "/m/b", "/m/c"), ("A", "B", "C"))


def scores_of(values: object, duration_s: float | None = None, hop_s: float = 0.48, begin_s: float = 0.0) -> Scores:
    array = np.atleast_2d(np.asarray(values, np.float32))
    if array.shape[1] == 1 or np.ndim(values) == 1:
        array = np.stack([np.ravel(array), *np.zeros((2, array.size), np.float32)], axis=1)
    start_s, _, end_s = example_times(len(array), hop_s=hop_s)
    length_s = float(end_s[-1]) if duration_s is None else duration_s
    return Scores(array, begin_s + start_s, begin_s + end_s, CLASSES, "f", "m", "w", length_s)


def plain_events(
    scores: Scores, on: float, off: float, max_gap_s: float, min_duration_s: float
) -> list[tuple[str, float, float, float]]:
    """What the module's text says, moment by moment and class by class."""
    k, num_classes = scores.values.shape
    begin, end = scores.start_s[0], scores.start_s[0] + scores.duration_s
    owned = []
    for i in range(k):
        centre = (scores.start_s[i] + scores.end_s[i]) / 2
        before = begin if i == 0 else ((scores.start_s[i - 1] + scores.end_s[i - 1]) / 2 + centre) / 2
        after = end if i == k - 1 else (centre + (scores.start_s[i + 1] + scores.end_s[i + 1]) / 2) / 2
        owned.append((min(before, end), min(after, end)))
    found = []
    for c in range(num_classes):
        events: list[list[int]] = []
        i = 0
        while i < k:
            if not scores.values[i, c] >= off:
                i += 1
                continue
            run = []
            while i < k and scores.values[i, c] >= off:
                run.append(i)
                i += 1
            if any(scores.values[j, c] >= on for j in run):
                events.append(run)
        merged = True
        while merged:
            merged = False
            for n in range(len(events) - 1):
                gap_s = owned[events[n + 1][0]][0] - owned[events[n][-1]][1]
                if gap_s <= max_gap_s + 1e-6:
                    events[n : n + 2] = [[*range(events[n][0], events[n + 1][-1] + 1)]]
                    merged = True
                    break
        for run in events:
            start_s, end_s = owned[run[0]][0], owned[run[-1]][1]
            if end_s - start_s >= min_duration_s - 1e-6:
                found.append((start_s, c, CLASSES.names[c], end_s, max(scores.values[j, c] for j in run)))
    return [(name, start_s, end_s, float(peak)) for start_s, _, name, end_s, peak in sorted(found)]


@settings(max_examples=300, deadline=None)
@given(
    values=st.lists(st.tuples(*[st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.5, 0.9, 1.0])] * 3), min_size=1, max_size=40),
    hop_s=st.sampled_from([0.48, 0.96, 0.1, 0.25, 1.5, 1 / 16_000]),
    cut=st.floats(0, 1),
    begin_s=st.sampled_from([0.0, 3.25]),
    on=st.sampled_from([0.1, 0.3, 0.5, 1.0]),
    ratio=st.sampled_from([0.2, 0.5, 1.0]),
    max_gap_s=st.sampled_from([0.0, 0.48, 0.5, 1.0, 5.0]),
    min_duration_s=st.sampled_from([0.0, 0.48, 0.5, 0.96, 2.0]),
)
def test_events_equal_the_plain_reference(
    values: list[tuple[float, ...]],
    hop_s: float,
    cut: float,
    begin_s: float,
    on: float,
    ratio: float,
    max_gap_s: float,
    min_duration_s: float,
) -> None:
    # The last example may be padded: the clip ends anywhere that makes as many examples as these.
    starts = np.round(example_times(len(values), hop_s=hop_s)[0] * 16_000)
    least = 1 if len(values) == 1 else max(starts[-2] + EXAMPLE_SAMPLES, starts[-1]) + 1
    num_samples = round(least + cut * (starts[-1] + EXAMPLE_SAMPLES - least))
    assert num_examples(num_samples, hop_s=hop_s, pad="all") == len(values)
    scores = scores_of(values, num_samples / 16_000, hop_s, begin_s)
    got = scores.events(on, off_threshold=on * ratio, max_gap_s=max_gap_s, min_duration_s=min_duration_s)
    expected = plain_events(scores, on, on * ratio, max_gap_s, min_duration_s)
    assert [event.name for event in got] == [name for name, *_ in expected]
    for event, (_, start_s, end_s, peak) in zip(got, expected, strict=True):
        assert (event.start_s, event.end_s, event.score) == pytest.approx((start_s, end_s, peak), abs=1e-7)
        assert begin_s <= event.start_s < event.end_s <= round(begin_s + scores.duration_s, 8)


def pieces_of(scores: Scores, cuts: list[int]) -> list[Scores]:
    """Consecutive rows as a stream gives them: an example that is padded comes with the last."""
    edges = [0, *sorted(cut for cut in cuts if cut < len(scores)), len(scores)]
    pieces = []
    for first, stop in itertools.pairwise(edges):
        rows = slice(first, stop)
        end_s = scores.start_s[0] + scores.duration_s if stop == len(scores) else scores.end_s[stop - 1]
        heard_s = float(end_s - scores.start_s[first])
        fields = {"values": scores.values[rows], "start_s": scores.start_s[rows], "end_s": scores.end_s[rows]}
        pieces.append(dataclasses.replace(scores, duration_s=heard_s if stop > first else 0.0, **fields))
    return pieces


@settings(max_examples=150, deadline=None)
@given(
    values=st.lists(st.tuples(*[st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.5, 0.9, 1.0])] * 3), min_size=1, max_size=40),
    hop_s=st.sampled_from([0.48, 0.96, 0.1, 0.25, 1.5, 1 / 16_000]),
    cuts=st.lists(st.integers(0, 40), max_size=6),
    cut=st.floats(0, 1),
    on=st.sampled_from([0.1, 0.3, 0.5, 1.0]),
    ratio=st.sampled_from([0.2, 0.5, 1.0]),
    max_gap_s=st.sampled_from([0.0, 0.48, 0.5, 1.0, 5.0]),
    min_duration_s=st.sampled_from([0.0, 0.48, 0.5, 0.96, 2.0]),
)
def test_events_found_on_the_way_are_those_of_the_whole(
    values: list[tuple[float, ...]],
    hop_s: float,
    cuts: list[int],
    cut: float,
    on: float,
    ratio: float,
    max_gap_s: float,
    min_duration_s: float,
) -> None:
    starts = np.round(example_times(len(values), hop_s=hop_s)[0] * 16_000)
    least = 1 if len(values) == 1 else max(starts[-2] + EXAMPLE_SAMPLES, starts[-1]) + 1
    # Ends within the last example, or up to a hop after it, for which there is no example where nothing is padded.
    num_samples = round(least + cut * (starts[-1] + EXAMPLE_SAMPLES + hop_s * 16_000 - least))
    scores = scores_of(values, num_samples / 16_000, hop_s)
    rules = {"off_threshold": on * ratio, "max_gap_s": max_gap_s, "min_duration_s": min_duration_s}
    stream = EventStream(CLASSES, on, **rules)
    found = [event for piece in pieces_of(scores, cuts) for event in stream.push(piece)]
    found += stream.finish(scores.duration_s)
    found.sort(key=lambda event: (event.start_s, CLASSES.index(event.mid)))
    assert found == scores.events(on, **rules)


def test_an_event_is_known_as_soon_as_nothing_can_join_it() -> None:
    scores = scores_of([0, 0.9, 0, 0, 0.9, 0.9], duration_s=3.36)
    stream = EventStream(CLASSES, 0.5, max_gap_s=0.5)
    known = [len(stream.push(piece)) for piece in pieces_of(scores, [1, 2, 3, 4, 5])]
    # The first lasts to 1.2 s: with the fifth example, whose time begins at 2.16 s, more than 0.5 s have passed.
    assert known == [0, 0, 0, 0, 1, 0]
    (last,) = stream.finish(3.36)
    assert (last.start_s, last.end_s) == (2.16, 3.36)


def test_a_weak_run_keeps_an_event_open_no_longer_than_it_lasts() -> None:
    scores = scores_of([0.9, 0, 0.3, 0.3, 0, 0.9], duration_s=3.36)
    stream = EventStream(CLASSES, 0.5, max_gap_s=0.5)
    known = [[event.end_s for event in stream.push(piece)] for piece in pieces_of(scores, [1, 2, 3, 4, 5])]
    assert known == [[], [], [], [], [0.72], []]
    assert [event.start_s for event in stream.finish(3.36)] == [2.64]


def test_rules_of_events_found_on_the_way_are_checked_at_once() -> None:
    with pytest.raises(OptionError, match=r"threshold: 0 is out of range"):
        EventStream(CLASSES, 0)
    with pytest.raises(OptionError, match=r"max_gap_s: -1 is out of range"):
        EventStream(CLASSES, max_gap_s=-1)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 200_000), st.sampled_from([0.48, 0.96, 0.1, 0.37, 1.0, 2.5]), st.sampled_from(["short", "all"]))
def test_edges_cover_the_audio_once(num_samples: int, hop_s: float, pad: str) -> None:
    count = num_examples(num_samples, hop_s=hop_s, pad=pad)  # type: ignore[arg-type]
    edges_s = scores_of(np.zeros((count, 3)), num_samples / 16_000, hop_s).edges_s
    assert (edges_s[0], edges_s[-1]) == (0, pytest.approx(num_samples / 16_000, abs=1e-8))
    assert (np.diff(edges_s) > 0).all()


def test_an_example_owns_a_hop_around_its_centre() -> None:
    edges_s = scores_of([0, 0, 0, 0], duration_s=2.4).edges_s
    np.testing.assert_allclose(edges_s, [0, 0.72, 1.2, 1.68, 2.4])  # centres 0.48, 0.96, 1.44, 1.92


def test_an_event_lasts_down_to_the_lower_threshold() -> None:
    (event,) = scores_of([0, 0.2, 0.6, 0.2, 0.1, 0], duration_s=3.36).events(0.5, off_threshold=0.2)
    assert event == Event("/m/a", "A", 0.72, 2.16, pytest.approx(0.6))


def test_gaps_are_closed_before_short_events_are_dropped() -> None:
    scores = scores_of([0.9, 0, 0.9, 0, 0, 0, 0.9, 0], duration_s=4.32)
    spans = [(event.start_s, event.end_s) for event in scores.events(0.5, max_gap_s=0.5, min_duration_s=1.0)]
    assert spans == [(0, 1.68)]


def test_a_gap_of_exactly_the_limit_is_closed() -> None:
    scores = scores_of([0.9, 0, 0.9], duration_s=1.92)
    assert len(scores.events(0.5, max_gap_s=0.48)) == 1
    assert len(scores.events(0.5, max_gap_s=0.47)) == 2


def test_times_stay_within_the_audio_though_the_last_example_is_padded() -> None:
    scores = scores_of([0.9, 0.9], duration_s=1.0)
    assert scores.end_s[-1] > 1.0
    assert [(event.start_s, event.end_s) for event in scores.events()] == [(0.0, 1.0)]


def test_clip_scores_are_means_or_maxima_over_the_examples() -> None:
    scores = scores_of([[0.1, 0.5, 0.0], [0.3, 0.0, 0.0]])
    np.testing.assert_allclose(scores.clip_scores(), [0.2, 0.25, 0.0], atol=1e-7)
    np.testing.assert_allclose(scores.clip_scores("max"), [0.3, 0.5, 0.0], atol=1e-7)
    assert scores.clip_scores().dtype == np.float32
    assert scores.top(2) == [("B", 0.25), ("A", pytest.approx(0.2))]
    assert len(scores.top(99)) == 3


def test_equal_scores_keep_the_order_of_the_list() -> None:
    assert [name for name, _ in scores_of([[0.5, 0.5, 0.5]]).top(3)] == ["A", "B", "C"]


def test_no_example_means_no_names_and_no_events() -> None:
    empty = dataclasses.replace(
        scores_of([[0, 0, 0]]), values=np.empty((0, 3), np.float32), start_s=np.empty(0), end_s=np.empty(0)
    )
    assert np.isnan(empty.clip_scores()).all()
    assert (empty.top(), empty.events(), len(empty.edges_s)) == ([], [], 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": 0}, "threshold: 0 is out of range"),
        ({"threshold": float("nan")}, "threshold: nan is out of range"),
        ({"off_threshold": 0.4}, r"off_threshold: 0\.4 is out of range"),
        ({"max_gap_s": -1}, "max_gap_s: -1 is out of range"),
        ({"min_duration_s": float("inf")}, "min_duration_s: inf is out of range"),
    ],
)
def test_parameters_out_of_range_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        scores_of([0]).events(**arguments)


def test_unknown_methods_and_no_classes_at_all_are_refused() -> None:
    with pytest.raises(OptionError, match="method: 'median' is unknown; expected one of mean, max"):
        scores_of([0]).clip_scores("median")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="top: 0 is out of range"):
        scores_of([0]).top(0)

"""Statistics of segments against plain loops, on small tables and on the published files; pictures of them."""

from __future__ import annotations

import json
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from audioset.classes import class_list
from audioset.dataset import stats as module
from audioset.dataset.ontology import Ontology
from audioset.dataset.segments import SCHEMA, read_segments
from audioset.dataset.stats import SegmentStats, plot_stats, segment_stats
from audioset.errors import DatasetError, OptionError
from audioset.records.tfrecord import decode_example, read_tfrecord

SPEECH, DOG, BARK, MUSIC = "/m/09x0r", "/m/0bt9lr", "/m/05tny_", "/m/04rlf"


def table(*labels: tuple[str, ...]) -> pa.Table:
    count = len(labels)
    return pa.table(
        {
            "ytid": [f"v{number // 2}" for number in range(count)],
            "start_s": pa.array(6.4 + np.arange(count)),
            "end_s": pa.array(16.4 + np.arange(count) - (np.arange(count) % 2)),
            "mids": pa.array([list(row) for row in labels], pa.list_(pa.string())),
        }
    )


SOME = table((SPEECH,), (BARK, SPEECH), (), (DOG, SPEECH, BARK), (MUSIC, MUSIC), (BARK, "/m/nowhere"))


def check(stats: SegmentStats, segments: pa.Table) -> None:
    """Compare every count with that of a plain loop."""
    ontology = Ontology.load()
    known = {node.mid for node in ontology.nodes}
    rows = [dict.fromkeys(mids) for mids in segments["mids"].to_pylist()]
    np.testing.assert_array_equal(stats.labels_a_clip, [len(row) for row in rows])
    classes = class_list("audioset527")
    labels = {mid for row in rows for mid in row}
    implied = {mid: ontology.propagate([mid], classes) if mid in known else (mid,) for mid in labels}
    propagated = [{other for mid in row for other in implied[mid]} for row in rows]
    np.testing.assert_array_equal(stats.propagated_a_clip, [len(row) for row in propagated])
    single = Counter(mid for row in rows for mid in row)
    assert dict(zip(stats.mids, stats.class_counts.tolist(), strict=True)) == {mid: single[mid] for mid in stats.mids}
    pairs = Counter(frozenset(pair) for row in rows for pair in combinations(row, 2))
    place = {mid: number for number, mid in enumerate(stats.mids)}
    expected = np.diag(stats.class_counts)
    for (one, other), count in pairs.items():
        expected[place[one], place[other]] = expected[place[other], place[one]] = count
    np.testing.assert_array_equal(stats.cooccurrence, expected)
    best = [count for _, _, count in stats.top_pairs(5)]
    assert best == sorted(pairs.values(), reverse=True)[:5]
    assert all(
        pairs[frozenset(stats.mids[stats.names.index(name)] for name in pair)] == count
        for *pair, count in stats.top_pairs(5)
    )


def test_counts_are_those_of_a_plain_loop() -> None:
    stats = segment_stats(SOME)
    check(stats, SOME)
    assert (stats.num_clips, stats.num_videos, stats.num_labels, stats.num_classes) == (6, 3, 9, 5)
    assert (stats.num_short, stats.durations_s.min(), stats.durations_s.max()) == (3, 9.0, 10.0)
    assert stats.top_classes(2) == [("Speech", 3), ("Bark", 3)]
    assert stats.top_pairs(1) == [("Speech", "Bark", 2)]
    # Bark brings Dog; Dog brings Domestic animals and Animal.
    assert stats.propagated_a_clip.tolist() == [1, 5, 0, 5, 1, 5]


@pytest.mark.parametrize("at_once", [1, 2, 3, 100])
def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(module, "_LABELS_AT_ONCE", at_once)
    check(segment_stats(SOME), SOME)
    check(segment_stats(SOME.slice(1, 4)), SOME.slice(1, 4))


def test_no_segments_have_statistics_too() -> None:
    for segments in (SCHEMA.empty_table(), table(())):
        stats = segment_stats(segments)
        assert (stats.num_labels, stats.num_classes, stats.top_classes(3), stats.top_pairs(3)) == (0, 0, [], [])
        assert json.loads(json.dumps(stats.to_json()))["num_clips"] == segments.num_rows
    with pytest.raises(DatasetError, match=r"no column 'mids'"):
        segment_stats(pa.table({"ytid": ["a"], "start_s": [0.0], "end_s": [1.0]}))


def test_json_has_the_numbers() -> None:
    found = json.loads(json.dumps(segment_stats(SOME).to_json(top=1)))
    assert found["clips_by_num_labels"] == {"0": 1, "1": 2, "2": 2, "3": 1}
    assert found["duration_s"] == {"total": 57.0, "min": 9.0, "mean": 9.5, "max": 10.0}
    assert found["classes"][1] == {"mid": BARK, "name": "Bark", "num_clips": 3}
    assert found["pairs"] == [{"names": ["Speech", "Bark"], "num_clips": 2}]
    assert [row["num_clips"] for row in found["classes"]] == [3, 3, 1, 1, 1]


def test_lengths_beyond_ten_seconds_are_as_they_are() -> None:
    twice = SOME.set_column(2, "end_s", pc.add(SOME["start_s"], 20.0))
    assert segment_stats(twice).to_json()["duration_s"] == {"total": 120.0, "min": 20.0, "mean": 20.0, "max": 20.0}


def test_picture_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot_stats(segment_stats(SOME), tmp_path / "p.png", title="$x^$ some.csv")
    head = (tmp_path / "p.png").read_bytes()[:24]
    assert head.startswith(b"\x89PNG\r\n\x1a\n")
    assert (int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")) == (1560, 1260)
    assert [path.name for path in tmp_path.iterdir()] == ["p.png"]


def test_picture_shows_the_counts() -> None:
    pytest.importorskip("matplotlib")
    lengths, num_labels, classes, together = module._figure(segment_stats(SOME), "").axes[:4]
    assert sum(bar.get_height() for bar in lengths.patches) == 6
    assert [bar.get_height() for bar in num_labels.containers[0].patches][:4] == [1, 2, 2, 1]
    assert classes.get_xlim() == (0, 5)
    assert [label.get_text() for label in together.get_yticklabels()][:2] == ["Speech", "Bark"]
    assert np.asarray(together.images[0].get_array())[0, 1] == pytest.approx(2 / 3)


def test_numbers_of_clips_have_whole_ticks() -> None:
    pytest.importorskip("matplotlib")
    figure = module._figure(segment_stats(table(("/m/09x0r",))), "")
    figure.draw_without_rendering()
    ticks = [label.get_text() for label in figure.axes[1].get_yticklabels()]
    assert len(set(ticks)) == len(ticks)


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"p\.bmp: the ending '\.bmp' names no picture"):
        plot_stats(segment_stats(SOME), tmp_path / "p.bmp")
    pytest.importorskip("matplotlib")
    with pytest.raises(DatasetError, match=r"none\.csv: no label to draw"):
        plot_stats(segment_stats(table((), ())), tmp_path / "p.png", title="none.csv")


@pytest.mark.parametrize(
    ("name", "num_clips", "num_labels", "num_propagated", "num_short", "fewest"),
    [("balanced_train", 22_160, 52_882, 79_603, 345, 59), ("eval", 20_371, 51_804, 78_091, 361, 59)],
)
def test_published_files_have_the_known_counts(
    data_dir: Path, name: str, num_clips: int, num_labels: int, num_propagated: int, num_short: int, fewest: int
) -> None:
    segments = read_segments(data_dir / "audioset" / f"{name}_segments.csv")
    stats = segment_stats(segments)
    check(stats, segments)
    assert (stats.num_clips, stats.num_videos, stats.num_labels) == (num_clips, num_clips, num_labels)
    # 2.39 → 3.59 labels a clip in the balanced training split, 2.54 → 3.83 in the evaluation split
    assert stats.propagated_a_clip.sum() == num_propagated
    assert (stats.num_short, stats.durations_s.min(), stats.durations_s.max()) == (num_short, 1.0, 10.0)
    assert (stats.num_classes, stats.class_counts.min()) == (527, fewest)


def test_a_released_shard_has_fewer_labels_a_clip(data_dir: Path) -> None:
    mids = class_list("audioset527").mids
    examples = [decode_example(data) for data in read_tfrecord(data_dir / "audioset" / "features" / "rm.tfrecord")]
    rows = [tuple(mids[int(index)] for index in example.context["labels"]) for example in examples]
    stats = segment_stats(table(*rows))
    assert (stats.num_clips, stats.num_labels, int(stats.propagated_a_clip.sum())) == (328, 685, 842)

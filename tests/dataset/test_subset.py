"""Parts of segments: filters against plain loops, balanced samples, splits."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from audioset.dataset import subset
from audioset.dataset.ontology import Ontology
from audioset.dataset.quality import QUALITY_SCHEMA
from audioset.dataset.segments import read_segments
from audioset.errors import OptionError

SPEECH, DOG, BARK, MUSIC, CAT = "/m/09x0r", "/m/0bt9lr", "/m/05tny_", "/m/04rlf", "/m/01yrx"


def table(*labels: tuple[str, ...], ytids: list[str] | None = None, end_s: list[float] | None = None) -> pa.Table:
    count = len(labels)
    return pa.table(
        {
            "ytid": ytids or [f"v{number}" for number in range(count)],
            "start_s": pa.array([0.0] * count),
            "end_s": end_s or [10.0] * count,
            "mids": pa.array([list(row) for row in labels], pa.list_(pa.string())),
        }
    )


def ids(part: pa.Table) -> list[str]:
    return list(part["ytid"].to_pylist())


SOME = table((SPEECH,), (BARK,), (DOG, SPEECH), (), (MUSIC, SPEECH), (CAT, BARK, SPEECH))


@pytest.mark.parametrize(
    ("classes", "options", "expected"),
    [
        (["Dog"], {}, ["v1", "v2", "v5"]),
        (["Dog"], {"descendants": False}, ["v2"]),
        (["dog", SPEECH], {"match": "all"}, ["v2", "v5"]),
        (["dog", SPEECH], {"match": "all", "descendants": False}, ["v2"]),
        (["Music", "Cat"], {}, ["v4", "v5"]),
        (["Animal"], {}, ["v1", "v2", "v5"]),
        (["Zither"], {}, []),
    ],
)
def test_classes_are_kept(classes: list[str], options: dict[str, Any], expected: list[str]) -> None:
    assert ids(subset.select_classes(SOME, classes, **options)) == expected


def test_classes_are_excluded() -> None:
    assert ids(subset.exclude_classes(SOME, ["Dog"])) == ["v0", "v3", "v4"]
    assert ids(subset.exclude_classes(SOME, ["Dog"], descendants=False)) == ["v0", "v1", "v3", "v4", "v5"]
    assert ids(subset.exclude_classes(SOME, [])) == ids(SOME)


def test_parts_of_parts_are_right() -> None:
    part = subset.exclude_classes(SOME, ["Music"]).slice(2)
    assert ids(part) == ["v2", "v3", "v5"]
    assert ids(subset.select_classes(part, ["Cat"])) == ["v5"]
    assert ids(subset.sample_balanced(part, 5)) == ["v2", "v5"]


@pytest.mark.parametrize(
    ("min_quality", "match", "expected"),
    [(0.5, "all", ["v0"]), (0.5, "any", ["v0", "v2", "v4", "v5"]), (0.2, "all", ["v0", "v4"]), (0.95, "all", [])],
)
def test_segments_of_good_labels_are_kept(min_quality: float, match: Any, expected: list[str]) -> None:
    rows = [(SPEECH, "Speech", 10, 9, 0.9), (MUSIC, "Music", 10, 3, 0.3), (DOG, "Dog", 0, 0, None)]
    quality = pa.table([list(column) for column in zip(*rows, strict=True)], schema=QUALITY_SCHEMA)
    assert ids(subset.select_quality(SOME, quality, min_quality, match=match)) == expected
    with pytest.raises(OptionError, match=r"min_quality: 1\.5 is out of range"):
        subset.select_quality(SOME, quality, 1.5)


def test_ids_and_lengths_are_kept() -> None:
    assert ids(subset.select_ids(SOME, ("v3", "v1", "x"))) == ["v1", "v3"]
    lengths = table((SPEECH,), (SPEECH,), (SPEECH,), end_s=[1.0, 5.0, 10.0])
    assert ids(subset.select_duration(lengths, min_s=5)) == ["v1", "v2"]
    assert ids(subset.select_duration(lengths, max_s=5)) == ["v0", "v1"]
    with pytest.raises(OptionError, match=r"duration: 5 to 1 s holds nothing"):
        subset.select_duration(lengths, min_s=5, max_s=1)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(OptionError, match=r"classes: none named"):
        subset.select_classes(SOME, [])
    with pytest.raises(OptionError, match=r"match: 'most' is unknown"):
        subset.select_classes(SOME, ["Dog"], match="most")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=r"Dgo"):
        subset.select_classes(SOME, ["Dgo"])
    with pytest.raises(OptionError, match=r"per_class: 0 is out of range"):
        subset.sample_balanced(SOME, 0)
    with pytest.raises(OptionError, match=r"seed: -1 is out of range"):
        subset.sample_balanced(SOME, 1, seed=-1)
    for fractions in ([], [0.5, 0.6], [0.0, 1.0], [float("nan")]):
        with pytest.raises(OptionError, match=r"are no shares of a whole"):
            subset.split_by_video(SOME, fractions)


def random_table(rng: np.random.Generator, count: int = 400) -> pa.Table:
    mids = [SPEECH, MUSIC, DOG, BARK, CAT, "/m/03m9d0z", "/m/07yv9"]
    chances = np.array([0.5, 0.4, 0.1, 0.05, 0.03, 0.02, 0.01])
    return table(*(tuple(m for m, hit in zip(mids, rng.random(7) < chances, strict=True) if hit) for _ in range(count)))


@pytest.mark.parametrize("per_class", [1, 3, 20, 1000])
def test_balanced_samples_have_enough_of_each_class_and_little_more(rng: np.random.Generator, per_class: int) -> None:
    whole = random_table(rng)
    part = subset.sample_balanced(whole, per_class, seed=3)
    available = Counter(mid for row in whole["mids"].to_pylist() for mid in row)
    found = Counter(mid for row in part["mids"].to_pylist() for mid in row)
    assert all(found[mid] >= min(per_class, count) for mid, count in available.items())
    assert part.num_rows <= sum(min(per_class, count) for count in available.values())
    assert len(set(ids(part))) == part.num_rows
    assert ids(part) == [ytid for ytid in ids(whole) if ytid in set(ids(part))]  # in order


def test_balanced_samples_depend_on_the_seed_alone(rng: np.random.Generator) -> None:
    whole = random_table(rng)
    assert ids(subset.sample_balanced(whole, 5, seed=1)) == ids(subset.sample_balanced(whole, 5, seed=1))
    assert ids(subset.sample_balanced(whole, 5, seed=1)) != ids(subset.sample_balanced(whole, 5, seed=2))


def test_balanced_samples_take_clips_that_crowd_nothing_first() -> None:
    whole = table(*[(BARK,)] * 2, *[(DOG, BARK)] * 50, *[(DOG,)] * 50)
    part = subset.sample_balanced(whole, 2)
    # Bark is the rarer one and takes two; what Dog then lacks comes from clips without it.
    found = Counter(mid for row in part["mids"].to_pylist() for mid in row)
    assert found[BARK] == 2
    assert found[DOG] == 2


def test_sampling_none_gives_none() -> None:
    assert subset.sample_balanced(SOME.slice(0, 0), 3).num_rows == 0
    assert subset.sample_balanced(table((), ()), 3).num_rows == 0


def test_splits_are_disjoint_whole_and_keep_videos_together() -> None:
    ytids = [f"video{number // 3}" for number in range(3000)]
    whole = table(*[(SPEECH,)] * 3000, ytids=ytids)
    parts = subset.split_by_video(whole, (0.8, 0.1, 0.1), seed=5)
    sets = [set(ids(part)) for part in parts]
    assert sum(map(len, sets)) == len(set.union(*sets)) == 1000
    assert sum(part.num_rows for part in parts) == 3000
    assert [len(found) for found in sets] == pytest.approx([800, 100, 100], abs=40)


def test_a_video_stays_on_its_side(rng: np.random.Generator) -> None:
    whole = random_table(rng)
    first, _ = subset.split_by_video(whole, (0.5, 0.5))
    shuffled = whole.take(rng.permutation(whole.num_rows)).slice(100)
    again, _ = subset.split_by_video(shuffled, (0.5, 0.5))
    assert set(ids(again)) == set(ids(first)) & set(ids(shuffled))
    other, _ = subset.split_by_video(whole, (0.5, 0.5), seed=1)
    assert set(ids(other)) != set(ids(first))


def test_what_fractions_leave_over_is_in_no_part() -> None:
    whole = table(*[(SPEECH,)] * 1000)
    (part,) = subset.split_by_video(whole, [0.3])
    assert part.num_rows == pytest.approx(300, abs=50)


def test_classes_of_the_published_files_are_as_a_plain_loop_finds_them(data_dir: Path) -> None:
    whole = read_segments(data_dir / "audioset" / "eval_segments.csv")
    ontology = Ontology.load()
    dogs = {DOG, *ontology.descendants(DOG)}
    expected = [ytid for ytid, mids in zip(ids(whole), whole["mids"].to_pylist(), strict=True) if dogs & set(mids)]
    assert ids(subset.select_classes(whole, ["Dog"])) == expected
    assert len(expected) > 100


def test_the_published_balance_can_be_halved(data_dir: Path) -> None:
    whole = read_segments(data_dir / "audioset" / "balanced_train_segments.csv")
    part = subset.sample_balanced(whole, 20)
    counts = Counter(mid for row in part["mids"].to_pylist() for mid in row)
    assert len(counts) == 527
    assert min(counts.values()) == 20
    assert np.median(list(counts.values())) == 20

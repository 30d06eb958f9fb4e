"""What is learnt from and what is held out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audioset.classes import ClassList
from audioset.errors import DatasetError, OptionError
from audioset.finetune.data import Clip, Sounds
from audioset.finetune.options import FinetuneOptions
from audioset.finetune.split import carve, inner_folds, partition, split


def sounds(
    labels: Sequence[Sequence[int]],
    *,
    groups: Sequence[str] | None = None,
    splits: Sequence[str] | None = None,
    folds: Sequence[str] | None = None,
    num_classes: int = 3,
) -> Sounds:
    """Clips that are nowhere, with these labels."""
    names = tuple("abcdefgh"[:num_classes])
    clips = tuple(
        Clip(
            path=f"{place}.wav",
            name=f"{place}.wav",
            labels=tuple(of_clip),
            start_s=0.0,
            duration_s=None,
            group=f"group {groups[place]}" if groups else f"file {place}",
            fold=folds[place] if folds else "",
            split=splits[place] if splits else "",
        )
        for place, of_clip in enumerate(labels)
    )
    multi_label = any(len(of_clip) != 1 for of_clip in labels)
    return Sounds(clips, ClassList(names, names), multi_label, groups is not None, (), "")


def counts(found: Sounds, places: np.ndarray) -> list[int]:
    return found.targets()[places].sum(axis=0).tolist()


def test_each_class_is_split_by_the_fraction() -> None:
    data = sounds([[0]] * 50 + [[1]] * 20 + [[2]] * 10)
    found = split(data, valid_fraction=0.2)
    assert counts(data, found.valid) == [10, 4, 2]
    assert counts(data, found.train) == [40, 16, 8]
    assert not len(found.test)
    assert found.warnings == ()


def test_the_seed_decides_which() -> None:
    data = sounds([[0]] * 50 + [[1]] * 50, num_classes=2)
    first, again, other = (split(data, valid_fraction=0.2, seed=seed).valid for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert set(first) != set(other)


@settings(max_examples=60, deadline=None)
@given(
    groups=st.lists(st.integers(0, 11), min_size=4, max_size=60),
    seed=st.integers(0, 5),
    fraction=st.sampled_from([0.1, 0.3, 0.5]),
)
def test_no_group_is_ever_on_both_sides(groups: list[int], seed: int, fraction: float) -> None:
    rng = np.random.default_rng(seed)
    targets = rng.random((len(groups), 3)) < 0.4
    names = [str(group) for group in groups]
    parts = partition(targets, names, (1 - fraction, fraction), seed, first=True)
    by_group: dict[str, set[int]] = {}
    for name, part in zip(names, parts.tolist(), strict=True):
        by_group.setdefault(name, set()).add(part)
    assert all(len(found) == 1 for found in by_group.values())
    assert (targets[parts == 0].any(axis=0) == targets.any(axis=0)).all()  # all classes can be learnt


def test_what_the_data_say_comes_first() -> None:
    data = sounds([[0], [0], [0], [1], [1], [1]], splits=["valid", "", "train", "test", "", "train"], num_classes=2)
    found = split(data, valid_fraction=0.9)
    assert found.valid.tolist() == [0]
    assert found.test.tolist() == [3]
    assert found.train.tolist() == [1, 2, 4, 5]
    assert found.warnings == (
        "validation: no clip of b; nothing is known of it there",
        "test: no clip of a; nothing is known of it there",
    )


def test_a_class_with_one_example_is_named_with_what_to_do() -> None:
    with pytest.raises(DatasetError, match=r"class 'b': one example to learn from; expected 2 or more.*--classes"):
        split(sounds([[0], [0], [1]], num_classes=2), valid_fraction=0.2)
    held = sounds([[0], [0], [1], [1]], splits=["", "", "test", "test"], num_classes=2)
    with pytest.raises(DatasetError, match="class 'b': no example to learn from beside 2 held out"):
        split(held, valid_fraction=0.2)


def test_one_class_alone_is_refused_unless_clips_may_have_none() -> None:
    with pytest.raises(DatasetError, match="'a' alone; expected two or more"):
        split(sounds([[0], [0]], num_classes=1), valid_fraction=0.5)
    assert len(split(sounds([[0], [0], [], []], num_classes=1), valid_fraction=0.5).train) >= 1


def test_one_group_cannot_be_validated_by_and_that_is_said() -> None:
    found = split(sounds([[0], [0], [1], [1]], groups=["k"] * 4, num_classes=2), valid_fraction=0.2)
    assert len(found.train) == 4
    assert not len(found.valid)
    assert "validation: no clip" in found.warnings[0]


def test_a_class_that_is_only_validated_by_is_refused() -> None:
    data = sounds([[0], [0], [1], [1]], splits=["", "", "valid", "valid"], num_classes=2)
    with pytest.raises(DatasetError, match="class 'b': all examples are in the part that is validated by"):
        split(data, valid_fraction=0.2)


def test_folds_share_each_class_and_cover_everything_once() -> None:
    data = sounds([[0]] * 12 + [[1]] * 6 + [[2]] * 6 + [[0]] * 4, splits=[""] * 24 + ["test"] * 4)
    found = split(data, valid_fraction=0.2, num_folds=3)
    assert sorted(np.concatenate([held for _, held in found.folds])) == list(range(24))
    for learnt, held in found.folds:
        assert counts(data, held) == [4, 2, 2]
        assert sorted([*learnt, *held]) == list(range(24))
    assert found.train.tolist() == list(range(24))  # the model that is kept learns from all
    assert not len(found.valid)


def test_folds_of_the_data_are_kept() -> None:
    labels = [[0], [0], [0], [1], [1], [1]]
    found = split(sounds(labels, folds=["x", "y", "y", "x", "y", "x"], num_classes=2), valid_fraction=0, num_folds=2)
    assert [held.tolist() for _, held in found.folds] == [[0, 3, 5], [1, 2, 4]]
    with pytest.raises(OptionError, match="folds: 3, but the data name 2 \\(x, y\\)"):
        split(sounds(labels, folds=["x", "y"] * 3, num_classes=2), valid_fraction=0, num_folds=3)
    with pytest.raises(DatasetError, match="in several of those that the data name, such as 'k'"):
        split(sounds(labels, folds=["x", "y"] * 3, groups=["k"] * 6, num_classes=2), valid_fraction=0, num_folds=2)


def test_more_folds_than_groups_are_refused() -> None:
    with pytest.raises(OptionError, match="folds: 3, but there are 2 groups"):
        split(sounds([[0], [1]] * 4, groups=["k", "m"] * 4, num_classes=2), valid_fraction=0, num_folds=3)


def test_folds_that_the_clips_do_not_fill_are_said() -> None:
    data = sounds([[0]] * 6 + [[1]] * 6, num_classes=2)
    found = split(data, valid_fraction=0, num_folds=9)
    assert len(found.folds) == 6
    assert all(counts(data, held) == [1, 1] for _, held in found.folds)
    assert found.warnings == ("folds: 6 instead of the 9 asked for: the clips, in whole groups, fill no more",)
    assert not split(data, valid_fraction=0, num_folds=6).warnings


def test_a_fold_that_holds_all_of_a_class_is_said() -> None:
    data = sounds([[0], [0], [1], [1], [0], [0]], groups=["k", "m", "k", "k", "m", "m"], num_classes=2)
    found = split(data, valid_fraction=0, num_folds=2)
    assert any("nothing to learn b from" in warning for warning in found.warnings)


def test_carving_leaves_every_class_to_learn_from() -> None:
    data = sounds([[0]] * 10 + [[1]] * 2, num_classes=2)
    train, valid = carve(data, np.arange(12), 0.5, 0)
    assert counts(data, train)[1] >= 1
    assert sorted([*train, *valid]) == list(range(12))


def test_inner_folds_are_as_many_as_the_rarest_class_has_groups() -> None:
    targets = np.eye(2, dtype=bool)[[0] * 9 + [1] * 3]
    assert len(inner_folds(targets, [str(place) for place in range(12)], 5, 0)) == 3
    assert inner_folds(targets, ["k"] * 12, 5, 0) == []


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"folds": 1}, "folds: 1"),
        ({"epochs": 0}, "epochs: 0"),
        ({"seed": -1}, "seed: -1"),
        ({"valid_fraction": 1.0}, r"valid_fraction: 1\.0"),
        ({"full": True, "valid_fraction": 0.0}, "something must tell when to stop"),
        ({"learning_rate": 0.0}, r"learning_rate: 0\.0 .* above 0"),
        ({"layer_decay": 1.5}, r"layer_decay: 1\.5 .* up to 1"),
        ({"weight_decay": float("nan")}, "weight_decay: nan"),
        ({"precision": "64"}, "precision: '64' is unknown"),
        ({"learning_rate": 0.1, "augment": False}, "^augment, learning_rate: for full fine-tuning alone"),
    ],
)
def test_options_out_of_range_are_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        FinetuneOptions(**wrong)  # type: ignore[arg-type]


def test_nothing_is_set_aside_where_nothing_needs_it() -> None:
    assert FinetuneOptions().share_to_validate(tested=False) == 0.2
    assert FinetuneOptions().share_to_validate(tested=True) == 0
    assert FinetuneOptions(folds=3).share_to_validate(tested=False) == 0
    assert FinetuneOptions(full=True).share_to_validate(tested=True) == 0.2
    assert FinetuneOptions(valid_fraction=0.4, folds=3).share_to_validate(tested=True) == 0.4

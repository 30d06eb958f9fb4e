from __future__ import annotations

import numpy as np
import pytest

from audioset.errors import OptionError
from audioset.evaluate import bootstrap, metrics


def counts(num_clips, resamples, seed, of_group=None):
    return np.concatenate(list(bootstrap._draws(num_clips, of_group, resamples, seed)), axis=1)


def taken(array, weights):
    """The clips of a resample, each as often as it was drawn."""
    return np.repeat(array, weights, axis=0)


def test_a_resample_measures_what_its_copies_of_clips_measure(scored):
    scores, targets = scored
    drawn = bootstrap.resample(scores, targets, resamples=5, seed=3)
    for b, weights in enumerate(counts(len(scores), 5, 3).T):
        copy = taken(scores, weights), taken(targets, weights)
        ap = metrics.average_precision(*copy)
        np.testing.assert_allclose(drawn.average_precision[b], ap, rtol=1e-12)
        expected = {
            "map": metrics.macro(ap),
            "auc": metrics.macro(metrics.roc_auc(*copy)),
            "lwlrap": metrics.lwlrap(*copy),
            "gap_20": metrics.gap(*copy),
            "hit_1": metrics.hit_at_1(*copy),
            "perr": metrics.perr(*copy),
        }
        assert {name: values[b] for name, values in drawn.values.items()} == pytest.approx(expected, rel=1e-6)


def test_scikit_learn_agrees_with_weights(scored):
    from sklearn.metrics import average_precision_score

    scores, targets = scored
    drawn = bootstrap.resample(scores, targets, resamples=3, seed=0)
    for b, weights in enumerate(counts(len(scores), 3, 0).T):
        expected = average_precision_score(targets[:, 0], scores[:, 0], sample_weight=weights)
        assert drawn.average_precision[b, 0] == pytest.approx(expected, rel=1e-12)


def test_a_resample_of_single_labels_measures_what_its_copies_measure(rng):
    scores, targets = rng.standard_normal((90, 4)), np.eye(4, dtype=bool)[rng.integers(0, 3, 90)]
    drawn = bootstrap.resample(scores, targets, resamples=4, seed=1, single_label=True)
    for b, weights in enumerate(counts(90, 4, 1).T):
        copy = taken(scores, weights), taken(targets, weights)
        for name in ("accuracy", "balanced_accuracy", "macro_f1"):
            assert drawn.values[name][b] == pytest.approx(getattr(metrics, name)(*copy), rel=1e-12)


def test_a_resample_sees_rated_cells_only(scored, rng):
    scores, targets = scored
    mask = rng.random(scores.shape) < 0.6
    drawn = bootstrap.resample(scores, targets, mask, resamples=3, seed=2)
    for b, weights in enumerate(counts(len(scores), 3, 2).T):
        copy = [taken(array, weights) for array in (scores, targets, mask)]
        np.testing.assert_allclose(drawn.average_precision[b], metrics.average_precision(*copy), rtol=1e-12)
        assert drawn.values["lwlrap"][b] == pytest.approx(metrics.lwlrap(*copy), rel=1e-12)


def test_blocks_of_resamples_change_nothing(scored, monkeypatch):
    from audioset.evaluate import _ranking

    whole = bootstrap.resample(*scored, resamples=7, seed=5)
    monkeypatch.setattr(bootstrap, "_HELD_COUNTS", 2 * 400)
    monkeypatch.setattr(_ranking, "_HELD", 500)
    parts = bootstrap.resample(*scored, resamples=7, seed=5)
    np.testing.assert_allclose(parts.average_precision, whole.average_precision, rtol=1e-12)
    assert all(np.allclose(parts.values[name], values, rtol=1e-12) for name, values in whole.values.items())


def test_the_seed_alone_decides(scored):
    one, same, other = (bootstrap.resample(*scored, resamples=3, seed=seed).values["map"] for seed in (4, 4, 5))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_groups_are_drawn_whole():
    of_group = np.array([0, 0, 1, 2, 2, 2])
    drawn = counts(6, 50, 0, of_group)
    assert (drawn[0] == drawn[1]).all()
    assert (drawn[3] == drawn[4]).all()
    assert (drawn[[0, 2, 3]].sum(axis=0) == 3).all()
    assert not (drawn[0] == drawn[2]).all()


def test_groups_of_like_clips_widen_the_interval(rng):
    scores, targets = rng.standard_normal((40, 1)), rng.random((40, 1)) < 0.5
    scores[targets] += 1
    ten_each = np.repeat(scores, 10, axis=0), np.repeat(targets, 10, axis=0)
    alone = bootstrap.resample(*ten_each, resamples=200).values["map"]
    together = bootstrap.resample(*ten_each, resamples=200, groups=np.repeat(np.arange(40), 10)).values["map"]
    assert together.std() > 2 * alone.std()


def test_the_interval_holds_the_estimate_where_all_resamples_lie_above_it(rng):
    # Few positives a class: the copies of one in a resample share its rank, and raise its precision.
    targets = rng.random((500, 300)) < 0.02
    scores = rng.standard_normal((500, 300)) + targets
    drawn = bootstrap.resample(scores, targets, resamples=100).values["map"]
    estimate = metrics.macro(metrics.average_precision(scores, targets))
    assert np.percentile(drawn, 2.5) > estimate
    low, high = bootstrap.interval(drawn, estimate)
    assert low < estimate < high
    width = np.diff(np.percentile(drawn, [2.5, 97.5]))[0]
    assert high - low == pytest.approx(width)


@pytest.mark.slow
def test_intervals_hold_the_expected_value_as_often_as_they_say():
    rng = np.random.default_rng(1)

    def clips():
        targets = rng.random((1000, 10)) < np.linspace(0.2, 0.02, 10)
        return (rng.standard_normal((1000, 10)) + 1.6 * targets).astype(np.float32), targets

    expected = np.mean([metrics.macro(metrics.average_precision(*clips())) for _ in range(400)])
    held = 0
    for seed in range(150):
        scores, targets = clips()
        drawn = bootstrap.resample(scores, targets, resamples=200, seed=seed).values["map"]
        low, high = bootstrap.interval(drawn, metrics.macro(metrics.average_precision(scores, targets)))
        held += low <= expected <= high
    assert 0.88 < held / 150 <= 0.99


def test_interval_worked_by_hand():
    assert bootstrap.interval(np.arange(101) / 100, 0.4, confidence=0.5) == pytest.approx((0.15, 0.65))
    assert bootstrap.interval([0.0, 1.0, np.nan], 0.9) == pytest.approx((0.425, 1.0))  # not above 1
    assert np.isnan(bootstrap.interval([np.nan], 0.5)).all()
    assert np.isnan(bootstrap.interval([0.5], np.nan)).all()


def test_progress_ends_at_all_steps(scored, monkeypatch):
    monkeypatch.setattr(bootstrap, "_HELD_COUNTS", 2 * 400)
    seen = []
    bootstrap.resample(*scored, resamples=5, progress=lambda done, steps: seen.append((done, steps)))
    assert [done for done, _ in seen] == list(range(1, 3 * 13 + 1))
    assert {steps for _, steps in seen} == {3 * 13}


def test_too_few_resamples_are_refused(scored):
    with pytest.raises(OptionError, match="resamples: 1; expected at least 2"):
        bootstrap.resample(*scored, resamples=1)


def test_groups_of_another_length_are_refused(scored):
    with pytest.raises(OptionError, match=r"groups: shape \(3,\); expected one value for each of the 400 clips"):
        bootstrap.resample(*scored, groups=[1, 2, 3])

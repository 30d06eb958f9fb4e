from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from audioset.errors import OptionError
from audioset.evaluate import metrics

from . import _oracles

# Worked by hand. Clips a, b, c; classes x, y, z.
SCORES = np.array([[0.9, 0.2, 0.4], [0.8, 0.7, 0.1], [0.3, 0.6, 0.5]])
TARGETS = np.array([[1, 0, 1], [0, 1, 0], [1, 1, 0]], bool)


def test_average_precision_worked_by_hand():
    # x: a 1/1, b wrong, c 2/3 → (1 + 2/3) / 2; y: both first → 1; z: c wrong, a 1/2.
    np.testing.assert_allclose(metrics.average_precision(SCORES, TARGETS), [5 / 6, 1, 1 / 2])


def test_auc_worked_by_hand():
    # x: positives .9 and .3 against .8; y: both above; z: .4 against .1 and .5.
    np.testing.assert_allclose(metrics.roc_auc(SCORES, TARGETS), [1 / 2, 1, 1 / 2])


def test_lwlrap_worked_by_hand():
    # a: x first 1/1, z second 2/2; b: y second 1/2; c: y first 1/1, x third 2/3.
    assert metrics.lwlrap(SCORES, TARGETS) == pytest.approx((1 + 1 + 1 / 2 + 1 + 2 / 3) / 5)
    np.testing.assert_allclose(metrics.lwlrap_per_class(SCORES, TARGETS), [(1 + 2 / 3) / 2, (1 / 2 + 1) / 2, 1])


def test_gap_worked_by_hand():
    # The two highest of each: .9 right, .8 wrong, .7 right, .6 right, .5 wrong, .4 right; of 5 labels.
    assert metrics.gap(SCORES, TARGETS, k=2) == pytest.approx((1 + 2 / 3 + 3 / 4 + 4 / 6) / 5)


def test_hit_and_perr_worked_by_hand():
    # Highest: a right, b wrong, c right. As many as labels: a 2 of 2, b 0 of 1, c 1 of 2.
    assert metrics.hit_at_1(SCORES, TARGETS) == pytest.approx(2 / 3)
    assert metrics.perr(SCORES, TARGETS) == pytest.approx((1 + 0 + 1 / 2) / 3)


def test_confusion_and_accuracies_worked_by_hand():
    targets = np.eye(3, dtype=bool)[[0, 0, 1]]
    np.testing.assert_array_equal(metrics.confusion_matrix(SCORES, targets), [[2, 0, 0], [0, 1, 0], [0, 0, 0]])
    targets = np.eye(3, dtype=bool)[[0, 1, 2]]  # given x, x, y
    np.testing.assert_array_equal(metrics.confusion_matrix(SCORES, targets), [[1, 0, 0], [1, 0, 0], [0, 1, 0]])
    assert metrics.accuracy(SCORES, targets) == pytest.approx(1 / 3)
    assert metrics.balanced_accuracy(SCORES, targets) == pytest.approx(1 / 3)
    assert metrics.macro_f1(SCORES, targets) == pytest.approx((2 / 3) / 3)


def test_scikit_learn_agrees_on_classes(scored):
    from sklearn.metrics import average_precision_score, roc_auc_score

    scores, targets = scored
    ap, auc = metrics.average_precision(scores, targets), metrics.roc_auc(scores, targets)
    for j in range(targets.shape[1]):
        if j == 3:
            assert np.isnan([ap[j], auc[j]]).all()
            continue
        assert ap[j] == pytest.approx(average_precision_score(targets[:, j], scores[:, j]), abs=1e-12)
        if j == 7:
            assert np.isnan(auc[j])
        else:
            assert auc[j] == pytest.approx(roc_auc_score(targets[:, j], scores[:, j]), abs=1e-12)


def test_scikit_learn_agrees_on_label_ranking(scored):
    from sklearn.metrics import label_ranking_average_precision_score

    scores, targets = scored
    expected = label_ranking_average_precision_score(targets, scores, sample_weight=targets.sum(axis=1))
    assert metrics.lwlrap(scores, targets) == pytest.approx(expected, abs=1e-12)


def test_scikit_learn_agrees_on_single_labels(rng):
    from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, f1_score

    scores = rng.standard_normal((300, 8))
    true = rng.integers(0, 6, 300)  # two classes have no clip
    scores[np.arange(300), true] += 1
    targets = np.eye(8, dtype=bool)[true]
    given_class = scores.argmax(axis=1)
    np.testing.assert_array_equal(
        metrics.confusion_matrix(scores, targets), confusion_matrix(true, given_class, labels=np.arange(8))
    )
    assert metrics.accuracy(scores, targets) == pytest.approx(accuracy_score(true, given_class), abs=1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that classes without clips are given
        assert metrics.balanced_accuracy(scores, targets) == pytest.approx(
            balanced_accuracy_score(true, given_class), abs=1e-12
        )
    assert metrics.macro_f1(scores, targets) == pytest.approx(f1_score(true, given_class, average="macro"), abs=1e-12)


def test_scikit_learn_agrees_on_the_curve(scored):
    from sklearn.metrics import precision_recall_curve

    scores, targets = scored
    curve = metrics.precision_recall(scores[:, 0], targets[:, 0])
    precision, recall, thresholds = precision_recall_curve(targets[:, 0], scores[:, 0])
    np.testing.assert_allclose(curve.precision, precision[:-1][::-1])
    np.testing.assert_allclose(curve.recall, recall[:-1][::-1])
    np.testing.assert_allclose(curve.thresholds, thresholds[::-1])
    assert curve.average_precision == pytest.approx(metrics.average_precision(scores, targets)[0], abs=1e-12)


@pytest.mark.slow
def test_torchmetrics_agrees(scored):
    torch = pytest.importorskip("torch")
    from torchmetrics.functional.classification import (
        multilabel_average_precision,
        multilabel_ranking_average_precision,
    )

    scores, targets = (np.delete(array, [3, 7], axis=1) for array in scored)
    probabilities = torch.from_numpy(1 / (1 + np.exp(-scores.astype(np.float64))))
    labels = torch.from_numpy(targets.astype(np.int64))
    expected = multilabel_average_precision(probabilities, labels, num_labels=10, average=None)
    np.testing.assert_allclose(metrics.average_precision(scores, targets), expected.numpy(), atol=1e-6)
    one_each = np.eye(10, dtype=bool)[np.arange(400) % 10]
    expected = multilabel_ranking_average_precision(probabilities, torch.from_numpy(one_each.astype(np.int64)), 10)
    assert metrics.lwlrap(scores, one_each) == pytest.approx(float(expected), abs=1e-6)


def test_gap_is_that_of_the_starter_code(rng):
    scores, targets = rng.random((60, 30)), rng.random((60, 30)) < 0.1
    for k in (1, 5, 20, 30, 99):
        assert metrics.gap(scores, targets, k=k) == pytest.approx(
            _oracles.starter_code_gap(scores, targets, k), abs=1e-6
        )


def test_gap_counts_labels_beyond_the_pooled(rng):
    scores = np.tile(np.arange(30.0), (4, 1))
    targets = np.zeros((4, 30), bool)
    targets[:, 29], targets[:, 0] = True, True
    assert metrics.gap(scores, targets) == pytest.approx(0.5)


# Few distinct scores, so that columns and rows are full of equal ones; columns without or full of positives come up.
tables = st.integers(1, 12).flatmap(
    lambda n: st.integers(1, 5).flatmap(
        lambda c: st.tuples(
            hnp.arrays(np.float32, (n, c), elements=st.integers(-2, 2).map(float)),
            hnp.arrays(np.bool_, (n, c)),
            hnp.arrays(np.bool_, (n, c)),
        )
    )
)


@settings(max_examples=60, deadline=None)
@given(tables)
def test_definitions_hold_for_equal_scores_and_any_columns(table):
    scores, targets, mask = table
    for rated in (None, mask):
        seen = np.ones_like(mask) if rated is None else rated
        ap, auc = metrics.average_precision(scores, targets, rated), metrics.roc_auc(scores, targets, rated)
        for j in range(scores.shape[1]):
            column = scores[seen[:, j], j].tolist(), targets[seen[:, j], j].tolist()
            np.testing.assert_allclose(ap[j], _oracles.average_precision(*column), atol=1e-12)
            np.testing.assert_allclose(auc[j], _oracles.auc(*column), atol=1e-12)
        overall, per_class = _oracles.lwlrap(np.where(seen, scores, -np.inf), targets & seen)
        np.testing.assert_allclose(metrics.lwlrap(scores, targets, rated), overall, atol=1e-12)
        np.testing.assert_allclose(metrics.lwlrap_per_class(scores, targets, rated), per_class, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(tables, st.randoms(use_true_random=False))
def test_no_metric_depends_on_the_order_of_clips_or_classes(table, random):
    scores, targets, mask = table
    rows, columns = list(range(len(scores))), list(range(scores.shape[1]))
    random.shuffle(rows)
    random.shuffle(columns)
    shuffled = [array[rows][:, columns] for array in table]
    for metric in (metrics.lwlrap, metrics.hit_at_1, metrics.perr, lambda s, t, m: metrics.gap(s, t, m, k=2)):
        np.testing.assert_allclose(metric(scores, targets, mask), metric(*shuffled), atol=1e-6)
    np.testing.assert_allclose(metrics.average_precision(*table)[columns], metrics.average_precision(*shuffled))


def test_equal_scores_count_as_a_draw_by_lot(rng):
    scores, targets = rng.integers(0, 3, (50, 6)).astype(float), rng.random((50, 6)) < 0.3
    lots = [
        (
            _oracles.hits_by_lot(scores, targets, rng, lambda _: 1),
            _oracles.hits_by_lot(scores, targets, rng, lambda truth: truth.sum()),
        )
        for _ in range(300)
    ]
    hit, perr = np.mean(lots, axis=0)
    assert metrics.hit_at_1(scores, targets) == pytest.approx(hit, abs=0.015)
    assert metrics.perr(scores, targets) == pytest.approx(perr, abs=0.015)


def test_a_constant_score_has_the_precision_of_chance():
    targets = np.zeros((10, 4), bool)
    targets[:3, 0] = True
    scores = np.zeros((10, 4))
    assert metrics.average_precision(scores, targets)[0] == pytest.approx(0.3)
    assert metrics.roc_auc(scores, targets)[0] == pytest.approx(0.5)
    assert metrics.hit_at_1(scores, targets) == pytest.approx(1 / 4)
    assert metrics.gap(scores, targets, k=2) == pytest.approx(3 / 40 * 1 / 2)  # half of the labels are drawn


def test_cells_that_are_not_rated_change_nothing(rng):
    scores, targets, mask = rng.random((80, 5)), rng.random((80, 5)) < 0.3, rng.random((80, 5)) < 0.5
    other_scores, other_targets = np.where(mask, scores, rng.random((80, 5)) * 9), targets ^ ~mask
    for metric in (
        metrics.average_precision,
        metrics.roc_auc,
        metrics.lwlrap,
        metrics.gap,
        metrics.hit_at_1,
        metrics.perr,
    ):
        np.testing.assert_array_equal(metric(scores, targets, mask), metric(other_scores, other_targets, mask))


def test_a_class_rated_nowhere_is_as_if_it_were_not_there(rng):
    scores, targets, mask = rng.random((80, 30)), rng.random((80, 30)) < 0.2, np.ones((80, 30), bool)
    mask[:, [4, 9]] = False
    fewer = np.delete(scores, [4, 9], axis=1), np.delete(targets, [4, 9], axis=1)
    for metric in (metrics.lwlrap, metrics.gap, metrics.hit_at_1, metrics.perr):
        assert metric(scores, targets, mask) == pytest.approx(metric(*fewer), rel=1e-12)
    np.testing.assert_array_equal(
        np.delete(metrics.average_precision(scores, targets, mask), [4, 9]), metrics.average_precision(*fewer)
    )
    assert np.isnan(metrics.roc_auc(scores, targets, mask)[[4, 9]]).all()


def test_clips_without_labels_count_for_classes_only():
    scores, targets = np.vstack([SCORES, [[0.95, 0.1, 0.1]]]), np.vstack([TARGETS, [[False] * 3]])
    for metric in (metrics.lwlrap, metrics.hit_at_1, metrics.perr):
        assert metric(scores, targets) == metric(SCORES, TARGETS)
    assert metrics.average_precision(scores, targets)[0] < metrics.average_precision(SCORES, TARGETS)[0]


def test_blocks_of_rows_change_nothing(scored, monkeypatch):
    from audioset.evaluate import _ranking

    scores, targets = scored
    functions = (metrics.average_precision, metrics.roc_auc, metrics.lwlrap_per_class, metrics.gap, metrics.perr)
    whole = [metric(scores, targets) for metric in functions]
    monkeypatch.setattr(_ranking, "_HELD", 50)
    for metric, expected in zip(functions, whole, strict=True):
        np.testing.assert_allclose(metric(scores, targets), expected, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int8, np.uint8, np.int64, np.bool_])
def test_scores_of_any_type_are_ranked_alike(rng, dtype):
    scores, targets = rng.integers(0, 2, (40, 3)), rng.random((40, 3)) < 0.4
    for metric in (metrics.average_precision, metrics.roc_auc, metrics.lwlrap, metrics.gap, metrics.perr):
        np.testing.assert_array_equal(metric(scores.astype(dtype), targets), metric(scores.astype(np.float32), targets))


def test_targets_may_be_numbers():
    np.testing.assert_allclose(metrics.average_precision(SCORES, TARGETS.astype(np.float32)), [5 / 6, 1, 1 / 2])


def test_d_prime_is_that_of_the_published_areas():
    # Of AudioSet's baseline, average pooling and feature-level attention on its features, and PANNs' CNN14; the areas
    # were rounded to three digits, which is worth 0.008.
    np.testing.assert_allclose(metrics.d_prime([0.959, 0.964, 0.969, 0.973]), [2.452, 2.536, 2.641, 2.732], atol=0.01)
    assert metrics.d_prime(0.8) == pytest.approx(_oracles.d_prime(0.8))


def test_d_prime_at_the_ends():
    np.testing.assert_array_equal(metrics.d_prime([0.5, 1, 0, math.nan]), [0, math.inf, -math.inf, math.nan])
    with pytest.raises(OptionError, match=r"auc: values from 0\.5 to 1\.5; expected areas from 0 to 1"):
        metrics.d_prime([0.5, 1.5])


def test_macro_leaves_out_what_is_undefined():
    assert metrics.macro([0.5, math.nan, 1]) == 0.75
    assert math.isnan(metrics.macro([math.nan]))


def test_nothing_positive_is_nan_without_a_warning():
    scores, targets = np.ones((3, 2)), np.zeros((3, 2), bool)
    assert np.isnan(metrics.average_precision(scores, targets)).all()
    for metric in (metrics.lwlrap, metrics.gap, metrics.hit_at_1, metrics.perr):
        assert math.isnan(metric(scores, targets))
    curve = metrics.precision_recall(scores[:, 0], targets[:, 0])
    assert math.isnan(curve.average_precision)
    assert np.isnan(curve.recall).all()


def test_a_curve_may_leave_cells_out():
    mask = np.array([True, False, True])
    curve = metrics.precision_recall(SCORES[:, 0], TARGETS[:, 0], mask)
    np.testing.assert_array_equal(curve.thresholds, [0.9, 0.3])
    assert curve.average_precision == 1


@pytest.mark.parametrize("metric", [metrics.average_precision, metrics.gap, metrics.lwlrap, metrics.accuracy])
@pytest.mark.parametrize(
    ("scores", "targets", "message"),
    [
        (np.zeros((0, 3)), np.zeros((0, 3), bool), r"scores: shape \(0, 3\); expected two axes"),
        (np.zeros(3), np.zeros(3, bool), r"scores: shape \(3,\); expected two axes"),
        (np.zeros((4, 3)), np.zeros((3, 4), bool), r"targets: shape \(3, 4\); expected that of the scores, \(4, 3\)"),
        (
            np.full((2, 2), np.nan),
            np.eye(2, dtype=bool),
            r"scores: NaN or infinite in 2 of 2 clips, the first is row 0",
        ),
        (np.array([[0, 1], [np.inf, 1]]), np.eye(2, dtype=bool), r"infinite in 1 of 2 clips, the first is row 1"),
        (np.array([["a"]]), np.eye(1, dtype=bool), r"scores: <U1 values; expected numbers"),
        (np.zeros((2, 2)), np.full((2, 2), 2), r"targets: int64 values that are neither 0 nor 1"),
        (np.zeros((2, 2)), np.full((2, 2), np.nan), r"targets: float64 values that are neither 0 nor 1"),
    ],
)
def test_what_cannot_be_measured_is_refused(metric, scores, targets, message):
    with pytest.raises(OptionError, match=message):
        metric(scores, targets)


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(OptionError, match=r"mask: shape \(3, 2\); expected that of the scores, \(3, 3\)"):
        metrics.roc_auc(SCORES, TARGETS, np.ones((3, 2), bool))


def test_several_labels_have_no_confusion_matrix():
    with pytest.raises(
        OptionError, match=r"targets: 2 of 3 clips do not have exactly one class, the first is row 0 with 2"
    ):
        metrics.confusion_matrix(SCORES, TARGETS)


def test_gap_of_no_prediction_is_refused():
    with pytest.raises(OptionError, match="k: 0; expected at least 1"):
        metrics.gap(SCORES, TARGETS, k=0)

"""The linear layer on embeddings, against scikit-learn's own pipeline."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from audioset.finetune.probe import STRENGTHS, fit_probe, log_loss

Arrays = tuple[npt.NDArray[np.float32], npt.NDArray[np.intp]]


def clouds(rng: np.random.Generator, num_classes: int, num: int = 90, dim: int = 6) -> Arrays:
    """Embeddings on very different scales, whose classes overlap."""
    classes = np.arange(num) % num_classes
    centres = rng.standard_normal((num_classes, dim))
    scale = 10.0 ** np.linspace(-1, 1, dim)
    return ((centres[classes] + rng.standard_normal((num, dim))) * scale + 5).astype(np.float32), classes


def alone(num: int) -> list[str]:
    return [str(place) for place in range(num)]


@pytest.mark.parametrize("num_classes", [2, 3])
def test_logits_are_those_of_a_standardized_regression(rng: np.random.Generator, num_classes: int) -> None:
    embeddings, classes = clouds(rng, num_classes)
    probe = fit_probe(embeddings, np.eye(num_classes, dtype=bool)[classes], alone(90), multi_label=False)
    expected = make_pipeline(StandardScaler(), LogisticRegression(C=probe.strength, max_iter=1000))
    shares = expected.fit(embeddings, classes).predict_proba(embeddings)
    logits = probe.logits(embeddings)
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(softmax, shares, atol=2e-3)  # both stop when they are near enough
    assert probe.weights.dtype == np.float32
    assert probe.strength in STRENGTHS


def test_classes_by_themselves_are_a_regression_each(rng: np.random.Generator) -> None:
    embeddings, _ = clouds(rng, 3)
    targets = (embeddings[:, :3] - embeddings[:, :3].mean(axis=0)) * [1, -1, 1] > 0
    probe = fit_probe(embeddings, targets, alone(90), multi_label=True)
    expected = make_pipeline(StandardScaler(), LogisticRegression(C=probe.strength, max_iter=1000))
    shares = expected.fit(embeddings, targets[:, 1]).predict_proba(embeddings)[:, 1]
    np.testing.assert_allclose(1 / (1 + np.exp(-probe.logits(embeddings)[:, 1])), shares, atol=2e-3)


def test_the_strength_is_chosen_between_groups_alone(rng: np.random.Generator) -> None:
    embeddings, classes = clouds(rng, 3)
    targets = np.eye(3, dtype=bool)[classes]
    assert fit_probe(embeddings, targets, ["k"] * 90, multi_label=False).strength == 0.1  # nothing to choose by
    done: list[tuple[int, int]] = []
    fit_probe(embeddings, targets, ["k", "m", "n"] * 30, multi_label=False, progress=lambda *step: done.append(step))
    assert done[-1] == (1, 1)  # each class is of one group
    fit_probe(embeddings, targets, alone(90), multi_label=False, progress=lambda *step: done.append(step))
    assert done[-1] == (31, 31)


def test_a_dimension_that_hardly_varies_does_not_decide(rng: np.random.Generator) -> None:
    embeddings, classes = clouds(rng, 2)
    embeddings[:, 0] = 5 + 1e-6 * (classes == 1)
    probe = fit_probe(embeddings, np.eye(2, dtype=bool)[classes], alone(90), multi_label=False)
    moved = embeddings[:1].copy()
    moved[0, 0] += 0.01
    assert np.abs(probe.logits(moved) - probe.logits(embeddings[:1])).max() < 1


def test_what_cannot_be_learnt_is_never_said(rng: np.random.Generator) -> None:
    embeddings, classes = clouds(rng, 2)
    targets = np.zeros((90, 4), dtype=bool)
    targets[np.arange(90), classes + 1] = True  # nothing of the first class and the last
    logits = fit_probe(embeddings, targets, alone(90), multi_label=False).logits(embeddings)
    assert set(logits.argmax(axis=1)) == {1, 2}
    targets[:, 3] = True  # always there, among classes by themselves
    logits = fit_probe(embeddings, targets, alone(90), multi_label=True).logits(embeddings)
    assert (logits[:, 0] < -10).all()
    assert (logits[:, 3] > 10).all()


def test_embeddings_that_are_all_alike_are_no_fault() -> None:
    same = np.ones((8, 3), np.float32)
    probe = fit_probe(same, np.eye(2, dtype=bool)[[0, 1] * 4], alone(8), multi_label=False)
    assert np.isfinite(probe.logits(same)).all()


def test_log_loss_is_the_definition() -> None:
    logits = np.array([[2.0, 0.0], [0.0, 1.0]])
    targets = np.array([[True, False], [True, False]])
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert log_loss(logits, targets, False) == pytest.approx(-np.log(softmax[:, 0]).mean())
    sigmoid = 1 / (1 + np.exp(-logits))
    expected = -np.where(targets, np.log(sigmoid), np.log(1 - sigmoid)).mean()
    assert log_loss(logits, targets, True) == pytest.approx(expected)


@pytest.mark.parametrize("multi_label", [False, True])
def test_clip_logits_are_of_the_mean_over_the_scores_of_examples(rng: np.random.Generator, multi_label: bool) -> None:
    embeddings, classes = clouds(rng, 3)
    probe = fit_probe(embeddings, np.eye(3, dtype=bool)[classes], alone(90), multi_label=multi_label)
    clips = [embeddings[:1], embeddings[1:6], embeddings[6:8]]
    found = probe.clip_logits(clips, multi_label=multi_label)
    for row, clip in zip(found, clips, strict=True):
        odds = np.exp(probe.logits(clip))
        scores = odds / (1 + odds) if multi_label else odds / odds.sum(axis=1, keepdims=True)
        mean = scores.mean(axis=0)
        np.testing.assert_allclose(row, np.log(mean / (1 - mean)) if multi_label else np.log(mean), atol=1e-6)


def test_strength_is_chosen_by_the_scores_of_clips(rng: np.random.Generator) -> None:
    """Means of clips lie apart, single examples do not: what is sure of means is wrong of the loud ones among them."""
    classes = np.arange(120) % 2
    means = (rng.standard_normal((120, 4)) * 0.3).astype(np.float32)
    means[:, 0] += np.where(classes, 0.4, -0.4)
    examples = []
    for mean in means:
        noise = rng.standard_normal((10, 4)).astype(np.float32)
        noise[:, 0] = [-18, *[2] * 9]  # one example speaks against the nine others
        examples.append((mean + (noise - noise.mean(axis=0)) * np.sign(mean[0])).astype(np.float32))
    targets = np.eye(2, dtype=bool)[classes]
    by_means = fit_probe(means, targets, alone(120), multi_label=False)
    by_scores = fit_probe(means, targets, alone(120), multi_label=False, examples=examples)
    right = [
        (probe.clip_logits(examples, multi_label=False).argmax(axis=1) == classes).mean()
        for probe in (by_means, by_scores)
    ]
    assert by_scores.strength != by_means.strength
    assert right[1] >= right[0]

from __future__ import annotations

import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest

import audioset.evaluate
from audioset.classes import ClassList, class_list
from audioset.errors import OptionError, RecordError
from audioset.evaluate import METRICS, Evaluation, evaluate, metrics

_MODULES = {"annotations", "bootstrap", "evaluation", "metrics", "predictions", "report", "sounds"}
NAMES = [f"class {j}" for j in range(12)]


def same(one: Evaluation, other: Evaluation) -> bool:
    return repr(one) == repr(other)  # NaN is not equal to itself


def test_it_holds_what_the_metrics_give(scored):
    scores, targets = scored
    found = evaluate(scores, targets, NAMES, resamples=0)
    auc = metrics.macro(metrics.roc_auc(scores, targets))
    expected = {
        "map": metrics.macro(metrics.average_precision(scores, targets)),
        "auc": auc,
        "d_prime": float(metrics.d_prime(auc)),
        "lwlrap": metrics.lwlrap(scores, targets),
        "gap_20": metrics.gap(scores, targets),
        "hit_1": metrics.hit_at_1(scores, targets),
        "perr": metrics.perr(scores, targets),
    }
    assert {name: estimate.value for name, estimate in found.metrics.items()} == pytest.approx(expected)
    assert all(math.isnan(estimate.low) for estimate in found.metrics.values())
    assert found.confusion is None
    assert (found.num_clips, found.num_undefined) == (400, 1)
    assert found.num_unlabelled == (~targets.any(axis=1)).sum()


def test_classes_keep_their_order_names_and_numbers(scored):
    scores, targets = scored
    classes = ClassList(tuple(f"/m/{j}" for j in range(12)), tuple(NAMES))
    quality = np.append(np.linspace(0, 1, 11), np.nan)
    found = evaluate(scores, targets, classes, quality=quality, resamples=0)
    assert [of.name for of in found.classes] == NAMES
    assert [of.mid for of in found.classes] == list(classes.mids)
    assert [of.positives for of in found.classes] == targets.sum(axis=0).tolist()
    assert {of.rated for of in found.classes} == {400}
    np.testing.assert_array_equal([of.quality for of in found.classes], quality)
    for field, values in {
        "average_precision": metrics.average_precision(scores, targets),
        "auc": metrics.roc_auc(scores, targets),
        "d_prime": metrics.d_prime(metrics.roc_auc(scores, targets)),
        "lwlrap": metrics.lwlrap_per_class(scores, targets),
    }.items():
        np.testing.assert_allclose([getattr(of, field) for of in found.classes], values, rtol=1e-12)


def test_every_metric_and_class_has_an_interval_around_it(scored):
    found = evaluate(*scored, NAMES, resamples=50)
    for estimate in found.metrics.values():
        assert estimate.low < estimate.value < estimate.high
    d_prime, auc = found.metrics["d_prime"], found.metrics["auc"]
    assert [d_prime.low, d_prime.high] == pytest.approx(metrics.d_prime([auc.low, auc.high]).tolist())
    for of in found.classes:
        if of.positives:
            assert of.ap_low <= of.average_precision <= of.ap_high
        else:
            assert math.isnan(of.ap_low)


def test_one_label_a_clip_is_seen_and_adds_accuracy(rng):
    scores, targets = rng.standard_normal((60, 3)), np.eye(3, dtype=bool)[np.arange(60) % 3]
    found = evaluate(scores, targets, ["a", "b", "c"], resamples=20)
    assert list(found.metrics) == list(METRICS)
    assert found.metrics["accuracy"].value == pytest.approx(metrics.accuracy(scores, targets))
    assert found.metrics["macro_f1"].low < found.metrics["macro_f1"].value
    np.testing.assert_array_equal(found.confusion, metrics.confusion_matrix(scores, targets))
    assert evaluate(scores, targets, ["a", "b", "c"], single_label=False, resamples=0).confusion is None


def test_a_mask_is_counted_and_is_no_single_label(rng):
    scores, targets = rng.standard_normal((60, 3)), np.eye(3, dtype=bool)[np.arange(60) % 3]
    mask = np.ones((60, 3), bool)
    mask[:10, 1] = False
    found = evaluate(scores, targets, ["a", "b", "c"], mask=mask, resamples=0)
    assert [of.rated for of in found.classes] == [60, 50, 60]
    assert found.confusion is None
    with pytest.raises(OptionError, match="single_label: clips with cells that are not rated"):
        evaluate(scores, targets, ["a", "b", "c"], mask=mask, single_label=True)


def test_the_table_is_ready_to_print(scored):
    rows = evaluate(*scored, NAMES, resamples=20).to_table()
    assert [title for title, _, _ in rows] == ["mAP", "AUC", "d′", "lwlrap", "GAP@20", "Hit@1", "PERR"]
    title, value, bounds = rows[0]
    low, high = bounds.split(" … ")
    assert float(low) < float(value) < float(high)
    assert evaluate(*scored, NAMES, resamples=0).to_table()[0] == (title, value, "")


@pytest.mark.parametrize("resamples", [0, 10])
def test_json_brings_it_back(scored, resamples):
    found = evaluate(*scored, NAMES, resamples=resamples, seed=7)
    text = found.to_json()
    assert same(Evaluation.from_json(text), found)
    assert same(Evaluation.from_json(text.encode()), found)
    assert json.loads(text)["classes"][3]["average_precision"] is None


def test_json_keeps_infinite_values_and_confusion():
    found = evaluate(np.eye(3), np.eye(3, dtype=bool), ["a", "b", "ü"], resamples=5)
    assert found.metrics["d_prime"].value == math.inf
    text = found.to_json()
    assert json.loads(text)["metrics"]["d_prime"]["value"] == "inf"
    assert same(Evaluation.from_json(text), found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "evaluation: not JSON"),
        (b"\xff\xfe\xfa", "evaluation: not JSON"),
        ("[]", "evaluation: JSON of something else"),
        ('{"format": "other"}', "evaluation: JSON of something else"),
        ('{"format": "audioset evaluation 1"}', "evaluation: damaged"),
    ],
)
def test_what_is_no_evaluation_is_refused(text, message):
    with pytest.raises(RecordError, match=message):
        Evaluation.from_json(text)


@pytest.mark.parametrize("value", ['"high"', "[]", "{}"])
def test_damaged_values_are_refused(scored, value):
    plain = json.loads(evaluate(*scored, NAMES, resamples=0).to_json())
    plain["metrics"]["map"]["value"] = json.loads(value)
    with pytest.raises(RecordError, match="evaluation: damaged"):
        Evaluation.from_json(json.dumps(plain))


def test_a_count_beyond_all_numbers_is_refused(scored):
    text = evaluate(*scored, NAMES, resamples=0).to_json()
    damaged = re.sub(r'"num_clips": \d+', '"num_clips": 1e400', text)
    assert damaged != text
    with pytest.raises(RecordError, match="evaluation: damaged"):
        Evaluation.from_json(damaged)


def test_metrics_and_matrices_that_do_not_belong_are_refused():
    plain = json.loads(evaluate(np.eye(3), np.eye(3, dtype=bool), ["a", "b", "c"], resamples=0).to_json())
    with pytest.raises(RecordError, match="the confusion matrix is not of 3 classes"):
        Evaluation.from_json(json.dumps({**plain, "confusion": [[1, 0], [0, 1]]}))
    with pytest.raises(RecordError, match=r"unknown metrics \['luck'\]"):
        Evaluation.from_json(json.dumps({**plain, "metrics": {"luck": plain["metrics"]["map"]}}))


def test_measuring_needs_numpy_alone():
    heavy = {"pyarrow", "scipy", "sklearn", "matplotlib", "torch", "onnxruntime"}
    code = f"import sys, audioset.evaluate; print(sorted({heavy} & sys.modules.keys()))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_public_names_are_those_meant():
    assert {name for name in dir(audioset.evaluate) if not name.startswith("_")} - _MODULES == set(
        audioset.evaluate.__all__
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": NAMES[:3]}, "classes: 3 names; expected one for each of the 12 columns"),
        ({"classes": "twelve chars"}, "classes: 12 names; expected one for each"),
        ({"classes": class_list("yamnet521")}, "classes: 521 names; expected one for each of the 12"),
        ({"quality": [0.5]}, r"quality: shape \(1,\); expected a share from 0 to 1"),
        ({"quality": [2.0] * 12}, r"quality: shape \(12,\); expected a share from 0 to 1"),
        ({"single_label": True}, "do not have exactly one class"),
        ({"mask": np.zeros((400, 12), bool)}, "targets: none of 400 clips has a label"),
        ({"resamples": -1}, "resamples: -1; expected at least 2"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(scored, options, message):
    with pytest.raises(OptionError, match=message):
        evaluate(*scored, **{"classes": NAMES, **options})


def test_real_recordings_of_one_class_each(data_dir):
    """Each clip of ESC-10 scored by how near its mean embedding is to that of each class."""
    import audioset

    files = sorted((data_dir / "esc10").glob("*/4-*.ogg"))[::4]
    names = sorted({file.parent.name for file in files})
    model = audioset.load("mini")
    vectors = np.stack([e.values[0] for e in model.embed_files(files, pool="mean")])
    true = np.array([names.index(file.parent.name) for file in files])
    centres = np.stack([vectors[true == j].mean(axis=0) for j in range(len(names))])
    scores = -np.linalg.norm(vectors[:, None] - centres, axis=2)
    found = evaluate(scores, np.eye(len(names), dtype=bool)[true], names, resamples=20)
    assert found.metrics["accuracy"].value > 0.8
    assert found.metrics["accuracy"].value == (scores.argmax(axis=1) == true).mean()
    assert sum(map(sum, found.confusion)) == len(files)

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from audioset.classes import ClassList
from audioset.errors import OutputError
from audioset.evaluate import Evaluation, evaluate, metrics, precision_recall, write_report
from audioset.evaluate._charts import Axis

NAMES = [f"class {j}" for j in range(12)]
HOSTILE = "</title><script>alert('x')</script> \"&'"


class Page(HTMLParser):
    """What a page is made of: tags with attributes, texts by tag, and whether every tag was closed."""

    VOID = frozenset({"meta", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def count(self, tag, **attributes):
        wanted = {key.rstrip("_"): value for key, value in attributes.items()}
        return sum(name == tag and wanted.items() <= attrs.items() for name, attrs in self.tags)

    def text(self, tag):
        return [data for name, data in self.texts if name == tag]


def written(path, evaluation: Evaluation, **options) -> Page:
    write_report(evaluation, path, **options)
    page = Page(path.read_text(encoding="utf-8"))
    assert not page.open
    return page


@pytest.fixture
def path(tmp_path):
    return tmp_path / "report.html"


def test_it_shows_metrics_and_every_class(scored, path):
    found = evaluate(*scored, NAMES, resamples=20)
    page = written(path, found, title="a title")
    assert page.text("title")[0] == page.text("h1")[0] == "a title"
    assert f"{found.metrics['map'].value:.3f}" in page.text("b")
    assert [cell for cell in page.text("td") if cell in NAMES] == NAMES
    assert page.count("rect", class_="bar") == 11  # one class has no positive
    assert "1 class without a positive, in no mean over classes" in page.text("p")[0]
    cells = [attrs.get("data-v") for tag, attrs in page.tags if tag == "td"]
    assert str(found.classes[0].average_precision) in cells


def test_it_needs_nothing_else(scored, path):
    page = written(path, evaluate(*scored, NAMES, resamples=0))
    assert page.count("script") == page.count("style") == 1
    assert not {"src", "href"} & {key for _, attrs in page.tags for key in attrs}
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"url\(|@import|https?:", text)
    assert "default-src 'none'" in text


def test_whatever_was_passed_is_text(scored, path):
    scores, targets = scored
    classes = ClassList(tuple([HOSTILE] * 12), tuple(f"{HOSTILE}{j}" for j in range(12)))
    some, none = (precision_recall(scores[:, j], targets[:, j]) for j in (0, 3))
    page = written(
        path,
        evaluate(scores, targets, classes, resamples=0),
        title=HOSTILE,
        curves={HOSTILE: some, f"{HOSTILE}2": none},
        parameters={HOSTILE: HOSTILE},
    )
    assert page.count("script") == 1
    assert page.text("h1") == page.text("dd")[1:] == [HOSTILE]
    one_each = np.eye(12, dtype=bool)[np.arange(400) % 12]
    page = written(path, evaluate(scores, one_each, classes, resamples=0))
    assert page.count("script") == 1


def test_names_that_are_not_unicode_are_written(scored, path):
    page = written(path, evaluate(*scored, NAMES, resamples=0), parameters={"data": "caf\udce9.parquet"})
    assert "caf?.parquet" in page.text("dd")


def test_many_classes_are_dots_with_intervals(rng, path):
    targets = rng.random((300, 60)) < 0.2
    found = evaluate(rng.random((300, 60)), targets, [f"n{j}" for j in range(60)], resamples=5)
    page = written(path, found)
    assert page.count("rect", class_="bar") == 0
    assert page.count("path", class_="whisker") == 60
    assert page.count("circle", class_="dot") == 60 + 60  # by rank, and against positives


def test_label_quality_is_drawn_where_known(scored, path):
    quality = np.append(np.linspace(0.1, 1, 11), np.nan)
    page = written(path, evaluate(*scored, NAMES, quality=quality, resamples=0))
    assert page.count("circle", class_="dot") == 11 + 10  # against positives, and against quality
    assert "label quality" in page.text("button")
    assert "label quality" not in written(path, evaluate(*scored, NAMES, resamples=0)).text("button")


def test_curves_are_drawn_in_steps_and_named(scored, path):
    scores, targets = scored
    curves = {NAMES[j]: precision_recall(scores[:, j], targets[:, j]) for j in range(12)}
    page = written(path, evaluate(scores, targets, NAMES, resamples=0), curves=curves)
    assert any(f"class 0 ({curves['class 0'].average_precision:.3f})" in text for text in page.text("li"))
    assert any("No positive, so no curve: class 3." in text for text in page.text("p"))
    assert page.count("path", class_="line s2 dashed") == 2  # in the key and drawn: the eleventh
    one = metrics.PrecisionRecall(np.array([1, 0.5]), np.array([0.5, 1.0]), np.array([2.0, 1.0]), 0.75)
    page = written(path, evaluate(scores, targets, NAMES, resamples=0), curves={"one": one})
    drawn = next(
        attrs["d"] for tag, attrs in page.tags if attrs.get("class") == "line s0" and "V" in (attrs["d"] or "")
    )
    assert re.fullmatch(r"M[\d.]+ [\d.]+(V[\d.]+H[\d.]+)+", drawn or "")


def test_long_curves_are_thinned(rng, path):
    scores, targets = rng.random((5000, 1)), rng.random((5000, 1)) < 0.5
    curve = precision_recall(scores[:, 0], targets[:, 0])
    page = written(path, evaluate(scores, targets, ["a"], resamples=0), curves={"a": curve})
    drawn = next(
        attrs["d"] or "" for _, attrs in page.tags if attrs.get("class") == "line s0" and "V" in str(attrs["d"])
    )
    assert drawn.count("V") == 400


def test_single_labels_have_a_confusion_matrix(rng, path):
    scores, targets = rng.standard_normal((90, 3)), np.eye(3, dtype=bool)[np.arange(90) % 3]
    found = evaluate(scores, targets, ["a", "b", "c"], resamples=0)
    page = written(path, found)
    assert page.count("rect", class_="right") == 3
    assert page.count("rect", class_="wrong") == 6
    assert str(found.confusion[0][1]) in page.text("text")
    worst = max(found.confusion[i][j] for i in range(3) for j in range(3) if i != j)
    assert f"{worst} of 30" in page.text("td")
    assert page.count("rect", class_="cell") == 9


def test_a_matrix_leaves_room_for_the_names_of_its_classes(rng, path):
    scores, targets = rng.standard_normal((90, 3)), np.eye(3, dtype=bool)[np.arange(90) % 3]
    page = written(path, evaluate(scores, targets, ["rain", "sea_waves", "dog"], resamples=0))
    cells = [attrs for tag, attrs in page.tags if tag == "rect" and attrs.get("class") == "cell"]
    assert min(float(attrs["x"]) for attrs in cells) >= 8 * len("sea_waves")
    assert min(float(attrs["y"]) for attrs in cells) >= 8 * len("sea_waves")


def test_too_many_classes_for_a_matrix_have_their_confusions(rng, path):
    scores, targets = rng.standard_normal((140, 70)), np.eye(70, dtype=bool)[np.arange(140) % 70]
    page = written(path, evaluate(scores, targets, [f"n{j}" for j in range(70)], resamples=0))
    assert page.count("rect", class_="cell") == 0
    assert page.text("td").count("2 of 2") + page.text("td").count("1 of 2") == 15


def test_perfect_scores_are_shown_as_infinite(path):
    page = written(path, evaluate(np.eye(3), np.eye(3, dtype=bool), ["a", "b", "c"], resamples=0))
    assert "∞" in page.text("b")
    assert sum(attrs.get("data-v") == "Infinity" for _, attrs in page.tags) == 3


def test_an_evaluation_from_json_is_drawn_the_same(scored, path):
    found = evaluate(*scored, NAMES, resamples=5)
    write_report(found, path)
    first = path.read_bytes()
    write_report(Evaluation.from_json(found.to_json()), path)
    assert path.read_bytes() == first


def test_an_evaluation_without_positives_is_drawn(scored, path):
    found = evaluate(*scored, NAMES, resamples=0)
    page = written(path, replace(found, classes=found.classes[3:4]))
    assert page.count("circle") == 0


def test_a_folder_that_cannot_be_written_is_refused(scored, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        write_report(evaluate(*scored, NAMES, resamples=0), tmp_path / "file" / "report.html")


@pytest.mark.parametrize(
    ("axis", "ticks"),
    [
        (Axis("", 0, 1), [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (Axis("", 0, 528), [0, 200, 400]),
        (Axis("", 4, 1200, log=True), [5, 10, 20, 50, 100, 200, 500, 1000]),
        (Axis("", 0.8, 9000, log=True), [1, 10, 100, 1000]),
    ],
)
def test_ticks_are_round(axis, ticks):
    assert axis.ticks() == pytest.approx(ticks)
    assert all(0 <= axis.share(tick) <= 1 for tick in ticks)

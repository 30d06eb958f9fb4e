"""Cards say what files say of themselves and what was measured, in YAML and Markdown that others can read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.main
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from audioset import hub as hugging
from audioset import weights
from audioset.classes import ClassList
from audioset.cli import app
from audioset.errors import OptionError, RecordError
from audioset.evaluate import Evaluation, evaluate
from audioset.hub._front_matter import front_matter
from audioset.models import own
from audioset.weights import safetensors_file

from .conftest import PETS


def header_of(card: str) -> dict[str, Any]:
    parts = card.split("---\n", 2)
    assert parts[0] == ""
    found: dict[str, Any] = yaml.safe_load(parts[1])
    return found


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    """Of 12 clips of PETS's classes."""
    rng = np.random.default_rng(0)
    targets = np.eye(3)[np.arange(12) % 3]
    return evaluate(targets * 0.5 + rng.random((12, 3)), targets, PETS, resamples=20)


def test_the_card_of_a_model_says_what_its_file_says(pets: Path) -> None:
    card = hugging.card(pets, "owner/pets")
    assert header_of(card) == {
        "library_name": "audioset",
        "pipeline_tag": "audio-classification",
        "tags": ["audioset", "audio", "mini", "audio-classification", "embeddings"],
    }
    assert "3 classes on top (softmax: each clip is of one class)" in card
    assert "\nDog; cat; Ämsel.\n" in card
    assert "| source | fine-tuned from mini |" in card
    assert "| clips | train: 40, valid: 0, test: 8, unreadable: 1 |" in card
    assert weights.load("mini").sha256 in card
    assert "\nNone are known.\n" in card
    assert "\nLicence: not stated.\nIt builds on mini, whose weights are under Apache-2.0: somebody." in card
    assert "Made with audioset 0.1.0." in card


def test_figures_are_those_that_were_measured(pets: Path, evaluation: Evaluation, tmp_path: Path) -> None:
    card = hugging.card(pets, "owner/pets", evaluation=evaluation, datasets=["owner/sounds"])
    (model,) = header_of(card)["model-index"]
    (result,) = model["results"]
    assert model["name"] == "pets"
    assert result["task"]["type"] == "audio-classification"
    assert result["dataset"] == {"type": "owner/sounds", "name": "clips that it was measured on"}
    values = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert values["accuracy"] == round(evaluation.metrics["accuracy"].value, 4)
    assert values["mean_average_precision"] == round(evaluation.metrics["map"].value, 4)
    assert values["f1"] == round(evaluation.metrics["macro_f1"].value, 4)
    assert header_of(card)["metrics"] == list(values)
    assert header_of(card)["datasets"] == ["owner/sounds"]
    for row in evaluation.to_table():
        assert f"| {' | '.join(row)} |".replace("  ", " ") in card.replace("  ", " ")
    assert "\n12 clips (clips that it was measured on).\n" in card

    (tmp_path / "figures.json").write_text(evaluation.to_json(), encoding="utf-8")
    assert hugging.card(pets, "owner/pets", evaluation=tmp_path / "figures.json", datasets=["owner/sounds"]) == card


def test_of_a_report_of_finetune_the_test_comes_first(pets: Path, evaluation: Evaluation, tmp_path: Path) -> None:
    plain = json.loads(evaluation.to_json())
    report = {"base_weights": "", "test": None, "folds_pooled": None, "valid": plain}
    for name, expected in (("valid", "clips held out for validation"), ("test", "clips held out for the test")):
        report[name] = plain
        (tmp_path / "report.json").write_text(json.dumps(report), encoding="utf-8")
        assert f"12 clips ({expected})." in hugging.card(pets, evaluation=tmp_path / "report.json")
    (tmp_path / "report.json").write_text(json.dumps({"base_weights": "", "test": None}), encoding="utf-8")
    with pytest.raises(RecordError, match=r"report.json: a report without figures; expected some. Hold clips out"):
        hugging.card(pets, evaluation=tmp_path / "report.json")


def test_figures_of_something_else_are_refused(pets: Path, rows: Path, evaluation: Evaluation, tmp_path: Path) -> None:
    other = evaluate(np.eye(2), np.eye(2), ("a", "b"), resamples=0)
    with pytest.raises(
        OptionError, match=r"evaluation: of 2 classes \(a, b\); expected those of .* \(3: Dog, cat, Äms"
    ):
        hugging.card(pets, evaluation=other)
    with pytest.raises(OptionError, match=r"evaluation: of 3 classes .*rows.parquet \(none\)"):
        hugging.card(rows, evaluation=evaluation)
    (tmp_path / "other.json").write_text("{}", encoding="utf-8")
    with pytest.raises(RecordError, match=r"other.json: .*Expected what `audioset evaluate --json` or"):
        hugging.card(pets, evaluation=tmp_path / "other.json")
    with pytest.raises(OptionError, match=r"evaluation .*none.json: cannot be read \(No such file"):
        hugging.card(pets, evaluation=tmp_path / "none.json")


def test_undefined_figures_are_left_out(pets: Path) -> None:
    one_class = np.eye(3)[[0, 0, 0]]
    some = evaluate(one_class, one_class, PETS, resamples=0)
    assert np.isinf(some.metrics["d_prime"].value) or np.isnan(some.metrics["d_prime"].value)
    header = header_of(hugging.card(pets, evaluation=some))
    assert "d_prime" not in header["metrics"]
    assert "accuracy" in header["metrics"]


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("CC-BY-4.0", {"license": "cc-by-4.0"}),
        ("My Own: 2", {"license": "other", "license_name": "my-own-2"}),
    ],
)
def test_licences_are_named_as_the_hub_names_them(licence: str, expected: dict[str, str], pets: Path) -> None:
    header = header_of(hugging.card(pets, licence=licence))
    assert {key: value for key, value in header.items() if key.startswith("license")} == expected


def test_the_licence_of_weights_is_their_own(tmp_path: Path) -> None:
    found = weights.load("mini")
    about = {**found.provenance, "licence": "MIT"}
    weights.save(weights.from_tensors("mini", "mini", found.tensors, about), tmp_path / "better.safetensors")
    card = hugging.card(tmp_path / "better.safetensors")
    assert header_of(card)["license"] == "mit"
    assert 'audioset.load("mini", "hf://owner/name")' in card


def test_a_model_that_came_from_the_hub_names_it(pets: Path, tmp_path: Path) -> None:
    tensors, metadata = safetensors_file.read(pets)
    source = f"fine-tuned from hf://other/base@{'0' * 40}"
    safetensors_file.write(tmp_path / "more.safetensors", tensors, {**metadata, "source": source})
    assert header_of(hugging.card(tmp_path / "more.safetensors"))["base_model"] == "other/base"


def test_the_card_of_embeddings_says_how_they_were_made(rows: Path) -> None:
    card = hugging.card(rows, "owner/rows")
    header = header_of(card)
    assert "license" not in header
    assert header["configs"] == [
        {"config_name": "default", "data_files": [{"split": "train", "path": "embeddings.parquet"}]}
    ]
    assert header["dataset_info"]["features"][-1] == {"name": "embedding", "list": "float32", "length": 128}
    assert header["size_categories"] == ["n<1K"]
    assert "Embeddings of 3 audio files, 44 rows." in card
    assert "| weights | vggish, SHA-256 abab" in card
    assert 'load_dataset("owner/rows", split="train")' in card
    assert "a.wav" not in card  # names are people's own


def test_the_card_of_a_head_has_the_figure_of_its_training_and_no_paths(tmp_path: Path) -> None:
    about = {
        "kind": "attention",
        "options": {},
        "classes": [["/m/1", "Dog"]],
        "embedder": {"model": "vggish", "regime": "uint8", "dim": 128, "weights": ""},
        "notes": {"valid/mAP": 0.43219, "num_train": 12_345, "train": "/home/me/train.arrow", "config": {"seed": 0}},
    }
    metadata = {"audioset_head": json.dumps(about)}
    safetensors_file.write(tmp_path / "dogs.safetensors", {"x": np.zeros(1, np.float32)}, metadata)
    card = hugging.card(tmp_path / "dogs.safetensors", "owner/dogs")
    header = header_of(card)
    assert header["model-index"][0]["results"][0]["metrics"] == [
        {"type": "mean_average_precision", "name": "mAP", "value": 0.4322}
    ]
    assert "mAP 0.4322 on clips held out for validation, by which training was stopped" in card
    assert "| clips learnt from | 12,345 |" in card
    assert "1 class on embeddings of vggish" in card
    assert "/home/me" not in card


def test_what_a_head_says_amiss_is_shown_as_it_says_it(tmp_path: Path) -> None:
    about = {"kind": 3, "classes": [["a", "a"]], "embedder": {"model": "x", "regime": ["raw"]}, "notes": {}}
    path = tmp_path / "head.safetensors"
    safetensors_file.write(path, {"x": np.zeros(1, np.float32)}, {"audioset_head": json.dumps(about)})
    assert r"A classifier (3) of 1 class on embeddings of x (None wide, \['raw'\])." in hugging.card(path)


def test_text_of_others_stays_text(tmp_path: Path, pets: Path) -> None:
    names = ("a|b", "<script>", "new\nline", "[x](y)", "---")
    tensors, _ = safetensors_file.read(pets)
    tensors["head/weights"] = np.zeros((len(tensors["head/weights"]), len(names)), np.float32)
    tensors["head/biases"] = np.zeros(len(names), np.float32)
    own.save(own.OwnModel("mini", ClassList(names, names), "sigmoid"), tensors, tmp_path / "odd.safetensors")
    card = hugging.card(tmp_path / "odd.safetensors")
    assert r"a\|b; \<script\>; new line; \[x\](y); ---." in card
    assert header_of(card)["library_name"] == "audioset"


@pytest.mark.parametrize("which", ["pets", "rows"])
def test_what_a_card_shows_can_be_run(which: str, request: pytest.FixtureRequest) -> None:
    card = hugging.card(request.getfixturevalue(which), "owner/name")
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    compile(code, "card", "exec")
    (shell,) = re.findall(r"```bash\n(.*?)```", card, re.DOTALL)
    lines = [line.split("#")[0].split() for line in shell.splitlines() if line.startswith("audioset ")]
    ((_, verb, *rest),) = lines
    command: Any = typer.main.get_command(app)
    command = command.commands[verb]
    if hasattr(command, "commands"):
        command = command.commands[rest.pop(0)]
    command.make_context(verb, rest)  # raises for what it does not know


TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
SCALARS = TEXT | st.sampled_from(["yes", "null", "1e5", "- a", "a: b", "#", "0x1", "~", "2024-01-01"])
SCALARS |= st.integers(-1000, 1000) | st.floats(allow_nan=False, allow_infinity=False) | st.booleans()
KEYS = st.from_regex(r"[a-z][a-z_-]{1,8}[a-z]", fullmatch=True).filter(
    lambda key: key not in ("yes", "true", "false", "null", "off")
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, min_size=1, max_size=3) | st.dictionaries(KEYS, inner, min_size=1, max_size=3),
    max_leaves=8,
)


@settings(max_examples=12, deadline=None)
@given(st.dictionaries(KEYS, VALUES, min_size=1, max_size=4))
def test_front_matter_reads_back(about: dict[str, Any]) -> None:
    text = front_matter(about)
    assert text.startswith("---\n")
    assert text.endswith("\n---\n")
    assert yaml.safe_load(text.removeprefix("---\n").removesuffix("---\n")) == about

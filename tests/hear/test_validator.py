"""The modules under `hear-validator`, the public check of HEAR 2021's common API."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any

import pytest

from audioset import models
from audioset.models.spec import ModelSpec

if importlib.util.find_spec("hearvalidator") is None:
    pytest.skip(
        "hearvalidator is not installed; it asks for TensorFlow: pip install --no-deps hearvalidator",
        allow_module_level=True,
    )

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::audioset.weights.UntrainedWeightsWarning"),
]


@pytest.fixture
def validator(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The validator's module, which imports TensorFlow to ask whether a model is one of its."""
    if importlib.util.find_spec("tensorflow") is None:
        absent = ModuleType("tensorflow")
        absent.Module = type("Module", (), {})  # type: ignore[attr-defined]
        absent.device = contextlib.nullcontext  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "tensorflow", absent)
    return importlib.import_module("hearvalidator.validate")


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("tiny", ["--model", "untrained:0"]),
        pytest.param("mini", [], marks=pytest.mark.slow),
        pytest.param("mini", ["--model", "untrained:0"], marks=pytest.mark.slow),
        pytest.param("yamnet", ["--model", "untrained:0"], marks=pytest.mark.slow),
        pytest.param("vggish", ["--model", "untrained:0"], marks=pytest.mark.slow),
    ],
)
def test_the_public_validator_is_content(
    validator: Any,
    name: str,
    weights: list[str],
    tiny: ModelSpec,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if name == "tiny":  # mini's module, its network a small one
        name = "mini"
        monkeypatch.setattr(models, "REGISTRY", {**models.REGISTRY, name: dataclasses.replace(tiny, name=name)})
    command = ["hear-validator", f"audioset.hear.{name}", "--device", "cpu", *weights]
    monkeypatch.setattr(sys, "argv", command)
    validator.main()
    printed = capsys.readouterr().out
    assert "Interval between timestamps is 50.0ms" in printed
    assert printed.endswith("Looks good!\n")


def test_the_validator_finds_what_is_wrong(validator: Any) -> None:
    validation = validator.ValidateModel("audioset.hear.mini", "", "cpu")
    validation.import_model()
    validation.check_load_model()
    validation.model.scene_embedding_size = 7
    with pytest.raises(validator.ModelError, match="specified an embedding size of 7"):
        validation.check_scene_embeddings()

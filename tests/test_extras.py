"""What is missing is named before any work."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import pytest

from audioset._extras import check_installed
from audioset.errors import MissingExtraError


def test_all_that_is_missing_is_named_with_one_line_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> Any:
        return None if name in ("lightning", "sklearn") else object()

    monkeypatch.setattr(importlib.util, "find_spec", find)
    check_installed("audioset train", "torch", "tensorboard")
    with pytest.raises(
        MissingExtraError,
        match=r"audioset train: Lightning and scikit-learn are not installed; expected them all\. Install them with "
        "`pip install lightning scikit-learn`",
    ):
        check_installed("audioset train", "torch", "lightning", "sklearn")
    with pytest.raises(MissingExtraError, match=r"scikit-learn is not installed; expected it\. Install it with"):
        check_installed("audioset.finetune", "sklearn")


@pytest.mark.parametrize(("module", "library"), [("audioset.hear", "torch"), ("audioset.sklearn", "sklearn")])
def test_modules_that_need_a_library_say_so_when_imported(
    module: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported = pytest.importorskip(module)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == library else found(name))
    with pytest.raises(MissingExtraError, match=rf"{module}: .* is not installed"):
        importlib.reload(imported)

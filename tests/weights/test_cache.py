from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from audioset import weights
from audioset.errors import FetchError, WeightsError
from audioset.weights import Check, find_present, load, ready, select, verify

from . import _writers as write


@pytest.fixture
def published(
    isolated_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_tensors: dict[str, np.ndarray]
) -> Path:
    """A small checkpoint in the cache and, with its own hash, in the place of the published one."""
    path = write.write_v1(tmp_path / "v.ckpt", small_tensors)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    entry = {"name": "vggish", "model": "vggish", "url": "http://nowhere.invalid/v.ckpt", "sha256": sha256}
    (tmp_path / "catalogue.json").write_text(json.dumps([entry]))
    monkeypatch.setenv("AUDIOSET_CATALOGUE", str(tmp_path / "catalogue.json"))
    return path.rename(isolated_cache / weights.catalogue()["vggish"].file_name)


def _flip_last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_a_model_stands_for_all_of_its_files() -> None:
    assert [entry.name for entry in select(["vggish"])] == ["vggish", "vggish-pca"]
    assert [entry.name for entry in select(["vggish-pca"])] == ["vggish-pca"]
    assert [entry.name for entry in select(["vggish-pca", "vggish"])] == ["vggish-pca", "vggish"]
    assert [entry.name for entry in select([])] == list(weights.catalogue())


def test_a_name_that_is_not_in_the_catalogue_is_refused() -> None:
    with pytest.raises(
        WeightsError, match=r"vgish: not in the catalogue; expected one of vggish, .* Did you mean vggish\?"
    ):
        select(["vgish"])


def test_what_is_present_is_found_as_published_or_else_as_converted(published: Path) -> None:
    entry = weights.catalogue()["vggish"]
    assert find_present(weights.catalogue()["vggish-pca"]) is None
    assert find_present(entry) == published
    load("vggish")
    published.unlink()
    converted = find_present(entry)
    assert converted is not None
    assert converted.suffix == ".safetensors"


def test_what_needs_no_network_is_ready(published: Path) -> None:
    assert ready("vggish")
    load("vggish")
    published.unlink()
    assert ready("vggish")
    assert not ready("vggish-pca")


def test_a_damaged_file_put_there_by_hand_is_not_ready(published: Path) -> None:
    _flip_last_byte(published)
    assert find_present(weights.catalogue()["vggish"]) == published
    assert not ready("vggish")


def test_a_damaged_conversion_without_its_source_is_not_ready(published: Path, isolated_cache: Path) -> None:
    load("vggish")
    (converted,) = (isolated_cache / "converted").glob("*.safetensors")
    converted.write_bytes(converted.read_bytes()[:-9])
    assert ready("vggish")  # it would be converted again
    published.unlink()
    assert not ready("vggish")


def test_what_comes_with_the_package_is_ready() -> None:
    assert ready("mini")
    assert not ready("vggish")
    assert not ready("of-nobody")


@pytest.mark.parametrize("folder", ["x" * 300, "~no-such-user/cache"])
def test_a_cache_that_cannot_be_looked_into_is_empty(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDIOSET_CACHE", folder)
    monkeypatch.setenv("AUDIOSET_OFFLINE", "1")
    assert not ready("vggish")
    assert find_present(weights.catalogue()["vggish"]) is None
    assert verify() == []
    with pytest.raises(FetchError, match="vggish: not in the cache"):
        load("vggish")


def test_an_empty_cache_has_nothing_to_verify() -> None:
    assert verify() == []


def test_whole_files_verify(published: Path) -> None:
    load("vggish")
    checks = _by_name(verify())
    assert list(checks) == ["vggish", "vggish (converted)"]
    assert all(check.ok and not check.found for check in checks.values())


def test_a_damaged_download_does_not_verify(published: Path) -> None:
    _flip_last_byte(published)
    (check,) = verify(["vggish"])[:1]
    assert not check.ok
    assert check.path == published
    assert f"expected {weights.catalogue()['vggish'].sha256}" in check.found


def test_a_damaged_conversion_does_not_verify(published: Path, isolated_cache: Path) -> None:
    load("vggish")
    (converted,) = (isolated_cache / "converted").glob("*.safetensors")
    _flip_last_byte(converted)
    checks = _by_name(verify())
    assert checks["vggish"].ok
    assert not checks["vggish (converted)"].ok
    assert checks["vggish (converted)"].found.startswith("content hash")


def test_a_conversion_cut_short_does_not_verify(published: Path, isolated_cache: Path) -> None:
    load("vggish")
    (converted,) = (isolated_cache / "converted").glob("*.safetensors")
    converted.write_bytes(converted.read_bytes()[:-9])
    assert "expected a whole safetensors file" in _by_name(verify())["vggish (converted)"].found


def test_conversions_of_files_by_path_are_verified_too(tmp_path: Path, small_tensors: dict[str, np.ndarray]) -> None:
    load("vggish", write.write_v1(tmp_path / "mine.ckpt", small_tensors))
    (check,) = verify()
    assert (check.name, check.ok) == ("converted", True)


def test_what_is_named_and_absent_does_not_verify(published: Path) -> None:
    checks = _by_name(verify(["vggish"]))
    assert not checks["vggish-pca"].ok
    assert checks["vggish-pca"].found == "not there; run `audioset models fetch vggish-pca`"


def test_a_file_of_ones_own_is_held_to_what_it_states(tmp_path: Path, small_tensors: dict[str, np.ndarray]) -> None:
    path = tmp_path / "mine.safetensors"
    weights.convert(write.write_v1(tmp_path / "mine.ckpt", small_tensors), path)
    assert verify([str(path)]) == [Check(str(path), path, True, "")]
    _flip_last_byte(path)
    assert not verify([str(path)])[0].ok


def test_a_file_that_states_nothing_cannot_be_verified(tmp_path: Path, small_tensors: dict[str, np.ndarray]) -> None:
    path = tmp_path / "mine.safetensors"
    safetensors.numpy.save_file(small_tensors, path)
    assert verify([str(path)])[0].found.startswith("states no hash")

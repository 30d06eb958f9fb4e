from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from audioset.errors import MissingExtraError, WeightsFormatError
from audioset.weights import Weights, from_tensors, load
from audioset.weights.torch_pickle import from_torchvggish, is_torch, read

TORCHVGGISH = {
    "vggish/conv1": "features.0",
    "vggish/conv2": "features.3",
    "vggish/conv3/conv3_1": "features.6",
    "vggish/conv3/conv3_2": "features.8",
    "vggish/conv4/conv4_1": "features.11",
    "vggish/conv4/conv4_2": "features.13",
    "vggish/fc1/fc1_1": "embeddings.0",
    "vggish/fc1/fc1_2": "embeddings.2",
    "vggish/fc2": "embeddings.4",
}


def as_torchvggish(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    named = {"pproc.pca_eigen_vectors": np.eye(2, dtype=np.float32), "pproc.pca_means": np.zeros(2, np.float32)}
    for name, values in tensors.items():
        layer, _, side = name.rpartition("/")
        if side == "biases":
            named[f"{TORCHVGGISH[layer]}.bias"] = values
        else:
            axes = (3, 2, 0, 1) if values.ndim == 4 else (1, 0)
            named[f"{TORCHVGGISH[layer]}.weight"] = np.ascontiguousarray(values.transpose(axes))
    return named


def test_torchvggish_names_and_layouts_become_vggishs(small_tensors: dict[str, np.ndarray]) -> None:
    found = from_torchvggish(as_torchvggish(small_tensors))
    assert found is not None
    assert found.keys() == small_tensors.keys()
    for name, values in small_tensors.items():
        np.testing.assert_array_equal(found[name], values, strict=True)


def test_other_names_are_left_alone(small_tensors: dict[str, np.ndarray]) -> None:
    assert from_torchvggish(small_tensors) is None


@pytest.fixture
def state_dict(small_tensors: dict[str, np.ndarray]) -> dict[str, object]:
    torch = pytest.importorskip("torch")
    return {name: torch.from_numpy(values.copy()) for name, values in as_torchvggish(small_tensors).items()}


@pytest.mark.parametrize("archive", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("nested", [False, True])
def test_a_pth_gives_the_same_weights(
    tmp_path: Path,
    small_tensors: dict[str, np.ndarray],
    state_dict: dict[str, object],
    archive: bool,
    nested: bool,
) -> None:
    torch = pytest.importorskip("torch")
    path = tmp_path / "vggish.pth"
    content = {"epoch": 3, "state_dict": state_dict} if nested else state_dict
    torch.save(content, path, _use_new_zipfile_serialization=archive)
    assert is_torch(path.read_bytes()[:4096], path)
    found = load("vggish", path)
    expected: Weights = from_tensors("vggish", "", small_tensors, {})
    assert found.sha256 == expected.sha256
    assert found.provenance["source_format"] == "pytorch"


def test_bfloat16_and_double_become_numpys(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    content = {"a": torch.ones(2, dtype=torch.bfloat16), "b": torch.ones(2, dtype=torch.float64), "epoch": 3}
    torch.save(content, tmp_path / "m.pt")
    found = read(tmp_path / "m.pt")
    assert {name: values.dtype.name for name, values in found.items()} == {"a": "float32", "b": "float64"}


class _Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("executed",))


def test_pickled_code_is_not_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch = pytest.importorskip("torch")
    path = tmp_path / "harmful.pth"
    torch.save({"w": _Harmful()}, path)
    with pytest.raises(WeightsFormatError, match=r"harmful\.pth: PyTorch cannot load it as plain tensors .*state_dict"):
        read(path)
    assert "executed" not in capsys.readouterr().out


def test_a_damaged_pth_is_refused(tmp_path: Path, state_dict: dict[str, object]) -> None:
    torch = pytest.importorskip("torch")
    path = tmp_path / "cut.pth"
    torch.save(state_dict, path)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(WeightsFormatError, match=r"cut\.pth: PyTorch cannot load it"):
        load("vggish", path)


def test_a_whole_model_instead_of_its_state_is_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save([torch.ones(2)], tmp_path / "list.pth")
    with pytest.raises(WeightsFormatError, match=r"list\.pth: holds a list; expected a state dict"):
        read(tmp_path / "list.pth")


def test_an_archive_of_something_else_is_not_pytorchs(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.txt", "a")
    assert not is_torch((tmp_path / "a.zip").read_bytes(), tmp_path / "a.zip")
    assert not is_torch(b"text", tmp_path / "a.zip")


def test_without_pytorch_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "vggish.pth", "w") as archive:
        archive.writestr("vggish/data.pkl", b"")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"vggish\.pth: a PyTorch file.*pip install torch"):
        load("vggish", tmp_path / "vggish.pth")

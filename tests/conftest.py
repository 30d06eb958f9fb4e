"""Fixtures that every test may use; real recordings are read in place and never copied here."""

from __future__ import annotations

import functools
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest

if TYPE_CHECKING:
    from tests.storage.servers import ObjectStore, WebServer

    from audioset import Model
    from audioset.models.spec import ModelSpec

# PyTorch's threads then sleep while they wait, as under the command itself: several times faster on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Keras takes its backend, and what else it goes by, when it is imported: the user's own settings are not the tests'.
os.environ["KERAS_BACKEND"] = "torch"
os.environ["KERAS_HOME"] = str(Path(tempfile.gettempdir(), "audioset-tests-keras"))

# A shell that starts pytest in the background has it ignore Ctrl-C, which some tests are about.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_DEFAULT_DATA = Path(__file__).parents[1] / ".." / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def commands_built_once() -> Iterator[None]:
    """Typer builds all commands from their signatures in each call, which takes longer than most tests of one."""
    import typer.main
    import typer.testing

    build = functools.cache(typer.main.get_command)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", build)  # for `main`
        patch.setattr(typer.testing, "_get_command", build)  # for `CliRunner`
        yield


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(autouse=True)
def isolated_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty weights cache, so that no test reads or writes the user's own."""
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("AUDIOSET_CACHE", str(cache))
    monkeypatch.delenv("AUDIOSET_CATALOGUE", raising=False)
    return cache


@pytest.fixture
def one_thread() -> Iterator[None]:
    """PyTorch on one core: small networks are ten times slower where threads wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real recordings and golden values; tests that ask for it skip where there is none."""
    folder = Path(os.environ.get("AUDIOSET_TEST_DATA", _DEFAULT_DATA)).resolve()
    if not folder.is_dir():
        pytest.skip(f"real data not found at {folder}; set AUDIOSET_TEST_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def vggish() -> Model:
    """VGGish with the weights that the golden values were made with; drawing 72 million takes a second."""
    import audioset
    from audioset.weights import UntrainedWeightsWarning

    with pytest.warns(UntrainedWeightsWarning):
        return audioset.load("vggish", "untrained:0", threads=2)


@pytest.fixture(scope="session")
def calibration() -> list[tuple[str, npt.NDArray[np.float32]]]:
    """The package's own calibration sounds, made once; see `int8.sounds.calibration_sounds`."""
    from audioset.int8.sounds import calibration_sounds

    return list(calibration_sounds())


@pytest.fixture
def few_sounds(calibration: list[tuple[str, npt.NDArray[np.float32]]], monkeypatch: pytest.MonkeyPatch) -> None:
    """A calibration that takes no time: on every sixteenth sound."""
    from audioset.int8 import store

    monkeypatch.setattr(store, "calibration_sounds", lambda: calibration[::16])


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> ModelSpec:
    """A model that loads in milliseconds, registered as "tiny"; its weights are `untrained:SEED`."""
    from types import MappingProxyType

    from audioset import models
    from audioset.models.layers import Conv, Dense, GlobalAverage, Output
    from audioset.models.spec import ModelSpec

    spec = ModelSpec(
        name="tiny",
        summary="for tests",
        layers=(Conv("a", 8, stride=8), GlobalAverage(), Dense("b", 16), Output("embedding")),
        log_offset=0.01,
        hop_s=0.96,
        pad="short",
        licence="",
        citation="",
        has_pca=True,
    )
    monkeypatch.setattr(models, "REGISTRY", MappingProxyType({**models.REGISTRY, "tiny": spec}))
    return spec


@pytest.fixture
def tiny_tagger(monkeypatch: pytest.MonkeyPatch) -> ModelSpec:
    """A model that scores YAMNet's 521 classes and loads in milliseconds, registered as "tiny-tagger"."""
    from types import MappingProxyType

    from audioset import models
    from audioset.models.layers import Conv, Dense, GlobalAverage, Output
    from audioset.models.spec import ModelSpec

    spec = ModelSpec(
        name="tiny-tagger",
        summary="for tests",
        layers=(
            Conv("a", 8, stride=8),
            GlobalAverage(),
            Output("embedding"),
            Dense("b", 521, activation="sigmoid"),
            Output("scores"),
        ),
        log_offset=0.001,
        hop_s=0.48,
        pad="all",
        licence="",
        citation="",
    )
    monkeypatch.setattr(models, "REGISTRY", MappingProxyType({**models.REGISTRY, "tiny-tagger": spec}))
    return spec


@pytest.fixture(scope="session")
def _web() -> Iterator[WebServer]:
    from tests.storage.servers import WebServer

    server = WebServer()
    yield server
    server.close()


@pytest.fixture
def web(_web: WebServer) -> WebServer:
    """A web server without files, requests and faults."""
    _web.files.clear()
    _web.requests.clear()
    _web.faults.clear()
    _web.has_ranges = True
    _web.sent_bytes = 0
    return _web


@pytest.fixture(scope="session")
def _store() -> Iterator[ObjectStore]:
    """One for a process, as what it holds is the process's."""
    from tests.storage.servers import ObjectStore

    server = ObjectStore()
    yield server
    server.close()


@pytest.fixture
def store(_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """Object storage that this process uses for s3://."""
    for name, value in _store.environment.items():
        monkeypatch.setenv(name, value)
    return _store

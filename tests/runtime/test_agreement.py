"""Every library, precision and device that is here, held to ONNX Runtime in float32 on the processor."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from tests.test_network import AVERAGED, SMALL, drawn, weights_of

from audioset import Model, _runtime, features, models, weights
from audioset._runtime.base import _RUNS
from audioset.errors import OptionError
from audioset.int8 import store
from audioset.int8.sounds import calibration_sounds
from audioset.models.spec import ModelSpec
from audioset.network import Network
from audioset.weights import Weights

Float32Array = npt.NDArray[np.float32]

RUNS = [(library, kind, precision) for library, kind, precisions in _RUNS for precision in precisions]
ON_PROCESSOR = [pytest.param(run, id=f"{run[0]}-{run[2]}") for run in RUNS if run[1] == "cpu"]
ON_CARD = [pytest.param(run, id=f"{run[0]}-{run[2]}") for run in RUNS if run[1] == "cuda"]

# The most by which a value may differ, against the largest of all values: sums in another order, in float32. Cards also
# convolve by other algorithms, which round more; TF32 would differ by 1e-3.
FLOAT32 = {"cpu": 1e-5, "cuda": 1e-4}
# The least correlation of values around the mean of each dimension. bf16 keeps 8 bits of each number, so single values
# differ by more than 1%, but at random: 0.99993 was the least seen. In 8 bits it was 0.9993, and processors that sum in
# 16 bits get weights of 7.
CORRELATION = {"bf16": 0.9998, "int8": 0.995}


@cache
def sounds() -> list[tuple[str, Float32Array]]:
    return list(calibration_sounds())


@pytest.fixture(autouse=True)
def fewer_sounds_to_calibrate_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "calibration_sounds", lambda: sounds()[::6])


def opened(spec: ModelSpec, held: Weights, run: tuple[str, str, str], *, calls: int = 1) -> Network:
    library, kind, precision = run
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    try:
        return Network(spec, held, place=_runtime.resolve(precision, library, kind), calls=calls)
    except OptionError as error:
        if "instructions" in str(error) or kind != "cpu":
            pytest.skip(str(error))
        raise


def varied(spec: ModelSpec, every: int = 4) -> Float32Array:
    """Examples of all kinds of sound, as the model's front end makes them."""
    waveforms = [waveform for _, waveform in sounds()[::every]]
    return np.concatenate([features.examples(waveform, log_offset=spec.log_offset) for waveform in waveforms])


def correlation(found: Float32Array, expected: Float32Array) -> float:
    a, b = (values.astype(np.float64) - values.mean(axis=0, dtype=np.float64) for values in (found, expected))
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def check(found: dict[str, Float32Array], expected: dict[str, Float32Array], precision: str, kind: str = "cpu") -> None:
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].dtype == np.float32
        assert found[name].shape == values.shape
        if precision == "fp32":
            np.testing.assert_allclose(found[name], values, rtol=0, atol=FLOAT32[kind] * float(np.abs(values).max()))
        else:
            assert correlation(found[name], values) >= CORRELATION[precision], name
            assert not np.array_equal(found[name], values)  # it does compute in another precision


def cases() -> list[tuple[ModelSpec, Weights]]:
    rng = np.random.default_rng(0)
    mini = models.get("mini")
    return [
        (SMALL, weights_of(SMALL, drawn(SMALL, rng))),
        (AVERAGED, weights_of(AVERAGED, drawn(AVERAGED, rng))),
        (mini, weights.load("mini")),
    ]


@pytest.mark.parametrize("run", ON_PROCESSOR)
def test_every_library_and_precision_agrees_with_the_default(run: tuple[str, str, str]) -> None:
    if run == ("onnxruntime", "cpu", "fp32"):
        pytest.skip("the default itself")
    for spec, held in cases():
        examples, outputs = varied(spec), tuple(spec.outputs)
        expected = Network(spec, held).run(examples, outputs)
        check(opened(spec, held, run).run(examples, outputs), expected, run[2])


@pytest.mark.gpu
@pytest.mark.parametrize("run", ON_CARD)
def test_every_library_and_precision_agrees_with_the_default_on_a_card(run: tuple[str, str, str]) -> None:
    for spec, held in cases():
        examples, outputs = varied(spec), tuple(spec.outputs)
        expected = Network(spec, held).run(examples, outputs)
        check(opened(spec, held, run, calls=2).run(examples, outputs), expected, run[2], "cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("run", ON_CARD)
def test_a_card_gives_each_of_many_threads_its_own_results(run: tuple[str, str, str], rng: np.random.Generator) -> None:
    network = opened(SMALL, weights_of(SMALL, drawn(SMALL, rng)), run, calls=2)
    check_company(network, varied(SMALL))


@pytest.mark.parametrize("run", ON_PROCESSOR)
def test_threads_and_company_change_nothing(run: tuple[str, str, str], rng: np.random.Generator) -> None:
    network = opened(SMALL, weights_of(SMALL, drawn(SMALL, rng)), run, calls=2)
    check_company(network, varied(SMALL), exactly=run[0] == "onnxruntime")


def check_company(network: Network, examples: Float32Array, *, exactly: bool = False) -> None:
    """Batches of all sizes, run by more threads than calls at once, give the rows of one batch of everything."""
    whole = network.run(examples)["embedding"]
    # Of the other libraries the order of sums, and in bf16 so the last of 8 bits, may depend on the batch's size.
    share = 0.0 if exactly else 0.01 if network.place.precision == "bf16" else FLOAT32[network.place.kind]
    tolerance = share * float(np.abs(whole).max())
    found: dict[int, Float32Array] = {}

    def work(first: int) -> None:
        for at in range(first, len(examples), 4):
            found[at] = network.run(examples[at : at + 1 + at % 7])["embedding"]

    run_all([threading.Thread(target=work, args=(first,)) for first in range(4)])
    assert sorted(found) == list(range(len(examples)))
    for at, rows in found.items():
        np.testing.assert_allclose(rows, whole[at : at + 1 + at % 7], rtol=0, atol=tolerance)


def run_all(threads: Sequence[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)


@pytest.mark.parametrize("run", ON_PROCESSOR)
def test_results_are_not_overwritten_by_the_next_batch(run: tuple[str, str, str], rng: np.random.Generator) -> None:
    network = opened(SMALL, weights_of(SMALL, drawn(SMALL, rng)), run)
    batch = rng.standard_normal((4, 96, 64)).astype(np.float32)
    first = network.run(batch)["embedding"]
    kept = first.copy()
    network.run(-batch)
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("run", ON_PROCESSOR)
def test_weights_mapped_from_a_file_may_be_read_only(run: tuple[str, str, str], tmp_path: Path) -> None:
    weights.save(weights.load("mini"), tmp_path / "mini.safetensors")
    mapped = weights.load("mini", tmp_path / "mini.safetensors")
    spec = models.get("mini")
    examples = varied(spec, 16)
    examples.flags.writeable = False
    expected = Network(spec, weights.load("mini")).run(examples)
    check_close = FLOAT32["cpu"] if run[2] == "fp32" else 0.05
    got = opened(spec, mapped, run).run(examples)["embedding"]
    np.testing.assert_allclose(
        got, expected["embedding"], rtol=0, atol=check_close * float(np.abs(expected["embedding"]).max())
    )


@pytest.mark.slow
@pytest.mark.parametrize("run", [run for run in ON_PROCESSOR if run.values[0][2] != "int8"])
def test_vggish_agrees_on_golden_log_mel(run: tuple[str, str, str], vggish: Model, data_dir: Path) -> None:
    golden = np.load(data_dir / "vggish" / "golden.npz")
    names = [key.removesuffix("/log_mel") for key in golden if key.endswith("/log_mel")]
    examples = np.concatenate([golden[f"{name}/log_mel"] for name in names])
    expected = np.concatenate([golden[f"{name}/embedding"] for name in names])
    got = opened(vggish.spec, vggish.weights, run).run(examples)
    if run[2] == "fp32":
        np.testing.assert_allclose(got["embedding"], expected, rtol=0, atol=5e-4)  # as of the default; 5e-5 seen
    else:
        check(got, {"embedding": expected}, run[2])

"""Networks in 8 bits in the cache: made once, found again, replaced, damaged, and in jobs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from typer.testing import CliRunner

import audioset
from audioset import int8, models, weights
from audioset.classes import ClassList
from audioset.cli import app
from audioset.errors import OptionError, OutputError, WeightsFormatError
from audioset.int8 import store
from audioset.models import own
from audioset.models.spec import ModelSpec
from audioset.records import JobInfo
from audioset.records.info import Metadata
from audioset.weights import Weights, safetensors_file

from ._networks import examples

pytestmark = [
    pytest.mark.filterwarnings("ignore::audioset.weights.UntrainedWeightsWarning"),
    pytest.mark.usefixtures("few_sounds"),  # what all sounds are good for is tested with the graph
]


@pytest.fixture
def seeded(tiny: ModelSpec) -> Weights:
    return weights.load("tiny", "untrained:0")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One entry a network that is made."""
    made: list[str] = []
    original = store.calibrate

    def calibrate(spec, *rest, **named):
        made.append(spec.name)
        return original(spec, *rest, **named)

    monkeypatch.setattr(store, "calibrate", calibrate)
    return made


def test_it_is_made_once_and_found_again(
    tiny: ModelSpec, seeded: Weights, calls: list[str], isolated_cache: Path
) -> None:
    assert int8.find(tiny, seeded) is None
    made = int8.load(tiny, seeded)
    found = int8.load(tiny, seeded)
    assert calls == ["tiny"]
    assert found.sha256 == made.sha256
    assert found.scales == made.scales
    assert found.path == made.path
    assert made.path is not None
    assert made.path.is_relative_to(isolated_cache)
    for name, values in made.tensors.items():
        np.testing.assert_array_equal(found.tensors[name], values)
    assert "sounds that the package synthesizes: " in made.calibration


def test_making_it_again_gives_the_same(tiny: ModelSpec, seeded: Weights) -> None:
    assert int8.save_synthesized(tiny, seeded).sha256 == int8.load(tiny, seeded).sha256
    assert int8.save_synthesized(tiny, seeded).sha256 == int8.load(tiny, seeded).sha256


def test_other_weights_and_other_layers_have_their_own(tiny: ModelSpec, seeded: Weights) -> None:
    from dataclasses import replace

    from audioset.models.layers import Conv

    first = int8.load(tiny, seeded)
    others = weights.load("tiny", "untrained:1")
    assert int8.find(tiny, others) is None
    clipped = replace(tiny, layers=(Conv("a", 8, stride=8, activation="relu6"), *tiny.layers[1:]))
    assert int8.find(clipped, seeded) is None
    assert int8.find(replace(tiny, float_layers=("b",)), seeded) is None
    assert len({first.path, int8.load(tiny, others).path, int8.load(clipped, seeded).path}) == 3


def test_processors_whose_sums_saturate_get_weights_of_7_bits(
    tiny: ModelSpec, seeded: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "saturates", lambda: False)
    eight = int8.load(tiny, seeded)
    monkeypatch.setattr(store, "saturates", lambda: True)
    assert int8.find(tiny, seeded) is None  # a cache may be shared by different machines
    seven = int8.load(tiny, seeded)
    assert (seven.path, seven.sha256) != (eight.path, eight.sha256)
    assert np.abs(eight.tensors["a/weights"]).max() == 127
    assert np.abs(seven.tensors["a/weights"]).max() == 63
    monkeypatch.setattr(store, "saturates", lambda: False)
    assert int8.load(tiny, seeded).sha256 == eight.sha256


def test_saving_replaces_and_says_what_it_was_calibrated_on(tiny: ModelSpec, seeded: Weights) -> None:
    before = int8.load(tiny, seeded)
    blocks = [examples(3), examples(2, seed=4)]
    mine = int8.save(tiny, seeded, blocks, calibration="my sound")
    assert mine.sha256 != before.sha256
    assert mine.path == before.path
    assert int8.load(tiny, seeded).calibration == mine.calibration
    assert mine.calibration.startswith("my sound: 5 examples, sha256 ")
    other = int8.save(tiny, seeded, examples(5, seed=9)[np.newaxis], calibration="my sound")
    assert other.calibration.startswith("my sound: 5 examples, sha256 ")
    assert other.calibration != mine.calibration
    assert int8.save(tiny, seeded, [np.concatenate(blocks)], calibration="my sound").calibration == mine.calibration
    assert int8.save(tiny, seeded, [examples(1)], calibration="my sound").calibration.startswith("my sound: 1 example,")


def test_without_an_example_the_cache_stays_as_it_is(tiny: ModelSpec, seeded: Weights) -> None:
    before = int8.load(tiny, seeded)
    with pytest.raises(OptionError, match="calibration of tiny: no example of sound; expected some seconds"):
        int8.save(tiny, seeded, [], calibration="nothing")
    assert int8.load(tiny, seeded).sha256 == before.sha256


def test_a_calibration_that_fails_leaves_the_cache_as_it_is(tiny: ModelSpec, seeded: Weights) -> None:
    before = int8.load(tiny, seeded)

    def broken() -> Iterator[npt.NDArray[np.float32]]:
        yield examples(2)
        raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError, match="disk on fire"):
        int8.save(tiny, seeded, broken(), calibration="mine")
    assert int8.load(tiny, seeded).sha256 == before.sha256  # and the lock is free again


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def _emptied(path: Path) -> None:
    path.write_bytes(b"")


def _without_scales(path: Path) -> None:
    tensors, metadata = safetensors_file.read(path)
    tensors = {name: values.copy() for name, values in tensors.items()}
    safetensors_file.write(path, tensors, {**metadata, "scales": "{"})


def _of_other_weights(path: Path) -> None:
    tensors, metadata = safetensors_file.read(path)
    tensors = {name: values.copy() for name, values in tensors.items()}
    safetensors_file.write(path, tensors, {**metadata, "weights_sha256": "0" * 64})


def _with_scales_in_a_list(path: Path) -> None:
    tensors, metadata = safetensors_file.read(path)
    tensors = {name: values.copy() for name, values in tensors.items()}
    safetensors_file.write(path, tensors, {**metadata, "scales": "[1, 2]"})


def _of_another_type(path: Path) -> None:
    tensors, metadata = safetensors_file.read(path)
    tensors = {name: values.copy() for name, values in tensors.items()}
    safetensors_file.write(path, {**tensors, "a/weights": tensors["a/weights"].astype(np.int16)}, metadata)


@pytest.mark.parametrize(
    "damage", [_cut, _emptied, _without_scales, _with_scales_in_a_list, _of_other_weights, _of_another_type]
)
def test_a_damaged_file_says_what_to_do_and_is_made_again(damage, tiny: ModelSpec, seeded: Weights) -> None:
    made = int8.load(tiny, seeded)
    assert made.path is not None
    damage(made.path)
    with pytest.raises(WeightsFormatError, match=r"8bit-v1.*Make it again with `audioset quantize`, or delete it"):
        int8.find(tiny, seeded)
    with pytest.raises(WeightsFormatError, match=str(made.path)):
        audioset.load("tiny", "untrained:0", precision="int8")
    assert int8.save_synthesized(tiny, seeded).sha256 == made.sha256
    assert int8.load(tiny, seeded).sha256 == made.sha256


def test_changed_bytes_are_found_when_the_cache_is_verified(tiny: ModelSpec, seeded: Weights) -> None:
    made = int8.load(tiny, seeded)
    assert made.path is not None
    run = CliRunner()
    whole = run.invoke(app, ["models", "verify"])
    assert (whole.exit_code, whole.stdout) == (0, f"ok   in 8 bits  {made.path}\n")
    assert run.invoke(app, ["models", "verify", str(made.path)]).stdout == f"ok   {made.path}  {made.path}\n"
    content = bytearray(made.path.read_bytes())
    content[-1] ^= 1
    made.path.write_bytes(content)
    harmed = run.invoke(app, ["models", "verify"])
    assert harmed.exit_code == 1
    assert harmed.stdout.startswith(f"BAD  in 8 bits  {made.path}: ")
    assert f"in place of {made.sha256}" in harmed.stdout
    assert "Make it again with `audioset quantize`" in harmed.stdout


def test_changed_scales_are_found_when_the_file_is_verified(tiny: ModelSpec, seeded: Weights) -> None:
    made = int8.load(tiny, seeded)
    assert made.path is not None
    tensors, metadata = safetensors_file.read(made.path)
    scales = {index: [2 * scale.scale, scale.zero_point] for index, scale in made.scales.items()}
    tensors = {name: values.copy() for name, values in tensors.items()}
    safetensors_file.write(made.path, tensors, {**metadata, "scales": json.dumps(scales)})
    with pytest.raises(WeightsFormatError, match=rf"content of sha256 \w+ in place of {made.sha256}; expected"):
        int8.verify(made.path)


def test_a_cache_that_cannot_be_written_is_named(tiny: ModelSpec, seeded: Weights, isolated_cache: Path) -> None:
    (isolated_cache / "int8").write_text("in the way")
    with pytest.raises(OutputError, match=r"int8.* cannot be written .*set AUDIOSET_CACHE"):
        int8.load(tiny, seeded)
    with pytest.raises(OutputError, match=r"int8.* cannot be written .*set AUDIOSET_CACHE"):
        int8.save(tiny, seeded, [examples()], calibration="mine")


def test_a_lock_that_cannot_be_had_is_named(
    tiny: ModelSpec, seeded: Weights, isolated_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a folder that another user made."""
    import filelock

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with pytest.raises(OutputError, match=r"int8.* cannot be written \(Permission denied\)"):
        int8.load(tiny, seeded)


_MAKE_AND_COUNT = """
from audioset import int8, models, weights
from audioset.int8 import store
from audioset.int8.sounds import calibration_sounds
calibrate, calls = store.calibrate, []
store.calibrate = lambda *rest, **named: calls.append(1) or calibrate(*rest, **named)
made = int8.load(models.get("mini"), weights.load("mini"))
print(len(calls), made.sha256)
"""


def test_of_two_processes_one_makes_it_and_both_use_it(isolated_cache: Path) -> None:
    both = [
        subprocess.Popen([sys.executable, "-c", _MAKE_AND_COUNT], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    counts, hashes = zip(*(process.communicate(timeout=120)[0].split() for process in both), strict=True)
    assert sorted(counts) == ["0", "1"]
    assert len(set(hashes)) == 1
    assert len(list((isolated_cache / "int8").glob("*.safetensors"))) == 1


def test_models_of_ones_own_run_in_8_bits(tmp_path: Path, rng: np.random.Generator) -> None:
    of_mini = weights.load("mini").tensors
    tensors = {name: values for name, values in of_mini.items() if not name.startswith("logits/")}
    tensors["head/weights"] = rng.standard_normal((models.get("mini").embedding_dim, 3)).astype(np.float32)
    tensors["head/biases"] = rng.standard_normal(3).astype(np.float32)
    path = tmp_path / "mine.safetensors"
    own.save(own.OwnModel("mini", ClassList(("a", "b", "c"), ("a", "b", "c")), "softmax"), tensors, path)
    waveform = (0.1 * rng.standard_normal(160_000)).astype(np.float32)
    in_float, in_int8 = (audioset.load(path, precision=precision) for precision in ("fp32", "int8"))
    of_base = audioset.load("mini", precision="int8")

    made = int8.find(in_int8.spec, in_int8.weights)
    assert made is not None
    assert made.tensors["conv2/weights"].dtype == np.int8
    assert made.tensors["head/weights"].dtype == np.float32
    embeddings = in_int8.embed(waveform, 16_000).values
    np.testing.assert_allclose(embeddings, of_base.embed(waveform, 16_000).values, atol=1e-5)  # the same integers
    scores = in_int8.tag(waveform, 16_000).values
    assert scores.shape == (20, 3)
    np.testing.assert_allclose(scores, in_float.tag(waveform, 16_000).values, atol=0.2)
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)


@pytest.fixture
def sound(tmp_path: Path, rng: np.random.Generator) -> Path:
    path = tmp_path / "sound.wav"
    soundfile.write(path, 0.1 * rng.standard_normal(80_000), 16_000)
    return path


def embed(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["embed", "-m", "tiny", "-w", "untrained:0", *map(str, arguments)])
    return result.exit_code, result.output + (str(result.exception) if result.exception else "")


def test_a_job_says_its_precision_and_is_not_resumed_in_another(
    tiny: ModelSpec, seeded: Weights, sound: Path, tmp_path: Path
) -> None:
    import pyarrow.parquet as pq

    out = tmp_path / "out.parquet"
    assert embed(sound, "-o", out, "--precision", "int8")[0] == 0
    made = int8.load(tiny, seeded)
    table = audioset.read_embeddings(out)
    assert (table.info.precision, table.info.int8_sha256) == ("int8", made.sha256)
    job = json.loads(pq.read_schema(out).metadata[b"audioset"])["job"]
    assert (job["precision"], job["int8_sha256"]) == ("int8", made.sha256)
    assert embed(sound, "-o", out, "--precision", "int8", "--resume")[0] == 0

    status, said = embed(sound, "-o", out, "--resume")
    assert status == 1
    assert "precision int8 then, fp32 now" in said
    int8.save(tiny, seeded, [examples()], calibration="mine")
    status, said = embed(sound, "-o", out, "--precision", "int8", "--resume")
    assert status == 1
    assert f"int8_sha256 {made.sha256} then" in said


def test_outputs_of_earlier_versions_are_of_float32() -> None:
    info = JobInfo("vggish", "vggish", "ab" * 32, 128, "float32", "raw", 0.96, "short", "none")
    found = json.loads(Metadata(info, 1, 2, 0, ()).to_json())
    for name in ("precision", "int8_sha256", "device"):
        del found["job"][name]
    assert Metadata.from_json(json.dumps(found), "old.parquet").job == info
    assert (info.precision, info.int8_sha256) == ("fp32", None)

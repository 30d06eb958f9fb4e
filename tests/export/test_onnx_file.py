"""Models as ONNX files: what is in them, and that they give what the library gives."""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest

import audioset
from audioset import audio, features, graph, int8, models, weights
from audioset._runtime import resolve
from audioset._runtime.onnx_runtime import saturates
from audioset.classes import ClassList
from audioset.errors import OptionError, OutputError, WeightsError
from audioset.export import export_onnx, onnx_file
from audioset.models.own import OwnModel
from audioset.models.own import save as save_own
from audioset.models.spec import ModelSpec
from audioset.network import Network
from audioset.weights import Weights

from .test_onnx_front_end import session

pytestmark = pytest.mark.filterwarnings(
    "ignore::audioset.weights.UntrainedWeightsWarning", "ignore::audioset.features.ShortClipWarning"
)

LENGTHS = (1, 400, 15_599, 15_600, 15_601, 31_000, 48_000)
ROOT = Path(__file__).parents[2]
Outputs = Mapping[str, npt.NDArray[np.float32]]


@pytest.fixture
def clips(
    calibration: list[tuple[str, npt.NDArray[np.float32]]], rng: np.random.Generator
) -> list[npt.NDArray[np.float32]]:
    """Noise of many lengths, and sounds with faint bands beside loud ones."""
    noise = [(0.1 * rng.standard_normal(length)).astype(np.float32) for length in LENGTHS]
    return [*noise, *(waveform for _, waveform in calibration[::12])]


def run(path: Path, feed: str, values: npt.NDArray[np.float32]) -> Outputs:
    running = session(path)
    names = [output.name for output in running.get_outputs()]
    return dict(zip(names, running.run(names, {feed: values}), strict=True))


def check_against_library(spec: ModelSpec, found: Weights, folder: Path, sounds: list[Any], within: float) -> None:
    """Both inputs of the exported float32 model, at its own hop and padding."""
    network = Network(spec, found)
    outputs = tuple(spec.outputs)
    whole, network_only = folder / "waveform.onnx", folder / "examples.onnx"
    export_onnx(spec.name, whole, weights=found)
    export_onnx(spec.name, network_only, weights=found, input="examples")
    of_waveform, of_examples = session(whole), session(network_only)
    for path in (whole, network_only):
        onnx.checker.check_model(path, full_check=True)
    for waveform in sounds:
        examples = features.examples(waveform, hop_s=spec.hop_s, pad=spec.pad, log_offset=spec.log_offset)
        expected = network.run(examples, outputs)
        for name, values in zip(outputs, of_waveform.run(outputs, {"waveform": waveform}), strict=True):
            assert values.shape == expected[name].shape
            np.testing.assert_allclose(values, expected[name], rtol=0, atol=within)
        for name, values in zip(outputs, of_examples.run(outputs, {"examples": examples}), strict=True):
            np.testing.assert_allclose(values, expected[name], rtol=0, atol=1e-4)


@pytest.mark.parametrize("model", ["mini", "yamnet"])
def test_results_are_the_librarys(model: str, tmp_path: Path, clips: list[npt.NDArray[np.float32]]) -> None:
    found = weights.load(model, None if model == "mini" else "untrained:0")
    check_against_library(models.get(model), found, tmp_path, clips, 1e-3)


@pytest.mark.slow
def test_results_of_vggish_are_the_librarys(
    vggish: audioset.Model, tmp_path: Path, clips: list[npt.NDArray[np.float32]]
) -> None:
    check_against_library(vggish.spec, vggish.weights, tmp_path, clips, 1e-3)


@pytest.mark.slow
def test_results_of_the_published_yamnet_on_recordings(data_dir: Path, tmp_path: Path) -> None:
    pytest.importorskip("flatbuffers")
    found = weights.load("yamnet", data_dir / "yamnet" / "lite-model_yamnet_classification_tflite_1.tflite")
    spec = models.get("yamnet").of_format(found.provenance["source_format"])
    sounds = [audio.read(path) for path in sorted((data_dir / "esc10").glob("*/4-*.ogg"))[::12]]
    check_against_library(spec, found, tmp_path, sounds, 1e-3)


def test_recordings_give_what_the_library_gives(tmp_path: Path) -> None:
    path = tmp_path / "mini.onnx"
    export_onnx("mini", path)
    clip = ROOT / "examples" / "sequence.ogg"
    found = run(path, "waveform", audio.read(clip))
    model = audioset.load("mini")
    np.testing.assert_allclose(found["embedding"], model.embed(clip).values, rtol=0, atol=1e-3)
    np.testing.assert_allclose(found["scores"], model.tag(clip).values, rtol=0, atol=1e-3)


@pytest.mark.slow
def test_openvino_runs_the_file_as_well(tmp_path: Path, rng: np.random.Generator) -> None:
    openvino = pytest.importorskip("openvino")
    path = tmp_path / "mini.onnx"
    export_onnx("mini", path)
    compiled = openvino.compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for length in (0, *LENGTHS):
        waveform = (0.1 * rng.standard_normal(length)).astype(np.float32)
        expected = run(path, "waveform", waveform)
        found = compiled({"waveform": waveform})
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-4)


@pytest.mark.usefixtures("few_sounds")
@pytest.mark.parametrize("bits", [8, 7])
def test_8_bits_are_the_librarys_on_the_same_examples(bits: Any, tmp_path: Path, rng: np.random.Generator) -> None:
    spec, found = models.get("mini"), weights.load("mini")
    path = tmp_path / "mini.onnx"
    written = export_onnx("mini", path, input="examples", precision="int8", weight_bits=bits)
    onnx.checker.check_model(path, full_check=True)
    ready = int8.load(spec, found)
    made = int8.quantize(spec, found, dict(ready.scales), calibration="", bits=bits)
    assert written.metadata["int8_sha256"] == made.sha256
    assert (made.sha256 == ready.sha256) == (bits == (7 if saturates() else 8))
    if made.sha256 == ready.sha256:
        examples = features.examples((0.1 * rng.standard_normal(90_000)).astype(np.float32), log_offset=0.001)
        network = Network(spec, found, place=resolve("int8"))
        for name, values in run(path, "examples", examples).items():
            np.testing.assert_array_equal(values, network.run(examples, [name])[name])


@pytest.mark.usefixtures("few_sounds")
def test_8_bits_of_a_waveform_differ_by_few_steps(tmp_path: Path, clips: list[npt.NDArray[np.float32]]) -> None:
    spec = models.get("mini")
    whole, network_only = tmp_path / "whole.onnx", tmp_path / "network.onnx"
    export_onnx("mini", whole, precision="int8")
    export_onnx("mini", network_only, precision="int8", input="examples")
    onnx.checker.check_model(whole, full_check=True)
    assert whole.stat().st_size < 0.55 * len(export_to_bytes("mini", tmp_path))
    running = session(whole)
    same = []
    for waveform in clips:
        examples = features.examples(waveform, hop_s=spec.hop_s, pad=spec.pad, log_offset=spec.log_offset)
        expected = run(network_only, "examples", examples)["embedding"]
        (values,) = running.run(["embedding"], {"waveform": waveform})
        # A value that lies between two steps may fall to the other one; the layers after it then differ a little.
        np.testing.assert_allclose(values, expected, rtol=0, atol=0.2)
        same += (values == expected).all(axis=1).tolist()
    assert np.mean(same) > 0.5


def export_to_bytes(model: str, folder: Path, **options: Any) -> bytes:
    path = folder / "bytes.onnx"
    export_onnx(model, path, overwrite=True, **options)
    return path.read_bytes()


def test_metadata_says_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "mini.onnx"
    written = export_onnx("mini", path, hop_s=0.5, pad="none")
    model = onnx.load(path)
    found = {entry.key: entry.value for entry in model.metadata_props}
    assert found == dict(written.metadata)
    spec, of = models.get("mini"), weights.load("mini")
    classes = found.pop("classes")
    assert json.loads(classes) == [list(pair) for pair in zip(spec.classes.mids, spec.classes.names, strict=True)]
    assert found == {
        "audioset_version": audioset.__version__,
        "model": "mini",
        "precision": "fp32",
        "weights": "mini",
        "weights_sha256": of.sha256,
        "licence": "Apache-2.0",
        "citation": spec.citation,
        "sample_rate_hz": "16000",
        "log_offset": "0.001",
        "hop_s": "0.5",
        "pad": "none",
    }
    assert (model.producer_name, model.producer_version) == ("audioset", audioset.__version__)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", graph.OPSET)]
    assert "waveform at 16000 Hz" in model.doc_string
    assert written.inputs == {"waveform": "float32 (samples,)"}
    assert written.outputs == {"embedding": "float32 (n, 128)", "scores": "float32 (n, 521)"}
    assert (written.path, written.num_bytes) == (path, path.stat().st_size)


def test_a_file_of_examples_speaks_of_no_hop(tiny: ModelSpec, tmp_path: Path) -> None:
    written = export_onnx("tiny", tmp_path / "a.onnx", weights="untrained:0", input="examples")
    assert not {"hop_s", "pad", "classes"} & written.metadata.keys()
    assert written.metadata["log_offset"] == "0.01"
    assert written.inputs == {"examples": "float32 (n, 96, 64)"}


def test_weights_of_unknown_origin_have_no_licence(tiny: ModelSpec, tmp_path: Path) -> None:
    written = export_onnx("tiny", tmp_path / "a.onnx", weights="untrained:0")
    assert "licence" not in written.metadata
    assert written.metadata["weights"] == "untrained:0"


def test_the_metadata_comes_before_the_weights(tmp_path: Path) -> None:
    head = export_to_bytes("mini", tmp_path)[:40_000]
    assert b"weights_sha256" in head
    assert b"Accelerating, revving, vroom" in head


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    assert export_to_bytes("mini", tmp_path) == export_to_bytes("mini", tmp_path)


def test_the_message_is_as_protobuf_itself_writes_it_but_for_the_order(tmp_path: Path) -> None:
    data = export_to_bytes("mini", tmp_path)
    again = onnx.load_from_string(data)
    assert again.ByteSize() == len(data)
    assert all(tensor.data_location == onnx.TensorProto.DEFAULT for tensor in again.graph.initializer)


def test_a_model_of_ones_own_goes_out_with_its_classes(
    tiny: ModelSpec, tmp_path: Path, rng: np.random.Generator
) -> None:
    own = OwnModel("tiny", ClassList(("wren", "/m/0bt9lr"), ("Wren, Zaunkönig", "Dog")), "softmax")
    base = weights.load("tiny", "untrained:0").tensors
    head = {
        "head/weights": rng.standard_normal((16, 2)).astype(np.float32),
        "head/biases": np.zeros(2, np.float32),
    }
    file = tmp_path / "birds.safetensors"
    save_own(own, {**base, **head}, file)
    written = export_onnx(str(file), tmp_path / "birds.onnx")
    assert written.metadata["model"] == "birds"
    assert json.loads(written.metadata["classes"]) == [["wren", "Wren, Zaunkönig"], ["/m/0bt9lr", "Dog"]]
    waveform = (0.1 * rng.standard_normal(40_000)).astype(np.float32)
    expected = audioset.load(str(file)).tag(waveform, sample_rate=16_000).values
    found = run(tmp_path / "birds.onnx", "waveform", waveform)["scores"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_weights_at_hand_are_not_read_again(tiny: ModelSpec, tmp_path: Path) -> None:
    by_name = export_to_bytes("tiny", tmp_path, weights="untrained:3")
    assert export_to_bytes("tiny", tmp_path, weights=weights.load("tiny", "untrained:3")) == by_name


def test_weights_at_hand_of_another_model_are_refused(tiny: ModelSpec, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="expected the 4 tensors of tiny"):
        export_onnx("tiny", tmp_path / "a.onnx", weights=weights.load("mini"))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"input": "spectrum"}, "input: 'spectrum' is unknown; expected one of waveform, examples"),
        ({"precision": "bf16"}, "precision: 'bf16' cannot be exported; expected one of fp32, int8"),
        ({"input": "examples", "hop_s": 0.5}, "hop_s: would not be used"),
        ({"input": "examples", "pad": "all"}, "pad: would not be used"),
        ({"weight_bits": 7}, "weight_bits: would not be used; expected precision='int8'"),
        ({"weight_bits": 4, "precision": "int8"}, "weight_bits: 4 cannot be exported; expected 8 or 7"),
        ({"path": "model.pb"}, r"model\.pb: expected a name that ends in \.onnx"),
        ({"path": ".onnx"}, r"\.onnx: expected a name that ends in \.onnx"),
        ({"model": "nope"}, "unknown model 'nope'"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], match: str, tmp_path: Path) -> None:
    arguments = {"model": "mini", "path": "a.onnx", **options}
    with pytest.raises(OptionError, match=match):
        export_onnx(arguments.pop("model"), tmp_path / arguments.pop("path"), **arguments)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_stays_unless_told(tiny: ModelSpec, tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"a\.onnx: exists already"):
        export_onnx("tiny", path, weights="untrained:0")
    assert path.read_bytes() == b"mine"
    export_onnx("tiny", path, weights="untrained:0", overwrite=True)
    onnx.checker.check_model(path)


def test_a_folder_is_no_file_and_none_is_made(tiny: ModelSpec, tmp_path: Path) -> None:
    (tmp_path / "a.onnx").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        export_onnx("tiny", tmp_path / "a.onnx", weights="untrained:0", overwrite=True)
    with pytest.raises(OutputError, match="its folder does not exist"):
        export_onnx("tiny", tmp_path / "none" / "a.onnx", weights="untrained:0")
    assert not (tmp_path / "none").exists()


def test_a_disk_that_fills_up_leaves_what_was_there(
    tiny: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(b"mine")

    def write(file: Any, *_: Any) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(onnx_file, "_write", write)
    with pytest.raises(OutputError, match=r"a\.onnx: the disk is full"):
        export_onnx("tiny", path, weights="untrained:0", overwrite=True)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("a.onnx", b"mine")]

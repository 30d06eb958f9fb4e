"""Two ways of running a network, compared on recordings."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

import audioset
from audioset import weights
from audioset._runtime import resolve
from audioset.agreement import compare_bytes, compare_classes, compare_neighbours, compare_rows, means_of_files
from audioset.errors import AudioError, OptionError
from audioset.models.spec import ModelSpec
from audioset.network import Network
from audioset.postprocess import Pca
from audioset.verify import compare, compare_examples, verify

pytestmark = [
    pytest.mark.filterwarnings("ignore::audioset.weights.UntrainedWeightsWarning"),
    pytest.mark.usefixtures("few_sounds"),
]


@pytest.fixture
def files(tmp_path: Path, rng: np.random.Generator) -> list[str]:
    """24 clips of 1 to 4.5 s, chirps and noises at all levels."""
    paths = []
    for number in range(24):
        t = np.arange(16_000 + 2_500 * number) / 16_000
        sound = np.sin(2 * np.pi * (100 + 90 * number + 200 * t) * t) + 0.3 * rng.standard_normal(len(t))
        paths.append(str(tmp_path / f"{number:02}.wav"))
        soundfile.write(paths[-1], 10 ** rng.uniform(-3, -0.5) * sound, 16_000)
    return paths


@pytest.fixture
def pair(tiny_tagger: ModelSpec) -> tuple[Network, Network]:
    found = weights.load("tiny-tagger", "untrained:0")
    return Network(tiny_tagger, found), Network(tiny_tagger, found, place=resolve("int8"))


def test_results_are_those_of_the_models_on_the_same_files(pair: tuple[Network, Network], files: list[str]) -> None:
    found = compare(*pair, files, threads=2)
    models = [audioset.load("tiny-tagger", "untrained:0", precision=precision) for precision in ("fp32", "int8")]
    embedded = [list(model.embed_files(files)) for model in models]
    groups = np.repeat(np.arange(24), [len(clip) for clip in embedded[0]])
    embeddings = [np.concatenate([clip.values for clip in clips]) for clips in embedded]
    scores = [np.concatenate([clip.values for clip in model.tag_files(files)]) for model in models]
    assert found.files == tuple(files)
    assert found.examples == len(groups)
    assert found.failures == ()
    assert found.outputs["embedding"] == compare_rows(*embeddings, groups)
    assert found.outputs["scores"] == compare_rows(*scores, groups)
    assert found.neighbours == compare_neighbours(*embeddings, groups)
    assert found.file_neighbours == compare_neighbours(
        *(means_of_files(values, groups) for values in embeddings), np.arange(24)
    )
    assert found.classes == compare_classes(*scores)
    assert found.released is None
    assert found.correlation == min(output.correlation for output in found.outputs.values())
    assert 0.9 < found.correlation < 1


def test_a_model_is_compared_with_itself_in_float32(
    pair: tuple[Network, Network], tiny_tagger: ModelSpec, files: list[str]
) -> None:
    for precision in ("fp32", "int8"):
        model = audioset.load("tiny-tagger", "untrained:0", precision=precision)
        assert verify(model, files, max_examples=40) == compare(*pair, files, max_examples=40)
    assert verify(model, files[:3], precision="fp32").outputs["embedding"].max_difference == 0
    with pytest.raises(OptionError, match="threads: 0 is out of range"):
        verify(model, files, threads=0)
    with pytest.raises(OptionError, match="precision: 'int4' is unknown"):
        verify(model, files, precision="int4")


def test_a_network_agrees_with_itself(pair: tuple[Network, Network], files: list[str]) -> None:
    found = compare(pair[0], pair[0], files[:3])
    assert found.correlation == pytest.approx(1, abs=1e-12)
    assert found.outputs["embedding"].max_difference == 0
    assert found.file_neighbours is None  # of three files


def test_files_may_be_paths(pair: tuple[Network, Network], files: list[str]) -> None:
    found = compare(*pair, map(Path, files[:3]))
    assert found == compare(*pair, files[:3])
    assert json.loads(json.dumps(found.to_dict()))["outputs"]["embedding"]["lowest_file"] in files[:3]


def test_threads_change_nothing(pair: tuple[Network, Network], files: list[str]) -> None:
    assert compare(*pair, files, threads=1) == compare(*pair, files, threads=3)


def test_files_that_cannot_be_read_are_named_and_left_out_of_both(
    pair: tuple[Network, Network], files: list[str], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"RIFF not really")
    whole = Path(files[5]).read_bytes()
    found = compare(*pair, [str(bad), *files, str(tmp_path / "none.wav")])
    assert [file for file, _ in found.failures] == [str(bad), str(tmp_path / "none.wav")]
    assert all(isinstance(error, AudioError) for _, error in found.failures)
    without = compare(*pair, files)
    assert found.outputs == without.outputs
    assert found.files == without.files
    assert Path(files[5]).read_bytes() == whole
    reasons = found.to_dict()["failures"]
    assert [reason["file"] for reason in reasons] == [str(bad), str(tmp_path / "none.wav")]


def test_when_nothing_can_be_read_the_reasons_are_said(pair: tuple[Network, Network], tmp_path: Path) -> None:
    missing = [str(tmp_path / f"{number}.wav") for number in range(7)]
    with pytest.raises(AudioError, match=r"no recording gave an example; .*0\.wav.*4\.wav.*; and 2 more"):
        compare(*pair, missing)
    with pytest.raises(AudioError, match=r"no recording gave an example; .*Name files, or folders that hold some"):
        compare(*pair, [])


def test_no_more_examples_than_asked_for_are_compared(pair: tuple[Network, Network], files: list[str]) -> None:
    done: list[int] = []
    found = compare(*pair, files, max_examples=30, progress=done.append)
    assert 24 <= found.examples <= 30
    assert len(found.files) == 24
    assert done == sorted(done)
    assert done[-1] == found.examples
    assert compare(*pair, files, max_examples=5).examples == 5


def test_too_few_examples_are_refused(pair: tuple[Network, Network], files: list[str]) -> None:
    with pytest.raises(OptionError, match="max_examples: 1 is out of range; expected 2 or more"):
        compare(*pair, files, max_examples=1)


def test_threads_out_of_range_are_refused(pair: tuple[Network, Network], files: list[str]) -> None:
    with pytest.raises(OptionError, match="threads: 0 is out of range"):
        compare(*pair, files, threads=0)


def test_silence_alone_is_nothing_to_compare(pair: tuple[Network, Network], tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silence.wav", np.zeros(80_000), 16_000)
    with pytest.raises(OptionError, match="all alike: nothing to compare"):
        compare(*pair, [str(tmp_path / "silence.wav")])


def test_other_weights_are_not_another_way_to_run_a_network(
    pair: tuple[Network, Network], tiny_tagger: ModelSpec, files: list[str]
) -> None:
    other = Network(tiny_tagger, weights.load("tiny-tagger", "untrained:1"))
    with pytest.raises(OptionError, match="expected one network twice, with the same weights"):
        compare(pair[0], other, files)


def test_released_bytes_are_compared_where_there_is_a_pca(
    tiny: ModelSpec, files: list[str], rng: np.random.Generator
) -> None:
    found = weights.load("tiny", "untrained:0")
    pair = Network(tiny, found), Network(tiny, found, place=resolve("int8"))
    pca = Pca(0.3 * rng.standard_normal((16, 16)), np.zeros(16))
    models = [audioset.load("tiny", "untrained:0", precision=precision) for precision in ("fp32", "int8")]
    rows = [np.concatenate([clip.values for clip in model.embed_files(files)]) for model in models]
    agreement = compare(*pair, files, pca=pca)
    assert agreement.released == compare_bytes(*rows, pca)
    assert agreement.classes is None


def test_examples_are_compared_without_files(pair: tuple[Network, Network], rng: np.random.Generator) -> None:
    batch: npt.NDArray[np.float32] = rng.standard_normal((70, 96, 64)).astype(np.float32)
    done: list[int] = []
    found = compare_examples(*pair, batch, progress=done.append)
    outputs = ("embedding", "scores")
    first, second = (network.run(batch, outputs) for network in pair)
    for name in outputs:
        assert found.outputs[name] == compare_rows(first[name], second[name], np.arange(70))
    assert done == [32, 64, 70]
    assert found.file_neighbours is None  # the same as those of rows
    with pytest.raises(AudioError, match="no recording gave an example"):
        compare_examples(*pair, batch[:0])


def test_json_names_files_and_holds_numbers(pair: tuple[Network, Network], files: list[str]) -> None:
    found = compare(*pair, files)
    said = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    lowest = found.outputs["scores"].lowest_file
    assert said["outputs"]["scores"]["lowest_file"] == files[lowest]
    assert said["files"] == 24
    assert said["neighbours"]["rows"] == found.examples

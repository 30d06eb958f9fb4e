"""Models in real TensorFlow, which lives in an environment of its own: `make test-tensorflow TF_PYTHON=path/to/python`.

What TensorFlow gives is compared with what the library gives here.
"""

from __future__ import annotations

import json
import os
import subprocess
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import audioset
from audioset import Model, features

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore::audioset.weights.UntrainedWeightsWarning", "ignore::audioset.features.ShortClipWarning"
    ),
]

COMMAND = ("-c", "from audioset.cli import main; main()")
MODELS = {"mini": None, "vggish": "untrained:0", "yamnet": "untrained:0"}
TOLERANCE = 1e-3

# Given: the folder; clips.npz is there. Leaves NAME.npz of what each of the ways gives, as ways/clip/output.
CALLS = """
import sys
from pathlib import Path
import numpy as np
import tensorflow as tf

folder, name = Path(sys.argv[1]), sys.argv[2]
try:
    from tensorflow_hub import load
except ImportError:
    load = tf.saved_model.load
with np.load(folder / "clips.npz") as held:
    clips = dict(held)
results = {}

def keep(way, clip, given):
    given = given if isinstance(given, (tuple, list)) else (given,)
    names = ("scores", "embedding", "log_mel_spectrogram") if len(given) > 1 else ("embedding",)
    results.update({f"{way}/{clip}/{key}": np.asarray(value) for key, value in zip(names, given, strict=True)})

model = load(str(folder / name))
for clip, waveform in clips.items():
    keep("tf2", clip, model(waveform))
    for key, value in model.signatures["serving_default"](waveform=tf.constant(waveform)).items():
        results[f"signature/{clip}/{key}"] = value.numpy()
if hasattr(model, "class_map_path"):
    results["classes"] = np.array(Path(model.class_map_path().numpy().decode()).read_text(encoding="utf-8"))

tf1 = tf.compat.v1
with tf1.Graph().as_default():
    given = tf1.placeholder(tf.float32, [None])
    outputs = load(str(folder / name))(given)
    with tf1.train.MonitoredSession() as session:
        for clip, waveform in clips.items():
            keep("tf1", clip, session.run(outputs, {given: waveform}))

runner = tf.lite.Interpreter(str(folder / f"{name}.tflite")).get_signature_runner("serving_default")
for clip, waveform in clips.items():
    results.update({f"tflite/{clip}/{key}": value for key, value in runner(waveform=waveform).items()})

import keras
import audioset.keras

network = keras.saving.load_model(folder / f"{name}.keras")
for clip, waveform in clips.items():
    for key, value in network.predict(waveform[None], verbose=0).items():
        results[f"keras/{clip}/{key}"] = value[0]
np.savez(folder / f"{name}.npz", **results)
"""

TRAINS = """
import sys
import numpy as np, keras, tensorflow as tf
import audioset.keras

keras.utils.set_random_seed(0)
base = audioset.keras.mini(output="embedding", hop_s=0.96, pad="short")
model = keras.Sequential([base, keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(2, activation="softmax")])
model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
tones = np.sin(np.outer([0.05, 0.5] * 4, np.arange(16_000))).astype("float32")
data = tf.data.Dataset.from_generator(
    lambda: iter((tones[at : at + 2, : 15_000 + 300 * at], [0, 1]) for at in (0, 2, 4, 6)),
    output_signature=(tf.TensorSpec([None, None], tf.float32), tf.TensorSpec([None], tf.int32)),
)
losses = model.fit(data, epochs=6, verbose=0).history["loss"]
assert losses[-1] < losses[0] / 2, losses
assert model.predict(tones, verbose=0).argmax(1).tolist() == [0, 1] * 4
"""

COUNTS = """
import json, sys
import numpy as np, tensorflow as tf

folder, lengths = sys.argv[1], list(map(int, sys.argv[2:]))
saved = tf.saved_model.load(f"{folder}/mini").signatures["serving_default"]
lite = tf.lite.Interpreter(f"{folder}/mini.tflite").get_signature_runner("serving_default")
clips = [np.zeros(n, "float32") for n in lengths]
print(json.dumps({
    "saved model": [len(saved(waveform=tf.constant(clip))["scores"]) for clip in clips],
    "tflite": [len(lite(waveform=clip)["scores"]) for clip in clips],
}))
"""


# Given: the folder of the exports, and code of pages. Where TensorFlow Hub is not installed, what its `load` calls is.
PAGES = """
import os, sys, types
import numpy as np, tensorflow

try:
    import tensorflow_hub
except ImportError:
    tensorflow_hub = sys.modules["tensorflow_hub"] = types.ModuleType("tensorflow_hub")
    tensorflow_hub.load = tensorflow.saved_model.load
os.chdir(sys.argv[1])
names = {"np": np, "hub": tensorflow_hub, "waveform": np.zeros(48_000, "float32")}
for code in sys.argv[2:]:
    exec(code, names)
    if (rows := names.get("embeddings")) is not None:
        print(tuple(rows.shape))
print(sorted(names["outputs"]), len(open(names["class_map"]).readlines()))
"""

FULL = """
import sys
import tensorflow as tf
from audioset.errors import OutputError
from audioset.export import export_saved_model, export_tflite

def save(*_, **__):
    raise tf.errors.ResourceExhaustedError(None, None, "part-00000; No space left on device")

tf.saved_model.save = save
for write, name in ((export_saved_model, "full"), (export_tflite, "full.tflite")):
    try:
        write("mini", f"{sys.argv[1]}/{name}")
    except OutputError as error:
        print(error)
"""


@pytest.fixture(scope="module")
def tensorflow() -> str:
    python = os.environ.get("AUDIOSET_TF_PYTHON")
    if not python:
        pytest.skip("AUDIOSET_TF_PYTHON is not set: make test-tensorflow TF_PYTHON=path/to/python, one with TensorFlow")
    return python


def run(python: str, *arguments: object) -> str:
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run([python, *map(str, arguments)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def hub_count(num_samples: int, hop: int) -> int:
    """Rows of `google/vggish/1` and `google/yamnet/1`: one at least, then one for every hop that begins."""
    return 1 + max(0, -(-(num_samples - features.EXAMPLE_SAMPLES) // hop))


def clips_for(hop: int) -> dict[str, npt.NDArray[np.float32]]:
    """Noise of every length at which the number of examples changes, and what is hard for a front end."""
    rng = np.random.default_rng(0)
    first = features.EXAMPLE_SAMPLES
    lengths = [
        1,
        399,
        400,
        first - 1,
        first,
        first + 1,
        *(first + i * hop + step for i in (1, 2) for step in (-1, 0, 1)),
    ]
    clips = {f"noise {n}": (0.3 * rng.standard_normal(n)).astype(np.float32) for n in lengths}
    times = np.arange(40_000) / 16_000
    clips["chirp"] = np.sin(2 * np.pi * (100 + 1500 * times) * times).astype(np.float32)
    clips["silence"] = np.zeros(16_000, np.float32)
    return clips


@pytest.fixture(scope="module", params=MODELS)
def results(
    request: pytest.FixtureRequest, tensorflow: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Model, Path, Mapping[str, npt.NDArray[Any]]]:
    """A model of the library, the folder of its exports, and what TensorFlow gave for `clips_for` its hop."""
    name, folder = request.param, tmp_path_factory.mktemp(request.param)
    model = audioset.load(name, MODELS[name], threads=2)
    np.savez(folder / "clips.npz", **clips_for(round(model.spec.hop_s * 16_000)))
    of = [*COMMAND, "export", "--model", name, *(("--weights", MODELS[name]) if MODELS[name] else ())]
    for to_format, target in (("saved-model", name), ("tflite", f"{name}.tflite"), ("keras", f"{name}.keras")):
        run(tensorflow, *of, "--format", to_format, "-o", folder / target)
    run(tensorflow, "-c", CALLS, folder, name)
    with np.load(folder / f"{name}.npz") as held:
        return model, folder, dict(held)


def test_every_way_gives_what_the_library_gives(results: Any) -> None:
    model, _, given = results
    for clip, waveform in clips_for(round(model.spec.hop_s * 16_000)).items():
        for way in ("tf2", "tf1", "signature", "tflite", "keras"):
            pad = model.spec.pad if way == "keras" else "all"
            expected = {"embedding": model.embed(waveform, sample_rate=16_000, pad=pad).values}
            if model.spec.num_classes:
                expected["scores"] = model.tag(waveform, sample_rate=16_000).values
            for output, values in expected.items():
                got = given[f"{way}/{clip}/{output}"]
                assert (got.dtype, got.shape) == (np.float32, values.shape), (way, clip)
                np.testing.assert_allclose(got, values, atol=TOLERANCE, rtol=0, err_msg=f"{way} {clip}")


def test_there_are_as_many_rows_as_from_tf_hub(results: Any) -> None:
    model, _, given = results
    hop = round(model.spec.hop_s * 16_000)
    for clip, waveform in clips_for(hop).items():
        for way in ("tf2", "tf1", "tflite"):
            count = hub_count(len(waveform), hop)
            assert len(given[f"{way}/{clip}/embedding"]) == count
            if model.spec.num_classes:
                spectrogram = given[f"{way}/{clip}/log_mel_spectrogram"]
                frames = 96 + (count - 1) * hop // 160
                assert spectrogram.shape == (frames, 64)
                padded = np.pad(waveform, (0, 400 + 160 * (frames - 1) - len(waveform)))
                expected = features.log_mel(padded, log_offset=model.spec.log_offset)
                np.testing.assert_allclose(spectrogram, expected, atol=6e-3, rtol=0, err_msg=f"{way} {clip}")


def test_the_signature_has_the_outputs_that_are_reported(results: Any) -> None:
    model, _, given = results
    expected = {"scores", "embedding", "log_mel_spectrogram"} if model.spec.num_classes else {"embedding"}
    for way in ("signature", "tflite", "tf2"):
        assert {key.rpartition("/")[2] for key in given if key.startswith(f"{way}/")} == expected


def test_a_model_with_classes_has_their_table(results: Any) -> None:
    model, _, given = results
    if model.spec.classes is None:
        assert "classes" not in given
        return
    lines = str(given["classes"]).splitlines()
    assert lines[:2] == ["index,mid,display_name", "0,/m/09x0r,Speech"]
    assert len(lines) == 1 + model.spec.num_classes


def test_the_exports_say_what_they_are(results: Any) -> None:
    model, folder, _ = results
    name = model.spec.name
    texts = [(folder / name / "assets.extra" / "audioset.json").read_bytes()]
    for file in (f"{name}.tflite", f"{name}.keras"):
        with zipfile.ZipFile(folder / file) as archive:
            texts.append(archive.read("audioset.json"))
    for about in map(json.loads, texts):
        assert (about["model"], about["weights_sha256"]) == (name, model.weights.sha256)


def test_an_empty_waveform_gives_one_row_as_from_tf_hub(results: Any, tensorflow: str) -> None:
    model, folder, _ = results
    code = "import sys, numpy, tensorflow as tf; print(tf.saved_model.load(sys.argv[1])(numpy.zeros(0, 'float32')))"
    count = "(1, 128)" if model.spec.num_classes is None else f"(1, {model.spec.num_classes})"
    assert f"shape={count}" in run(tensorflow, "-c", code, folder / model.spec.name)


def test_a_folder_is_replaced_when_asked_to_and_nothing_else_is_left(tensorflow: str, tmp_path: Path) -> None:
    options = (*COMMAND, "export", "-m", "mini", "-f", "saved-model", "--input", "examples", "-o")
    run(tensorflow, *options, tmp_path / "mini")
    (tmp_path / "mini" / "assets" / "stale").write_text("")
    assert "float32 (n, 96, 64)" in run(tensorflow, *options, tmp_path / "mini", "--overwrite")
    assert not (tmp_path / "mini" / "assets" / "stale").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["mini"]


def test_a_full_disk_is_named_and_nothing_is_left(tensorflow: str, tmp_path: Path) -> None:
    folder, file = run(tensorflow, "-c", FULL, tmp_path).splitlines()
    assert folder.startswith(f"{tmp_path / 'full'}: the disk is full")
    assert "the disk is full" in file
    assert not list(tmp_path.iterdir())


def test_code_of_the_pages_that_needs_tensorflow_runs_in_it(tensorflow: str, tmp_path: Path) -> None:
    skipped = "<!-- not run: needs TensorFlow -->\n```python\n"
    docs = Path(__file__).parents[2] / "docs"
    texts = [(docs / page).read_text(encoding="utf-8") for page in ("how-to/keras.md", "migrate/from-tf-hub.md")]
    code = [part.partition("```\n")[0] for text in texts for part in text.split(skipped)[1:]]
    assert len(code) == 4
    for name in ("vggish", "yamnet"):
        options = ("--model", name, "--weights", "untrained:0", "--format", "saved-model")
        run(tensorflow, *COMMAND, "export", *options, "-o", tmp_path / name)
    run(tensorflow, *COMMAND, "export", "--model", "mini", "--format", "tflite", "-o", tmp_path / "mini.tflite")
    *_, from_hub, last = run(tensorflow, "-c", PAGES, tmp_path, *code).splitlines()
    assert from_hub == "(4, 128)"
    assert last == "['embedding', 'log_mel_spectrogram', 'scores'] 522"


def test_keras_trains_on_waveforms_of_any_length(tensorflow: str) -> None:
    run(tensorflow, "-c", TRAINS)


def test_other_hops_and_paddings_give_their_own_rows(tensorflow: str, tmp_path: Path) -> None:
    lengths = (1, 15_599, 15_600, 17_199, 17_200)
    for to_format, target in (("saved-model", "mini"), ("tflite", "mini.tflite")):
        options = ("--format", to_format, "--hop", 0.1, "--pad", "none", "-o", tmp_path / target)
        run(tensorflow, *COMMAND, "export", "-m", "mini", *options)
    counts = json.loads(run(tensorflow, "-c", COUNTS, tmp_path, *lengths).splitlines()[-1])
    expected = [features.num_examples(n, hop_s=0.1, pad="none") for n in lengths]
    assert counts == {"saved model": expected, "tflite": expected}
    assert expected[:3] == [0, 0, 1]

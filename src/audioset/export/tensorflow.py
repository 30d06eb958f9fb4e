"""A model as a SavedModel that TF-Hub's users know how to call, and as a TensorFlow Lite file.

Both are traced from the Keras model of `audioset.keras`, so that there is no other description of a network.
"""

from __future__ import annotations

import csv
import errno
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from audioset import models
from audioset._extras import check_installed
from audioset._files import unwritable, written_whole
from audioset.errors import OptionError, OutputError
from audioset.export.base import Cutting, Exported, Input, check_target, cutting, describe, open_model
from audioset.export.keras_file import METADATA_NAME, append_metadata, as_text, check_keras
from audioset.features import NUM_FRAMES, NUM_MEL_BANDS, Pad
from audioset.models.spec import ModelSpec
from audioset.weights import Progress, Weights
from audioset.weights.content import check_output
from audioset.weights.files import user_path

TFLITE_SUFFIX: Final = ".tflite"
SIGNATURE: Final = "serving_default"
_SAVED_MODEL_FILE = "saved_model.pb"
# What TensorFlow and Keras write to a SavedModel's folder: it may be replaced, what others put there may not.
_SAVED_MODEL_ENTRIES = {
    _SAVED_MODEL_FILE,
    "assets",
    "assets.extra",
    "fingerprint.pb",
    "keras_metadata.pb",
    "variables",
}


def export_saved_model(
    model: str,
    path: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | Weights | None = None,
    input: Input = "waveform",  # noqa: A002
    hop_s: float | None = None,
    pad: Pad | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Exported:
    """Write a model to a folder, whole or not at all, that TensorFlow and `tensorflow_hub.load` call as TF-Hub's own.

    `hub.load(path)(waveform)` takes a float32 waveform, shape (samples,), 16 kHz mono, and gives:

    - for VGGish, as `google/vggish/1`: the embeddings, float32, shape (k, 128);
    - for models with classes, as `google/yamnet/1`: scores (k, classes), embeddings (k, dim) and the log-mel
      spectrogram (frames, 64) that the examples were cut from; `class_map_path()` is a csv file of the classes.

    The signature `serving_default` gives the same by name: `scores`, `embedding`, `log_mel_spectrogram`.

    Parameters
    ----------
    model : str
        A model of the registry, or the path of a model of one's own.
    path : path
        The folder to write.
    weights : str, path or Weights, optional
        As for `audioset.load`; or those of a model that is loaded, `model.weights`.
    input : {"waveform", "examples"}
        What the exported model takes; examples are (n, 96, 64), and give no spectrogram.
    hop_s : float, optional
        Seconds from one example to the next, a multiple of 0.01; by default the model's own.
    pad : {"short", "none", "all"}, optional
        What happens to samples that do not fill an example. By default as the models of TF-Hub do it: "all", and an
        empty waveform gives one example of silence.
    overwrite : bool
        Replace the folder if it holds a SavedModel.
    progress : callable, optional
        Called as `progress(bytes_done, bytes_total)` while weights are downloaded.

    Raises
    ------
    MissingExtraError
        TensorFlow or Keras is not installed.
    OptionError
        There is no such model, an option is out of range or would not be used, or Keras does not run on TensorFlow.
    WeightsError, FetchError
        The weights are unknown, do not fit or cannot be fetched.
    OutputError
        Something is there already, or the folder cannot be written.
    """
    target = check_folder(path, overwrite=overwrite)
    check_tensorflow("SavedModel", cutting(models.get(model), input, hop_s, pad))
    traced = _Traced(model, weights, input, hop_s, pad, progress)
    with _folder_written_whole(target) as folder:
        traced.save(folder)
        extra = folder / "assets.extra"  # where a SavedModel keeps what is not TensorFlow's
        extra.mkdir()
        (extra / METADATA_NAME).write_text(as_text(traced.metadata), encoding="utf-8")
    size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    return Exported(target, size, traced.inputs, traced.outputs, traced.metadata)


def export_tflite(
    model: str,
    path: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | Weights | None = None,
    input: Input = "waveform",  # noqa: A002
    hop_s: float | None = None,
    pad: Pad | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Exported:
    """Write a model to one TensorFlow Lite file in float32, whole or not at all.

    Its signature `serving_default` takes what the SavedModel takes, of any length, and gives the same outputs by
    name. All operators are TensorFlow Lite's own. The file holds what it says of itself as `audioset.json`, in the
    zip archive at its end that TensorFlow Lite has for such.

    Parameters are those of `export_saved_model`; the path ends in .tflite.

    Raises
    ------
    MissingExtraError
        TensorFlow or Keras is not installed.
    OptionError
        There is no such model, an option is out of range or would not be used, the name does not end in .tflite, or
        Keras does not run on TensorFlow.
    WeightsError, FetchError
        The weights are unknown, do not fit or cannot be fetched.
    OutputError
        The file exists already or cannot be written.
    """
    target = check_target(path, TFLITE_SUFFIX, overwrite=overwrite)
    check_tensorflow("TensorFlow Lite", cutting(models.get(model), input, hop_s, pad))
    import tensorflow as tf

    traced = _Traced(model, weights, input, hop_s, pad, progress, precision="float32")
    try:
        with tempfile.TemporaryDirectory() as folder:
            traced.save(Path(folder))
            converted = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=[SIGNATURE]).convert()
    except OSError as error:
        raise unwritable(Path(tempfile.gettempdir()), error) from error
    with written_whole(target) as temporary:
        temporary.write_bytes(converted)
        append_metadata(temporary, traced.metadata)
    return Exported(target, target.stat().st_size, traced.inputs, traced.outputs, traced.metadata)


def check_folder(path: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Return where a SavedModel is to be written.

    Raises
    ------
    OutputError
        Something is there that may not be replaced, or nothing can be written there.
    """
    target = user_path(path)
    if target.is_file():
        raise OutputError(f"{target}: is a file; expected the name of a folder to write. Choose another name")
    if not target.is_dir():
        check_output(target, overwrite=False)
        return target
    try:
        found = {entry.name for entry in target.iterdir()}
    except OSError as error:
        raise unwritable(target, error) from error
    if not found:
        return target
    if not (target / _SAVED_MODEL_FILE).is_file():
        raise OutputError(f"{target}: a folder that holds no SavedModel; expected a new one. Choose another name")
    if others := sorted(found - _SAVED_MODEL_ENTRIES):
        raise OutputError(
            f"{target}: holds {others[0]} beside a SavedModel; expected a new folder, or a SavedModel alone, as all of "
            "it would be replaced. Choose another name, or move what you want to keep"
        )
    if not overwrite:
        raise OutputError(
            f"{target}: exists already; expected a new folder. Choose another name, or ask to overwrite it"
        )
    return target


def check_tensorflow(what: str, cut: Cutting | None) -> None:
    """Raise an error if TensorFlow cannot write a model that cuts waveforms so.

    Raises
    ------
    MissingExtraError
        TensorFlow or Keras is not installed.
    OptionError
        Keras runs on something else, or the hop is no whole number of frames.
    """
    check_installed(what, "tensorflow", "keras")
    check_keras(cut)
    import keras

    if (backend := keras.backend.backend()) != "tensorflow":
        raise OptionError(
            f"{what}: Keras runs on {backend} here; expected TensorFlow, which writes it. "
            "Set KERAS_BACKEND=tensorflow before Keras is imported"
        )


class _Traced:
    """A model as functions of TensorFlow, and what is said of it."""

    def __init__(
        self,
        model: str,
        weights: str | os.PathLike[str] | Weights | None,
        input: Input,  # noqa: A002
        hop_s: float | None,
        pad: Pad | None,
        progress: Progress | None,
        *,
        precision: str | None = None,
    ) -> None:
        import tensorflow as tf

        from audioset.keras import LogMel, from_spec

        spec, found = open_model(model, weights, progress)
        # TF-Hub's models pad every tail.
        cut = cutting(spec, input, hop_s, "all" if pad is None and input == "waveform" else pad)
        self._spec = spec
        self._network = from_spec(spec, found, "examples")
        self._module = tf.Module()
        # TensorFlow saves the variables of a module, and Keras's are in their values.
        self._module.parameters = [variable.value for variable in self._network.variables]
        self._fewest = int(pad is None)
        self.metadata = describe(spec, found, cut, "fp32")
        if cut is not None:
            front = LogMel.of(spec, hop_s=cut.hop_s, pad=cut.pad)
            self._function: Callable[[Any], dict[str, Any]] = lambda x: self._from_waveform(front, x, precision)
            self._given = tf.TensorSpec([None], tf.float32, name=input)
            self.inputs: dict[str, str] = {input: "float32 (samples,)"}
        else:
            self._function = self._from_examples
            self._given = tf.TensorSpec([None, NUM_FRAMES, NUM_MEL_BANDS], tf.float32, name=input)
            self.inputs = {input: f"float32 (n, {NUM_FRAMES}, {NUM_MEL_BANDS})"}
        self.outputs = {name: f"float32 (n, {width})" for name, width in _ordered(spec.outputs).items()}
        if cut is not None and spec.num_classes is not None:
            self.outputs["log_mel_spectrogram"] = f"float32 (frames, {NUM_MEL_BANDS})"

    def save(self, folder: Path) -> None:
        """Write it as a SavedModel to a folder that is there; OSError if it cannot be written."""
        import tensorflow as tf

        module = self._module
        by_name = tf.function(self._by_name, input_signature=[self._given])
        called = tf.function(self._call, input_signature=[self._given])
        module.__call__ = called
        with tempfile.TemporaryDirectory() as holding:
            if self._spec.classes is not None:
                table = Path(holding, "class_map.csv")
                _write_classes(self._spec, table)
                module.class_map = tf.saved_model.Asset(str(table))
                module.class_map_path = tf.function(lambda: module.class_map.asset_path, input_signature=[])
            try:
                tf.saved_model.save(module, str(folder), signatures={SIGNATURE: by_name})
            except tf.errors.OpError as error:  # TensorFlow's own for files, such as those of a full disk
                code = errno.ENOSPC if isinstance(error, tf.errors.ResourceExhaustedError) else errno.EIO
                raise OSError(code, error.message) from error

    def _by_name(self, given: Any) -> dict[str, Any]:
        found = self._function(given)
        return {name: found[name] for name in self.outputs}

    def _call(self, given: Any) -> Any:
        outputs = tuple(self._by_name(given).values())
        return outputs if len(outputs) > 1 else outputs[0]

    def _from_waveform(self, front: Any, waveform: Any, precision: str | None) -> dict[str, Any]:
        import tensorflow as tf

        from audioset.keras import MergeExamples, SplitExamples

        missing = tf.maximum(self._fewest - tf.shape(waveform)[0], 0)
        batch = tf.pad(waveform, [[0, missing]])[tf.newaxis]
        spectrogram = front.spectrogram(batch, precision=precision)
        examples = front.cut(spectrogram, front.num_examples(tf.shape(batch)[1]))
        outputs = self._from_examples(MergeExamples()(examples))
        rows = {name: SplitExamples()(values, examples)[0] for name, values in outputs.items()}
        return {**rows, "log_mel_spectrogram": spectrogram[0]}

    def _from_examples(self, examples: Any) -> dict[str, Any]:
        outputs: dict[str, Any] = self._network(examples)
        return outputs


def _ordered(outputs: Mapping[str, int]) -> dict[str, int]:
    """The order in which TF-Hub's YAMNet gives them."""
    return {name: outputs[name] for name in ("scores", "embedding") if name in outputs}


def _write_classes(spec: ModelSpec, path: Path) -> None:
    assert spec.classes is not None  # noqa: S101 - for the types: whoever calls this has looked
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["index", "mid", "display_name"])
        pairs = zip(spec.classes.mids, spec.classes.names, strict=True)
        writer.writerows([index, mid, name] for index, (mid, name) in enumerate(pairs))


@contextmanager
def _folder_written_whole(target: Path) -> Iterator[Path]:
    """Give a new folder beside `target` to write to; it takes its place if the block ends well, and vanishes if not."""
    try:
        with tempfile.TemporaryDirectory(prefix=f".{target.name[:40]}.", dir=target.parent) as holding:
            folder = Path(holding, "new")
            folder.mkdir()
            yield folder
            if target.is_dir():
                target.replace(Path(holding, "old"))
            folder.replace(target)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise unwritable(target, error) from error

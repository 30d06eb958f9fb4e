"""The same networks as Keras models, trainable, on TensorFlow, JAX or PyTorch.   [extra: keras]

    from audioset import keras as audioset_keras

    model = audioset_keras.vggish()                          # waveforms (n, samples) to embeddings (n, k, 128)
    model = audioset_keras.mini(input="examples")            # log-mel examples (n, 96, 64) to embeddings and scores
    model.save("mini.keras")                                 # keras.saving.load_model("mini.keras") has it again

Which backend runs them is Keras's own choice: KERAS_BACKEND, set before Keras is imported. Their layers are those of
`audioset.models`, as for ONNX Runtime and PyTorch; all agree within 1e-3 from the waveform.

Loading a file of such a model again needs `import audioset.keras`, which tells Keras of the three layers here that
are not its own: `LogMel`, `MergeExamples` and `SplitExamples`.
"""

from audioset._extras import check_installed
from audioset.errors import MissingExtraError

check_installed("audioset.keras", "keras")
try:
    import keras as _keras  # noqa: F401 - said here, once, if what it runs on is missing
except (ImportError, ValueError) as error:  # the latter where KERAS_BACKEND names what Keras does not know
    raise MissingExtraError(
        f"audioset.keras: Keras cannot be imported ({error}); expected what it runs on to be installed, which "
        "is TensorFlow unless its settings or KERAS_BACKEND say otherwise. Install that, or set KERAS_BACKEND to torch "
        "or jax"
    ) from error

from audioset.keras.front_end import LogMel  # noqa: E402 - behind the check, whose message says what to do
from audioset.keras.layers import MergeExamples, SplitExamples  # noqa: E402
from audioset.keras.networks import from_spec, mini, model, to_weights, vggish, yamnet  # noqa: E402

__all__ = [
    "LogMel",
    "MergeExamples",
    "SplitExamples",
    "from_spec",
    "mini",
    "model",
    "to_weights",
    "vggish",
    "yamnet",
]

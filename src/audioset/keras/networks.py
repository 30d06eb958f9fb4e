"""The models of the registry, and users' own, as Keras models: weights from wherever `audioset.load` has them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, get_args

import keras

from audioset import models
from audioset import weights as stored
from audioset.errors import OptionError, WeightsError
from audioset.features import NUM_FRAMES, NUM_MEL_BANDS, Pad
from audioset.keras import layers
from audioset.keras.front_end import LogMel
from audioset.keras.layers import MergeExamples, SplitExamples
from audioset.models.layers import Layer, Output
from audioset.models.spec import ModelSpec
from audioset.weights import Weights

Input: TypeAlias = Literal["waveform", "examples"]
OutputName: TypeAlias = Literal["embedding", "scores"]


def vggish(
    weights: str | os.PathLike[str] | None = None,
    input: Input = "waveform",  # noqa: A002 - the word for it
    *,
    output: OutputName | None = None,
    hop_s: float | None = None,
    pad: Pad | None = None,
) -> keras.Model:
    """Return VGGish as a Keras model: 128-d embeddings, before any non-linearity; see `model`."""
    return model("vggish", weights, input, output=output, hop_s=hop_s, pad=pad)


def yamnet(
    weights: str | os.PathLike[str] | None = None,
    input: Input = "waveform",  # noqa: A002
    *,
    output: OutputName | None = None,
    hop_s: float | None = None,
    pad: Pad | None = None,
) -> keras.Model:
    """Return YAMNet as a Keras model: 1024-d embeddings, and scores of 521 classes; see `model`."""
    return model("yamnet", weights, input, output=output, hop_s=hop_s, pad=pad)


def mini(
    weights: str | os.PathLike[str] | None = None,
    input: Input = "waveform",  # noqa: A002
    *,
    output: OutputName | None = None,
    hop_s: float | None = None,
    pad: Pad | None = None,
) -> keras.Model:
    """Return mini as a Keras model: 128-d embeddings, and scores of 521 classes; see `model`."""
    return model("mini", weights, input, output=output, hop_s=hop_s, pad=pad)


def model(
    name: str | os.PathLike[str] = "vggish",
    weights: str | os.PathLike[str] | None = None,
    input: Input = "waveform",  # noqa: A002
    *,
    output: OutputName | None = None,
    hop_s: float | None = None,
    pad: Pad | None = None,
) -> keras.Model:
    """Return any model that `audioset.load` knows as a Keras model, with its weights.

    Parameters
    ----------
    name, weights
        As `audioset.load` takes them: a model of the registry or a file of one's own; None for the published weights,
        or those that ship with the package. (Elsewhere in Keras, None means random weights: "untrained:SEED" here.)
    input : {"waveform", "examples"}
        What goes in. Waveforms are float32 (n, samples), n clips of one length, 16 kHz mono, nominally in [-1, 1], and
        give k examples each; one clip is `waveform[None]`. Examples are log-mel, float32 (n, 96, 64).
    output : {"embedding", "scores"}, optional
        The one output that is wanted, for models that go on from there; None for a dict of all by name.
    hop_s, pad
        As for `LogMel`, with waveforms; the model's own by default, as in `audioset.Model.embed`.

    Returns
    -------
    keras.Model
        Gives `{"embedding": …}`, and `"scores"` where the network classifies: of shape (n, k, width) from waveforms
        and (n, width) from examples. Every layer is trainable and called as in the table, with `_` for `/`
        (`vggish_conv1`). It runs, trains and is saved as any model of Keras.

    Raises
    ------
    OptionError
        The model, the input or the output is unknown, or hop or padding out of range or given with examples.
    WeightsError, FetchError
        The weights cannot be had or are not this model's.
    """
    name = os.fspath(name)
    spec = models.get(name)
    _check(spec, input, output, hop_s, pad)  # before anything is fetched
    return from_spec(spec, stored.load(name, weights), input, output=output, hop_s=hop_s, pad=pad)


def from_spec(
    spec: ModelSpec,
    weights: Weights | None = None,
    input: Input = "waveform",  # noqa: A002
    *,
    output: OutputName | None = None,
    hop_s: float | None = None,
    pad: Pad | None = None,
) -> keras.Model:
    """Return the Keras model of a network, with a copy of these weights or with Keras's random ones; see `model`.

    Parameters
    ----------
    spec : ModelSpec
        Of the registry, or one that is not in it.
    weights : Weights, optional
        As `audioset.weights.load` gives them.
    """
    _check(spec, input, output, hop_s, pad)
    table = spec.of_format(weights.provenance.get("source_format")).layers if weights is not None else spec.layers
    if output is not None:
        table = table[: table.index(Output(output)) + 1]  # what comes after it has no part in it
    if input == "waveform":
        given = keras.Input((None,), dtype="float32", name=input)
        examples = LogMel.of(spec, hop_s=hop_s, pad=pad)(given)
        rows = layers.apply(table, MergeExamples()(examples))
        outputs = {name: SplitExamples()(values, examples) for name, values in rows.items()}
    else:
        given = keras.Input((NUM_FRAMES, NUM_MEL_BANDS), dtype="float32", name=input)
        outputs = layers.apply(table, given)
    network = keras.Model(given, outputs if output is None else outputs[output], name=_model_name(spec.name))
    if weights is not None:
        layers.take(network, table, weights.tensors)
    return network


def to_weights(network: keras.Model, model: str | os.PathLike[str], name: str = "") -> Weights:
    """Return a copy of a Keras model's weights, for `audioset.weights.save`, which writes them for any use.

    Parameters
    ----------
    network : keras.Model
        As `model` gave it with all its outputs, trained since or loaded again by Keras.
    model : str or path
        What it was made of: a model of the registry, or the file of one's own.
    name : str
        What users would recognise; the model's name by default.

    Raises
    ------
    OptionError
        The model is unknown.
    WeightsError
        The network has not the layers of this model.
    """
    model = os.fspath(model)
    spec = models.get(model)
    source_format = next((key for key, table in _tables(spec).items() if _is_made_of(network, table)), None)
    if source_format is None:
        raise WeightsError(
            f"{network.name}: has not the layers of {model}; expected what audioset.keras.model({model!r}) gives, or a "
            "part of a model that has them. Give that part, or the name of the model that it was made of"
        )
    about: dict[str, str] = {"source": f"Keras model {network.name}"}
    if source_format:
        about["source_format"] = source_format  # by which these layers are found again
    if models.own.is_own(model):
        about["own_model"] = stored.load(model).provenance["own_model"]
    return stored.from_tensors(spec.name, name or spec.name, layers.tensors(network, spec.layers), about)


def _tables(spec: ModelSpec) -> Mapping[str, tuple[Layer, ...]]:
    return {"": spec.layers, **spec.variants}


def _is_made_of(network: keras.Model, table: tuple[Layer, ...]) -> bool:
    """Whether the network has the layers with weights that the table has, with their activations."""
    found: dict[str, Any] = {layer.name: layer for layer in network.layers}
    wanted = {layers.keras_name(layer): layer for layer in layers.weighted(table)}
    return wanted.keys() <= found.keys() and all(
        getattr(found[name], "activation", None) is keras.activations.get(layer.activation)
        for name, layer in wanted.items()
    )


def _check(spec: ModelSpec, input: str, output: str | None, hop_s: float | None, pad: str | None) -> None:  # noqa: A002
    if input not in get_args(Input):
        raise OptionError(f"input: {input!r} is unknown; expected one of {', '.join(get_args(Input))}")
    if output is not None and output not in spec.outputs:
        raise OptionError(f"output: {output!r} is none of {spec.name}; expected one of {', '.join(spec.outputs)}")
    if input == "examples" and (hop_s, pad) != (None, None):
        raise OptionError(
            "hop_s, pad: given with examples as the input, which are cut already; expected them with waveforms. "
            "Leave them out, or give input='waveform'"
        )


def _model_name(name: str) -> str:
    """What Keras accepts for a name, of a model whose file may be called anything."""
    return name.replace("/", "_")

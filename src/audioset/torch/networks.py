"""The models of the registry as `nn.Module`s: weights from wherever `audioset.load` has them, and back to a file."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from audioset import models
from audioset import weights as stored
from audioset.features import Pad
from audioset.models.spec import ModelSpec
from audioset.torch.front_end import LogMel
from audioset.torch.layers import Layers, Outputs
from audioset.weights import Weights, content

NonLinearity: TypeAlias = Callable[[Tensor], Tensor]
_Network = TypeVar("_Network", bound="Network")
_Registered = TypeVar("_Registered", bound="_RegisteredNetwork")

# What a file of trained weights keeps of what the weights that they come from said of themselves.
_KEPT = ("licence", "citation", "own_model")


class Network(Layers):
    """A model as a module: log-mel examples in, `Outputs` out. Starts from PyTorch's random weights.

    It has the layers of the table that the ONNX graph is built from, with standard modules: `nn.Conv2d` with a bias
    and `nn.Linear`. YAMNet's published batch norms are folded into its convolutions, so there is none to train.

    Parameters
    ----------
    spec : ModelSpec
        The model.
    activation : callable, optional
        Put on the embedding that is given out, such as `torch.relu`; the network's own scores do not see it. The
        published embedding has none.

    Attributes
    ----------
    spec : ModelSpec
        The model; its layers are those in use, also where the weights' format decides them (`ModelSpec.variants`).
    """

    def __init__(self, spec: ModelSpec, *, activation: NonLinearity | None = None) -> None:
        super().__init__(spec.layers)
        self.spec = spec
        self.activation = activation
        self._origin: dict[str, str] = {}
        self._origin_name = self._origin_sha256 = ""

    @classmethod
    def from_spec(
        cls: type[_Network],
        spec: ModelSpec,
        weights: Weights | None = None,
        *,
        activation: NonLinearity | None = None,
    ) -> _Network:
        """Return the module of a model, with a copy of these weights or with PyTorch's random ones.

        Parameters
        ----------
        spec : ModelSpec
            Of the registry, or one that is not in it.
        weights : Weights, optional
            As `audioset.weights.load` gives them.
        activation : callable, optional
            See the class.
        """
        if weights is None:
            return cls(spec, activation=activation)
        with torch.device("meta"):  # nothing is drawn that would only be replaced
            network = cls(spec.of_format(weights.provenance.get("source_format")))
        network._take(weights.tensors)
        network.activation = activation
        network._origin = dict(weights.provenance)
        network._origin_name, network._origin_sha256 = weights.name, weights.sha256
        return network

    def forward(self, examples: Tensor) -> Outputs:
        """Return the network's outputs, see `Layers.forward`, with the chosen non-linearity on the embedding."""
        outputs = super().forward(examples)
        if self.activation is None:
            return outputs
        return outputs._replace(embedding=self.activation(outputs.embedding))

    def to_weights(self, name: str = "") -> Weights:
        """Return a copy of the weights as they are now, for `audioset.network.Network` or `audioset.weights.save`.

        Where they are still what was loaded, provenance is what it was; else it says what they were trained from.

        Parameters
        ----------
        name : str
            What users would recognise; that of the weights that were loaded by default.
        """
        found = stored.from_tensors(self.spec.name, name or self._origin_name or self.spec.name, self.tensors(), {})
        provenance = self._origin if found.sha256 == self._origin_sha256 else self._trained()
        return replace(found, provenance=MappingProxyType(dict(provenance)))

    def save_pretrained(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Weights:
        """Write the weights to a safetensors file and return them.

        `audioset.load(MODEL, path)`, `--weights path` and `from_pretrained(path)` take the file. It holds the tensors
        in float32 under the table's names, with their hash, and not the chosen non-linearity.

        Raises
        ------
        WeightsError
            A weight is NaN or infinite.
        OutputError
            The file exists (and `overwrite` is not set) or cannot be written.
        """
        content.check_output(Path(path), overwrite=overwrite)
        found = self.to_weights(Path(path).name)
        for name, values in found.tensors.items():
            content.check_finite(values, name, Path(path))
        stored.save(found, path, overwrite=overwrite)
        return found

    def _trained(self) -> dict[str, str]:
        """What to say of weights that are no longer those that were loaded, if any were."""
        about = {key: self._origin[key] for key in _KEPT if key in self._origin}
        if self._origin_sha256:
            about |= {"source": f"trained from {self._origin_name}", "trained_from_sha256": self._origin_sha256}
        for source_format, layers in self.spec.variants.items():
            if layers == self.spec.layers:
                about["source_format"] = source_format  # by which these layers are found again
        return about


class _RegisteredNetwork(Network):
    """A network whose model is known from its class."""

    _model: ClassVar[str]

    def __init__(self, spec: ModelSpec | None = None, *, activation: NonLinearity | None = None) -> None:
        super().__init__(models.get(self._model) if spec is None else spec, activation=activation)

    @classmethod
    def from_pretrained(
        cls: type[_Registered],
        name_or_path: str | os.PathLike[str] | None = None,
        *,
        activation: NonLinearity | None = None,
    ) -> _Registered:
        """Return the network with pretrained weights.

        Parameters
        ----------
        name_or_path : str or path, optional
            As the weights of `audioset.load`: the name of a catalogue entry, a path in any format that can be read, or
            "untrained:SEED". None, or the model's own name, for the published ones or those that ship with the package.
        activation : callable, optional
            Put on the embedding that is given out; see `Network`.

        Raises
        ------
        WeightsError, FetchError
            The weights cannot be had or are not this model's.
        MissingExtraError
            Their format needs a library that is not installed.
        """
        wanted = None if name_or_path == cls._model and stored.built_in(cls._model) else name_or_path
        return cls.from_spec(models.get(cls._model), stored.load(cls._model, wanted), activation=activation)


class VGGish(_RegisteredNetwork):
    """VGGish: examples to 128-d embeddings, before any non-linearity as in the features that AudioSet releases."""

    _model = "vggish"


class YAMNet(_RegisteredNetwork):
    """YAMNet: examples to 1024-d embeddings, and logits and scores of 521 classes.

    Activations end at 6 where the weights come from the published TensorFlow Lite file, as its operators say.
    """

    _model = "yamnet"


class Mini(_RegisteredNetwork):
    """mini: examples to 128-d embeddings, and logits and scores of 521 classes; its weights ship with the package."""

    _model = "mini"


def load(
    model: str | os.PathLike[str] = "vggish",
    weights: str | os.PathLike[str] | None = None,
    *,
    activation: NonLinearity | None = None,
) -> Network:
    """Return any model that `audioset.load` knows as a module, with its weights.

    Parameters
    ----------
    model, weights
        As `audioset.load` takes them.
    activation : callable, optional
        Put on the embedding that is given out; see `Network`.

    Raises
    ------
    OptionError
        The model is unknown.
    WeightsError, FetchError
        The weights cannot be had or are not this model's.
    """
    name = os.fspath(model)
    classes = {network._model: network for network in (VGGish, YAMNet, Mini)}
    return classes.get(name, Network).from_spec(models.get(name), stored.load(name, weights), activation=activation)


class EndToEnd(nn.Module):
    """Waveforms to embeddings in one module: `LogMel`, then a network, with gradients from end to end.

    Parameters
    ----------
    network : Network
        What the examples go through.
    hop_s, pad
        As for `LogMel`; the model's own by default, as in `audioset.Model.embed`.
    """

    def __init__(self, network: Network, *, hop_s: float | None = None, pad: Pad | None = None) -> None:
        super().__init__()
        self.log_mel = LogMel.of(network.spec, hop_s=hop_s, pad=pad)
        self.network = network

    def forward(self, waveform: Tensor) -> Outputs:
        """Return the network's outputs for each example of each clip.

        Parameters
        ----------
        waveform : Tensor of float, shape (n, samples)
            16 kHz mono, nominally in [-1, 1].

        Returns
        -------
        Outputs
            Each of shape (n, k, width), k examples a clip; k stays an axis where it is 1 or 0.
        """
        examples = self.log_mel(waveform)
        clips, count = examples.shape[:2]
        weight = next(self.network.parameters())
        outputs: Outputs = self.network(examples.flatten(0, 1).to(weight.dtype))
        by_clip = (None if x is None else x.reshape(clips, count, x.shape[-1]) for x in outputs)
        return Outputs._make(by_clip)

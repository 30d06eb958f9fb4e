"""What the rest of the package needs to know of a model: its layers and the front end that it was trained on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from audioset.classes import ClassList, class_list
from audioset.features import NUM_FRAMES, NUM_MEL_BANDS, Pad
from audioset.models.layers import Layer, Output, Shape, tensor_shapes, walk


@dataclass(frozen=True)
class ModelSpec:
    """One network and its regime.

    Attributes
    ----------
    name : str
        What users call it.
    summary : str
        One line for lists.
    layers : tuple of Layer
        The network, from a (96, 64, 1) example on.
    log_offset : float
        Added to the mel magnitudes before the logarithm.
    hop_s : float
        Default seconds from one example to the next.
    pad : {"short", "none", "all"}
        Default policy for what does not fill an example.
    licence, citation : str
        Of the published weights.
    has_pca : bool
        PCA parameters are published for its embeddings (`audioset.postprocess`).
    variants : mapping of str to tuple of Layer
        Layers to use instead where the weights come from a file of this format, with tensors of the same shapes.
    own_classes : ClassList or None
        What it scores where that is none of the published lists.
    float_layers : tuple of str
        Names of layers that stay in float32 when the network runs in 8 bits, chosen by measurement
        (docs/performance.md). They are at either end of the network.
    """

    name: str
    summary: str
    layers: tuple[Layer, ...]
    log_offset: float
    hop_s: float
    pad: Pad
    licence: str
    citation: str
    has_pca: bool = False
    variants: Mapping[str, tuple[Layer, ...]] = field(default_factory=dict, hash=False)
    own_classes: ClassList | None = None
    float_layers: tuple[str, ...] = ()

    def of_format(self, source_format: str | None) -> ModelSpec:
        """Return the model as weights from a file of this format need it."""
        return replace(self, layers=self.variants.get(source_format or "", self.layers))

    @cached_property
    def tensor_shapes(self) -> dict[str, Shape]:
        """Name and shape of every tensor, in the order of the layers: weights, then biases."""
        return tensor_shapes(self.layers, INPUT_SHAPE)

    @cached_property
    def num_weights(self) -> int:
        """How many numbers the weights are."""
        return sum(math.prod(shape) for shape in self.tensor_shapes.values())

    @cached_property
    def outputs(self) -> dict[str, int]:
        """Width of each output by name: `embedding`, and `scores` where the network classifies."""
        marked = ((layer, leaving) for layer, _, leaving in walk(self.layers, INPUT_SHAPE) if isinstance(layer, Output))
        return {layer.name: leaving[0] for layer, leaving in marked}

    @property
    def embedding_dim(self) -> int:
        """Numbers in one embedding."""
        return self.outputs["embedding"]

    @property
    def num_classes(self) -> int | None:
        """Classes that the network scores, or None."""
        return self.outputs.get("scores")

    @property
    def classes(self) -> ClassList | None:
        """Names and mids of what it scores, or None; the published lists differ in length."""
        if self.own_classes is not None or self.num_classes is None:
            return self.own_classes
        return class_list({521: "yamnet521", 527: "audioset527"}[self.num_classes])


INPUT_SHAPE: Shape = (NUM_FRAMES, NUM_MEL_BANDS, 1)

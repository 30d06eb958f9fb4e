"""YAMNet (MobileNet-v1 over VGGish's front end): a 1024-d embedding and scores of 521 AudioSet classes.

Batch norms are folded into the convolutions. The layers are numbered as in the published Keras code.
"""

import itertools
from collections.abc import Iterator

from audioset.models.layers import Activation, Conv, Dense, DepthwiseConv, GlobalAverage, Layer, Output
from audioset.models.spec import ModelSpec

NUM_CLASSES = 521
# The published batch norms have no scale; this keeps their variance from zero.
BATCH_NORM_EPSILON = 1e-4

# (stride, filters) of the separable convolutions, from layer 2 on.
_SEPARABLE = ((1, 64), (2, 128), (1, 128), (2, 256), (1, 256), (2, 512), *[(1, 512)] * 5, (2, 1024), (1, 1024))


def _layers(activation: Activation) -> tuple[Layer, ...]:
    separable: Iterator[tuple[Layer, ...]] = (
        (
            DepthwiseConv(f"layer{number}/depthwise", stride=stride, activation=activation),
            Conv(f"layer{number}/pointwise", filters, kernel=1, activation=activation),
        )
        for number, (stride, filters) in enumerate(_SEPARABLE, start=2)
    )
    return (
        Conv("layer1/conv", 32, stride=2, activation=activation),
        *itertools.chain.from_iterable(separable),
        GlobalAverage(),
        Output("embedding"),
        Dense("logits", NUM_CLASSES, activation="sigmoid"),
        Output("scores"),
    )


SPEC = ModelSpec(
    name="yamnet",
    summary="YAMNet: 1024-d embeddings and 521 AudioSet classes, every 0.48 s",
    layers=_layers("relu"),
    # In the 8-bit TensorFlow Lite file, activations end at 6 (its operators say so); in the published Keras code they
    # do not.
    variants={"tflite": _layers("relu6")},
    log_offset=0.001,
    hop_s=0.48,
    pad="all",
    licence="Apache-2.0",
    citation="Plakal and Ellis, YAMNet, github.com/tensorflow/models/tree/master/research/audioset/yamnet, 2020",
)

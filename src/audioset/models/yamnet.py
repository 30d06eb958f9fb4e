"""YAMNet (MobileNet-v1 over VGGish's front end): a 1024-d embedding and scores of 521 AudioSet classes.

Batch norms are folded into the convolutions. The layers are numbered as in the published Keras code.
"""

import itertools

from audioset.models.layers import Conv, Dense, DepthwiseConv, GlobalAverage, Layer, Output
from audioset.models.spec import ModelSpec

NUM_CLASSES = 521
# The published batch norms have no scale; this keeps their variance from zero.
BATCH_NORM_EPSILON = 1e-4

# (stride, filters) of the separable convolutions, from layer 2 on.
_SEPARABLE = ((1, 64), (2, 128), (1, 128), (2, 256), (1, 256), (2, 512), *[(1, 512)] * 5, (2, 1024), (1, 1024))


_SEPARABLE_LAYERS: tuple[tuple[Layer, ...], ...] = tuple(
    (
        DepthwiseConv(f"layer{number}/depthwise", stride=stride),
        Conv(f"layer{number}/pointwise", filters, kernel=1),
    )
    for number, (stride, filters) in enumerate(_SEPARABLE, start=2)
)

SPEC = ModelSpec(
    name="yamnet",
    summary="YAMNet: 1024-d embeddings and 521 AudioSet classes, every 0.48 s",
    layers=(
        Conv("layer1/conv", 32, stride=2),
        *itertools.chain.from_iterable(_SEPARABLE_LAYERS),
        GlobalAverage(),
        Output("embedding"),
        Dense("logits", NUM_CLASSES, activation="sigmoid"),
        Output("scores"),
    ),
    log_offset=0.001,
    hop_s=0.48,
    pad="all",
    licence="Apache-2.0",
    citation="Plakal and Ellis, YAMNet, github.com/tensorflow/models/tree/master/research/audioset/yamnet, 2020",
)

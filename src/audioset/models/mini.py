"""mini: a small network of our own, distilled from YAMNet, that ships with the package.

The recipe is `audioset.train.distill`; docs/models/mini.md says what it was trained on and what it is worth.
"""

from audioset.models.layers import Conv, Dense, Flatten, Output
from audioset.models.spec import ModelSpec
from audioset.models.yamnet import NUM_CLASSES
from audioset.models.yamnet import SPEC as TEACHER

SPEC = ModelSpec(
    name="mini",
    summary="mini: 128-d embeddings and YAMNet's 521 classes; built in, for trying things out",
    layers=(
        Conv("conv1", 16, stride=2),
        Conv("conv2", 32, stride=2),
        Conv("conv3", 64, stride=2),
        Conv("conv4", 64),
        Conv("conv5", 128, stride=2),
        Conv("conv6", 128),
        Conv("conv7", 192, stride=2),
        Flatten(),
        Dense("embedding", 128),
        Output("embedding"),
        Dense("logits", NUM_CLASSES, activation="sigmoid"),
        Output("scores"),
    ),
    log_offset=TEACHER.log_offset,
    hop_s=TEACHER.hop_s,
    pad=TEACHER.pad,
    licence="Apache-2.0",
    float_layers=("conv1", "logits"),
    citation="The audioset developers, mini, distilled from YAMNet (see docs/models/mini.md)",
)

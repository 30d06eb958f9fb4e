"""VGGish (Hershey et al. 2017): configuration A of VGG without its last group, ending in a 128-d embedding.

The embedding is the last layer's output before any non-linearity, as in the features that AudioSet releases.
"""

from audioset.models.layers import Conv, Dense, Flatten, MaxPool, Output
from audioset.models.spec import ModelSpec

SPEC = ModelSpec(
    name="vggish",
    summary="VGGish: 128-d embeddings of 0.96 s, the ones that AudioSet and YouTube-8M release",
    layers=(
        Conv("vggish/conv1", 64),
        MaxPool(),
        Conv("vggish/conv2", 128),
        MaxPool(),
        Conv("vggish/conv3/conv3_1", 256),
        Conv("vggish/conv3/conv3_2", 256),
        MaxPool(),
        Conv("vggish/conv4/conv4_1", 512),
        Conv("vggish/conv4/conv4_2", 512),
        MaxPool(),
        Flatten(),
        Dense("vggish/fc1/fc1_1", 4096, activation="relu"),
        Dense("vggish/fc1/fc1_2", 4096, activation="relu"),
        Dense("vggish/fc2", 128),
        Output("embedding"),
    ),
    log_offset=0.01,
    hop_s=0.96,
    pad="short",
    licence="Apache-2.0",
    citation="Hershey et al., CNN Architectures for Large-Scale Audio Classification, ICASSP 2017, arXiv:1609.09430",
    has_pca=True,
)

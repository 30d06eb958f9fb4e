"""Write a full VGGish checkpoint with TensorFlow, to measure and check the readers that work without it.

Run it in an interpreter that has TensorFlow 2 and NumPy; nothing of this package is imported:

    python benchmarks/write_vggish_checkpoint.py --format v1 vggish_v1.ckpt
    python benchmarks/write_vggish_checkpoint.py --format v2 vggish_v2.ckpt

The weights are those of `untrained:SEED`, drawn as the tests' golden values were, so `audioset.load("vggish",
"untrained:0")` and the converted checkpoint must have the same content hash. V1 is the format of the published file.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Iterator

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read when TensorFlow is imported

import numpy as np
import tensorflow as tf

LAYERS = {
    "conv1": (3, 3, 1, 64),
    "conv2": (3, 3, 64, 128),
    "conv3/conv3_1": (3, 3, 128, 256),
    "conv3/conv3_2": (3, 3, 256, 256),
    "conv4/conv4_1": (3, 3, 256, 512),
    "conv4/conv4_2": (3, 3, 512, 512),
    "fc1/fc1_1": (12288, 4096),
    "fc1/fc1_2": (4096, 4096),
    "fc2": (4096, 128),
}


def seeded_tensors(seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the name and values of every variable, in the order in which they are drawn."""
    rng = np.random.default_rng(seed)
    for layer, shape in LAYERS.items():
        scale = np.float32(math.sqrt(2 / math.prod(shape[:-1])))
        yield f"vggish/{layer}/weights", rng.standard_normal(shape, dtype=np.float32) * scale
        yield f"vggish/{layer}/biases", rng.standard_normal(shape[-1], dtype=np.float32) * np.float32(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", help="where to write: the file itself (v1) or the prefix of its files (v2)")
    parser.add_argument("--format", choices=("v1", "v2"), default="v1")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    version = tf.compat.v1.train.SaverDef.V1 if options.format == "v1" else tf.compat.v1.train.SaverDef.V2
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        # A placeholder feeds each initial value: constants of this size do not fit in one graph definition.
        variables = []
        for name, values in seeded_tensors(options.seed):
            feed = tf.compat.v1.placeholder(tf.float32, values.shape)
            variable = tf.compat.v1.get_variable(name, initializer=feed, use_resource=False)
            session.run(variable.initializer, {feed: values})
            variables.append(variable)
        saver = tf.compat.v1.train.Saver(variables, write_version=version)
        saver.save(session, os.path.abspath(options.path), write_meta_graph=False, write_state=False)  # noqa: PTH100


if __name__ == "__main__":
    main()

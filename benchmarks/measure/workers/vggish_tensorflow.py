"""VGGish as published, written anew: a float64 NumPy front end and a TensorFlow 1 graph in a session.

Per clip, each file is decoded, resampled, framed and run on its own; in batches, examples of several files go through
the session together. As in the original, samples are read as 16-bit integers, and resampling is resampy's where that is
installed; where not, soxr's HQ. Constants that depend on nothing are computed once. Embeddings stay in memory: nothing
is written.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence

from measure.protocol import Operations, Reply, serve, timed

RATE_HZ = 16_000
WINDOW, HOP, FFT = 400, 160, 512
NUM_MEL, FMIN_HZ, FMAX_HZ = 64, 125.0, 7500.0
LOG_OFFSET = 0.01
FRAMES = 96
BATCH = 32


def load(*, threads: int, arrays: str, checkpoint: str) -> Operations:
    began = time.perf_counter()
    import numpy as np
    import soundfile
    import tensorflow as tf

    resample, resampler = _resampler()
    import_s = time.perf_counter() - began
    v1 = tf.compat.v1

    def mel(hz: np.ndarray | float) -> np.ndarray:
        return 1127.0 * np.log(1.0 + np.asarray(hz) / 700.0)

    window = 0.5 - 0.5 * np.cos(2 * np.pi / WINDOW * np.arange(WINDOW))
    bins = mel(np.linspace(0.0, RATE_HZ / 2, FFT // 2 + 1))[:, np.newaxis]
    edges = np.linspace(mel(FMIN_HZ), mel(FMAX_HZ), NUM_MEL + 2)
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    mel_weights = np.maximum(0.0, np.minimum(rising, falling))
    mel_weights[0] = 0.0

    def windows(array: np.ndarray, length: int, hop: int) -> np.ndarray:
        count = max(0, 1 + (len(array) - length) // hop)
        shape = (count, length, *array.shape[1:])
        return np.lib.stride_tricks.as_strided(array, shape, (array.strides[0] * hop, *array.strides))

    def examples_of(file: str) -> np.ndarray:
        samples, rate = soundfile.read(file, dtype="int16")
        waveform = samples / 32768.0
        if waveform.ndim > 1:
            waveform = np.mean(waveform, axis=1)
        if rate != RATE_HZ:
            waveform = resample(waveform, rate, RATE_HZ)
        spectrum = np.abs(np.fft.rfft(windows(waveform, WINDOW, HOP) * window, FFT))
        return windows(np.log(np.dot(spectrum, mel_weights) + LOG_OFFSET), FRAMES, FRAMES)

    def variable(name: str, shape: Sequence[int]) -> tf.Variable:
        return v1.get_variable(f"vggish/{name}", shape, initializer=v1.zeros_initializer(), use_resource=False)

    def conv(net: tf.Tensor, name: str, channels: int) -> tf.Tensor:
        weights = variable(f"{name}/weights", (3, 3, net.shape[-1], channels))
        summed = tf.nn.conv2d(net, weights, strides=1, padding="SAME")
        return tf.nn.relu(tf.nn.bias_add(summed, variable(f"{name}/biases", (channels,))))

    def pool(net: tf.Tensor) -> tf.Tensor:
        return tf.nn.max_pool2d(net, 2, 2, "SAME")

    def dense(net: tf.Tensor, name: str, width: int) -> tf.Tensor:
        weights = variable(f"{name}/weights", (net.shape[-1], width))
        return tf.nn.bias_add(tf.matmul(net, weights), variable(f"{name}/biases", (width,)))

    graph = tf.Graph()
    config = v1.ConfigProto(intra_op_parallelism_threads=threads, inter_op_parallelism_threads=1)
    with graph.as_default():
        session = v1.Session(graph=graph, config=config)
        features = v1.placeholder(tf.float32, (None, FRAMES, NUM_MEL))
        net = tf.reshape(features, (-1, FRAMES, NUM_MEL, 1))
        net = pool(conv(net, "conv1", 64))
        net = pool(conv(net, "conv2", 128))
        net = pool(conv(conv(net, "conv3/conv3_1", 256), "conv3/conv3_2", 256))
        net = pool(conv(conv(net, "conv4/conv4_1", 512), "conv4/conv4_2", 512))
        net = tf.reshape(net, (-1, 6 * 4 * 512))
        net = tf.nn.relu(dense(net, "fc1/fc1_1", 4096))
        net = tf.nn.relu(dense(net, "fc1/fc1_2", 4096))
        embedding = dense(net, "fc2", 128)
        saver = v1.train.Saver()
        if os.path.exists(f"{checkpoint}.index"):
            saver.restore(session, checkpoint)
        else:
            with np.load(arrays, allow_pickle=False) as given:
                for each in v1.global_variables():
                    feed = v1.placeholder(tf.float32, each.shape)
                    session.run(v1.assign(each, feed), {feed: given[each.op.name.replace("/", "|")]})
            saver.save(session, checkpoint, write_meta_graph=False)
    load_s = time.perf_counter() - began - import_s

    def run(examples: np.ndarray) -> np.ndarray:
        found: np.ndarray = session.run(embedding, {features: examples})
        return found

    def clip_by_clip(files: Sequence[str]) -> Iterator[np.ndarray]:
        for file in files:
            yield run(examples_of(file))

    def in_batches(files: Sequence[str]) -> Iterator[np.ndarray]:
        waiting: list[np.ndarray] = []
        for number, file in enumerate(files, 1):
            waiting.extend(examples_of(file))
            while len(waiting) >= BATCH or (waiting and number == len(files)):
                yield run(np.stack(waiting[:BATCH]))
                del waiting[:BATCH]

    def first(file: str) -> Reply:
        return {"embeddings": sum(map(len, clip_by_clip([file]))), "import_s": import_s, "load_s": load_s}

    def whole(files: Sequence[str], out: str, batched: bool) -> Reply:
        values: list[np.ndarray] = []
        measured = timed(lambda: values.extend((in_batches if batched else clip_by_clip)(files)))
        return {**measured, "embeddings": sum(map(len, values)), "resampler": resampler}

    def embed(files: Sequence[str], out: str) -> Reply:
        values = list(clip_by_clip(files))
        np.save(out, np.concatenate(values))
        return {"counts": [len(each) for each in values]}

    return {"first": first, "whole": whole, "embed": embed}


def _resampler() -> tuple[Callable[..., object], str]:
    try:
        import resampy
    except ImportError:
        import soxr

        return lambda waveform, rate, to: soxr.resample(waveform, rate, to, quality="HQ"), "soxr HQ"
    return resampy.resample, "resampy"


if __name__ == "__main__":
    serve(load)

"""torchvggish as its README uses it: one file at a time through its front end and network; nothing is written."""

from __future__ import annotations

import time
from collections.abc import Sequence

from measure.protocol import Operations, Reply, serve, timed

LAYERS = (
    "conv1",
    "conv2",
    "conv3/conv3_1",
    "conv3/conv3_2",
    "conv4/conv4_1",
    "conv4/conv4_2",
    "fc1/fc1_1",
    "fc1/fc1_2",
    "fc2",
)


def load(*, threads: int, arrays: str) -> Operations:
    began = time.perf_counter()
    from torchvggish import torchvggish, vggish_input  # first, because it is what is missing where something is

    # isort: split
    import numpy as np
    import torch

    import_s = time.perf_counter() - began
    torch.set_num_threads(threads)
    # `vggish()` would download the weights; the network behind it takes any.
    network = torchvggish._vgg(postprocess=False)
    modules = [each for each in network.modules() if isinstance(each, (torch.nn.Conv2d, torch.nn.Linear))]
    with np.load(arrays, allow_pickle=False) as given:
        for module, layer in zip(modules, LAYERS, strict=True):
            weights = torch.from_numpy(given[_key(layer, "weights")])
            values = {
                "weight": weights.permute(3, 2, 0, 1) if weights.ndim == 4 else weights.T,
                "bias": torch.from_numpy(given[_key(layer, "biases")]),
            }
            module.load_state_dict(values)
    network.eval()
    load_s = time.perf_counter() - began - import_s

    def run(file: str) -> np.ndarray:
        with torch.no_grad():
            found: np.ndarray = network(vggish_input.wavfile_to_examples(file)).numpy()
        return found

    def first(file: str) -> Reply:
        return {"embeddings": len(run(file)), "import_s": import_s, "load_s": load_s}

    def whole(files: Sequence[str], out: str) -> Reply:
        values: list[np.ndarray] = []
        measured = timed(lambda: values.extend(map(run, files)))
        return {**measured, "embeddings": sum(map(len, values)), "resampler": "resampy"}

    def embed(files: Sequence[str], out: str) -> Reply:
        values = [run(file) for file in files]
        np.save(out, np.concatenate(values))
        return {"counts": [len(each) for each in values]}

    return {"first": first, "whole": whole, "embed": embed}


def _key(layer: str, name: str) -> str:
    return f"vggish/{layer}/{name}".replace("/", "|")


if __name__ == "__main__":
    serve(load)

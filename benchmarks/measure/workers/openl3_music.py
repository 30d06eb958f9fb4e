"""openl3 (music, mel256, 512-d) through its own functions: another network, one row a second; nothing is written."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from measure.protocol import Operations, Reply, serve, timed

HOP_S = 1.0  # its default of 0.1 would be ten times the work of a VGGish of 0.96


def load(*, threads: int) -> Operations:
    began = time.perf_counter()
    import openl3  # first, because it is what is missing where something is
    import soundfile
    import tensorflow as tf

    import_s = time.perf_counter() - began
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    model = openl3.models.load_audio_embedding_model(input_repr="mel256", content_type="music", embedding_size=512)
    load_s = time.perf_counter() - began - import_s

    def run(files: Sequence[str]) -> list[Any]:
        sounds = [soundfile.read(file, dtype="float32") for file in files]
        waveforms, rates = map(list, zip(*sounds, strict=True))
        found, _ = openl3.get_audio_embedding(waveforms, rates, model=model, hop_size=HOP_S, batch_size=32, verbose=0)
        rows: list[Any] = found
        return rows

    def first(file: str) -> Reply:
        return {"embeddings": sum(map(len, run([file]))), "import_s": import_s, "load_s": load_s}

    def whole(files: Sequence[str], out: str) -> Reply:
        count = 0

        def job() -> None:
            nonlocal count
            for at in range(0, len(files), 32):  # it holds all that it is given
                count += sum(map(len, run(files[at : at + 32])))

        measured = timed(job)
        return {**measured, "embeddings": count, "resampler": "resampy"}

    return {"first": first, "whole": whole}


if __name__ == "__main__":
    serve(load)

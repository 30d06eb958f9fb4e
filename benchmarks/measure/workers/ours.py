"""This package, as a worker: whole jobs, the network alone, everything but the network, and the first embedding."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from measure.protocol import NotAvailableError, Operations, Reply, serve, timed

if TYPE_CHECKING:
    from audioset.records import JobInfo


def load(*, threads: int, model: str, weights: str | None, options: Mapping[str, Any]) -> Operations:
    began = time.perf_counter()
    import numpy as np

    import audioset
    import audioset.embed

    import_s = time.perf_counter() - began
    warnings.simplefilter("ignore")
    loaded = audioset.load(model, weights, threads=threads, **options)
    load_s = time.perf_counter() - began - import_s
    if options["engine"] not in sys.modules:  # the name of an engine is that of its module
        raise NotAvailableError(f"loaded without importing {options['engine']}: something else would be measured")
    held: list[np.ndarray] = []

    def writer_info() -> JobInfo:
        from audioset.records import JobInfo

        return JobInfo(
            model=loaded.name,
            weights_name=loaded.weights.name,
            weights_sha256=loaded.weights.sha256,
            embedding_dim=loaded.spec.embedding_dim,
            dtype="float32",
            regime="raw",
            hop_s=loaded.spec.hop_s,
            pad=loaded.spec.pad,
            pool="none",
        )

    def first(file: str) -> Reply:
        """One file, straight after loading."""
        return {"embeddings": len(loaded.embed(file)), "import_s": import_s, "load_s": load_s}

    def whole(files: Sequence[str], out: str) -> Reply:
        """From files to a finished Parquet file."""
        rows = 0

        def job() -> None:
            nonlocal rows
            from audioset.records import open_writer

            with open_writer(Path(out), writer_info(), overwrite=True) as writer:
                for block in loaded.embed_blocks(((file, None) for file in files), audioset.EmbedOptions()):
                    if block.error is not None:
                        raise block.error
                    writer.append(files[block.index], block.start_s, block.end_s, block.values, last=block.last)
                    rows += len(block.values)
                writer.finish()

        return {**timed(job), "embeddings": rows}

    def around(files: Sequence[str], out: str) -> Reply:
        """Everything but the network, on one thread: decode, resample, front end, Parquet."""
        from audioset import audio, features
        from audioset.records import open_writer

        rng = np.random.default_rng(0)
        spec = loaded.spec

        def job() -> None:
            with open_writer(Path(out), writer_info(), overwrite=True) as writer:
                for file in files:
                    parts = features.stream_examples(
                        audio.stream(file), hop_s=spec.hop_s, pad=spec.pad, log_offset=spec.log_offset
                    )
                    rows = sum(len(part) for part in parts)
                    start_s, _, end_s = features.example_times(rows, hop_s=spec.hop_s)
                    values = rng.standard_normal((rows, spec.embedding_dim), np.float32)
                    writer.append(file, start_s, end_s, values, last=True)
                writer.finish()

        return timed(job)

    def hold(files: Sequence[str], at_most: int) -> Reply:
        """Take examples into memory, for `network`."""
        from audioset import audio, features

        spec = loaded.spec
        held.clear()
        missing = at_most
        for file in files:
            parts = features.stream_examples(
                audio.stream(file), hop_s=spec.hop_s, pad=spec.pad, log_offset=spec.log_offset
            )
            for part in parts:
                held.append(part[:missing])
                missing -= len(held[-1])
            if not missing:
                break
        held[:] = [np.concatenate(held)]
        return {"examples": len(held[0])}

    def network(batch: int | None = None, at_least_s: float = 0.0, count: int | None = None) -> Reply:
        """The network on examples in memory: batches and threads as in a whole job."""
        examples = held[0] if count is None else np.resize(held[0], (count, *held[0].shape[1:]))
        size = batch or loaded.batch_size
        batches = [examples[at : at + size] for at in range(0, len(examples), size)]
        run = loaded._network.run
        if threads == 1:
            measured = timed(lambda: [run(each) for each in batches], at_least_s)
        else:
            with ThreadPoolExecutor(threads) as pool:
                measured = timed(lambda: list(pool.map(run, batches)), at_least_s)
        return {**measured, "examples": len(examples)}

    def embed(files: Sequence[str], out: str) -> Reply:
        """Values to compare: `out` gets them, all files' one after another."""
        values = [result.values for result in loaded.embed_files(files)]
        np.save(out, np.concatenate(values))
        return {"counts": [len(each) for each in values]}

    return {
        "first": first,
        "whole": whole,
        "around": around,
        "hold": hold,
        "network": network,
        "embed": embed,
    }


if __name__ == "__main__":
    serve(load)

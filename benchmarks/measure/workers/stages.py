"""The stages around the network, one at a time on one thread."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from measure.protocol import Operations, Reply, serve, timed


def load(*, threads: int) -> Operations:
    assert threads == 1
    import numpy as np
    import soundfile

    from audioset import audio, features, models
    from audioset._decode import open_decoder
    from audioset.records import JobInfo, open_writer

    rng = np.random.default_rng(0)

    def decode(files: Sequence[str], at_least_s: float) -> Reply:
        """Files to mono float32 at their own rate."""
        total_s = 0.0

        def job() -> None:
            nonlocal total_s
            total_s = 0.0
            for file in files:
                with open_decoder(file) as decoder:
                    total_s += sum(len(block) for block in decoder.blocks(0, None)) / decoder.sample_rate

        return {**timed(job, at_least_s), "audio_s": total_s}

    def resample(file: str, rate: int, at_least_s: float) -> Reply:
        """Mono float32 at `rate` to 16 kHz, from memory; the samples are the file's, whatever its rate."""
        waveform, _ = soundfile.read(file, dtype="float32")
        measured = timed(lambda: audio.read(waveform, rate), at_least_s)
        return {**measured, "audio_s": len(waveform) / rate}

    def log_mel(file: str, model: str, at_least_s: float) -> Reply:
        """16 kHz to examples."""
        waveform = audio.read(file)
        spec = models.get(model)
        measured = timed(
            lambda: features.examples(waveform, hop_s=spec.hop_s, pad=spec.pad, log_offset=spec.log_offset),
            at_least_s,
        )
        return {**measured, "audio_s": len(waveform) / features.SAMPLE_RATE_HZ}

    def parquet(model: str, num_files: int, rows_a_file: int, out: str, at_least_s: float) -> Reply:
        """Embeddings of many files to a finished Parquet file."""
        spec = models.get(model)
        info = JobInfo(
            model=spec.name,
            weights_name="none",
            weights_sha256="",
            embedding_dim=spec.embedding_dim,
            dtype="float32",
            regime="raw",
            hop_s=spec.hop_s,
            pad=spec.pad,
            pool="none",
        )
        values = rng.standard_normal((rows_a_file, spec.embedding_dim), np.float32)
        start_s, _, end_s = features.example_times(rows_a_file, hop_s=spec.hop_s)

        def job() -> None:
            with open_writer(Path(out), info, overwrite=True) as writer:
                for number in range(num_files):
                    writer.append(f"{number}.wav", start_s, end_s, values, last=True)
                writer.finish()

        return {**timed(job, at_least_s), "audio_s": num_files * rows_a_file * spec.hop_s}

    return {"decode": decode, "resample": resample, "log_mel": log_mel, "parquet": parquet}


if __name__ == "__main__":
    serve(load)

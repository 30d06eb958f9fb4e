"""How much longer embedding files takes than the network alone, on the same examples and threads; and peak memory.

    python benchmarks/end_to_end.py FOLDER [--weights untrained:0] [--threads N] [--repeats 5] [--json OUT]

Each repeat times, one after the other: the network on examples that are already in memory, and the whole job (decode,
resample, front end, network, Parquet) as `audioset embed` runs it. Their ratio is taken within a repeat, so that a
machine whose speed drifts does not decide it; medians are printed.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import audioset
from audioset import audio, features
from audioset.inputs import expand


def network_alone(model: audioset.Model, examples: np.ndarray) -> float:
    """Seconds for all examples, in the batches and threads that the engine uses."""
    batches = [examples[at : at + model.batch_size] for at in range(0, len(examples), model.batch_size)]
    with ThreadPoolExecutor(model.threads) as pool:
        began = time.perf_counter()
        list(pool.map(model._network.run, batches))
        return time.perf_counter() - began


def whole_job(model: audioset.Model, files: tuple[str, ...], out: Path) -> float:
    """Seconds from files to a finished Parquet file, the model being loaded."""
    from audioset.records import JobInfo, open_writer

    info = JobInfo(
        model=model.name,
        weights_name=model.weights.name,
        weights_sha256=model.weights.sha256,
        embedding_dim=model.spec.embedding_dim,
        dtype="float32",
        regime="raw",
        hop_s=model.spec.hop_s,
        pad=model.spec.pad,
        pool="none",
    )
    began = time.perf_counter()
    with open_writer(out, info, overwrite=True) as writer:
        for block in model.embed_blocks(((file, None) for file in files), audioset.EmbedOptions()):
            writer.append(files[block.index], block.start_s, block.end_s, block.values, last=block.last)
        writer.finish()
    return time.perf_counter() - began


def command(arguments: list[str]) -> tuple[float, float]:
    """Seconds and peak RSS (MB) of one `audioset` process."""
    began = time.perf_counter()
    # Linux's ru_maxrss would count the memory of this process too, from before the new one took its own.
    code = (
        "import pathlib, re, resource, sys; from audioset.cli import main\n"
        "try: main()\n"
        "finally:\n"
        "    status = pathlib.Path('/proc/self/status')\n"
        "    peak = re.search(r'VmHWM:\\s+(\\d+)', status.read_text())[1] if status.exists() else \\\n"
        "        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "    print(peak, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return time.perf_counter() - began, int(done.stderr.split()[-1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="folder of recordings")
    parser.add_argument("--model", default="vggish")
    parser.add_argument("--weights", help="a path or untrained:SEED; the published or built-in ones by default")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    warnings.simplefilter("ignore")
    files = expand([options.folder]).files
    model = audioset.load(options.model, options.weights, threads=options.threads)
    waveforms = [audio.read(file) for file in files]
    audio_s = sum(map(len, waveforms)) / features.SAMPLE_RATE_HZ
    examples = np.concatenate(
        [
            features.examples(waveform, hop_s=model.spec.hop_s, pad=model.spec.pad, log_offset=model.spec.log_offset)
            for waveform in waveforms
        ]
    )
    model._network.run(examples[: model.batch_size])
    alone, whole = [], []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out.parquet")
        for _ in range(options.repeats):
            alone.append(network_alone(model, examples))
            whole.append(whole_job(model, files, out))
        process_s, peak_mb = command(
            ["embed", options.folder, "-o", str(out), "--overwrite", "-m", options.model]
            + (["--weights", options.weights] if options.weights else [])
            + (["--threads", str(options.threads)] if options.threads else [])
        )
    ratio = statistics.median(job / network for job, network in zip(whole, alone, strict=True))
    result = {
        "machine": f"{platform.machine()}, {model.threads} threads",
        "model": model.name,
        "files": len(files),
        "examples": len(examples),
        "audio_s": round(audio_s, 1),
        "network_alone_s": round(statistics.median(alone), 3),
        "whole_job_s": round(statistics.median(whole), 3),
        "ratio": round(ratio, 3),
        "times_real_time": round(audio_s / statistics.median(whole), 1),
        "process_s": round(process_s, 3),
        "process_peak_rss_mb": round(peak_mb),
        "this_peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    for name, value in result.items():
        print(f"{name:>20}  {value}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""How fast released features are read, converted and given in batches on one core, beside TensorFlow; and peak memory.

    python benchmarks/features.py [--megabytes 200] [--repeats 5] [--tensorflow PYTHON] [--json OUT]

Shards are made in a temporary folder as the released ones are: 132 clips each, nearly all of ten frames, bytes as
spread and as hard to compress. Each repeat runs every job once, in a process of its own that may use one core only;
what is timed starts after the imports, with the files in the page cache. Rates are of TFRecord bytes before any
compression, also by the seconds on the processor, which other programs disturb less. For random batches of
the converted file every clip is asked for once, and rates are of the embeddings they hold; the file is mapped anew, so
that these include the faults of its pages. Ratios are taken within a repeat,
so that a machine whose speed drifts does not decide them; medians are printed. `--tensorflow` names a Python
interpreter that has TensorFlow, which then reads the same shards with `tf.data.TFRecordDataset` and
`tf.io.parse_single_sequence_example`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np

from audioset.dataset.convert import convert_features
from audioset.dataset.features import EMBEDDING_DIM

RECORDS_A_SHARD = 132
ORDERS = (  # of the context, as in the released files
    ("video_id", "start_time_seconds", "labels", "end_time_seconds"),
    ("start_time_seconds", "labels", "end_time_seconds", "video_id"),
)

# Each job defines `run()`, which takes `source` and `folder` (for outputs) and returns the frames that it has seen.
PRELUDE = """
import os, sys
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
source, folder = sys.argv[1:]
"""
FINALE = """
import json, re, time, pathlib
began, cpu_began = time.perf_counter(), time.process_time()
seen = run()
seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
status = pathlib.Path("/proc/self/status")
peak = int(re.search(r"VmHWM:\\s+(\\d+)", status.read_text())[1]) / 1024 if status.exists() else None
print(json.dumps([seconds, cpu_seconds, peak, seen]))
"""
CRC = """
import glob, google_crc32c
def run():
    for file in glob.glob(source + "/*"):
        data = open(file, "rb").read()
        for at in range(0, len(data), 1500):
            google_crc32c.value(data[at : at + 1500])
"""
GUNZIP = """
import zlib
def run():
    unzip = zlib.decompressobj(wbits=31)
    with open(source, "rb") as file:
        while piece := file.read(1 << 15):
            unzip.decompress(piece)
"""
BATCHES = """
import pyarrow.compute as pc
from audioset.dataset.features import read_feature_batches
def run():
    return sum(pc.sum(batch["num_frames"]).as_py() for batch in read_feature_batches(source))
"""
RECORDS = """
from audioset.dataset.features import read_features
def run():
    return sum(len(record.embedding) for record in read_features(source))
"""
CONVERT = """
import pyarrow.parquet
from audioset.dataset.convert import convert_features
def run():
    convert_features(source, folder + "/out.{suffix}", overwrite=True)
"""
DATASET = """
import numpy as np
from audioset.dataset.feature_dataset import FeatureDataset
def run():
    dataset = FeatureDataset(source)
    order = np.random.default_rng(0).permutation(len(dataset))
    return sum(int(dataset.batch(order[at : at + {size}]).num_frames.sum()) for at in range(0, len(order), {size}))
"""
TENSORFLOW = """
import glob
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import tensorflow as tf
number = tf.io.FixedLenFeature([], tf.float32)
context = {"video_id": tf.io.FixedLenFeature([], tf.string), "labels": tf.io.VarLenFeature(tf.int64),
           "start_time_seconds": number, "end_time_seconds": number}
lists = {"audio_embedding": tf.io.FixedLenSequenceFeature([], tf.string)}
def frames(record):
    _, sequences = tf.io.parse_single_sequence_example(record, context, lists)
    return tf.io.decode_raw(sequences["audio_embedding"], tf.uint8)
def run():
    records = tf.data.TFRecordDataset(sorted(glob.glob(source + "/*"))).map(frames)
    return int(records.reduce(0, lambda count, each: count + tf.shape(each)[0]))
"""


def write_shards(folder: Path, megabytes: int) -> int:
    """Shards of the released layout; returns their bytes."""
    from audioset.records.tfrecord import audio_record, write_record

    rng = np.random.default_rng(0)
    folder.mkdir()
    total = shards = 0
    while total < megabytes * 1_000_000:
        path = folder / f"{shards:05d}.tfrecord"
        with path.open("wb") as stream:
            for index in range(RECORDS_A_SHARD):
                num_frames = int(rng.integers(1, 10)) if rng.random() < 7 / 975 else 10
                frames = np.clip(rng.normal(127.5, 90, (num_frames, 128)), 0, 255).astype(np.uint8)
                labels = np.sort(rng.choice(527, min(8, rng.geometric(0.5)), replace=False)).tolist()
                data = audio_record(f"{shards:05d}_{index:05d}", 30, 30 + num_frames, frames, labels)
                write_record(stream, reordered(data, ORDERS[index % 2]))
        total += path.stat().st_size
        shards += 1
    return total


def reordered(data: bytes, order: tuple[str, ...]) -> bytes:
    """The record with its context in this order."""
    from audioset._protobuf import as_bytes, as_text, fields
    from audioset.records.tfrecord import message

    (_, context), *rest = fields(memoryview(data))
    entries = {}
    for _, entry in fields(as_bytes(context)):
        entries[as_text(dict(fields(as_bytes(entry)))[1])] = message(1, bytes(as_bytes(entry)))
    moved = b"".join(entries[key] for key in order)
    return message(1, moved) + b"".join(message(number, bytes(as_bytes(value))) for number, value in rest)


def job(interpreter: str, code: str, source: Path, folder: Path) -> tuple[float, float, float | None, int | None]:
    """Seconds, of them on the processor, peak RSS (MB) and frames seen."""
    command = [interpreter, "-c", PRELUDE + code + FINALE, str(source), str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ARROW_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(done.stderr)
    seconds, cpu_seconds, peak_mb, seen = json.loads(done.stdout.splitlines()[-1])
    return seconds, cpu_seconds, peak_mb, seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tensorflow", metavar="PYTHON", help="an interpreter that has TensorFlow, to compare with")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shards, archive = folder / "shards", folder / "features.tar.gz"
        num_bytes = write_shards(shards, options.megabytes)
        with tarfile.open(archive, "w:gz", compresslevel=6) as tar:
            tar.add(shards, "audioset_v1_embeddings")
        jobs = {
            "crc32c alone": (sys.executable, CRC, shards),
            "gunzip alone": (sys.executable, GUNZIP, archive),
            "batches, shards": (sys.executable, BATCHES, shards),
            "batches, tar.gz": (sys.executable, BATCHES, archive),
            "records, shards": (sys.executable, RECORDS, shards),
        }
        for suffix in ("arrow", "parquet"):
            code = CONVERT.replace("{suffix}", suffix)
            jobs[f"convert to {suffix}, shards"] = (sys.executable, code, shards)
            jobs[f"convert to {suffix}, tar.gz"] = (sys.executable, code, archive)
        convert_features(shards, folder / "all.arrow")
        by_index = {f"random batches of {size}": size for size in (64, 256, 1024)}
        for title, size in by_index.items():
            jobs[title] = (sys.executable, DATASET.replace("{size}", str(size)), folder / "all.arrow")
        if options.tensorflow:
            jobs["TensorFlow, shards"] = (options.tensorflow, TENSORFLOW, shards)
        runs = [
            {title: job(interpreter, code, source, folder) for title, (interpreter, code, source) in jobs.items()}
            for _ in range(options.repeats)
        ]
        ratio_of_gzip = archive.stat().st_size / num_bytes

    seen = {found for run in runs for *_, found in run.values() if found is not None}
    assert len(seen) == 1, f"the jobs saw different numbers of frames: {seen}"
    num_frames = seen.pop()
    result: dict[str, object] = {
        "machine": platform.machine(),
        "tfrecord_mb": round(num_bytes / 1e6, 1),
        "compressed_to": round(ratio_of_gzip, 3),
        "frames": num_frames,
    }
    reference = "TensorFlow, shards" if options.tensorflow else None
    for title in jobs:
        done = num_frames * EMBEDDING_DIM if title in by_index else num_bytes
        result[title] = {
            "mb_per_s": round(done / 1e6 / statistics.median(run[title][0] for run in runs)),
            "mb_per_cpu_s": round(done / 1e6 / statistics.median(run[title][1] for run in runs)),
            "peak_rss_mb": round(statistics.median(run[title][2] or 0 for run in runs)),
        }
        if reference:
            times = statistics.median(run[reference][0] / run[title][0] for run in runs)
            result[title]["times_tensorflow"] = round(times, 2)  # type: ignore[index]
    for title, value in result.items():
        print(f"{title:>28}  {value}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

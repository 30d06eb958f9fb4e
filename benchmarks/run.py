"""Measure this package on the recordings in a folder: stages, whole jobs, start-up, memory, and how they grow.

    python benchmarks/run.py FOLDER -o results --weights vggish=untrained:0
    python benchmarks/run.py FOLDER -o results --models vggish --tensorflow PYTHON --torchvggish PYTHON

Every model is measured in every precision on every engine; what cannot be is listed with the reason. Whatever is
compared takes turns (A B C A B C …), each in a process of its own, on the same cores and with as many threads; a first
round warms up, and ratios are taken within a round, so that a machine whose speed drifts does not decide them. Beside
seconds stand core seconds (user and system, of all threads), which other programs disturb less.

--tensorflow, --torchvggish and --openl3 name Python interpreters that have these, to compare with. For TensorFlow the
published VGGish is written anew (benchmarks/measure/workers/vggish_tensorflow.py), with the same weights, so that
embeddings are to agree. openl3 is another network. They keep embeddings in memory, this package also writes Parquet.

The table goes to standard output; results.json and results.png into the folder that -o names.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from audioset.embed import available_cores
from measure import end_to_end, growth, setting, sounds, stages, startup
from measure.configurations import COMPARED, ENGINES, PRECISIONS, Other, configurations, prepared_weights, write_arrays
from measure.machine import describe
from measure.picture import draw
from measure.protocol import NotAvailableError
from measure.report import report

MODELS = ("vggish", "mini", "yamnet")
SECTIONS = {
    "end_to_end": end_to_end.measure,  # first, because it finds out what is not what it is called
    "stages": stages.measure,
    "startup": startup.measure,
    "growth": growth.measure,
}


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    # Of the last minute, before anything is started here: what other programs take.
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    cores = min(options.threads or available_cores(), available_cores())
    extent = (setting.quick if options.quick else setting.full)(options.repeats, options.long_hours)
    options.out.mkdir(parents=True, exist_ok=True)
    print("reading the files once", file=sys.stderr)
    files, audio_s, left_out = sounds.readable(options.folder)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = prepared_weights(options.weights, options.models, folder)
        here = setting.Setting(
            files=files,
            audio_s=audio_s,
            sound=sounds.loop(files),
            cores=cores,
            extent=extent,
            folder=folder,
            ours=configurations(options.models, weights, options.precisions, options.engines),
            others=[],
        )
        here.others = _others(options, here, weights)
        result: dict[str, Any] = {
            "layout": 1,
            "machine": describe(),
            "inputs": {"files": len(files), "audio_s": round(audio_s, 2), "left_out": len(left_out)},
            "settings": {
                "threads": cores,
                "repeats": extent.repeats,
                "quick": options.quick,
                "load_before": load,
                "weights": {model: _kind(options.weights.get(model)) for model in options.models},
            },
        }
        for section in (name for name in SECTIONS if name in options.sections):
            result[section] = SECTIONS[section](here)
            result["not_available"] = [{"name": what, "why": why} for what, why in here.not_available.items()]
            # After every section, so that hours of measuring are not lost with the last.
            text = _without_places(json.dumps(result, indent=1, ensure_ascii=False), options, folder)
            (options.out / "results.json").write_text(text + "\n", encoding="utf-8")
    result = json.loads(text)
    print(report(result))
    draw(result, options.out / "results.png")


def _without_places(text: str, options: argparse.Namespace, folder: Path) -> str:
    """Reasons may name files and interpreters: their names are kept, where they lie is not."""
    given = (folder, options.folder, options.tensorflow, options.torchvggish, options.openl3, *options.weights.values())
    for place in map(str, filter(None, given)):
        if os.sep in place:
            text = text.replace(place, Path(place).name)
    return text


def _kind(weights: str | None) -> str:
    """What weights they are, without telling where they lie."""
    if weights is None:
        return "published"
    return weights if weights.startswith("untrained:") else Path(weights).name


def _others(options: argparse.Namespace, here: setting.Setting, weights: dict[str, str]) -> list[Other]:
    arrays = here.folder / "vggish.npz"
    ours = {"arrays": str(arrays)}
    known = {
        "tensorflow": Other(
            "TensorFlow",
            "measure.workers.vggish_tensorflow",
            options.tensorflow,
            {**ours, "checkpoint": str(here.folder / "vggish.ckpt")},
            {"clip by clip": {"batched": False}, "batches of 32": {"batched": True}},
        ),
        "torchvggish": Other(
            "torchvggish", "measure.workers.vggish_torchvggish", options.torchvggish, ours, agrees_with="relu"
        ),
        "openl3": Other("openl3", "measure.workers.openl3_music", options.openl3, {}, agrees_with=None),
    }
    wanted = [other for name, other in known.items() if getattr(options, name)]
    if wanted and COMPARED in options.models:
        try:
            write_arrays(weights.get(COMPARED), arrays)
        except NotAvailableError as error:
            for other in wanted:
                here.lacks(other.name, str(error))
    return wanted


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="folder of recordings")
    parser.add_argument("-o", "--out", type=Path, default=Path("build/benchmarks"), help="default: %(default)s")
    parser.add_argument("--models", type=_several(), default=list(MODELS), help="default: " + ",".join(MODELS))
    parser.add_argument(
        "--weights", nargs="+", default=[], metavar="MODEL=WEIGHTS", help="a path or untrained:SEED, for each model"
    )
    for name, every in (("precisions", PRECISIONS), ("engines", ENGINES), ("sections", tuple(SECTIONS))):
        parser.add_argument(f"--{name}", type=_several(every), default=list(every), help="default: " + ",".join(every))
    for name in ("tensorflow", "torchvggish", "openl3"):
        parser.add_argument(f"--{name}", metavar="PYTHON", help=f"an interpreter that has {name}, to compare with")
    parser.add_argument("--threads", type=int, help="cores to use, for all; default: all")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--long-hours", type=float, default=1.0, help="length of the long file; default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="little of everything, to see that it works")
    options = parser.parse_args(arguments)
    if options.repeats < 1 or options.long_hours <= 0 or (options.threads is not None and options.threads < 1):
        parser.error("--repeats, --threads and --long-hours must be above 0")
    if importlib.util.find_spec("matplotlib") is None:
        parser.error(
            "matplotlib is not installed; expected it for results.png. Install it with `pip install matplotlib`"
        )
    pairs = [each.partition("=")[::2] for each in options.weights]
    if bad := [model for model, weights in pairs if not weights or model not in options.models]:
        parser.error(f"--weights: {bad[0]!r}; expected MODEL=WEIGHTS with MODEL of {','.join(options.models)}")
    options.weights = dict(pairs)
    return options


def _several(known: Sequence[str] = ()) -> Any:
    def parse(text: str) -> list[str]:
        names = list(dict.fromkeys(name.replace("-", "_") for name in text.split(",")))
        for name in names:
            if known and name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is unknown; expected some of {','.join(known)}")
        return names

    return parse


if __name__ == "__main__":
    main()

"""Train the heads of AudioSet's papers on the released features, and print our figures beside the published ones.

    python recipes/audioset/run.py feature_attention --data FOLDER -o OUT

Rows are the names of the YAML files beside this one; several may be given. FOLDER has `features.tar.gz`, or nothing:
then it is fetched into the cache. It is converted there once, to `train.arrow` and `eval.arrow`; where these exist
(`stand_in.py` makes such files) nothing else is needed. Options that are not listed go to `audioset train`, such as
`--devices 2`. Everything goes on where it was stopped, and what is finished is kept.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
# mAP, AUC and d' on the evaluation segments, trained on all others: README of qiuqiangkong/audioset_classification.
PUBLISHED = {
    "average": (0.300, 0.964, 2.536),
    "max": (0.292, 0.960, 2.471),
    "single_attention": (0.337, 0.968, 2.612),
    "multi_attention": (0.357, 0.968, 2.621),
    "feature_attention": (0.361, 0.969, 2.641),
}
STAND_IN = "stand_in.txt"  # beside what stand_in.py wrote
# What may differ from the recipe without a word, or has one of its own.
NO_SETTINGS = {"seed", "precision", "patience", "epochs", "epoch_steps"}
SPLITS = {
    "train": ("bal_train/*", "unbal_train/*"),
    "bal_train": ("bal_train/*",),
    "eval": ("eval/*",),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], epilog="Other options go to `audioset train`."
    )
    parser.add_argument("rows", nargs="+", choices=PUBLISHED, metavar="ROW", help=", ".join(PUBLISHED))
    parser.add_argument("--data", type=Path, required=True, help="folder of the features; see above")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder for heads, reports and figures")
    parser.add_argument("--balanced-only", action="store_true", help="train on the balanced segments alone")
    given, others = parser.parse_known_args()
    try:
        for name in ("bal_train" if given.balanced_only else "train", "eval"):
            convert(given.data, name)
        for row in given.rows:
            print(run(row, given.data, given.out, others, balanced_only=given.balanced_only), flush=True)
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)  # it has said why
    except KeyboardInterrupt:  # the command had it too
        sys.exit(130)


def convert(data: Path, split: str) -> None:
    """Make one file of a split of the features, unless it is there."""
    target = data / f"{split}.arrow"
    if target.is_file():
        return
    archive = data / "features.tar.gz"
    source = str(archive) if archive.is_file() else audioset("dataset", "fetch", "features").strip()
    only = [word for pattern in SPLITS[split] for word in ("--only", pattern)]
    audioset("dataset", "convert", source, *only, "-o", str(target))


def run(row: str, data: Path, out: Path, others: Sequence[str], *, balanced_only: bool) -> str:
    """Return the figures of a row beside the published ones, after whatever of it is not done yet."""
    name = f"{row}_balanced" if balanced_only else row
    train = "bal_train" if balanced_only else "train"
    head, report, figures = (out / f"{name}{suffix}" for suffix in (".safetensors", ".html", ".json"))
    out.mkdir(parents=True, exist_ok=True)
    if not head.is_file():
        config = HERE / f"{row}.yaml"
        audioset("train", str(data / f"{train}.arrow"), "-c", str(config), "-o", str(head), *others)
    if not figures.is_file():
        evaluated = str(data / "eval.arrow")
        found = audioset("evaluate", str(head), evaluated, "--report", str(report), "--overwrite", "--json")
        figures.write_text(found, encoding="utf-8")
    metrics = json.loads(figures.read_text(encoding="utf-8"))["metrics"]
    ours = [metrics[key]["value"] for key in ("map", "auc", "d_prime")]
    of = "the balanced segments" if balanced_only else "all segments"
    published = "  ".join(f"{value:.3f}" for value in PUBLISHED[row])
    beside = " (trained on all)" if balanced_only else ""
    doubts = doubtful(row, data, head)
    caution = f"\ncaution    not to be compared: {', '.join(doubts)}" if doubts else ""
    return (
        f"{row}, trained on {of}\n"
        "           mAP    AUC    d'\n"
        f"ours       {'  '.join('  –  ' if value is None else f'{value:.3f}' for value in ours)}\n"
        f"published  {published}{beside}{caution}"
    )


def doubtful(row: str, data: Path, head: Path) -> list[str]:
    """Return why the figures of a head say nothing of the published ones, in a few words each."""
    from audioset.cli.train import read_config
    from audioset.train.head import Head

    recipe, used = dataclasses.asdict(read_config(HERE / f"{row}.yaml", {})), Head.load(head).notes["config"]
    steps, wanted = (of["epochs"] * of["epoch_steps"] for of in (used, recipe))
    others = sorted(name for name in recipe.keys() - NO_SETTINGS if used.get(name) != recipe[name])
    found = []
    if (data / STAND_IN).exists():
        found.append("the data are a stand-in")
    if steps < wanted:
        found.append(f"{steps:,} steps instead of {wanted:,}")
    if others:
        found.append(f"other {', '.join(others)}")
    return found


def audioset(*arguments: str) -> str:
    """Show a command line of `audioset`, run it and return what it printed."""
    print(f"$ audioset {shlex.join(arguments)}", file=sys.stderr, flush=True)
    command = shutil.which("audioset", path=sysconfig.get_path("scripts")) or "audioset"
    done = subprocess.run([command, *arguments], stdout=subprocess.PIPE, text=True, encoding="utf-8", check=True)
    return done.stdout


if __name__ == "__main__":
    main()

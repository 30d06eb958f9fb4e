"""How often a tagger has an ESC-10 clip's class among its five highest scores.

    python benchmarks/esc10_top5.py ESC10 [--model yamnet] [--weights FILE] [--json OUT]

ESC10 is a folder with a folder of clips for each class. ESC-10's classes are not AudioSet's: a clip counts as found if
any of the names below is among the five classes that score highest on average over the clip, or at their peaks: many
clips are silent for the most part. Only names that mean the class's own sound or its source are accepted; none so
general as "Animal" or "Vehicle".
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

import audioset
from audioset.classes import class_list
from audioset.inputs import expand

TOP = 5
METHODS = ("mean", "max")
ACCEPTED = {
    "baby_cry": ("Baby cry, infant cry", "Crying, sobbing"),
    "chainsaw": ("Chainsaw",),
    "clock_tick": ("Tick", "Tick-tock", "Clock"),
    "dog_bark": ("Dog", "Bark", "Bow-wow", "Yip"),
    "fire_crackling": ("Fire", "Crackle"),
    "helicopter": ("Helicopter",),
    "person_sneeze": ("Sneeze",),
    "rain": ("Rain", "Rain on surface", "Raindrop"),
    "rooster": ("Crowing, cock-a-doodle-doo", "Chicken, rooster"),
    "sea_waves": ("Waves, surf", "Ocean"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("esc10", help="folder of the ten classes")
    parser.add_argument("--model", default="yamnet")
    parser.add_argument("--weights")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    model = audioset.load(options.model, options.weights)
    for names in ACCEPTED.values():
        for name in names:
            class_list(options.model).index(name)  # raises for what is misspelt
    clips = Counter[str]()
    found = {method: Counter[str]() for method in METHODS}
    for scores in model.tag_files(expand([options.esc10]).files):
        if scores.error is not None:
            raise scores.error
        label = Path(scores.file).parent.name
        clips[label] += 1
        for method in METHODS:
            found[method][label] += any(name in ACCEPTED[label] for name, _ in scores.top(TOP, method))
    print(f"{'class':>16}  clips  " + "  ".join(f"{method:>6}" for method in METHODS))
    for label in [*sorted(clips), "all"]:
        total, *right = (sum(c.values()) if label == "all" else c[label] for c in (clips, *found.values()))
        print(f"{label:>16}  {total:5}  " + "  ".join(f"{count / total:6.1%}" for count in right))
    if options.json:
        classes = {label: {"clips": clips[label], **{m: found[m][label] for m in METHODS}} for label in sorted(clips)}
        options.json.write_text(json.dumps({"weights": model.weights.sha256, "classes": classes}, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Write src/audioset/data/classes.csv, the class names that ship with the package.

    python scripts/make_class_table.py class_labels_indices.csv yamnet_class_map.csv > src/audioset/data/classes.csv

The first is AudioSet's list of 527 classes, the second YAMNet's of 521; both have `index,mid,display_name`.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

HEADER = """\
# The classes that AudioSet labels and that YAMNet scores: their number in each list, machine id and display name.
# A table of the project's, by scripts/make_class_table.py, from the AudioSet labels by Google (CC BY 4.0,
# https://research.google.com/audioset/) and YAMNet's class map (Apache-2.0).
"""


def read(path: Path) -> dict[str, tuple[int, str]]:
    """Index and name by mid."""
    with path.open(encoding="utf-8", newline="") as file:
        return {row["mid"]: (int(row["index"]), row["display_name"]) for row in csv.DictReader(file)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("audioset", type=Path, help="class_labels_indices.csv")
    parser.add_argument("yamnet", type=Path, help="yamnet_class_map.csv")
    options = parser.parse_args()
    audioset, yamnet = read(options.audioset), read(options.yamnet)
    differing = [mid for mid, (_, name) in yamnet.items() if audioset.get(mid, (0, None))[1] != name]
    if differing:
        sys.exit(f"{options.yamnet}: {differing} are not in {options.audioset} or are called otherwise there")
    sys.stdout.write(HEADER)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["audioset_index", "yamnet_index", "mid", "display_name"])
    for mid, (index, name) in sorted(audioset.items(), key=lambda item: item[1]):
        writer.writerow([index, yamnet[mid][0] if mid in yamnet else "", mid, name])


if __name__ == "__main__":
    main()

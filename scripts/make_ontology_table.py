"""Write src/audioset/data/ontology.csv, the hierarchy of classes that ships with the package.

    python scripts/make_ontology_table.py ontology.json > src/audioset/data/ontology.csv

The file is AudioSet's ontology as published. Of each class the mid, display name, children and restrictions are kept,
in the published order; descriptions, citations and example links are not.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path

HEADER = """\
# AudioSet's ontology: machine id and display name of each class, the mids of its children, and its restrictions.
# A table of the project's, by scripts/make_ontology_table.py, from the AudioSet ontology by Google, of which it leaves
# out descriptions, citations and examples (https://github.com/audioset/ontology). Like it, this file is under
# CC BY-SA 4.0, https://creativecommons.org/licenses/by-sa/4.0/.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ontology", type=Path, help="ontology.json")
    options = parser.parse_args()
    sys.stdout.write(HEADER)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["mid", "display_name", "children", "restrictions"])
    for node in json.loads(options.ontology.read_text(encoding="utf-8")):
        writer.writerow([node["id"], node["name"], " ".join(node["child_ids"]), " ".join(node["restrictions"])])


if __name__ == "__main__":
    main()

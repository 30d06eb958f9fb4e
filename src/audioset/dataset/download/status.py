"""What a folder's ledgers say together, and the list of what is missing as a file."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audioset._files import written_whole
from audioset.dataset.download.ledger import Entry, each_entry, ledgers_in, merged
from audioset.errors import DatasetError, OptionError

_REPORTED = ("key", "ytid", "start_s", "end_s", "url", "state", "reason", "permanent", "message", "tries", "updated_s")


@dataclass(frozen=True)
class DownloadStatus:
    """What has become of the clips of a folder, over all shards.

    Attributes
    ----------
    folder : Path
    ledgers : tuple of Path
        One for each shard.
    counts : dict of str to int
        Number of clips done, failed and pending.
    reasons : dict of str to int
        Number of failures by reason, most frequent first.
    audio_s : float
        Seconds of sound that are there.
    """

    folder: Path
    ledgers: tuple[Path, ...]
    counts: dict[str, int]
    reasons: dict[str, int]
    audio_s: float

    @property
    def entries(self) -> Iterator[Entry]:
        """Every clip, in order of its key, read from the ledgers while it is asked for: there may be millions."""
        return each_entry(self.folder)

    @property
    def failures(self) -> Iterator[Entry]:
        """Those of the clips that are given up, for now or for good."""
        return each_entry(self.folder, "failed")


def read_status(folder: str | os.PathLike[str]) -> DownloadStatus:
    """Return what the ledgers in a folder of `download_audio` say, also while it runs.

    Raises
    ------
    DatasetError
        If there is no ledger, or one is damaged.
    """
    place = Path(folder)
    ledgers = ledgers_in(place)
    if not ledgers:
        raise DatasetError(f"{place}: no ledger*.sqlite; expected a folder that download-audio has written to")
    with merged(place) as db:
        states = db.execute("SELECT state, count(*), total(duration_s) FROM clips GROUP BY state").fetchall()
        reasons = db.execute(
            "SELECT ifnull(reason, 'unknown'), count(*) FROM clips WHERE state = 'failed' GROUP BY 1 ORDER BY 2 DESC, 1"
        ).fetchall()
    found = {state: (count, audio_s) for state, count, audio_s in states}
    counts = {state: found.get(state, (0,))[0] for state in ("done", "failed", "pending")}
    return DownloadStatus(place, tuple(ledgers), counts, dict(reasons), found.get("done", (0, 0.0))[1])


def check_report(path: Path) -> None:
    """Raise OptionError unless a report's name says how to write it."""
    if path.suffix.lower() not in (".csv", ".json"):
        raise OptionError(f"--report {path}: expected a name that ends in .csv or .json")


def write_report(entries: Iterable[Entry], path: Path) -> None:
    """Write clips and why they are missing to a csv or JSON file, by its ending; whole or not at all."""
    check_report(path)
    rows = map(as_row, entries)
    with written_whole(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        if path.suffix.lower() == ".json":
            file.write("[")
            for number, row in enumerate(rows):
                file.write(f"{',' * (number > 0)}\n{json.dumps(row, ensure_ascii=False)}")
            file.write("\n]\n")
        else:
            writer = csv.DictWriter(file, _REPORTED, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def as_row(entry: Entry) -> dict[str, Any]:
    """Return what a report says of a clip."""
    return {name: getattr(entry, name) for name in _REPORTED}

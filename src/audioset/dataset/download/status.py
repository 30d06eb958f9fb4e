"""What a folder's ledgers say together, and the list of what is missing as a file."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audioset._files import written_whole
from audioset.dataset.download.ledger import Entry, ledgers_in, read_entries
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
    entries : tuple of Entry
        Every clip, in order of its key.
    """

    folder: Path
    ledgers: tuple[Path, ...]
    entries: tuple[Entry, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Number of clips done, failed and pending."""
        counted = Counter(entry.state for entry in self.entries)
        return {"done": counted["done"], "failed": counted["failed"], "pending": counted["pending"]}

    @property
    def failures(self) -> tuple[Entry, ...]:
        """The clips that are given up, for now or for good."""
        return tuple(entry for entry in self.entries if entry.state == "failed")

    @property
    def reasons(self) -> dict[str, int]:
        """Number of failures by reason, most frequent first."""
        return dict(Counter(entry.reason or "unknown" for entry in self.failures).most_common())

    @property
    def audio_s(self) -> float:
        """Seconds of sound that are there."""
        return sum(entry.duration_s or 0.0 for entry in self.entries if entry.state == "done")


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
    entries = read_entries(place)
    return DownloadStatus(place, tuple(ledgers), tuple(entries[key] for key in sorted(entries)))


def check_report(path: Path) -> None:
    """Raise OptionError unless a report's name says how to write it."""
    if path.suffix.lower() not in (".csv", ".json"):
        raise OptionError(f"--report {path}: expected a name that ends in .csv or .json")


def write_report(entries: Iterable[Entry], path: Path) -> None:
    """Write clips and why they are missing to a csv or JSON file, by its ending; whole or not at all."""
    check_report(path)
    rows = [as_row(entry) for entry in entries]
    with written_whole(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        if path.suffix.lower() == ".json":
            json.dump(rows, file, indent=1, ensure_ascii=False)
            file.write("\n")
        else:
            writer = csv.DictWriter(file, _REPORTED, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def as_row(entry: Entry) -> dict[str, Any]:
    """Return what a report says of a clip."""
    return {name: getattr(entry, name) for name in _REPORTED}

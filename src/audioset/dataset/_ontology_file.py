"""Where an ontology's classes are read from: the published JSON file, and the table that comes with the package."""

from __future__ import annotations

import csv
import json
import os
from importlib import resources
from pathlib import Path
from typing import Any, Final, NoReturn

from audioset.dataset import _text
from audioset.dataset.ontology import OntologyNode
from audioset.errors import DatasetError

# The published file has 0.3 MB; what unpacks to much more is no ontology.
_MAX_BYTES: Final = 64 << 20


def read_json(path: str | os.PathLike[str]) -> tuple[OntologyNode, ...]:
    """Return the classes of a file in the form of the published ontology.json, plain or gzip, in its order.

    Raises
    ------
    DatasetError
        The file cannot be read, is damaged, or has something else in it.
    """
    path = Path(path)
    with _text.opened(path) as stream:
        data = stream.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        _refuse(path, f"more than {_MAX_BYTES >> 20} MiB")
    try:
        entries = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        _refuse(path, f"not UTF-8 ({error.reason})", error)
    except (ValueError, RecursionError) as error:  # what is nested without end is no JSON of a data set
        _refuse(path, f"no JSON ({error})", error)
    if not isinstance(entries, list):
        _refuse(path, f"JSON of another kind ({type(entries).__name__})")
    return tuple(_node(path, number, entry) for number, entry in enumerate(entries, start=1))


def read_table() -> tuple[OntologyNode, ...]:
    """Return the classes of the package's own table, in the published order, without what is written about them."""
    text = resources.files("audioset").joinpath("data").joinpath("ontology.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    return tuple(
        OntologyNode(
            row["mid"], row["display_name"], tuple(row["children"].split()), tuple(row["restrictions"].split())
        )
        for row in rows
    )


def _node(path: Path, number: int, entry: Any) -> OntologyNode:
    if not isinstance(entry, dict):
        _refuse(path, f"entry {number} is no object ({type(entry).__name__})")
    about = f"entry {number} ({entry.get('id', 'without an id')})"
    texts = {key: entry.get(key, "") for key in ("id", "name", "description", "citation_uri")}
    lists = {key: entry.get(key, []) for key in ("child_ids", "restrictions", "positive_examples")}
    for key in ("id", "name"):
        if not texts[key]:
            _refuse(path, f"{about} has no {key}")
    for key, text in texts.items():
        if not isinstance(text, str):
            _refuse(path, f"{key} of {about} is no text")
    for key, items in lists.items():
        if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
            _refuse(path, f"{key} of {about} is no list of texts")
    return OntologyNode(
        mid=texts["id"],
        name=texts["name"],
        child_mids=tuple(dict.fromkeys(lists["child_ids"])),
        restrictions=tuple(lists["restrictions"]),
        description=texts["description"],
        citation_uri=texts["citation_uri"],
        examples=tuple(lists["positive_examples"]),
    )


def _refuse(path: Path, found: str, cause: Exception | None = None) -> NoReturn:
    raise DatasetError(
        f"{path}: {found}; expected AudioSet's ontology.json or a file like it, a list of objects with id, name and "
        "child_ids. `audioset dataset fetch ontology` gets the published one"
    ) from cause

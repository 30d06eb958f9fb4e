"""The names of classes: AudioSet's 527 and the 521 of them that YAMNet scores."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources

from audioset.errors import OptionError

# Name of a list: the column of the table that has its order.
_COLUMNS = {"audioset527": "audioset_index", "yamnet521": "yamnet_index"}


@dataclass(frozen=True)
class ClassList:
    """Classes in the order in which a model scores them.

    Attributes
    ----------
    mids : tuple of str
        Machine ids, such as "/m/0bt9lr"; `mids[i]` is of column `i` of the scores.
    names : tuple of str
        Display names, such as "Dog"; no two are equal.
    """

    mids: tuple[str, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def index(self, name_or_mid: str) -> int:
        """Return the column of a class, by its mid or by its name in upper or lower case.

        Raises
        ------
        OptionError
            There is no such class; the message has the names closest to it.
        """
        found = self._places.get(name_or_mid, self._places.get(name_or_mid.casefold()))
        if found is not None:
            return found
        by_key = {name.casefold(): name for name in self.names}
        # Words of a name count too: "bark" is close to no name as a whole, and a word of few.
        words = [name for key, name in by_key.items() if name_or_mid.casefold() in key]
        close = [by_key[key] for key in difflib.get_close_matches(name_or_mid.casefold(), by_key, n=3)]
        suggested = list(dict.fromkeys([*close, *words[:3]]))
        hint = f" Did you mean {' or '.join(map(repr, suggested))}?" if suggested else ""
        raise OptionError(
            f"class {name_or_mid!r}: not among these {len(self)}; expected a display name or mid of AudioSet.{hint}"
        )

    @cached_property
    def _places(self) -> dict[str, int]:
        by_name = {name.casefold(): place for place, name in enumerate(self.names)}
        return by_name | {mid: place for place, mid in enumerate(self.mids)}


@cache
def class_list(name: str) -> ClassList:
    """Return the classes called "audioset527" or "yamnet521", or those of a model of the registry.

    Raises
    ------
    OptionError
        There is no list and no model of this name, or the model has no classes.
    """
    if name not in _COLUMNS:
        from audioset import models

        if name not in models.REGISTRY and not models.own.is_own(name):
            known = ", ".join([*_COLUMNS, *(spec.name for spec in models.REGISTRY.values() if spec.num_classes)])
            raise OptionError(f"class list {name!r}: unknown; expected one of {known}")
        classes = models.get(name).classes
        if classes is None:
            raise OptionError(f"{name}: gives embeddings and has no classes. Use a model that tags, such as yamnet")
        return classes
    rows = sorted((int(row[_COLUMNS[name]]), row) for row in _table() if row[_COLUMNS[name]])
    return ClassList(tuple(row["mid"] for _, row in rows), tuple(row["display_name"] for _, row in rows))


def class_names(name: str) -> tuple[str, ...]:
    """Return the display names of `class_list(name)`, in order."""
    return class_list(name).names


def _table() -> Iterable[dict[str, str]]:
    text = resources.files("audioset").joinpath("data").joinpath("classes.csv").read_text(encoding="utf-8")
    return csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))

"""AudioSet's ontology: which classes of sound there are, and which are kinds of which.

It is a directed graph without cycles, not a tree: a class may have several parents. Classes go by their mid, and every
method takes a mid or a display name in upper or lower case. Mids come back in an order that is always the same.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from audioset.classes import ClassList, class_list
from audioset.errors import DatasetError, OptionError

ABSTRACT: Final = "abstract"
BLACKLIST: Final = "blacklist"

Rule = Literal["all", "unambiguous"]
"""Whether labels climb to every parent, or only from classes that have a single one."""

_MAX_PATHS: Final = 10_000
_BLOCK_ROWS: Final = 4096


@dataclass(frozen=True)
class OntologyNode:
    """A class of the ontology.

    Attributes
    ----------
    mid : str
        Machine id, such as "/m/0bt9lr".
    name : str
        Display name, such as "Dog".
    child_mids : tuple of str
        The kinds of it, in the published order.
    restrictions : tuple of str
        "abstract" for a class that only holds others, "blacklist" for one that was left out of labelling; often none.
    description, citation_uri : str
        What the class is, and where that is from; empty where the ontology is the package's own table.
    examples : tuple of str
        Links to segments of videos that have the sound; none where the ontology is the package's own table.
    """

    mid: str
    name: str
    child_mids: tuple[str, ...] = ()
    restrictions: tuple[str, ...] = ()
    description: str = ""
    citation_uri: str = ""
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Ontology:
    """A directed graph of classes without cycles; two are the same if their `nodes` are equal.

    Attributes
    ----------
    nodes : tuple of OntologyNode
        The classes, in the order of the file.
    source : str
        Where they are from; errors begin with it.

    Raises
    ------
    DatasetError
        There is no class, two have the same mid, a child is not there, or a class is its own ancestor.
    """

    nodes: tuple[OntologyNode, ...] = field(repr=False)
    source: str = "ontology"

    def __post_init__(self) -> None:
        if not self.nodes:
            raise DatasetError(f"{self.source}: no classes; expected one or more. Fetch or write it again")
        twice = [mid for mid, count in Counter(node.mid for node in self.nodes).items() if count > 1]
        if twice:
            raise DatasetError(f"{self.source}: {twice[0]} is there more than once; expected every id once. Remove one")
        for node in self.nodes:
            for child in node.child_mids:
                if child not in self._by_mid:
                    raise DatasetError(
                        f"{self.source}: {node.mid} ({node.name}) has the child {child}, which is not there; expected "
                        "every child among the classes. Add it or remove the mention"
                    )
        if len(self._parents_first) < len(self.nodes):
            cycle = " > ".join(self._cycle())
            raise DatasetError(
                f"{self.source}: a class is its own ancestor, {cycle}; expected no cycle. Remove one of these children"
            )

    @staticmethod
    def load(path: str | os.PathLike[str] | None = None) -> Ontology:
        """Return the ontology that comes with the package, or the one of a file with all that is written there.

        Parameters
        ----------
        path
            AudioSet's published ontology.json or a file like it, plain or gzip. It has descriptions, citations and
            example links too, which the package's own table leaves out; the rest is the same.

        Raises
        ------
        DatasetError
            The file cannot be read, is damaged, or is no ontology.
        """
        if path is None:
            return _shipped()
        from audioset.dataset._ontology_file import read_json

        return Ontology(read_json(path), os.fspath(path))

    def __len__(self) -> int:
        return len(self.nodes)

    def mid(self, name_or_mid: str) -> str:
        """Return the mid of a class.

        Raises
        ------
        OptionError
            There is no such class (the message has the names closest to it), or several have this name (it has
            their mids).
        """
        if name_or_mid in self._by_mid:
            return name_or_mid
        wanted = name_or_mid.casefold()
        same = [node.mid for node in self.nodes if node.name.casefold() == wanted]
        if len(same) > 1:
            raise OptionError(f"class {name_or_mid!r}: the name of {len(same)}; expected a mid, {' or '.join(same)}")
        return same[0] if same else self.nodes[self._classes.index(name_or_mid)].mid

    def node(self, name_or_mid: str) -> OntologyNode:
        """Return what is known of a class."""
        return self._by_mid[self.mid(name_or_mid)]

    def name(self, name_or_mid: str) -> str:
        """Return the display name of a class."""
        return self.node(name_or_mid).name

    @cached_property
    def roots(self) -> tuple[str, ...]:
        """The mids of classes without parents, in the order of the file."""
        return tuple(node.mid for node in self.nodes if not self._parents[node.mid])

    def parents(self, name_or_mid: str) -> tuple[str, ...]:
        """Return the mids that a class is directly a kind of, in the order of the file."""
        return self._parents[self.mid(name_or_mid)]

    def children(self, name_or_mid: str) -> tuple[str, ...]:
        """Return the mids that are directly kinds of a class, in the order in which it lists them."""
        return self.node(name_or_mid).child_mids

    def ancestors(self, name_or_mid: str) -> tuple[str, ...]:
        """Return the mids of parents, their parents and so on: nearest first, then in the order of the file."""
        return self._nearest_first(self.mid(name_or_mid), self._parents.__getitem__)

    def descendants(self, name_or_mid: str) -> tuple[str, ...]:
        """Return the mids of children, their children and so on: nearest first, then in the order of the file."""
        return self._nearest_first(self.mid(name_or_mid), lambda mid: self._by_mid[mid].child_mids)

    def restrictions(self, name_or_mid: str) -> tuple[str, ...]:
        """Return "abstract", "blacklist", both or nothing."""
        return self.node(name_or_mid).restrictions

    def is_abstract(self, name_or_mid: str) -> bool:
        """Return whether a class only holds others and has no sounds of its own."""
        return ABSTRACT in self.restrictions(name_or_mid)

    def is_blacklisted(self, name_or_mid: str) -> bool:
        """Return whether a class was left out of labelling, as too hard to tell or too obscure."""
        return BLACKLIST in self.restrictions(name_or_mid)

    def depth(self, name_or_mid: str) -> int:
        """Return the number of steps from the nearest root; 0 for a root."""
        return self._depths[self.mid(name_or_mid)]

    def paths(self, name_or_mid: str) -> tuple[tuple[str, ...], ...]:
        """Return every way from a root to a class, both included: shortest first, then in the order of the file.

        Raises
        ------
        OptionError
            There is no such class, or there are more than 10,000 ways (AudioSet's classes have 4 at the most).
        """
        mid = self.mid(name_or_mid)
        if self._num_paths[mid] > _MAX_PATHS:
            raise OptionError(
                f"class {name_or_mid!r}: {self._num_paths[mid]:,} paths lead to it; expected {_MAX_PATHS:,} or fewer. "
                "Use its ancestors"
            )
        found: list[tuple[str, ...]] = []
        growing: list[tuple[str, ...]] = [(mid,)]
        while growing:
            path = growing.pop()
            parents = self._parents[path[0]]
            growing += [(parent, *path) for parent in parents]
            if not parents:
                found.append(path)
        return tuple(sorted(found, key=lambda path: (len(path), [self._places[mid] for mid in path])))

    def lowest_common_ancestors(self, first: str, second: str) -> tuple[str, ...]:
        """Return the mids that two classes are both kinds of, or are, and that are above no other such; in file order.

        Empty where the two are under different roots.
        """
        one, other = ({self.mid(wanted), *self.ancestors(wanted)} for wanted in (first, second))
        common = one & other
        above = {ancestor for mid in common for ancestor in self.ancestors(mid)}
        return self._in_file_order(common - above)

    def search(self, text: str) -> tuple[str, ...]:
        """Return the mids of classes in which every word of a text occurs, best first; upper and lower case alike.

        Best is a class that is called so or has this mid, then one with the text between commas of its name, then
        names in which it stands as a word, begins a word, occurs at all, or occurs word by word, and last those where
        some words are in the mid or in the description (where the file has them). Equals are in the order of the file.
        """
        words = text.casefold().split()
        wanted, spoken = " ".join(words), _spoken(text)
        if not words:
            return ()
        ranked = []
        for place, node in enumerate(self.nodes):
            name, mid = node.name.casefold(), node.mid.casefold()
            everything = " ".join((name, mid, node.description.casefold()))
            if not all(word in everything for word in words):
                continue
            criteria = (
                wanted in (name, mid),
                wanted in [part.strip() for part in name.split(",")],
                f"{spoken} " in _spoken(name) + " ",
                spoken in _spoken(name),
                wanted in name,
                all(word in name for word in words),
                True,
            )
            ranked.append((criteria.index(True), place, node.mid))
        return tuple(mid for *_, mid in sorted(ranked))

    def propagate(
        self,
        labels: Iterable[str],
        classes: ClassList | None = None,
        *,
        rule: Rule = "all",
        restricted: bool = False,
    ) -> tuple[str, ...]:
        """Return the mids of a clip's labels and of what they are kinds of.

        The labels come first, in their order and each once, then what follows from them in the order of the file.
        Doing it again changes nothing.

        Parameters
        ----------
        labels
            Names or mids.
        classes
            Only classes of this list are added, such as `class_list("audioset527")`; None for all of the ontology.
        rule
            "all" adds every ancestor, also where the way to it leads through classes that are not to be added.
            "unambiguous" climbs only from a class with a single parent: Growling is a child of Dog, of Cat and of
            others, and a clip with it need have neither. Classes that are not to be added do not count there: their
            parents stand in for them.
        restricted
            Whether abstract and blacklisted classes are added too.

        Raises
        ------
        OptionError
            A label is no class of the ontology, or there is no such rule.
        """
        given = dict.fromkeys(self.mid(label) for label in labels)
        implied = _implied(self, None if classes is None else classes.mids, restricted, rule)
        added = {ancestor for mid in given for ancestor in implied[mid]}
        return (*given, *self._in_file_order(added - given.keys()))

    def ancestor_matrix(
        self, mids: Sequence[str], *, rule: Rule = "all", restricted: bool = False
    ) -> npt.NDArray[np.bool_]:
        """Return which classes of a list follow from which: bool (k, k).

        `matrix[i, j]` says that a clip with `mids[i]` has `mids[j]` too. The diagonal is True. `rule` and `restricted`
        are as in `propagate`, and only the classes of the list receive labels.

        Parameters
        ----------
        mids
            A list of classes, such as `class_list("audioset527").mids`. One that the ontology does not have follows
            from nothing and nothing follows from it.

        Raises
        ------
        OptionError
            None of the mids is in the ontology.
        """
        if len(mids) and not any(mid in self._by_mid for mid in mids):
            raise OptionError(
                f"mids {mids[0]!r}, …: none is in {self.source}; expected machine ids such as {self.nodes[0].mid!r}"
            )
        columns = {mid: column for column, mid in enumerate(mids)}
        implied = _implied(self, tuple(mids), restricted, rule)
        matrix = np.eye(len(mids), dtype=np.bool_)
        for row, mid in enumerate(mids):
            matrix[row, [columns[ancestor] for ancestor in implied.get(mid, ())]] = True
        return matrix

    def propagate_targets(
        self,
        targets: npt.NDArray[Any],
        classes: ClassList | None = None,
        *,
        rule: Rule = "all",
        restricted: bool = False,
    ) -> npt.NDArray[Any]:
        """Return labels or scores in which no class is below one that it follows from: a copy, same shape and type.

        `result[..., j]` is the maximum of `targets[..., i]` over all `i` with `ancestor_matrix(classes.mids)[i, j]`.

        Parameters
        ----------
        targets
            bool, integers or floats, (clips, classes) or with other axes before the last: labels as 0 and 1, or scores.
        classes
            What the last axis is of; None for AudioSet's 527.
        rule, restricted
            As in `propagate`.

        Raises
        ------
        OptionError
            The last axis is not of these classes, or the values are no numbers.
        """
        classes = class_list("audioset527") if classes is None else classes
        targets = np.asarray(targets)
        if targets.dtype.kind not in "biuf":
            raise OptionError(f"targets: values of type {targets.dtype}; expected bool, integers or floats")
        if not targets.ndim or targets.shape[-1] != len(classes):
            raise OptionError(
                f"targets: shape {targets.shape}; expected a last axis of {len(classes)}, one for each class. "
                "Give the classes that they are of"
            )
        matrix = self.ancestor_matrix(classes.mids, rule=rule, restricted=restricted)
        receivers = np.flatnonzero(matrix.sum(axis=0) > 1)
        sources = [np.flatnonzero(matrix[:, receiver]) for receiver in receivers]
        result: npt.NDArray[Any] = targets.copy()
        rows, out = targets.reshape(-1, len(classes)), result.reshape(-1, len(classes))
        for start in range(0, len(rows), _BLOCK_ROWS):  # small enough for the processor's cache
            columns = np.ascontiguousarray(rows[start : start + _BLOCK_ROWS].T)
            for receiver, source in zip(receivers, sources, strict=True):
                out[start : start + _BLOCK_ROWS, receiver] = columns[source].max(axis=0)
        return result

    @cached_property
    def _by_mid(self) -> Mapping[str, OntologyNode]:
        return {node.mid: node for node in self.nodes}

    @cached_property
    def _places(self) -> Mapping[str, int]:
        return {node.mid: place for place, node in enumerate(self.nodes)}

    @cached_property
    def _classes(self) -> ClassList:
        return ClassList(tuple(node.mid for node in self.nodes), tuple(node.name for node in self.nodes))

    @cached_property
    def _parents(self) -> Mapping[str, tuple[str, ...]]:
        parents: dict[str, list[str]] = {node.mid: [] for node in self.nodes}
        for node in self.nodes:
            for child in dict.fromkeys(node.child_mids):
                parents[child].append(node.mid)
        return {mid: tuple(found) for mid, found in parents.items()}

    @cached_property
    def _parents_first(self) -> tuple[str, ...]:
        """The classes, each after all of its parents; those in or below a cycle are missing."""
        waiting = {mid: len(parents) for mid, parents in self._parents.items()}
        found = [mid for mid, count in waiting.items() if not count]
        for mid in found:  # which grows
            for child in dict.fromkeys(self._by_mid[mid].child_mids):
                waiting[child] -= 1
                if not waiting[child]:
                    found.append(child)
        return tuple(found)

    @cached_property
    def _depths(self) -> Mapping[str, int]:
        depths: dict[str, int] = {}
        for mid in self._parents_first:
            depths[mid] = min((depths[parent] + 1 for parent in self._parents[mid]), default=0)
        return depths

    @cached_property
    def _num_paths(self) -> Mapping[str, int]:
        counts: dict[str, int] = {}
        for mid in self._parents_first:
            counts[mid] = sum(counts[parent] for parent in self._parents[mid]) or 1
        return counts

    def _cycle(self) -> tuple[str, ...]:
        """The mids along a cycle, the first one again at the end."""
        left = self._by_mid.keys() - set(self._parents_first)
        path = [min(left, key=self._places.__getitem__)]
        while path[-1] not in path[:-1]:  # up: what is left has a parent that is left
            path.append(next(parent for parent in self._parents[path[-1]] if parent in left))
        return tuple(reversed(path[path.index(path[-1]) :]))

    def _in_file_order(self, mids: Iterable[str]) -> tuple[str, ...]:
        return tuple(sorted(mids, key=self._places.__getitem__))

    def _nearest_first(self, mid: str, step: Callable[[str], Iterable[str]]) -> tuple[str, ...]:
        found: dict[str, None] = {}
        level: tuple[str, ...] = (mid,)
        while level:
            level = self._in_file_order({further for near in level for further in step(near)} - found.keys())
            found |= dict.fromkeys(level)
        return tuple(found)


@cache
def _shipped() -> Ontology:
    from audioset.dataset._ontology_file import read_table

    return Ontology(read_table(), "the ontology of the package")


def _spoken(text: str) -> str:
    """The words of a text without what is between them, a space before each."""
    return "".join(f" {word}" for word in re.findall(r"\w+", text.casefold()))


@lru_cache(maxsize=8)
def _implied(
    ontology: Ontology, mids: tuple[str, ...] | None, restricted: bool, rule: Rule
) -> Mapping[str, frozenset[str]]:
    """Return by mid of every class those of `mids` (None: of all) that a label of it brings, itself not among them."""
    if rule not in get_args(Rule):
        raise OptionError(f"rule {rule!r}: unknown; expected {' or '.join(map(repr, get_args(Rule)))}")
    wanted = ontology._by_mid.keys() if mids is None else ontology._by_mid.keys() & set(mids)
    eligible = {
        mid for mid in wanted if restricted or not {ABSTRACT, BLACKLIST} & {*ontology._by_mid[mid].restrictions}
    }
    nearest: dict[str, frozenset[str]] = {}  # the eligible classes above, of which the way holds no other
    implied: dict[str, frozenset[str]] = {}
    for mid in ontology._parents_first:
        above = (frozenset({parent}) if parent in eligible else nearest[parent] for parent in ontology._parents[mid])
        nearest[mid] = frozenset().union(*above)
        ways = nearest[mid] if rule == "all" or len(nearest[mid]) == 1 else ()
        implied[mid] = frozenset().union(*(implied[parent] | {parent} for parent in ways))
    return implied

"""The ontology: the published facts, and a graph that keeps its own rules."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import FrozenInstanceError, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audioset.classes import ClassList, class_list
from audioset.dataset.ontology import Ontology, OntologyNode, Rule
from audioset.errors import DatasetError, OptionError
from audioset.records.tfrecord import decode_example, read_tfrecord

ROOT = Path(__file__).parents[2]
BOTH_RULES: tuple[Rule, ...] = ("all", "unambiguous")


@pytest.fixture(scope="module")
def shipped() -> Ontology:
    return Ontology.load()


@pytest.fixture(scope="session")
def published(data_dir: Path) -> Path:
    return data_dir / "audioset/ontology.json"


@pytest.fixture(params=["shipped", "published"])
def ontology(request: pytest.FixtureRequest) -> Ontology:
    return Ontology.load(None if request.param == "shipped" else request.getfixturevalue("published"))


def graph(**children: str) -> Ontology:
    """An ontology of classes whose mids are letters: `graph(a="bc")` has b and c under a."""
    mids = dict.fromkeys("".join(mid + below for mid, below in children.items()))
    return Ontology(tuple(OntologyNode(mid, f"class {mid}", tuple(children.get(mid, ""))) for mid in mids))


def as_published(ontology: Ontology) -> list[dict[str, Any]]:
    return [
        {"id": node.mid, "name": node.name, "child_ids": list(node.child_mids), "restrictions": list(node.restrictions)}
        for node in ontology.nodes
    ]


# --- The published facts


def test_counts_are_the_published_ones(ontology: Ontology) -> None:
    assert len(ontology) == len(ontology.nodes) == 632
    assert [ontology.name(mid) for mid in ontology.roots] == [
        "Human sounds",
        "Animal",
        "Music",
        "Natural sounds",
        "Sounds of things",
        "Source-ambiguous sounds",
        "Channel, environment and background",
    ]
    restrictions = Counter(node.restrictions for node in ontology.nodes)
    assert restrictions == {(): 543, ("blacklist",): 66, ("abstract",): 22, ("abstract", "blacklist"): 1}
    parents = Counter(len(ontology.parents(node.mid)) for node in ontology.nodes)
    assert parents == {0: 7, 1: 587, 2: 33, 3: 3, 4: 2}
    assert sum(count for number, count in parents.items() if number > 1) == 38
    assert max(len(ontology.paths(node.mid)) for node in ontology.nodes) == 4


def test_restrictions_of_the_527_and_of_the_unused_are_the_published_ones(ontology: Ontology) -> None:
    used = set(class_list("audioset527").mids)
    assert used < {node.mid for node in ontology.nodes}
    blacklisted = {ontology.name(mid) for mid in used if ontology.is_blacklisted(mid)}
    assert len(blacklisted) == 12
    assert {"Song", "Patter", "Roll", "Clatter"} < blacklisted
    assert not any(ontology.is_abstract(mid) for mid in used)
    unused = Counter(node.restrictions for node in ontology.nodes if node.mid not in used)
    assert unused == {(): 28, ("blacklist",): 54, ("abstract",): 22, ("abstract", "blacklist"): 1}
    assert unused.total() == 105


def test_names_are_those_of_the_class_list(ontology: Ontology) -> None:
    classes = class_list("audioset527")
    assert tuple(map(ontology.name, classes.mids)) == classes.names
    assert tuple(map(ontology.mid, classes.names)) == classes.mids


def test_the_shipped_table_has_all_facts_of_the_published_file(published: Path, shipped: Ontology) -> None:
    entries = json.loads(published.read_text(encoding="utf-8"))
    kept = ("id", "name", "child_ids", "restrictions")
    assert as_published(shipped) == [{key: entry[key] for key in kept} for entry in entries]


def test_the_shipped_table_is_what_its_script_writes(published: Path) -> None:
    script = ROOT / "scripts/make_ontology_table.py"
    written = subprocess.run([sys.executable, script, published], check=True, capture_output=True).stdout
    assert written == (ROOT / "src/audioset/data/ontology.csv").read_bytes()
    assert b"CC BY-SA 4.0" in written
    assert b"Google" in written


def test_the_script_keeps_commas_quotes_and_any_letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [
        {"id": "/m/1", "name": 'Bird, "鳥"', "child_ids": ["/m/2", "/m/3"], "restrictions": ["abstract", "blacklist"]},
        {"id": "/m/2", "name": "Écho", "child_ids": [], "restrictions": []},
        {"id": "/m/3", "name": "# no comment", "child_ids": [], "restrictions": []},
    ]
    (tmp_path / "o.json").write_text(json.dumps(entries, ensure_ascii=False), encoding="utf-8")
    script = [sys.executable, ROOT / "scripts/make_ontology_table.py", tmp_path / "o.json"]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    table = subprocess.run(script, check=True, capture_output=True, env=environment).stdout
    (tmp_path / "data").mkdir()
    (tmp_path / "data/ontology.csv").write_bytes(table)
    monkeypatch.setattr("audioset.dataset._ontology_file.resources.files", lambda _: tmp_path)
    from audioset.dataset._ontology_file import read_table

    assert as_published(Ontology(read_table())) == entries


def test_the_published_file_has_descriptions_and_examples_and_the_table_has_not(
    published: Path, shipped: Ontology
) -> None:
    nodes = Ontology.load(published).nodes
    assert all(node.description for node in nodes)
    assert sum(1 for node in nodes if node.citation_uri) == 563
    assert sum(1 for node in nodes if node.examples) == 479
    assert not any(node.description or node.citation_uri or node.examples for node in shipped.nodes)


# --- Looking classes up


def test_a_class_is_found_by_name_in_any_case_and_by_mid(shipped: Ontology) -> None:
    assert shipped.mid("Dog") == shipped.mid("dOG") == shipped.mid("/m/0bt9lr") == "/m/0bt9lr"
    assert shipped.name("/m/0bt9lr") == shipped.name("DOG") == "Dog"
    assert shipped.node("dog").child_mids == shipped.children("/m/0bt9lr")
    assert (shipped.is_abstract("Human voice"), shipped.is_blacklisted("Human voice")) == (True, False)
    assert (shipped.is_abstract("Song"), shipped.is_blacklisted("Song")) == (False, True)


def test_an_unknown_class_is_refused_with_close_names(shipped: Ontology) -> None:
    with pytest.raises(OptionError, match=r"class 'Chainsaww': not among these 632.*'Chainsaw'"):
        shipped.ancestors("Chainsaww")


def test_a_name_of_several_classes_is_refused_with_their_mids() -> None:
    ontology = Ontology((OntologyNode("/m/1", "Bass"), OntologyNode("/m/2", "bass"), OntologyNode("/m/3", "Fish")))
    with pytest.raises(OptionError, match="class 'BASS': the name of 2; expected a mid, /m/1 or /m/2"):
        ontology.mid("BASS")
    assert ontology.name("/m/2") == "bass"


def test_ancestors_and_descendants_are_nearest_first(shipped: Ontology) -> None:
    assert [shipped.name(mid) for mid in shipped.ancestors("Growling")] == [
        "Dog",
        "Cat",
        "Roaring cats (lions, tigers)",
        "Canidae, dogs, wolves",
        "Domestic animals, pets",
        "Wild animals",
        "Animal",
    ]
    names = [shipped.name(mid) for mid in shipped.descendants("Domestic animals, pets")]
    assert names[:2] == ["Dog", "Cat"]
    assert len(names) == len(set(names)) == 14
    assert shipped.ancestors("Animal") == shipped.descendants("Purr") == ()


def test_paths_are_every_way_from_a_root_shortest_first() -> None:
    ontology = graph(a="bd", b="c", c="d", e="d", d="f")
    assert ontology.paths("f") == (tuple("adf"), tuple("edf"), tuple("abcdf"))
    assert ontology.paths("a") == (("a",),)
    assert [ontology.depth(mid) for mid in "abcdef"] == [0, 1, 2, 1, 0, 2]


def test_paths_without_end_are_refused() -> None:
    # Each level doubles their number.
    nodes = [OntologyNode("0", "top", ("1a", "1b"))]
    for level in range(1, 60):
        nodes += [OntologyNode(f"{level}{x}", "", (f"{level + 1}a", f"{level + 1}b")) for x in "ab"]
    ontology = Ontology((*nodes, OntologyNode("60a", "last"), OntologyNode("60b", "other")))
    with pytest.raises(OptionError, match=r"class '60a': 576,460,752,303,423,488 paths lead to it"):
        ontology.paths("60a")
    assert len(ontology.ancestors("60a")) == 119


def test_lowest_common_ancestors_have_no_other_below_them(shipped: Ontology) -> None:
    def names(first: str, second: str) -> list[str]:
        return [shipped.name(mid) for mid in shipped.lowest_common_ancestors(first, second)]

    assert names("Bark", "Purr") == ["Domestic animals, pets"]
    assert names("Bark", "Dog") == names("Dog", "Dog") == ["Dog"]
    assert names("Bark", "Thunder") == []
    assert graph(a="cd", b="cd").lowest_common_ancestors("c", "d") == ("a", "b")


def test_search_finds_names_mids_and_descriptions_best_first(shipped: Ontology) -> None:
    def names(text: str, ontology: Ontology = shipped) -> list[str]:
        return [ontology.name(mid) for mid in ontology.search(text)]

    assert names("WATER") == ["Water", "Boat, Water vehicle", "Water tap, faucet", "Waterfall"]
    assert names("rooster") == ["Chicken, rooster"]
    assert names("/m/0bt9lr") == ["Dog"]
    assert names("tap water") == ["Water tap, faucet"]
    assert names("(dog)") == names("(dog") == ["Whimper (dog)"]
    assert names("barkk") == names("") == names("  ") == []
    nodes = (OntologyNode("1", "Yap", description="A small dog's bark"), OntologyNode("2", "Bark"))
    assert names("bark", Ontology(nodes)) == ["Bark", "Yap"]
    assert names("small YAP", Ontology(nodes)) == ["Yap"]


def test_an_ontology_cannot_be_changed(shipped: Ontology) -> None:
    with pytest.raises(FrozenInstanceError, match="nodes"):
        shipped.nodes = ()  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError, match="name"):
        shipped.nodes[0].name = "x"  # type: ignore[misc]


# --- Files that are not as they should be


@pytest.fixture
def file(tmp_path: Path) -> Path:
    entries = [
        {"id": "/m/1", "name": "Animal, 鳥", "description": "Of «life»", "child_ids": ["/m/2"], "restrictions": []},
        {
            "id": "/m/2",
            "name": "Dog",
            "positive_examples": ["youtu.be/x?start=1&end=11"],
            "citation_uri": "https://e.org",
        },
    ]
    path = tmp_path / "own.json"
    path.write_text(json.dumps(entries, ensure_ascii=False), encoding="utf-8")
    return path


def test_own_files_are_read_plain_gzip_and_with_a_bom(file: Path, tmp_path: Path) -> None:
    expected = (
        OntologyNode("/m/1", "Animal, 鳥", ("/m/2",), (), "Of «life»"),
        OntologyNode("/m/2", "Dog", citation_uri="https://e.org", examples=("youtu.be/x?start=1&end=11",)),
    )
    assert Ontology.load(file).nodes == expected
    other = tmp_path / "other"
    for data in (gzip.compress(file.read_bytes()), b"\xef\xbb\xbf" + file.read_bytes()):
        other.write_bytes(data)
        assert Ontology.load(str(other)).nodes == expected


def test_a_child_that_is_listed_twice_counts_once(file: Path) -> None:
    file.write_text('[{"id": "a", "name": "A", "child_ids": ["b", "b"]}, {"id": "b", "name": "B"}]')
    ontology = Ontology.load(file)
    assert (ontology.children("a"), ontology.parents("b"), ontology.paths("b")) == (("b",), ("a",), (("a", "b"),))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no JSON"),
        (b'[{"id": "a", "na', "no JSON"),
        (b"<html></html>", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b'[{"id": "a", "name": "\xff"}]', "not UTF-8"),
        (b"{}", r"JSON of another kind \(dict\)"),
        (b"[]", "no classes"),
        (b"[1]", r"entry 1 is no object \(int\)"),
        (b'[{"name": "A"}]', r"entry 1 \(without an id\) has no id"),
        (b'[{"id": "a", "name": ""}]', r"entry 1 \(a\) has no name"),
        (b'[{"id": 7, "name": "A"}]', r"id of entry 1 \(7\) is no text"),
        (b'[{"id": "a", "name": "A", "description": null}]', r"description of entry 1 \(a\) is no text"),
        (b'[{"id": "a", "name": "A", "child_ids": "b"}]', r"child_ids of entry 1 \(a\) is no list of texts"),
        (b'[{"id": "a", "name": "A", "restrictions": [1]}]', r"restrictions of entry 1 \(a\) is no list of texts"),
        (b'[{"id": "a", "name": "A"}, {"id": "a", "name": "B"}]', "a is there more than once"),
        (b'[{"id": "a", "name": "A", "child_ids": ["b"]}]', r"a \(A\) has the child b, which is not there"),
        (b'[{"id": "a", "name": "A", "child_ids": ["a"]}]', "a class is its own ancestor, a > a"),
        (gzip.compress(b"[1, 2, 3]" * 50, mtime=0)[:-12], "its gzip data are cut short or damaged"),
    ],
)
def test_a_file_that_is_no_ontology_is_refused(file: Path, content: bytes, message: str) -> None:
    file.write_bytes(content)
    with pytest.raises(DatasetError, match=f"own.json: {message}.*expected"):
        Ontology.load(file)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"none\.json: cannot be read"):
        Ontology.load(tmp_path / "none.json")


def test_what_unpacks_without_end_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audioset.dataset._ontology_file._MAX_BYTES", 1 << 20)
    file.write_bytes(gzip.compress(b" " * (1 << 21)))
    with pytest.raises(DatasetError, match="more than 1 MiB"):
        Ontology.load(file)


def test_a_cycle_is_named_and_what_is_below_it_is_not() -> None:
    with pytest.raises(DatasetError, match="its own ancestor, b > c > d > b;"):
        graph(a="b", b="cx", c="d", d="b", x="y")


def test_a_long_chain_needs_no_deep_stack() -> None:
    length = 5000
    nodes = [OntologyNode(str(n), f"n{n}", (str(n + 1),) if n + 1 < length else ()) for n in range(length)]
    ontology = Ontology(tuple(nodes))
    last = str(length - 1)
    assert ontology.depth(last) == len(ontology.ancestors(last)) == length - 1
    assert len(ontology.paths(last)[0]) == length


# --- Labels that climb


def test_published_unambiguous_propagation_is_reproduced_bit_for_bit(ontology: Ontology) -> None:
    # HLP_lookup_table of hierarchical-label-propagation 0.1.0, by the authors of arXiv 2503.21826: of its 527 × 527
    # bytes, 0 and 1, the sha256. The paper says of AudioSet: 1.98 labels a clip become 2.39, 109 classes gain some.
    matrix = ontology.ancestor_matrix(class_list("audioset527").mids, rule="unambiguous")
    published = "128d5ead32542c2ae470c928b97b70da1324216fc7ff8ec788772f2ffb854b2c"
    assert hashlib.sha256(matrix.astype(np.uint8).tobytes()).hexdigest() == published
    assert np.count_nonzero(matrix.sum(axis=0) > 1) == 109


def test_all_ancestors_are_more_than_the_unambiguous_ones(ontology: Ontology) -> None:
    mids = class_list("audioset527").mids
    every = ontology.ancestor_matrix(mids)
    assert every.sum() == 1362
    assert np.count_nonzero(every.sum(axis=0) > 1) == 119
    assert not (ontology.ancestor_matrix(mids, rule="unambiguous") & ~every).any()


def labels_of(path: Path) -> list[list[int]]:
    classes = class_list("audioset527")
    if path.suffix == ".tfrecord":
        return [list(decode_example(data).context["labels"]) for data in read_tfrecord(path)]  # type: ignore[arg-type]
    rows = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return [[classes.index(mid) for mid in row.split('"')[1].split(",")] for row in rows]


@pytest.mark.parametrize(
    ("name", "num_clips", "num_labels", "num_unambiguous", "num_all"),
    [
        ("balanced_train_segments.csv", 22_160, 52_882, 75_703, 79_603),  # 2.39 a clip become 3.42 and 3.59
        ("eval_segments.csv", 20_371, 51_804, 74_145, 78_091),  # 2.54: 3.64, 3.83
        ("features/rm.tfrecord", 328, 685, 836, 842),  # 2.09: 2.55, 2.57
    ],
)
def test_labels_a_clip_on_published_files(
    data_dir: Path, name: str, num_clips: int, num_labels: int, num_unambiguous: int, num_all: int
) -> None:
    ontology, clips = Ontology.load(), labels_of(data_dir / "audioset" / name)
    targets = np.zeros((len(clips), 527), np.bool_)
    for row, labels in enumerate(clips):
        targets[row, labels] = True
    assert (len(targets), targets.sum()) == (num_clips, num_labels)
    assert ontology.propagate_targets(targets, rule="unambiguous").sum() == num_unambiguous
    assert ontology.propagate_targets(targets).sum() == num_all


def test_labels_come_first_and_then_what_follows_in_file_order(shipped: Ontology) -> None:
    def names(*labels: str, **options: Any) -> list[str]:
        return [shipped.name(mid) for mid in shipped.propagate(labels, **options)]

    assert names("purr", "Bark", "Purr") == ["Purr", "Bark", "Animal", "Domestic animals, pets", "Dog", "Cat"]
    assert names("Growling", rule="unambiguous") == ["Growling"]
    assert names("Speech") == ["Speech"]
    assert names("Speech", restricted=True) == ["Speech", "Human sounds", "Human voice"]
    assert names() == []
    with pytest.raises(OptionError, match="class 'Dogg'"):
        names("Dogg")
    with pytest.raises(OptionError, match="rule 'some': unknown; expected 'all' or 'unambiguous'"):
        names("Dog", rule="some")


def test_only_classes_of_the_list_are_added_and_the_way_may_lead_through_others() -> None:
    ontology = graph(a="b", b="cd", x="d")
    classes = ClassList(tuple("acd"), tuple("ACD"))
    assert ontology.propagate("c", classes) == ("c", "a")
    assert ontology.propagate("b", classes) == ("b", "a")
    assert ontology.propagate("d") == ("d", "a", "b", "x")
    # x is no class of the list, so that d has one parent there: b, for which a stands in.
    assert ontology.propagate("d", classes, rule="unambiguous") == ("d", "a")
    assert ontology.propagate("d", rule="unambiguous") == ("d",)


def test_restricted_classes_receive_labels_only_when_asked() -> None:
    nodes = graph(a="b", b="c").nodes
    for restriction in ("abstract", "blacklist"):
        ontology = Ontology((nodes[0], replace(nodes[1], restrictions=(restriction,)), nodes[2]))
        assert ontology.propagate("c") == ("c", "a")
        assert ontology.propagate("c", restricted=True) == ("c", "a", "b")
        assert ontology.propagate("b") == ("b", "a")
        assert ontology.ancestor_matrix("abc").sum() == 5
        assert ontology.ancestor_matrix("abc", restricted=True).sum() == 6


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.float16, np.float32, np.float64])
def test_targets_become_the_maximum_over_descendants(shipped: Ontology, rng: np.random.Generator, dtype: Any) -> None:
    scores = rng.random((4100, 527), np.float32)
    targets = (scores > 0.99 if dtype in (np.bool_, np.uint8) else scores).astype(dtype)
    before = targets.copy()
    found = shipped.propagate_targets(targets)
    assert (found.dtype, found.shape) == (targets.dtype, targets.shape)
    np.testing.assert_array_equal(targets, before)
    matrix = shipped.ancestor_matrix(class_list("audioset527").mids)
    for row in (0, 4095, 4096, 4099):  # the edges of blocks
        np.testing.assert_array_equal(found[row], [targets[row, column].max() for column in matrix.T])


def test_targets_of_other_lists_and_shapes_are_propagated(shipped: Ontology, rng: np.random.Generator) -> None:
    classes = class_list("yamnet521")
    targets = rng.random((4, 3, 521))
    found = shipped.propagate_targets(targets, classes)
    np.testing.assert_array_equal(found[2, 1], shipped.propagate_targets(targets[2, 1], classes))
    np.testing.assert_array_equal(found, shipped.propagate_targets(np.asfortranarray(targets), classes))
    dog, bark = classes.index("Dog"), classes.index("Bark")
    assert (found[..., dog] >= targets[..., bark]).all()
    assert shipped.propagate_targets(np.zeros((0, 527))).shape == (0, 527)


def test_a_list_with_classes_of_ones_own_is_propagated(shipped: Ontology) -> None:
    classes = ClassList(("/m/05tny_", "our parrot", "/m/0bt9lr"), ("Bark", "our parrot", "Dog"))
    found = shipped.propagate_targets(np.array([[True, False, False], [False, True, False]]), classes)
    assert found.tolist() == [[True, False, True], [False, True, False]]


def test_targets_that_do_not_fit_the_classes_are_refused(shipped: Ontology) -> None:
    with pytest.raises(OptionError, match=r"targets: shape \(2, 521\); expected a last axis of 527"):
        shipped.propagate_targets(np.zeros((2, 521)))
    with pytest.raises(OptionError, match=r"targets: shape \(\); expected a last axis of 527"):
        shipped.propagate_targets(np.float32(1))
    with pytest.raises(OptionError, match="targets: values of type <U1; expected bool, integers or floats"):
        shipped.propagate_targets(np.full((1, 527), "x"))
    with pytest.raises(OptionError, match="mids 'Dog', …: none is in the ontology of the package"):
        shipped.ancestor_matrix(["Dog", "Cat"])


# --- Any graph


@st.composite
def ontologies(draw: st.DrawFn) -> Ontology:
    """Graphs without cycles: a random order, children later in it than parents, listed in another order."""
    size = draw(st.integers(1, 12))
    order = draw(st.permutations(range(size)))
    restrictions = st.sets(st.sampled_from(["abstract", "blacklist"])).map(sorted).map(tuple)
    nodes = []
    for place, number in enumerate(order):
        later = order[place + 1 :]
        children = draw(st.lists(st.sampled_from(later), unique=True, max_size=4)) if later else []
        nodes.append(
            OntologyNode(f"/m/{number}", f"class {number}", tuple(f"/m/{c}" for c in children), draw(restrictions))
        )
    return Ontology(tuple(draw(st.permutations(nodes))))


def slow_ancestors(ontology: Ontology, mid: str) -> set[str]:
    above = {node.mid for node in ontology.nodes if mid in node.child_mids}
    return above.union(*(slow_ancestors(ontology, parent) for parent in above))


def slow_propagation(ontology: Ontology, mids: set[str], eligible: set[str], rule: Rule) -> set[str]:
    """One step up at a time, until nothing changes."""

    def nearest(mid: str) -> set[str]:
        above = [node.mid for node in ontology.nodes if mid in node.child_mids]
        return set().union(*({parent} if parent in eligible else nearest(parent) for parent in above))

    while True:
        more = set(mids)
        for mid in mids:
            ways = nearest(mid)
            more |= ways if rule == "all" or len(ways) == 1 else set()
        if more == mids:
            return mids
        mids = more


@settings(max_examples=50)
@given(ontologies())
def test_ancestors_and_descendants_are_each_others_inverse(ontology: Ontology) -> None:
    places = {node.mid: place for place, node in enumerate(ontology.nodes)}
    for node in ontology.nodes:
        ancestors = ontology.ancestors(node.mid)
        assert len(ancestors) == len(set(ancestors))
        assert set(ancestors) == slow_ancestors(ontology, node.mid)
        assert set(ontology.parents(node.mid)) == {
            other.mid for other in ontology.nodes if node.mid in other.child_mids
        }
        assert all((node.mid in ontology.ancestors(other.mid)) == (other.mid in ontology.descendants(node.mid))
                   for other in ontology.nodes)  # fmt: skip
        assert list(ontology.parents(node.mid)) == sorted(ontology.parents(node.mid), key=places.__getitem__)


@settings(max_examples=50)
@given(ontologies())
def test_paths_lead_from_roots_by_children_and_cover_the_ancestors(ontology: Ontology) -> None:
    for node in ontology.nodes:
        paths = ontology.paths(node.mid)
        assert len(paths) == len(set(paths))
        assert {mid for path in paths for mid in path} == {node.mid, *ontology.ancestors(node.mid)}
        assert len(paths[0]) - 1 == ontology.depth(node.mid)
        for path in paths:
            assert path[0] in ontology.roots
            assert path[-1] == node.mid
            assert all(below in ontology.children(above) for above, below in pairwise(path))


@settings(max_examples=50)
@given(ontologies(), st.data(), st.sampled_from(BOTH_RULES), st.booleans())
def test_propagation_equals_a_slow_one_is_idempotent_and_monotone(
    ontology: Ontology, data: st.DataObject, rule: Rule, restricted: bool
) -> None:
    mids = [node.mid for node in ontology.nodes]
    some = st.lists(st.sampled_from(mids), unique=True)
    listed = data.draw(st.lists(st.sampled_from(mids), unique=True, min_size=1))
    labels, more = data.draw(some), data.draw(some)
    classes = ClassList(tuple(listed), tuple(map(ontology.name, listed)))
    options: dict[str, Any] = {"rule": rule, "restricted": restricted}
    eligible = {mid for mid in listed if restricted or not ontology.restrictions(mid)}

    found = ontology.propagate(labels, classes, **options)
    assert len(found) == len(set(found))
    assert found[: len(labels)] == tuple(labels)
    assert set(found) == slow_propagation(ontology, set(labels), eligible, rule)
    assert ontology.propagate(found, classes, **options) == found
    assert set(found) <= set(ontology.propagate([*labels, *more], classes, **options))

    targets = np.array([[mid in labels for mid in listed], [mid in more for mid in listed]])
    propagated = ontology.propagate_targets(targets, classes, **options)
    for row, given_labels in zip(propagated, (labels, more), strict=True):
        expected = slow_propagation(ontology, set(given_labels) & set(listed), eligible, rule)
        assert {mid for mid, yes in zip(listed, row, strict=True) if yes} == expected
    np.testing.assert_array_equal(ontology.propagate_targets(propagated, classes, **options), propagated)


@settings(max_examples=50)
@given(ontologies(), st.data())
def test_lowest_common_ancestors_equal_a_slow_search(ontology: Ontology, data: st.DataObject) -> None:
    mids = [node.mid for node in ontology.nodes]
    first, second = data.draw(st.sampled_from(mids)), data.draw(st.sampled_from(mids))
    common = ({first} | slow_ancestors(ontology, first)) & ({second} | slow_ancestors(ontology, second))
    lowest = {mid for mid in common if not any(mid in slow_ancestors(ontology, other) for other in common)}
    assert set(ontology.lowest_common_ancestors(first, second)) == lowest

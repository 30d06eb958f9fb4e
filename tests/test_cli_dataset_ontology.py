"""`audioset dataset ontology`, as users run it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from audioset.cli import app
from audioset.dataset import fetch
from audioset.dataset.ontology import Ontology
from audioset.errors import DatasetError, OptionError

PROCESS = [sys.executable, "-c", "from audioset.cli import main; main()", "dataset", "ontology"]


def run(*arguments: object, status: int = 0) -> Result:
    result = CliRunner().invoke(app, ["dataset", "ontology", *map(str, arguments)])
    if status == 0 and result.exception:
        raise result.exception
    assert result.exit_code == status, result.output
    return result


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """An ontology of four, with what only published files have."""
    entries = [
        {"id": "/m/1", "name": "Birds, 鳥", "child_ids": ["/m/3"], "restrictions": ["abstract"]},
        {"id": "/m/2", "name": "Pets", "child_ids": ["/m/3", "/m/4"]},
        {
            "id": "/m/3",
            "name": "Parrot",
            "description": "A bird that talks [a lot].",
            "citation_uri": "https://example.org/parrot",
            "positive_examples": ["youtu.be/abc?start=1&end=11", "youtu.be/def?start=2&end=12"],
        },
        {"id": "/m/4", "name": "Dog"},
    ]
    path = tmp_path / "own.json"
    path.write_text(json.dumps(entries, ensure_ascii=False), encoding="utf-8")
    return path


def test_show_prints_every_fact_of_a_class() -> None:
    assert run("show", "howl").stdout.splitlines() == [
        "Howl  /m/07qf0zm",
        "class         77 of AudioSet's 527, 72 of YAMNet's 521",
        "restrictions  none",
        "paths         Animal > Domestic animals, pets > Dog > Howl",
        "              Animal > Wild animals > Canidae, dogs, wolves > Howl",
        "parents       Dog  /m/0bt9lr",
        "              Canidae, dogs, wolves  /m/01z5f",
        "descendants   0",
    ]
    assert run("show", "/m/07qf0zm").stdout == run("show", "Howl").stdout


def test_show_says_where_a_class_is_in_no_list() -> None:
    lines = run("show", "Musical concepts").stdout.splitlines()
    assert "class         neither AudioSet's nor YAMNet's" in lines
    assert "restrictions  abstract, blacklist" in lines
    assert "class         1 of AudioSet's 527" in run("show", "Male speech, man speaking").stdout.splitlines()


def test_show_prints_description_and_examples_of_a_file(own: Path) -> None:
    assert run("show", "parrot", "--ontology", own).stdout.splitlines()[-5:] == [
        "descendants   0",
        "description   A bird that talks [a lot].",
        "from          https://example.org/parrot",
        "examples      youtu.be/abc?start=1&end=11",
        "              youtu.be/def?start=2&end=12",
    ]


def test_show_as_json_has_what_the_library_gives(own: Path) -> None:
    ontology = Ontology.load(own)
    facts = json.loads(run("show", "Parrot", "--json", "--ontology", own).stdout)
    node = ontology.node("Parrot")
    assert facts == {
        "mid": "/m/3",
        "name": "Parrot",
        "index": None,
        "restrictions": [],
        "parents": ["/m/1", "/m/2"],
        "num_descendants": 0,
        "yamnet_index": None,
        "depth": 1,
        "paths": [["/m/1", "/m/3"], ["/m/2", "/m/3"]],
        "children": [],
        "description": node.description,
        "citation_uri": node.citation_uri,
        "examples": list(node.examples),
    }
    dog = json.loads(run("show", "Dog", "--json").stdout)
    assert (dog["index"], dog["yamnet_index"], dog["num_descendants"], dog["description"]) == (74, 69, 7, "")


def test_the_fetched_file_is_used_when_it_is_there(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def present(name: str) -> Path:
        asked.append(name)
        return own

    assert "description" not in run("show", "Dog").stdout
    monkeypatch.setattr(fetch, "present", present)
    assert "A bird that talks" in run("show", "Parrot").stdout
    assert asked == ["ontology"]


def test_the_published_file_in_the_cache_is_found(data_dir: Path) -> None:
    from audioset.dataset.catalogue import select

    (file,) = select(["ontology"])
    place = fetch.path_of(file)
    place.parent.mkdir(parents=True)
    place.write_bytes((data_dir / "audioset/ontology.json").read_bytes())
    shown = run("show", "Growling").stdout
    assert "from          http://en.wikipedia.org/wiki/Growling" in shown
    assert shown.count("youtu.be/") == 8
    assert "Bow-wow" in run("search", "bark", "dog").stdout  # by its description


def test_tree_draws_levels_marks_and_what_is_below(own: Path) -> None:
    assert run("tree", "--ontology", own).stdout.splitlines() == [
        "Birds, 鳥  [abstract]",
        "└── Parrot  also under Pets",
        "Pets",
        "├── Parrot  also under Birds, 鳥",
        "└── Dog",
    ]
    assert run("tree", "pets", "--depth", 0, "--ontology", own).stdout == "Pets  +2\n"
    lines = run("tree", "Domestic animals, pets").stdout.splitlines()
    assert lines[:2] == ["Domestic animals, pets", "├── Dog"]
    assert "│   ├── Howl  also under Canidae, dogs, wolves" in lines
    assert lines[-1] == "    └── Growling  also under Dog; Roaring cats (lions, tigers); Canidae, dogs, wolves"


def test_the_whole_tree_has_seven_roots_and_every_class() -> None:
    ontology = Ontology.load()
    lines = run("tree", "--depth", 99).stdout.splitlines()
    assert [line.split("  ")[0] for line in lines if line[0] not in "│├└ "] == [*map(ontology.name, ontology.roots)]
    assert len(lines) == sum(len(ontology.paths(node.mid)) for node in ontology.nodes)
    assert {line.lstrip("│├└─ ").split("  ")[0] for line in lines} == {node.name for node in ontology.nodes}
    # Of the 38 classes with several parents, each where it stands.
    assert sum(" also under " in line for line in lines) > 38
    assert len(run("tree").stdout.splitlines()) < len(lines)


def test_tree_as_json_is_nested_to_the_depth() -> None:
    (item,) = [item for item in json.loads(run("tree", "--json", "-d", 1).stdout) if item["name"] == "Animal"]
    assert [child["name"] for child in item["children"]] == [
        "Domestic animals, pets",
        "Livestock, farm animals, working animals",
        "Wild animals",
    ]
    assert "children" not in item["children"][0]
    assert item["children"][0]["num_descendants"] == 14
    assert json.loads(run("tree", "Animal", "--json", "-d", 1).stdout) == item


def test_a_tree_without_end_is_refused(tmp_path: Path) -> None:
    entries = [
        {"id": f"{level}{x}", "name": f"{level}{x}", "child_ids": [f"{level + 1}{y}" for y in "ab" if level < 30]}
        for level in range(31)
        for x in "ab"
    ]
    path = tmp_path / "deep.json"
    path.write_text(json.dumps(entries))
    result = run("tree", "--depth", 99, "--ontology", path, status=1)
    assert isinstance(result.exception, OptionError)
    assert "--depth 99: 4,294,967,294 lines" in str(result.exception)
    assert len(run("tree", "--depth", 3, "--ontology", path).stdout.splitlines()) == 30


def test_search_lists_classes_best_first_in_columns() -> None:
    assert run("search", "water").stdout.splitlines() == [
        "INDEX  MID        CLASS                UNDER",
        "288    /m/0838f   Water                Natural sounds",
        "301    /m/019jd   Boat, Water vehicle  Vehicle",
        "370    /m/02jz0l  Water tap, faucet    Domestic sounds, home sounds",
        "293    /m/0j2kx   Waterfall            Water",
    ]
    assert [item["name"] for item in json.loads(run("search", "water", "tap", "--json").stdout)] == [
        "Water tap, faucet"
    ]


def test_search_says_how_many_are_not_shown() -> None:
    result = run("search", "water", "-n", 1)
    assert len(result.stdout.splitlines()) == 2
    assert result.stderr == "3 more; --limit 4 shows them all\n"


def test_search_that_finds_nothing_says_what_is_close() -> None:
    result = run("search", "chainsaww", status=1)
    assert result.stdout == ""
    assert "'Chainsaw'" in result.stderr
    assert json.loads(run("search", "chainsaww", "--json", status=1).stdout) == []


def test_path_prints_every_way_from_a_root() -> None:
    assert run("path", "Howl").stdout.splitlines() == [
        "Animal > Domestic animals, pets > Dog > Howl",
        "Animal > Wild animals > Canidae, dogs, wolves > Howl",
    ]
    (first, _) = json.loads(run("path", "Howl", "--json").stdout)
    assert first[-1] == {"mid": "/m/07qf0zm", "name": "Howl"}


@pytest.mark.parametrize("command", ["show", "tree", "path"])
def test_an_unknown_class_and_a_broken_file_are_refused(command: str, own: Path) -> None:
    result = run(command, "Dogg", status=1)
    assert isinstance(result.exception, OptionError)  # of which main makes a message and exit status 2
    own.write_text("[{")
    assert isinstance(run(command, "Dog", "--ontology", own, status=1).exception, DatasetError)


@pytest.mark.parametrize(("arguments", "status"), [(["path", "Dogg"], 2), (["path", "Dog", "--ontology", "none"], 1)])
def test_the_process_ends_with_a_message_and_a_status(arguments: list[str], status: int, tmp_path: Path) -> None:
    done = subprocess.run([*PROCESS, *arguments], capture_output=True, encoding="utf-8", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith("audioset: ")
    assert done.stderr.count("\n") == 1


def on_terminal(*arguments: str) -> list[str]:
    """The lines that a command shows on a terminal of 80 columns."""
    pty = pytest.importorskip("pty", reason="no terminals of this kind here")
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"}
    try:
        process = subprocess.Popen(
            [*PROCESS, *arguments], stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env=environment
        )
    finally:
        os.close(theirs)
    data = b""
    while piece := _read(ours):
        data += piece
    os.close(ours)
    assert process.wait(timeout=60) == 0, data
    styles = re.compile(r"\x1b\[[0-9;]*m")
    return [line.rstrip() for line in styles.sub("", data.decode()).splitlines()]


def _read(handle: int) -> bytes:
    try:
        return os.read(handle, 65536)
    except OSError:  # how Linux says that the other side has closed
        return b""


def test_a_terminal_shows_the_same_facts_wrapped_to_its_width(own: Path) -> None:
    lines = on_terminal("show", "Parrot", "--ontology", str(own))
    assert lines[0] == "Parrot /m/3"
    assert lines[1:] == run("show", "Parrot", "--ontology", own).stdout.splitlines()[1:]
    lines = on_terminal("tree", "Domestic animals, pets")
    assert lines[:2] == ["Domestic animals, pets", "├── Dog"]
    assert lines[-2:] == [
        "    └── Growling  also under Dog; Roaring cats (lions, tigers); Canidae, dogs,",
        "        wolves",
    ]
    assert max(map(len, lines)) <= 80


def test_a_terminal_is_told_where_descriptions_are() -> None:
    assert on_terminal("show", "Dog")[-1] == "`audioset dataset fetch ontology` gets descriptions and examples"

"""What the README and the site say is so: their Python runs, their command lines parse, their tables agree.

A line `print(...)  # text` in a Python block must print that text; so must comment lines right after it. Blocks of one
page share their names. A block after the comment `<!-- not run: WHY -->` is only compiled. No block may look like
something else: languages are those of `LANGUAGES`. The notebooks are in `test_notebooks.py`.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import itertools
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer.main
import typer.testing

import audioset
from audioset import Model, models
from audioset.classes import class_list
from audioset.cli import app
from audioset.finetune import read_sounds
from audioset.train.config import TrainConfig
from audioset.weights import load as read_weights
from audioset.weights.catalogue import catalogue

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/README.md")),
    *sorted((ROOT / "examples").glob("*/README.md")),
    *sorted(path for folder in ("docs", "recipes") for path in (ROOT / folder).rglob("*.md")),
]
SHELLS = ("bash", "sh", "console")
LANGUAGES = {"python", *SHELLS, "js", "yaml", "json", "dockerfile", "text"}
BLOCK = re.compile(
    r"^(?P<skip><!-- not run: [^\n]+ -->\n)?```(?P<language>\w+)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE
)
# Whatever a reader may take for a block: indented, without a language, with a title.
FENCE = re.compile(r"^[ >]*(?:`{3,}|~{3,}).*$", re.MULTILINE)
INLINE = re.compile(r"(?<!`)`(audioset [^`\n]+)`(?!`)")
EXPECTED = re.compile(r"(?:^# |^(?:.*print\(.*\))  # )(.+)$")


def blocks(page: Path, *languages: str) -> list[tuple[str, bool]]:
    """Code of the page in these languages, and whether it is to be run."""
    found = BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [(match["code"], match["skip"] is None) for match in found if match["language"] in languages]


def shell_lines(page: Path) -> list[list[str]]:
    """Words of every line that the page gives to a shell."""
    code = "\n".join(code for code, _ in blocks(page, *SHELLS)).replace("\\\n", " ")
    return [shlex.split(line.removeprefix("$ "), comments=True) for line in code.splitlines()]


def command_lines(page: Path) -> list[list[str]]:
    """Arguments of every `audioset` that the page tells to run, in pipes and after variables too."""
    found = []
    for words in shell_lines(page):
        for at, word in enumerate(words):
            before = words[at - 1] if at else "|"
            if Path(word).name == "audioset" and ("=" in before or before in ("|", "&&", "exec", "srun")):
                rest = words[at + 1 :]
                ends = [i for i, other in enumerate(rest) if other in ("|", "&&", ">")]
                found.append(rest[: ends[0]] if ends else rest)
    return found


@functools.cache
def whole_command() -> Any:
    return typer.main.get_command(app)


def command_of(arguments: list[str]) -> tuple[Any, list[str]]:
    """The command that the first arguments name, and the other arguments."""
    command: Any = whole_command()
    rest = list(arguments)
    while rest and rest[0] in getattr(command, "commands", {}):
        command = command.commands[rest.pop(0)]
    return command, rest


def ids(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vggish: audioset.Model) -> Path:
    """A folder with the example clips alone, where loading untrained:0 costs nothing."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("node_modules"))
    monkeypatch.chdir(tmp_path)

    def load(model: str = "vggish", weights: str | None = None, **_: Any) -> audioset.Model:
        if model == "mini":
            return Model(models.get(model), read_weights(model, weights))
        assert (model, weights) == ("vggish", "untrained:0"), "a block that runs must use untrained:0 or mini"
        return vggish

    monkeypatch.setattr(audioset, "load", load, raising=False)
    monkeypatch.setattr("audioset.weights.load", lambda model, weights, **_: load(model, weights).weights)
    monkeypatch.setattr("audioset.embed.Model", lambda *_, **__: vggish)
    return tmp_path


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=ids)
def test_python_prints_what_the_page_says(page: Path, elsewhere: Path) -> None:
    names: dict[str, Any] = {}
    for code, to_run in blocks(page, "python"):
        compiled = compile(code, str(page), "exec")
        if not to_run:
            continue
        if (continued := re.match(r"# continues: audioset (.+)\n", code)) is not None:
            result = typer.testing.CliRunner().invoke(app, shlex.split(continued[1]))
            assert result.exit_code == 0, result.output
            code = code[continued.end() :]
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compiled, names)  # noqa: S102 - the project's own pages
        assert printed.getvalue().splitlines() == [
            match[1] for line in code.splitlines() if (match := EXPECTED.match(line))
        ]


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_block_is_one_that_is_looked_at(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    found = [match["language"] for match in BLOCK.finditer(text)]
    assert set(found) <= LANGUAGES
    assert len(FENCE.findall(text)) == 2 * len(found), "a block without a language, or one that is indented"


@pytest.mark.parametrize("page", [page for page in PAGES if command_lines(page)], ids=ids)
def test_command_lines_are_understood(page: Path, elsewhere: Path) -> None:
    for arguments in command_lines(page):
        command, rest = command_of(arguments)
        command.make_context(" ".join(["audioset", *arguments]), rest)  # raises for what it does not know


@pytest.mark.parametrize("page", [page for page in PAGES if INLINE.search(page.read_text("utf-8"))], ids=ids)
def test_commands_in_sentences_exist_and_have_those_options(page: Path) -> None:
    for text in INLINE.findall(page.read_text(encoding="utf-8")):
        first, *others = text.removeprefix("audioset ").split(" | ")  # `audioset models list | fetch` is two of them
        group = first.split()[:-1]
        for words in (first.split(), *([*group, other] for other in others)):
            command, rest = command_of(words)
            assert not rest or not hasattr(command, "commands") or rest[0].startswith("-"), f"{text}: no such command"
            known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
            assert {word for word in rest if word.startswith("-") and word != "-"} <= known, text


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_scripts_and_targets_of_make_are_there(page: Path) -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for words in shell_lines(page):
        for before, word in itertools.pairwise(words):
            if before == "python" and word.endswith(".py"):
                assert (ROOT / word).is_file()
        if words[:1] == ["make"]:
            assert {word for word in words[1:] if "=" not in word} <= set(targets)


def test_settings_in_yaml_are_those_of_training() -> None:
    yaml = pytest.importorskip("yaml")
    ((code, _),) = blocks(ROOT / "docs/how-to/train.md", "yaml")
    config = TrainConfig.of(yaml.safe_load(code), "train.md")
    assert (config.head, config.mixup) == ("multi_attention", 0.4)


def test_every_extra_is_explained() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = project.split("[project.optional-dependencies]\n")[1].split("\n\n")[0]
    rows = re.findall(r"^\| (`.+?`) \|", (ROOT / "docs/getting-started.md").read_text(encoding="utf-8"), re.MULTILINE)
    explained = re.findall(r"`(\w+)`", " ".join(rows))
    assert sorted(explained) == sorted(re.findall(r"^(\w+) = ", section, re.MULTILINE))


def text_of(page: str) -> str:
    """The one block of a page that shows an output, or a file."""
    ((code, _),) = blocks(ROOT / page, "text")
    return code


def test_no_text_is_shown_that_the_tests_below_do_not_know() -> None:
    drawn = {"docs/architecture.md"}
    known = {"docs/how-to/folders.md", "docs/how-to/finetune.md", "docs/how-to/train.md"}
    known |= {"docs/dataset/ontology.md", "docs/dataset/segments.md"}
    assert {ids(page) for page in PAGES if blocks(page, "text")} == known | drawn


@pytest.mark.parametrize(
    ("page", "arguments"),
    [
        ("docs/how-to/folders.md", ["embed", "examples/", "--dry-run"]),
        ("docs/dataset/ontology.md", ["dataset", "ontology", "tree", "Dog"]),
    ],
)
def test_a_command_prints_what_the_page_says(page: str, arguments: list[str], elsewhere: Path) -> None:
    assert typer.testing.CliRunner().invoke(app, arguments).output == text_of(page)


def test_published_segments_are_counted_as_the_page_says(data_dir: Path) -> None:
    segments = str(data_dir / "audioset/balanced_train_segments.csv")
    output = typer.testing.CliRunner().invoke(app, ["dataset", "stats", segments]).output
    assert output.startswith(text_of("docs/dataset/segments.md"))


def test_the_csv_of_labelled_clips_is_understood(tmp_path: Path) -> None:
    (tmp_path / "birds.csv").write_text(text_of("docs/how-to/finetune.md"), encoding="utf-8")
    for name in ("site1/monday.wav", "site2/sunday.wav"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(name, encoding="utf-8")  # the same sound twice would be left out
    sounds = read_sounds(tmp_path / "birds.csv")
    assert sounds.classes.names == ("robin", "wren")
    assert [clip.labels for clip in sounds.clips] == [(0,), (0, 1), ()]
    assert [(clip.start_s, clip.duration_s) for clip in sounds.clips] == [(12, 3.5), (20, 4), (0, 10)]
    assert [clip.split for clip in sounds.clips] == ["", "", "test"]


def test_the_csv_of_labels_has_a_row_a_file() -> None:
    rows = list(csv.DictReader(text_of("docs/how-to/train.md").splitlines()))
    assert [row["labels"].split(";") for row in rows] == [["Bird", "Wind"], ["Siren"]]
    classes = class_list("audioset527")
    assert all(name in classes.names for row in rows for name in row["labels"].split(";"))


def test_the_catalogue_of_mirrors_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ((code, _),) = blocks(ROOT / "docs/how-to/offline.md", "json")
    (tmp_path / "mirrors.json").write_text(code.replace("…64 hexadecimal digits…", "0" * 64), encoding="utf-8")
    monkeypatch.setenv("AUDIOSET_CATALOGUE", str(tmp_path / "mirrors.json"))
    assert catalogue()["vggish"].url == "https://mirror.example.org/vggish_model.ckpt"
    assert "vggish-birds" in catalogue()


def test_readme_has_two_commands_for_ci_to_run() -> None:
    first, second = (code.strip() for code, _ in blocks(ROOT / "README.md", "bash")[:2])
    assert "\n" not in first
    assert "audioset embed --model mini examples/speech.ogg" in first
    assert "\n" not in second
    assert second.endswith("-m pytest")
    assert "-c constraints.txt" in second


def test_readme_lists_every_model() -> None:
    rows = re.findall(r"^\| `(\w+)` \|.*$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == list(models.REGISTRY)


@pytest.mark.parametrize("name", models.REGISTRY)
def test_readme_says_hop_width_and_licence_of_a_model(name: str) -> None:
    spec = models.get(name)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (row,) = re.findall(rf"^\| `{name}` \|.*$", text, re.MULTILINE)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[3] == f"{spec.hop_s:g} s"
    assert cells[4] == str(spec.embedding_dim)
    assert cells[5] == ("–" if spec.num_classes is None else str(spec.num_classes))
    assert cells[7] == spec.licence


def test_every_example_is_listed_with_its_length() -> None:
    from audioset import audio

    text = (ROOT / "examples/README.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| `(\w+\.ogg)` \| ([\d.]+) \|", text, re.MULTILINE))
    found = {path.name: f"{audio.probe(path).duration_s:.1f}" for path in (ROOT / "examples").glob("*.ogg")}
    assert listed == found


def test_citation_has_the_version_of_the_package() -> None:
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {audioset.__version__}\n" in text


def test_readme_and_site_have_the_same_figures() -> None:
    def rows(path: str) -> dict[str, str]:
        found = re.findall(r"^\| (.+?) \| (.+) \|$", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)
        return dict(found)

    readme, site = rows("README.md"), rows("docs/performance.md")
    both = readme.keys() & site.keys()
    assert "8-bit form, from the waveform" in both
    assert {what: readme[what] for what in both} == {what: site[what] for what in both}

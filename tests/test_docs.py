"""What the README and the site say is so: their Python runs, their command lines parse, their tables agree.

A line `print(...)  # text` in a Python block must print that text; so must comment lines right after it. Blocks of one
page share their names. A block after the comment `<!-- not run: WHY -->` is only compiled.
"""

from __future__ import annotations

import contextlib
import io
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
from audioset.cli import app
from audioset.weights import load as read_weights

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"(?P<skip><!-- not run: .+ -->\n)?```(?P<language>\w+)\n(?P<code>.*?)```", re.DOTALL)
EXPECTED = re.compile(r"(?:^# |^(?:.*print\(.*\))  # )(.+)$")


def blocks(page: Path, *languages: str) -> list[tuple[str, bool]]:
    """Code of the page in these languages, and whether it is to be run."""
    found = BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [(match["code"], match["skip"] is None) for match in found if match["language"] in languages]


def command_lines(page: Path) -> list[list[str]]:
    """Arguments of every `audioset` that the page tells to run, in pipes and after variables too."""
    lines = [line for code, _ in blocks(page, "bash", "console") for line in code.splitlines()]
    found = []
    for line in lines:
        words = shlex.split(line.removeprefix("$ "), comments=True)
        for at, word in enumerate(words):
            if Path(word).name == "audioset" and (at == 0 or "=" in words[at - 1] or words[at - 1] in ("|", "&&")):
                rest = words[at + 1 :]
                ends = [i for i, other in enumerate(rest) if other in ("|", "&&", ">")]
                found.append(rest[: ends[0]] if ends else rest)
    return found


def ids(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vggish: audioset.Model) -> Path:
    """A folder with the example clips alone, where loading untrained:0 costs nothing."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
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


@pytest.mark.parametrize("page", [page for page in PAGES if command_lines(page)], ids=ids)
def test_command_lines_are_understood(page: Path, elsewhere: Path) -> None:
    for arguments in command_lines(page):
        command: Any = typer.main.get_command(app)
        rest = list(arguments)
        while rest and rest[0] in getattr(command, "commands", {}):
            command = command.commands[rest.pop(0)]
        command.make_context(" ".join(["audioset", *arguments]), rest)  # raises for what it does not know


def test_embedding_the_examples_gives_what_the_page_says(elsewhere: Path) -> None:
    said = next(code for code, _ in blocks(ROOT / "docs/how-to/folders.md", "text"))
    result = typer.testing.CliRunner().invoke(app, ["embed", "examples/", "--dry-run"])
    assert result.output == said


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

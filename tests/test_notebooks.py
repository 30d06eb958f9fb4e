"""The notebooks run from first to last and print what is kept in them, and the site shows all of it."""

from __future__ import annotations

import base64
import importlib.util
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MAX_BYTES = 400_000
MAX_PICTURE_BYTES = 150_000
ELSEWHERE = re.compile(r"/(?:tmp|home|root|opt|usr|work|Users|var)/|[A-Z]:\\\\")


def module(path: str) -> Any:
    spec: Any = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


runner = module("scripts/run_notebooks.py")


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(cell: Any) -> list[tuple[str, str]]:
    """What a cell gave, without the pixels of pictures: those depend on the version of matplotlib."""
    found = []
    for output in cell.outputs:
        contents = output.get("data", {"text": output.get("text", "")})
        found += sorted((kind, "" if kind == "image/png" else content) for kind, content in contents.items())
    return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_running_it_gives_what_is_kept_in_it(path: Path) -> None:
    kept = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    fresh = runner.run(path)
    assert [shown(cell) for cell in code_cells(fresh)] == [shown(cell) for cell in code_cells(kept)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_kept_whole_and_small_and_name_no_place(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    nbformat.validate(notebook)  # type: ignore[no-untyped-call]
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "run all of it: make notebooks"
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]
    assert path.stat().st_size < MAX_BYTES
    for kind, content in (part for cell in cells for part in shown(cell)):
        assert kind == "text/html" or not ELSEWHERE.search(content)
    data = [output.get("data", {}) for cell in cells for output in cell.outputs]
    pictures = [contents["image/png"] for contents in data if "image/png" in contents]
    assert len(pictures) >= 3
    assert max(map(len, pictures)) < MAX_PICTURE_BYTES
    assert notebook.metadata.keys() == {"kernelspec", "language_info"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_page_has_every_cell_and_picture(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    files = module("docs/_hooks.py").notebook_files(path)
    page = files.pop(f"notebooks/{path.stem}.md")
    assert files.pop(f"notebooks/{path.stem}.ipynb") == path.read_text(encoding="utf-8")
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert f"```python\n{cell.source}\n```" in page
            for kind, content in shown(cell):
                if kind == "text":
                    assert f"```text\n{content.rstrip()}\n```" in page
        else:
            assert cell.source.splitlines()[0] in page
    assert ".ipynb" not in page.replace(f"({path.name})", "")
    assert "../docs/" not in page
    assert re.findall(r"!\[.+?\]\((.+?)\)", page) == [Path(name).name for name in files]
    assert all(content.startswith(b"\x89PNG") for content in files.values())


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_lead_to_files(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    targets = re.findall(r"\]\(([^):#]+)[^)]*\)", text)
    assert len(targets) >= 3
    for target in targets:
        assert (path.parent / target).is_file(), target


def write_notebook(path: Path, source: str) -> Path:
    cell = nbformat.v4.new_code_cell(source)  # type: ignore[no-untyped-call]
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)  # type: ignore[no-untyped-call]
    return path


def test_a_cell_that_fails_stops_it(tmp_path: Path) -> None:
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        runner.run(write_notebook(tmp_path / "broken.ipynb", "1 / 0"))


def test_a_warning_stops_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"warns\.ipynb: cell 1 wrote to standard error: .*UserWarning: careful"):
        runner.run(write_notebook(tmp_path / "warns.ipynb", "import warnings\nwarnings.warn('careful')"))


def test_it_runs_beside_the_examples_and_leaves_nothing(tmp_path: Path) -> None:
    source = "import os, tempfile\nprint(*sorted(os.listdir('../examples')), tempfile.mkdtemp())"
    notebook = runner.run(write_notebook(tmp_path / "looks.ipynb", source))
    *found, folder = notebook.cells[0].outputs[0].text.split()
    assert {"speech.ogg", "siren.ogg", "sequence.ogg"} <= set(found)
    assert not Path(folder).exists()


def test_pictures_lose_their_metadata() -> None:
    small = base64.b64decode(runner._small(base64.b64encode((ROOT / "docs/models/mini-losses.png").read_bytes())))
    assert b"tEXt" not in small
    assert len(small) < (ROOT / "docs/models/mini-losses.png").stat().st_size

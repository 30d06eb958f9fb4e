"""Run the notebooks from their first cell to the last, and write them back with what they print and draw.

    python scripts/run_notebooks.py [notebooks/quickstart.ipynb …]      (or `make notebooks`)

Each runs in a temporary folder that has `examples/` beside `notebooks/`, as a clone has. The outputs are the same every
time: pictures have one resolution and name no version, and nothing says when, where or how fast they were made.
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image
from traitlets.config import Config

ROOT = Path(__file__).parents[1]
TIMEOUT_S = 120
DPI = 80
PNG = "image/png"
TRANSPORT = "tcp" if os.name == "nt" else "ipc"

# Read by the kernel before the first cell.
SETTINGS = f"""
c.InlineBackend.print_figure_kwargs = {{"bbox_inches": "tight", "dpi": {DPI}}}
c.HistoryManager.enabled = False
"""


def notebooks() -> list[Path]:
    """Return all notebooks of the repository."""
    return sorted((ROOT / "notebooks").glob("*.ipynb"))


def run(path: Path) -> Any:
    """Return a notebook with fresh outputs; the file stays as it is.

    Raises
    ------
    nbclient.exceptions.CellExecutionError
        A cell failed.
    ValueError
        A cell wrote to standard error, where warnings go.
    """
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder)
        for name in ("examples", "notebooks", "temporary", "ipython/profile_default"):
            (clone / name).mkdir(parents=True)
        for example in (ROOT / "examples").iterdir():
            if example.is_file():
                shutil.copy(example, clone / "examples")
        (clone / "ipython/profile_default/ipython_kernel_config.py").write_text(SETTINGS, encoding="utf-8")
        environment = {"IPYTHONDIR": str(clone / "ipython"), "TMPDIR": str(clone / "temporary")}
        client = NotebookClient(
            notebook,
            kernel_name="python3",
            timeout=TIMEOUT_S,
            record_timing=False,
            # Sockets in the folder instead of open ports, where the system has such.
            config=Config({"KernelManager": {"connection_file": str(clone / "kernel.json"), "transport": TRANSPORT}}),
            resources={"metadata": {"path": str(clone / "notebooks")}},
        )
        client.execute(env={**os.environ, **environment})
    notebook.metadata.language_info = {"name": "python"}
    for place, cell in enumerate(notebook.cells, start=1):
        for output in cell.get("outputs", ()):
            if output.get("name") == "stderr":
                raise ValueError(f"{path.name}: cell {place} wrote to standard error: {output.text.strip()}")
            if PNG in output.get("data", {}):
                output.data[PNG] = _small(output.data[PNG])
    return notebook


def _small(png: str) -> str:
    """Return a picture in base64 in 256 colours, without metadata: a third of the size, and no version in it."""
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    small = io.BytesIO()
    image.quantize(256, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", type=Path, nargs="*", help="those to run; all by default")
    for path in parser.parse_args().notebooks or notebooks():
        text = nbformat.writes(run(path))  # type: ignore[no-untyped-call]
        path.write_text(text + "\n", encoding="utf-8")
        print(f"{path}: {len(text) / 1000:.0f} kB")


if __name__ == "__main__":
    main()

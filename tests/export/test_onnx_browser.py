"""The example page: its constants are the package's, and in a real browser it gives the package's results."""

from __future__ import annotations

import base64
import functools
import json
import re
import shlex
import shutil
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import typer.main

import audioset
from audioset import audio, features, models
from audioset.cli import app
from audioset.export import export_onnx

from . import _chromium

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "examples" / "browser"


def constant(name: str) -> str:
    found = re.search(rf"const {name} = ([^;]+);", (PAGE / "model.js").read_text())
    assert found, f"model.js has no {name}"
    return found[1].strip('"')


def test_constants_of_the_page_are_those_of_the_package(tmp_path: Path) -> None:
    import onnx

    assert int(constant("SAMPLE_RATE_HZ")) == features.SAMPLE_RATE_HZ
    assert int(constant("EXAMPLE_SAMPLES")) == features.EXAMPLE_SAMPLES
    assert int(constant("METADATA_FIELD")) == onnx.ModelProto.METADATA_PROPS_FIELD_NUMBER
    written = export_onnx("mini", tmp_path / "mini.onnx")
    assert constant("INPUT") in written.inputs
    assert constant("OUTPUT") in written.outputs
    source = (PAGE / "model.js").read_text()
    assert set(re.findall(r"metadata\.(\w+)", source)) <= written.metadata.keys()


def test_the_page_names_only_files_that_are_there_and_an_exact_version() -> None:
    scripts = {path.name: path.read_text() for path in [PAGE / "index.html", *PAGE.glob("*.js")]}
    named = {name for text in scripts.values() for name in re.findall(r'["/](\w+\.js)"', text)}
    assert named == {path.name for path in PAGE.glob("*.js")}
    ids = set(re.findall(r'id="(\w+)"', scripts["index.html"]))
    (used,) = re.findall(r"fromEntries\(\[(.+?)\]", scripts["app.js"])
    assert set(re.findall(r'"(\w+)"', used)) == ids
    (version,) = json.loads((PAGE / "package.json").read_text())["dependencies"].values()
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert not re.search(r"https?://", "".join(scripts.values())), "the page fetches from elsewhere"


def test_the_commands_of_the_readme_parse() -> None:
    text = (PAGE / "README.md").read_text()
    lines = re.findall(r"^audioset .+$", text, re.MULTILINE)
    assert len(lines) == 3
    group: Any = typer.main.get_command(app)
    for line in lines:
        _, verb, *arguments = shlex.split(line)
        group.commands[verb].make_context(verb, list(arguments))


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's folder with mini in it, as its README makes it."""
    if not (PAGE / "node_modules" / "onnxruntime-web").is_dir():
        pytest.skip("no onnxruntime-web here; run `npm install` in examples/browser")
    folder = tmp_path_factory.mktemp("page")
    shutil.copytree(PAGE, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("node_modules", "*.onnx"))
    (folder / "node_modules").symlink_to(PAGE / "node_modules")
    export_onnx("mini", folder / "mini.onnx")
    return folder


@pytest.fixture(scope="module")
def browser(served: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[_chromium.Chromium]:
    """The page in Chromium, whose microphone hears someone speak."""
    import soundfile

    command = _chromium.find()
    if command is None:
        pytest.skip("no Chromium here; install it (Debian: apt install chromium)")
    speech, rate = soundfile.read(ROOT / "examples" / "speech.ogg")
    heard = tmp_path_factory.mktemp("heard") / "speech.wav"
    soundfile.write(heard, speech, rate, "PCM_16")
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(QuietHandler, directory=str(served)))
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    chromium = _chromium.Chromium(
        command,
        tmp_path_factory.mktemp("profile"),
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={heard}",
        "--autoplay-policy=no-user-gesture-required",
    )
    try:
        chromium.send("Page.navigate", url=f"http://127.0.0.1:{server.server_port}/index.html")
        chromium.wait_until("document.querySelector('#status')?.textContent.startsWith('Ready: mini, 521 classes')")
        yield chromium
    finally:
        chromium.close()
        server.shutdown()
        serving.join()
        server.server_close()


FIRST = "document.querySelector('#results span')?.textContent"


def wait_for_first(browser: _chromium.Chromium, name: str) -> None:
    browser.wait_until(f"{FIRST} === {json.dumps(name)}")


def scores_in(browser: _chromium.Chromium, name: str, waveform: npt.NDArray[np.float32]) -> Any:
    """The scores, as the page computes them, and the classes that it found in the file."""
    sent = base64.b64encode(waveform.tobytes()).decode()
    script = f"""(async () => {{
        const {{ Model }} = await import("./model.js");
        const bytes = Uint8Array.from(atob("{sent}"), (letter) => letter.charCodeAt(0));
        const model = await Model.load("{name}");
        const rows = await model.scores(new Float32Array(bytes.buffer));
        return JSON.stringify({{ rows: rows.map((row) => Array.from(row)), classes: model.classes }});
    }})()"""
    found = json.loads(browser.evaluate(script))
    return np.array(found["rows"]), found["classes"]


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "within"), [("fp32", 1e-3), ("int8", 0.05)])
def test_the_browser_gives_the_librarys_scores(
    precision: Any, within: float, browser: _chromium.Chromium, served: Path
) -> None:
    export_onnx("mini", served / f"{precision}.onnx", precision=precision, overwrite=True)
    # Over half a minute, so that the page cuts it into pieces; its last example is padded.
    once = audio.read(ROOT / "examples" / "sequence.ogg")
    waveform = np.concatenate([once, 0.01 * once, once, once[:12_345]])
    found, classes = scores_in(browser, f"{precision}.onnx", waveform)
    assert classes == list(models.get("mini").classes.names)
    expected = audioset.load("mini", precision=precision).tag(waveform, sample_rate=16_000).values
    assert len(expected) == features.num_examples(len(waveform), hop_s=0.48, pad="all") > 64
    np.testing.assert_allclose(found, expected, rtol=0, atol=within)


@pytest.mark.slow
def test_a_file_is_decoded_and_named(browser: _chromium.Chromium, tmp_path: Path) -> None:
    clip = ROOT / "examples" / "speech.ogg"
    browser.choose_file("#file", clip)
    wait_for_first(browser, "Speech")
    score = float(browser.evaluate("document.querySelector('#results .score').textContent"))
    assert abs(score - audioset.load("mini").tag(clip).values.mean(axis=0).max()) < 0.02
    assert "speech.ogg: 6.1 s of sound" in browser.evaluate("document.querySelector('#status').textContent")
    assert browser.evaluate("document.querySelectorAll('#results li').length") == 10
    browser.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 10_000


@pytest.mark.slow
def test_a_file_that_is_no_sound_is_named_as_such(browser: _chromium.Chromium, tmp_path: Path) -> None:
    (tmp_path / "notes.ogg").write_text("no sound at all")
    browser.choose_file("#file", tmp_path / "notes.ogg")
    browser.wait_until("document.querySelector('#status.failed')?.textContent.includes('notes.ogg')")
    assert browser.evaluate("document.querySelectorAll('#results li').length") == 0


@pytest.mark.slow
def test_the_microphone_is_named_as_it_sounds(browser: _chromium.Chromium) -> None:
    browser.evaluate("document.querySelector('#microphone').click()")
    browser.wait_until("document.querySelector('#microphone').textContent === 'Stop'")
    wait_for_first(browser, "Speech")
    browser.evaluate("document.querySelector('#microphone').click()")
    browser.wait_until("document.querySelector('#status').textContent === 'Stopped.'")


@pytest.mark.slow
def test_a_model_that_is_not_there_is_named(browser: _chromium.Chromium) -> None:
    browser.evaluate("location.search = '?model=none.onnx'")
    browser.wait_until("document.querySelector('#status.failed')?.textContent.startsWith('none.onnx: 404')")

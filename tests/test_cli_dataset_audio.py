"""`audioset dataset download-audio` and `download-status`, against a local server; and the SLURM script of the docs."""

from __future__ import annotations

import inspect
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile
import typer.main
from typer.testing import CliRunner, Result

from audioset.cli import app
from audioset.cli.dataset import audio
from audioset.dataset.download import DownloadOptions
from dataset.download._media import MediaServer, noise, wav
from dataset.download.conftest import impatient  # noqa: F401 - for all tests here

pytest.importorskip("yt_dlp")

SCRIPT = Path(__file__).parents[1] / "docs" / "slurm.md"
HEADER = "# created\n# num_ytids=4, num_segs=4\n# YTID, start_seconds, end_seconds, positive_labels\n"
# -dog has a label below Dog in the ontology.
ROWS = ('-dog, 1.000, 2.000, "/m/05tny_"\n', 'cat, 0.500, 1.500, "/m/01yrx"\n', 'gone, 0.000, 1.000, "/m/0bt9lr"\n')
LAST = 'speech, 0.000, 10.000, "/m/09x0r"\n'


@pytest.fixture
def server() -> Iterator[MediaServer]:
    server = MediaServer()
    for name in ("-dog", "cat", "speech"):
        server.serve(name, wav(noise(3.0)))
    yield server
    server.close()


@pytest.fixture
def segments(tmp_path: Path) -> Path:
    path = tmp_path / "segments.csv"
    path.write_text(HEADER + "".join(ROWS) + LAST, encoding="utf-8")
    return path


def run(command: str, *arguments: object, status: int = 0) -> Result:
    result = CliRunner().invoke(app, ["dataset", command, *map(str, arguments)])
    assert result.exit_code == status, (result.output, result.exception)
    return result


def test_a_run_says_what_became_of_each_clip(server: MediaServer, segments: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    here = ("--url-template", server.template, "--jobs", 1)
    result = run("download-audio", segments, "-o", out, *here, "--report", tmp_path / "r.csv", status=1)
    assert "failed: gone_0: removed: the site answers 404 Not Found" in result.stderr
    assert "failed: speech_0: too_short: the video is 3.000 s long; the segment ends at 10.000 s" in result.stderr
    said = r"2 clips → .*out \(0:00:02 of sound in .* s\); 2 failed: 1 removed, 1 too_short; ledger .*ledger.sqlite"
    assert re.search(said, result.stderr)
    assert result.stdout == ""
    assert len((tmp_path / "r.csv").read_text(encoding="utf-8").splitlines()) == 3
    assert sorted(path.name for path in out.glob("*.flac")) == ["-dog_1000.flac", "cat_500.flac"]

    again = run("download-audio", segments, "-o", out, *here, "--json", status=1)
    about = json.loads(again.stdout)
    assert (about["clips"], about["skipped"], about["failed"]) == (0, 2, 2)
    assert about["reasons"] == {"removed": 1, "too_short": 1}
    assert about["failures"][0]["key"] == "gone_0"

    short = run("download-audio", segments, "-o", out, *here, "--retry-failed", "--allow-short", status=1)
    assert "1 clip → " in short.stderr
    assert soundfile.info(out / "speech_0.flac").duration == 3.0


def test_status_sums_up_the_ledgers(server: MediaServer, segments: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for i in (1, 2):
        here = ("--url-template", server.template, "--shard", f"{i}/2", "--jobs", 1)
        run("download-audio", segments, "-o", out, *here, status=1)
    shown = run("download-status", out, "--report", tmp_path / "r.json").stdout
    assert "2 clips done (0:00:02), 2 failed, 0 pending; 2 ledgers" in shown
    assert re.search(r"1  removed +the video or its account is gone", shown)
    assert len(json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))) == 2
    about = json.loads(run("download-status", out, "--json").stdout)
    assert (about["done"], about["failed"], about["pending"], len(about["ledgers"])) == (2, 2, 0, 2)
    result = CliRunner().invoke(app, ["dataset", "download-status", str(tmp_path)])
    assert "no ledger" in str(result.exception)


def test_classes_formats_and_limit(server: MediaServer, segments: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    how = (
        "--url-template",
        server.template,
        "--classes",
        "Dog",
        "--limit",
        1,
        "--format",
        "opus",
        "--rate",
        16000,
        "--mono",
    )
    run("download-audio", segments, "-o", out, *how)
    (made,) = out.glob("*.opus")
    assert made.name == "-dog_1000.opus"
    info = soundfile.info(made)
    assert (info.samplerate, info.channels, info.frames) == (16_000, 1, 16_000)


@pytest.mark.parametrize(("arguments", "said"), [
    (("--shard", "0/4"), "--shard 0/4: expected I/N with I from 1 to N"),
    (("--shard", "5/4"), "--shard 5/4: expected"),
    (("--shard", "all"), "--shard all: expected"),
    (("--report", "r.txt"), "r.txt: expected a name that ends in .csv or .json"),
    (("--format", "opus", "--rate", "44100"), "44100 with format opus"),
    (("--max-height", "720"), "max_height: 720 without video"),
    (("--limit", "0"), "limit: 0; expected 1"),
    (("--classes", "Dgo"), "Dgo"),
])  # fmt: skip
def test_wrong_usage_is_refused_before_anything_is_fetched(
    server: MediaServer, segments: Path, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    command = ["dataset", "download-audio", str(segments), "-o", str(tmp_path / "out"), *arguments]
    result = CliRunner().invoke(app, [*command, "--url-template", server.template])
    assert said in str(result.exception)
    assert not (tmp_path / "out").exists()
    assert all(not served.asked for served in server.files.values())


def test_defaults_equal_the_librarys() -> None:
    default = DownloadOptions()
    given = {name: parameter.default for name, parameter in inspect.signature(audio.download_audio).parameters.items()}
    names = {"output_format": "format", "rate": "rate_hz", "timeout": "timeout_s", "pause": "pause_s"}
    compared = [name for name in given if hasattr(default, names.get(name, name))]
    assert len(compared) == len(default.__dataclass_fields__)
    for name in compared:
        value = given[name]
        assert getattr(value, "value", value) == getattr(default, names.get(name, name)), name


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_says_what_is_left(server: MediaServer, segments: Path, tmp_path: Path) -> None:
    held = threading.Event()
    server.files["cat"].slow = held
    out = tmp_path / "out"
    command = [sys.executable, "-c", "from audioset.cli import main; main()", "dataset", "download-audio", segments]
    process = subprocess.Popen(
        [*command, "-o", out, "--url-template", server.template, "--jobs", "1"], stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 60
    while len(server.files["cat"].asked) < 2:
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said == "interrupted; 1 of 4 clips are done: the same command goes on with the rest\n"
    held.set()
    result = run("download-audio", segments, "-o", out, "--url-template", server.template, status=1)
    assert "1 clip → " in result.stderr
    assert "1 there already" in result.stderr


def slurm_script(folder: Path) -> Path:
    """The script of the page, and an `audioset` that looks for videos on the local server."""
    found = re.search(r"```sh\n(#!/bin/bash\n.*?)```", SCRIPT.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    script = folder / "download.sbatch"
    script.write_text(found[1], encoding="utf-8")
    return script


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs bash")
def test_the_slurm_script_runs_every_shard_and_resumes(server: MediaServer, segments: Path, tmp_path: Path) -> None:
    script, out, programs = slurm_script(tmp_path), tmp_path / "out", tmp_path / "bin"
    programs.mkdir()
    code = "from audioset.cli import main; main()"
    ours = f"exec {shlex.quote(sys.executable)} -c {shlex.quote(code)}"
    (programs / "audioset").write_text(f'#!/bin/sh\n{ours} "$@" --url-template {server.template} --pause 0\n')
    (programs / "audioset").chmod(0o755)

    def array(only: range) -> list[tuple[int, str]]:
        """Run these tasks of an array of 2 at once, as SLURM does."""
        tasks = []
        for i in only:
            variables = {"SLURM_ARRAY_TASK_ID": str(i), "SHARDS": "2", "SEGMENTS": str(segments), "OUT": str(out)}
            path = f"{programs}{os.pathsep}{os.environ['PATH']}"
            tasks.append(
                subprocess.Popen(
                    ["bash", str(script)],
                    env={**os.environ, **variables, "PATH": path},
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        ended = [(task, task.communicate(timeout=60)[1]) for task in tasks]
        return [(task.returncode, said) for task, said in ended]

    first = array(range(1, 3))
    assert [status for status, _ in first] == [1, 1], first  # one is gone, one too short: SLURM shows both as failed
    about = json.loads(run("download-status", out, "--json").stdout)
    assert (about["done"], about["failed"], about["pending"], len(about["ledgers"])) == (2, 2, 0, 2)
    asked = len(server.files["cat"].asked)
    server.serve("gone", wav(noise(3.0)))
    ((status, said),) = array(range(2, 3))  # submitted again, for one task alone
    assert status == 1
    assert "0 clips" in said
    assert len(server.files["cat"].asked) == asked


def test_the_slurm_script_is_valid_shell_and_has_as_many_shards_as_tasks(tmp_path: Path) -> None:
    text = slurm_script(tmp_path).read_text(encoding="utf-8")
    tasks = re.search(r"#SBATCH --array=1-(\d+)", text)
    shards = re.search(r"SHARDS:-(\d+)", text)
    assert tasks is not None
    assert shards is not None
    assert tasks[1] == shards[1]
    line = text[text.index("exec audioset") :].replace("\\\n", " ").replace("$SLURM_ARRAY_TASK_ID/$SHARDS", "1/20")
    _, _, *words = shlex.split(line)
    command = typer.main.get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]  # type: ignore[attr-defined]
    command.make_context("audioset", words)

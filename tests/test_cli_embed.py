"""`audioset embed` and the root command, as users run them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner, Result

import audioset
from audioset.cli import app, main
from audioset.cli import embed as command
from audioset.embed import EmbedOptions

pytestmark = [
    pytest.mark.filterwarnings("ignore::audioset.weights.UntrainedWeightsWarning"),
    pytest.mark.usefixtures("tiny"),
]

WEIGHTS = ["-m", "tiny", "-w", "untrained:0"]


@pytest.fixture
def folder(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Ten clips of 1 to 5.5 s."""
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    for number in range(10):
        samples = 0.1 * rng.standard_normal(16_000 + 8_000 * number)
        soundfile.write(sounds / f"{number}.flac", samples, 16_000)
    return sounds


def run(*arguments: object, status: int = 0) -> Result:
    result = CliRunner().invoke(app, ["embed", *map(str, arguments), *WEIGHTS])
    if status == 0 and result.exception:
        raise result.exception
    assert result.exit_code == status, result.output
    return result


def test_folder_to_parquet(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    result = run(folder, "-o", out)
    table = audioset.read_embeddings(out)
    model = audioset.load("tiny", "untrained:0")
    expected = [model.embed(file) for file in sorted(folder.iterdir())]
    np.testing.assert_array_equal(table.values, np.concatenate([e.values for e in expected]))
    np.testing.assert_array_equal(table.start_s, np.concatenate([e.start_s for e in expected]))
    assert list(table.file) == [e.file for e in expected for _ in range(len(e))]
    assert table.info.weights_sha256 == model.weights.sha256
    assert f"{len(table.values)} embeddings of 10 files → {out}" in result.stderr
    assert result.stdout == ""


def test_options_reach_the_library(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.npz"
    run(folder / "9.flac", "-o", out, "--hop", 0.25, "--pad", "all", "--start", 1, "--duration", 3.2)
    model = audioset.load("tiny", "untrained:0")
    expected = model.embed(folder / "9.flac", hop_s=0.25, pad="all", start_s=1, duration_s=3.2)
    table = audioset.read_embeddings(out)
    np.testing.assert_array_equal(table.values, expected.values)
    np.testing.assert_array_equal(table.end_s, expected.end_s)


def test_defaults_are_those_of_the_library() -> None:
    import inspect

    parameters = inspect.signature(command.embed).parameters
    defaults = EmbedOptions()
    assert parameters["hop"].default == defaults.hop_s
    assert parameters["pad"].default == defaults.pad
    assert parameters["start"].default == defaults.start_s
    assert parameters["duration"].default == defaults.duration_s
    assert parameters["pool"].default.value == defaults.pool
    assert parameters["postprocess"].default.value == defaults.postprocess
    library = inspect.signature(audioset.load).parameters
    assert parameters["model"].default == library["model"].default
    assert parameters["weights"].default == library["weights"].default
    assert parameters["threads"].default == library["threads"].default
    assert parameters["batch"].default == library["batch_size"].default


def test_bad_files_are_named_and_the_rest_is_written(folder: Path, tmp_path: Path) -> None:
    (folder / "text.wav").write_text("hello")
    (folder / "empty.mp3").touch()
    out = tmp_path / "out.parquet"
    result = run(folder, tmp_path / "gone.wav", "-o", out, status=1)
    for name in ("text.wav", "empty.mp3", "gone.wav"):
        assert name in result.stderr
    assert "3 failed" in result.stderr
    assert len(set(audioset.read_embeddings(out).file)) == 10


def test_nothing_readable_leaves_no_output(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    result = run(tmp_path / "gone.wav", "-o", out, status=1)
    assert "gone.wav: no such file" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_summary_as_json(folder: Path, tmp_path: Path) -> None:
    soundfile.write(folder / "short.wav", np.zeros(100), 16_000)
    (folder / "text.wav").write_text("hello")
    result = run(folder, "-o", tmp_path / "out.parquet", "--json", status=1)
    summary = json.loads(result.stdout)
    assert (summary["files"], summary["padded_short"], summary["without_rows"]) == (11, 1, 0)
    assert [failure["file"] for failure in summary["failures"]] == [str(folder / "text.wav")]
    assert summary["audio_s"] == pytest.approx(32.5 + 100 / 16_000, abs=1e-3)


def test_clips_without_a_row_are_counted(folder: Path, tmp_path: Path) -> None:
    soundfile.write(folder / "short.wav", np.zeros(100), 16_000)
    result = run(folder, "-o", tmp_path / "out.parquet", "--pad", "none")
    assert "1 clip too short for an example under --pad none" in result.stderr


def test_lines_of_json_on_standard_output(folder: Path) -> None:
    result = run(folder / "0.flac", "-o", "-", "--pool", "mean")
    row = json.loads(result.stdout)
    assert row["file"] == str(folder / "0.flac")
    assert len(row["embedding"]) == 16


def test_dry_run_tells_what_a_run_gives(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    expected = json.loads(run(folder, "-o", out, "--dry-run", "--hop", 0.5, "--json").stdout)
    assert not out.exists()
    run(folder, "-o", out, "--hop", 0.5)
    table = audioset.read_embeddings(out)
    assert {row["file"]: row["rows"] for row in expected["files"]} == {
        name: list(table.file).count(name) for name in sorted(set(table.file))
    }


def test_finished_output_is_kept(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    run(folder, "-o", out)
    before = out.stat().st_mtime_ns
    result = CliRunner().invoke(app, ["embed", str(folder), "-o", str(out), *WEIGHTS])
    assert "--overwrite" in str(result.exception)
    assert out.stat().st_mtime_ns == before
    result = run(folder, "-o", out, "--resume")
    assert "already complete" in result.stderr
    assert out.stat().st_mtime_ns == before
    run(folder, "-o", out, "--overwrite", "--hop", 0.48)
    assert audioset.read_embeddings(out).info.hop_s == 0.48


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no input: expected files"),
        (["x.wav", "-m", "vgish"], "unknown model 'vgish'"),
        (["x.wav", "--hop", "0"], "hop_s: 0.0 is out of range"),
        (["x.wav", "--format", "xml"], "xml"),
        (["x.wav", "-o", "out.xyz"], "xyz"),
        (["x.wav", "-o", "-", "--json"], "--json: standard output already takes"),
        (["x.wav", "-o", "out.tfrecord"], "--postprocess uint8"),
        (["--files-from", "gone.txt"], "gone.txt: cannot read this list"),
        (["x.wav", "--threads", "0"], "threads: 0 is out of range"),
        (["x.wav", "--pca", "p.npz"], "--pca: would not be used"),
    ],
)
def test_wrong_usage_is_one_message_and_status_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["audioset", "embed", *WEIGHTS, *arguments])
    with pytest.raises(SystemExit, match="2"):
        main()
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-w", "untraind:0"], "untrain"),
        (["-o", "no/such/folder/out.parquet"], "folder"),
    ],
)
def test_what_cannot_be_had_is_one_message_and_status_1(
    arguments: list[str],
    message: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["audioset", "embed", str(folder), *WEIGHTS, *arguments])
    with pytest.raises(SystemExit, match="1"):
        main()
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


# The tiny model in a process of its own, slowed down so that a signal finds it half-way.
SLOW = """
import sys, time
from types import MappingProxyType
from audioset import models, network
from audioset.models.layers import Conv, Dense, GlobalAverage, Output
from audioset.models.spec import ModelSpec
spec = ModelSpec(name="tiny", summary="", layers=(Conv("a", 8, stride=8), GlobalAverage(), Dense("b", 16),
    Output("embedding")), log_offset=0.01, hop_s=0.96, pad="short", licence="", citation="", has_pca=True)
models.REGISTRY = MappingProxyType({**models.REGISTRY, "tiny": spec})
delay = float(sys.argv.pop(1))
run = network.Network.run
def slow(self, *arguments, **options):
    time.sleep(delay)
    return run(self, *arguments, **options)
network.Network.run = slow
from audioset.records import job
job.FLUSH_S = 0
from audioset.cli import main
main()
"""


def start(delay: float, *arguments: object, **options: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", SLOW, str(delay), "embed", *map(str, arguments), *WEIGHTS]
    return subprocess.Popen(command, stderr=subprocess.PIPE, **options)  # type: ignore[call-overload, no-any-return]


def wait_for(pattern: str, folder: Path, count: int = 1) -> None:
    deadline = time.monotonic() + 30
    while len(list(folder.glob(pattern))) < count:
        assert time.monotonic() < deadline, "nothing written"
        time.sleep(0.02)
    time.sleep(0.1)  # what has just appeared is still being written


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
@pytest.mark.parametrize("killer", [signal.SIGKILL, signal.SIGINT])
def test_killed_job_resumes_to_the_same_rows(folder: Path, tmp_path: Path, killer: signal.Signals) -> None:
    out, whole = tmp_path / "out.parquet", tmp_path / "whole.parquet"
    process = start(0.3, folder, "-o", out, "--batch", 1, "--threads", 1)
    wait_for(".out.parquet.partial/*.parquet", tmp_path, 2)  # so that the file of the first has been counted
    process.send_signal(killer)
    _, error = process.communicate(timeout=30)
    assert process.returncode != 0
    assert b"Traceback" not in error
    assert (b"interrupted; finished files are kept" in error) == (killer == signal.SIGINT)
    assert not out.exists()

    again = CliRunner().invoke(app, ["embed", str(folder), "-o", str(out), *WEIGHTS])
    assert "--resume" in str(again.exception)

    run(folder, "-o", out, "--resume")
    run(folder, "-o", whole)
    resumed, direct = audioset.read_embeddings(out), audioset.read_embeddings(whole)
    np.testing.assert_array_equal(resumed.values, direct.values)
    assert list(resumed.file) == list(direct.file)
    assert not list(tmp_path.glob(".out*"))


def test_standard_input_is_read(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    process = start(0, "-", "-o", out, stdin=subprocess.PIPE)
    _, error = process.communicate((folder / "9.flac").read_bytes(), timeout=30)
    assert process.returncode == 0, error
    expected = audioset.load("tiny", "untrained:0").embed(folder / "9.flac").values
    np.testing.assert_array_equal(audioset.read_embeddings(out).values, expected)


def test_a_pipe_that_closes_early_ends_quietly(folder: Path, tmp_path: Path) -> None:
    process = start(0.05, folder, "-o", "-", "--batch", 1, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    error = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=30) != 0
    assert b"Traceback" not in error


def test_version_and_help() -> None:
    assert CliRunner().invoke(app, ["--version"]).stdout.startswith("audioset ")
    help_text = CliRunner().invoke(app, ["embed", "--help"]).stdout
    for option in ("--out", "--hop", "--pad", "--pool", "--postprocess", "--weights", "--resume", "--overwrite"):
        assert option in help_text


@pytest.fixture
def loaded_already(vggish: audioset.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one model that there is to check, without drawing its weights again."""
    there = {("vggish", "untrained:0"): vggish}
    monkeypatch.setattr(audioset, "load", lambda *given: there[given], raising=False)


@pytest.mark.usefixtures("loaded_already")
def test_check_passes_on_the_seeded_weights() -> None:
    result = CliRunner().invoke(app, ["check", "--json"])
    results = json.loads(result.stdout)
    assert result.exit_code == 0, results
    assert {entry["what"] for entry in results} >= {"vggish, untrained:0: mean", "read FLAC", "read M4A (AAC)"}


@pytest.mark.usefixtures("loaded_already")
def test_check_fails_where_the_numbers_are_off(monkeypatch: pytest.MonkeyPatch) -> None:
    from audioset.cli import check

    monkeypatch.setattr(check, "SEEDED_MEAN", 1.0)
    monkeypatch.setattr(check, "_check_formats", lambda: iter(()))
    result = CliRunner().invoke(app, ["check"])
    assert result.exit_code == 1
    assert "FAIL  vggish, untrained:0: mean" in result.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_standard_output_is_one_message(folder: Path) -> None:
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        process = start(0, folder, "-o", "-", stdout=full)
        _, error = process.communicate(timeout=30)
    assert process.returncode == 1
    assert b"No space left" in error
    assert b"Traceback" not in error


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX")
def test_a_named_pipe_is_read_once_also_under_a_progress_bar(folder: Path, tmp_path: Path) -> None:
    import threading

    from audioset.cli import _common

    pipe, out = tmp_path / "pipe.flac", tmp_path / "out.parquet"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes((folder / "9.flac").read_bytes()))
    writer.start()
    assert _common._total_seconds([str(pipe)], 0.0, None) is None
    run(pipe, "-o", out)
    writer.join()
    assert len(audioset.read_embeddings(out).values) == 5


def test_results_in_a_pipe_are_utf_8_whatever_the_locale(folder: Path) -> None:
    (folder / "9.flac").rename(folder / "日本.flac")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    process = start(0, folder / "日本.flac", "-o", "-", "--format", "csv", stdout=subprocess.PIPE, env=environment)
    out, error = process.communicate(timeout=30)
    assert process.returncode == 0, error
    assert "日本.flac" in out.decode("utf-8")


def test_a_recording_is_never_replaced_by_the_output(folder: Path) -> None:
    before = (folder / "0.flac").read_bytes()
    result = CliRunner().invoke(
        app, ["embed", str(folder), *WEIGHTS, "--overwrite", "--format", "npy", "-o", str(folder / "0.flac")]
    )
    assert "one of the inputs" in str(result.exception)
    assert (folder / "0.flac").read_bytes() == before


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
def test_an_interrupt_ends_a_job_that_waits_for_a_pipe(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    process = start(0, folder / "0.flac", folder / "1.flac", "-", "-o", out, stdin=subprocess.PIPE)
    wait_for(".out.parquet.partial/*.parquet", tmp_path, 2)  # so that the file of the first has been counted
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130
    assert process.stderr is not None
    error = process.stderr.read()
    process.stderr.close()
    assert process.stdin is not None
    process.stdin.close()
    assert b"Fatal" not in error
    assert b"go on with --resume" in error


@pytest.mark.skipif(os.name == "nt", reason="a shell closes the streams")
@pytest.mark.parametrize("stream", ["0<&-", "1>&-", "2>&-"])
def test_a_closed_stream_gives_no_traceback(folder: Path, tmp_path: Path, stream: str) -> None:
    arguments = ["embed", "-" if stream[0] == "0" else str(folder / "0.flac"), "-o", str(tmp_path / "out.npy")]
    shell = subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {stream}', "sh", sys.executable, "-c", SLOW, "0", *arguments, *WEIGHTS],
        capture_output=True,
        timeout=60,
    )
    assert b"Traceback" not in shell.stderr
    assert shell.returncode == (2 if stream[0] == "0" else 0)


@pytest.mark.parametrize("out", ["no/such/out.parquet", "there.parquet"])
def test_an_output_that_cannot_be_is_refused_before_weights_are_fetched(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AUDIOSET_OFFLINE", "1")
    (tmp_path / "there.parquet").touch()
    result = CliRunner().invoke(app, ["embed", str(folder), "-o", out])
    assert out in str(result.exception)

"""`audioset embed -o FOLDER/` and `audioset jobs`, as users run them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from typer.testing import CliRunner, Result

from audioset.cli import app
from audioset.errors import AudioSetError

pytestmark = [
    pytest.mark.filterwarnings("ignore::audioset.weights.UntrainedWeightsWarning"),
    pytest.mark.usefixtures("tiny"),
]

WEIGHTS = ["-m", "tiny", "-w", "untrained:0", "--threads", "1"]


@pytest.fixture
def folder(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Six clips of 1 to 3.5 s."""
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    for number in range(6):
        soundfile.write(sounds / f"{number}.wav", 0.1 * rng.standard_normal(16_000 + 8_000 * number), 16_000)
    return sounds


def run(*arguments: object, status: int = 0) -> Result:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    if status == 0 and result.exception:
        raise result.exception
    assert result.exit_code == status or isinstance(result.exception, AudioSetError), result.output
    return result


def embed(*arguments: object, status: int = 0) -> Result:
    return run("embed", *arguments, *WEIGHTS, status=status)


def refused(*arguments: object) -> str:
    result = run("embed", *arguments, *WEIGHTS, status=2)
    return str(result.exception)


def num_rows(out: Path) -> int:
    return sum(pq.read_metadata(part).num_rows for part in out.glob("part-*.parquet"))


def test_folder_of_parts_and_the_same_again(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = json.loads(embed(folder, "-o", f"{out}/", "--json").stdout)
    assert (first["files"], first["done_files"], first["complete"]) == (6, 6, True)
    assert num_rows(out) == first["rows"] > 6
    again = embed(folder, "-o", out)
    assert "already complete" in again.stderr
    assert json.loads(embed(folder, "-o", f"{out}/", "--json").stdout)["done_files"] == 0


def test_manifest_goes_to_a_folder_by_itself(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("songs.csv").write_text(f"path,id\n{folder}/0.wav,first\n{folder}/5.wav,last\n")
    embed("--manifest", "songs.csv")
    (part, *_) = sorted(Path("embeddings").glob("part-*.parquet"))
    assert set(pq.read_table(part).column("id").to_pylist()) <= {"first", "last"}


def test_shards_and_status(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (folder / "3.wav").write_bytes(b"no audio")
    texts = [embed(folder, "-o", f"{out}/", "--shard", f"{index}/2", status=index - 1).stderr for index in (1, 2)]
    assert "left to other shards" in texts[0]
    assert "left to other shards" not in texts[1]
    found = run("jobs", "status", out, "--report", tmp_path / "failed.csv", status=1)
    assert "6 of 6 done, complete" in found.stdout
    assert "3.wav" in found.stderr
    header, line = (tmp_path / "failed.csv").read_text().splitlines()
    assert header == "file,item,reason,attempts"
    assert line.startswith(f"{folder}/3.wav,")
    about = json.loads(run("jobs", "status", out, "--json", status=1).stdout)
    assert (about["files"], about["failures"], about["complete"]) == (5, 1, True)


def test_failures_are_tried_again_when_asked(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    good = (folder / "3.wav").read_bytes()
    (folder / "3.wav").write_bytes(b"no audio")
    assert "1 failed" in embed(folder, "-o", f"{out}/", status=1).stderr
    again = embed(folder, "-o", f"{out}/", "--retry-failed", status=1).stderr
    assert "1 failed" in again
    assert "already complete" not in again
    (folder / "3.wav").write_bytes(good)
    assert "already complete" in embed(folder, "-o", f"{out}/", status=1).stderr
    assert "failed" not in embed(folder, "-o", f"{out}/", "--retry-failed").stderr


def test_missing_input_is_named_and_stops_nothing(folder: Path, tmp_path: Path) -> None:
    result = embed(folder, tmp_path / "none*.wav", "-o", f"{tmp_path}/out/", status=1)
    assert "no file matches this pattern" in result.stderr
    assert "6 files" in result.stderr
    nothing = embed(tmp_path / "none*.wav", "-o", f"{tmp_path}/none/", status=1)
    assert "no file matches this pattern" in nothing.stderr
    assert not (tmp_path / "none").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only there may names be anything")
def test_name_that_is_no_text_stops_nothing(folder: Path, tmp_path: Path) -> None:
    (folder / "0.wav").rename(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.wav"))
    result = embed(folder, "-o", f"{tmp_path}/out/", "--json", status=1)
    assert r"caf\udce9.wav: this name is not valid Unicode" in result.stderr
    about = json.loads(result.stdout)
    assert (about["complete"], about["files"]) == (True, 5)
    assert [found["file"] for found in about["missing"]] == [rf"{folder}/caf\udce9.wav"]


def test_dry_run_says_what_it_takes_and_writes_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["audioset.jobs.estimate"], "CALIBRATION_S", 0.03)
    result = embed(folder, "-o", f"{tmp_path}/out/", "--dry-run")
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["inputs", "examples", "output", "time"]
    assert "6 items" in result.stdout
    assert not (tmp_path / "out").exists()
    about = json.loads(embed(folder, "-o", f"{tmp_path}/out/", "--dry-run", "--json", "--shard", "1/4").stdout)
    assert about["audio_s"] == pytest.approx(6 + 0.5 * 15)
    assert about["wall_s"] == pytest.approx(about["audio_s"] / about["rate"] / 4)
    (folder / "0.wav").write_bytes(b"no audio")
    result = embed(folder / "0.wav", "-o", f"{tmp_path}/out/", "--dry-run", status=1)
    assert "time      not measured: nothing could be read" in result.stdout


def test_what_does_not_fit_together_is_refused(folder: Path, tmp_path: Path) -> None:
    out = f"{tmp_path}/out/"
    assert "writes a folder of parts; found --out x.parquet" in refused(folder, "-o", "x.parquet", "--shard", "1/2")
    assert "--shard 3/2: expected I/N" in refused(folder, "-o", out, "--shard", "3/2")
    assert "would remove each other's parts" in refused(folder, "-o", out, "--shard", "1/2", "--overwrite")
    assert "expected one of --shard and --ray" in refused(folder, "-o", out, "--shard", "1/2", "--ray", "local")
    assert "expected --ray beside it" in refused(folder, "-o", out, "--concurrency", "2")
    assert "expected a folder, s3://bucket/x/" in refused(folder, "-o", "s3://bucket/x.parquet")
    assert "a folder holds Parquet parts" in refused(folder, "-o", out, "--format", "csv")
    assert "expected no other inputs" in refused(folder, "-o", out, "--manifest", "songs.csv")
    (tmp_path / "songs.csv").write_text(f"path,start_s\n{folder}/0.wav,0.5\n")
    assert "has start_s and end_s" in refused("-o", out, "--manifest", tmp_path / "songs.csv", "--start", "3")
    assert not (tmp_path / "out").exists()


def test_status_of_no_job_is_an_error(tmp_path: Path) -> None:
    assert "no _job.json there" in str(run("jobs", "status", tmp_path, status=1).exception)


@pytest.mark.skipif(sys.platform == "win32", reason="needs bash")
def test_the_slurm_script_is_understood(folder: Path, tmp_path: Path) -> None:
    """Every task of the array, as the page has it; the program that it starts only notes what it was given."""
    page = Path(__file__).parents[1] / "docs" / "slurm.md"
    script = re.findall(r"```sh\n(#!/bin/bash\n.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)[1]
    (tmp_path / "embed.sbatch").write_text(script, encoding="utf-8")
    (tmp_path / "songs.csv").write_text("path\n" + "".join(f"{clip}\n" for clip in sorted(folder.iterdir())))
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "audioset").write_text('#!/bin/sh\nprintf "%s\\n" "$@" >> "$NOTE"\n')
    (programs / "audioset").chmod(0o755)
    for task in ("1", "2"):
        note = tmp_path / f"{task}.txt"
        variables = {"SLURM_ARRAY_TASK_ID": task, "SHARDS": "2", "MODEL": "tiny", "NOTE": str(note)}
        variables |= {"MANIFEST": f"{tmp_path}/songs.csv", "OUT": f"{tmp_path}/out/"}
        path = f"{programs}{os.pathsep}{os.environ['PATH']}"
        subprocess.run(["bash", tmp_path / "embed.sbatch"], env={**os.environ, **variables, "PATH": path}, check=True)
        run(*note.read_text().splitlines(), "-w", "untrained:0")
    about = json.loads(run("jobs", "status", tmp_path / "out", "--json").stdout)
    assert (about["files"], about["complete"]) == (6, True)


def test_graphics_processors_are_asked_for_on_ray_alone(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine that gives the orders need not have one."""
    pytest.importorskip("ray")
    from audioset import cluster, jobs
    from audioset.cli import embed as command

    asked: dict[str, object] = {}

    def describe(recipe: jobs.Recipe, **where: object) -> object:
        asked.update(where)
        return jobs.describe_model(recipe.load(), recipe.options)

    def run_there(plan: jobs.Plan, recipe: jobs.Recipe, **where: object) -> jobs.Summary:
        assert where.pop("on_progress", None) is None  # no terminal here
        assert asked == {key: where[key] for key in asked}
        assert where["concurrency"] == 3
        return jobs.run_here(plan, recipe.load(), recipe.options)

    monkeypatch.setattr(cluster, "describe_on_ray", describe)
    monkeypatch.setattr(cluster, "run_on_ray", run_there)
    monkeypatch.setattr(command, "_prepared", lambda recipe: pytest.fail("the model was loaded here"))
    embed(folder, "-o", f"{tmp_path}/out/", "--ray", "auto", "--num-gpus", "0.5", "--concurrency", "3")
    assert asked == {"address": "auto", "num_cpus": 1.0, "num_gpus": 0.5}
    assert num_rows(tmp_path / "out") > 6

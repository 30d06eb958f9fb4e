"""Jobs on Ray: the same rows as in one process, whatever dies on the way."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from tests.cluster.conftest import RECIPE, Work, worker_pids

from audioset import jobs, weights
from audioset.cluster import describe_on_ray, embed_dataset, run_on_ray
from audioset.errors import AudioSetError, OptionError, OutputError
from audioset.jobs import Progress

pytest.importorskip("ray")

pytestmark = [
    pytest.mark.usefixtures("ray_here"),
    pytest.mark.filterwarnings("ignore::audioset.weights.UntrainedWeightsWarning"),
    pytest.mark.filterwarnings("ignore::audioset.features.ShortClipWarning"),
    # Ray's of itself.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.*"),
    # Of sockets and processes that it leaves to the end.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

slow = pytest.mark.slow
only_linux = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds processes in /proc")


def test_rows_equal_those_of_one_process_and_nothing_is_done_twice(work: Work) -> None:
    work.add(30, corrupt=[17])
    work.here("here")
    seen: list[Progress] = []
    plan = work.plan("there")
    summary = run_on_ray(plan, RECIPE, on_progress=seen.append)
    assert (summary.complete, summary.files, summary.failures) == (True, 29, 1)
    assert (seen[-1].items, seen[-1].files, seen[-1].failures) == (30, 30, 1)
    assert seen[-1].audio_s == pytest.approx(summary.audio_s, abs=1e-3)
    assert work.parts("there") == work.parts("here")
    assert work.digest("there") == work.digest("here")
    again = run_on_ray(plan, RECIPE)
    assert (again.complete, again.done_files) == (True, 0)
    assert work.digest("there") == work.digest("here")


@slow
def test_part_that_is_lost_is_done_again_and_no_other(work: Work) -> None:
    work.add(30, corrupt=[17])
    work.here("here")
    work.here("there")
    lost = work.root / "there" / work.parts("there")[2]
    before = {name: (work.root / "there" / name).stat().st_mtime_ns for name in work.parts("there")}
    lost.unlink()
    summary = run_on_ray(work.plan("there"), RECIPE)
    assert (summary.complete, summary.done_files) == (True, 4)
    after = {name: (work.root / "there" / name).stat().st_mtime_ns for name in work.parts("there")}
    assert [name for name in before if before[name] != after[name]] == [lost.name]
    assert work.digest("there") == work.digest("here")


@slow
@only_linux
def test_killed_worker_is_replaced_and_its_task_done_once(work: Work) -> None:
    work.add(300, corrupt=[100])
    work.here("here")
    killed: list[int] = []

    def kill_one(progress: Progress) -> None:
        if progress.items >= 60 * (len(killed) + 1) and len(killed) < 3:
            pid = worker_pids()[0]
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    summary = run_on_ray(work.plan("there"), RECIPE, on_progress=kill_one)
    assert len(set(killed)) == 3
    assert summary.complete
    assert work.parts("there") == work.parts("here")
    assert work.digest("there") == work.digest("here")


@slow
@only_linux
def test_killed_driver_goes_on_where_it_was(work: Work) -> None:
    work.add(300, corrupt=[100])
    work.here("here")
    work.plan("there")
    script = work.root / "driver.py"
    script.write_text(
        "import sys\n"
        "from audioset import jobs\n"
        "from audioset.cluster import run_on_ray\n"
        "items = jobs.from_names(sys.argv[2:])\n"
        "plan = jobs.Plan(items, jobs.read_output(sys.argv[1]))\n"
        "run_on_ray(plan, jobs.Recipe('mini'), address='local', concurrency=2)\n"
    )
    with subprocess.Popen([sys.executable, script, work.root / "there", *work.files]) as driver:
        _wait(lambda: len(work.parts("there")) >= 10, driver)
        workers = worker_pids(driver.pid)
        driver.kill()
    assert driver.returncode == -signal.SIGKILL
    assert workers
    _wait(lambda: not any(map(_is_alive, workers)))
    done = len(work.parts("there"))
    assert 10 <= done < len(work.parts("here"))
    summary = run_on_ray(work.plan("there"), RECIPE)
    assert summary.complete
    assert summary.done_files <= 300 - 4 * done + 1
    assert work.parts("there") == work.parts("here")
    assert work.digest("there") == work.digest("here")


@slow
def test_corrupt_files_are_in_the_errors_table_and_no_others(work: Work) -> None:
    corrupt = list(range(7, 400, 20))
    work.add(400, corrupt=corrupt)
    summary = run_on_ray(work.plan("there", items=16), RECIPE)
    assert (summary.files, summary.failures) == (380, 20)
    errors = pq.read_table(work.root / "there" / "_errors.parquet")
    assert sorted(errors["file"].to_pylist()) == [work.files[number] for number in corrupt]
    assert all("cannot be decoded" in reason for reason in errors["reason"].to_pylist())
    assert run_on_ray(work.plan("there"), RECIPE).done_files == 0
    for number in corrupt[:15]:
        shutil.copyfile(work.files[0], work.files[number])
    summary = run_on_ray(work.plan("there", retry_failed=True), RECIPE)
    assert (summary.done_files, summary.failures) == (15, 5)
    errors = pq.read_table(work.root / "there" / "_errors.parquet")
    assert sorted(errors["file"].to_pylist()) == [work.files[number] for number in corrupt[15:]]
    assert errors["attempts"].to_pylist() == [2] * 5


@slow
def test_output_that_cannot_be_written_ends_the_job_with_the_reason(work: Work) -> None:
    work.add(40)
    plan = work.plan("there")
    shutil.rmtree(work.root / "there" / "_tmp", ignore_errors=True)
    (work.root / "there" / "_tmp").write_bytes(b"")
    with pytest.raises(OutputError, match=r"part-.*: cannot be written"):
        run_on_ray(plan, RECIPE)
    (work.root / "there" / "_tmp").unlink()
    assert run_on_ray(plan, RECIPE).complete


@slow
def test_worker_with_other_weights_is_refused(work: Work) -> None:
    work.add(8)
    plan = work.plan("there", recipe=replace(RECIPE, weights="untrained:0"))
    with pytest.raises(OptionError, match=r"node .*: would give other values \(weights_name untrained:0 then"):
        run_on_ray(plan, replace(RECIPE, weights="untrained:1"))
    assert work.parts("there") == []


@slow
def test_interruption_leaves_whole_parts(work: Work) -> None:
    work.add(120)
    plan = work.plan("there")

    def interrupt(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_on_ray(plan, RECIPE, on_progress=interrupt)
    assert 1 <= len(work.parts("there")) < 30
    if Path("/proc/self/task").is_dir():
        _wait(lambda: not worker_pids())
    assert run_on_ray(plan, RECIPE).complete


@slow
@pytest.mark.parametrize("pool", [1, (1, 2)])
def test_pool_of_any_size_gives_the_same(work: Work, pool: int | tuple[int, int]) -> None:
    work.add(30)
    work.here("here")
    run_on_ray(work.plan("there"), RECIPE, concurrency=pool)
    assert work.digest("there") == work.digest("here")


@slow
def test_data_set_of_rows_goes_on_in_ray(work: Work) -> None:
    files = work.add(30, corrupt=[3])
    work.here("here")
    dataset = embed_dataset(str(work.root / "*.wav"), model="mini")
    rows = dataset.take_all()
    (failed,) = (row for row in rows if row["error"] is not None)
    assert (failed["file"], failed["embedding"], failed["start_s"]) == (files[3], None, None)
    found = {(row["file"], row["start_s"]): row["embedding"] for row in rows if row["error"] is None}
    model = RECIPE.load()
    wanted = [model.embed(file) for number, file in enumerate(files) if number != 3]
    assert len(found) == sum(map(len, wanted))
    for one in wanted:
        for start_s, values in zip(one.start_s, one.values, strict=True):
            np.testing.assert_array_equal(np.asarray(found[one.file, start_s], np.float32), values)
    dataset.write_parquet(str(work.root / "rows"))
    assert sum(pq.read_metadata(path).num_rows for path in (work.root / "rows").iterdir()) == len(rows)


@slow
def test_data_set_of_a_manifest_has_its_ids(work: Work) -> None:
    files = work.add(2)
    manifest = work.root / "songs.csv"
    manifest.write_text(f"path,start,end,id\n{files[0]},0.1,0.3,first\n{files[1]},,,second\nmissing.wav,,,third\n")
    rows = embed_dataset(manifest, model="mini", concurrency=1).take_all()
    assert {row["id"] for row in rows} == {"first", "second", "third"}
    (third,) = (row for row in rows if row["id"] == "third")
    assert "missing.wav" in third["error"]
    dataset = embed_dataset(manifest, work.root / "out", model="mini", pool="mean", concurrency=1)
    assert sorted(row["id"] for row in dataset.take_all()) == ["first", "second"]
    with pytest.raises(OutputError, match="holds a job with other options"):
        embed_dataset(manifest, work.root / "out", model="mini", concurrency=1)


@slow
def test_relative_names_count_from_the_folder_of_the_driver(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    work.add(6)
    monkeypatch.chdir(work.root)
    dataset = embed_dataset("*.wav", "out", model="mini", concurrency=1)
    assert {row["file"] for row in dataset.take_all()} == {Path(file).name for file in work.files}


@slow
def test_weights_that_only_the_driver_has_are_taken_along(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    work.add(8)
    path = work.root / "mine.safetensors"
    weights.save(weights.load("mini", "untrained:5"), path)
    recipe = replace(RECIPE, weights=str(path))
    plan = work.plan("there", recipe=recipe)
    model = recipe.load()
    monkeypatch.setattr("audioset.cluster.running.is_here", lambda: False)
    from audioset.cluster.orders import Shipped

    of = Shipped.of

    def read_and_removed(recipe: jobs.Recipe) -> Shipped:
        found = of(recipe)
        found = replace(
            found, weights={**found.weights, "tensors": {n: t.copy() for n, t in found.weights["tensors"].items()}}
        )
        path.rename(work.root / "elsewhere.safetensors")
        return found

    monkeypatch.setattr(Shipped, "of", read_and_removed)
    assert run_on_ray(plan, recipe, concurrency=1).complete
    table = pq.read_table(work.root / "there" / work.parts("there")[0])
    first = model.embed(work.files[0])
    np.testing.assert_array_equal(np.stack(table["embedding"].to_numpy()[: len(first)]), first.values)


@slow
def test_card_that_is_not_there_is_said(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    work.add(2)
    with pytest.raises(OptionError, match="num_gpus: 1 a process, and this machine has 0"):
        run_on_ray(work.plan("there"), RECIPE, num_gpus=1)
    with pytest.raises(OptionError, match="num_gpus: 1 a process, and this machine has 0"):
        describe_on_ray(RECIPE, num_gpus=1)
    with pytest.raises(OptionError, match="num_cpus: 500 a process, and this machine has 2 cores"):
        run_on_ray(work.plan("there"), RECIPE, num_cpus=500)


@slow
def test_processes_share_a_card_and_say_when_it_cannot_be_used(work: Work) -> None:
    work.add(12)
    work.here("here")
    work.plan("there")
    script = work.root / "cards.py"
    # A cluster that says it has a card, on a machine without: scheduling is as with one, and using it fails.
    script.write_text(
        "import sys, ray\n"
        "from audioset import jobs\n"
        "from audioset.cluster import describe_on_ray, run_on_ray, running\n"
        "from audioset.errors import OptionError\n"
        "ray.init(address='local', num_cpus=2, num_gpus=1, log_to_driver=False)\n"
        "recipe = jobs.Recipe('mini')\n"
        "try:\n"
        "    print(describe_on_ray(recipe, num_gpus=0.5))\n"
        "except OptionError as error:\n"
        "    print(error)\n"
        "running.fitted = lambda recipe, *numbers: recipe\n"
        "plan = jobs.Plan(jobs.from_names(sys.argv[2:]), jobs.read_output(sys.argv[1]))\n"
        "run_on_ray(plan, recipe, num_cpus=1, num_gpus=0.5, concurrency=2)\n"
    )
    done = subprocess.run(
        [sys.executable, script, work.root / "there", *work.files], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    if os.path.exists("/dev/nvidia0"):
        assert "device='cuda" in done.stdout
    else:
        assert done.stdout.startswith("device: cuda")
    assert work.digest("there") == work.digest("here")


@slow
@only_linux
def test_task_that_kills_every_worker_ends_the_job(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    work.add(8)
    monkeypatch.setattr("audioset.cluster.running._MAX_RETRIES", 1)
    monkeypatch.setattr("audioset.cluster.running.PartWorker", _Dying)
    with pytest.raises(AudioSetError, match=r"Ray gave up .* parts that are finished are kept"):
        run_on_ray(work.plan("there"), RECIPE, concurrency=1)


class _Dying:
    def __init__(self, **arguments: object) -> None:
        pass

    def __call__(self, table: object) -> object:
        os.kill(os.getpid(), signal.SIGKILL)


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _wait(until: Callable[[], bool], process: subprocess.Popen[bytes] | None = None) -> None:
    deadline = time.monotonic() + 120
    while not until():
        assert time.monotonic() < deadline, "waited for two minutes"
        assert process is None or process.poll() is None, f"it ended with {process and process.returncode}"
        time.sleep(0.05)

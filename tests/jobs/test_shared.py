"""A job's folder that several processes, or users, work on: none takes from the others, and nothing stale stays."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from audioset import EmbedOptions, jobs
from audioset.errors import OutputError, RecordError
from audioset.jobs import locks, work
from audioset.storage import Folder

from .conftest import Bench, assert_rows

pytestmark = pytest.mark.filterwarnings("ignore::audioset.weights.UntrainedWeightsWarning")


def test_shares_that_fail_again_one_after_another_end_the_job(bench: Bench) -> None:
    for number in (0, 7):
        Path(bench.clips[number]).write_bytes(b"no audio")
    bench.run(bench.begin(bench.clips, workers=3))
    for index in (1, 2):
        summary = bench.run(bench.begin(bench.clips, retry_failed=True), shard=(index, 2))
        assert (summary.complete, summary.done_failures) == (True, 1)
    assert (bench.root / "out/_manifest.json").exists()
    attempts = pq.read_table(bench.root / "out/_errors.parquet").column("attempts").to_pylist()
    assert attempts == [2, 2]


def test_job_that_somebody_is_at_work_on_is_not_overwritten(bench: Bench) -> None:
    plan = bench.begin(bench.clips[:3])
    bench.run(plan)
    before = sorted(path.name for path in (bench.root / "out").iterdir())
    for shard in ((1, 1), (2, 3)):
        with jobs.alone(plan.output, shard), pytest.raises(OutputError, match="another process is at work on _lock"):
            bench.begin(bench.clips, options=EmbedOptions(hop_s=0.48), overwrite=True)
    assert sorted(path.name for path in (bench.root / "out").iterdir()) == before
    bench.begin(bench.clips, options=EmbedOptions(hop_s=0.48), overwrite=True)


def test_worker_of_an_earlier_job_writes_nothing_into_the_next(bench: Bench) -> None:
    plan = bench.begin(bench.clips, workers=3)
    parts = work.run_tasks(bench.model, plan.tasks(), EmbedOptions(), plan.output)
    next(parts)
    bench.begin(bench.clips, options=EmbedOptions(hop_s=0.48), overwrite=True)
    with pytest.raises(OutputError, match=r"was begun afresh with other options \(hop_s 0.96 then, 0.48 now\)"):
        list(parts)
    assert not list((bench.root / "out").glob("part-*"))


def test_description_that_is_damaged_meanwhile_ends_the_job(bench: Bench) -> None:
    plan = bench.begin(bench.clips, workers=3)
    (bench.root / "out/_job.json").write_text('{"layout": 1}')
    with pytest.raises(RecordError, match=r"_job\.json"):
        list(work.run_tasks(bench.model, plan.tasks(), EmbedOptions(), plan.output))


def test_part_of_another_job_is_refused(bench: Bench) -> None:
    bench.run(bench.begin(bench.clips[:3]))
    other = EmbedOptions(hop_s=0.48)
    bench.run(bench.begin(bench.clips[3:6], "other", options=other), other)
    part = min((bench.root / "other").glob("part-*"))
    shutil.copy(part, bench.root / "out/part-000009-0123456789ab.parquet")
    with pytest.raises(OutputError, match=r"part-000009-0123456789ab.parquet is of a job with other options \(hop_s"):
        bench.begin(bench.clips)


def test_part_that_another_process_removes_is_not_there(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.run(bench.begin(bench.clips, workers=3))
    first, *others = sorted((bench.root / "out").glob("part-*"))
    open_file = Folder.open

    def open_late(self: Folder, name: str) -> object:
        if name == first.name:
            first.unlink(missing_ok=True)
        return open_file(self, name)

    monkeypatch.setattr(Folder, "open", open_late)
    state = jobs.read_output(str(bench.root / "out")).state()
    assert [part.name for part in state.parts] == [path.name for path in others]


def test_part_that_a_listing_misses_costs_no_other_part(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "_PART_BYTES", 100)
    bench.run(bench.begin([bench.pack("shard.tar", bench.clips[:4])]))
    found = sorted((bench.root / "out").glob("part-*"))
    times = Folder.times
    lists = iter([1])

    def miss(self: Folder, pattern: str = "*") -> dict[str, float]:
        """The first time, what appeared while the folder was read."""
        return dict(list(times(self, pattern).items())[next(lists, 0) :])

    monkeypatch.setattr(Folder, "times", miss)
    state = jobs.read_output(str(bench.root / "out")).state()
    assert len(state.parts) == len(found)
    assert sorted((bench.root / "out").glob("part-*")) == found


def test_locks_of_killed_processes_go_when_all_is_done(bench: Bench) -> None:
    plan = bench.begin(bench.clips[:3])
    left, held = bench.root / "out/_lock-1-of-9", bench.root / "out/_lock-2-of-9"
    left.touch()
    with jobs.alone(plan.output, (2, 9)):
        bench.run(plan, shard=(1, 1))
        assert held.exists() or sys.platform == "win32"
    assert not list((bench.root / "out").glob("_lock*"))


def test_folder_that_cannot_hold_a_lock_is_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = bench.begin(bench.clips[:1])

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(locks, "_take", refuse)
    with pytest.raises(OutputError, match=r"_lock: cannot be written \(Read-only file system\)"):
        bench.run(plan)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such rights")
def test_lock_that_another_user_left_is_no_obstacle(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = bench.begin(bench.clips[:3])
    (bench.root / "out/_lock").touch()
    open_file = os.open

    def refuse(path: str, flags: int, *mode: int) -> int:
        if str(path).endswith("_lock") and flags & os.O_RDWR:
            raise PermissionError(errno.EACCES, "Permission denied")
        return open_file(path, flags, *mode)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with jobs.alone(plan.output), pytest.raises(OutputError, match="another process is at work on it"):
            bench.run(plan)
        (bench.root / "out/_lock").touch()
        assert bench.run(plan).complete


@pytest.mark.skipif(sys.platform == "win32", reason="locks are others there")
def test_disk_without_locks_is_no_obstacle_and_nor_is_what_was_left_there(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    plan = bench.begin(bench.clips[:3])
    (bench.root / "out/_lock").touch()
    assert bench.run(plan).complete
    assert not (bench.root / "out/_lock").exists()


def test_file_url_is_a_folder_like_any_other(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bench.root)
    info = jobs.describe_model(bench.model, EmbedOptions())
    items = jobs.from_names(bench.clips[:3])
    begun = jobs.begin(items, f"file://{bench.root}/out", info)
    bench.run(jobs.Plan(items, begun))
    jobs.merge(f"file://{bench.root}/out", bench.root / "all.parquet")
    assert pq.read_metadata(bench.root / "all.parquet").num_rows == begun.state().totals()["rows"]
    assert not (bench.root / "file:").exists()
    assert_rows(bench.root / "out", bench.expected(bench.clips[:3]))


def test_full_disk_of_temporary_files_is_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    monkeypatch.setattr(sys.modules["audioset.jobs.rows"], "_HELD_BYTES", 1)
    with pytest.raises(OutputError, match=r"temporary files: the disk is full; .* set TMPDIR"):
        bench.run(bench.begin(bench.clips[:1]))

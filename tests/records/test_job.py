"""A job's output is whole or not there, and a job cut off goes on as if it had not been."""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audioset.errors import OptionError, OutputError, RecordError
from audioset.records import Failure, JobInfo, JobWriter, StreamWriter, open_writer, parts, read_embeddings
from audioset.records import job as job_module

from .conftest import DIM, Clip, add, make_clips, write


class Killed(Exception):  # noqa: N818
    """Stands for whatever ends a run."""


@pytest.fixture
def flush_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call makes a part."""
    monkeypatch.setattr(job_module, "FLUSH_BYTES", 0)


def work_of(out: Path) -> Path:
    return out.with_name(f".{out.name}.partial")


def assert_holds(out: Path, clips: list[Clip]) -> None:
    table = read_embeddings(out)
    assert table.file.tolist() == [clip.file for clip in clips for _ in clip.values]
    np.testing.assert_array_equal(table.values, np.concatenate([clip.values for clip in clips]))
    np.testing.assert_array_equal(table.start_s, np.concatenate([clip.start_s for clip in clips]))
    np.testing.assert_array_equal(table.end_s, np.concatenate([clip.end_s for clip in clips]))


def cut_off(out: Path, info: JobInfo, clips: list[Clip], **options: Any) -> None:
    """A run that embeds these files and then ends badly."""
    with suppress(Killed), JobWriter(out, info, format="parquet", **options) as writer:
        for clip in clips:
            add(writer, clip)
        raise Killed


# Whole or not at all


def test_the_output_appears_when_the_job_is_finished_and_nothing_else_stays(info: JobInfo, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    clips = make_clips(info, [3, 2])
    with JobWriter(out, info, format="parquet") as writer:
        for clip in clips:
            add(writer, clip)
            assert not out.exists()
        summary = writer.finish()
        assert writer.finish() is summary
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]
    assert (summary.path, summary.files, summary.rows) == (out, 2, 5)
    assert summary.num_bytes == out.stat().st_size
    assert_holds(out, clips)


def test_a_failed_file_leaves_its_reason_and_no_rows(info: JobInfo, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    first, bad, second = make_clips(info, [3, 6, 2])
    with JobWriter(out, info, format="parquet") as writer:
        add(writer, first)
        add(writer, bad, rows=slice(0, 4), last=False)
        writer.fail(bad.file, "ends in the middle of a frame")
        add(writer, second)
        summary = writer.finish()
    assert summary.failures == (Failure(bad.file, "ends in the middle of a frame"),)
    assert summary.files == 2
    assert_holds(out, [first, second])


@pytest.mark.usefixtures("flush_always")
def test_rows_already_on_disk_are_dropped_when_their_file_fails(info: JobInfo, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    first, bad, second = make_clips(info, [3, 6, 2])
    with JobWriter(out, info, format="parquet") as writer:
        add(writer, first)
        for row in range(6):
            add(writer, bad, rows=slice(row, row + 1), last=False)
        writer.fail(bad.file, "ends in the middle of a frame")
        add(writer, second)
        assert len(list(work_of(out).glob("part-*"))) == 9
        writer.finish()
    assert_holds(out, [first, second])


@pytest.mark.usefixtures("flush_always")
def test_a_file_may_span_many_parts(info: JobInfo, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    clips = make_clips(info, [2, 9, 2])
    with JobWriter(out, info, format="parquet") as writer:
        add(writer, clips[0])
        for row in range(9):
            add(writer, clips[1], rows=slice(row, row + 1), last=False)
        add(writer, clips[1], rows=slice(9, 9))
        add(writer, clips[2])
        writer.finish()
    assert_holds(out, clips)


def test_parts_are_written_after_some_seconds(info: JobInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(job_module.time, "monotonic", lambda: clock[0])
    out = tmp_path / "out.parquet"
    with JobWriter(out, info, format="parquet") as writer:
        for clip, seconds, parts_then in zip(make_clips(info, [1] * 4), (5, 20, 5, 20), (0, 1, 1, 2), strict=True):
            clock[0] += seconds
            add(writer, clip)
            assert len(list(work_of(out).glob("part-*"))) == parts_then


def test_appended_arrays_may_be_reused(info: JobInfo, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    (clip,) = make_clips(info, [3])
    buffer, times = clip.values.copy(), clip.start_s.copy()
    with JobWriter(out, info, format="parquet") as writer:
        writer.append(clip.file, times, clip.end_s, buffer, last=True)
        buffer[:] = 0
        times[:] = 0
        writer.finish()
    assert_holds(out, [clip])


# Going on


@pytest.mark.usefixtures("flush_always")
def test_a_job_left_by_an_exception_goes_on_with_resume(info: JobInfo, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    clips = make_clips(info, [3, 2, 4])
    with suppress(Killed), JobWriter(out, info, format="parquet") as writer:
        add(writer, clips[0])
        writer.fail("bad.wav", "empty")
        add(writer, clips[1], rows=slice(0, 1), last=False)
        raise Killed
    assert not out.exists()
    with JobWriter(out, info, format="parquet", resume=True) as writer:
        assert writer.completed == {clips[0].file, "bad.wav"}
        assert writer.failures == [Failure("bad.wav", "empty")]
        add(writer, clips[1])
        add(writer, clips[2])
        summary = writer.finish()
    assert (summary.files, summary.rows, len(summary.failures)) == (3, 9, 1)
    assert_holds(out, clips)


def test_what_was_pending_is_kept_when_an_exception_ends_the_run(info: JobInfo, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    clips = make_clips(info, [3, 2])
    cut_off(out, info, clips[:1])
    with JobWriter(out, info, format="parquet", resume=True) as writer:
        assert writer.completed == {clips[0].file}
        add(writer, clips[1])
        writer.finish()
    assert_holds(out, clips)


def test_a_run_that_kept_nothing_leaves_nothing(info: JobInfo, tmp_path: Path) -> None:
    with suppress(Killed), JobWriter(tmp_path / "out.parquet", info, format="parquet") as writer:
        add(writer, make_clips(info, [3])[0], last=False)
        raise Killed
    assert list(tmp_path.iterdir()) == []


RUN_AND_DIE = """
import os, signal, sys
from pathlib import Path
from tests_conftest import add, make_clips
from audioset.records import JobInfo, JobWriter, job

job.FLUSH_BYTES = 0
info = JobInfo("vggish", "untrained:0", "ab" * 32, 4, "float32", "raw", 0.96, "short", "none")
clips = make_clips(info, [3, 2, 6, 1])
with JobWriter(Path(sys.argv[1]), info, format="parquet") as writer:
    add(writer, clips[0])
    add(writer, clips[1])
    add(writer, clips[2], rows=slice(0, 4), last=False)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name != "posix", reason="there is no SIGKILL")
def test_a_killed_process_is_resumed_row_for_row(info: JobInfo, tmp_path: Path) -> None:
    (tmp_path / "tests_conftest.py").write_text(Path(__file__).with_name("conftest.py").read_text())
    out = tmp_path / "out.parquet"
    died = subprocess.run([sys.executable, "-c", RUN_AND_DIE, out], cwd=tmp_path, timeout=60)
    assert died.returncode == -signal.SIGKILL
    assert not out.exists()
    clips = make_clips(info, [3, 2, 6, 1])
    write(out, info, clips, resume=True)
    assert_holds(out, clips)
    write(tmp_path / "straight.parquet", info, clips)
    assert out.read_bytes() == (tmp_path / "straight.parquet").read_bytes()
    assert not work_of(out).exists()


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.integers(0, 5), max_size=7),
    bad=st.sets(st.integers(0, 6)),
    kills=st.lists(st.integers(1, 12), max_size=4),
    flush_bytes=st.sampled_from([0, 60, 200, 1 << 20]),
    block=st.integers(1, 3),
    hard=st.booleans(),
)
def test_however_it_is_cut_off_the_rows_are_those_of_an_uninterrupted_job(
    tmp_path_factory: pytest.TempPathFactory,
    lengths: list[int],
    bad: set[int],
    kills: list[int],
    flush_bytes: int,
    block: int,
    hard: bool,
) -> None:
    job = JobInfo("vggish", "untrained:0", "ab" * 32, DIM, "float32", "raw", 0.96, "short", "none")
    out = tmp_path_factory.mktemp("job") / "out.parquet"
    clips = make_clips(job, lengths)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job_module, "FLUSH_BYTES", flush_bytes)
        for steps in [*kills, None]:
            if out.exists():
                break
            writer = JobWriter(out, job, format="parquet", resume=True)
            if hard:  # as after a kill: nothing is done on the way out but to unlock
                patch.setattr(JobWriter, "__exit__", lambda self, *_: self._lock.release())
            with suppress(Killed), writer:
                run(writer, clips, bad, block, steps)
    good = [clip for i, clip in enumerate(clips) if i not in bad]
    assert_holds(out, good) if good else None
    table = read_embeddings(out)
    assert len(table.values) == sum(len(clip.values) for clip in good)


def run(writer: JobWriter, clips: list[Clip], bad: set[int], block: int, steps: int | None) -> None:
    """Embed what is left, in blocks, dying after so many steps."""

    def blocks() -> Iterator[Callable[[], None]]:
        for i, clip in enumerate(clips):
            if clip.file in writer.completed:
                continue
            starts = list(range(0, max(1, len(clip.values)), block))
            for start in starts:
                last = start == starts[-1] and i not in bad
                yield lambda start=start, last=last, clip=clip: add(  # type: ignore[misc]
                    writer, clip, rows=slice(start, start + block), last=last
                )
            if i in bad:
                yield lambda clip=clip: writer.fail(clip.file, "bad")  # type: ignore[misc]
        yield lambda: None if steps else writer.finish() and None

    for done, step in enumerate(blocks()):
        if done == steps:
            break
        step()
    if steps:
        raise Killed


def test_resume_with_nothing_there_begins(info: JobInfo, tmp_path: Path) -> None:
    clips = make_clips(info, [3])
    write(tmp_path / "out.parquet", info, clips, resume=True)
    assert_holds(tmp_path / "out.parquet", clips)


def test_an_unfinished_job_is_neither_taken_up_nor_replaced_unasked(info: JobInfo, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    cut_off(out, info, make_clips(info, [3]))
    with pytest.raises(OutputError, match=r"out\.parquet: an unfinished job is there; --resume .* --overwrite"):
        JobWriter(out, info, format="parquet")
    with JobWriter(out, info, format="parquet", resume=True) as writer:
        assert len(writer.completed) == 1


def test_overwrite_starts_an_unfinished_job_afresh(info: JobInfo, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    clips = make_clips(info, [3, 2])
    cut_off(out, info, clips[:1])
    with JobWriter(out, info, format="parquet", overwrite=True) as writer:
        assert writer.completed == frozenset()
        add(writer, clips[1])
        writer.finish()
    assert_holds(out, clips[1:])


def test_resume_names_the_options_that_differ(info: JobInfo, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    cut_off(out, info, make_clips(info, [3]))
    other = replace(info, hop_s=0.48, pool="mean")
    with pytest.raises(OutputError, match=r"other options \(hop_s 0\.96 then, 0\.48 now; pool none then, mean now\)"):
        JobWriter(out, other, format="parquet", resume=True)


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ({"precision": "int8"}, {"precision": "bf16"}, "precision int8 then, bf16 now"),
        ({"precision": "bf16", "engine": "openvino"}, {"engine": "torch"}, "engine openvino then, torch now"),
        ({"precision": "bf16", "engine": "torch"}, {"device": "cuda:0"}, "device cpu then, cuda:0 now"),
        ({"precision": "bf16", "engine": "torch", "device": "cuda:0"}, {"device": "cuda:1"}, ""),
        ({}, {"engine": "torch", "device": "cuda:0"}, ""),
    ],
    ids=["precision", "engine", "device", "card", "fp32"],
)
def test_resume_mixes_engines_and_devices_in_float32_only(
    before: dict[str, Any], now: dict[str, Any], said: str, info: JobInfo, tmp_path: Path
) -> None:
    out = tmp_path / "out.parquet"
    info = replace(info, **before)
    clips = make_clips(info, [3, 1])
    cut_off(out, info, clips[:1])
    other = replace(info, **now)
    if not said:
        write(out, other, clips, resume=True)
        assert_holds(out, clips)
        return
    with pytest.raises(OutputError, match=rf"other options \({said}\)"):
        JobWriter(out, other, format="parquet", resume=True)


def test_resume_warns_of_another_version(info: JobInfo, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    cut_off(out, replace(info, version="0.0.1"), make_clips(info, [3]))
    with pytest.warns(UserWarning, match=r"begun with audioset 0\.0\.1, going on with"):
        write(out, info, make_clips(info, [3, 1]), resume=True)


def test_resume_warns_of_another_list_of_files(info: JobInfo, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    clips = make_clips(info, [3, 2])
    cut_off(out, info, clips[:1], inputs=[clips[0].file])
    with pytest.warns(UserWarning, match="the list of files has changed"):
        write(out, info, clips, resume=True, inputs=[clip.file for clip in clips])
    assert_holds(out, clips)


def test_a_job_may_be_finished_in_another_format(info: JobInfo, tmp_path: Path) -> None:
    out = tmp_path / "out"
    clips = make_clips(info, [3, 2])
    cut_off(out, info, clips[:1])
    write(out, info, clips, resume=True, format="npz")
    assert_holds(out, clips)


def test_names_are_completed_as_they_were_given(info: JobInfo, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    clips = [
        replace(clip, file=name) for clip, name in zip(make_clips(info, [1, 2]), ["caf\udce9", "a\nb"], strict=True)
    ]
    cut_off(out, info, clips)
    with JobWriter(out, info, format="parquet", resume=True) as writer:
        assert writer.completed == {"caf\udce9", "a\nb"}


@pytest.mark.usefixtures("flush_always")
@pytest.mark.parametrize("harm", ["cut", "flip", "empty", "gone"])
def test_a_damaged_part_and_those_after_it_are_done_again(harm: str, info: JobInfo, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    clips = make_clips(info, [3, 200, 4, 1])
    cut_off(out, info, clips[:3])
    part = work_of(out) / "part-000001.parquet"
    data = bytearray(part.read_bytes())
    if harm == "cut":
        part.write_bytes(data[:-20])
    elif harm == "flip":
        data[len(data) // 2] ^= 1
        part.write_bytes(data)
    elif harm == "empty":
        part.write_bytes(b"")
    else:
        part.unlink()
    with pytest.warns(UserWarning, match=r"damaged .*later parts are embedded again"):
        writer = JobWriter(out, info, format="parquet", resume=True)
    with writer:
        assert writer.completed == {clips[0].file}
        for clip in clips[1:]:
            add(writer, clip)
        writer.finish()
    assert_holds(out, clips)


@pytest.mark.usefixtures("flush_always")
def test_a_part_damaged_while_the_job_runs_is_found_at_the_end(info: JobInfo, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    clips = make_clips(info, [200, 1])
    with JobWriter(out, info, format="parquet") as writer:
        for clip in clips:
            add(writer, clip)
        part = work_of(out) / "part-000000.parquet"
        data = bytearray(part.read_bytes())
        data[len(data) // 2] ^= 1
        part.write_bytes(data)
        with pytest.raises(OutputError, match=r"part-000000\.parquet: damaged .* --resume"):
            writer.finish()
    assert not out.exists()
    with pytest.warns(UserWarning, match="damaged"):
        write(out, info, clips, resume=True)
    assert_holds(out, clips)


def test_a_damaged_description_cannot_be_resumed_but_replaced(info: JobInfo, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    cut_off(out, info, make_clips(info, [3]))
    (work_of(out) / "job.json").write_text("{")
    with pytest.raises(OutputError, match=r"cannot go on \(.*job\.json: .*--overwrite to start afresh"):
        JobWriter(out, info, format="parquet", resume=True)
    write(out, info, make_clips(info, [2]), overwrite=True)
    assert_holds(out, make_clips(info, [2]))


# Finished outputs


def test_a_finished_output_is_kept_unless_told_otherwise(info: JobInfo, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    clips = make_clips(info, [3, 2])
    write(out, info, clips[:1])
    with pytest.raises(OutputError, match=r"out\.parquet: exists; --overwrite to replace it"):
        JobWriter(out, info, format="parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]
    with JobWriter(out, info, format="parquet", overwrite=True) as writer:
        add(writer, clips[1])
        assert_holds(out, clips[:1])  # the old one is there until the new one is
        writer.finish()
    assert_holds(out, clips[1:])


@pytest.mark.parametrize("format", ["parquet", "npz"])
def test_resume_of_a_finished_job_has_nothing_to_do(format: str, info: JobInfo, tmp_path: Path) -> None:  # noqa: A002
    out = tmp_path / "out"
    clips = make_clips(info, [3, 0])
    names = [clip.file for clip in clips] + ["bad.wav"]
    with JobWriter(out, info, format=format, inputs=names) as writer:
        for clip in clips:
            add(writer, clip)
        writer.fail("bad.wav", "empty")
        first = writer.finish()
    before = out.stat()
    with JobWriter(out, info, format=format, resume=True, inputs=names) as writer:
        assert writer.complete
        assert writer.completed == set(names)
        assert writer.failures == [Failure("bad.wav", "empty")]
        assert writer.finish() == first
        with pytest.raises(
            RecordError, match="finished by an earlier run, it takes no more rows; open another job for more"
        ):
            add(writer, replace(clips[0], file="more"))
    assert out.stat().st_mtime_ns == before.st_mtime_ns
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_resume_refuses_a_finished_output_of_other_options(info: JobInfo, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    write(out, info, make_clips(info, [3]))
    other = replace(info, weights_name="published", weights_sha256="cd" * 32)
    with pytest.raises(
        OutputError, match=r"from another job \(weights_name untrained:0 then, published now; weights_sha"
    ):
        JobWriter(out, other, format="parquet", resume=True)


def test_resume_refuses_a_finished_output_of_other_files(info: JobInfo, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    clips = make_clips(info, [3])
    write(out, info, clips, inputs=[clips[0].file])
    with pytest.raises(OutputError, match=r"from another job \(the list of files is another one\); --overwrite"):
        JobWriter(out, info, format="parquet", resume=True, inputs=[clips[0].file, "new.wav"])


def test_resume_refuses_a_finished_output_that_does_not_say_whose_it_is(info: JobInfo, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    write(out, info, make_clips(info, [3]), format="csv")
    with pytest.raises(
        OutputError, match=r"cannot be resumed \(.*a csv file does not say which job wrote it\); --overwrite"
    ):
        JobWriter(out, info, format="csv", resume=True)


def test_resume_goes_on_with_an_overwriting_job(info: JobInfo, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    old, *clips = make_clips(info, [3, 2, 4])
    write(out, info, [old])
    cut_off(out, info, clips[:1], overwrite=True)
    assert_holds(out, [old])
    write(out, info, clips, resume=True)
    assert_holds(out, clips)


def test_a_run_that_ended_just_after_the_output_appeared_is_complete(
    info: JobInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.parquet"
    clips = make_clips(info, [3])
    with monkeypatch.context() as patch:
        patch.setattr(JobWriter, "_remove_work", lambda self: self._lock.release())
        write(out, info, clips)
    assert (work_of(out) / "job.json").exists()
    with JobWriter(out, info, format="parquet", resume=True) as writer:
        assert writer.complete
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]


def test_an_output_that_appeared_meanwhile_is_not_replaced(info: JobInfo, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    clips = make_clips(info, [3])
    with JobWriter(out, info, format="parquet") as writer:
        add(writer, clips[0])
        out.write_text("someone else's")
        with pytest.raises(OutputError, match=r"appeared while the job ran; 1 files \(3 rows\) are kept"):
            writer.finish()
    assert out.read_text() == "someone else's"
    write(out, info, clips, resume=True, overwrite=True)
    assert_holds(out, clips)


# Places that cannot be written


def test_two_writers_of_one_output_exclude_each_other(info: JobInfo, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    clips = make_clips(info, [3])
    with JobWriter(out, info, format="parquet") as writer:
        add(writer, clips[0])
        for options in ({}, {"resume": True}, {"overwrite": True}):
            with pytest.raises(OutputError, match=r"out\.parquet: another process is writing it"):
                JobWriter(out, info, format="parquet", **options)
        writer.finish()
    assert_holds(out, clips)


def test_a_missing_folder_is_named(info: JobInfo, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"the folder .*/none does not exist; make it, or choose another --out"):
        JobWriter(tmp_path / "none" / "out.parquet", info, format="parquet")


@pytest.mark.parametrize("name", ["x" * 300, "x" * 250])  # the second: no room for the work folder's longer name
def test_a_name_that_is_too_long_is_refused(name: str, info: JobInfo, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"/x{250,300}: cannot be written \(.*\); expected .* choose another --out"):
        JobWriter(tmp_path / name, info, format="parquet")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", ".", "..", "/"])
def test_a_folder_by_its_short_name_is_no_output(name: str, info: JobInfo) -> None:
    with pytest.raises(OutputError, match=r"is a folder; expected the name of a file to write, such as "):
        JobWriter(Path(name), info, format="parquet")


def test_a_folder_closed_to_the_user_is_named(info: JobInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_dir", refuse)
    with pytest.raises(OutputError, match=r"out\.parquet: cannot be written \(Permission denied\); expected"):
        JobWriter(tmp_path / "out.parquet", info, format="parquet")


def test_a_folder_is_no_output(info: JobInfo, tmp_path: Path) -> None:
    with pytest.raises(
        OutputError, match=r"is a folder; expected the name of a file to write, such as .*embeddings\.parquet"
    ):
        JobWriter(tmp_path, info, format="parquet", overwrite=True)


@pytest.mark.skipif(os.name != "posix", reason="there is no mkfifo")
def test_a_pipe_or_device_is_not_replaced(info: JobInfo, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="pipe: is a device or pipe; expected a file, or - for standard output"):
        JobWriter(tmp_path / "pipe", info, format="parquet", overwrite=True)


def test_a_read_only_folder_is_named_before_any_work(
    info: JobInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_, **__: False)  # root may write anywhere
    with pytest.raises(OutputError, match=r"out\.parquet: the folder .* is read-only; choose another --out"):
        JobWriter(tmp_path / "out.parquet", info, format="parquet")
    assert list(tmp_path.iterdir()) == []


def test_a_finished_job_in_a_read_only_folder_has_nothing_to_do(
    info: JobInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "out.parquet", info, make_clips(info, [2]))
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    assert JobWriter(tmp_path / "out.parquet", info, format="parquet", resume=True).complete


def test_a_file_system_that_refuses_is_quoted(info: JobInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(
        OutputError, match=r"out\.parquet: cannot be written \(Read-only file system\); check the folder"
    ):
        JobWriter(tmp_path / "out.parquet", info, format="parquet")


def full_disk(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """No room in files of this name from now on."""
    opened = Path.open

    class Full(io.FileIO):
        def write(self, _: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def open_full(self: Path, mode: str = "r", *rest: Any, **options: Any) -> Any:
        return Full(self, mode) if self.name == name else opened(self, mode, *rest, **options)

    monkeypatch.setattr(Path, "open", open_full)


@pytest.mark.usefixtures("flush_always")
@pytest.mark.parametrize(("name", "kept"), [("part.tmp", 1), ("output.tmp", 2)])
def test_a_full_disk_keeps_what_was_done(
    name: str, kept: int, info: JobInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.parquet"
    clips = make_clips(info, [3, 2, 4])
    with monkeypatch.context() as patch, JobWriter(out, info, format="parquet") as writer:
        for clip in clips[:kept]:
            add(writer, clip)
        full_disk(patch, name)
        message = rf"the disk is full; {kept} files .* kept in .*; make room .* --resume"
        with pytest.raises(OutputError, match=message):
            add(writer, clips[kept]) if name == "part.tmp" else writer.finish()
        assert not out.exists()
        assert not list(work_of(out).glob("*.tmp"))
    with JobWriter(out, info, format="parquet", resume=True) as writer:
        assert len(writer.completed) == kept
        for clip in clips[kept:]:
            add(writer, clip)
        writer.finish()
    assert_holds(out, clips)


def test_a_full_disk_at_the_start_leaves_nothing(
    info: JobInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_disk(monkeypatch, "job.tmp")
    with pytest.raises(OutputError, match=r"the disk is full; make room on its disk, then run again"):
        JobWriter(tmp_path / "out.parquet", info, format="parquet")
    assert list(tmp_path.iterdir()) == []


def test_files_of_others_in_the_work_folder_are_left_alone(info: JobInfo, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    work_of(out).mkdir()
    (work_of(out) / "notes.txt").write_text("mine")
    write(out, info, make_clips(info, [3]), overwrite=True)
    assert [path.name for path in work_of(out).iterdir()] == ["lock", "notes.txt"] or (
        work_of(out) / "notes.txt"
    ).read_text() == "mine"


@pytest.mark.skipif(os.name != "posix", reason="links need rights elsewhere")
def test_a_link_keeps_pointing_to_the_output(info: JobInfo, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    link = tmp_path / "out.parquet"
    link.symlink_to(tmp_path / "disk" / "real.parquet")
    clips = make_clips(info, [3])
    write(link, info, clips)
    assert link.is_symlink()
    assert_holds(tmp_path / "disk" / "real.parquet", clips)


# What a caller may get wrong


def test_rows_of_another_width_are_refused(info: JobInfo, tmp_path: Path) -> None:
    with JobWriter(tmp_path / "out.parquet", info, format="parquet") as writer:
        times = np.zeros(2)
        with pytest.raises(RecordError, match=r"a\.wav: values are float32 \(2, 3\); expected float32 \(rows, 4\)"):
            writer.append("a.wav", times, times, np.zeros((2, 3), np.float32), last=True)


def test_rows_of_another_dtype_are_refused(info: JobInfo, tmp_path: Path) -> None:
    with JobWriter(tmp_path / "out.parquet", info, format="parquet") as writer:
        times = np.zeros(2)
        with pytest.raises(RecordError, match=r"a\.wav: values are float64 \(2, 4\); expected float32 \(rows, 4\)"):
            writer.append("a.wav", times, times, np.zeros((2, 4)), last=True)


def test_times_of_another_number_are_refused(info: JobInfo, tmp_path: Path) -> None:
    message = r"a\.wav: start_s \(1,\) and end_s \(2,\) for 2 rows; expected one each a row"
    with JobWriter(tmp_path / "out.parquet", info, format="parquet") as writer:
        values = np.zeros((2, 4), np.float32)
        with pytest.raises(RecordError, match=message):
            writer.append("a.wav", np.zeros(1), np.zeros(2), values, last=True)


def test_files_do_not_mix(info: JobInfo, tmp_path: Path) -> None:
    first, second = make_clips(info, [2, 2])
    with JobWriter(tmp_path / "out.parquet", info, format="parquet") as writer:
        add(writer, first, last=False)
        with pytest.raises(RecordError, match=r"clip 1\.wav: given while .*clip 0\.wav is in progress"):
            add(writer, second)


def test_a_job_is_not_finished_with_a_file_in_progress(info: JobInfo, tmp_path: Path) -> None:
    with JobWriter(tmp_path / "out.parquet", info, format="parquet") as writer:
        add(writer, make_clips(info, [2])[0], last=False)
        with pytest.raises(RecordError, match=r"clip 0\.wav: still in progress"):
            writer.finish()


# Streams


def test_a_stream_has_the_bytes_of_the_file(info: JobInfo, tmp_path: Path) -> None:
    clips = make_clips(info, [3, 0, 2])
    for name in ("csv", "jsonl"):
        stream = io.BytesIO()
        with StreamWriter(stream, info, format=name) as writer:
            for clip in clips:
                add(writer, clip)
            writer.fail("bad.wav", "empty")
            summary = writer.finish()
        write(tmp_path / name, info, clips, format=name)
        assert stream.getvalue() == (tmp_path / name).read_bytes()
        assert (summary.path, summary.files, summary.rows, summary.num_bytes) == (None, 3, 5, len(stream.getvalue()))
        assert summary.failures == (Failure("bad.wav", "empty"),)


def test_a_stream_shows_rows_as_they_come(info: JobInfo) -> None:
    raw = io.BytesIO()
    first, second = make_clips(info, [2, 1])
    with StreamWriter(io.BufferedWriter(raw), info) as writer:  # type: ignore[arg-type]
        add(writer, first)
        assert raw.getvalue().count(b"\n") == 2
        add(writer, second)
        assert raw.getvalue().count(b"\n") == 3


def test_a_dash_is_standard_output(info: JobInfo, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    with open_writer("-", info) as writer:
        add(writer, make_clips(info, [2])[0])
        writer.finish()
    assert capsysbinary.readouterr().out.startswith(b'{"file": "folder/clip 0.wav", "start_s": 0, "end_s": 0.96,')
    with open_writer(tmp_path / "out.npy", info) as writer:
        assert isinstance(writer, JobWriter)


def test_standard_output_cannot_be_resumed(info: JobInfo) -> None:
    with pytest.raises(OptionError, match="--resume: what went to standard output cannot be continued"):
        open_writer("-", info, resume=True)


def test_a_binary_format_cannot_be_streamed(info: JobInfo) -> None:
    with pytest.raises(OptionError, match="format 'npz': cannot be written to a stream; expected csv or jsonl"):
        StreamWriter(io.BytesIO(), info, format="npz")


STREAM_MUCH = """
import numpy as np
from audioset.records import JobInfo, open_writer
info = JobInfo("vggish", "untrained:0", "ab" * 32, 4, "float32", "raw", 0.96, "short", "none")
rows, times = np.ones((1000, 4), np.float32), np.arange(1000.0)
with open_writer("-", info, format="csv") as writer:
    for i in range(10_000):
        writer.append(f"{i}.wav", times, times, rows, last=True)
    raise SystemExit("the pipe was never closed")
assert writer.finish().rows < 10_000_000
"""


def test_a_reader_that_goes_away_ends_it_quietly() -> None:
    with subprocess.Popen([sys.executable, "-c", STREAM_MUCH], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        assert run.stdout.readline() == b"file,start_s,end_s,e0,e1,e2,e3\n"
        run.stdout.close()
        complaints = run.stderr.read()
        assert run.wait(timeout=60) == 0
    assert complaints == b""


def test_a_stream_to_a_full_disk_is_an_output_error(info: JobInfo) -> None:
    class Full(io.BytesIO):
        def write(self, _: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    writer = StreamWriter(Full(), info)
    with pytest.raises(OutputError, match=r"standard output: cannot be written \(No space left on device\)"):
        add(writer, make_clips(info, [2])[0])


def test_parts_that_count_follow_the_fate_of_the_file_in_progress() -> None:
    def part(run: int, open_rows: int, carried: parts.Outcome | None) -> parts.Part:
        return parts.Part(Path("x"), run, 10, open_rows, carried, 1, 0)

    for fate, expected in (("done", [10, 10, 10]), ("failed", [6, 0, 10])):
        chain = [part(0, 4, None), part(0, 10, "open"), part(0, 0, fate)]  # type: ignore[arg-type]
        assert parts.counting_rows(chain) == expected
    assert parts.counting_rows([part(0, 4, None), part(1, 3, None), part(2, 0, None)]) == [6, 7, 10]
    assert parts.counting_rows([part(0, 4, None)]) == [6]
    assert parts.counting_rows([]) == []

"""Jobs into folders of parts: the same rows whatever happens meanwhile, none twice, none lost."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import audioset
from audioset import EmbedOptions, jobs
from audioset.audio import Clip
from audioset.jobs import work
from audioset.records.info import JobInfo

from .conftest import Bench, assert_rows, rows

pytestmark = pytest.mark.filterwarnings("ignore::audioset.weights.UntrainedWeightsWarning")


def errors(out: Path) -> list[dict[str, object]]:
    found: list[dict[str, object]] = pq.read_table(out / "_errors.parquet").to_pylist()
    return found


def test_rows_are_those_of_embed(bench: Bench) -> None:
    summary = bench.run(bench.begin(bench.clips))
    assert summary.complete
    assert (summary.files, summary.failures, summary.remaining_items) == (9, 0, 0)
    assert_rows(bench.root / "out", bench.expected(bench.clips))
    manifest = json.loads((bench.root / "out/_manifest.json").read_text())
    assert manifest["rows"] == summary.rows == sum(part["rows"] for part in manifest["parts"])
    assert errors(bench.root / "out") == []


def test_every_part_is_an_embeddings_file(bench: Bench) -> None:
    bench.run(bench.begin(bench.clips))
    part = min((bench.root / "out").glob("part-*.parquet"))
    table = audioset.read_embeddings(part)
    np.testing.assert_array_equal(
        table.values[: len(bench.model.embed(table.file[0]))], bench.model.embed(table.file[0]).values
    )


def test_shards_make_one_output(bench: Bench) -> None:
    summaries = [bench.run(bench.begin(bench.clips, workers=3), shard=(index, 3)) for index in (2, 3, 1)]
    assert [summary.complete for summary in summaries] == [False, False, True]
    assert summaries[0].remaining_items > summaries[1].remaining_items > 0
    assert sum(summary.done_files for summary in summaries) == 9
    assert_rows(bench.root / "out", bench.expected(bench.clips))


def test_interrupted_job_goes_on(bench: Bench) -> None:
    plan = bench.begin(bench.clips, workers=3)
    parts = work.run_tasks(bench.model, plan.tasks(), EmbedOptions(), plan.output)
    next(parts), next(parts)
    parts.close()  # type: ignore[attr-defined]
    assert not (bench.root / "out/_manifest.json").exists()
    plan = bench.begin(bench.clips, workers=3)
    assert 0 < plan.left() < 9
    summary = bench.run(plan)
    assert summary.complete
    assert 0 < summary.done_files < 9
    assert_rows(bench.root / "out", bench.expected(bench.clips))


def test_interrupted_and_whole_job_leave_the_same_files(bench: Bench) -> None:
    bench.run(bench.begin(bench.clips, workers=3))
    plan = bench.begin(bench.clips, "again", workers=3)
    parts = work.run_tasks(bench.model, plan.tasks(), EmbedOptions(), plan.output)
    next(parts)
    parts.close()  # type: ignore[attr-defined]
    bench.run(bench.begin(bench.clips, "again", workers=3))
    one, other = (
        {path.name: path.read_bytes() for path in (bench.root / out).glob("part-*")} for out in ("out", "again")
    )
    assert one == other


def test_task_done_twice_leaves_one_part(bench: Bench) -> None:
    plan = bench.begin(bench.clips, workers=2)
    tasks = list(plan.tasks())
    for _ in range(2):
        list(work.run_tasks(bench.model, iter(tasks[:1]), EmbedOptions(), plan.output))
    bench.run(plan)
    assert_rows(bench.root / "out", bench.expected(bench.clips))


def test_complete_job_does_nothing(bench: Bench) -> None:
    bench.run(bench.begin(bench.clips))
    before = {path: path.stat().st_mtime_ns for path in (bench.root / "out").glob("part-*")}
    summary = bench.run(bench.begin(bench.clips))
    assert summary.complete
    assert summary.done_files == 0
    assert before == {path: path.stat().st_mtime_ns for path in (bench.root / "out").glob("part-*")}


def test_files_that_are_added_later_are_all_that_is_done(bench: Bench) -> None:
    bench.run(bench.begin(bench.clips[3:6]))
    plan = bench.begin(bench.clips)
    assert jobs.read_output(plan.output.name).num_items == 9
    summary = bench.run(plan)
    assert summary.done_files == 6
    assert_rows(bench.root / "out", bench.expected(bench.clips))


def test_failures_stop_nothing_and_are_listed(bench: Bench) -> None:
    Path(bench.clips[4]).write_bytes(b"RIFF no audio at all")
    Path(bench.clips[7]).unlink()
    summary = bench.run(bench.begin(bench.clips, workers=2))
    assert (summary.complete, summary.files, summary.failures, summary.done_failures) == (True, 7, 2, 2)
    good = [clip for clip in bench.clips if clip not in (bench.clips[4], bench.clips[7])]
    assert_rows(bench.root / "out", bench.expected(good))
    found = errors(bench.root / "out")
    assert [row["file"] for row in found] == [bench.clips[4], bench.clips[7]]
    assert [row["attempts"] for row in found] == [1, 1]
    assert "no such file" in str(found[1]["reason"])


def test_failed_items_are_tried_again_only_when_asked(bench: Bench, rng: np.random.Generator) -> None:
    Path(bench.clips[4]).write_bytes(b"no audio")
    Path(bench.clips[5]).write_bytes(b"no audio")
    bench.run(bench.begin(bench.clips))
    bench.write("clips/4.wav", 2.0, rng)
    assert bench.run(bench.begin(bench.clips)).failures == 2
    summary = bench.run(bench.begin(bench.clips, retry_failed=True))
    assert (summary.complete, summary.failures, summary.done_files, summary.done_failures) == (True, 1, 1, 1)
    assert [(row["file"], row["attempts"]) for row in errors(bench.root / "out")] == [(bench.clips[5], 2)]
    assert_rows(bench.root / "out", bench.expected([clip for clip in bench.clips if clip != bench.clips[5]]))


def test_parts_of_files_have_their_own_times_and_ids(bench: Bench) -> None:
    path = bench.root / "parts.csv"
    path.write_text(
        f"id,path,start_s,end_s\nx,{bench.clips[8]},0.5,1.75\ny,{bench.clips[8]},1.0,\nz,{bench.clips[0]},,\n"
    )
    bench.run(bench.begin(jobs.read_manifest(path)))
    import pyarrow.dataset

    table = pyarrow.dataset.dataset(str(bench.root / "out")).to_table()
    assert table.column_names == ["file", "start_s", "end_s", "id", "embedding"]
    for key, expected in (
        ("x", bench.model.embed(bench.clips[8], start_s=0.5, duration_s=1.25)),
        ("y", bench.model.embed(bench.clips[8], start_s=1.0)),
        ("z", bench.model.embed(bench.clips[0])),
    ):
        found = table.filter(pyarrow.compute.field("id") == key)
        np.testing.assert_array_equal(np.array(found.column("embedding").to_pylist(), np.float32), expected.values)
        np.testing.assert_array_equal(found.column("start_s").to_numpy(), expected.start_s)


def test_part_of_a_file_beyond_its_end_fails_alone(bench: Bench) -> None:
    path = bench.root / "parts.csv"
    path.write_text(f"path,start_s,end_s\n{bench.clips[0]},50,60\n{bench.clips[0]},0,1\n")
    summary = bench.run(bench.begin(jobs.read_manifest(path)))
    assert (summary.files, summary.failures) == (1, 1)
    assert errors(bench.root / "out")[0]["item"] == f"{bench.clips[0]}#t=50.0,60.0"


def test_pooled_part_spans_its_window(bench: Bench) -> None:
    path = bench.root / "parts.csv"
    path.write_text(f"path,start_s,end_s\n{bench.clips[8]},0.5,2.5\n")
    options = EmbedOptions(pool="mean")
    bench.run(bench.begin(jobs.read_manifest(path), options=options), options)
    table = audioset.read_embeddings(min((bench.root / "out").glob("part-*")))
    assert (table.start_s.tolist(), table.end_s.tolist()) == ([0.5], [2.5])


def test_archives_are_read_member_by_member(bench: Bench) -> None:
    shard = bench.pack("shard.tar", bench.clips[:4], extra=[("0.json", b"{}"), ("0.cls", b"3")])
    summary = bench.run(bench.begin([shard, *bench.clips[4:]]))
    assert (summary.files, summary.failures) == (9, 0)
    expected = bench.expected(bench.clips)
    packed = {f"{shard}::{number}.wav": expected[clip] for number, clip in enumerate(bench.clips[:4])}
    assert_rows(bench.root / "out", packed | {clip: expected[clip] for clip in bench.clips[4:]})


def test_archive_without_audio_is_a_failure(bench: Bench) -> None:
    shard = bench.pack("shard.tar", [], extra=[("0.json", b"{}")])
    summary = bench.run(bench.begin([shard, bench.clips[0], shard.replace("shard", "none")]))
    assert (summary.complete, summary.files, summary.failures) == (True, 1, 2)
    first, second = errors(bench.root / "out")
    assert "holds no audio" in str(first["reason"])
    assert "none.tar" in str(second["reason"])


def test_truncated_archive_keeps_what_came_before(bench: Bench) -> None:
    shard = Path(bench.pack("shard.tar", bench.clips[:4]))
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    summary = bench.run(bench.begin([str(shard), bench.clips[8]]))
    assert summary.complete
    assert summary.failures == 1
    assert 2 <= summary.files < 5
    shard.write_bytes(whole)
    summary = bench.run(bench.begin([str(shard), bench.clips[8]], retry_failed=True))
    assert (summary.complete, summary.files, summary.failures) == (True, 5, 0)
    expected = bench.expected(bench.clips)
    packed = {f"{shard}::{number}.wav": expected[clip] for number, clip in enumerate(bench.clips[:4])}
    assert_rows(bench.root / "out", packed | {bench.clips[8]: expected[bench.clips[8]]})


def test_member_that_failed_is_all_that_is_tried_again(bench: Bench, rng: np.random.Generator) -> None:
    good = Path(bench.clips[1]).read_bytes()
    Path(bench.clips[1]).write_bytes(b"no audio")
    shard = bench.pack("shard.tar", bench.clips[:3])
    assert bench.run(bench.begin([shard])).failures == 1
    Path(bench.clips[1]).write_bytes(good)
    bench.pack("shard.tar", bench.clips[:3])
    summary = bench.run(bench.begin([shard], retry_failed=True))
    assert (summary.failures, summary.done_files) == (0, 1)
    expected = bench.expected(bench.clips[:3])
    assert_rows(bench.root / "out", {f"{shard}::{n}.wav": expected[clip] for n, clip in enumerate(bench.clips[:3])})


def test_large_archive_loses_no_more_than_a_part(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "_PART_BYTES", 100)
    shard = bench.pack("shard.tar", bench.clips)
    plan = bench.begin([shard])
    parts = work.run_tasks(bench.model, plan.tasks(), EmbedOptions(), plan.output)
    for _ in range(3):
        next(parts)
    parts.close()  # type: ignore[attr-defined]
    before = rows(bench.root / "out")
    plan = bench.begin([shard])
    assert plan.left() == 1
    summary = bench.run(plan)
    assert summary.complete
    assert 0 < summary.done_files < 9
    assert summary.files == 9
    expected = bench.expected(bench.clips)
    assert_rows(bench.root / "out", {f"{shard}::{n}.wav": expected[clip] for n, clip in enumerate(bench.clips)})
    assert before.keys() < rows(bench.root / "out").keys()


def test_archive_that_lost_one_of_its_parts_is_done_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "_PART_BYTES", 100)
    shard = bench.pack("shard.tar", bench.clips[:4])
    bench.run(bench.begin([shard]))
    first, *others = sorted((bench.root / "out").glob("part-*"))
    assert len(others) > 1
    first.unlink()
    with pytest.warns(UserWarning, match="holds the rest of an archive whose other part is gone"):
        plan = bench.begin([shard])
    assert bench.run(plan).files == 4
    expected = bench.expected(bench.clips[:4])
    assert_rows(bench.root / "out", {f"{shard}::{n}.wav": expected[clip] for n, clip in enumerate(bench.clips[:4])})


def test_member_that_fails_before_and_after_a_stop_is_listed_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "_PART_BYTES", 100)
    Path(bench.clips[0]).write_bytes(b"no audio")
    shard = bench.pack("shard.tar", bench.clips[:3])
    plan = bench.begin([shard])
    parts = work.run_tasks(bench.model, plan.tasks(), EmbedOptions(), plan.output)
    next(parts)
    parts.close()  # type: ignore[attr-defined]
    summary = bench.run(bench.begin([shard, bench.clips[3]]))
    assert (summary.complete, summary.files, summary.failures) == (True, 3, 1)
    assert [row["file"] for row in errors(bench.root / "out")] == [f"{shard}::0.wav"]
    expected = bench.expected(bench.clips[1:4])
    packed = {f"{shard}::{n}.wav": expected[bench.clips[n]] for n in (1, 2)}
    assert_rows(bench.root / "out", packed | {bench.clips[3]: expected[bench.clips[3]]})


def test_names_of_parts_sort_as_they_were_written(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "_PART_BYTES", 100)
    shard = bench.pack("shard.tar", bench.clips + bench.clips[:3])
    bench.run(bench.begin([shard, bench.clips[0], bench.clips[1]]))
    table = audioset.read_embeddings(bench.root / "out")
    assert list(dict.fromkeys(table.file)) == [*(f"{shard}::{n}.wav" for n in range(9)), *bench.clips[:2]]


def test_what_killed_processes_left_is_removed(bench: Bench) -> None:
    plan = bench.begin(bench.clips[:2])
    left = bench.root / "out/_tmp/part-000000-012345678901.parquet.abcdef01"
    left.write_bytes(b"half")
    bench.run(plan, shard=(1, 2)), bench.run(plan, shard=(2, 2))
    assert left.exists()  # another share may be writing it
    bench.run(plan)
    assert not left.parent.exists()


def test_rows_of_a_file_that_breaks_off_are_dropped(
    bench: Bench, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those that have gone to the disk meanwhile."""
    from audioset.jobs import rows as held

    monkeypatch.setattr(held, "_HELD_BYTES", 64)
    long = rng.standard_normal(16_000 * 60).astype(np.float32) * 0.1
    long[-8000] = np.nan
    import soundfile

    soundfile.write(bench.root / "long.wav", long, 16_000, subtype="FLOAT")
    summary = bench.run(bench.begin([bench.clips[0], str(bench.root / "long.wav"), bench.clips[1]]))
    assert (summary.files, summary.failures) == (2, 1)
    assert_rows(bench.root / "out", bench.expected(bench.clips[:2]))


def test_progress_tells_items_and_seconds(bench: Bench) -> None:
    plan = bench.begin(bench.clips)
    seen: list[jobs.Progress] = []
    jobs.run_here(plan, bench.model, EmbedOptions(), on_progress=seen.append)
    assert seen[-1].files == 9
    assert seen[-1].audio_s == pytest.approx(sum(1 + n / 4 for n in range(9)))
    assert [now.audio_s for now in seen] == sorted(now.audio_s for now in seen)


def test_other_options_are_refused(bench: Bench) -> None:
    bench.run(bench.begin(bench.clips))
    with pytest.raises(audioset.errors.OutputError, match=r"other options \(hop_s 0.96 then, 0.48 now\)"):
        bench.begin(bench.clips, options=EmbedOptions(hop_s=0.48))
    bench.begin(bench.clips, options=EmbedOptions(hop_s=0.48), overwrite=True)


def test_other_parquet_files_are_not_mixed_with(bench: Bench) -> None:
    (bench.root / "out").mkdir()
    (bench.root / "out/mine.parquet").write_bytes(b"PAR1")
    with pytest.raises(audioset.errors.OutputError, match=r"holds mine.parquet and no _job.json"):
        bench.begin(bench.clips)


def test_two_runs_at_once_are_refused(bench: Bench) -> None:
    plan = bench.begin(bench.clips)
    with jobs.alone(plan.output), pytest.raises(audioset.errors.OutputError, match="another process is at work on it"):
        bench.run(plan)
    assert bench.run(plan).complete


@pytest.mark.parametrize("damage", ["truncated", "a name in the footer"])
def test_damaged_part_is_done_again(bench: Bench, damage: str) -> None:
    bench.run(bench.begin(bench.clips, workers=3))
    part = min((bench.root / "out").glob("part-*"))
    if damage == "truncated":
        part.write_bytes(part.read_bytes()[:-100])
    else:
        table = pq.read_table(part)
        said = table.schema.metadata[b"audioset.task"]
        metadata = {**table.schema.metadata, b"audioset.task": said.replace(b"0.wav", b"4.wav")}
        pq.write_table(table.replace_schema_metadata(metadata), part)
    with pytest.warns(UserWarning, match="cannot be read; it is deleted and done again"):
        plan = bench.begin(bench.clips, workers=3)
    assert bench.run(plan).complete
    assert_rows(bench.root / "out", bench.expected(bench.clips))


def test_what_was_done_twice_is_there_once(bench: Bench) -> None:
    """As when a run that was thought dead divided the work in another way."""
    bench.run(bench.begin(bench.clips[:5]))
    plan = bench.begin(bench.clips[:5])
    task = jobs.Task(99, tuple(jobs.from_names(bench.clips[3:7])))
    list(work.run_tasks(bench.model, iter([task]), EmbedOptions(), plan.output))
    with pytest.warns(UserWarning, match="repeats what another part holds"):
        plan = bench.begin(bench.clips)
    assert bench.run(plan).complete
    assert_rows(bench.root / "out", bench.expected(bench.clips))


def test_full_disk_ends_the_job_and_leaves_whole_parts(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = bench.begin(bench.clips, workers=3)
    write = jobs.Output.write
    count = iter(range(10))

    def failing(self: jobs.Output, *arguments: object) -> object:
        if next(count) == 1:
            raise audioset.errors.OutputError("the disk is full")
        return write(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(jobs.Output, "write", failing)
    with pytest.raises(audioset.errors.OutputError, match="the disk is full"):
        bench.run(plan)
    assert len(list((bench.root / "out").glob("part-*"))) == 1
    assert bench.run(bench.begin(bench.clips, workers=3)).complete
    assert_rows(bench.root / "out", bench.expected(bench.clips))


def test_folder_that_is_removed_meanwhile_ends_the_job(bench: Bench) -> None:
    plan = bench.begin(bench.clips, workers=3)
    parts = work.run_tasks(bench.model, plan.tasks(), EmbedOptions(), plan.output)
    next(parts)
    shutil.rmtree(plan.output.name)
    with pytest.raises(audioset.errors.OutputError, match=r"its _job\.json is gone"):
        list(parts)
    assert not (bench.root / "out").exists()


@pytest.mark.parametrize("content", ["", "[]", '{"layout": 1}', '{"layout": 1, "task": {"bytes": 0, "items": 0}}'])
def test_damaged_description_of_a_job_is_named(bench: Bench, content: str) -> None:
    bench.begin(bench.clips)
    (bench.root / "out/_job.json").write_text(content)
    with pytest.raises(audioset.errors.OutputError, match=r"its _job\.json is damaged .*--overwrite to start afresh"):
        bench.begin(bench.clips)


def test_output_travels_to_other_processes(bench: Bench) -> None:
    import pickle

    output = bench.begin(bench.clips).output
    assert pickle.loads(pickle.dumps(output)) == output  # noqa: S301 - our own bytes
    assert isinstance(output.info, JobInfo)


def test_estimate_from_headers(bench: Bench) -> None:
    items = jobs.from_names(bench.clips)
    found = jobs.estimate(items, bench.model.spec, EmbedOptions())
    assert found.audio_s == pytest.approx(sum(1 + n / 4 for n in range(9)))
    assert found.rows == sum(len(bench.model.embed(clip)) for clip in bench.clips)
    assert (found.items, found.sampled, found.unreadable, found.rate) == (9, 9, 0, None)
    assert found.num_bytes == sum(Path(clip).stat().st_size for clip in bench.clips)
    assert found.wall_s() is None


def test_estimate_of_an_archive_goes_by_its_first_members(bench: Bench) -> None:
    shard = bench.pack("shard.tar", bench.clips)
    found = jobs.estimate(jobs.from_names([shard]), bench.model.spec, EmbedOptions())
    assert found.audio_s == pytest.approx(sum(1 + n / 4 for n in range(9)), rel=0.1)


def test_estimate_extrapolates_by_bytes_and_names_what_cannot_be_read(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["audioset.jobs.estimate"], "SAMPLE", 3)
    Path(bench.clips[4]).write_bytes(b"no audio" * 4000)
    found = jobs.estimate(jobs.from_names(bench.clips), bench.model.spec, EmbedOptions())
    assert (found.sampled, found.unreadable) == (3, 1)
    assert bench.clips[4] in found.reasons[0]
    assert found.audio_s == pytest.approx(sum(1 + n / 4 for n in range(9)), rel=0.1)


def test_estimate_measures_the_rate(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["audioset.jobs.estimate"], "CALIBRATION_S", 0.03)
    found = jobs.estimate(jobs.from_names(bench.clips), bench.model.spec, EmbedOptions(), bench.model)
    assert found.rate is not None
    assert found.rate > 1
    wall_s = found.wall_s(2)
    assert wall_s == pytest.approx(found.audio_s / found.rate / 2)


def test_rate_is_that_of_the_parts_of_files(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["audioset.jobs.estimate"], "CALIBRATION_S", 0.0)  # less than the first block takes
    path = bench.root / "parts.csv"
    path.write_text(f"path,start_s,end_s\n{bench.clips[8]},0.5,1.5\n{bench.clips[8]},1,2\n")
    taken: list[object] = []
    embed_blocks = audioset.Model.embed_blocks

    def noting(model: audioset.Model, sources: Iterable[tuple[Any, None]], options: EmbedOptions) -> Any:
        return embed_blocks(model, (taken.append(source[0]) or source for source in sources), options)  # type: ignore[func-returns-value]

    monkeypatch.setattr(audioset.Model, "embed_blocks", noting)
    found = jobs.estimate(jobs.read_manifest(path), bench.model.spec, EmbedOptions(), bench.model)
    assert found.rate
    assert {(clip.start_s, clip.duration_s) for clip in taken if isinstance(clip, Clip)} == {(0.5, 1.0), (1.0, 1.0)}


def test_folder_reads_back_as_one_table(bench: Bench) -> None:
    bench.run(bench.begin(bench.clips, workers=3))
    table = audioset.read_embeddings(bench.root / "out")
    expected = bench.expected(bench.clips)
    np.testing.assert_array_equal(table.values, np.concatenate([expected[clip].values for clip in bench.clips]))
    assert list(dict.fromkeys(table.file)) == bench.clips
    (bench.root / "out/_manifest.json").unlink()
    with pytest.warns(UserWarning, match="not complete; these are the rows so far"):
        audioset.read_embeddings(bench.root / "out")


@pytest.mark.parametrize("ending", ["parquet", "npz"])
def test_merged_file_is_that_of_a_job_into_one_file(bench: Bench, ending: str) -> None:
    from audioset.records import JobWriter

    Path(bench.clips[3]).write_bytes(b"no audio")
    plan = bench.begin(bench.clips, workers=3)
    with pytest.raises(audioset.errors.OutputError, match="not complete, 0 of 9 items are done"):
        jobs.merge(bench.root / "out", bench.root / f"merged.{ending}")
    bench.run(plan)
    summary = jobs.merge(bench.root / "out", bench.root / f"merged.{ending}")
    assert (summary.files, len(summary.failures)) == (8, 1)
    with JobWriter(bench.root / f"one.{ending}", plan.output.info, format=ending) as writer:
        for clip in bench.clips:
            if clip == bench.clips[3]:
                writer.fail(clip, summary.failures[0].reason)
            else:
                found = bench.model.embed(clip)
                writer.append(clip, found.start_s, found.end_s, found.values, last=True)
        writer.finish()
    assert (bench.root / f"merged.{ending}").read_bytes() == (bench.root / f"one.{ending}").read_bytes()
    with pytest.raises(audioset.errors.OutputError, match="exists; --overwrite"):
        jobs.merge(bench.root / "out", bench.root / f"merged.{ending}")


def test_damaged_rows_are_not_merged(bench: Bench) -> None:
    bench.run(bench.begin(bench.clips))
    part = max((bench.root / "out").glob("part-*"))
    values = pq.read_metadata(part).row_group(0).column(3)
    content = bytearray(part.read_bytes())
    content[values.data_page_offset + values.total_compressed_size - 5] ^= 1
    part.write_bytes(content)
    with pytest.raises(audioset.errors.OutputError, match=r"damaged .*Delete it and run the job again"):
        jobs.merge(bench.root / "out", bench.root / "all.parquet")
    assert not (bench.root / "all.parquet").exists()


def test_merging_leaves_ids_out(bench: Bench) -> None:
    path = bench.root / "songs.csv"
    path.write_text(f"path,id\n{bench.clips[0]},first\n{bench.clips[1]},second\n")
    bench.run(bench.begin(jobs.read_manifest(path)))
    jobs.merge(bench.root / "out", bench.root / "all.csv")
    assert (bench.root / "all.csv").read_text().startswith("file,start_s,end_s,e0,")


def test_folder_without_parts_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(audioset.errors.RecordError, match=r"a folder without part-\*.parquet"):
        audioset.read_embeddings(tmp_path)

"""What becomes of embeddings files on the way into an index, and of an index that more is added to."""

from __future__ import annotations

import _thread
import importlib.util
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audioset.errors import MissingExtraError, OptionError, OutputError, RecordError
from audioset.index import build, load, query_in
from audioset.index._graph import Graph
from audioset.records import JobInfo, JobWriter

from ._embeddings import DIM, INFO, clips, table_of, write, write_job


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(tmp_path / "e.parquet", clips([3, 1, 4]))


def test_names_times_and_counts_are_kept(source: Path, tmp_path: Path) -> None:
    done = build(source, tmp_path / "e.index")
    assert (done.files, done.rows, done.added_files, done.added_rows) == (3, 8, 3, 8)
    assert done.num_bytes == (tmp_path / "e.index").stat().st_size
    index = load(tmp_path / "e.index")
    assert (len(index), index.num_files, index.job) == (8, 3, INFO)
    assert index.files == ("field/clip 0.wav", "field/clip 1.wav", "field/clip 2.wav")
    table = table_of(source)
    query = index.query_of("clip 2.wav")
    np.testing.assert_array_equal(query.start_s, table.start_s[4:])
    np.testing.assert_array_equal(query.end_s, table.end_s[4:])


def test_several_files_are_one_index(tmp_path: Path) -> None:
    first, second = clips([3, 2]), clips([4], seed=1, first=2)
    both = write(tmp_path / "both.parquet", {**first, **second})
    build(both, tmp_path / "both.index", threads=1)
    parts = [write(tmp_path / "1.npz", first), write(tmp_path / "2.parquet", second)]
    build(parts, tmp_path / "parts.index", threads=1)
    assert (tmp_path / "both.index").read_bytes() == (tmp_path / "parts.index").read_bytes()


def test_a_folder_of_parts_is_as_one_file(tmp_path: Path) -> None:
    files = clips([30, 5, 40, 2])
    names = list(files)
    long = files[names[2]]  # its rows go over from one part to the next
    tasks = [
        {names[0]: files[names[0]], names[1]: files[names[1]], names[2]: long[:15]},
        {names[2]: long[15:], names[3]: files[names[3]]},
    ]
    build(write(tmp_path / "e.parquet", files), tmp_path / "file.index", threads=1)
    seen: list[tuple[int, int]] = []
    done = build(
        write_job(tmp_path / "parts", tasks),
        tmp_path / "parts.index",
        threads=1,
        progress=lambda *at: seen.append(at),
    )
    assert (done.files, done.rows, done.files_already_there, seen[-1]) == (4, 77, 0, (154, 154))
    assert (tmp_path / "file.index").read_bytes() == (tmp_path / "parts.index").read_bytes()
    index = load(tmp_path / "parts.index")
    assert len(query_in(index, tmp_path / "parts", names[2])) == 40


def test_a_folder_that_is_not_a_whole_job_is_refused(tmp_path: Path) -> None:
    folder = write_job(tmp_path / "parts", [clips([3]), clips([4], first=1)])
    other = write(tmp_path / "other.parquet", clips([4], first=1), replace(INFO, hop_s=0.5))
    manifest = folder / "_manifest.json"
    second = folder / "part-000001.parquet"
    second.unlink()
    with pytest.raises(RecordError, match=r"part-000001.parquet: cannot be opened"):
        build(folder, tmp_path / "e.index")
    second.write_bytes(other.read_bytes())
    with pytest.raises(RecordError, match=r"part-000001.parquet: none of the parts that .*_manifest.json lists"):
        build(folder, tmp_path / "e.index")
    text = manifest.read_text()
    manifest.write_text(text.replace('"part-000001.parquet"', '"../other.parquet"'))
    with pytest.raises(RecordError, match=r"_manifest.json: lists '../other.parquet'; expected names of parts"):
        build(folder, tmp_path / "e.index")
    manifest.write_text(text.replace('"parts"', '"pieces"'))
    with pytest.raises(RecordError, match=r"_manifest.json: damaged \(KeyError"):
        build(folder, tmp_path / "e.index")
    manifest.unlink()
    with pytest.raises(RecordError, match=r"parts: a folder without _manifest.json; expected .*Run it to its end"):
        build(folder, tmp_path / "e.index")
    assert not (tmp_path / "e.index").exists()


def test_weights_are_known_by_their_bytes_not_by_their_name(source: Path, tmp_path: Path) -> None:
    renamed = write(tmp_path / "2.parquet", clips([2], first=9), replace(INFO, weights_name="mine.safetensors"))
    assert build([source, renamed], tmp_path / "e.index").files == 4


def test_one_thread_gives_the_same_bytes_each_time(tmp_path: Path) -> None:
    source = write(tmp_path / "e.parquet", clips([100] * 5))
    for name in ("a", "b"):
        build(source, tmp_path / name, threads=1)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_file_that_was_there_before_is_left_out(source: Path, tmp_path: Path) -> None:
    again = write(tmp_path / "again.parquet", {**clips([5], first=1), **clips([2], first=7)})
    done = build([source, again], tmp_path / "e.index")
    assert (done.files, done.rows, done.files_already_there) == (4, 10, 1)
    assert len(load(tmp_path / "e.index").query_of("clip 1.wav")) == 1


def test_rows_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    files = clips([3, 1, 4])
    files["field/clip 0.wav"][1, 2] = np.nan
    files["field/clip 1.wav"][0, 0] = np.inf
    files["field/clip 2.wav"][3, 0] = -1e38  # a number whose square is infinite
    done = build(write(tmp_path / "e.parquet", files), tmp_path / "e.index")
    assert (done.files, done.rows, done.rows_not_finite) == (2, 5, 3)
    index = load(tmp_path / "e.index")
    assert index.files == ("field/clip 0.wav", "field/clip 2.wav")
    assert index.query_of("clip 0.wav").start_s.tolist() == [0, 1.92]
    assert len(index.query_of("clip 2.wav")) == 3


def test_a_recording_that_comes_again_is_left_out_however_long_it_is(tmp_path: Path) -> None:
    early, other, late = (np.ones((rows, DIM), np.float32) for rows in (2, 1, 9_000))  # more than a batch of rows
    with JobWriter(tmp_path / "e.parquet", INFO, format="parquet") as writer:
        for name, values in (("a.wav", early), ("b.wav", other), ("a.wav", late)):
            start_s = np.arange(len(values)) * 0.96
            writer.append(name, start_s, start_s + 0.96, values, last=True)
        writer.finish()
    done = build(tmp_path / "e.parquet", tmp_path / "e.index")
    assert (done.files, done.rows, done.files_already_there) == (2, 3, 1)
    assert load(tmp_path / "e.index").files == ("a.wav", "b.wav")


def test_pooling_gives_a_file_s_mean_and_its_whole_time(tmp_path: Path) -> None:
    lengths = [3, 1, 9000, 2]  # the third goes over from one batch of rows to the next
    source = write(tmp_path / "e.parquet", clips(lengths))
    done = build(source, tmp_path / "e.index", pool="mean", metric="cosine")
    assert (done.files, done.rows) == (4, 4)
    index, table = load(tmp_path / "e.index"), table_of(source)
    assert index.pool == "mean"
    for name in index.files:
        query = index.query_of(name)
        of_file = table.file == name
        assert (query.start_s.tolist(), query.end_s.tolist()) == ([0.0], [table.end_s[of_file].max()])
        np.testing.assert_allclose(query.offsets[0], table.values[of_file].mean(axis=0), atol=5e-3)


def test_adding_is_as_building_at_once_but_for_the_mean(tmp_path: Path) -> None:
    first, second = clips([30, 20]), clips([40, 5], seed=1, first=2)
    sources = [write(tmp_path / "1.parquet", first), write(tmp_path / "2.parquet", second)]
    build(sources, tmp_path / "at once.index", metric="cosine", threads=1)
    build(sources[0], tmp_path / "added.index", metric="cosine", threads=1)
    done = build(sources, tmp_path / "added.index", add=True, threads=1)
    assert (done.files, done.rows) == (4, 95)
    assert (done.added_files, done.added_rows, done.files_already_there) == (2, 45, 2)
    at_once, added = load(tmp_path / "at once.index"), load(tmp_path / "added.index")
    assert at_once.files == added.files
    for name in at_once.files:
        query = at_once.query_of(name)
        np.testing.assert_array_equal(query.offsets, added.query_of(name).offsets)
        assert at_once.search(query, 20) == added.search(query, 20)


def test_adding_keeps_the_mean(source: Path, tmp_path: Path) -> None:
    build(source, tmp_path / "e.index")
    before = load(tmp_path / "e.index").query(np.zeros(DIM, np.float32)).offsets
    build(write(tmp_path / "more.parquet", clips([50], first=5)), tmp_path / "e.index", add=True)
    index = load(tmp_path / "e.index")
    assert index.num_files == 4
    np.testing.assert_array_equal(index.query(np.zeros(DIM, np.float32)).offsets, before)


def test_adding_goes_by_the_index_s_own_options(source: Path, tmp_path: Path) -> None:
    build(source, tmp_path / "e.index", pool="mean")
    more = write(tmp_path / "more.parquet", clips([5], first=5))
    with pytest.raises(OptionError, match=r"pool: 'none', and .*e.index has 'mean'"):
        build(more, tmp_path / "e.index", add=True, pool="none")
    with pytest.raises(OptionError, match=r"metric: 'cosine', and .*e.index has 'centred'"):
        build(more, tmp_path / "e.index", add=True, metric="cosine")
    assert build(more, tmp_path / "e.index", add=True, pool="mean").rows == 4
    with pytest.raises(RecordError, match=r"none.index: cannot be opened \(No such file"):
        build(more, tmp_path / "none.index", add=True)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"weights_sha256": "cd" * 32}, "weights_sha256 abab.* then, cdcd.* now"),
        ({"model": "yamnet"}, "model mini then, yamnet now"),
        ({"hop_s": 0.5}, "hop_s 0.96 then, 0.5 now"),
    ],
)
def test_embeddings_of_two_kinds_are_refused(source: Path, tmp_path: Path, other: dict[str, Any], message: str) -> None:
    second = write(tmp_path / "2.parquet", clips([2], first=9), replace(INFO, **other))
    with pytest.raises(RecordError, match=message):
        build([source, second], tmp_path / "e.index")
    build(source, tmp_path / "e.index")
    with pytest.raises(RecordError, match=message):
        build(second, tmp_path / "e.index", add=True)
    assert load(tmp_path / "e.index").num_files == 3


def test_an_index_that_exists_is_kept_unless_asked(source: Path, tmp_path: Path) -> None:
    build(source, tmp_path / "e.index")
    with pytest.raises(OutputError, match=r"e.index: exists already.*--add"):
        build(source, tmp_path / "e.index")
    assert build(source, tmp_path / "e.index", overwrite=True).rows == 8
    with pytest.raises(OutputError, match=r"is a folder; expected the name of a file"):
        build(source, tmp_path, overwrite=True)


def test_where_nothing_can_be_written_is_found_before_anything_is_read(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(place: int, total: int) -> None:
        raise AssertionError("read")

    monkeypatch.setattr("os.access", lambda path, mode: False)  # whoever runs this may write everywhere
    with pytest.raises(OutputError, match=r"e.index: nothing can be written to .*; expected a writable folder"):
        build(source, tmp_path / "new" / "e.index", progress=read)
    with pytest.raises(OutputError, match=r"e.parquet/e.index: nothing can be written to .*e.parquet"):
        build(source, source / "e.index", progress=read)


def test_embeddings_are_not_replaced_by_their_index(source: Path, tmp_path: Path) -> None:
    content = source.read_bytes()
    for how in ({"overwrite": True}, {"add": True}):
        with pytest.raises(OptionError, match=r"e.parquet: is one of the embeddings files, too; expected another name"):
            build([source], tmp_path / "." / "e.parquet", **how)
    assert source.read_bytes() == content


def test_a_name_that_no_file_can_have_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot be written \(.*too long"):
        build(source, tmp_path / ("x" * 300))


def test_two_builds_at_once_do_not_undo_one_another(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "e.index"
    more = [write(tmp_path / f"{number}.parquet", clips([3], first=number)) for number in (5, 6)]

    def meanwhile(done: int, total: int) -> None:
        if done == total:
            build(more[0], out, add=out.exists())

    with pytest.raises(OutputError, match=r"e.index: was written by another process meanwhile; expected one at a time"):
        build(source, out, progress=meanwhile)
    assert load(out).files == ("field/clip 5.wav",)
    build(source, out, overwrite=True)
    with pytest.raises(OutputError, match="was written by another process meanwhile"):
        build(more[1], out, add=True, progress=meanwhile)
    assert load(out).num_files == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["5.parquet", "6.parquet", "e.index", "e.parquet"]


def test_a_disk_that_becomes_full_is_said(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = Graph.save
    monkeypatch.setattr(Graph, "save", lambda graph, path: save(graph, tmp_path / "none" / "x"))  # USearch's own error
    with pytest.raises(OutputError, match=r"e.index: cannot be written \(USearch: .*\); expected .* enough room"):
        build(source, tmp_path / "e.index")
    assert [path.name for path in tmp_path.iterdir()] == ["e.parquet"]


def test_nothing_is_left_of_a_build_that_ends_early(source: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(source, tmp_path / "e.index", progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["e.parquet"]


def test_ctrl_c_while_usearch_works_is_an_interruption() -> None:
    """USearch looks for signals itself, and makes an error of its own of them."""
    vectors = np.random.default_rng(0).standard_normal((60_000, DIM)).astype(np.float32)
    graph = Graph(DIM)
    timer = threading.Timer(0.05, _thread.interrupt_main)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        graph.add(vectors, threads=1)
    timer.join()
    assert len(graph) < len(vectors)


def test_progress_counts_rows_of_both_passes(source: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    build(source, tmp_path / "a.index", progress=lambda *at: seen.append(at))
    build(source, tmp_path / "b.index", metric="cosine", progress=lambda *at: seen.append(at))
    assert seen == [(8, 16), (16, 16), (8, 8)]


def test_nothing_to_index_is_an_error(tmp_path: Path) -> None:
    nothing = write(tmp_path / "e.parquet", {"a.wav": np.empty((0, DIM), np.float32)})
    with pytest.raises(RecordError, match=r"e.parquet: no row to find"):
        build(nothing, tmp_path / "e.index")
    with pytest.raises(OptionError, match="paths: none"):
        build([], tmp_path / "e.index")
    assert not (tmp_path / "e.index").exists()


def test_other_files_and_damaged_ones_are_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_bytes(b"RIFF")
    with pytest.raises(RecordError, match="neither Parquet nor NPZ"):
        build(tmp_path / "x.wav", tmp_path / "e.index")
    with pytest.raises(RecordError, match="cannot be opened"):
        build(tmp_path / "none.parquet", tmp_path / "e.index")
    content = bytearray(source.read_bytes())
    content[40] ^= 255  # in the first page
    source.write_bytes(content)
    with pytest.raises(RecordError, match=r"e.parquet: damaged"):
        build(source, tmp_path / "e.index")
    assert not (tmp_path / "e.index").exists()


@pytest.mark.parametrize("wrong", ["width", "type", "axes", "starts", "names"])
def test_arrays_that_do_not_fit_one_another_are_refused(tmp_path: Path, wrong: str) -> None:
    with np.load(write(tmp_path / "e.npz", clips([3, 2]))) as archive:
        arrays = dict(archive)
    values = arrays["embedding"]
    changed = {
        "width": {"embedding": values[:, :5]},
        "type": {"embedding": values.astype(np.uint8)},
        "axes": {"embedding": values[:, 0]},
        "starts": {"start_s": arrays["start_s"][:3]},
        "names": {"file_index": arrays["file_index"][:3]},
    }
    np.savez(tmp_path / "e.npz", **{**arrays, **changed[wrong]})
    with pytest.raises(RecordError, match=r"e.npz: .*expected float32 of shape \(k, 16\) and k of each"):
        build(tmp_path / "e.npz", tmp_path / "e.index")
    assert not (tmp_path / "e.index").exists()


@pytest.mark.parametrize("option", [{"pool": "max"}, {"metric": "l2"}, {"threads": 0}])
def test_options_out_of_range_are_refused(source: Path, tmp_path: Path, option: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(option))):
        build(source, tmp_path / "e.index", **option)


def test_a_missing_usearch_is_named(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "usearch" else found(name))
    with pytest.raises(MissingExtraError, match=r"USearch is not installed.*pip install usearch"):
        build(source, tmp_path / "e.index")


def test_names_of_any_kind_come_back(tmp_path: Path) -> None:
    info: JobInfo = replace(INFO, pool="mean")
    files = {"caf\udce9.wav": np.ones((1, DIM), np.float32), "日本.flac": -np.ones((1, DIM), np.float32)}
    build(write(tmp_path / "e.parquet", files, info), tmp_path / "e.index")
    index = load(tmp_path / "e.index")
    assert index.files == ("caf\\udce9.wav", "日本.flac")
    assert [hit.file for hit in index.search(-np.ones(DIM, np.float32))] == ["日本.flac", "caf\\udce9.wav"]

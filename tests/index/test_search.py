"""What is found: held to a plain search in float64 over all rows, one by one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from audioset import Embeddings
from audioset.errors import OptionError
from audioset.index import SoundIndex, build, load
from audioset.index._graph import Graph
from audioset.index.search import By
from audioset.records import EmbeddingTable, JobWriter

from ._embeddings import DIM, INFO, clips, cosines, ranges, table_of, write

# An index of up to 4,096 rows is searched without the graph.
SMALL, LARGE = [30, 1, 12, 25] * 5, [100] * 60


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[SoundIndex, EmbeddingTable]:
    return made(tmp_path_factory.mktemp("small"), SMALL)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[SoundIndex, EmbeddingTable]:
    return made(tmp_path_factory.mktemp("large"), LARGE)


def made(folder: Path, lengths: list[int], **options: str) -> tuple[SoundIndex, EmbeddingTable]:
    source = write(folder / "e.parquet", clips(lengths))
    build(source, folder / "e.index", threads=1, **options)  # type: ignore[arg-type]
    return load(folder / "e.index"), table_of(source)


def as_embeddings(values: np.ndarray, **about: object) -> Embeddings:
    start = np.arange(len(values)) * 0.96
    known: dict[str, object] = {"model": INFO.model, "weights": INFO.weights_sha256, "regime": "raw"}
    return Embeddings(values, start, start + 0.96, file="asked.wav", duration_s=9.0, **{**known, **about})  # type: ignore[arg-type]


def test_rows_of_a_small_index_are_those_of_the_plain_search(small: tuple[SoundIndex, EmbeddingTable]) -> None:
    index, table = small
    for row in range(0, len(index), 17):
        similarities = cosines(table, table.values[row])
        hits = index.search(table.values[row], 10, by="row")
        places = [np.flatnonzero((table.file == hit.file) & (table.start_s == hit.start_s))[0] for hit in hits]
        assert len(set(places)) == 10
        assert [hit.end_s for hit in hits] == table.end_s[places].tolist()
        assert [hit.peak_s for hit in hits] == ((table.start_s + table.end_s)[places] / 2).tolist()
        np.testing.assert_allclose([hit.similarity for hit in hits], similarities[places], atol=1e-3)
        # The rows themselves, but that those which differ by no more than float16 rounds may change places.
        np.testing.assert_allclose(similarities[places], np.sort(similarities)[:-11:-1], atol=1e-3)


def test_the_graph_finds_nearly_all_that_the_plain_search_finds(large: tuple[SoundIndex, EmbeddingTable]) -> None:
    index, table = large
    assert len(index) > 4096
    found = 0
    for row in range(0, len(index), 200):
        best = np.argsort(-cosines(table, table.values[row]))[:10]
        expected = {(table.file[i], table.start_s[i]) for i in best}
        hits = index.search(table.values[row], 10, by="row")
        assert len(hits) == 10
        found += len(expected & {(hit.file, hit.start_s) for hit in hits})
        exact = index.search(table.values[row], 10, by="row", exact=True)
        assert (
            len(expected & {(hit.file, hit.start_s) for hit in exact}) >= 9
        )  # float16 may swap the tenth and eleventh
    assert found >= 0.95 * 10 * 30


@pytest.mark.parametrize("k", [1, 3, 20, 1000])
def test_rows_around_a_peak_are_one_time(small: tuple[SoundIndex, EmbeddingTable], k: int) -> None:
    index, table = small
    for row in (0, 40, 77, 120):
        of_row = {(hit.file, hit.start_s): hit.similarity for hit in index.search(table.values[row], 1000, by="row")}
        similarities = np.array([of_row[key] for key in zip(table.file, table.start_s, strict=True)])
        hits = index.search(table.values[row], k)
        assert [(hit.file, hit.start_s, hit.end_s, hit.peak_s) for hit in hits] == ranges(table, similarities, k)
        assert any(hit.end_s - hit.start_s > 2 for hit in hits)
        assert [hit.similarity for hit in hits] == sorted((hit.similarity for hit in hits), reverse=True)


def test_a_time_is_the_same_however_many_are_asked_for(large: tuple[SoundIndex, EmbeddingTable]) -> None:
    index, table = large
    assert index.search(table.values[0], 3) == index.search(table.values[0], 30)[:3]


@pytest.mark.parametrize(("hop_s", "gap"), [(0.48, 0.0), (5.0, 0.0), (0.96, 3.0)])
def test_times_end_where_rows_do_not_follow_one_another(tmp_path: Path, hop_s: float, gap: float) -> None:
    like, other = np.ones((1, DIM), np.float32), np.eye(1, DIM, dtype=np.float32) * -1
    info = replace(INFO, hop_s=hop_s)
    with JobWriter(tmp_path / "e.parquet", info, format="parquet") as writer:
        start = np.arange(6) * hop_s + np.array([0, 0, gap, gap, gap, gap])
        writer.append("a.wav", start, start + 0.96, np.concatenate([like] * 4 + [other, like]), last=True)
        writer.append("b.wav", start[:1], start[:1] + 0.96, like, last=True)
        writer.finish()
    build(tmp_path / "e.parquet", tmp_path / "e.index", metric="cosine")
    hits = load(tmp_path / "e.index").search(like, 9)
    first = [(start[0], start[1] + 0.96), (start[2], start[3] + 0.96)] if gap else [(start[0], start[3] + 0.96)]
    expected = [("a.wav", *time) for time in first] + [("a.wav", start[5], start[5] + 0.96), ("b.wav", 0, 0.96)]
    assert sorted((hit.file, hit.start_s, hit.end_s) for hit in hits) == sorted(expected)


def test_rows_that_are_the_same_hide_no_others(tmp_path: Path, rng: np.random.Generator) -> None:
    silence = np.tile(rng.standard_normal(DIM).astype(np.float32), (20, 1))
    others = rng.standard_normal((120, 20, DIM)).astype(np.float32)
    files = {f"{number}.wav": np.concatenate([other, silence]) for number, other in enumerate(others)}
    parts = [
        write(tmp_path / f"{of}.parquet", {f"{of}{name}": files[name] for name in [*files][of::2]}) for of in (0, 1)
    ]
    build(parts[0], tmp_path / "e.index")
    build(parts[1], tmp_path / "e.index", add=True)
    index = load(tmp_path / "e.index")
    missed = 0
    for asked in others[:50, 0]:
        found, expected = (index.search(asked, 10, by="row", exact=exact) for exact in (False, True))
        missed += len({*expected} - {*found})
    assert missed <= 0.02 * 500
    assert {round(hit.similarity, 3) for hit in index.search(silence[0], 300, by="row")} == {1.0}


def test_of_vectors_that_are_the_same_the_first_is_kept_as_it_is(rng: np.random.Generator) -> None:
    vectors = rng.standard_normal((50, DIM)).astype(np.float32)
    graph = Graph(DIM)
    for _ in range(3):
        graph.add(vectors, threads=1)
    first, second, third = graph.vectors(np.arange(150)).reshape(3, 50, DIM)
    np.testing.assert_array_equal(first, vectors.astype(np.float16))
    digit = np.spacing(np.abs(first).astype(np.float16)).astype(np.float32)
    for again in (second, third):
        assert (again != first).any(axis=1).all()
        assert (np.abs(again - vectors) <= 1.5 * digit).all()
    assert (second != third).any(axis=1).all()


def test_a_part_from_earlier_in_a_recording_is_a_time_of_its_own(tmp_path: Path) -> None:
    with JobWriter(tmp_path / "e.parquet", INFO, format="parquet") as writer:
        start = np.array([60, 60.96, 0, 0.96])  # two parts of one recording, the later one first
        writer.append("a.wav", start, start + 0.96, np.ones((4, DIM), np.float32), last=True)
        writer.finish()
    build(tmp_path / "e.parquet", tmp_path / "e.index", metric="cosine")
    hits = load(tmp_path / "e.index").search(np.ones(DIM, np.float32))
    assert sorted((hit.start_s, hit.end_s) for hit in hits) == [(0, 1.92), (60, 61.92)]


def test_the_best_of_each_file(small: tuple[SoundIndex, EmbeddingTable]) -> None:
    index, table = small
    similarities = cosines(table, table.values[5])
    best = {name: similarities[table.file == name].max() for name in set(table.file)}
    hits = index.search(table.values[5], 7, by="file")
    assert [hit.file for hit in hits] == sorted(best, key=lambda name: -best[name])[:7]
    np.testing.assert_allclose([hit.similarity for hit in hits], [best[hit.file] for hit in hits], atol=1e-3)


@pytest.mark.parametrize(("by", "count"), [("row", 6000), ("file", 60)])
def test_more_lines_than_there_are_gives_all(large: tuple[SoundIndex, EmbeddingTable], by: By, count: int) -> None:
    index, table = large
    assert len(index.search(table.values[0], 100_000, by=by)) == count


def test_where_the_graph_gives_too_few_files_all_rows_are_looked_at(large: tuple[SoundIndex, EmbeddingTable]) -> None:
    index, table = large
    similarities = cosines(table, table.values[0])
    best = {name: similarities[table.file == name].max() for name in set(table.file)}
    hits = index.search(table.values[0], 60, by="file")
    assert {hit.file for hit in hits} == set(table.file)
    np.testing.assert_allclose([hit.similarity for hit in hits], sorted(best.values(), reverse=True), atol=1e-3)


def test_files_are_left_out_when_asked(small: tuple[SoundIndex, EmbeddingTable]) -> None:
    index, table = small
    everything = index.search(table.values[0], 50, by="file")
    assert everything[0].file == "field/clip 0.wav"
    without = index.search(table.values[0], 50, by="file", exclude=["field/clip 0.wav", "unknown.wav"])
    assert without == everything[1:]
    assert index.search(table.values[0], exclude=index.files) == []


def test_a_recording_is_searched_for_by_the_mean_of_its_rows(small: tuple[SoundIndex, EmbeddingTable]) -> None:
    index, table = small
    asked = table.values[table.file == "field/clip 3.wav"]
    for whole, mean in zip(index.search(as_embeddings(asked), 5), index.search(asked.mean(axis=0), 5), strict=True):
        assert replace(whole, similarity=0) == replace(mean, similarity=0)
        assert whole.similarity == pytest.approx(mean.similarity, abs=1e-5)
    stored = index.query_of("field/clip 3.wav")
    np.testing.assert_allclose(stored.offsets, index.query(asked).offsets, atol=5e-3)
    assert [hit.file for hit in index.search(stored, 5)] == [hit.file for hit in index.search(asked, 5)]


def test_each_row_is_searched_for_by_itself(small: tuple[SoundIndex, EmbeddingTable]) -> None:
    index, table = small
    asked = table.values[3:6]
    assert index.search_each(asked, 4, by="row") == [index.search(row, 4, by="row") for row in asked]


def test_a_part_of_a_recording_in_the_index_is_searched_for(small: tuple[SoundIndex, EmbeddingTable]) -> None:
    index, table = small
    part = index.query_of("field/clip 3.wav", 4.0, 3.0)
    assert part.start_s.tolist() == pytest.approx([3.84, 4.8, 5.76])  # rows whose middles are from 4 to 7 s
    of_file = table.values[table.file == "field/clip 3.wav"]
    np.testing.assert_allclose(part.offsets, index.query(of_file[4:7]).offsets, atol=5e-3)
    assert index.query_of("clip 3.wav", 4.0, 3.0).file == "field/clip 3.wav"
    assert index.query_of("clip 3.wav", 4.1, 0.1).start_s.tolist() == pytest.approx([3.84])
    assert len(index.query_of("clip 3.wav", 10)) == 15


def test_the_mean_is_taken_away_or_left(tmp_path: Path) -> None:
    for metric, centred in (("centred", True), ("cosine", False)):
        folder = tmp_path / metric
        folder.mkdir()
        index, table = made(folder, SMALL, metric=metric)
        assert index.metric == metric
        hits = index.search(table.values[50], 5, by="row")
        expected = np.sort(cosines(table, table.values[50], centred=centred))[:-6:-1]
        np.testing.assert_allclose([hit.similarity for hit in hits], expected, atol=1e-3)


def test_released_bytes_are_compared_as_what_they_stand_for(tmp_path: Path, rng: np.random.Generator) -> None:
    info = replace(INFO, dtype="uint8", regime="uint8")
    values = rng.integers(0, 256, (20, DIM), np.uint8)
    source = write(tmp_path / "e.parquet", {"a.wav": values[:10], "b.wav": values[10:]}, info)
    build(source, tmp_path / "e.index", metric="cosine")
    index = load(tmp_path / "e.index")
    hits = index.search(values[3], 20, by="row")
    shift = 255 / 4 * 2  # the byte that stands for 0
    expected = np.sort(cosines(table_of(source), values[3].astype(np.float64), centred=False))
    assert abs(expected - np.sort([hit.similarity for hit in hits])).max() > 0.05  # not of the bytes themselves
    plain = replace(table_of(source), values=values - shift)
    expected = np.sort(cosines(plain, values[3] - shift, centred=False))
    np.testing.assert_allclose(np.sort([hit.similarity for hit in hits]), expected, atol=2e-3)
    with pytest.raises(OptionError, match="float32 of shape"):
        index.search(values[3].astype(np.float32))


def test_silence_that_has_no_direction_is_like_nothing(tmp_path: Path) -> None:
    source = write(tmp_path / "e.parquet", {"a.wav": np.ones((3, DIM), np.float32)})
    build(source, tmp_path / "e.index")  # all rows are their mean
    hits = load(tmp_path / "e.index").search(np.ones(DIM, np.float32), by="row")
    assert [hit.similarity for hit in hits] == [0, 0, 0]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (np.zeros((2, DIM + 1), np.float32), r"shape \(2, 17\); expected float32 of shape \(k, 16\)"),
        (np.zeros((0, DIM), np.float32), "no embedding; expected one at least"),
        (np.full((1, DIM), np.nan, np.float32), "NaN, infinity or more than 1e15"),
        (as_embeddings(np.ones((1, DIM), np.float32), weights="cd" * 32), "weights_sha256 cdcd.*Embed it with"),
        (as_embeddings(np.ones((1, DIM), np.float32), model="vggish"), "model vggish, the index's is mini"),
        (as_embeddings(np.ones((1, DIM), np.float32), regime="pca"), "regime pca, the index's is raw"),
    ],
)
def test_what_is_not_of_the_index_s_model_is_refused(
    small: tuple[SoundIndex, EmbeddingTable], query: np.ndarray | Embeddings, message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        small[0].search(query)


def test_the_error_of_a_recording_that_could_not_be_embedded_is_raised(
    small: tuple[SoundIndex, EmbeddingTable],
) -> None:
    failed = as_embeddings(np.ones((0, DIM), np.float32), error=ValueError("no audio stream"))
    with pytest.raises(ValueError, match="no audio stream"):
        small[0].search(failed)


def test_options_out_of_range_are_refused(small: tuple[SoundIndex, EmbeddingTable]) -> None:
    index, table = small
    with pytest.raises(OptionError, match="k: 0 is out of range"):
        index.search(table.values[0], 0)
    with pytest.raises(OptionError, match=r"k: 2\.5 is out of range; expected a whole number"):
        index.search(table.values[0], 2.5)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="by: 'clip' is unknown; expected one of range, row, file"):
        index.search(table.values[0], by="clip")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="start_s: -1 is out of range"):
        index.query_of("clip 3.wav", -1)
    with pytest.raises(OptionError, match="duration_s: 0 is out of range"):
        index.query_of("clip 3.wav", 0, 0)


def test_recordings_and_times_that_are_not_there_are_named(small: tuple[SoundIndex, EmbeddingTable]) -> None:
    index, _ = small
    with pytest.raises(OptionError, match=r"owl.wav: not in .* which has 20 recordings, such as field/clip 0.wav"):
        index.query_of("owl.wav")
    with pytest.raises(OptionError, match=r"no row at 500 s for 2 s; it has some up to 24 s"):
        index.query_of("clip 3.wav", 500, 2)


def test_the_end_of_a_name_has_to_be_of_one_file(tmp_path: Path) -> None:
    one = np.ones((1, DIM), np.float32)
    build(write(tmp_path / "e.parquet", {"a/x.wav": one, "b/x.wav": -one}), tmp_path / "e.index")
    with pytest.raises(OptionError, match=r"x.wav: 2 recordings in .* end so \(a/x.wav, b/x.wav\)"):
        load(tmp_path / "e.index").query_of("x.wav")

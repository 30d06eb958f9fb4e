from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from audioset.classes import ClassList, class_list
from audioset.errors import OptionError, OutputError, RecordError
from audioset.evaluate import PredictionBatch, evaluate, read_predictions, write_predictions

CLASSES = ClassList(("/m/a", "/m/b", "/m/c"), ("A", "B, b", "Č"))
INFO = {"model": "vggish", "weights": "0123", "head": "attention"}


def batch(rng, num, first=0, *, targets=True, mask=False):
    return PredictionBatch(
        tuple(f"clip {i}" for i in range(first, first + num)),
        rng.random((num, 3), dtype=np.float32),
        rng.random((num, 3)) < 0.4 if targets else None,
        rng.random((num, 3)) < 0.7 if mask else None,
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "predictions.parquet"


def test_what_is_written_is_read_back(rng, path):
    batches = [batch(rng, 5), batch(rng, 0, 5), batch(rng, 3, 5)]
    assert write_predictions(path, CLASSES, iter(batches), info=INFO) == 8
    read = read_predictions(path)
    assert read.ids == tuple(f"clip {i}" for i in range(8))
    np.testing.assert_array_equal(read.scores, np.concatenate([b.scores for b in batches]))
    np.testing.assert_array_equal(read.targets, np.concatenate([b.targets for b in batches]))
    assert read.scores.dtype == np.float32
    assert read.mask is None
    assert (read.classes, read.info) == (CLASSES, INFO)


def test_masks_are_kept_and_none_means_all(rng, path):
    batches = [batch(rng, 4, mask=True), batch(rng, 2, 4)]
    write_predictions(path, CLASSES, batches)
    np.testing.assert_array_equal(read_predictions(path).mask, np.vstack([batches[0].mask, np.ones((2, 3), bool)]))


def test_labels_may_be_unknown(rng, path):
    write_predictions(path, CLASSES, [batch(rng, 4, targets=False)])
    assert read_predictions(path).targets is None


def test_stored_scores_evaluate_as_the_arrays_do(rng, path):
    one = batch(rng, 50, mask=True)
    write_predictions(path, CLASSES, [one])
    read = read_predictions(path)
    stored = evaluate(read.scores, read.targets, read.classes, mask=read.mask, resamples=5)
    assert stored.to_json() == evaluate(one.scores, one.targets, CLASSES, mask=one.mask, resamples=5).to_json()


def test_columns_are_those_that_others_read(rng, path):
    one = batch(rng, 2)
    write_predictions(path, CLASSES, [one])
    table = pq.read_table(path)
    assert table.schema.names == ["id", "scores", "targets", "rated"]
    assert table.schema.field("scores").type.list_size == 3
    assert table["targets"].to_pylist() == [np.flatnonzero(row).tolist() for row in one.targets]


def test_batches_of_any_size_become_full_row_groups_at_most(rng, path, monkeypatch):
    from audioset.evaluate import predictions

    monkeypatch.setattr(predictions, "_ROW_GROUP_BYTES", 4 * 3 * 10)
    write_predictions(path, CLASSES, [batch(rng, 25)])
    with pq.ParquetFile(path) as file:
        assert [file.metadata.row_group(i).num_rows for i in range(3)] == [10, 10, 5]


def test_a_failure_leaves_what_was_there(rng, path):
    write_predictions(path, CLASSES, [batch(rng, 2)])
    before = path.read_bytes()

    def broken():
        yield batch(rng, 2)
        raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        write_predictions(path, CLASSES, broken())
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_is_refused(rng, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        write_predictions(tmp_path / "file" / "p.parquet", CLASSES, [batch(rng, 1)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"scores": np.zeros((2, 4), np.float32)},
            r"scores for .*: shape \(2, 4\); expected \(ids, classes\) \(2, 3\)",
        ),
        ({"targets": np.zeros((1, 3), bool)}, r"targets for .*: shape \(1, 3\)"),
        ({"mask": np.zeros((3,), bool)}, r"mask for .*: shape \(3,\)"),
        ({"scores": np.array([[0, 0, 0], [0, np.nan, 0]])}, "NaN or infinite for 'clip 1'"),
    ],
)
def test_batches_that_do_not_fit_are_refused(rng, path, change, message):
    one = batch(rng, 2)
    wrong = PredictionBatch(**{**vars(one), **change})
    with pytest.raises(OptionError, match=message):
        write_predictions(path, CLASSES, [wrong])
    assert not path.exists()


def test_a_missing_file_is_refused(path):
    with pytest.raises(RecordError, match=r"predictions.parquet: cannot be read"):
        read_predictions(path)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not parquet at all"])
def test_other_files_are_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(RecordError, match="not a whole Parquet file"):
        read_predictions(path)


def test_a_cut_file_is_refused(rng, path):
    write_predictions(path, CLASSES, [batch(rng, 200)])
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(RecordError, match="not a whole Parquet file"):
        read_predictions(path)


def test_damaged_bytes_are_refused_or_read_right(rng, path):
    write_predictions(path, CLASSES, [batch(rng, 200)])
    whole = bytearray(path.read_bytes())
    right = read_predictions(path)
    refused = 0
    for place in rng.integers(4, len(whole), 60):
        damaged = whole.copy()
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        try:
            read = read_predictions(path)
        except RecordError:
            refused += 1
        else:  # the byte was of no consequence, such as a statistic
            assert read.ids == right.ids
            np.testing.assert_array_equal(read.scores, right.scores)
            np.testing.assert_array_equal(read.targets, right.targets)
    assert refused > 30


def test_an_empty_file_of_predictions_is_refused(path):
    write_predictions(path, CLASSES, [])
    with pytest.raises(RecordError, match="holds no clip"):
        read_predictions(path)


def rewritten(path, change):
    """The file with `change(table)` in its place."""
    pq.write_table(change(pq.read_table(path)), path)


def described(**change):
    def of(table):
        key = b"audioset.predictions"
        text = json.dumps({**json.loads(table.schema.metadata[key]), **change})
        return table.replace_schema_metadata({key: text})

    return of


def with_column(name, values):
    return lambda table: table.set_column(table.schema.get_field_index(name), name, pa.array(*values))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.replace_schema_metadata({}), "Parquet of something else"),
        (lambda table: table.replace_schema_metadata({b"audioset.predictions": b"{"}), "its description is damaged"),
        (described(names=3), "its description is damaged"),
        (described(version=2), "version 2 of predictions; expected 1"),
        (described(names=["A", "B"]), "column 'scores' is .*; expected"),
        (described(mids=["A", "B"]), "2 mids and 3 names"),
        (lambda table: table.drop(["rated"]), "column 'rated' is missing"),
        (with_column("targets", [["a", "b"]]), "column 'targets' is string; expected"),
        (with_column("targets", [[[0], [3]], pa.list_(pa.int32())]), "'targets' names columns outside 0 to 2"),
        (with_column("targets", [[[-1], [0]], pa.list_(pa.int32())]), "'targets' names columns outside 0 to 2"),
        (with_column("targets", [[[None], [0]], pa.list_(pa.int32())]), "'targets' names columns outside 0 to 2"),
        (with_column("targets", [[None, [0]], pa.list_(pa.int32())]), "'targets' is null for some clips only"),
        (with_column("id", [[None, "a"]]), "clips without an id or scores"),
        (with_column("scores", [[None, [1, 2, 3]], pa.list_(pa.float32(), 3)]), "without an id or scores|not a whole"),
        (
            with_column("scores", [[[1, None, 2], [1, 2, 3]], pa.list_(pa.float32(), 3)]),
            "clips without an id or scores",
        ),
        (with_column("scores", [[[1, np.nan, 2], [1, 2, 3]], pa.list_(pa.float32(), 3)]), "NaN or infinite scores"),
    ],
)
def test_files_that_are_not_as_written_are_refused(rng, path, change, message):
    write_predictions(path, CLASSES, [batch(rng, 2)])
    rewritten(path, change)
    with pytest.raises(RecordError, match=message):
        read_predictions(path)


def test_labels_for_some_batches_only_are_refused(rng, path):
    write_predictions(path, CLASSES, [batch(rng, 2), batch(rng, 2, targets=False)])
    with pytest.raises(RecordError, match="'targets' is null for some clips only"):
        read_predictions(path)


def test_all_of_audiosets_classes_fit(rng, path):
    classes = class_list("audioset527")
    scores = rng.random((30, 527), dtype=np.float32)
    write_predictions(path, classes, [PredictionBatch(tuple(map(str, range(30))), scores, scores > 0.99)])
    read = read_predictions(path)
    assert read.classes == classes
    np.testing.assert_array_equal(read.targets, scores > 0.99)

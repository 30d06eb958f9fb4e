"""Scores and labels of clips in a Parquet file, so that they can be evaluated later, elsewhere, by anyone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from audioset._files import written_whole
from audioset.classes import ClassList
from audioset.errors import OptionError, RecordError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_KEY = b"audioset.predictions"
_VERSION = 1
_ROW_GROUP_BYTES = 1 << 24


@dataclass(frozen=True)
class PredictionBatch:
    """Some clips with their scores.

    Attributes
    ----------
    ids : sequence of str (n,)
        Names of the clips.
    scores : float32 (n, c)
    targets : bool (n, c) or None
        Labels; None where they are not known.
    mask : bool (n, c) or None
        Cells that were rated; None for all.
    """

    ids: tuple[str, ...]
    scores: npt.NDArray[np.float32]
    targets: npt.NDArray[np.bool_] | None = None
    mask: npt.NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Predictions:
    """All clips of a file, the classes of their scores and what made them.

    Attributes
    ----------
    ids, scores, targets, mask
        See `PredictionBatch`.
    classes : ClassList
        Of the columns.
    info : dict of str to str
        What made the scores: model, weights, head and whatever else the writer said.
    """

    ids: tuple[str, ...]
    scores: npt.NDArray[np.float32]
    targets: npt.NDArray[np.bool_] | None
    mask: npt.NDArray[np.bool_] | None
    classes: ClassList
    info: dict[str, str]


def write_predictions(
    path: Path | str, classes: ClassList, batches: Iterable[PredictionBatch], *, info: Mapping[str, str] | None = None
) -> int:
    """Write the batches as they come to a Parquet file, whole or not at all, and return the number of clips.

    Columns: `id` string; `scores` fixed-size list of float32; `targets` list of int32, the classes that the clip has,
    null where labels are not known; `rated` list of int32, the classes that were rated, null for all.

    Parameters
    ----------
    path : path
        The file; it is replaced.
    classes : ClassList
        Of the columns of the scores.
    batches : iterable of PredictionBatch
    info : mapping of str to str, optional
        What made the scores, such as {"model": "yamnet", "weights": "…", "head": "…"}.

    Raises
    ------
    OptionError
        A batch's arrays do not fit each other or the classes, or have NaN or infinite scores.
    OutputError
        The file cannot be written.
    """
    import pyarrow as pa

    path = Path(path)
    described = {"version": _VERSION, "mids": classes.mids, "names": classes.names, "info": dict(info or {})}
    schema = pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("scores", pa.list_(pa.field("item", pa.float32(), nullable=False), len(classes)), nullable=False),
            pa.field("targets", pa.list_(pa.int32())),
            pa.field("rated", pa.list_(pa.int32())),
        ],
        {_KEY: json.dumps(described, ensure_ascii=False).encode()},
    )
    group_rows = max(1, _ROW_GROUP_BYTES // (4 * max(1, len(classes))))
    num_clips = 0
    with written_whole(path) as temporary, _writer(temporary, schema) as writer:
        for batch in batches:
            writer.write_table(_table(batch, schema, len(classes), path), group_rows)
            num_clips += len(batch.ids)
    return num_clips


def read_predictions(path: Path | str) -> Predictions:
    """Return all clips of a file that `write_predictions` wrote.

    `targets` is None where no clip has labels; a file in which only some have them is refused.

    Raises
    ------
    RecordError
        The file is missing, damaged, holds no clip, or was not written by `write_predictions`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            classes, info = _described(path, file.schema_arrow)
            parts = [_batch(path, batch, len(classes)) for batch in file.iter_batches()]
    except OSError as error:
        raise RecordError(
            f"{path}: cannot be read ({error.strerror or error}); expected a predictions file, whole"
        ) from error
    except (pa.ArrowException, UnicodeDecodeError) as error:  # the latter for damaged names of columns
        raise RecordError(
            f"{path}: not a whole Parquet file ({error}); expected one that write_predictions wrote. Predict again"
        ) from error
    parts = [part for part in parts if part.ids]
    if not parts:
        raise RecordError(f"{path}: holds no clip; expected at least one")
    return Predictions(
        tuple(name for part in parts for name in part.ids),
        np.concatenate([part.scores for part in parts]),
        _joined_targets(path, parts),
        _joined_masks(parts),
        classes,
        info,
    )


def _writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    import pyarrow.parquet as pq

    return pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True)


def _table(batch: PredictionBatch, schema: pa.Schema, num_classes: int, path: Path) -> pa.Table:
    import pyarrow as pa

    scores = np.ascontiguousarray(batch.scores, np.float32)
    shape = (len(batch.ids), num_classes)
    given = {"scores": scores, "targets": batch.targets, "mask": batch.mask}
    for name, array in given.items():
        if array is not None and np.shape(array) != shape:
            raise OptionError(f"{name} for {path}: shape {np.shape(array)}; expected (ids, classes) {shape}")
    if not np.isfinite(scores).all():
        row = int(np.flatnonzero(~np.isfinite(scores).all(axis=1))[0])
        raise OptionError(f"scores for {path}: NaN or infinite for {batch.ids[row]!r}; expected finite numbers")
    columns = [
        pa.array(batch.ids, pa.string()),
        pa.FixedSizeListArray.from_arrays(pa.array(scores.ravel()), type=schema.field("scores").type),
        _places(batch.targets, len(batch.ids)),
        _places(batch.mask, len(batch.ids)),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _places(cells: npt.NDArray[np.bool_] | None, num_rows: int) -> pa.Array:
    """The true columns of each row, as lists; nulls for None."""
    import pyarrow as pa

    if cells is None:
        return pa.nulls(num_rows, pa.list_(pa.int32()))
    rows, columns = np.nonzero(cells)
    offsets = np.searchsorted(rows, np.arange(num_rows + 1))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(columns, pa.int32()))


def _described(path: Path, schema: pa.Schema) -> tuple[ClassList, dict[str, str]]:
    import pyarrow as pa

    text = (schema.metadata or {}).get(_KEY)
    if text is None:
        raise RecordError(f"{path}: Parquet of something else; expected a file that write_predictions wrote")
    try:
        described = json.loads(text)
        version = described["version"]
        classes = ClassList(tuple(map(str, described["mids"])), tuple(map(str, described["names"])))
        info = {str(key): str(value) for key, value in described["info"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecordError(
            f"{path}: its description is damaged ({error}); expected that of write_predictions"
        ) from error
    if version != _VERSION:
        raise RecordError(f"{path}: version {version!r} of predictions; expected {_VERSION}. Update audioset")
    expected = {
        "id": pa.string(),
        "scores": pa.list_(pa.float32(), len(classes)),
        "targets": pa.list_(pa.int32()),
        "rated": pa.list_(pa.int32()),
    }
    for name, kind in expected.items():
        found = schema.field(name).type if name in schema.names else None
        if found is None or not _same_lists(found, kind):
            raise RecordError(f"{path}: column {name!r} is {found or 'missing'}; expected {kind}")
    if not len(classes) or len(classes.mids) != len(classes.names):
        raise RecordError(
            f"{path}: {len(classes.mids)} mids and {len(classes.names)} names; expected as many of both, and some"
        )
    return classes, info


def _same_lists(found: Any, expected: Any) -> bool:
    """Whether two types agree but for the names of lists' items and whether these may be null."""
    import pyarrow as pa

    if pa.types.is_fixed_size_list(expected):
        same_size = pa.types.is_fixed_size_list(found) and found.list_size == expected.list_size
        return bool(same_size and found.value_type == expected.value_type)
    if pa.types.is_list(expected):
        return bool(pa.types.is_list(found) and found.value_type == expected.value_type)
    return bool(found == expected)


def _batch(path: Path, batch: pa.RecordBatch, num_classes: int) -> PredictionBatch:
    batch.validate(full=True)  # texts and offsets too, which damage may have changed
    scores = batch.column("scores")
    if batch.column("id").null_count or scores.null_count or scores.flatten().null_count:
        raise RecordError(f"{path}: clips without an id or scores; expected both for each")
    values = scores.flatten().to_numpy().reshape(batch.num_rows, num_classes)
    if not np.isfinite(values).all():
        raise RecordError(f"{path}: NaN or infinite scores; expected finite numbers. Predict again")
    targets, rated = batch.column("targets"), batch.column("rated")
    if 0 < targets.null_count < len(targets):
        raise _partly(path)
    mask = None if rated.null_count == len(rated) else _cells(path, "rated", rated, num_classes)
    if mask is not None:
        mask[rated.is_null().to_numpy(zero_copy_only=False)] = True
    return PredictionBatch(
        tuple(batch.column("id").to_pylist()),
        values,
        None if targets.null_count else _cells(path, "targets", targets, num_classes),
        mask,
    )


def _cells(path: Path, name: str, lists: pa.Array, num_classes: int) -> npt.NDArray[np.bool_]:
    """Where the columns named in each list are, (n, c); nowhere for null."""
    places = lists.flatten()
    if places.null_count or not all(0 <= place < num_classes for place in places.unique().to_pylist()):
        raise RecordError(
            f"{path}: {name!r} names columns outside 0 to {num_classes - 1}; expected columns of the scores"
        )
    lengths = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    cells = np.zeros((len(lists), num_classes), np.bool_)
    cells[np.repeat(np.arange(len(lists)), lengths), places.to_numpy()] = True
    return cells


def _joined_targets(path: Path, parts: list[PredictionBatch]) -> npt.NDArray[np.bool_] | None:
    known = [part.targets for part in parts if part.targets is not None]
    if known and len(known) < len(parts):
        raise _partly(path)
    return np.concatenate(known) if known else None


def _partly(path: Path) -> RecordError:
    return RecordError(f"{path}: 'targets' is null for some clips only; expected it for all clips or for none")


def _joined_masks(parts: list[PredictionBatch]) -> npt.NDArray[np.bool_] | None:
    if all(part.mask is None for part in parts):
        return None
    masks = (np.ones(part.scores.shape, np.bool_) if part.mask is None else part.mask for part in parts)
    return np.concatenate(list(masks))

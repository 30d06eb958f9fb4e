"""Features in one Arrow or Parquet file, from TFRecords or from the package's own embeddings, and back to TFRecords.

Whatever they are from, rows have the columns of `audioset.dataset.features.FEATURES_SCHEMA`, and the schema's metadata
says under ``audioset.features`` (JSON) what the bytes in ``embedding`` are: ``model``, ``embedding_dim``, ``regime``
and ``dtype`` (uint8 where it is not said). Rows of the package's own embeddings are one for each file, its name in
``video_id``, without labels.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from audioset._files import unwritable, written_whole
from audioset.dataset import youtube8m
from audioset.dataset._layout import FEATURES_SCHEMA, decode_row
from audioset.dataset._sources import OnDamage, Source, find_files, read_blocks, table_kind
from audioset.dataset.features import batches_of_blocks, records_of, write_features
from audioset.errors import OptionError, OutputError, RecordError
from audioset.records import parts
from audioset.records.info import Metadata
from audioset.records.tfrecord import Damage, RecordBlock
from audioset.weights.content import check_output

__all__ = ["Conversion", "FeatureRows", "FeaturesInfo", "convert_features", "open_rows"]

Progress: TypeAlias = Callable[[int, "int | None"], None]
"""Given the bytes that are done and, where it is known, how many there are."""

ABOUT_KEY = b"audioset.features"
BATCH_ROWS = 8192
BATCH_BYTES = 16 << 20
SHARD_BYTES = 64 << 20
"""Embeddings in each shard of a folder of TFRecords, or little more."""

_SUFFIXES = {".parquet": "parquet", ".pq": "parquet", ".arrow": "arrow", ".tfrecord": "tfrecord"}
_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True)
class FeaturesInfo:
    """What the embeddings of a table are.

    Attributes
    ----------
    model : str
        The network that made them, or "youtube8m" for pictures and sound.
    embedding_dim : int
        Values of a frame.
    dtype : {"uint8", "float32"}
        Their type.
    regime : {"uint8", "pca", "raw"}
        Quantized as released, PCA-whitened, or as the network gives them.
    weights_sha256 : str
        Of the network's weights; empty where it is not known, as of what others released.
    """

    model: str
    embedding_dim: int
    dtype: str
    regime: str
    weights_sha256: str = ""

    @property
    def frame_bytes(self) -> int:
        """Size of a frame."""
        return self.embedding_dim * np.dtype(self.dtype).itemsize

    @classmethod
    def of(cls, schema: pa.Schema, subject: object) -> FeaturesInfo:
        """What a schema says of its embeddings.

        Raises
        ------
        RecordError
            It is not one of features; the message names `subject`.
        """
        try:
            about = json.loads((schema.metadata or {})[ABOUT_KEY])
            info = cls(
                about["model"],
                int(about["embedding_dim"]),
                about.get("dtype", "uint8"),
                about["regime"],
                str(about.get("weights_sha256", "")),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RecordError(
                f"{subject}: does not say what its embeddings are ({error!r}); expected a file that "
                "`audioset dataset convert` or `audioset embed` wrote. Convert the records it was made from"
            ) from error
        if info.dtype not in ("uint8", "float32") or info.embedding_dim < 1:
            raise RecordError(
                f"{subject}: embeddings are said to be {info.embedding_dim} values of {info.dtype}; "
                "expected 1 or more of uint8 or float32"
            )
        for field in FEATURES_SCHEMA:
            found = schema.field(field.name).type if field.name in schema.names else "missing"
            if found != field.type:
                raise RecordError(f"{subject}: column {field.name} is {found}; expected {field.type}. Convert it again")
        return info


@dataclass(frozen=True)
class FeatureRows:
    """Rows on their way: their schema, and batches of whatever size."""

    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]


@dataclass(frozen=True)
class Conversion:
    """How a conversion went.

    Attributes
    ----------
    path : Path
        The output.
    num_records : int
        Records in it.
    num_bytes : int
        Bytes of records that were read: those of archives uncompressed, without damaged places.
    damages : tuple of Damage
        What could not be read.
    """

    path: Path
    num_records: int
    num_bytes: int
    damages: tuple[Damage, ...]


def convert_features(
    source: Source,
    out: str | os.PathLike[str],
    *,
    only: Sequence[str] = (),
    overwrite: bool = False,
    on_damage: OnDamage | None = None,
    progress: Progress | None = None,
) -> Conversion:
    """Write features to one file that is fast to read, or back to TFRecords; memory stays flat.

    Parameters
    ----------
    source : path or sequence of paths
        TFRecords, AudioSet's or YouTube-8M's of any level: shards, folders, patterns, or `features.tar.gz` without
        unpacking it. Or one file: a Parquet or Arrow file written here, or a Parquet file of `audioset embed`.
    out : path
        `.arrow` is an Arrow IPC file, uncompressed, for `FeatureDataset` and other programs to map; `.parquet` is
        Parquet; `.tfrecord` is one TFRecord file; a name without suffix is a new folder of these, numbered, of about
        64 MiB each.
    only : sequence of str
        Patterns such as `eval/*`: of folders and archives, take only shards whose name, or its last parts, match one.
    overwrite : bool
        Replace a file that exists. Folders are never replaced.
    on_damage : callable, optional
        Called with each `Damage` as it is found. The rest goes on in any case, and the result lists them all.
    progress : callable, optional
        Called with bytes of records done, and how many there are (of an archive nearly; None where unknown).

    Raises
    ------
    OptionError
        The suffix of `out` means no format, or a Parquet or Arrow file is one of several inputs.
    RecordError
        There is nothing at `source`, no record of it can be read, or the output cannot hold them.
    OutputError
        The output exists, is one of the inputs, or cannot be written. Nothing half done is left under its name.
    """
    path = Path(out)
    format = _format_of(path)  # noqa: A001 - the word that users type
    _check_output(path, format, overwrite)
    files = find_files(source, only=only)
    if any(path.exists() and os.path.samefile(path, file) for file in files):  # noqa: PTH121
        raise OutputError(f"{path}: one of the inputs; expected another name")
    damages: list[Damage] = []

    def damaged(damage: Damage) -> None:
        damages.append(damage)
        if on_damage is not None:
            on_damage(damage)

    num_bytes = 0

    def advanced(done: int, total: int | None) -> None:
        nonlocal num_bytes
        num_bytes = done
        if progress is not None:
            progress(done, total)

    rows = open_rows(source, only=only, on_damage=damaged, progress=advanced)
    counted = _Counted(_grouped(rows.batches))
    if format == "folder":
        _write_folder(path, rows.schema, counted)
    elif format == "tfrecord":
        _write_shard(path, rows.schema, _records(rows.schema, counted))
    else:
        write = _write_arrow if format == "arrow" else _write_parquet
        with written_whole(path) as temporary:
            write(temporary, rows.schema, counted)
    return Conversion(path, counted.num_rows, num_bytes, tuple(damages))


def open_rows(
    source: Source,
    *,
    only: Sequence[str] = (),
    on_damage: OnDamage | None = None,
    progress: Progress | None = None,
) -> FeatureRows:
    """Features as Arrow, whatever file or files they are in; arguments and errors are those of `convert_features`.

    Without `on_damage` the first damage raises.
    """
    damaged, advanced = on_damage or _raise, progress or _ignore
    files = find_files(source, only=only)
    tables = [(file, kind) for file in files if (kind := table_kind(file)) is not None]
    if not tables:
        return _open_tfrecords(source, only, damaged, advanced)
    file, kind = tables[0]
    if len(files) > 1:
        raise OptionError(
            f"{file}: a Parquet or Arrow file among {len(files)} inputs; expected one table only, or TFRecords only. "
            "Convert tables one by one"
        )
    if only:
        raise OptionError(f"{file}: a table has no shards; expected a folder or an archive to choose some of")
    path = Path(file)
    rows = _open_arrow(path, advanced) if kind == "arrow" else _open_parquet(path, advanced)
    return FeatureRows(rows.schema, _readable(path, rows.batches))


def _open_tfrecords(source: Source, only: Sequence[str], damaged: OnDamage, progress: Progress) -> FeatureRows:
    # Of an archive some of whose members are left out, nobody knows.
    total = None if only else _total_bytes(find_files(source))
    blocks = _watched(read_blocks(source, damaged, only=only), lambda done: progress(done, total and max(done, total)))
    for block in blocks:  # the first record that is understood says what they are
        flaws = []
        for index in range(len(block.starts)):
            data = block.record(index)
            try:
                try:
                    level = youtube8m.level_of(data)
                except RecordError:
                    decode_row(data)
                    return FeatureRows(FEATURES_SCHEMA, batches_of_blocks(chain([block], blocks), damaged))
                schema = youtube8m.schema_of(youtube8m.decode(data, level))
                return FeatureRows(schema, _youtube8m_rows(chain([block], blocks), level, schema, damaged))
            except RecordError as error:
                flaws.append(block.damage(index, str(error)))
        for flaw in flaws:
            damaged(flaw)
    raise RecordError(
        f"{_named(source)}: no record can be read; expected TFRecords of AudioSet's features or of YouTube-8M"
    )


def _youtube8m_rows(
    blocks: Iterator[RecordBlock], level: youtube8m.Level, schema: pa.Schema, damaged: OnDamage
) -> Iterator[pa.RecordBatch]:
    for block in blocks:
        records = []
        for index in range(len(block.starts)):
            try:
                record = youtube8m.decode(block.record(index), level)
                youtube8m.check_widths(record, schema)
                records.append(record)
            except RecordError as error:
                damaged(block.damage(index, str(error)))
        yield youtube8m.batch_of(records, schema)


def _watched(blocks: Iterator[RecordBlock], advanced: Callable[[int], None]) -> Iterator[RecordBlock]:
    """The blocks; how many bytes of records they were is told after each was dealt with."""
    before = done = 0
    shard: tuple[str, str | None] | None = None
    for block in blocks:
        if (block.file, block.member) != shard:
            before, shard = done, (block.file, block.member)
        yield block
        done = before + block.offset + int(block.stops[-1]) + 4  # its checksum
        advanced(done)


def _total_bytes(files: Iterable[str]) -> int | None:
    """Bytes of the files' content; an archive's is a little more than its shards'."""
    total = 0
    for name in files:
        try:
            with open(name, "rb") as file:  # noqa: PTH123 - a path would lose a final slash or dot
                size = os.fstat(file.fileno()).st_size
                if file.read(2) == _GZIP_MAGIC:
                    # gzip ends with the size of its content, modulo 2³²; embeddings hardly compress.
                    file.seek(max(0, size - 4))
                    stated = struct.unpack("<I", file.read(4).rjust(4, b"\0"))[0]
                    size = stated + max(0, round((size - stated) / (1 << 32))) * (1 << 32)
        except OSError:  # is reported when it is read
            return None
        total += size
    return total


def _open_arrow(path: Path, progress: Progress) -> FeatureRows:
    size = path.stat().st_size
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
    except (pa.ArrowException, OSError) as error:
        raise _damaged_table(path, error) from error
    FeaturesInfo.of(reader.schema, path)

    def batches() -> Iterator[pa.RecordBatch]:
        for index in range(reader.num_record_batches):
            batch = reader.get_batch(index)
            batch.validate(full=True)
            yield batch
            progress(size * (index + 1) // reader.num_record_batches, size)

    return FeatureRows(reader.schema, batches())


def _open_parquet(path: Path, progress: Progress) -> FeatureRows:
    try:
        with parts.parquet_file(path) as file:
            schema = file.schema_arrow
            num_rows = file.metadata.num_rows
    except parts.damage() as error:
        raise _damaged_table(path, error) from error
    own = (schema.metadata or {}).get(parts.JOB_KEY)
    if own is None:
        FeaturesInfo.of(schema, path)

    def batches() -> Iterator[pa.RecordBatch]:
        size = path.stat().st_size
        done = 0
        with parts.parquet_file(path) as file:
            # Group by group, as those are of bounded size: as many rows of long videos would be gigabytes.
            for group in range(file.num_row_groups):
                for batch in file.iter_batches(BATCH_ROWS, row_groups=[group]):
                    yield batch
                    done += len(batch)
                    progress(size * done // num_rows, size)

    if own is None:
        return FeatureRows(schema, batches())
    schema = _schema_of_own(Metadata.from_json(own, path))
    return FeatureRows(schema, _whole_files(batches(), schema))


def _readable(path: Path, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The batches; what a damaged file makes Arrow raise becomes an error that names the file."""
    try:
        yield from batches
    except parts.damage() as error:
        if isinstance(error, RecordError):
            raise
        raise _damaged_table(path, error) from error


def _damaged_table(path: Path, error: BaseException) -> RecordError:
    why = getattr(error, "strerror", None) or error
    return RecordError(f"{path}: cannot be read ({why}); expected a whole Parquet or Arrow file. Convert it again")


def _schema_of_own(metadata: Metadata) -> pa.Schema:
    job = metadata.job
    about = {
        "model": job.model,
        "embedding_dim": job.embedding_dim,
        "regime": job.regime,
        "dtype": job.dtype,
        "hop_s": job.hop_s,
        "weights_sha256": job.weights_sha256,
    }
    return FEATURES_SCHEMA.with_metadata({ABOUT_KEY: json.dumps(about)})


def _whole_files(batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Rows of embeddings, one an example, as rows of one a file."""
    held: pa.RecordBatch | None = None
    for batch in batches:
        if held is not None:
            batch = _joined([held, batch])
        _, counts = parts.file_runs(batch)
        ready = len(batch) - int(counts[-1]) if len(counts) else 0  # the last file may go on
        if ready:
            yield _by_file(batch.slice(0, ready), schema)
        held = batch.slice(ready)
    if held is not None and len(held):
        yield _by_file(held, schema)


def _by_file(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    names, counts = parts.file_runs(batch)
    stops = np.cumsum(counts)
    values = np.ascontiguousarray(parts.embedding_values(batch))
    row_bytes = values.shape[1] * values.itemsize
    columns = [
        pa.array(names, pa.string()),
        batch.column("start_s").take(pa.array(stops - counts)).cast(pa.float32()),
        batch.column("end_s").take(pa.array(stops - 1)).cast(pa.float32()),
        pa.array([[]] * len(names), pa.list_(pa.int32())),
        pa.array(counts, pa.int32()),
        pa.Array.from_buffers(
            pa.large_binary(),
            len(names),
            [None, pa.py_buffer(np.concatenate(([0], stops)) * row_bytes), pa.py_buffer(values)],
        ),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


class _Counted:
    """Batches as they pass by, and how many rows they had."""

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        self.num_rows = 0
        self._batches = batches

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        for batch in self._batches:
            self.num_rows += len(batch)
            yield batch


def _grouped(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The rows in batches that are neither many nor large: readers keep a little for each."""
    waiting: list[pa.RecordBatch] = []
    rows = num_bytes = 0
    for batch in batches:
        waiting.append(batch)
        rows, num_bytes = rows + len(batch), num_bytes + batch.nbytes
        if rows >= BATCH_ROWS or num_bytes >= BATCH_BYTES:
            yield _joined(waiting)
            waiting, rows, num_bytes = [], 0, 0
    if rows:
        yield _joined(waiting)


def _joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    return pa.Table.from_batches(batches).combine_chunks().to_batches()[0]


def _write_arrow(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    with pa.OSFile(str(path), "wb") as stream, pa.ipc.new_file(stream, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


def _write_parquet(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    with pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        compression_level=1,
        use_dictionary=["labels.list.element", "start_s", "end_s", "num_frames"],
        write_statistics=["video_id", "start_s", "end_s", "num_frames"],
        write_page_checksum=True,
    ) as writer:
        for batch in batches:
            writer.write_batch(batch, row_group_size=len(batch))


def _records(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[Any]:
    info = FeaturesInfo.of(schema, "output")
    if info.model == "youtube8m":
        return chain.from_iterable(map(youtube8m.records_of, batches))
    if info.dtype != "uint8":
        raise RecordError(
            f"embeddings are {info.dtype}; TFRecords of features hold uint8. Embed with `--postprocess uint8`, or "
            "write .parquet or .arrow"
        )
    return chain.from_iterable(map(records_of, batches))


def _write_shard(path: Path, schema: pa.Schema, records: Iterable[Any]) -> None:
    write = youtube8m.write_youtube8m if FeaturesInfo.of(schema, path).model == "youtube8m" else write_features
    write(path, records)


def _write_folder(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """Write shards to a folder beside, which takes the name when all are there."""
    records = _records(schema, batches)
    try:
        temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}")
        temporary.mkdir()
        try:
            for number in count():
                first = next(records, None)
                if first is None:
                    break
                _write_shard(temporary / f"{number:05d}.tfrecord", schema, chain([first], _some(records)))
            with suppress(OSError):  # an empty folder, which not every system replaces
                path.rmdir()
            temporary.rename(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise unwritable(path, error) from error


def _some(records: Iterator[Any]) -> Iterator[Any]:
    """The next records, as many as a shard has."""
    num_bytes = 0
    while num_bytes < SHARD_BYTES and (record := next(records, None)) is not None:
        num_bytes += record.embedding.nbytes
        yield record


def _format_of(path: Path) -> str:
    if not path.suffix or path.is_dir():
        return "folder"
    found = _SUFFIXES.get(path.suffix.lower())
    if found is None:
        raise OptionError(
            f"{path}: the extension {path.suffix!r} names no format; expected {', '.join(_SUFFIXES)}, or none for a "
            "folder of TFRecords"
        )
    return found


def _check_output(path: Path, format: str, overwrite: bool) -> None:  # noqa: A002 - the word that users type
    if format != "folder":
        check_output(path, overwrite=overwrite)
        return
    if os.path.lexists(path) and not (path.is_dir() and not any(path.iterdir())):
        raise OutputError(f"{path}: exists already; expected the name of a new folder. Folders are never replaced")
    if not path.absolute().parent.is_dir():
        raise OutputError(f"{path}: the folder around it does not exist; expected an existing one. Create it first.")


def _named(source: Source) -> str:
    several = [source] if isinstance(source, (str, os.PathLike)) else source
    return ", ".join(os.fspath(path) for path in several)


def _raise(damage: Damage) -> None:
    raise RecordError(str(damage))


def _ignore(done: int, total: int | None) -> None:
    pass

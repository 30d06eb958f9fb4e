"""The formats of a finished output, one entry a line, and the function that writes each from a job's rows."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from audioset.errors import OptionError
from audioset.records import parts, tfrecord
from audioset.records.info import JobInfo
from audioset.records.parts import JobRows

if TYPE_CHECKING:
    import pyarrow as pa

TEXT_BATCH_ROWS = 1_024


@dataclass(frozen=True)
class Format:
    """One format: the extensions that mean it, its writer, and what is particular to it.

    Attributes
    ----------
    encode
        For formats that can be written to a stream as rows arrive: a batch as bytes.
    header
        What comes before the first batch in such a stream.
    quantized
        Whether it holds 8-bit values only.
    """

    extensions: tuple[str, ...]
    write: Callable[[IO[bytes], JobRows], None]
    encode: Callable[[pa.RecordBatch], bytes] | None = None
    header: Callable[[JobInfo], bytes] | None = None
    quantized: bool = False


def format_of(out: Path | str, format: str | None = None) -> str:  # noqa: A002 - the word that users type
    """The name of the format to write: `format` when given, else what the extension of `out` means.

    Standard output, ``-``, takes a text format and is JSON lines unless `format` says otherwise.

    Raises
    ------
    OptionError
        For an unknown format or extension, listing those that are known.
    """
    if format is not None:
        if format not in FORMATS:
            raise OptionError(f"format {format!r}: unknown; expected one of {', '.join(FORMATS)}")
        name = format
    elif str(out) == "-":
        name = "jsonl"
    else:
        extension = Path(out).suffix.lower()
        named = [name for name, known in FORMATS.items() if extension in known.extensions]
        if not named:
            known = ", ".join(f"{extension} ({name})" for name, f in FORMATS.items() for extension in f.extensions)
            raise OptionError(
                f"{out}: the extension {extension!r} names no format; expected one of {known}. "
                f"Rename the output or name the format: {', '.join(FORMATS)}"
            )
        name = named[0]
    if str(out) == "-" and FORMATS[name].encode is None:
        streamed = " or ".join(name for name, known in FORMATS.items() if known.encode)
        raise OptionError(f"format {name!r}: cannot be written to standard output; expected {streamed}, or a file")
    return name


def check_format(name: str, info: JobInfo) -> None:
    """`OptionError` when a format cannot hold a job's values."""
    if FORMATS[name].quantized and info.regime != "uint8":
        raise OptionError(
            f"format {name!r}: holds 8-bit values, this job's are {info.regime} {info.dtype}; add --postprocess uint8"
        )


def write_parquet(stream: IO[bytes], rows: JobRows) -> None:
    """Parquet with full row groups; the same bytes for the same rows, however they were spread over parts."""
    import pyarrow as pa

    size = parts.row_group_rows(rows.info)
    schema = parts.schema_of(rows.info).with_metadata({parts.JOB_KEY: rows.metadata.to_json()})
    held = schema.empty_table()
    with parts.parquet_writer(stream, schema, rows.info) as writer:
        for batch in rows.batches():
            held = pa.concat_tables([held, pa.Table.from_batches([batch]).replace_schema_metadata(schema.metadata)])
            while held.num_rows >= size:
                writer.write_table(held.slice(0, size).combine_chunks(), size)
                held = held.slice(size)
        if held.num_rows:
            writer.write_table(held.combine_chunks(), size)


def write_npy(stream: IO[bytes], rows: JobRows) -> None:
    """The values alone, in an array that can be memory-mapped."""
    _array_header(stream, np.dtype(rows.info.dtype), (rows.num_rows, rows.info.embedding_dim))
    for batch in rows.batches("embedding"):
        stream.write(parts.embedding_values(batch).tobytes())


def write_npz(stream: IO[bytes], rows: JobRows) -> None:
    """Uncompressed arrays, each written in one pass over the rows; the same bytes for the same rows."""
    with zipfile.ZipFile(stream, "w") as archive:

        def member(name: str) -> IO[bytes]:
            return archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True)

        with member("embedding") as out:
            write_npy(out, rows)
        for column in ("start_s", "end_s"):
            with member(column) as out:
                _array_header(out, np.dtype(np.float64), (rows.num_rows,))
                for batch in rows.batches(column):
                    out.write(batch.column(column).to_numpy().tobytes())
        num_files = width = 0
        with member("file_index") as out:
            _array_header(out, np.dtype(np.int64), (rows.num_rows,))
            for names, counts in _whole_runs(rows):
                out.write(np.repeat(np.arange(num_files, num_files + len(names)), counts).tobytes())
                num_files += len(names)
                width = max(width, *map(len, names))
        text = np.dtype(f"<U{max(1, width)}")
        with member("files") as out:
            _array_header(out, text, (num_files,))
            for names, _ in _whole_runs(rows):
                out.write(np.array(names, text).tobytes())
        with member("metadata") as out:
            np.lib.format.write_array(out, np.array(rows.metadata.to_json()), allow_pickle=False)


def write_csv(stream: IO[bytes], rows: JobRows) -> None:
    """A header and one line a row."""
    stream.write(csv_header(rows.info))
    _write_text(stream, rows, encode_csv)


def write_jsonl(stream: IO[bytes], rows: JobRows) -> None:
    """One JSON object a line."""
    _write_text(stream, rows, encode_jsonl)


def write_tfrecord(stream: IO[bytes], rows: JobRows) -> None:
    """One record a file, in the schema of the released features."""
    for name, start_s, end_s, frames in _by_file(rows):
        tfrecord.write_record(stream, tfrecord.audio_record(Path(name).stem, start_s, end_s, frames))


def csv_header(info: JobInfo) -> bytes:
    """The first line of a CSV."""
    return ",".join(["file", "start_s", "end_s", *(f"e{i}" for i in range(info.embedding_dim))]).encode() + b"\n"


def encode_csv(batch: pa.RecordBatch) -> bytes:
    """Lines of CSV (RFC 4180, with newlines alone)."""

    def quoted(name: str) -> str:
        return '"' + name.replace('"', '""') + '"' if any(c in name for c in ',"\r\n') else name

    return _lines(batch, quoted, "", ",", ",", ",", "\n")


def encode_jsonl(batch: pa.RecordBatch) -> bytes:
    """Lines of JSON."""

    def quoted(name: str) -> str:
        return json.dumps(name, ensure_ascii=False)

    return _lines(
        batch, quoted, '{"file": ', ', "start_s": ', ', "end_s": ', ', "embedding": [', "]}\n", missing="null"
    )


def _lines(batch: pa.RecordBatch, quoted: Callable[[str], str], *between: str, missing: str | None = None) -> bytes:
    """Each row as between[0], file, between[1], start, between[2], end, between[3], values, between[4]."""
    import pyarrow as pa
    import pyarrow.compute as pc

    values = pa.array(parts.embedding_values(batch).reshape(-1))
    numbers = pc.cast(values, pa.string())  # the shortest decimals that read back the same
    if missing is not None and pa.types.is_floating(values.type):
        numbers = pc.if_else(pc.is_finite(values), numbers, missing)
    ends = np.arange(batch.num_rows + 1, dtype=np.int32) * batch.schema.field("embedding").type.list_size
    names, counts = parts.file_runs(batch)
    index = np.repeat(np.arange(len(names)), counts)
    columns = (
        pa.array([quoted(name) for name in names], pa.string()).take(pa.array(index)),
        pc.cast(batch.column("start_s"), pa.string()),
        pc.cast(batch.column("end_s"), pa.string()),
        pc.binary_join(pa.ListArray.from_arrays(pa.array(ends), numbers), ","),
    )
    pieces = [piece for pair in zip(between, columns, strict=False) for piece in pair]
    lines = pc.binary_join_element_wise(*pieces, between[-1], "")
    return "".join(lines.to_pylist()).encode()


def _write_text(stream: IO[bytes], rows: JobRows, encode: Callable[[pa.RecordBatch], bytes]) -> None:
    for batch in rows.batches():
        for start in range(0, batch.num_rows, TEXT_BATCH_ROWS):
            stream.write(encode(batch.slice(start, TEXT_BATCH_ROWS)))


def _array_header(stream: IO[bytes], dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)


def _whole_runs(rows: JobRows) -> Iterator[tuple[Sequence[str], Sequence[int]]]:
    """Names and numbers of rows of whole files, a batch at a time."""
    name: str | None = None
    count = 0
    for names, counts, _ in rows.runs():
        if name == names[0]:
            counts[0] += count
        elif name is not None:
            yield [name], [count]
        if len(names) > 1:
            yield names[:-1], counts[:-1].tolist()
        name, count = names[-1], int(counts[-1])
    if name is not None:
        yield [name], [count]


def _by_file(rows: JobRows) -> Iterator[tuple[str, float, float, npt.NDArray[np.uint8]]]:
    """Name, first start, last end and values of each file; one file at a time is held whole."""
    name: str | None = None
    start_s = end_s = 0.0
    held: list[npt.NDArray[np.uint8]] = []
    for names, counts, batch in rows.runs("start_s", "end_s", "embedding"):
        starts, ends = batch.column("start_s").to_numpy(), batch.column("end_s").to_numpy()
        values = parts.embedding_values(batch).astype(np.uint8, copy=False)
        at = 0
        for next_name, count in zip(names, counts.tolist(), strict=True):
            if next_name != name:
                if name is not None:
                    yield name, start_s, end_s, np.concatenate(held)
                name, start_s, held = next_name, float(starts[at]), []
            end_s = float(ends[at + count - 1])
            held.append(values[at : at + count])
            at += count
    if name is not None:
        yield name, start_s, end_s, np.concatenate(held)


FORMATS: dict[str, Format] = {
    "parquet": Format((".parquet", ".pq"), write_parquet),
    "npz": Format((".npz",), write_npz),
    "npy": Format((".npy",), write_npy),
    "csv": Format((".csv",), write_csv, encode_csv, csv_header),
    "jsonl": Format((".jsonl", ".ndjson"), write_jsonl, encode_jsonl),
    "tfrecord": Format((".tfrecord", ".tfrecords"), write_tfrecord, quantized=True),
}

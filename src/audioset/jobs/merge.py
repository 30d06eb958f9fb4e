"""A finished folder of parts to one embeddings file, of any format."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from audioset._files import written_whole
from audioset.errors import OptionError, OutputError
from audioset.jobs.output import read_output
from audioset.records.formats import FORMATS, check_format, format_of
from audioset.records.info import Failure, JobSummary, Metadata
from audioset.records.parts import JobRows

if TYPE_CHECKING:
    import pyarrow as pa

_COLUMNS = ("file", "start_s", "end_s", "embedding")


@dataclass(frozen=True)
class _Rows(JobRows):
    """The rows of parts without their ids, which the other formats have no place for."""

    if_damaged: ClassVar[str] = "Delete it and run the job again: the files in it are then embedded again"

    def batches(self, *columns: str) -> Iterator[pa.RecordBatch]:
        return super().batches(*(columns or _COLUMNS))


def merge(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    format: str | None = None,  # noqa: A002 - the word that users type
    overwrite: bool = False,
) -> JobSummary:
    """Write the rows of a finished job to one file, as `audioset embed` would have, in the order of its parts.

    That is the order of the items, except for those that were added or tried again later.

    Parameters
    ----------
    folder : path
        A local folder of a job that is complete.
    out : path
        The file, written whole or not at all.
    format : str, optional
        A name in `audioset.records.FORMATS`; by default what the ending of `out` means.
    overwrite : bool
        Replace what is there.

    Returns
    -------
    JobSummary
        Of the file. Ids are left out.

    Raises
    ------
    OptionError
        The format is unknown or cannot hold the values, or the folder is a URL.
    OutputError
        There is no job or it is not complete, or `out` cannot be written.
    """
    name, target = os.fspath(folder), Path(out)
    output = read_output(name)
    if not output.folder.is_local:
        raise OptionError(f"{name}: cannot be merged where it is; copy the folder to a local disk first")
    kind = format_of(target, format)
    check_format(kind, output.info)
    state = output.state(repair=False)
    if not output.is_complete():
        raise OutputError(
            f"{name}: not complete, {len(state.attempts):,} of {output.num_items:,} items are done; expected a "
            "finished job. Run it to its end first"
        )
    if target.exists() and not overwrite:
        raise OutputError(f"{target}: exists; --overwrite to replace it, or choose another name")
    failures = tuple(Failure(one.file, one.reason) for listed in state.failures.values() for one in listed)
    totals = state.totals()
    metadata = Metadata(output.info, totals["files"], totals["rows"], len(failures), failures)
    found = [(Path(output.folder.name, part.name), part.rows) for part in state.parts]
    rows = _Rows(output.info, metadata, found, totals["rows"])
    with written_whole(target) as temporary, temporary.open("wb") as stream:
        FORMATS[kind].write(stream, rows)
    return JobSummary(target, totals["files"], totals["rows"], failures, target.stat().st_size)

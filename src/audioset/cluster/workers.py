"""The processes of a pool: each loads the model once, then does one task after another."""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from audioset import errors
from audioset.cluster.orders import Order, Shipped, from_table
from audioset.errors import AudioSetError, OutputError
from audioset.features import ShortClipWarning
from audioset.jobs import Output, PartDone, describe_model, run_tasks
from audioset.jobs.output import JOB_NAME
from audioset.jobs.rows import Rows
from audioset.weights import UntrainedWeightsWarning

if TYPE_CHECKING:
    import pyarrow as pa


class _Worker:
    """A process with the model; what is wrong with it is told by its first task, without a traceback."""

    def __init__(self, order: Order, shipped: Any = None, output: Output | None = None) -> None:
        import ray

        self.order = order
        self.refusal: AudioSetError | None = None
        try:
            with suppress(OSError):
                os.chdir(order.folder)
            self.model = (Shipped(None, None, None) if shipped is None else ray.get(shipped)).load(order.recipe)
            order.check(describe_model(self.model, order.recipe.options), f"node {socket.gethostname()}")
            if output is not None and not output.folder.exists(JOB_NAME):
                raise OutputError(
                    f"{output.name}: not seen from node {socket.gethostname()}; expected a folder that all machines "
                    "share, or object storage (s3://…)"
                )
        except AudioSetError as error:
            self.refusal = error


class PartWorker(_Worker):
    """Does tasks into the parts of an output, and says of each how much it was."""

    def __init__(self, order: Order, output: Output, shipped: Any = None) -> None:
        self.output = output
        with _without_advice():
            super().__init__(order, shipped, output)

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        if self.refusal is not None:
            yield _report(error=self.refusal)
            return
        try:
            with _without_advice():
                for part in run_tasks(self.model, from_table(table), self.order.recipe.options, self.output):
                    yield _report(part)
        except AudioSetError as error:
            yield _report(error=error)


class RowWorker(_Worker):
    """Does tasks into rows."""

    def __init__(self, order: Order, shipped: Any = None) -> None:
        with _without_advice():
            super().__init__(order, shipped)

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        if self.refusal is not None:
            raise self.refusal
        taken = _Taken(self.order)
        with _without_advice():
            for _ in run_tasks(self.model, from_table(table), self.order.recipe.options, taken):
                yield from taken.pop()


class _Taken:
    """What `run_tasks` writes to where rows are handed on: tables like parts, with a column for what failed."""

    def __init__(self, order: Order) -> None:
        self.info, self.with_ids = order.info, order.with_ids
        self._tables: list[pa.Table] = []

    def write(self, about: PartDone, rows: Rows) -> PartDone:
        """Keep the rows of a part, then one for each file that gave none because it failed."""
        import pyarrow as pa

        table = pa.Table.from_batches(list(rows.batches()), rows.schema)
        table = table.append_column("error", pa.nulls(len(table), pa.string()))
        # A row that failed has a file and a reason, and nothing else.
        schema = pa.schema([field.with_nullable(field.name != "file") for field in table.schema])
        failed: dict[str, list[str]] = {
            "file": [failure.file for failure in about.failures],
            "error": [failure.reason for failure in about.failures],
        }
        if self.with_ids:
            failed["id"] = [failure.item for failure in about.failures]
        columns = [
            pa.array(failed[field.name], field.type)
            if field.name in failed
            else pa.nulls(len(about.failures), field.type)
            for field in schema
        ]
        self._tables.append(pa.concat_tables([table.cast(schema), pa.Table.from_arrays(columns, schema=schema)]))
        return about

    def pop(self) -> list[pa.Table]:
        """Return what was written since the last time."""
        taken, self._tables = self._tables, []
        return taken


def result_of(row: dict[str, Any]) -> tuple[PartDone, int]:
    """Return what a row of a `PartWorker` says: a part, without its lists of items, and how many items there were.

    Raises
    ------
    AudioSetError
        What the worker met, as the error that it was.
    """
    if row["error"] is not None:
        raise getattr(errors, row["error"], AudioSetError)(row["said"])
    return PartDone.from_json(row["said"].encode(), row["name"], 0), row["items"]


def _report(part: PartDone | None = None, error: AudioSetError | None = None) -> pa.Table:
    import pyarrow as pa

    row: dict[str, Any] = {"name": None, "items": 0, "error": None, "said": None}
    if part is not None:
        # The items are in the part itself, and many.
        short = replace(part, items=(), members={})
        row |= {"name": part.name, "items": len(part.items), "said": short.to_json()}
    elif error is not None:
        row |= {
            "error": type(error).__name__ if isinstance(error, AudioSetError) else "OutputError",
            "said": str(error),
        }
    schema = pa.schema([("name", pa.string()), ("items", pa.int64()), ("error", pa.string()), ("said", pa.string())])
    return pa.Table.from_pylist([row], schema)


@contextmanager
def _without_advice() -> Iterator[None]:
    """Leave out warnings that the user has had, or that would come from every process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ShortClipWarning)
        warnings.simplefilter("ignore", UntrainedWeightsWarning)
        yield

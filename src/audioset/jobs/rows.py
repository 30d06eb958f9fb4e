"""The rows of a task on their way to its part of the output, most of them on disk where they are many."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from audioset._files import temporary_files
from audioset.records import parts
from audioset.records.info import JobInfo

if TYPE_CHECKING:
    import pyarrow as pa

# In memory up to this; a day in one file makes a hundred times as much with the largest embeddings.
_HELD_BYTES = 16 << 20


class Rows:
    """Rows in the order in which they came, each batch of one file; those of a file that fails are dropped again."""

    def __init__(self, info: JobInfo, *, with_ids: bool) -> None:
        self._info = info
        self._with_ids = with_ids
        self._held: list[pa.RecordBatch] = []
        self._owners: list[int] = []  # which file each batch is of, those on disk first
        self._dropped: set[int] = set()
        self._held_bytes = 0
        self._spool: IO[bytes] | None = None
        self._stream: Any = None
        self.num_bytes = 0

    @property
    def schema(self) -> pa.Schema:
        """Of the batches: that of every embeddings file, and ``id`` before the embedding where there are ids."""
        import pyarrow as pa

        schema = parts.schema_of(self._info)
        return schema.insert(3, pa.field("id", pa.string(), nullable=False)) if self._with_ids else schema

    @property
    def num_rows(self) -> int:
        """Rows that were not dropped."""
        return sum(batch.num_rows for batch in self.batches())

    def add(
        self,
        owner: int,
        file: str,
        row_id: str,
        start_s: npt.NDArray[np.float64],
        end_s: npt.NDArray[np.float64],
        values: npt.NDArray[Any],
    ) -> None:
        """Take some rows of the `owner`-th file."""
        import pyarrow as pa

        if not len(values):
            return
        # A slice of a batch of the network's would keep all of it in memory.
        batch = parts.make_batch(self._info, [file], [len(values)], start_s.copy(), end_s.copy(), values.copy())
        if self._with_ids:
            ids = pa.array([row_id] * len(values), pa.string())
            batch = pa.RecordBatch.from_arrays([*batch.columns[:3], ids, batch.columns[3]], schema=self.schema)
        self._held.append(batch)
        self._owners.append(owner)
        self._held_bytes += values.nbytes
        self.num_bytes += values.nbytes
        if self._held_bytes >= _HELD_BYTES:
            self._spill()

    def drop(self, owner: int) -> None:
        """Leave out all rows of the `owner`-th file."""
        self._dropped.add(owner)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield what was not dropped; may be asked for again, and more be added after."""
        import pyarrow as pa

        owners = iter(self._owners)
        if self._spool is not None:
            end = self._spool.tell()
            self._spool.seek(0)
            spilled = len(self._owners) - len(self._held)
            reader = pa.ipc.open_stream(self._spool)
            for _ in range(spilled):
                batch = reader.read_next_batch()
                if next(owners) not in self._dropped:
                    yield batch
            self._spool.seek(end)
        for batch, owner in zip(self._held, owners, strict=True):
            if owner not in self._dropped:
                yield batch

    def close(self) -> None:
        """Free what is held."""
        self._held, self._owners, self._stream = [], [], None
        if self._spool is not None:
            self._spool.close()
            self._spool = None

    def _spill(self) -> None:
        import pyarrow as pa

        with temporary_files():
            if self._spool is None:
                self._spool = tempfile.TemporaryFile()  # noqa: SIM115 - until `close`
                self._stream = pa.ipc.new_stream(self._spool, self.schema)
            for batch in self._held:
                self._stream.write_batch(batch)
            self._spool.flush()
        self._held = []
        self._held_bytes = 0

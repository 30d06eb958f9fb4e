"""The output of a job that many processes work on: a folder of Parquet parts, each of which says what it completes.

``part-*.parquet``
    Rows, as any embeddings file of this package has them, and ``id`` where the items have ids. Under ``audioset.task``
    the metadata (JSON) says which items the part completes and what failed of them.
``_job.json``
    What decides the values, and how items are divided into tasks; written first. Only the number of items changes.
``_errors.parquet``
    When all is done: file, item, reason and attempts of each failure.
``_manifest.json``
    When all is done: the job, totals, and name, rows and bytes of each part.

Readers of Parquet folders pass over names that begin with ``_``. A part appears whole or not at all, under a name that
its items decide, so that work done twice, by a worker that was thought dead, leaves one part. What is done is what the
parts say; nothing else is kept, and nothing has to be kept in step.
"""

from __future__ import annotations

import json
import warnings
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audioset.errors import OutputError, RecordError
from audioset.jobs.rows import Rows
from audioset.jobs.tasks import TaskSize
from audioset.records import parts
from audioset.records.info import LAYOUT, Failure, JobInfo, Metadata, job_from, load_json
from audioset.storage import Folder

if TYPE_CHECKING:
    import pyarrow as pa

JOB_NAME = "_job.json"
MANIFEST_NAME = "_manifest.json"
ERRORS_NAME = "_errors.parquet"
TASK_KEY = b"audioset.task"
CHECK_KEY = b"audioset.task.crc32"

_READERS = 16  # footers read at once: on object storage each takes tens of milliseconds, most of it waiting


@dataclass(frozen=True)
class ItemFailure:
    """A file that gave no rows: the item that it is of, and why."""

    item: str
    file: str
    reason: str


@dataclass(frozen=True)
class PartDone:
    """What a part says of itself.

    Attributes
    ----------
    name : str
        Of its file.
    attempt : int
        Of its task.
    items : tuple of str
        Keys of the items that it completes, failed ones included.
    failures : tuple of ItemFailure
    members : dict of str to tuple of str
        Members that are done, of archives that are not wholly in this part, or of which something failed.
    elsewhere : dict of str to int
        Of archives that it completes: how many members other parts hold.
    files, rows, audio_s : int, int, float
        Files embedded, rows, seconds of sound.
    num_bytes : int
        Size of the file.
    """

    name: str
    attempt: int
    items: tuple[str, ...]
    failures: tuple[ItemFailure, ...]
    members: dict[str, tuple[str, ...]]
    files: int
    rows: int
    audio_s: float
    elsewhere: dict[str, int] = field(default_factory=dict)
    num_bytes: int = 0

    def to_json(self) -> str:
        """This as one line, without the size."""
        found = asdict(self)
        del found["num_bytes"]
        return json.dumps({"layout": LAYOUT, **found})

    @classmethod
    def from_json(cls, text: bytes, name: str, num_bytes: int) -> PartDone:
        """The inverse of `to_json`; RecordError for anything else."""
        found = load_json(text, name)
        try:
            return cls(
                name=name,
                attempt=int(found["attempt"]),
                items=tuple(found["items"]),
                failures=tuple(ItemFailure(**failure) for failure in found["failures"]),
                members={archive: tuple(members) for archive, members in found["members"].items()},
                files=int(found["files"]),
                rows=int(found["rows"]),
                audio_s=float(found["audio_s"]),
                elsewhere=dict(found["elsewhere"]),
                num_bytes=num_bytes,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RecordError(f"{name}: its description is damaged ({error!r}); expected a part of a job") from error


@dataclass(frozen=True)
class State:
    """What the parts say together.

    Attributes
    ----------
    parts : tuple of PartDone
    attempts : dict of str to int
        Of each item that is complete, by key: the last attempt.
    failures : dict of str to list of ItemFailure
        What failed, by item, at its last attempt.
    members : dict of str to set of str
        Members that are done, of archives that are not wholly.
    """

    parts: tuple[PartDone, ...]
    attempts: dict[str, int]
    failures: dict[str, list[ItemFailure]]
    members: dict[str, set[str]]

    @property
    def num_failures(self) -> int:
        """Files that failed."""
        return sum(map(len, self.failures.values()))

    def totals(self) -> dict[str, Any]:
        """Files, rows, seconds, failures and bytes over all parts."""
        return {
            "files": sum(part.files for part in self.parts),
            "rows": sum(part.rows for part in self.parts),
            "audio_s": round(sum(part.audio_s for part in self.parts), 3),
            "failures": self.num_failures,
            "bytes": sum(part.num_bytes for part in self.parts),
        }


@dataclass
class Output:
    """The folder of a job, opened by `open_output`; safe to use from many processes at once, and to pickle.

    Attributes
    ----------
    name : str
        The folder or URL.
    info : JobInfo
        What decides the values.
    size : TaskSize
        How items are divided into tasks.
    with_ids : bool
        Whether rows have ids.
    num_items : int
        Items of the job when it was last begun or gone on with.
    """

    name: str
    info: JobInfo
    size: TaskSize
    with_ids: bool
    num_items: int
    _folder: Folder | None = field(default=None, repr=False, compare=False)
    # What was read of parts, with the times of their files: on object storage each takes some requests.
    _known: dict[str, tuple[float, PartDone]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def folder(self) -> Folder:
        """Where it is."""
        if self._folder is None:
            self._folder = Folder.at(self.name)
        return self._folder

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_folder": None, "_known": {}}

    def write(self, about: PartDone, rows: Rows) -> PartDone:
        """Write a part, whole or not at all, and return what it says.

        Raises
        ------
        OutputError
            It cannot be written, or the folder was removed, or begun afresh with other options, meanwhile.
        """
        self._check_job()
        metadata = Metadata(
            job=self.info,
            files=about.files,
            rows=about.rows,
            num_failures=len(about.failures),
            failures=tuple(Failure(failure.file, failure.reason) for failure in about.failures),
        )
        said = about.to_json()
        schema = rows.schema.with_metadata(
            {parts.JOB_KEY: metadata.to_json(), TASK_KEY: said, CHECK_KEY: _checksum(said.encode())}
        )
        with self.folder.writing(about.name) as stream, parts.parquet_writer(stream, schema, self.info) as writer:
            for table in _full_groups(rows, schema, parts.row_group_rows(self.info)):
                writer.write_table(table, table.num_rows)
        return about

    def is_complete(self) -> bool:
        """Return whether all is done, and what says so is written."""
        return self.folder.exists(MANIFEST_NAME)

    def state(self, *, repair: bool = True) -> State:
        """Read what is done.

        Parameters
        ----------
        repair : bool
            Delete a part that cannot be read, repeats what another one holds, or holds the rest of an archive whose
            beginning is gone, with a warning: its items are then done again. Otherwise it is left where it is, and left
            out.

        Raises
        ------
        OutputError
            The folder cannot be read, or holds parts of something else.
        """
        kept, members, why = self._judged(repair)
        if why and repair:
            # A listing may miss a part that appears meanwhile, and have one that came after it.
            before = why
            kept, members, why = self._judged(repair)
            for name in why.keys() & before.keys():
                self._leave_out(name, why[name], repair)
        return _state_of(kept, members)

    def finish(self, state: State) -> dict[str, Any]:
        """Write the errors table and the manifest of a job that is all done, and return the totals."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        failures = [failure for listed in state.failures.values() for failure in listed]
        columns: dict[str, Sequence[Any]] = {
            "file": [failure.file for failure in failures],
            "item": [failure.item for failure in failures],
            "reason": [failure.reason for failure in failures],
            "attempts": [state.attempts[failure.item] + 1 for failure in failures],
        }
        kinds = {"file": pa.string(), "item": pa.string(), "reason": pa.string(), "attempts": pa.int64()}
        table = pa.table({name: pa.array(values, kinds[name]) for name, values in columns.items()})
        with self.folder.writing(ERRORS_NAME) as stream:
            pq.write_table(table, stream)
        totals = state.totals()
        listed = [{"name": part.name, "rows": part.rows, "bytes": part.num_bytes} for part in state.parts]
        about = {"layout": LAYOUT, "job": asdict(self.info), **totals, "parts": listed}
        self.folder.write(MANIFEST_NAME, json.dumps(about, indent=1).encode())
        return totals

    def unfinish(self) -> None:
        """Take back what says that all is done, because there is more to do."""
        for name in (MANIFEST_NAME, ERRORS_NAME):
            if self.folder.exists(name):
                self.folder.delete(name)

    def _check_job(self) -> None:
        """Raise OutputError unless the folder is still that of this job."""
        try:
            begun = _job_of(self.folder.read(JOB_NAME), JOB_NAME)
        except OutputError:
            if self.folder.exists(JOB_NAME):
                raise
            raise OutputError(
                f"{self.name}: its {JOB_NAME} is gone; expected the folder as it was when the job began. Was it moved "
                "or removed meanwhile? Run the job again"
            ) from None
        if other := self.info.differences(begun):
            raise OutputError(
                f"{self.name}: was begun afresh with other options ({'; '.join(other)}); expected the job that this "
                "process is at work on. Name another --out"
            )

    def _judged(self, repair: bool) -> tuple[list[PartDone], dict[str, set[str]], dict[str, str]]:
        """Parts that go together, the members in them, and why others do not go with them, by name."""
        kept, repeats = _without_repeats(self._read_parts(repair))
        why = {part.name: "repeats what another part holds" for part in repeats}
        while True:
            members = _members_in(kept)
            bereft = {part.name for part in kept if _is_bereft(part, members)}
            if not bereft:
                return kept, members, why
            why |= dict.fromkeys(sorted(bereft), "holds the rest of an archive whose other part is gone")
            kept = [part for part in kept if part.name not in bereft]

    def _read_parts(self, repair: bool) -> list[PartDone]:
        """What the parts say, in the order of their names."""
        times = self.folder.times("part-*.parquet")
        new = [name for name, time in times.items() if name not in self._known or self._known[name][0] != time]
        for name in self._known.keys() - (times.keys() - set(new)):
            del self._known[name]
        with ThreadPoolExecutor(_READERS) as pool:
            for name, part in zip(new, pool.map(self._read_part, new), strict=True):
                if part is None:
                    if self.folder.exists(name):  # and was not removed by another process
                        self._leave_out(name, "cannot be read", repair)
                else:
                    self._known[name] = (times[name], part)
        return [self._known[name][1] for name in times if name in self._known]

    def _read_part(self, name: str) -> PartDone | None:
        import pyarrow.parquet as pq

        try:
            with self.folder.open(name) as stream:
                num_bytes = stream.seek(0, 2)
                stream.seek(0)
                metadata = pq.ParquetFile(stream).schema_arrow.metadata or {}
        except OutputError:
            if self.folder.exists(name):
                raise
            return None
        except parts.damage() as error:
            if getattr(error, "errno", None):
                raise OutputError(f"{self.name}: {name} cannot be read ({error}). Check the folder's rights") from error
            return None
        if not {TASK_KEY, CHECK_KEY, parts.JOB_KEY} <= metadata.keys():
            raise OutputError(
                f"{self.name}: {name} is no part of a job; expected a folder of its own for each job. "
                "Name another one with --out"
            )
        if metadata[CHECK_KEY] != _checksum(metadata[TASK_KEY]):
            return None
        if other := self.info.differences(_job_of(metadata[parts.JOB_KEY], name)):
            raise OutputError(
                f"{self.name}: {name} is of a job with other options ({'; '.join(other)}); expected a folder of "
                "its own for each job. Move that part away, and run the job again"
            )
        return PartDone.from_json(metadata[TASK_KEY], name, num_bytes)

    def _leave_out(self, name: str, why: str, repair: bool) -> None:
        if repair:
            warnings.warn(f"{self.name}: {name} {why}; it is deleted and done again", stacklevel=3)
            self.folder.delete(name)


def open_output(
    out: str, info: JobInfo, size: TaskSize, *, with_ids: bool, num_items: int, overwrite: bool = False
) -> Output:
    """Begin a job in a folder, or go on with the same job there.

    Parameters
    ----------
    out : str
        A folder or URL; made where it is not there.
    info : JobInfo
        What decides the values.
    size : TaskSize
        For a new job; one that has begun keeps its own.
    with_ids : bool
        Whether the items have ids.
    num_items : int
        How many there are.
    overwrite : bool
        Remove what is there of an earlier job first.

    Raises
    ------
    OutputError
        The folder holds another job or other Parquet files, or cannot be written to.
    """
    folder = Folder.at(out)
    names = folder.names("*")
    if overwrite:
        for name in names:
            if name in (JOB_NAME, MANIFEST_NAME, ERRORS_NAME) or (
                name.startswith("part-") and name.endswith(".parquet")
            ):
                folder.delete(name)
        names = folder.names("*")
    if JOB_NAME not in names:
        foreign = [name for name in names if name.endswith((".parquet", ".pq"))]
        if foreign:
            raise OutputError(
                f"{out}: holds {foreign[0]} and no {JOB_NAME}; expected an empty folder, or that of this job. "
                "Name another one with --out"
            )
        _write_job(Output(out, info, size, with_ids, num_items, _folder=folder))
    # Read back in any case: another process may have been first.
    begun = read_output(out)
    if other := begun.info.differences(info):
        raise OutputError(
            f"{out}: holds a job with other options ({'; '.join(other)}); give the same to go on with it, "
            "--overwrite to start afresh, or another --out"
        )
    if begun.with_ids != with_ids:
        raise OutputError(
            f"{out}: was begun with {'ids' if begun.with_ids else 'no ids'}, this manifest has "
            f"{'them' if with_ids else 'none'}; give the same to go on, or another --out"
        )
    if begun.num_items != num_items:
        begun.num_items = num_items
        _write_job(begun)
    return begun


def read_output(out: str) -> Output:
    """Open the folder of a job that has begun.

    Raises
    ------
    OutputError
        There is none.
    """
    folder = Folder.at(out)
    if not folder.exists(JOB_NAME):
        raise OutputError(f"{out}: no {JOB_NAME} there; expected the folder of a job. Begin one with `audioset embed`")
    try:
        found = load_json(folder.read(JOB_NAME), JOB_NAME)
        size = TaskSize(**found["task"])
        if not (size.bytes >= 1 and size.items >= 1):
            raise ValueError(f"tasks of {size.bytes} bytes and {size.items} items")
        return Output(
            out,
            job_from(found["job"], JOB_NAME),
            size,
            bool(found["with_ids"]),
            int(found["items"]),
            _folder=folder,
        )
    except (KeyError, TypeError, ValueError, RecordError) as error:
        raise OutputError(f"{out}: its {JOB_NAME} is damaged ({error}); --overwrite to start afresh") from error


def _write_job(output: Output) -> None:
    about = {
        "layout": LAYOUT,
        "job": asdict(output.info),
        "task": asdict(output.size),
        "with_ids": output.with_ids,
        "items": output.num_items,
    }
    output.folder.write(JOB_NAME, json.dumps(about, indent=1).encode())


def is_output(path: str) -> bool:
    """Return whether a local folder is that of a job."""
    with suppress(OSError):
        return Path(path, JOB_NAME).is_file()
    return False


def _without_repeats(found: list[PartDone]) -> tuple[list[PartDone], list[PartDone]]:
    """Parts that have nothing in common, of two that have the first; and the others."""
    kept, left_out = [], []
    # By attempt: items that are complete, those of them of which several parts may hold members, and archives begun.
    done: dict[int, set[str]] = defaultdict(set)
    shared: dict[int, set[str]] = defaultdict(set)
    begun: dict[int, set[str]] = defaultdict(set)
    members: dict[str, set[str]] = defaultdict(set)
    for part in found:
        number = part.attempt
        shares = part.members.keys() | part.elsewhere.keys()
        if (
            not done[number].isdisjoint(part.items)
            or (part.members.keys() & done[number]) - shared[number]
            or begun[number].intersection(part.items) - shares
            or any(not members[archive].isdisjoint(names) for archive, names in part.members.items())
        ):
            left_out.append(part)
            continue
        kept.append(part)
        done[number].update(part.items)
        shared[number] |= shares
        begun[number] |= part.members.keys()
        for archive, names in part.members.items():
            members[archive].update(names)
    return kept, left_out


def _members_in(kept: list[PartDone]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for part in kept:
        for archive, names in part.members.items():
            found[archive].update(names)
    return found


def _is_bereft(part: PartDone, members: dict[str, set[str]]) -> bool:
    """Whether members that a part counts on are in no other one."""
    return any(
        len(members[archive]) - len(part.members.get(archive, ())) < count for archive, count in part.elsewhere.items()
    )


def _job_of(text: bytes, name: str) -> JobInfo:
    return job_from(load_json(text, name).get("job", {}), name)


def _checksum(text: bytes) -> bytes:
    """Of what a part says: footers of Parquet have none."""
    return b"%08x" % zlib.crc32(text)


def _state_of(kept: list[PartDone], members: dict[str, set[str]]) -> State:
    attempts: dict[str, int] = {}
    for part in kept:
        for item in part.items:
            attempts[item] = max(attempts.get(item, 0), part.attempt)
    failures: dict[str, dict[str, ItemFailure]] = defaultdict(dict)
    for part in kept:
        for failure in part.failures:
            item = failure.item
            # An archive that is still being worked on has failures before it is complete.
            if attempts.get(item) == part.attempt and failure.file not in members[item]:
                failures[item][failure.file] = failure  # once, also where the archive was begun several times
    listed = {item: list(failed.values()) for item, failed in failures.items()}
    return State(tuple(kept), attempts, listed, {name: done for name, done in members.items() if done})


def _full_groups(rows: Rows, schema: pa.Schema, size: int) -> Iterable[pa.Table]:
    """Yield tables of `size` rows, the last one smaller: the same for the same rows however they came."""
    held: list[pa.RecordBatch] = []
    num_rows = 0
    for batch in rows.batches():
        held.append(batch)
        num_rows += batch.num_rows
        if num_rows >= size:
            table = _table(held, schema)
            for start in range(0, num_rows - size + 1, size):
                yield table.slice(start, size).combine_chunks()
            num_rows %= size
            held = table.slice(len(table) - num_rows).to_batches()
    if num_rows:
        yield _table(held, schema).combine_chunks()


def _table(batches: list[pa.RecordBatch], schema: pa.Schema) -> pa.Table:
    import pyarrow as pa

    return pa.Table.from_batches(batches).replace_schema_metadata(schema.metadata)

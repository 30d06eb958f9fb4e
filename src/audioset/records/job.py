"""A job of embedding many files, written whole or not at all, and resumable whatever the format.

While a job runs, its rows go into the work folder ``.NAME.partial`` beside the output NAME: ``job.json`` (the options
that decide the values), numbered Parquet parts (see :mod:`audioset.records.parts`) and ``lock``. `JobWriter.finish`
turns the parts into the requested format under a temporary name, renames that onto the output, and removes the folder.
So the output appears complete or not at all, memory is bounded by one part, and after a kill only the files of the
last seconds are embedded again. The disk must hold the rows twice while `finish` runs.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from audioset._files import is_full, replacing, why_unwritable
from audioset.errors import OptionError, OutputError, RecordError
from audioset.records import parts
from audioset.records.formats import FORMATS, check_format, format_of
from audioset.records.info import LAYOUT, Failure, JobInfo, JobSummary, Metadata, digest, job_from, load_json
from audioset.records.parts import JobRows, Part, PartContents
from audioset.records.table import read_metadata

FLUSH_S = 20.0
FLUSH_BYTES = parts.ROW_GROUP_BYTES

Times = npt.NDArray[np.float64]
Values = npt.NDArray[np.generic]


def open_writer(
    out: Path | str,
    info: JobInfo,
    *,
    format: str | None = None,  # noqa: A002 - the word that users type
    overwrite: bool = False,
    resume: bool = False,
    inputs: Sequence[str] | None = None,
) -> JobWriter | StreamWriter:
    """A writer for `out`: a `JobWriter` for a file, a `StreamWriter` for ``-``, standard output.

    Raises
    ------
    OptionError
        For an unknown format or one that cannot hold the job's values, and for `resume` on standard output.
    OutputError
        When `out` cannot be written, is there already, or is being written by another process.
    """
    name = format_of(out, format)
    if str(out) != "-":
        return JobWriter(Path(out), info, format=name, overwrite=overwrite, resume=resume, inputs=inputs)
    if resume:
        raise OptionError("--resume: what went to standard output cannot be continued; name a file with --out")
    return StreamWriter(sys.stdout.buffer, info, format=name)


def check_output(out: Path | str, *, format: str | None = None, overwrite: bool = False, resume: bool = False) -> None:  # noqa: A002
    """Refuse, before weights are fetched, an output that `open_writer` would refuse whatever the job.

    Raises
    ------
    OptionError
        For an unknown format.
    OutputError
        When there is no folder to write to, or the output is there already and neither replaced nor resumed.
    """
    format_of(out, format)
    if str(out) != "-":
        place = _checked_place(Path(out))
        if place.exists() and not (overwrite or resume):
            raise _exists(place)


class JobWriter:
    """The rows of a job on their way to a file. Used as a context manager, from one thread.

    Parameters
    ----------
    out
        The output. Nothing is seen under this name before `finish`.
    info
        The options that decide the values.
    format
        A name in `FORMATS`.
    overwrite
        Replace what is there, finished or not.
    resume
        Go on with an unfinished job of the same options. A finished output of the same job is left alone: `complete`
        is then true, and there is nothing to append.
    inputs
        The names of all files of the job, in order, when they are known. They tell a finished output of the same files
        from one of others.

    Attributes
    ----------
    complete
        Whether the output was finished by an earlier run.
    completed
        The files that an earlier run finished, failures included: not to be appended again. All of `inputs` when
        `complete`.
    failures
        The files that failed, those of earlier runs first.

    Raises
    ------
    OptionError
        When the format cannot hold the values.
    OutputError
        When the output cannot be written, is there already, belongs to an unfinished job of other options, or is being
        written by another process. Nothing has been changed then.

    Notes
    -----
    Left by an exception, finished files stay in the work folder for `resume`. Rows reach the disk every 20 seconds or
    2 MiB, in the calling thread: about 1 ms of work for each second of embedding.
    """

    def __init__(
        self,
        out: Path,
        info: JobInfo,
        *,
        format: str,  # noqa: A002 - the word that users type
        overwrite: bool = False,
        resume: bool = False,
        inputs: Sequence[str] | None = None,
    ) -> None:
        check_format(format, info)
        self.out = _checked_place(out)
        self.info = info
        self.format = format
        self.complete = False
        self.completed: frozenset[str] = frozenset()
        self.failures: list[Failure] = []
        self._overwrite = overwrite
        self._inputs_sha256 = None if inputs is None else digest(inputs)
        self._work = _work_folder(self.out)
        self._parts: list[Part] = []
        self._run = 0
        self._pending = _Pending()
        self._current: str | None = None
        self._spilled: str | None = None  # the file in progress, when earlier parts hold rows of it
        self._flushed_at = time.monotonic()
        self._summary: JobSummary | None = None
        self._open = False

        if self._work.is_dir() or not self._is_finished(None, resume):
            self._enter()
            try:
                with self._reporting():
                    self._begin(resume)
            except BaseException:
                self._leave()
                raise
        if self.complete and inputs is not None:
            self.completed = frozenset(inputs)

    def append(self, file: str, start_s: Times, end_s: Times, values: Values, *, last: bool) -> None:
        """Take the next rows of a file; files come one after another.

        Parameters
        ----------
        file
            Its name, which no other file of the job has.
        start_s, end_s
            Seconds, float64 (rows,).
        values
            (rows, embedding_dim) in the job's dtype; there may be no rows. Arrays are copied.
        last
            Whether these complete the file.

        Raises
        ------
        RecordError
            When shapes or dtype are not the job's, or another file is in progress.
        OutputError
            When rows cannot be written to disk.
        """
        self._expect(file)
        block = _checked_block(self.info, file, start_s, end_s, values)
        self._current = file
        if len(block.values):
            self._pending.add(block)
        if last:
            self._pending.end(file)
            self._current = None
        self._flush_if_due()

    def fail(self, file: str, reason: str) -> None:
        """Record that a file cannot be embedded; rows of it appended so far are dropped."""
        self._expect(file)
        self._pending.drop(file)
        failure = Failure(file, reason)
        self.failures.append(failure)
        self._pending.fail(failure)
        self._current = None
        self._flush_if_due()

    def finish(self) -> JobSummary:
        """Write the output and remove the work folder; called again, the same summary.

        Raises
        ------
        RecordError
            When a file is still in progress.
        OutputError
            When the output cannot be written; what was embedded is kept for `resume`.
        """
        if self._summary is None:
            if self._current is not None:
                raise RecordError(f"{self._current}: still in progress; append its last rows, or fail it, then finish")
            self._expect(None)
            self._flush()
            with self._reporting():
                self._summary = self._write_output()
            self._remove_work()
        return self._summary

    def discard(self) -> None:
        """Give the job up: the work folder is removed, and there is nothing to resume."""
        if self._open:
            self._remove_work()

    def __enter__(self) -> JobWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._open:
            return
        try:
            if self._current is not None:
                self._pending.drop(self._current)
                self._current = None
            if not isinstance(error, OutputError):
                self._flush()
        except OutputError:
            if error is None:
                raise
        finally:
            # The folder is asked, because an interruption may come after a part is written and before it is noted.
            if any(self._work.glob("part-*.parquet")):
                self._leave()
            else:
                self._remove_work()

    def _expect(self, file: str | None) -> None:
        if not self._open:
            when = "by an earlier run" if self.complete else "already"
            raise RecordError(f"{self.out}: finished {when}, it takes no more rows; open another job for {file}")
        if file is not None and self._current not in (None, file):
            raise RecordError(f"{file}: given while {self._current} is in progress; files come one after another")

    # Beginning and going on

    def _is_finished(self, begun: dict[str, Any] | None, resume: bool) -> bool:
        """Whether the output is there and is this job's; `OutputError` when it is there and may not be replaced."""
        if self._overwrite or not self.out.exists() or (begun is not None and begun.get("overwrite")):
            return False
        if not resume:
            raise _exists(self.out)
        try:
            found = read_metadata(self.out, self.format)
        except RecordError as error:
            raise OutputError(f"{self.out}: exists, cannot be resumed ({error}); --overwrite to replace it") from error
        other = found.job.differences(self.info)
        if not other and None not in (found.inputs_sha256, self._inputs_sha256):
            other = [] if found.inputs_sha256 == self._inputs_sha256 else ["the list of files is another one"]
        if other:
            raise OutputError(
                f"{self.out}: exists, from another job ({'; '.join(other)}); --overwrite to replace it, "
                "or choose another --out"
            )
        self.complete = True
        self.failures = list(found.failures)
        self._summary = JobSummary(self.out, found.files, found.rows, found.failures, self.out.stat().st_size)
        return True

    def _enter(self) -> None:
        """Make the work folder and lock it."""
        import filelock

        if not os.access(self.out.parent, os.W_OK | os.X_OK):
            raise OutputError(f"{self.out}: the folder {self.out.parent} is read-only; choose another --out")
        with self._reporting():
            self._work.mkdir(exist_ok=True)
            self._lock = filelock.FileLock(self._work / "lock", timeout=0, thread_local=False)
            try:
                self._lock.acquire()
            except filelock.Timeout as error:
                raise OutputError(
                    f"{self.out}: another process is writing it; wait for it to end, or choose another --out"
                ) from error
        self._open = True

    def _begin(self, resume: bool) -> None:
        about = self._work / "job.json"
        begun: dict[str, Any] | None = None
        if about.exists():
            if not (resume or self._overwrite):
                raise OutputError(
                    f"{self.out}: an unfinished job is there; --resume to go on with it, --overwrite to start afresh"
                )
            begun = self._begun(about) if resume else None
        if self._is_finished(begun, resume):
            self._remove_work()
            return
        if begun is None:
            self._clear_work()
        else:
            self._overwrite = self._overwrite or bool(begun.get("overwrite"))
            self._load_parts()
        description = {
            "layout": LAYOUT,
            "job": asdict(self.info),
            "overwrite": self._overwrite,
            "inputs_sha256": self._inputs_sha256,
        }
        with replacing(about, self._work / "job.tmp") as temporary:
            temporary.write_text(json.dumps(description, indent=1), encoding="utf-8")

    def _begun(self, about: Path) -> dict[str, Any] | None:
        """The unfinished job's description; None to start afresh; `OutputError` when it is another job."""
        try:
            begun = load_json(about.read_bytes(), about)
            job = job_from(begun["job"], about)
        except (KeyError, RecordError) as error:
            if self._overwrite:
                return None
            raise OutputError(f"{self.out}: cannot go on ({error}); --overwrite to start afresh") from error
        if other := job.differences(self.info):
            if self._overwrite:
                return None
            raise OutputError(
                f"{self.out}: the unfinished job there has other options ({'; '.join(other)}); "
                "give the same to go on with it, or --overwrite to start afresh"
            )
        if job.version != self.info.version:
            _warn(
                f"{self.out}: begun with audioset {job.version}, going on with {self.info.version}; "
                "see 'Numerical changes' in the changelog for whether their values may be mixed"
            )
        if begun.get("inputs_sha256") != self._inputs_sha256:
            _warn(f"{self.out}: the list of files has changed since the job was begun; all that is done is kept")
        return begun

    def _load_parts(self) -> None:
        completed: set[str] = set()
        for leftover in self._work.glob("*.tmp"):
            leftover.unlink()
        found = sorted(self._work.glob("part-*.parquet"))
        for number, path in enumerate(found):
            try:
                if path.name != parts.part_name(number):
                    raise ValueError(f"{parts.part_name(number)} before it is missing")
                part, done, failed = parts.read_part(path)
            except parts.damage() as error:
                if getattr(error, "errno", None):
                    raise
                _warn(f"{path}: damaged ({error}); the files in it and in later parts are embedded again")
                for later in found[number:]:
                    later.unlink()
                break
            self._parts.append(part)
            completed.update(done, (failure.file for failure in failed))
            self.failures += failed
        self.completed = frozenset(completed)
        self._run = self._parts[-1].run + 1 if self._parts else 0

    # Writing

    def _flush_if_due(self) -> None:
        if self._pending.num_bytes >= FLUSH_BYTES or time.monotonic() - self._flushed_at >= FLUSH_S:
            self._flush()

    def _flush(self) -> None:
        """Write what is pending as one part."""
        # Taken before it is written: were an interruption to come in between, nothing could be written twice.
        pending, self._pending = self._pending, _Pending()
        self._flushed_at = time.monotonic()
        if not (pending.blocks or pending.done or pending.failed):
            return
        contents = pending.contents(self.info, self._current, self._spilled)
        with self._reporting():
            self._parts.append(parts.write_part(self._work, len(self._parts), self._run, self.info, contents))
        if contents.open_rows or contents.carried == "open":
            self._spilled = self._current
        else:
            self._spilled = None

    def _write_output(self) -> JobSummary:
        if self.out.exists() and not self._overwrite:
            raise OutputError(
                f"{self.out}: appeared while the job ran; {self._kept()}"
                "move it away and go on with --resume, or replace it with --resume --overwrite"
            )
        counts = parts.counting_rows(self._parts)
        num_rows, num_files = sum(counts), sum(part.done for part in self._parts)
        metadata = Metadata(
            self.info, num_files, num_rows, len(self.failures), tuple(self.failures), self._inputs_sha256
        )
        used = [(part.path, count) for part, count in zip(self._parts, counts, strict=True) if count]
        with replacing(self.out, self._work / "output.tmp") as temporary, temporary.open("wb") as stream:
            FORMATS[self.format].write(stream, JobRows(self.info, metadata, used, num_rows))
        return JobSummary(self.out, num_files, num_rows, tuple(self.failures), self.out.stat().st_size)

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        """What the system says, as an `OutputError` with what is kept and how to go on."""
        try:
            yield
        except OutputError:
            raise
        except OSError as error:
            todo = "make room on its disk" if is_full(error) else f"check the folder {self.out.parent}"
            raise OutputError(f"{self.out}: {why_unwritable(error)}; {self._kept()}{todo}, {self._then()}") from error

    def _kept(self) -> str:
        """What is safe on disk, for a message; empty when that is nothing."""
        if not self._parts:
            return ""
        num_files = sum(part.done for part in self._parts)
        num_rows = sum(parts.counting_rows(self._parts))
        return f"{num_files:,} files ({num_rows:,} rows) are kept in {self._work}; "

    def _then(self) -> str:
        return "then go on with --resume" if self._parts else "then run again"

    # Ending

    def _leave(self) -> None:
        """Let go of the work folder, and remove it when nothing but the lock is in it."""
        self._open = False
        with suppress(OSError):
            if [path.name for path in self._work.iterdir()] == ["lock"]:
                (self._work / "lock").unlink()  # while it is held: who waits for it sees that it is gone
        self._lock.release()
        with suppress(OSError):
            self._work.rmdir()

    def _clear_work(self) -> None:
        """Remove this package's own files from the work folder, the job's description first; no others."""
        (self._work / "job.json").unlink(missing_ok=True)
        for pattern in ("*.tmp", "part-*.parquet"):
            for path in self._work.glob(pattern):
                path.unlink()

    def _remove_work(self) -> None:
        with suppress(OSError):
            self._clear_work()
        self._leave()


class StreamWriter:
    """The rows of a job on their way to a stream, as text, as they arrive.

    It has the methods of `JobWriter`. What has gone out stays out: rows of a file that fails later are not taken back,
    and nothing can be resumed. When the reader of a pipe goes away, the ``with`` block ends quietly at the next rows.
    """

    complete = False
    completed: frozenset[str] = frozenset()

    def __init__(self, stream: IO[bytes], info: JobInfo, *, format: str = "jsonl") -> None:  # noqa: A002
        check_format(format, info)
        chosen = FORMATS[format]
        if chosen.encode is None:
            raise OptionError(f"format {format!r}: cannot be written to a stream; expected csv or jsonl")
        self.info = info
        self.failures: list[Failure] = []
        self._stream = stream
        self._encode = chosen.encode
        self._ahead = chosen.header(info) if chosen.header else b""
        self._files = self._rows = self._num_bytes = 0
        self._broken = False

    def append(self, file: str, start_s: Times, end_s: Times, values: Values, *, last: bool) -> None:
        """Write rows of a file at once; see `JobWriter.append`."""
        block = _checked_block(self.info, file, start_s, end_s, values)
        if len(block.values):
            batch = parts.make_batch(self.info, [file], [len(block.values)], block.start_s, block.end_s, block.values)
            self._write(self._encode(batch))
        self._rows += len(block.values)
        self._files += last

    def fail(self, file: str, reason: str) -> None:
        """Record that a file cannot be embedded."""
        self.failures.append(Failure(file, reason))

    def finish(self) -> JobSummary:
        """How the job went, after what is left has been written."""
        if not self._broken:
            self._write(b"")
        return JobSummary(None, self._files, self._rows, tuple(self.failures), self._num_bytes)

    def discard(self) -> None:
        """Give the job up; what has gone out stays out."""

    def __enter__(self) -> StreamWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        return isinstance(error, BrokenPipeError) and self._broken

    def _write(self, data: bytes) -> None:
        data, self._ahead = self._ahead + data, b""
        try:
            self._stream.write(data)
            self._stream.flush()
        except BrokenPipeError:
            self._broken = True
            if self._stream is getattr(sys.stdout, "buffer", None):
                # What is left in Python's buffer would be tried again, with a complaint, as the interpreter ends.
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, sys.stdout.fileno())
                os.close(nowhere)
            raise
        except OSError as error:
            raise OutputError(
                f"standard output: cannot be written ({error.strerror or error}); check what it is connected to"
            ) from error
        self._num_bytes += len(data)


@dataclass(frozen=True)
class _Block:
    file: str
    start_s: Times
    end_s: Times
    values: Values


@dataclass
class _Pending:
    """What has not reached the disk: rows, and how files ended, in order."""

    blocks: list[_Block] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    num_bytes: int = 0

    def add(self, block: _Block) -> None:
        self.blocks.append(block)
        self.num_bytes += block.values.nbytes + 2 * block.start_s.nbytes + len(block.file)

    def end(self, file: str) -> None:
        self.done.append(file)
        self.num_bytes += len(file)

    def fail(self, failure: Failure) -> None:
        self.failed.append(failure)
        self.num_bytes += len(failure.file) + len(failure.reason)

    def drop(self, file: str) -> None:
        """Forget the rows of a file that is not done."""
        if file not in self.done[-1:]:
            del self.blocks[len(self.blocks) - self._num_open(file) :]

    def _num_open(self, file: str | None) -> int:
        num_done = len(self.blocks)
        while num_done and self.blocks[num_done - 1].file == file:
            num_done -= 1
        return len(self.blocks) - num_done

    def contents(self, info: JobInfo, current: str | None, spilled: str | None) -> PartContents:
        """All of it for a part, given the file in progress and the one that the parts before left in progress."""
        blocks = self.blocks
        carried: parts.Outcome | None = None
        if spilled is not None:  # it is the first to end
            carried = "done" if spilled in self.done[:1] else "open"
            if any(failure.file == spilled for failure in self.failed[:1]):
                carried = "failed"
        num_open = self._num_open(current)
        return PartContents(
            names=[block.file for block in blocks],
            counts=[len(block.values) for block in blocks],
            start_s=np.concatenate([block.start_s for block in blocks]) if blocks else np.empty(0),
            end_s=np.concatenate([block.end_s for block in blocks]) if blocks else np.empty(0),
            values=(
                np.concatenate([block.values for block in blocks])
                if blocks
                else np.empty((0, info.embedding_dim), info.dtype)
            ),
            done=self.done,
            failed=self.failed,
            open_rows=sum(len(block.values) for block in blocks[len(blocks) - num_open :]),
            carried=carried,
        )


def _checked_block(info: JobInfo, file: str, start_s: Times, end_s: Times, values: Values) -> _Block:
    """A copy of rows that fit the job; `RecordError` for others."""
    if values.ndim != 2 or values.shape[1] != info.embedding_dim or values.dtype != info.dtype:
        raise RecordError(
            f"{file}: values are {values.dtype} {values.shape}; expected {info.dtype} (rows, {info.embedding_dim})"
        )
    if not (start_s.shape == end_s.shape == values.shape[:1]):
        raise RecordError(
            f"{file}: start_s {start_s.shape} and end_s {end_s.shape} for {len(values)} rows; expected one each a row"
        )
    return _Block(file, start_s.astype(np.float64), end_s.astype(np.float64), np.array(values, order="C"))


def _exists(out: Path) -> OutputError:
    return OutputError(f"{out}: exists; --overwrite to replace it, or choose another --out")


def _checked_place(out: Path) -> Path:
    """Where to write `out`, links followed; `OutputError`, before any work is done, when no file can be written."""
    try:
        place = Path(os.path.realpath(out)) if out.is_symlink() else out
        folder = place.parent
        if place.is_dir():
            raise OutputError(
                f"{out}: is a folder; expected the name of a file to write, such as {out / 'embeddings.parquet'}"
            )
        if not folder.is_dir():
            raise OutputError(f"{out}: the folder {folder} does not exist; make it, or choose another --out")
        if place.exists() and not place.is_file():
            raise OutputError(f"{out}: is a device or pipe; expected a file, or - for standard output")
        _work_folder(place).is_dir()  # its name is longer than the output's
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(
            f"{out}: {why_unwritable(error)}; expected a name that the system allows, in a folder open to you; "
            "choose another --out"
        ) from error
    return place


def _work_folder(out: Path) -> Path:
    return out.with_name(f".{out.name}.partial")


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=2)

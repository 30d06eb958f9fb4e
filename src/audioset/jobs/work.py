"""Tasks done one after another by one model: the recordings of all of them flow through the engine without a pause."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, cast

from audioset import storage
from audioset.audio import AudioSource, Clip
from audioset.embed import EmbeddedBlock, EmbedOptions, Model
from audioset.jobs.items import Item
from audioset.jobs.output import ItemFailure, PartDone
from audioset.jobs.rows import Rows
from audioset.jobs.tasks import Task
from audioset.records.info import JobInfo, reason_of, storable

# A part is ended at this size, between files, so that of an archive that takes hours not all is lost.
_PART_BYTES = 32 << 20


class Sink(Protocol):
    """What parts go to: an `Output`, or whatever takes rows."""

    @property
    def info(self) -> JobInfo:
        """What decides the values."""

    @property
    def with_ids(self) -> bool:
        """Whether rows have ids."""

    def write(self, about: PartDone, rows: Rows) -> PartDone:
        """Take a part, whose rows are let go of after, and return what it says."""


@dataclass(frozen=True)
class Progress:
    """How far a worker is, counted from where it began: files and items that ended, seconds of sound, failures."""

    files: int
    items: int
    audio_s: float
    failures: int


@dataclass(frozen=True)
class _Recording:
    task: Task
    item: Item
    name: str


@dataclass(frozen=True)
class _EndOfItem:
    task: Task
    item: Item


@dataclass(frozen=True)
class _EndOfTask:
    task: Task


_Step: TypeAlias = _Recording | _EndOfItem | _EndOfTask


def run_tasks(
    model: Model,
    tasks: Iterable[Task],
    options: EmbedOptions,
    output: Sink,
    *,
    on_progress: Callable[[Progress], None] | None = None,
) -> Iterator[PartDone]:
    """Do tasks in order and yield what each part says once it is in the output.

    A recording that fails is a failure in its part and stops nothing. Ended early, by closing the iterator or by an
    interruption, it leaves whole parts only.

    Parameters
    ----------
    on_progress : callable, optional
        Called whenever some rows are known.

    Raises
    ------
    OutputError
        A part cannot be written.
    """
    agenda: deque[_Step] = deque()
    worker = _Worker(output, agenda)
    try:
        for block in model.embed_blocks(sources_of(tasks, agenda), options):
            yield from worker.go_on()
            recording = agenda[0]
            assert isinstance(recording, _Recording)  # noqa: S101 - each block is of a recording that was given
            worker.take(recording, block)
            if block.last:
                agenda.popleft()
                yield from worker.cut(recording.task)
            if on_progress is not None:
                on_progress(worker.progress(block))
        yield from worker.go_on()
    finally:
        worker.close()


def sources_of(
    tasks: Iterable[Task], agenda: deque[_Step]
) -> Generator[tuple[AudioSource | Clip, int | None], None, None]:
    """Yield every recording of the tasks as the engine takes it, putting it and the ends between on the agenda."""
    coming: deque[tuple[Task, Item]] = deque()
    skip: set[str] = set()

    def names() -> Iterator[str]:
        for task in tasks:
            skip.update(task.skip)
            for item in task.items:
                coming.append((task, item))
                yield item.file

    found = cast(Generator[tuple[str, AudioSource], None, None], storage.sources(names(), skip=skip))
    try:
        ahead = next(found, None)
        while coming:
            task, item = coming.popleft()
            count = 0
            is_archive = storage.is_archive(item.file)
            while ahead is not None and (_is_of(ahead[0], item) if is_archive else not count and ahead[0] == item.file):
                name, source = ahead
                count += 1
                agenda.append(_Recording(task, item, name))
                yield _windowed(source, item), None
                ahead = next(found, None)
            agenda.append(_EndOfItem(task, item))
            if item is task.items[-1]:
                agenda.append(_EndOfTask(task))
    finally:
        found.close()


def _is_of(name: str, archive: Item) -> bool:
    """Whether a source is a member of an archive, or what is said of the archive itself."""
    return name == archive.file or name.startswith(f"{archive.file}::")


def _windowed(source: AudioSource, item: Item) -> AudioSource | Clip:
    if item.start_s is None and item.end_s is None:
        return source
    start_s = item.start_s or 0.0
    return Clip(source, start_s, None if item.end_s is None else item.end_s - start_s)


@dataclass
class _Part:
    """A part while it is put together."""

    rows: Rows
    items: list[str] = field(default_factory=list)
    failures: list[ItemFailure] = field(default_factory=list)
    members: dict[str, list[str]] = field(default_factory=dict)
    elsewhere: dict[str, int] = field(default_factory=dict)
    files: int = 0
    audio_s: float = 0.0


class _Worker:
    """Puts together parts from what comes out of the engine, along the agenda."""

    def __init__(self, output: Sink, agenda: deque[_Step]) -> None:
        self._output = output
        self._agenda = agenda
        self._part = self._begin()
        self._number = 0
        self._failed: set[str] = set()  # items of this task of which something failed
        self._elsewhere: dict[str, int] = {}  # members of the archive at hand that other parts hold
        self._files = self._items = self._failures = 0
        self._audio_s = 0.0

    def take(self, recording: _Recording, block: EmbeddedBlock) -> None:
        """Keep what came of a recording."""
        part, item, name = self._part, recording.item, storable(recording.name)
        if block.error is not None:
            part.rows.drop(block.index)
            self._fail(item, name, storable(reason_of(recording.name, block.error)))
        else:
            part.rows.add(block.index, name, _id_of(recording), block.start_s, block.end_s, block.values)
        if block.last:
            part.audio_s += block.duration_s
            self._audio_s += block.duration_s
            self._files += 1
            if block.error is None:
                part.files += 1
                if recording.name != item.file:
                    part.members.setdefault(item.key, []).append(recording.name)

    def go_on(self) -> Iterator[PartDone]:
        """Do what the agenda says up to the next recording."""
        while self._agenda and not isinstance(self._agenda[0], _Recording):
            step = self._agenda.popleft()
            if isinstance(step, _EndOfItem):
                self._end_item(step)
            elif isinstance(step, _EndOfTask):
                yield self._write(step.task)
                self._number = 0
                self._failed.clear()

    def cut(self, task: Task) -> Iterator[PartDone]:
        """End a part that is large enough."""
        if self._part.rows.num_bytes >= _PART_BYTES:
            yield self._write(task)

    def progress(self, block: EmbeddedBlock) -> Progress:
        """How far it is, with the part of a long recording that `block` reaches to."""
        rest_s = 0.0 if block.last or not len(block.end_s) else float(block.end_s[-1]) - block.offset_s
        return Progress(self._files, self._items, self._audio_s + rest_s, self._failures)

    def close(self) -> None:
        """Let go of what is not written."""
        self._part.rows.close()

    def _begin(self) -> _Part:
        return _Part(Rows(self._output.info, with_ids=self._output.with_ids))

    def _end_item(self, step: _EndOfItem) -> None:
        key, part = step.item.key, self._part
        elsewhere = self._elsewhere.pop(key, 0)
        if step.task.skip and storage.is_archive(step.item.file):
            elsewhere += sum(_is_of(member, step.item) for member in step.task.skip)
        if elsewhere:
            part.elsewhere[key] = elsewhere
        elif key not in self._failed:
            part.members.pop(key, None)  # the whole archive is done, so nobody needs the list
        part.items.append(key)
        self._items += 1

    def _fail(self, item: Item, name: str, reason: str) -> None:
        self._part.failures.append(ItemFailure(item.key, name, reason))
        self._failed.add(item.key)
        self._failures += 1

    def _write(self, task: Task) -> PartDone:
        part, self._part = self._part, self._begin()
        # Names sort as parts were written.
        name = f"{task.name}.parquet" if self._number == 0 else f"{task.name}_{self._number:04d}.parquet"
        self._number += 1
        for archive in part.members.keys() - part.items:
            self._elsewhere[archive] = self._elsewhere.get(archive, 0) + len(part.members[archive])
        about = PartDone(
            name=name,
            attempt=task.attempt,
            items=tuple(part.items),
            failures=tuple(part.failures),
            members={archive: tuple(names) for archive, names in part.members.items()},
            elsewhere=part.elsewhere,
            files=part.files,
            rows=part.rows.num_rows,
            audio_s=part.audio_s,
        )
        try:
            return self._output.write(about, part.rows)
        finally:
            part.rows.close()


def _id_of(recording: _Recording) -> str:
    """Of an archive's member, whose item is the archive, its own name."""
    return recording.item.key if recording.name == recording.item.file else storable(recording.name)

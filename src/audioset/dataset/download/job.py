"""Many clips by a few threads: what is to be done, who does it, what is noted, and how it ends."""

from __future__ import annotations

import heapq
import os
import queue
import random
import shutil
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, TypeAlias, cast

from audioset._files import replacing, unwritable
from audioset.dataset.download.clips import Clip, Selection, select_clips, stem
from audioset.dataset.download.extract import Extractor, Found, check_installed, read_cookies
from audioset.dataset.download.failures import TEMPORARY, ClipError, Stopped
from audioset.dataset.download.gate import Gate
from audioset.dataset.download.ledger import Entry, Ledger, is_there, open_ledger, read_entries
from audioset.dataset.download.options import DownloadOptions
from audioset.errors import FetchError, OptionError

if TYPE_CHECKING:
    from audioset.dataset.download.clips import Segments

_UNREACHED: Final = ("network", "stalled")
BACKOFF_S = 2.0  # before the second try of a clip; doubled each time
_POLL_S: Final = 0.2  # Windows delivers Ctrl-C between waits only
_JOIN_S: Final = 1.0  # how long to wait for threads that are to stop; what they may have open by then is the network


@dataclass(frozen=True)
class DownloadProgress:
    """How far a job is.

    Attributes
    ----------
    clips, failed, total : int
        Clips made and failed in this run, and how many it has to do.
    audio_s : float
        Seconds of sound made.
    paused_s : float
        Seconds until the next clip may begin, as the site refuses or the network is down; else 0.
    """

    clips: int
    failed: int
    total: int
    audio_s: float
    paused_s: float


Progress: TypeAlias = Callable[[DownloadProgress], None]


@dataclass(frozen=True)
class DownloadSummary:
    """What a run has done.

    Attributes
    ----------
    folder, ledger : Path
        Where the clips are, and the ledger that says what has become of them.
    clips : int
        Clips made.
    skipped : int
        Clips that were there.
    failures : tuple of Entry
        Clips of the selection that are not there and why, those that an earlier run gave up included.
    audio_s, wall_s : float
        Seconds of sound made, and seconds that it took.
    """

    folder: Path
    ledger: Path
    clips: int
    skipped: int
    failures: tuple[Entry, ...]
    audio_s: float
    wall_s: float

    @property
    def reasons(self) -> dict[str, int]:
        """Number of failures by reason, most frequent first."""
        return dict(Counter(entry.reason or "unknown" for entry in self.failures).most_common())


def download_audio(
    segments: Segments,
    folder: str | os.PathLike[str],
    options: DownloadOptions | None = None,
    *,
    classes: Sequence[str] = (),
    limit: int | None = None,
    shard: tuple[int, int] = (1, 1),
    retry_failed: bool = False,
    progress: Progress | None = None,
) -> DownloadSummary:
    """Return what became of the clips of `segments`, each now a file `YTID_START.ext` in `folder`, or a failure.

    Only the wanted seconds are fetched. Files appear whole or not at all. A ledger in `folder` notes each clip; another
    call makes what is missing, tries again what failed for reasons that pass, and leaves the rest.

    Parameters
    ----------
    segments : str, path or pyarrow.Table
        A segment csv or split ("balanced_train", …) as `read_segments` takes it; or a table, csv, csv.gz or Parquet
        file with columns `start_s`, `end_s` and `ytid` or `url`.
    folder : path
        Made if needed. It holds clips of one kind: other `options.settings` are refused.
    options : DownloadOptions, optional
        What to make, and how.
    classes : sequence of str
        Only segments with one of these labels, or of those below them in the ontology; display names or mids.
    limit : int, optional
        Only the first so many segments (of all shards together).
    shard : (int, int)
        (I, N): the I-th of N shares, counted from 1. Shares are disjoint and together complete; each has a ledger.
    retry_failed : bool
        Try clips again that were given up for good.
    progress : callable, optional
        Called with a `DownloadProgress` after each clip, and while waiting.

    Raises
    ------
    FetchError
        If the site goes on refusing, or cannot be reached, after long pauses. What is done is kept.
    DatasetError, OptionError, OutputError
        If segments, options or folder are not usable.
    MissingExtraError
        If yt-dlp is not installed.
    KeyboardInterrupt
        At a Ctrl-C, when all is in order: clips under way leave nothing behind.
    """
    options = options or DownloadOptions()
    options.check()
    check_installed()
    if options.video:
        from audioset.dataset.download.video import check_encoder

        check_encoder()
    if not (isinstance(shard[0], int) and 1 <= shard[0] <= shard[1]):
        raise OptionError(f"shard: {shard}; expected (I, N) with I from 1 to N")
    if limit is not None and limit < 1:
        raise OptionError(f"limit: {limit}; expected 1 or more")
    selection = select_clips(segments, classes, limit, shard)
    cookies = read_cookies(options)
    place = Path(folder)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(place, error) from error
    ledger = open_ledger(place, shard, options.settings)
    try:
        job = _Job(place, ledger, options, cookies, shard, progress)
        return job.run(selection, retry_failed=retry_failed)
    finally:
        ledger.close()


@dataclass
class _Task:
    """A clip to make, and its attempts in this run."""

    clip: Clip
    stem: str
    tries: int = 0
    began: float = 0.0


@dataclass(frozen=True)
class _Made:
    """A clip whose files are there."""

    num_bytes: int
    video_bytes: int | None
    duration_s: float


_Outcome: TypeAlias = tuple[_Task, "_Made | BaseException"]


@dataclass
class _Job:
    """A run: this thread decides and notes, the others fetch and cut."""

    folder: Path
    ledger: Ledger
    options: DownloadOptions
    cookies: str | None
    shard: tuple[int, int]
    progress: Progress | None
    began: float = field(default_factory=time.monotonic)
    clips: int = 0
    failed: int = 0
    audio_s: float = 0.0
    fresh: deque[_Task] = field(default_factory=deque)
    unreached: list[_Task] = field(default_factory=list)  # one for each attempt in a row that failed for the network

    def run(self, selection: Selection, *, retry_failed: bool) -> DownloadSummary:
        spelled = {clip.key.lower() for clip in selection.clips}
        known = read_entries(self.folder, spelled)
        owners = {Path(entry.file).stem.lower(): key for key, entry in known.items()}
        tasks: list[_Task] = []
        skipped = 0
        for clip in selection.clips:
            entry = known.get(clip.key)
            if entry is not None and entry.end_s == clip.end_s and is_there(self.folder, entry):
                skipped += 1
            elif entry is None or not entry.permanent or retry_failed:
                plain = clip.key.lower()
                clashes = plain in selection.clashing or owners.get(plain, clip.key) != clip.key
                tasks.append(_Task(clip, stem(clip.key, clashes=clashes)))
        self.ledger.expect((task.clip, f"{task.stem}.{self.options.format}") for task in tasks)
        self._total = len(tasks)
        if tasks:
            self._work(tasks)
        now = read_entries(self.folder, spelled)
        failures = [now[clip.key] for clip in selection.clips if now[clip.key].state != "done"]
        wall_s = time.monotonic() - self.began
        return DownloadSummary(
            self.folder, self.ledger.path, self.clips, skipped, tuple(failures), self.audio_s, wall_s
        )

    def _work(self, tasks: list[_Task]) -> None:
        workspace = self.folder / f".partial-{self.shard[0]}-of-{self.shard[1]}"
        shutil.rmtree(workspace, ignore_errors=True)  # what a kill has left
        try:
            workspace.mkdir()
        except OSError as error:
            raise unwritable(workspace, error) from error
        stop = threading.Event()
        waiting: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        outcomes: queue.SimpleQueue[_Outcome] = queue.SimpleQueue()
        worker = _Worker(self.folder, workspace, self.options, self.cookies, stop, waiting, outcomes)
        # Daemons, as one that hangs in a system call must not keep the program from ending.
        number = min(self.options.jobs, len(tasks))
        threads = [threading.Thread(target=worker.run, name=f"clip-{i}", daemon=True) for i in range(number)]
        try:
            for thread in threads:
                thread.start()
            self._dispatch(tasks, number, waiting, outcomes)
        finally:
            stop.set()
            for _ in threads:
                waiting.put(None)
            until = time.monotonic() + _JOIN_S
            for thread in filter(threading.Thread.is_alive, threads):
                thread.join(max(0.0, until - time.monotonic()))
            shutil.rmtree(workspace, ignore_errors=True)

    def _dispatch(
        self,
        tasks: list[_Task],
        number: int,
        waiting: queue.SimpleQueue[_Task | None],
        outcomes: queue.SimpleQueue[_Outcome],
    ) -> None:
        """Hand out clips when the gate lets them, and note what becomes of them, until there are none."""
        gate = Gate(self.options.pause_s)
        fresh = self.fresh
        fresh.extend(tasks)
        later: list[tuple[float, int, _Task]] = []  # a heap: from when on, and to break ties
        under_way = order = 0
        while fresh or later or under_way:
            now = time.monotonic()
            due = later and later[0][0] <= now
            if (fresh or due) and under_way < min(number, gate.width) and now >= gate.opens_at:
                task = heapq.heappop(later)[2] if due else fresh.popleft()
                task.began = now
                gate.pass_through(now)
                waiting.put(task)
                under_way += 1
                continue
            self._report(gate.opens_at - now if gate.pauses else 0.0)
            wake = max(gate.opens_at, now if fresh else later[0][0] if later else now)
            try:
                task, outcome = outcomes.get(timeout=max(0.001, min(_POLL_S, wake - now)) if wake > now else _POLL_S)
            except queue.Empty:
                continue
            under_way -= 1
            delay_s = self._note(task, outcome, gate)
            if delay_s == 0:
                fresh.append(task)  # the end of the queue, so that a pause is followed by another clip
            elif delay_s is not None:
                order += 1
                heapq.heappush(later, (time.monotonic() + delay_s, order, task))
        self._report(0.0)

    def _note(self, task: _Task, outcome: _Made | BaseException, gate: Gate) -> float | None:
        """Write down what became of a clip; return the seconds after which to try again, None if not at all."""
        key, now = task.clip.key, time.monotonic()
        if isinstance(outcome, _Made):
            gate.well(task.began)
            self.unreached.clear()
            self.ledger.done(key, outcome.num_bytes, outcome.video_bytes, outcome.duration_s)
            self.clips += 1
            self.audio_s += outcome.duration_s
            return None
        if isinstance(outcome, OSError):  # of our own disk: those of the network are ClipErrors
            raise unwritable(self.folder, outcome) from outcome
        if not isinstance(outcome, ClipError):
            if isinstance(outcome, MemoryError) or not isinstance(outcome, Exception):
                raise outcome
            # One clip's trouble, whatever it is, stops no batch.
            outcome = ClipError("unknown", f"{type(outcome).__name__}: {outcome}")
        reason, message = outcome.reason, outcome.message
        throttled = reason == "throttled"
        if throttled or reason == "refused":
            gate.refused(now, task.began, surely=throttled, wait_s=outcome.wait_s)
        elif reason in _UNREACHED:
            gate.unreached(now, task.began, wait_s=outcome.wait_s)
        else:
            gate.well(task.began)
        offline = reason in _UNREACHED and gate.offline
        # Not a fault of the clip: such an attempt counts for the gate alone, which bounds them.
        counts = not (throttled or offline)
        task.tries += counts
        again = reason in TEMPORARY and task.tries < self.options.tries
        self.ledger.failed(key, reason, message, final=not again, counts=counts)
        self.failed += not again
        if offline:
            self._take_back()
        elif reason in _UNREACHED:
            self.unreached.append(task)
        else:
            self.unreached.clear()
        if gate.exhausted:
            raise self._given_up(gate, message, offline=offline) from outcome
        if not again:
            return None
        if not counts:
            return 0.0
        doubled: float = BACKOFF_S * 2 ** (task.tries - 1)
        return max(outcome.wait_s, doubled * random.uniform(1.0, 1.5))

    def _take_back(self) -> None:
        """Count no attempt of those that led to the finding that the network is down."""
        for task in self.unreached:
            if task.tries == self.options.tries:  # it was given up
                self.failed -= 1
                self.fresh.append(task)
            task.tries -= 1
            self.ledger.take_back(task.clip.key)
        self.unreached.clear()

    def _given_up(self, gate: Gate, message: str, *, offline: bool) -> FetchError:
        if offline:
            found = "the network or the site cannot be reached"
            todo = "Check the network and give the same command again: it goes on with the rest"
        else:
            found, again = "the site refuses", "Wait some hours and give the same command again"
            todo = f"{again}, with fewer --jobs, a --pause, or --cookies of an account"
        return FetchError(
            f"{found}, clip after clip, after {gate.pauses - 1} pauses too ({message}); {self.clips:,} clips made, "
            f"{self._total - self.clips - self.failed:,} left, all noted in {self.ledger.path}. {todo}"
        )

    def _report(self, paused_s: float) -> None:
        if self.progress is not None:
            self.progress(DownloadProgress(self.clips, self.failed, self._total, self.audio_s, max(0.0, paused_s)))


@dataclass(frozen=True)
class _Worker:
    """What each thread does: take a clip, find it, cut it, write it."""

    folder: Path
    workspace: Path
    options: DownloadOptions
    cookies: str | None
    stop: threading.Event
    waiting: queue.SimpleQueue[_Task | None]
    outcomes: queue.SimpleQueue[_Outcome]

    def run(self) -> None:
        extractor: Extractor | None = None
        try:
            while (task := self.waiting.get()) is not None and not self.stop.is_set():
                try:
                    extractor = extractor or Extractor(self.options, self.cookies, self.stop)
                    self.outcomes.put((task, self._made(task, extractor)))
                except Stopped:
                    return
                except BaseException as error:  # it is the other thread's to raise
                    self.outcomes.put((task, error))
        finally:
            if extractor is not None:
                extractor.close()

    def _made(self, task: _Task, extractor: Extractor) -> _Made:
        from audioset.dataset.download.cut import TOLERANCE_S, cut_sound, encoded, too_short

        clip = task.clip
        found: Found = extractor.find(clip.url or self.options.url_template.replace("{ytid}", clip.ytid))
        if found.duration_s is not None:
            # Sites round lengths to whole seconds.
            needed_s = clip.start_s if self.options.allow_short else clip.end_s - TOLERANCE_S
            if found.duration_s + 1 < needed_s:
                raise too_short(found.duration_s, clip.end_s)
        file = cast(BinaryIO, extractor.open(found.sound))
        sound = cut_sound(file, clip.key, clip.start_s, clip.end_s, self.options)
        contents = {f"{task.stem}.{self.options.format}": encoded(sound, self.options)}
        if found.picture is not None:
            from audioset.dataset.download.video import cut_video

            if found.picture != found.sound:
                file = cast(BinaryIO, extractor.open(found.picture))
            contents[f"{task.stem}.mp4"] = cut_video(file, clip.start_s, clip.end_s, sound, self.stop)
        for name, content in contents.items():
            if self.stop.is_set():
                raise Stopped
            with replacing(self.folder / name, self.workspace / name) as temporary:
                temporary.write_bytes(content)
        sizes = [len(content) for content in contents.values()]
        return _Made(sizes[0], sizes[1] if len(sizes) > 1 else None, sound.duration_s)

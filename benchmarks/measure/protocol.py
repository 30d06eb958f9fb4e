"""Workers: processes that do one job again and again when told to, so that several can take turns.

A request is one line of JSON on the worker's standard input, `{"do": NAME, …}`; the reply is one line on its standard
output. The first request is "load"; what it returns are the operations that can be asked for next. "spent", what the
process has taken so far, is always one of them. What a worker prints goes to standard error. Nothing but the standard
library is imported here, because workers run in interpreters that may have little else.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Reply = dict[str, Any]
Operations = Mapping[str, Callable[..., Reply]]

# One request may be hours of audio; this only ends what hangs.
_REQUEST_LIMIT_S = 6 * 3600
_TAIL_CHARACTERS = 300


class NotAvailableError(Exception):
    """Why something cannot be measured here."""


def serve(load: Callable[..., Operations]) -> None:
    """Answer requests on standard input until it ends."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries that print would break the replies
    operations: dict[str, Callable[..., Reply]] = {
        "spent": lambda: {"peak_rss_mb": peak_rss_mb(), "cpu_seconds": _cpu_s()}
    }
    for line in sys.stdin:
        request = json.loads(line)
        name = request.pop("do")
        reply: Reply
        try:
            if name == "load":
                cores = request.pop("cores")
                use_cores(cores)
                operations |= load(threads=cores, **request)
                reply = {}
            else:
                reply = operations[name](**request)
        except Exception as error:
            reply = {"not_available": str(error) if isinstance(error, NotAvailableError) else reason(error)}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def use_cores(count: int) -> None:
    """Keep this process, and every library's own threads, on the first `count` of its cores; Linux only."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def reason(error: BaseException) -> str:
    """Return an error as one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def timed(work: Callable[[], object], at_least_s: float = 0.0) -> Reply:
    """Seconds, and seconds on processors (user and system, all threads), of one pass of `work`.

    Passes are repeated until they have taken `at_least_s` together, and averaged.
    """
    passes = 0
    began, cpu_began = time.perf_counter(), _cpu_s()
    while True:
        work()
        passes += 1
        seconds, cpu_seconds = time.perf_counter() - began, _cpu_s() - cpu_began
        if seconds >= at_least_s:
            return {"seconds": seconds / passes, "cpu_seconds": cpu_seconds / passes}


def _cpu_s() -> float:
    # The times of children too: of those that have ended, os.times() knows. process_time() is the finer clock.
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


def peak_rss_mb() -> float | None:
    """Most memory that this process has held, MB; None where the system does not say."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux's ru_maxrss may count the parent, from before this program took its place
        found = re.search(r"VmHWM:\s+(\d+)", status.read_text())
        return int(found[1]) / 1024 if found else None
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024**2 if sys.platform == "darwin" else peak / 1024


class Worker:
    """The other side: a worker that has been started. Used as a context manager.

    Parameters
    ----------
    module : str
        What it runs, such as "measure.workers.ours".
    cores : int
        Cores that it may use, and threads that its libraries are told to.
    interpreter : str
        Python.
    """

    def __init__(self, module: str, *, cores: int, interpreter: str = sys.executable) -> None:
        self.module = module
        self.cores = cores
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        self.started_at = time.perf_counter()
        try:
            self._process = subprocess.Popen(
                [interpreter, "-m", module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                encoding="utf-8",
                env=environment(cores),
            )
        except OSError as error:
            self._stderr.close()
            raise NotAvailableError(f"{interpreter} cannot be started ({error.strerror})") from error

    def load(self, **options: object) -> Reply:
        """Make it ready; NotAvailableError says why it cannot be."""
        return self.ask("load", cores=self.cores, **options)

    def ask(self, do: str, **options: object) -> Reply:
        """Return its reply; NotAvailableError where it could not, or has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        limit = threading.Timer(_REQUEST_LIMIT_S, self._process.kill)
        limit.start()
        try:
            self._process.stdin.write(json.dumps({"do": do, **options}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            limit.cancel()
        if not line:
            raise NotAvailableError(f"{self.module} ended: {self._last_words()}")
        reply: Reply = json.loads(line)
        if "not_available" in reply:
            raise NotAvailableError(reply["not_available"])
        return reply

    def close(self) -> None:
        """End it; a second time, nothing."""
        if self._stderr.closed:
            return
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stderr.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _last_words(self) -> str:
        self._process.wait()
        self._stderr.seek(0)
        text = self._stderr.read().decode(errors="replace").strip()
        return text[-_TAIL_CHARACTERS:].split("\n")[-1] if text else f"exit status {self._process.returncode}"


def environment(cores: int) -> dict[str, str]:
    """Variables of a measured process: where this package is, and how many threads numerical libraries may start."""
    here = str(Path(__file__).parents[1])
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(cores))
    return {**os.environ, **threads, "PYTHONPATH": here, "PYTHONWARNINGS": "ignore", "TF_CPP_MIN_LOG_LEVEL": "3"}


def finished(code: str, arguments: Sequence[str], cores: int) -> str:
    """Run Python code with arguments, to its end, as workers run, and return what it printed.

    NotAvailableError where it fails.
    """
    limited = f"from measure.protocol import use_cores; use_cores({cores})\n{code}"
    program = [sys.executable, "-c", limited, *arguments]
    done = subprocess.run(program, capture_output=True, text=True, env=environment(cores), timeout=_REQUEST_LIMIT_S)
    if done.returncode:
        words = done.stderr.strip().splitlines()
        raise NotAvailableError(words[-1] if words else f"exit status {done.returncode}")
    return done.stdout

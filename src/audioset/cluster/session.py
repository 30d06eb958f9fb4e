"""Ray in this process: found or started, quietly, and ended where it was started here."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from audioset._extras import check_installed
from audioset.embed import available_cores
from audioset.errors import OptionError

LOCAL: Final = "local"
_ADDRESS: Final = re.compile(r"local|auto|(?:([^/\s:\[\]]+)|\[([0-9a-fA-F:]+)\]):(\d{1,5})")
_ANSWERS_WITHIN_S: Final = 10.0
_CLIENT: Final = "ray://"
_LOG_LEVEL: Final = "RAY_BACKEND_LOG_LEVEL"
_started: list[str] = []  # addresses of the clusters that were started here


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Have Ray for the block, and end it, or leave the cluster, if it was not there before.

    Raises
    ------
    OptionError
        No cluster answers at the address.
    MissingExtraError
        Ray is not installed.
    """
    started = connect(address)
    try:
        yield
    finally:
        if started:
            import ray

            ray.shutdown()


def connect(address: str | None = None) -> bool:
    """Start Ray here or join the cluster at an address, and return whether that was needed; errors as of `connected`.

    Where this process has Ray already, that is used. None is the cluster that `RAY_ADDRESS` names, or one of its own.
    """
    check_installed(f"address {address or LOCAL}", "ray")
    where = address or os.environ.get("RAY_ADDRESS") or LOCAL
    named = _ADDRESS.fullmatch(where)
    if where.startswith(_CLIENT):
        raise OptionError(
            f"address: {where} is Ray Client's, and Ray Data does not run through it; expected the command to run on a "
            "machine of the cluster, with auto or HOST:6379. Send it there with `ray job submit`"
        )
    if named is None:
        raise OptionError(f"address: {where!r} is none of a Ray cluster; expected local, auto, or HOST:6379")
    import ray

    if ray.is_initialized():
        return False
    local = where == LOCAL
    options: dict[str, Any] = {"address": where, "log_to_driver": not local, "logging_level": logging.ERROR}
    if local:
        options["num_cpus"] = available_cores()
    # No reports to Ray's makers, unless the user wants them: they would be requests to the network.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with _quietly(), _sigterm_kept():
        try:
            if named[3]:
                _reach(named[1] or named[2], int(named[3]))
            ray.init(**options)
        except (OSError, OverflowError, RuntimeError, ValueError) as error:
            if local:
                raise OptionError(
                    f"address: Ray cannot be started on this machine ({_first_line(error)}); expected a home folder "
                    "and one for temporary files that can be written to. Set HOME or TMPDIR, or leave Ray out"
                ) from error
            raise OptionError(
                f"address: no Ray cluster at {where} ({_first_line(error)}); expected one that answers, with this "
                f"version of Ray ({ray.__version__}) and of Python, and with RAY_AUTH_TOKEN as it was begun. Check it "
                "with `ray status`"
            ) from error
    if local:
        _started.append(ray.get_runtime_context().gcs_address)
    return True


def _reach(host: str, port: int) -> None:
    """Raise OSError unless something answers there: Ray itself goes on asking for minutes."""
    socket.create_connection((host, port), _ANSWERS_WITHIN_S).close()


def is_here() -> bool:
    """Return whether the cluster is one that `connect` started in this process: this machine, and no other."""
    import ray

    return bool(_started and ray.get_runtime_context().gcs_address == _started[-1])


@contextmanager
def hushed() -> Iterator[None]:
    """Let Ray Data say on stderr what is wrong, and nothing else."""
    import ray.data

    context = ray.data.DataContext.get_current()
    bars, context.enable_progress_bars = context.enable_progress_bars, False
    levels = {"ray.data": logging.ERROR if is_here() else logging.WARNING, "ray.data._internal.progress": logging.ERROR}
    before = {name: logging.getLogger(name).level for name in levels}
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
        context.enable_progress_bars = bars


@contextmanager
def _quietly() -> Iterator[None]:
    """Have the core of Ray say nothing on stderr, where the user has not asked for it, and not say that either.

    It takes its level from the environment when it starts, and writes past Python: advice on Ray Data's own actors.
    """
    if _LOG_LEVEL in os.environ:
        yield
        return
    os.environ[_LOG_LEVEL] = "fatal"
    try:
        with _stderr_without(b"Set ray log level from environment"):
            yield
    finally:
        del os.environ[_LOG_LEVEL]


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Leave a program that knows what to do at SIGTERM to do that: Ray puts its own in its place, with a trace."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if callable(before) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _stderr_without(words: bytes) -> Iterator[None]:
    """Hold back what anything writes to stderr, and pass it on afterwards but for lines with these words."""
    try:
        stderr = os.dup(2)
    except OSError:  # there is none
        yield
        return
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            said.seek(0)
            for line in said:
                if words not in line:
                    os.write(2, line)
            os.close(stderr)


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)

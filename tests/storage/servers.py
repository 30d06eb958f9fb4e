"""Servers on this machine to test against: S3 by moto, and a web server whose faults are made to order."""

from __future__ import annotations

import logging
import re
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import requests

BUCKET = "bucket"


class WebServer:
    """Files by HTTP, with ranges.

    Attributes
    ----------
    url : str
        Of its root, without a final slash.
    files : dict of str to bytes
        By their paths, which begin with a slash.
    requests : list of (method, path, range)
        What was asked for, in order.
    faults : dict of str to deque
        What is done in place of the next answers for a path: a status (int), `("cut", n)` to close the connection after
        n bytes of the body, `("to", url)` to redirect.
    has_ranges : bool
        Whether it knows what a range is.
    sent_bytes : int
        Of all bodies.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.faults: dict[str, deque[Any]] = defaultdict(deque)
        self.has_ranges = True
        self.sent_bytes = 0
        self._server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"web": self}))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Say nothing of connections that others have ended."""


class _Handler(BaseHTTPRequestHandler):
    web: WebServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(self.path)
        wanted = self.headers.get("Range")
        self.web.requests.append((self.command, path, wanted))
        fault = self.web.faults[path].popleft() if self.web.faults[path] else None
        content = self.web.files.get(path)
        if isinstance(fault, int) or (fault is None and content is None):
            self.send_response(fault if isinstance(fault, int) else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if fault is not None and fault[0] == "to":
            self.send_response(302)
            self.send_header("Location", fault[1])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        assert content is not None
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted or "") if self.web.has_ranges else None
        start, stop = 0, len(content)
        if found:
            start = int(found[1])
            stop = min(stop, int(found[2]) + 1) if found[2] else stop
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
        self.send_response(206 if found else 200)
        if found:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
        self.send_header("Content-Length", str(stop - start))
        self.send_header("ETag", f'"{hash(content)}"')
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault is not None:
            stop = start + fault[1]
            self.close_connection = True
        for at in range(start, stop, 1 << 16):
            piece = content[at : min(at + (1 << 16), stop)]
            try:
                self.wfile.write(piece)
            except OSError:  # whoever asked has heard enough
                self.close_connection = True
                return
            self.web.sent_bytes += len(piece)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class ObjectStore:
    """S3 by moto, with one bucket.

    Attributes
    ----------
    endpoint : str
        Its address.
    environment : dict of str to str
        The variables under which Arrow finds it.
    """

    def __init__(self) -> None:
        from moto.server import ThreadedMotoServer
        from pyarrow.fs import S3FileSystem

        self._log = _Requests()
        logger = logging.getLogger("werkzeug")
        logger.addHandler(self._log)
        logger.propagate = False
        self._server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self._server.start()
        host, port = self._server.get_host_and_port()
        self.endpoint = f"http://{host}:{port}"
        self.environment = {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "tests",
            "AWS_SECRET_ACCESS_KEY": "tests",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        self.filesystem = S3FileSystem(
            access_key="tests",
            secret_key="tests",  # noqa: S106 - of a server that asks for none
            endpoint_override=self.endpoint,
            allow_bucket_creation=True,
        )
        self.filesystem.create_dir(BUCKET)

    def put(self, key: str, content: bytes) -> str:
        """Store an object; return its URL."""
        with self.filesystem.open_output_stream(f"{BUCKET}/{key}") as out:
            out.write(content)
        return f"s3://{BUCKET}/{key}"

    def keys(self, prefix: str) -> list[str]:
        """Return the keys of all objects below a prefix, markers of folders left out."""
        from pyarrow.fs import FileSelector, FileType

        infos = self.filesystem.get_file_info(FileSelector(f"{BUCKET}/{prefix}", recursive=True, allow_not_found=True))
        return sorted(info.path.removeprefix(f"{BUCKET}/") for info in infos if info.type == FileType.File)

    @contextmanager
    def counted(self) -> Iterator[Counter[str]]:
        """Count the requests meanwhile, by method."""
        before = len(self._log.methods)
        counts: Counter[str] = Counter()
        yield counts
        counts.update(self._log.methods[before:])

    def close(self) -> None:
        # What moto holds complains when the interpreter ends before it is dropped.
        requests.post(f"{self.endpoint}/moto-api/reset", timeout=10)
        self._server.stop()
        logging.getLogger("werkzeug").removeHandler(self._log)


class _Requests(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.methods: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        found = re.search(r"(GET|HEAD|PUT|POST|DELETE) /", record.getMessage())
        if found:
            self.methods.append(found[1])

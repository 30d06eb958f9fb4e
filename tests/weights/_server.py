"""A file server on 127.0.0.1 that misbehaves on request."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_STALL_S = 1.0


@dataclass
class Served:
    """What is served under one name, and how: each list is used up from its front, one item a request."""

    content: bytes
    ranges: bool = True
    statuses: list[int] = field(default_factory=list)  # answer with these first
    cuts: list[int] = field(default_factory=list)  # close the connection after so many bytes of the body
    stalls: list[int] = field(default_factory=list)  # send nothing for a while after so many
    overruns: list[bytes] = field(default_factory=list)  # send these after parts, beyond the length that was stated
    delay_s: float = 0.0
    redirect: str | None = None
    states_length: bool = True
    headers: dict[str, str] = field(default_factory=dict)  # sent with the content; of an ETag If-Range may ask
    heeds_if_range: bool = True
    requested: list[str | None] = field(default_factory=list)  # the Range header of each request


class Server:
    """Serves `files` until closed."""

    def __init__(self) -> None:
        self.files: dict[str, Served] = {}
        files = self.files

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                served = files.get(self.path.lstrip("/"))
                if served is None:
                    self.send_error(404)
                    return
                served.requested.append(self.headers.get("Range"))
                if served.redirect:
                    self.send_response(302)
                    self.send_header("Location", served.redirect)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                if served.statuses:
                    self.send_error(served.statuses.pop(0))
                    return
                threading.Event().wait(served.delay_s)
                self._send(served)

            def _send(self, served: Served) -> None:
                size = len(served.content)
                wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
                start = int(wanted[1]) if wanted and served.ranges else 0
                if served.heeds_if_range and self.headers.get("If-Range", (etag := served.headers.get("ETag"))) != etag:
                    start = 0
                if start and start >= size:
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{size}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(206 if start else 200)
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
                more = served.overruns.pop(0) if start and served.overruns else b""
                if served.states_length:
                    self.send_header("Content-Length", str(size - start + len(more)))
                for name, value in served.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                stop = start + served.cuts.pop(0) if served.cuts else size
                if served.stalls:
                    stop = start + served.stalls.pop(0)
                    self.wfile.write(served.content[start:stop])
                    threading.Event().wait(_STALL_S)
                    return
                self.wfile.write(served.content[start:stop] + more)
                self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    def url(self, name: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}/{name}"

    def serve(self, name: str, content: bytes, **how: object) -> Served:
        self.files[name] = Served(content, **how)  # type: ignore[arg-type]
        return self.files[name]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=10)


def closed_port() -> int:
    """A port that nothing listens on."""
    server = Server()
    server.close()
    return server.port

"""A media server on 127.0.0.1 that knows ranges, counts what it sends and misbehaves on request; and media for it."""

from __future__ import annotations

import io
import re
import tempfile
import threading
from dataclasses import dataclass, field
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import soundfile

RATE = 16_000
_PIECE = 1 << 14


@dataclass
class Served:
    """What is served under one name, and how; lists are used up from the front, one item a request."""

    content: bytes
    content_type: str = "audio/x-wav"
    ranges: bool = True
    statuses: list[int] = field(default_factory=list)  # answer with these first, 200 for well
    always: int | None = None  # answer with this, always
    headers: dict[str, str] = field(default_factory=dict)  # of answers that are errors
    cookie: str | None = None  # what must be sent to see anything
    part_bytes: int | None = None  # the length of parts, whatever was asked for
    drip_s: float | None = None  # send a byte at a time, so many seconds apart
    stall: bool = False  # send the head and nothing more
    stall_ranges: bool = False  # the same for parts only: the page is seen, its media are not
    drop_after: int | None = None  # close the connection after so many bytes of a body
    slow: threading.Event | None = None  # send no part before this is set
    asked: list[str | None] = field(default_factory=list)  # the Range header of each request
    sent: int = 0  # bytes of bodies


class MediaServer:
    """Serves `files` until closed."""

    def __init__(self) -> None:
        self.files: dict[str, Served] = {}
        self.parts_at_once = self.most_at_once = 0
        self._closing = threading.Event()
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                part = self.headers.get("Range") is not None
                with server._lock:
                    server.parts_at_once += part
                    server.most_at_once = max(server.most_at_once, server.parts_at_once)
                try:
                    server._answer(self)
                except OSError:
                    self.close_connection = True  # whoever asked has gone
                finally:
                    with server._lock:
                        server.parts_at_once -= part

            def log_message(self, *_: object) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *_: object) -> None:
                pass  # clients that are killed reset their connections

        self._server = Quiet(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def template(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/{{ytid}}"

    def serve(self, name: str, content: bytes, **how: Any) -> Served:
        self.files[name] = Served(content, **how)
        return self.files[name]

    def close(self) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=10)

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        served = self.files.get(request.path.partition("?")[0].lstrip("/"))
        if served is None:
            request.send_error(404)
            return
        asked = request.headers.get("Range")
        with self._lock:
            served.asked.append(asked)
            status = served.always or (served.statuses.pop(0) if served.statuses else 200)
        if served.cookie is not None and served.cookie not in (request.headers.get("Cookie") or ""):
            status = 403
        if status != 200:
            request.send_response(status)
            for name, value in served.headers.items():
                request.send_header(name, value)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        if asked and served.slow is not None:
            while not (served.slow.wait(0.05) or self._closing.is_set()):
                pass
        size = len(served.content)
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", asked or "") if served.ranges else None
        first, last = (int(wanted[1]), min(int(wanted[2] or size), size - 1)) if wanted else (0, size - 1)
        if wanted and served.part_bytes is not None:
            last = min(first + served.part_bytes, size) - 1
        if first >= size:
            request.send_response(416)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        request.send_response(206 if wanted else 200)
        if wanted:
            request.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        request.send_header("Content-Type", served.content_type)
        request.send_header("Content-Length", str(last + 1 - first))
        request.end_headers()
        if served.stall or (served.stall_ranges and asked):
            self._closing.wait(30)
            return
        if served.drip_s is not None:
            for byte in served.content[first : last + 1]:
                if self._closing.wait(served.drip_s):
                    return
                request.wfile.write(bytes([byte]))
        stop = last + 1 if served.drop_after is None else min(last + 1, first + served.drop_after)
        for at in range(first, stop, _PIECE):
            piece = served.content[at : min(at + _PIECE, stop)]
            with self._lock:
                served.sent += len(piece)  # before who reads it may look
            request.wfile.write(piece)


def noise(seconds: float, *, channels: int = 2, rate: int = RATE, seed: int = 0) -> npt.NDArray[np.int16]:
    """Samples (n, channels), no two alike for long."""
    shape = (round(seconds * rate), channels)
    return np.random.default_rng(seed).integers(-20_000, 20_000, shape, dtype=np.int16)


def wav(samples: npt.NDArray[Any], rate: int = RATE, *, kind: str = "WAV", subtype: str = "PCM_16") -> bytes:
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format=kind, subtype=subtype)
    return out.getvalue()


def encoded(samples: npt.NDArray[np.int16], codec: str, kind: str, rate: int = RATE, **options: str) -> bytes:
    """The samples in a container that FFmpeg writes."""
    layout = "mono" if samples.shape[1] == 1 else "stereo"
    with tempfile.TemporaryDirectory() as folder:  # an index in front is written at the end, by the file's name
        path = Path(folder) / "media"
        with av.open(str(path), mode="w", format=kind, options=options) as sink:
            _add_sound(sink, sink.add_stream(codec, rate=rate, layout=layout), samples, rate)
        return path.read_bytes()


FPS = 25
WIDTH, HEIGHT = 64, 48


def film(seconds: float, samples: npt.NDArray[np.int16], rate: int = RATE) -> bytes:
    """An MP4 whose picture `i` is as bright as `brightness(i)` says, with the samples for its sound."""
    out = io.BytesIO()
    with av.open(out, mode="w", format="mp4") as sink:
        picture: Any = sink.add_stream("libx264", rate=FPS, options={"crf": "10", "g": "50"})
        picture.width, picture.height, picture.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        speech = sink.add_stream("aac", rate=rate, layout="mono" if samples.shape[1] == 1 else "stereo")
        for i in range(round(seconds * FPS)):
            frame = av.VideoFrame.from_ndarray(np.full((HEIGHT, WIDTH), brightness(i), np.uint8), format="gray")
            frame.pts, frame.time_base = i, Fraction(1, FPS)
            sink.mux(picture.encode(frame.reformat(format="yuv420p")))
        sink.mux(picture.encode())
        _add_sound(sink, speech, samples, rate)
    return out.getvalue()


def brightness(i: int) -> int:
    return 30 + i * 37 % 200


def _add_sound(sink: Any, stream: Any, samples: npt.NDArray[np.int16], rate: int) -> None:
    step = stream.codec_context.frame_size or 1024
    floats = samples.T.astype(np.float32) / 32768
    kind = stream.codec_context.format.name if stream.codec_context.format else "fltp"
    for at in range(0, len(samples), step):
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(floats[:, at : at + step]), format="fltp", layout=stream.layout.name
        )
        frame.sample_rate, frame.pts, frame.time_base = rate, at, Fraction(1, rate)
        if kind != "fltp":
            frame = av.AudioResampler(format=kind, layout=stream.layout.name, rate=rate).resample(frame)[0]
            frame.pts, frame.time_base = at, Fraction(1, rate)
        sink.mux(stream.encode(frame))
    sink.mux(stream.encode())

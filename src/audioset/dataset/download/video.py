"""A few seconds of picture and sound out of a long video, cut exactly, as an MP4's bytes."""

from __future__ import annotations

import io
from fractions import Fraction
from threading import Event
from typing import Any, BinaryIO, Final

import av
import av.container
import numpy as np
import soxr

from audioset._decode.base import InPlace
from audioset.dataset.download.cut import Sound, check_media, pieces
from audioset.dataset.download.failures import ClipError, Stopped
from audioset.errors import MissingExtraError

_ENCODER: Final = "libx264"
_QUALITY: Final = {"preset": "veryfast", "crf": "20", "bf": "0"}  # no B-frames: packets come in order of display
_AAC_RATES_HZ: Final = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
_AAC_FRAME: Final = 1024
_TIME_BASE: Final = Fraction(1, 90_000)


def check_encoder() -> None:
    """Raise MissingExtraError unless PyAV's FFmpeg can write H.264."""
    if _ENCODER not in av.codecs_available:
        raise MissingExtraError(
            f"--video: the FFmpeg of this PyAV ({av.__version__}) has no {_ENCODER}; expected it, to write MP4. "
            "Install PyAV's own wheel: `pip install --force-reinstall --only-binary :all: av`."
        )


def cut_video(file: BinaryIO, start_s: float, end_s: float, sound: Sound, stop: Event) -> bytes:
    """Return an MP4 of what is to be seen from `start_s` up to `end_s`, with `sound` for its sound.

    The first picture is the one that is on the screen at `start_s`; the last one stays until `end_s`. Seconds count
    from the first picture. Pictures are not dropped or repeated, and keep their times to a 90,000th of a second.

    Raises
    ------
    ClipError
        no_video, too_short or damaged; what `file` raises.
    """
    target, out = InPlace(file), io.BytesIO()
    try:
        check_media(target)
        options = {"protocol_whitelist": "none"}  # nothing but what we hand to it
        with av.open(target, mode="r", metadata_errors="replace", options=options) as source:
            if not source.streams.video:
                raise ClipError("no_video", "it has no picture")
            with av.open(out, mode="w", format="mp4") as sink:
                _copy(source, sink, start_s, end_s, sound, stop)
    except (ClipError, Stopped):
        raise
    except Exception as error:  # as in `cut_sound`
        if target.error is not None:
            raise target.error from error
        raise ClipError("damaged", f"the picture cannot be decoded ({error})") from error
    if target.error is not None:
        raise target.error
    return out.getvalue()


def _copy(source: Any, sink: Any, start_s: float, end_s: float, sound: Sound, stop: Event) -> None:
    stream = source.streams.video[0]
    stream.thread_type = "AUTO"
    first = stream.start_time or 0
    source.seek(first + int(start_s / stream.time_base), stream=stream)
    picture: Any = None
    speech: Any = None
    before: Any = None  # the picture that is on the screen at the start
    last: Any = None  # the packet before, which lasts until the next begins
    length = round((end_s - start_s) / _TIME_BASE)

    def encode(at: int, frame: Any) -> None:
        nonlocal picture, speech, last
        if picture is None:
            picture, speech = _picture_stream(sink, stream, frame), _sound_stream(sink, sound)
        image = frame.reformat(picture.width, picture.height, "yuv420p")
        image.pts, image.time_base = at, _TIME_BASE
        image.pict_type = 0  # the source's choice of key frames is not ours
        for packet in picture.encode(image):
            last = _muxed(sink, last, packet)

    for frame in source.decode(stream):
        if stop.is_set():
            raise Stopped
        if frame.pts is None:
            continue
        at = round(((frame.pts - first) * stream.time_base - Fraction(start_s)) / _TIME_BASE)
        if at >= length:
            break
        if at <= 0:
            before = frame
            continue
        if before is not None:
            encode(0, before)
            before = None
        encode(at, frame)
    if before is not None:
        encode(0, before)
    if picture is None:
        raise ClipError("too_short", "the picture ends before the segment begins")
    for packet in picture.encode():
        last = _muxed(sink, last, packet)
    if last is not None:
        last.duration = max(1, round(length * _TIME_BASE / last.time_base) - last.pts)
        sink.mux(last)
    _write_sound(sink, speech, sound)


def _picture_stream(sink: Any, source: Any, frame: Any) -> Any:
    stream = sink.add_stream(_ENCODER, rate=source.average_rate or 25, options=dict(_QUALITY))
    stream.width, stream.height = frame.width // 2 * 2, frame.height // 2 * 2  # as 4:2:0 needs them
    stream.pix_fmt = "yuv420p"
    stream.codec_context.time_base = _TIME_BASE
    if source.sample_aspect_ratio:
        stream.codec_context.sample_aspect_ratio = source.sample_aspect_ratio
    return stream


def _muxed(sink: Any, last: Any, packet: Any) -> Any:
    """Write the packet before, which lasts until this one begins; return this one."""
    if last is not None:
        last.duration = packet.pts - last.pts
        sink.mux(last)
    return packet


def _sound_stream(sink: Any, sound: Sound) -> Any:
    rate = sound.rate_hz if sound.rate_hz in _AAC_RATES_HZ else 48_000
    return sink.add_stream("aac", rate=rate, layout="mono" if sound.samples.shape[1] == 1 else "stereo")


def _write_sound(sink: Any, stream: Any, sound: Sound) -> None:
    samples = sound.samples
    if samples.shape[1] > 2:  # AAC's own orders of more channels are not the source's
        samples = np.repeat(samples.mean(axis=1, keepdims=True, dtype=np.float32), 2, axis=1)
    if stream.rate != sound.rate_hz:
        samples = soxr.resample(samples, sound.rate_hz, stream.rate, quality="VHQ")
    at = 0
    for block in pieces(Sound(samples, stream.rate, sound.bits), _AAC_FRAME):
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=stream.layout.name)
        frame.sample_rate, frame.pts, frame.time_base = stream.rate, at, Fraction(1, stream.rate)
        at += frame.samples
        sink.mux(stream.encode(frame))
    sink.mux(stream.encode())

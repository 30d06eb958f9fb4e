"""MP3, M4A, MP4, WebM and everything else that FFmpeg reads, through PyAV."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import av
import av.container
import av.error
import numpy as np
import numpy.typing as npt

from audioset._decode.base import (
    PREROLL_S,
    FileDecoder,
    InPlace,
    Target,
    Waveform,
    check_target,
    no_samples,
    rescue,
    to_mono,
)
from audioset.errors import AudioError

_SEEK_FROM_S = 10.0  # before this, decoding from the start is cheap, and free of what encoders do there
_MP4_TOLERANCE_S = 0.25  # MP4 counts encoder delay and padding as sound, or not
_INDEXED = ("mov", "matroska")  # containers in which seeking lands on exact time stamps
_STAMPED = ("mp3", "aac", "flac")  # and in which time stamps, counted from the start, are exact
_TAGGED = ("mp3", "aac", "ac3", "eac3", "mpegts", "wav", "w64")  # and that may end in tags or part of a frame
_TAGS = (b"ID3", b"TAG", b"APE", b"LYR")  # found in the middle where files were joined
_EQUAL_FRAMES = ("aac", "mp3", "mp3float", "ac3", "eac3", "opus", "libopus")  # codecs whose frames are equally long

_DTYPES = {"u8": np.uint8, "s16": np.int16, "s32": np.int32, "flt": np.float32, "dbl": np.float64}

_Frames = Iterator[av.AudioFrame]
_Planes = list[npt.NDArray[Any]]


class FFmpegDecoder(FileDecoder):
    """The first audio stream of a file that FFmpeg reads."""

    def __init__(self, target: Target, name: str, stack: contextlib.ExitStack) -> None:
        super().__init__(target, name)
        self._opened = stack.enter_context(contextlib.ExitStack())
        self._open()

    def _decode(self, start: int, stop: int | None) -> Iterator[Waveform]:
        frames, begin = self._frames_before(start)
        self._position = begin
        held: list[_Planes] = []  # from `begin` to the position
        for frame in frames:
            planes = self._planes(frame, self._position)
            if held and (planes[0].dtype != held[0][0].dtype or len(planes) != len(held[0])):
                yield from _cut(held, begin, start, stop)
                held, begin = [], self._position
            held.append(planes)
            self._position += len(planes[0])
            if stop is not None and self._position >= stop:
                break
            if self._position - begin >= self.block_frames:
                yield from _cut(held, begin, start, stop)
                held, begin = [], self._position
        if held:
            yield from _cut(held, begin, start, stop)
        check_target(self._target, self.name)
        if stop is None or self._position < stop:
            self._check_whole(self._position)

    def _open(self) -> None:
        """Open the container and decode one frame, which knows rate and channels better than the header does."""
        if isinstance(self._target, InPlace):
            self._target.seek(0)
        file = self._target if isinstance(self._target, InPlace) else str(Path(self._target).absolute())
        options = {"protocol_whitelist": "file"}  # a playlist must not reach for the network
        container = av.open(file, mode="r", metadata_errors="replace", options=options)
        self._container = self._opened.enter_context(container)
        kinds = [stream.type for stream in self._container.streams]
        if "audio" not in kinds:
            raise AudioError(
                f"{self.name}: no audio stream (it holds {', '.join(kinds) or 'nothing'}); expected a file with "
                f"sound. Check what it holds with `ffprobe {shlex.quote(self.name)}`."
            )
        self._stream = self._container.streams.audio[0]
        if self._stream.codec_context is None:
            raise ValueError("unknown audio codec")
        self._kind = self._container.format.name.split(",")[0]
        self.format = f"{self._kind} {self._stream.codec_context.name.removesuffix('float')}".upper()
        self._frames = self._decoded()
        first = next(self._frames, None)
        if first is None:
            raise no_samples(self.name, self.format)
        self._first = first
        self.sample_rate, self.channels = first.sample_rate, len(first.layout.channels)
        if self._stream.duration is not None and self._stream.time_base is not None:
            self.duration_s = float(self._stream.duration * self._stream.time_base)
        elif self._container.duration is not None:
            self.duration_s = self._container.duration / av.time_base
        self._planes(first, 0)  # raises where they are of a type that cannot be read
        self._tick = Fraction(first.time_base or 0) * self.sample_rate  # frames in one unit of a time stamp

    def _decoded(self, *ahead: av.Packet[Any]) -> _Frames:
        """Frames of the packets `ahead` and of those from where the container stands."""
        damage: av.error.FFmpegError | None = None
        num_frames = 0
        for packet in chain(ahead, self._packets()):
            try:
                frames = self._stream.decode(packet)
            except av.error.FFmpegError as error:
                if self._kind not in _TAGGED:
                    raise
                if bytes(packet)[:3] not in _TAGS:
                    damage = damage or error
                continue
            if frames and damage:
                raise damage
            num_frames += len(frames)
            yield from frames
        if damage and not num_frames:
            raise damage

    def _packets(self) -> Iterator[av.Packet[Any]]:
        """Those of the stream from where the container stands, and the empty one that flushes the decoder."""
        # Behind that one PyAV stumbles over streams that appeared since the container was opened, as they do in damaged
        # MPEG-TS; or it does not, as its note of which streams are wanted is not initialised for them.
        with contextlib.suppress(IndexError):
            yield from self._container.demux(self._stream)

    def _planes(self, frame: av.AudioFrame, position: int) -> _Planes:
        """The channels of `frame`, each (n,), which lies at `position`; views, as copies of so little cost much."""
        if frame.sample_rate != self.sample_rate:
            raise AudioError(
                f"{self.name}: its sample rate changes from {self.sample_rate} to {frame.sample_rate} Hz at "
                f"{position / self.sample_rate:.3f} s; expected one rate. {rescue(self.name)}"
            )
        kind = frame.format.name
        dtype = _DTYPES.get(kind.removesuffix("p"))
        if dtype is None:
            raise AudioError(
                f"{self.name}: samples of type {kind}; expected at most 32 bits of integer, or floats. "
                f"Convert it with `ffmpeg -i {shlex.quote(self.name)} -c:a pcm_f32le converted.wav`."
            )
        channels, packed = len(frame.layout.channels), not kind.endswith("p")
        # PyAV lists planes up to the first null pointer, and behind eight or more there is none: the rest is garbage.
        listed = frame.planes[: 1 if packed else channels]
        count = frame.samples * channels if packed else frame.samples  # the buffers are longer than what is in them
        planes = [np.frombuffer(plane, dtype, count) for plane in listed]  # type: ignore[call-overload]
        return list(planes[0].reshape(-1, channels).T) if packed else planes

    def _check_whole(self, end: int) -> None:
        """MP4 says how long its streams are; other containers estimate it, or say nothing."""
        if self._kind != "mov" or self._stream.duration is None or self.duration_s is None:
            return
        if 0 < end < (self.duration_s - _MP4_TOLERANCE_S) * self.sample_rate:
            raise AudioError(
                f"{self.name}: truncated: {end / self.sample_rate:.3f} s of the {self.duration_s:.3f} s that its "
                f"header promises are there. {rescue(self.name)}"
            )

    def _frames_before(self, start: int) -> tuple[_Frames, int]:
        """Frames that begin early enough for the codec to have settled at `start`, and the position of the first."""
        begin = start - round(PREROLL_S * self.sample_rate)
        if begin > _SEEK_FROM_S * self.sample_rate and self._tick:
            found = None
            if self._kind in _INDEXED:
                found = self._sought(begin)
            elif self._kind in _STAMPED:
                found = self._skipped(begin)
            if found is not None:
                return found
            self._opened.close()
            self._open()
        return chain([self._first], self._frames), 0

    def _sought(self, begin: int) -> tuple[_Frames, int] | None:
        """Seek to `begin` or before; None where the position reached cannot be told to the frame."""
        anchor, anchored_at = self._first, 0
        if self._tick > 1:  # time stamps are coarser than frames: count whole codec frames from the second one on
            second = next(self._frames, None)
            if second is None or self._stream.codec_context.name not in _EQUAL_FRAMES:
                return None
            anchor, anchored_at = second, self._first.samples
        if anchor.pts is None:
            return None
        ticks = min(int((begin - anchored_at) / self._tick), 2**53)
        try:
            self._container.seek(anchor.pts + ticks, stream=self._stream)
            frames = self._decoded()
            first = next(frames, None)
        except av.error.FFmpegError:
            return None
        if first is None or first.pts is None:
            return None
        distance = (first.pts - anchor.pts) * self._tick
        if self._tick > 1:
            whole = round(distance / anchor.samples) * anchor.samples
            if abs(distance - whole) > 2 * self._tick:
                return None
            distance = Fraction(whole)
        position = anchored_at + round(distance)
        return (chain([first], frames), position) if 0 <= position <= begin else None

    def _skipped(self, begin: int) -> tuple[_Frames, int] | None:
        """Read on to `begin` without decoding; None where time stamps do not tell the position to the frame."""
        if self._tick > 1 or self._first.pts is None:
            return None
        target = self._first.pts + int((begin - self.sample_rate / 10) / self._tick)
        for packet in self._packets():
            # Only frames count as sound, and a frame of these codecs starts with this byte; tags do not.
            if packet.pts is None or not packet.size or memoryview(packet)[0] != 0xFF:
                return None
            if packet.pts >= target:
                frames = self._decoded(packet)
                first = next(frames, None)
                if first is None or first.pts is None:
                    return None
                return chain([first], frames), round((first.pts - self._first.pts) * self._tick)
        return None


def _cut(held: list[_Planes], begin: int, start: int, stop: int | None) -> Iterator[Waveform]:
    """What of the planes `held`, which begin at frame `begin`, lies between `start` and `stop`, as mono."""
    num_frames = sum(len(planes[0]) for planes in held)
    joined = np.empty((len(held[0]), num_frames), held[0][0].dtype)
    for channel, parts in zip(joined, zip(*held, strict=True), strict=True):
        np.concatenate(parts, out=channel)
    wanted = joined[:, max(0, start - begin) : None if stop is None else max(0, stop - begin)]
    if wanted.size:
        yield to_mono(wanted)

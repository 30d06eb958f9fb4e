"""WAV, FLAC, OGG and their kin through libsndfile."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import soundfile

from audioset._decode.base import PREROLL_S, FileDecoder, Target, Waveform, check_target, no_samples, to_mono


class SoundFileDecoder(FileDecoder):
    """A file that libsndfile reads."""

    num_frames: int

    def __init__(self, target: Target, name: str, stack: contextlib.ExitStack) -> None:
        file = soundfile.SoundFile(target)
        stack.callback(file.close)
        if not 0 <= file.frames < 2**62:  # FLAC that was written to a pipe; libsndfile cannot seek in it either
            raise soundfile.SoundFileRuntimeError("unknown length")
        super().__init__(target, name)
        self._file = file
        self.format = f"{file.format} {file.subtype}"
        self.sample_rate, self.channels, self.num_frames = file.samplerate, file.channels, file.frames
        if self.num_frames == 0:
            raise no_samples(name, self.format)
        if file.subtype == "VORBIS":
            file.seek(self.num_frames - 1)
            file.seek(0)  # fails in a piece cut out of a longer file, of which libsndfile gets length and places wrong
        self.duration_s = self.num_frames / max(1, self.sample_rate)
        self._preroll = round(PREROLL_S * self.sample_rate) if file.format == "OGG" else 0

    def _decode(self, start: int, stop: int | None) -> Iterator[Waveform]:
        end = self.num_frames if stop is None else min(stop, self.num_frames)
        self._position = max(0, min(start, end) - self._preroll)
        if self._position:
            self._file.seek(self._position)
        while self._position < end:
            num_frames = min(self.block_frames, end - self._position)
            frames = self._file.read(num_frames, dtype="float32", always_2d=True)
            if len(frames) == 0:
                raise soundfile.SoundFileRuntimeError("the frames that the header promises end here")
            mono = to_mono(frames.T[:, max(0, start - self._position) :])
            self._position += len(frames)
            if mono.size:
                yield mono
        check_target(self._target, self.name)

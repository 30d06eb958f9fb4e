"""WAV, FLAC, OGG and their kin through libsndfile."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import soundfile

from audioset._decode.base import PREROLL_S, Decoder, Target, Waveform, broken_off, check_target, no_samples, to_mono


class SoundFileDecoder(Decoder):
    """A file that libsndfile reads; the constructor raises soundfile.SoundFileError where it does not."""

    num_frames: int

    def __init__(self, target: Target, name: str, stack: contextlib.ExitStack) -> None:
        file = soundfile.SoundFile(target)
        stack.callback(file.close)
        if not 0 <= file.frames < 2**62:  # FLAC that was written to a pipe; libsndfile cannot seek in it either
            raise soundfile.SoundFileError("unknown length")
        self._file, self._target, self.name = file, target, name
        self.format = f"{file.format} {file.subtype}"
        self.sample_rate, self.channels, self.num_frames = file.samplerate, file.channels, file.frames
        if self.num_frames == 0:
            raise no_samples(name, self.format)
        if file.subtype == "VORBIS":
            file.seek(self.num_frames - 1)
            file.seek(0)  # fails in a piece cut out of a longer file, of which libsndfile gets length and places wrong
        self.duration_s = self.num_frames / max(1, self.sample_rate)
        self._preroll = round(PREROLL_S * self.sample_rate) if file.format == "OGG" else 0

    def blocks(self, start: int, stop: int | None) -> Iterator[Waveform]:
        end = self.num_frames if stop is None else min(stop, self.num_frames)
        position = max(0, min(start, end) - self._preroll)
        try:
            if position:
                self._file.seek(position)
            while position < end:
                frames = self._file.read(min(self.block_frames, end - position), dtype="float32", always_2d=True)
                if len(frames) == 0:
                    raise soundfile.SoundFileError("the frames that the header promises end here")
                mono = to_mono(frames.T[:, max(0, start - position) :])
                position += len(frames)
                if mono.size:
                    yield mono
        except soundfile.SoundFileError as error:
            raise broken_off(self, position, error, self._target) from error
        check_target(self._target, self.name)

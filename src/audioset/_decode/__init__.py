"""Anything that holds sound → mono float32 frames at the sound's own rate, from any frame on, a block at a time.

`open_decoder` finds out what a source is and which library reads it: libsndfile first, then FFmpeg through PyAV. Each
of the two has a module here that is imported when it is needed.
"""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import shutil
import stat
import sys
import tempfile
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from audioset._decode.array import ArrayDecoder
from audioset._decode.base import Decoder, InPlace, Target, Waveform, check_target, reason, rescue
from audioset._decode.containers import inspect
from audioset._decode.pcm import Pcm, PcmDecoder, PcmFormat
from audioset.errors import AudioError, OptionError
from audioset.storage.names import MEMBER_MARK, is_archive, is_url, split_member

__all__ = ["AudioSource", "Decoder", "Pcm", "PcmFormat", "Waveform", "open_decoder"]

_PLAIN_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".aif", ".aiff", ".caf", ".w64", ".rf64")

AudioSource: TypeAlias = str | os.PathLike[str] | BinaryIO | npt.NDArray[Any] | Pcm


def open_decoder(source: AudioSource, sample_rate: int | None = None) -> Decoder:
    """The decoder of `source`; AudioError where there is none, OptionError for a rate missing or out of place."""
    if isinstance(source, np.ndarray):
        return ArrayDecoder(source, sample_rate)
    if sample_rate is not None:
        raise OptionError(
            f"sample_rate: {sample_rate} was given with a file, which says its own rate; "
            "expected None. Leave it out, or pass the samples as an array."
        )
    if isinstance(source, Pcm):
        return PcmDecoder(source)
    with contextlib.ExitStack() as stack:
        if isinstance(source, str | os.PathLike):
            path = os.fsdecode(source)
            if is_archive(path):
                raise AudioError(
                    f"{path}: is an archive; expected one recording. Name one in it, {path}{MEMBER_MARK}NAME, or "
                    "take all with `audioset.storage.sources`, as `audioset embed` does"
                )
            if is_url(path) or (split_member(path) is not None and not os.path.lexists(path)):
                from audioset.storage import open_input

                file = stack.enter_context(open_input(path))
                return _open_file(file, path, None, stack.pop_all())
            return _open_file(_file_at(path, stack), path or "''", path, stack.pop_all())
        is_text = isinstance(cast(object, source), io.TextIOBase)
        if is_text or not hasattr(source, "read"):
            kind = "file in text mode" if is_text else type(source).__name__
            raise AudioError(
                f"source: a {kind} is not audio; expected a path, a file opened with mode 'rb' or a NumPy array. "
                "Wrap bytes in io.BytesIO; convert sequences with numpy.asarray."
            )
        name = getattr(source, "name", None)
        return _open_file(source, name if isinstance(name, str) else "<stream>", None, stack.pop_all())


def _file_at(path: str, stack: contextlib.ExitStack) -> BinaryIO:
    name = path or "''"
    try:
        mode = Path(path).stat().st_mode if path else os.stat(path).st_mode  # noqa: PTH116 - Path("") is the folder
        if stat.S_ISDIR(mode):
            raise AudioError(
                f"{name}: is a directory; expected an audio file. Name the files in it, for example {name}/*.wav."
            )
        if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
            raise AudioError(f"{name}: is a device; expected an audio file or a pipe. Record it to a file first.")
        return stack.enter_context(Path(path).open("rb"))
    except FileNotFoundError as error:
        raise AudioError(f"{name}: no such file; expected an audio file. Check the spelling and the folder.") from error
    except PermissionError as error:
        raise AudioError(
            f"{name}: permission denied; expected a file that this user can read. "
            f"Change its owner, or modes: `chmod u+r {shlex.quote(name)}`, and `chmod u+x` for its folder."
        ) from error
    except AudioError:
        raise
    except (OSError, ValueError) as error:
        raise AudioError(
            f"{name!r}: cannot be opened ({reason(error)}); expected an audio file. Check the path."
        ) from error


def _open_file(file: BinaryIO, name: str, path: str | None, stack: contextlib.ExitStack) -> Decoder:
    """Decode `file`, and close `stack` with it."""
    with stack:
        try:
            if not (file.seekable() if hasattr(file, "seekable") else hasattr(file, "seek")):
                spool = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the decoder
                stack.callback(spool.close)
                shutil.copyfileobj(file, spool, 2**20)
                file, path = cast(BinaryIO, spool), None
            file.seek(0, os.SEEK_END)
            size = file.tell()
            if size == 0:
                raise AudioError(f"{name}: empty file (0 bytes); expected audio. Copy or record it again.")
            facts = inspect(file, size)
        except AudioError:
            raise
        except Exception as error:  # file objects raise what they like
            raise AudioError(
                f"{name}: cannot be read ({reason(error)}); expected a readable binary file. "
                "Check the file, and the space for temporary files."
            ) from error
        if facts.shortage:
            raise AudioError(f"{name}: truncated: {facts.shortage}. {rescue(name)}")
        # Libraries read a file by its path without holding Python's lock; but libsndfile believes other suffixes.
        believed = facts.for_libsndfile and not (path or "").lower().endswith(_PLAIN_SUFFIXES)
        target: Target = InPlace(file) if path is None or believed or not _is_text(path) else path
        try:
            decoder = _decoder_of(target, name, facts.for_libsndfile, stack)
        finally:
            check_target(target, name)
        decoder.resources = stack.pop_all()
        return decoder


def _is_text(path: str) -> bool:
    """Whether soundfile can pass `path` on; not where the name holds bytes that are no characters."""
    try:
        path.encode(sys.getfilesystemencoding())
    except UnicodeEncodeError:
        return False
    return True


def _decoder_of(target: Target, name: str, for_libsndfile: bool, stack: contextlib.ExitStack) -> Decoder:
    refusal = ""
    if for_libsndfile:
        from audioset._decode.libsndfile import SoundFileDecoder

        try:
            return SoundFileDecoder(target, name, stack)
        except AudioError:
            raise
        except Exception as error:  # here and below, as in FileDecoder.blocks
            refusal = f"libsndfile: {reason(error)}; "
    from audioset._decode.ffmpeg import FFmpegDecoder

    try:
        return FFmpegDecoder(target, name, stack)
    except AudioError:
        raise
    except Exception as error:
        raise AudioError(
            f"{name}: cannot be decoded ({refusal}FFmpeg: {reason(error)}); "
            "expected WAV, FLAC, OGG, MP3, M4A, MP4, WebM or another format that FFmpeg reads. "
            f"Check what it is with `ffprobe {shlex.quote(name)}`."
        ) from error

"""What users type for inputs: files, globs, folders, lists of files and standard input, to a list of names."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from audioset.errors import AudioError, OptionError

STDIN = "-"

# In folders, files of these names are taken; a file that is named itself is always tried.
_SUFFIXES = """
.3gp .aac .ac3 .aif .aifc .aiff .amr .ape .asf .au .avi .caf .dts .flac .flv .m2ts .m4a .m4b .m4v .mka .mkv .mov
.mp2 .mp3 .mp4 .mpeg .mpg .mpga .mts .oga .ogg .ogv .opus .ra .rf64 .snd .spx .tta .ts .voc .vob .w64 .wav .wave
.weba .webm .wma .wmv .wv
"""
AUDIO_SUFFIXES = frozenset(_SUFFIXES.split())


@dataclass(frozen=True)
class Inputs:
    """Names in the order in which they are to be embedded, without repetition.

    Attributes
    ----------
    files : tuple of str
        Paths as users would type them, or "-".
    missing : tuple of (str, AudioError)
        What was asked for and stands for no file at all: a folder that holds no audio or cannot be read, a pattern
        without match.
    """

    files: tuple[str, ...]
    missing: tuple[tuple[str, AudioError], ...]


def expand(arguments: Iterable[str], *, lists: Iterable[str | os.PathLike[str]] = ()) -> Inputs:
    """Return the files that command-line arguments stand for.

    Parameters
    ----------
    arguments : iterable of str
        A file; a folder, for every audio file below it in sorted order; a pattern (`*`, `?`, `[…]`, `**`), likewise;
        `-` for standard input. A name that exists is never taken for a pattern.
    lists : iterable of path
        Text files (UTF-8) with one argument a line; empty lines and lines starting with `#` are skipped. `-` reads
        the list from standard input.

    Raises
    ------
    OptionError
        A list cannot be read.
    """
    lists_of_files = [os.fspath(path) for path in lists]
    arguments = list(arguments)
    if [*arguments, *lists_of_files].count(STDIN) > 1:
        raise OptionError("-: named more than once; standard input can be read only once")
    files: dict[str, None] = {}
    missing: list[tuple[str, AudioError]] = []
    every = [*arguments, *(line for path in lists_of_files for line in _read_list(path))]
    for argument in every:
        locked: list[tuple[str, AudioError]] = []
        found = dict.fromkeys(_expand_one(argument, locked))
        missing += locked
        if found or locked:
            files |= found
        else:
            missing.append((argument, _nothing(argument)))
    return Inputs(tuple(files), tuple(missing))


def standard_input() -> BinaryIO:
    """Return standard input as it is, unbuffered where it can be: a thread that waits for it then holds no lock.

    Raises
    ------
    OptionError
        It is closed.
    """
    if sys.stdin is None:
        raise OptionError("-: standard input is closed; expected audio or a list of files in a pipe")
    try:
        return open(sys.stdin.fileno(), "rb", buffering=0, closefd=False)
    except (OSError, ValueError):  # not a descriptor, but an object in its place
        return cast(BinaryIO, sys.stdin.buffer)


def _expand_one(argument: str, locked: list[tuple[str, AudioError]]) -> Iterator[str]:
    if argument == STDIN:
        yield argument
    elif os.path.isdir(argument):
        yield from _walk(argument, locked)
    elif not os.path.lexists(argument) and glob.has_magic(argument):
        for match in sorted(glob.iglob(argument, recursive=True)):
            if not Path(match).is_dir():
                yield match
    else:
        yield argument  # a file that is not there is reported, by name, when it is opened


def _walk(folder: str, locked: list[tuple[str, AudioError]]) -> Iterator[str]:
    def note(error: OSError) -> None:
        name = str(error.filename)
        reason = (
            f"{name}: this folder cannot be read ({error.strerror}); expected one that may be listed. Check its rights"
        )
        locked.append((name, AudioError(reason)))

    seen = set()
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=note):
        real = os.path.realpath(parent)
        if real in seen:  # a link to a folder above it, or a second way into one
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        for name in sorted(names):
            # macOS leaves ._NAME beside files on foreign disks; no hidden file is a recording.
            if not name.startswith(".") and Path(name).suffix.lower() in AUDIO_SUFFIXES:
                yield str(Path(parent, name))


def _nothing(argument: str) -> AudioError:
    if os.path.isdir(argument):
        return AudioError(
            f"{argument}: no audio file in this folder; expected names ending in .wav, .flac, .ogg, .mp3, .m4a, .mp4 "
            "or the like. Name files with other endings themselves"
        )
    return AudioError(f"{argument}: no file matches this pattern. Check it with `ls {argument}`")


def _read_list(path: str) -> list[str]:
    try:
        content = standard_input().read() if path == STDIN else Path(path).read_bytes()
        text = content.decode("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise OptionError(f"{path}: cannot read this list ({error}); expected UTF-8 text, one name a line") from error
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]

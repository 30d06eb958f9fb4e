"""What users type for inputs: files, globs, folders, lists of files and standard input, to a list of names."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

from audioset.errors import AudioError, OptionError
from audioset.storage.names import HTTP_SCHEMES, has_audio_suffix, has_magic, is_archive, is_url, location, split_member

STDIN = "-"


@dataclass(frozen=True)
class Inputs:
    """Names in the order in which they are to be embedded, without repetition.

    Attributes
    ----------
    files : tuple of str
        Paths and URLs as users would type them, or "-".
    missing : tuple of (str, AudioError)
        What was asked for and stands for no file at all: a folder that holds no audio or cannot be read, a pattern
        without match.
    sizes : dict of str to int
        Bytes of files on object storage, as far as listing them told.
    """

    files: tuple[str, ...]
    missing: tuple[tuple[str, AudioError], ...]
    sizes: Mapping[str, int] = field(default_factory=dict)


def expand(arguments: Iterable[str], *, lists: Iterable[str | os.PathLike[str]] = ()) -> Inputs:
    """Return the files that command-line arguments stand for.

    Parameters
    ----------
    arguments : iterable of str
        A file; a folder, for every audio file below it in sorted order; a pattern (`*`, `?`, `[…]`, `**`), likewise;
        `-` for standard input. A name that exists is never taken for a pattern. URLs likewise: those of object storage
        are listed where they are patterns or end in `/`; all others are taken as they are, without a request. Archives
        are taken where they are named, where they match a pattern, and from folders that hold no audio beside them.
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
    sizes: dict[str, int] = {}
    every = [*arguments, *(line for path in lists_of_files for line in _read_list(path))]
    for argument in every:
        locked: list[tuple[str, AudioError]] = []
        found = dict.fromkeys(find(argument, locked, sizes=sizes))
        missing += locked
        if found or locked:
            files |= found
        else:
            missing.append((argument, _nothing(argument)))
    return Inputs(tuple(files), tuple(missing), sizes)


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


def find(
    argument: str,
    locked: list[tuple[str, AudioError]],
    *,
    archives: bool = False,
    sizes: dict[str, int] | None = None,
) -> Iterator[str]:
    """Yield the files that one argument of `expand` stands for.

    Parameters
    ----------
    argument : str
        As in `expand`.
    locked : list
        Whatever cannot be listed is added to it, with the reason.
    archives : bool
        Take the archives of folders too, and not only where there is nothing else.
    sizes : dict, optional
        Bytes of what object storage lists are added to it.
    """
    if argument == STDIN:
        yield argument
    elif is_url(argument):
        yield from _find_remote(argument, locked, {} if sizes is None else sizes)
    elif os.path.isdir(argument):
        yield from _walk(argument, locked, archives)
    elif (member := split_member(argument)) is not None and os.path.lexists(member[0]):
        yield argument
    elif not os.path.lexists(argument) and glob.has_magic(argument):
        for match in sorted(glob.iglob(argument, recursive=True)):
            if not Path(match).is_dir():
                yield match
    else:
        yield argument  # a file that is not there is reported, by name, when it is opened


def _find_remote(url: str, locked: list[tuple[str, AudioError]], sizes: dict[str, int]) -> Iterator[str]:
    from audioset.storage import list_audio, size_of

    where = location(url)
    if where.scheme in HTTP_SCHEMES:
        path = where.path.partition("?")[0]
        pattern = "*" in path  # the other signs are common in URLs
    else:
        path = where.path
        pattern = has_magic(path)
    if not (pattern or path.endswith("/") or "/" not in path) or (pattern and size_of(url) is not None):
        yield url
        return
    try:
        found = False
        packed = []
        for entry in list_audio(url):
            if entry.size is not None:
                sizes[entry.name] = entry.size
            if pattern or not is_archive(entry.name):
                found = True
                yield entry.name
            elif not found:
                packed.append(entry.name)
        if not found:
            yield from packed
    except AudioError as error:
        locked.append((url, error))


def _walk(folder: str, locked: list[tuple[str, AudioError]], archives: bool) -> Iterator[str]:
    def note(error: OSError) -> None:
        name = str(error.filename)
        reason = (
            f"{name}: this folder cannot be read ({error.strerror}); expected one that may be listed. Check its rights"
        )
        locked.append((name, AudioError(reason)))

    seen = set()
    found = archives
    packed = []
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=note):
        real = os.path.realpath(parent)
        if real in seen:  # a link to a folder above it, or a second way into one
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        for name in sorted(names):
            if has_audio_suffix(name) or (archives and is_archive(name)):
                found = True
                yield str(Path(parent, name))
            elif not found and is_archive(name):
                packed.append(str(Path(parent, name)))
    if not found:
        yield from packed


def _nothing(argument: str) -> AudioError:
    if is_url(argument):
        return AudioError(
            f"{argument}: no audio file and no archive there; expected names ending in .wav, .flac, .ogg, .mp3, .tar, "
            ".zip or the like. Check the spelling; name files with other endings themselves"
        )
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
    lines = (line.strip() for line in text.split("\n"))  # names may hold what else Unicode takes for line breaks
    return [line for line in lines if line and not line.startswith("#")]

"""What names say by themselves, without a request: URLs, archives and members of archives, patterns, audio."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import parse_qsl

from audioset.errors import OptionError

MEMBER_MARK = "::"

ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip")
_LAST_SIGNS = frozenset(suffix[-1] for suffix in ARCHIVE_SUFFIXES)

# In folders and archives, files of these names are taken; a file that is named itself is always tried.
_SUFFIXES = """
.3gp .aac .ac3 .aif .aifc .aiff .amr .ape .asf .au .avi .caf .dts .flac .flv .m2ts .m4a .m4b .m4v .mka .mkv .mov
.mp2 .mp3 .mp4 .mpeg .mpg .mpga .mts .oga .ogg .ogv .opus .ra .rf64 .snd .spx .tta .ts .voc .vob .w64 .wav .wave
.weba .webm .wma .wmv .wv
"""
AUDIO_SUFFIXES = frozenset(_SUFFIXES.split())

HTTP_SCHEMES = ("http", "https")
FILE_SCHEME = "file"

# A drive letter of Windows is no scheme: those have two letters at least.
_URL = re.compile(r"([a-z][a-z0-9+.\-]+)://(.*)", re.IGNORECASE | re.DOTALL)
# What may stand behind `?` in a URL of object storage; anything else there is part of the key.
_OPTIONS = frozenset(("anonymous", "endpoint_override", "region", "scheme"))
_MAGIC = re.compile(r"[*?[]")


@dataclass(frozen=True)
class Location:
    """A URL in its parts.

    Attributes
    ----------
    scheme : str
        In lower case, without `://`.
    path : str
        Bucket and key, as they are: nothing is escaped. For http and https, all behind the scheme.
    options : tuple of (str, str)
        What stands behind `?`, where it is about the connection.
    """

    scheme: str
    path: str
    options: tuple[tuple[str, str], ...] = ()

    def name(self, path: str) -> str:
        """Return the URL of another path in the same place."""
        query = "&".join(f"{key}={value}" for key, value in self.options)
        return f"{self.scheme}://{path}" + (f"?{query}" if query else "")


def is_url(name: str) -> bool:
    """Return whether a name is a URL, such as `s3://bucket/key` or `https://host/file`."""
    return "://" in name and _URL.fullmatch(name) is not None


def location(url: str) -> Location:
    """Return a URL in its parts.

    Raises
    ------
    OptionError
        It holds a password, which would end up in outputs and messages.
    """
    where = _parts(url)
    host = where.path.partition("/")[0]
    if "@" in host and ":" in host.partition("@")[0]:
        shown = f"{where.scheme}://…@{host.rpartition('@')[2]}"
        raise OptionError(
            f"{shown}: holds a password, which outputs and messages would show; expected a URL without. "
            "Put it into ~/.netrc, or into what the storage's own tools read (AWS_SECRET_ACCESS_KEY, for one)"
        )
    return where


def _parts(url: str) -> Location:
    found = _URL.fullmatch(url)
    if found is None:
        raise OptionError(f"{url}: is no URL; expected SCHEME://…, for example s3://bucket/key")
    scheme, path = found[1].lower(), found[2]
    if scheme in HTTP_SCHEMES:
        return Location(scheme, path)
    before, mark, query = path.rpartition("?")
    options = tuple(parse_qsl(query, keep_blank_values=True)) if mark else ()
    if options and all(key in _OPTIONS for key, _ in options):
        return Location(scheme, before, options)
    return Location(scheme, path)


def is_archive(name: str) -> bool:
    """Return whether a name, of a file or a URL, is that of an archive: .tar, .tar.gz, .tgz or .zip."""
    # Most names are told apart by their last sign, and there may be millions.
    if name[-1:].lower() not in _LAST_SIGNS and not is_url(name):
        return False
    last = _file_name(name)
    return not last.startswith(".") and last.lower().endswith(ARCHIVE_SUFFIXES)


def is_audio(name: str) -> bool:
    """Return whether a file of this name is taken from folders and archives."""
    return has_audio_suffix(_file_name(name))


def has_audio_suffix(file_name: str) -> bool:
    """Return whether a name without folders is that of audio; no hidden file is a recording."""
    # macOS leaves ._NAME beside files on foreign disks.
    return not file_name.startswith(".") and os.path.splitext(file_name)[1].lower() in AUDIO_SUFFIXES  # noqa: PTH122


def split_member(name: str) -> tuple[str, str] | None:
    """Return archive and member of `shard.tar::dir/clip.wav`; None for any other name."""
    at = name.find(MEMBER_MARK)
    while at >= 0:  # folders and hosts may have the mark in their names too
        archive, member = name[:at], name[at + len(MEMBER_MARK) :]
        if member and is_archive(archive):
            return archive, member
        at = name.find(MEMBER_MARK, at + 1)
    return None


def member_name(archive: str, member: str) -> str:
    """Return the name of an archive's member."""
    return f"{archive}{MEMBER_MARK}{member}"


def has_magic(path: str) -> bool:
    """Return whether a path may be a pattern."""
    return _MAGIC.search(path) is not None


def fixed_folder(pattern: str) -> str:
    """Return the folder below which all matches of a pattern are, without a final slash."""
    found = _MAGIC.search(pattern)
    return pattern[: found.start() if found else len(pattern)].rpartition("/")[0]


def matcher(pattern: str) -> Callable[[str], bool]:
    """Return a function that says whether a path matches: `*`, `?` and `[…]` within a folder's name, `**` across."""
    out = []
    at = 0
    while at < len(pattern):
        if pattern.startswith("**/", at):
            out.append("(?:[^/]+/)*")
            at += 3
            continue
        if pattern.startswith("**", at):
            out.append(".*")
            at += 2
            continue
        sign = pattern[at]
        at += 1
        if sign == "*":
            out.append("[^/]*")
        elif sign == "?":
            out.append("[^/]")
        elif sign == "[" and (end := pattern.find("]", at + 1)) > 0:
            inside = pattern[at:end].replace("\\", "\\\\").replace("[", "\\[")
            out.append(f"[^{inside[1:]}]" if inside.startswith("!") else f"[{inside}]")
            at = end + 1
        else:
            out.append(re.escape(sign))
    compiled = re.compile("".join(out), re.DOTALL)
    return lambda path: compiled.fullmatch(path) is not None


def _file_name(name: str) -> str:
    if is_url(name):
        where = _parts(name)
        path = where.path
        if where.scheme in HTTP_SCHEMES:
            path = path.partition("#")[0].partition("?")[0]
        return path.rpartition("/")[2]
    return name.replace("\\", "/").rpartition("/")[2]

"""Text files of the data set: plain or gzip by content, in blocks of whole lines, with or without a BOM and CRLF."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from audioset.errors import DatasetError

_GZIP = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"
_BLOCK_BYTES = 1 << 24
_MAX_LINE_BYTES = 1 << 24  # what unpacks to more in one line is no text, and must not fill the memory


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Give the bytes of a file, unpacked where it is gzip; DatasetError where it cannot be read."""
    try:
        with path.open("rb") as raw:
            packed = raw.read(len(_GZIP)) == _GZIP
            raw.seek(0)
            if packed:
                with gzip.open(raw) as unpacked:
                    yield cast(IO[bytes], unpacked)
            else:
                yield raw
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DatasetError(
            f"{path}: its gzip data are cut short or damaged ({error}); expected a whole file. {again(path)}"
        ) from error
    except OSError as error:
        raise DatasetError(
            f"{path}: cannot be read ({error.strerror or error}); expected a file. Check its name"
        ) from error


def blocks(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the number of a line, from 1, and whole lines from there on, about 16 MiB at a time.

    Raises
    ------
    DatasetError
        The file cannot be read, has nothing in it, or a line of more than 16 MiB.
    """
    line, held = 1, b""
    with opened(path) as stream:
        while piece := stream.read(_BLOCK_BYTES):
            if line == 1 and not held:
                piece = piece.removeprefix(_BOM)
            held += piece
            end = held.rfind(b"\n") + 1
            if not end and len(held) > _MAX_LINE_BYTES:
                raise DatasetError(
                    f"{path}, line {line}: longer than {_MAX_LINE_BYTES >> 20} MiB; expected lines of text. It is "
                    f"another kind of file, or damaged. {again(path)}"
                )
            if end:
                yield line, held[:end]
                line += held.count(b"\n", 0, end)
                held = held[end:]
    if held.strip():
        yield line, held
    elif line == 1:
        raise DatasetError(f"{path}: empty; expected lines of text. {again(path)}")


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the number and the text of each line that is not blank, for files of a few thousand lines."""
    for first, block in blocks(path):
        for number, raw in enumerate(block.splitlines(), first):
            if raw.strip():
                yield number, decoded(raw, path, number)


def again(path: Path) -> str:
    """Return what to do about a file that is wrong as a whole: only what is published can be fetched again."""
    from audioset.dataset.catalogue import FILES

    published = path.name.removesuffix(".gz") in {file.file_name for file in FILES}
    return "Fetch it again" if published else "Check that it is the file you mean, or take a whole copy"


def decoded(raw: bytes, path: Path, line: int) -> str:
    """Return the text of a line; DatasetError where it is not UTF-8."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}, line {line}: not UTF-8 ({error.reason}); expected text in UTF-8") from error

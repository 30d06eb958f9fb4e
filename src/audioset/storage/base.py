"""What every kind of storage is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

PIECE_BYTES = 1 << 20  # of a stream, at once


@dataclass(frozen=True)
class Entry:
    """A file that was found.

    Attributes
    ----------
    name : str
        As users would type it: a URL or a path.
    size : int or None
        Bytes, where it is known.
    """

    name: str
    size: int | None


class Remote(Protocol):
    """One object, opened. All methods raise Trouble, and may be called from several threads."""

    @property
    def size(self) -> int:
        """How many bytes it has."""

    def read_at(self, start: int, length: int) -> bytes:
        """As many bytes from `start` on, fewer at the end only."""

    def close(self) -> None:
        """Free what it holds."""


class Storage(Protocol):
    """Objects by their paths. All methods raise Trouble."""

    def open(self, path: str, first_bytes: int) -> Remote:
        """An object, of which `first_bytes` will be read at once."""

    def stream(self, path: str) -> Iterator[bytes]:
        """The content of an object from its beginning, gone on with after a fault; closing it ends the request."""

    def size(self, path: str) -> int | None:
        """How many bytes an object has, None where nobody says."""

    def files(self, folder: str) -> Iterator[tuple[str, int | None]]:
        """Path and size of every object below a folder, sorted by path."""

"""Formats that weights come in: one reader a line, told apart by content and never by name.

A new format is a module with a test for its first bytes and a function that reads it, and a line in `READERS`. Files
that name a model's tensors in another way get a function that renames them, and a line in `RENAMES`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import numpy.typing as npt

from audioset.errors import WeightsError, WeightsFormatError
from audioset.weights import keras_h5, safetensors_file, tf_checkpoint, tflite, torch_pickle
from audioset.weights.files import unreadable

Array: TypeAlias = npt.NDArray[Any]
_HEAD_BYTES: Final = 4096
_INDEX: Final = ".index"


@dataclass(frozen=True)
class Reader:
    """How one format is recognised and read.

    Attributes
    ----------
    name : str
        What provenance calls the format.
    sniff : callable
        `sniff(head, path)`: whether the file is of this format; `head` is its first 4096 bytes.
    read : callable
        `read(path)`: every tensor by the name that the file gives it.
    files : callable
        `files(path)`: all files that belong to it, in the order in which they are hashed.
    holds_training_state : bool
        Whether such files usually hold more than the network, such as the optimizer's variables.
    """

    name: str
    sniff: Callable[[bytes, Path], bool]
    read: Callable[[Path], dict[str, Array]]
    files: Callable[[Path], tuple[Path, ...]] = lambda path: (path,)
    holds_training_state: bool = False


@dataclass(frozen=True)
class Source:
    """A file of weights and the reader for it."""

    path: Path
    reader: Reader

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that the weights are in."""
        return self.reader.files(self.path)


SAFETENSORS: Final = Reader("safetensors", safetensors_file.is_safetensors, lambda path: safetensors_file.read(path)[0])
READERS: Final = (
    SAFETENSORS,
    Reader(
        "tensorflow-v1", lambda _, path: tf_checkpoint.is_v1(path), tf_checkpoint.read_v1, holds_training_state=True
    ),
    Reader(
        "tensorflow-v2",
        lambda _, path: tf_checkpoint.is_v2_index(path),
        tf_checkpoint.read_v2,
        files=tf_checkpoint.v2_files,
        holds_training_state=True,
    ),
    Reader("pytorch", torch_pickle.is_torch, torch_pickle.read),
    Reader("keras-h5", keras_h5.is_hdf5, keras_h5.read),
    Reader("tflite", tflite.is_tflite, tflite.read),
)

# By model: functions that return the tensors under the model's own names, or None if the names are not theirs.
RENAMES: Final[Mapping[str, tuple[Callable[[Mapping[str, Array]], dict[str, Array] | None], ...]]] = MappingProxyType(
    {
        "vggish": (torch_pickle.from_torchvggish,),
        "yamnet": (keras_h5.from_yamnet, tflite.from_yamnet),
    }
)


def has_prefix(path: Path) -> bool:
    """Return whether no file is at `path`, but the index of a TensorFlow checkpoint whose prefix it is."""
    return bool(path.name) and not path.exists() and path.with_name(path.name + _INDEX).is_file()


def find(path: Path) -> Source:
    """Return the weights at `path`: a file, or the prefix of a version 2 TensorFlow checkpoint.

    Raises
    ------
    WeightsError
        If there is no such file or it cannot be read.
    WeightsFormatError
        If its content is of no known format.
    """
    try:
        if has_prefix(path):
            path = path.with_name(path.name + _INDEX)
        if path.is_dir():
            raise WeightsError(f"{path}: a folder; expected a file of weights. Name the file in it.")
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
        for reader in READERS:
            if reader.sniff(head, path):
                return Source(path, reader)
    except OSError as error:
        raise unreadable(path, error) from error
    shard = re.fullmatch(r"(.+)\.data-\d{5}-of-\d{5}", path.name)
    if shard:
        raise WeightsFormatError(
            f"{path}: one data file of a TensorFlow checkpoint; expected its prefix. Give {path.with_name(shard[1])}."
        )
    found = f"begins with {head[:16]!r}" if head else "is empty"
    raise WeightsFormatError(
        f"{path}: {found}; expected weights in one of the formats {', '.join(reader.name for reader in READERS)}. "
        "Check that the file arrived whole and is not a web page or a pointer to the real one."
    )

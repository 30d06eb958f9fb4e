"""What a job of embedding is, apart from its rows: the options that decide its values, and how it went."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, Field, asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from audioset._version import __version__
from audioset.errors import AudioSetError, RecordError
from audioset.inputs import STDIN

LAYOUT = 1
"""Version of the metadata's layout; a reader of this version understands this one only."""

MAX_STORED_FAILURES = 10_000

_NOT_DECIDING = frozenset({"version"})
# They move the last digits in float32, and others in fewer bits.
_NOT_DECIDING_IN_FP32 = _NOT_DECIDING | {"engine", "device"}


@dataclass(frozen=True)
class JobInfo:
    """The options that decide the values of a job's rows, and which software made them.

    Two jobs are the same when all but `version` and, in float32, `engine` and `device` are equal: their rows may then
    share a file. Which of several graphics processors it was never matters.

    Attributes
    ----------
    model, weights_name, weights_sha256
        The network, and the weights that it ran with.
    embedding_dim, dtype, regime
        Values a row, their type, and whether they are the network's own ("raw"), PCA-whitened ("pca") or quantized
        as released ("uint8").
    hop_s, pad, pool
        How files were cut into examples, and examples pooled into rows.
    start_s, duration_s
        The window of each file that was embedded; a duration of None reaches its end.
    pca_sha256
        The PCA parameters, where they were used.
    precision, int8_sha256
        Of the network's arithmetic, and its weights in 8 bits where it ran in those.
    engine, device
        What ran the network, and where; in float32 values agree between them within a documented tolerance.
    version
        Version of this package.
    """

    model: str
    weights_name: str
    weights_sha256: str
    embedding_dim: int
    dtype: Literal["float32", "uint8"]
    regime: Literal["raw", "pca", "uint8"]
    hop_s: float
    pad: str
    pool: str
    start_s: float = 0.0
    duration_s: float | None = None
    pca_sha256: str | None = None
    precision: str = "fp32"
    int8_sha256: str | None = None
    engine: str = "onnxruntime"
    device: str = "cpu"
    version: str = __version__

    def differences(self, now: JobInfo) -> list[str]:
        """One "option: then, now" for each option in which a job differs from this one, empty for the same job."""
        ignored = _NOT_DECIDING_IN_FP32 if "fp32" in (self.precision, now.precision) else _NOT_DECIDING
        return [
            f"{field.name} {getattr(self, field.name)} then, {getattr(now, field.name)} now"
            for field in fields(self)
            if field.name not in ignored and _deciding(self, field.name) != _deciding(now, field.name)
        ]


def _deciding(info: JobInfo, name: str) -> object:
    """What of an option decides values: of a device its kind, whichever card it is."""
    value = getattr(info, name)
    return value.partition(":")[0] if name == "device" else value


@dataclass(frozen=True)
class Failure:
    """A file that gave no rows, and why."""

    file: str
    reason: str


@dataclass(frozen=True)
class JobSummary:
    """How a job went.

    Attributes
    ----------
    path
        The finished output; None when the rows went to a stream.
    files, rows
        Files embedded, including those that were too short to give a row, and rows written.
    failures
        The files that could not be embedded.
    num_bytes
        Size of the output.
    """

    path: Path | None
    files: int
    rows: int
    failures: tuple[Failure, ...]
    num_bytes: int


@dataclass(frozen=True)
class Metadata:
    """What a finished output says of its job (the JSON in the Parquet schema and in the NPZ)."""

    job: JobInfo
    files: int
    rows: int
    num_failures: int
    failures: tuple[Failure, ...]
    inputs_sha256: str | None = None

    def to_json(self) -> str:
        """This as one line of ASCII; no more than the first 10,000 failures are listed."""
        listed = [[failure.file, failure.reason] for failure in self.failures[:MAX_STORED_FAILURES]]
        return json.dumps({"layout": LAYOUT, **asdict(self), "failures": listed})

    @classmethod
    def from_json(cls, text: str | bytes, subject: object) -> Metadata:
        """The inverse of `to_json`; `RecordError` naming `subject` for anything else."""
        found = load_json(text, subject)
        try:
            return cls(
                job=job_from(found["job"], subject),
                files=int(found["files"]),
                rows=int(found["rows"]),
                num_failures=int(found["num_failures"]),
                failures=tuple(Failure(file, reason) for file, reason in found["failures"]),
                inputs_sha256=found.get("inputs_sha256"),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise _not_ours(subject, repr(error)) from error


def load_json(text: str | bytes, subject: object) -> dict[str, Any]:
    """A JSON object that this package wrote, of the layout that it understands; `RecordError` otherwise."""
    try:
        found = json.loads(text)
        layout = found["layout"]
    except (KeyError, TypeError, ValueError) as error:
        raise _not_ours(subject, repr(error)) from error
    if layout != LAYOUT:
        raise RecordError(
            f"{subject}: written in layout {layout}, this version of audioset reads layout {LAYOUT}; "
            "use the version that wrote it"
        )
    return dict(found)


def job_from(found: dict[str, Any], subject: object) -> JobInfo:
    """A `JobInfo` from the fields of its JSON, leaving out those that a later version may have added.

    What an earlier version did not know yet was as it is by default.
    """
    try:
        return JobInfo(**{field.name: found[field.name] for field in fields(JobInfo) if _is_needed(field, found)})
    except (KeyError, TypeError) as error:
        raise _not_ours(subject, repr(error)) from error


def _is_needed(field: Field[Any], found: dict[str, Any]) -> bool:
    return field.name in found or field.default is MISSING


def reason_of(file: str, error: Exception) -> str:
    """Why a file failed, in a sentence that names it, also where the error is none of this package's."""
    reason = str(error) if isinstance(error, AudioSetError) else f"{type(error).__name__}: {error}"
    return reason if file in reason or file == STDIN else f"{file}: {reason}"


def storable(file: str) -> str:
    r"""A file's name in valid Unicode: undecodable bytes (lone surrogates) are written out, as in ``caf\udce9.wav``."""
    return file.encode("utf-8", "backslashreplace").decode()


def digest(inputs: Sequence[str]) -> str:
    """SHA-256 of a list of names, in order."""
    total = hashlib.sha256()
    for name in _encoded(inputs):
        total.update(name + b"\0")
    return total.hexdigest()


def _encoded(names: Iterable[str]) -> Iterable[bytes]:
    return (name.encode("utf-8", "surrogatepass") for name in names)


def _not_ours(subject: object, found: str) -> RecordError:
    return RecordError(
        f"{subject}: its description of the job is missing or damaged ({found}); "
        "expected a file written by audioset. Read other files with the library that wrote them"
    )

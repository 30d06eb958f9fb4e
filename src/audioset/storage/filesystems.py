"""Which library speaks to which kind of storage: one place, one entry a line."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

from audioset._extras import check_installed
from audioset.errors import OptionError
from audioset.storage.base import Storage
from audioset.storage.names import FILE_SCHEME, HTTP_SCHEMES, Location

# The libraries try again by themselves; this is done here too, for all of them, so they need not persist.
_TRIES = 2
_RETRY_S = 10.0
_TIMEOUT_S = 30.0
_ARROW_WITH_DELAYED_OPEN = 21  # the first that writes what is small in one request instead of three

# What decides where and as whom the libraries connect: after a change, connections are made anew.
_VARIABLES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_PROFILE",
    "AWS_REGION",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "HF_TOKEN",
)
# Connections are no use in another process: those of this one, by what they were made with.
_opened: dict[tuple[object, ...], Storage] = {}
_lock = threading.Lock()


def storage_of(where: Location) -> Storage:
    """Return the storage that a URL is in; of each there is one in a process.

    Raises
    ------
    OptionError
        Nothing here knows its scheme.
    MissingExtraError
        The library that does is not installed.
    """
    bucket = where.path.partition("/")[0] if where.scheme in ("s3", *_BY_URI) else ""
    key = (os.getpid(), where.scheme, bucket, where.options, *map(os.environ.get, _VARIABLES))
    with _lock:
        if key not in _opened:
            _opened[key] = _open(where, bucket)
        return _opened[key]


def _open(where: Location, bucket: str) -> Storage:
    if where.scheme in HTTP_SCHEMES:
        from audioset.storage.http import HttpStorage

        return HttpStorage(where.scheme)
    from audioset.storage.arrow import ArrowStorage

    if where.scheme in _BY_URI:
        from pyarrow.fs import FileSystem

        filesystem, root = FileSystem.from_uri(f"{where.scheme}://{bucket}/")
        return ArrowStorage(filesystem, bucket, root.rstrip("/"))
    make = _MAKERS.get(where.scheme, _by_fsspec)
    return ArrowStorage(make(where, bucket, dict(where.options)))


def _s3(where: Location, bucket: str, options: Mapping[str, str]) -> Any:
    from pyarrow import fs

    endpoint = (
        options.get("endpoint_override") or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    )
    region = options.get("region") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if not (endpoint or region):
        try:
            region = fs.resolve_s3_region(bucket)
        except OSError:  # whoever asks for an object next says why
            region = None
    return fs.S3FileSystem(
        anonymous=_is_set(options.get("anonymous")),
        region=region,
        endpoint_override=endpoint,
        scheme=options.get("scheme"),
        request_timeout=_TIMEOUT_S,
        connect_timeout=_TIMEOUT_S,
        **({"allow_delayed_open": True} if _arrow_version() >= _ARROW_WITH_DELAYED_OPEN else {}),
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_TRIES),
    )


def _gs(where: Location, bucket: str, options: Mapping[str, str]) -> Any:
    from datetime import timedelta

    from pyarrow import fs

    return fs.GcsFileSystem(
        anonymous=_is_set(options.get("anonymous")),
        endpoint_override=options.get("endpoint_override"),
        scheme=options.get("scheme"),
        retry_time_limit=timedelta(seconds=_RETRY_S),
    )


def _local(where: Location, bucket: str, options: Mapping[str, str]) -> Any:
    from pyarrow import fs

    return fs.LocalFileSystem()


def _hf(where: Location, bucket: str, options: Mapping[str, str]) -> Any:
    check_installed("hf://", "huggingface_hub")
    from huggingface_hub import HfFileSystem

    return _wrapped(HfFileSystem())


def _by_fsspec(where: Location, bucket: str, options: Mapping[str, str]) -> Any:
    check_installed(f"{where.scheme}://", "fsspec")
    import fsspec

    try:
        return _wrapped(fsspec.filesystem(where.scheme))
    except ImportError as error:
        raise OptionError(f"{where.scheme}://: {error}") from error
    except ValueError as error:
        raise OptionError(
            f"{where.scheme}://: nothing here knows this kind of storage ({error}); expected "
            f"{', '.join(f'{scheme}://' for scheme in (*HTTP_SCHEMES, *_MAKERS, *_BY_URI))}, or one that fsspec knows"
        ) from error


def _wrapped(filesystem: Any) -> Any:
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    return PyFileSystem(FSSpecHandler(filesystem))


def _arrow_version() -> int:
    import pyarrow

    return int(pyarrow.__version__.partition(".")[0])


def _is_set(value: str | None) -> bool:
    return (value or "").lower() in ("1", "true", "yes")


_Maker = Callable[[Location, str, Mapping[str, str]], Any]

# Arrow knows from the URL what they are; the paths within are not those of the URL.
_BY_URI = ("abfs", "abfss", "hdfs", "viewfs")
_MAKERS: dict[str, _Maker] = {
    "s3": _s3,
    "gs": _gs,
    "gcs": _gs,
    "hf": _hf,
    FILE_SCHEME: _local,
}

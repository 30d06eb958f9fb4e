"""Others' formats into safetensors, once: what was converted is kept in the cache under the hash of its source."""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from audioset import models
from audioset._files import unwritable, written_whole
from audioset.errors import OutputError, WeightsError, WeightsFormatError
from audioset.weights import content, readers, safetensors_file, untrained
from audioset.weights.content import Weights
from audioset.weights.files import cache_dir, is_file, locate, sha256_of
from audioset.weights.readers import SAFETENSORS, Source


def convert(
    source: str | os.PathLike[str], out: str | os.PathLike[str], *, model: str = "vggish", overwrite: bool = False
) -> Weights:
    """Write weights of any format that can be read to a safetensors file, and return them as read back from it.

    The source may also be "untrained:SEED". The file holds the model's tensors in float32; its metadata holds their
    hash, the source's name and hash, and the licence and citation if the source is in the catalogue.

    Raises
    ------
    WeightsError
        If the source cannot be read, is damaged, or does not fit the model.
    OutputError
        If `out` is the source, exists (and `overwrite` is not set) or cannot be written.
    """
    path = Path(out)
    content.check_output(path, overwrite=overwrite)
    if isinstance(source, str) and source.startswith(f"{untrained.PREFIX}:"):
        weights = open_untrained(model, source)
    else:
        found = readers.find(locate(source)[0])
        if path.exists() and any(path.samefile(file) for file in found.files):
            raise OutputError(
                f"{path}: is the source itself; expected another file to write to. Choose another name for the output."
            )
        weights = _read(model, found, sha256_of(found.files))
    content.save(weights, path, overwrite=overwrite)
    return _opened(model, path, path.name)


def open_untrained(model: str, given: str) -> Weights:
    """Return random weights, the same for the same "untrained:SEED"."""
    seed = untrained.seed_of(given)
    name = f"{untrained.PREFIX}:{seed}"
    tensors = untrained.draw(models.get(model).tensor_shapes, seed)
    return content.from_tensors(model, name, tensors, {"source": name, "source_format": untrained.PREFIX})


def open_path(model: str, given: str | os.PathLike[str]) -> Weights:
    """Return the weights in a file of any format, converted into the cache unless they can be used where they are."""
    path, name = locate(given)
    source = readers.find(path)
    if source.reader is SAFETENSORS:
        usable = content.open_safetensors(model, source.path, name)
        if usable is not None:
            return usable
    return open_converted(model, source, _remembered_sha256(source), name)


def open_own(path: str) -> Weights:
    """Return the weights of a model of one's own, mapped from its file."""
    return _opened(path, *locate(path))


def open_built_in(model: str, path: Path) -> Weights:
    """Return the weights that ship with the package, small enough to be read into memory as float32."""
    weights = _read(model, Source(path, SAFETENSORS), sha256_of((path,)))
    about = safetensors_file.read(path)[1]
    return replace(weights, name=model, provenance=MappingProxyType({**about, **weights.provenance}))


def open_converted(model: str, source: Source, source_sha256: str, name: str) -> Weights:
    """Return a source's weights from the cache, after converting them into it if they are not there or damaged."""
    target = converted_path(model, source_sha256)
    ready = open_ready(model, source_sha256, name)
    if ready is not None:
        return ready
    import filelock

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(f"{target}.lock"):
            ready = open_ready(model, source_sha256, name)  # another process may have been first
            if ready is None:
                content.save(_read(model, source, source_sha256), target, overwrite=True)
                ready = _opened(model, target, name)
            return ready
    except OutputError:
        raise
    except OSError as error:
        raise unwritable(target, error) from error


def open_ready(model: str, source_sha256: str, name: str) -> Weights | None:
    """Return weights converted earlier from a source of this hash, or None where there are none that are whole."""
    target = converted_path(model, source_sha256)
    if not is_file(target):
        return None
    try:
        return content.open_safetensors(model, target, name)
    except WeightsError:  # damaged, or of the model as it was in another version
        return None


def converted_path(model: str, source_sha256: str) -> Path:
    """Return where the cache keeps what was converted from a source of this hash."""
    return cache_dir() / "converted" / f"{model}-{source_sha256}.safetensors"


def _read(model: str, source: Source, source_sha256: str) -> Weights:
    tensors = content.canonical(model, source)
    return content.from_tensors(model, source.path.name, tensors, content.provenance(source, source_sha256))


def _opened(model: str, path: Path, name: str) -> Weights:
    weights = content.open_safetensors(model, path, name)
    if weights is None:
        raise WeightsFormatError(
            f"{path}: not the tensors of {model} in float32, as they were written. Write it again."
        )
    return weights


def _remembered_sha256(source: Source) -> str:
    """Return the hash of the source's bytes, hashed once as long as its files stay as they are.

    What the system says of the files (device, inode, size, times) names a note in the cache that has the hash.
    """
    known = hashlib.sha256()
    for path in source.files:
        about = path.stat()
        known.update(
            f"{path.absolute()}|{about.st_dev}|{about.st_ino}|{about.st_size}|{about.st_mtime_ns}|{about.st_ctime_ns}\n".encode()
        )
    note = cache_dir() / "converted" / f"{known.hexdigest()}.sha256"
    try:
        return note.read_text(encoding="ascii")
    except OSError:  # not hashed yet
        pass
    sha256 = sha256_of(source.files)
    # A shared cache may be for reading only; if the conversion is not in it either, writing that will say so.
    with contextlib.suppress(OutputError), written_whole(note) as temporary:
        temporary.write_text(sha256, encoding="ascii")
    return sha256

"""Networks in 8 bits in the cache, each made once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from audioset import features, graph
from audioset._files import unwritable
from audioset._runtime.onnx_runtime import saturates
from audioset.errors import OptionError, WeightsFormatError
from audioset.features import Float32Array
from audioset.graph import Scale
from audioset.int8.making import Progress, calibrate, quantize, sha256_of
from audioset.int8.sounds import calibration_sounds
from audioset.int8.tensors import Int8Weights
from audioset.models.spec import ModelSpec
from audioset.weights import Weights, cache_dir, safetensors_file
from audioset.weights.files import is_file

# In the name of the file, so that another version of the package makes its own.
_LAYOUT: Final = 1
_SYNTHESIZED: Final = "sounds that the package synthesizes"
_WORDS = ("content_sha256", "calibration", "scales", "weights_sha256")


def find(spec: ModelSpec, weights: Weights) -> Int8Weights | None:
    """Return the network in 8 bits from the cache, or None where it has not been made.

    Raises
    ------
    WeightsFormatError
        The file is damaged.
    """
    path = _path(spec, weights)
    return _read(spec, weights, path) if is_file(path) else None


def load(spec: ModelSpec, weights: Weights, *, progress: Progress | None = None) -> Int8Weights:
    """Return the network in 8 bits: from the cache, or else made, calibrated on synthesized sounds, and kept there.

    Raises
    ------
    WeightsFormatError
        The file in the cache is damaged.
    OutputError
        The cache cannot be written.
    """
    ready = find(spec, weights)
    if ready is not None:
        return ready
    with _locked(_path(spec, weights)):
        # Another process may have been first.
        return find(spec, weights) or _make(spec, weights, synthesized_examples(spec), _SYNTHESIZED, progress)


def save(
    spec: ModelSpec,
    weights: Weights,
    examples: Iterable[Float32Array],
    *,
    calibration: str,
    progress: Progress | None = None,
) -> Int8Weights:
    """Make the network in 8 bits, put it into the cache in place of what is there, and return it.

    Parameters
    ----------
    spec : ModelSpec
        The network.
    weights : Weights
        Its weights in float32.
    examples : iterable of ndarray of float32, shape (n, 96, 64)
        Of the sounds to calibrate on.
    calibration : str
        What they are, in words; how many and their hash are added.
    progress : callable, optional
        Called with the number of examples that have been measured.

    Raises
    ------
    OptionError
        There is no example.
    OutputError
        The cache cannot be written.
    """
    with _locked(_path(spec, weights)):
        return _make(spec, weights, examples, calibration, progress)


def save_synthesized(spec: ModelSpec, weights: Weights, *, progress: Progress | None = None) -> Int8Weights:
    """Make the network in 8 bits on the package's own sounds, in place of what is in the cache; see `save`."""
    return save(spec, weights, synthesized_examples(spec), calibration=_SYNTHESIZED, progress=progress)


def _make(
    spec: ModelSpec, weights: Weights, examples: Iterable[Float32Array], calibration: str, progress: Progress | None
) -> Int8Weights:
    seen = _Seen(examples)
    scales = calibrate(spec, weights, seen, progress=progress)
    if not scales:
        raise OptionError(f"calibration of {spec.name}: no example of sound; expected some seconds of varied sound")
    calibration = f"{calibration}: {seen.count:,} {'example' if seen.count == 1 else 'examples'}, sha256 {seen.sha256}"
    made = quantize(spec, weights, scales, calibration=calibration, bits=_bits())
    path = _path(spec, weights)
    metadata = {
        "model": spec.name,
        "content_sha256": made.sha256,
        "weights_sha256": weights.sha256,
        "calibration": calibration,
        "scales": json.dumps({index: [scale.scale, scale.zero_point] for index, scale in made.scales.items()}),
    }
    safetensors_file.write(path, made.tensors, metadata)
    return _read(spec, weights, path)


def verify(path: Path) -> None:
    """Hash a network in 8 bits in the cache again.

    Raises
    ------
    WeightsFormatError
        Its content is not what the file says.
    """
    tensors, scales, metadata = _parts(path)
    got, stated = sha256_of(tensors, scales), metadata["content_sha256"]
    if got != stated:
        raise _unusable(path, f"content of sha256 {got} in place of {stated}")


def synthesized_examples(spec: ModelSpec) -> Iterable[Float32Array]:
    """Yield the examples of the package's own calibration sounds, as the model's front end makes them."""
    for _, waveform in calibration_sounds():
        yield from features.stream_examples([waveform], hop_s=features.EXAMPLE_S, log_offset=spec.log_offset)


class _Seen:
    """Passes examples on and tells them from others: two calibrations on the same kind of sound are not one."""

    def __init__(self, examples: Iterable[Float32Array]) -> None:
        self._examples = examples
        self._hash = hashlib.sha256()
        self.count = 0

    def __iter__(self) -> Iterator[Float32Array]:
        for block in self._examples:
            self.count += len(block)
            self._hash.update(np.ascontiguousarray(block, "<f4").tobytes())
            yield block

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other processes from making the same file, so that none puts back what another has just replaced."""
    import filelock

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(f"{path}.lock")
        lock.acquire()
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        yield
    finally:
        lock.release()


def _bits() -> int:
    return 7 if saturates() else 8


def _path(spec: ModelSpec, weights: Weights) -> Path:
    """Where the cache keeps what was made of these weights; the layers decide too, such as ReLU6 for ReLU."""
    of_layers = hashlib.sha256(repr((spec.layers, spec.float_layers)).encode()).hexdigest()[:12]
    name = f"{weights.sha256}-{of_layers}-{_bits()}bit-v{_LAYOUT}.safetensors"
    return cache_dir() / "int8" / name


def _read(spec: ModelSpec, weights: Weights, path: Path) -> Int8Weights:
    tensors, scales, metadata = _parts(path)
    expected = _shapes(spec)
    found = {name: (values.dtype.name, values.shape) for name, values in tensors.items()}
    if found != expected or metadata["weights_sha256"] != weights.sha256 or sorted(scales) != graph.int8_readers(spec):
        raise _unusable(path, "tensors of another network")
    return Int8Weights(tensors, scales, metadata["content_sha256"], metadata["calibration"], path)


def _parts(path: Path) -> tuple[dict[str, npt.NDArray[Any]], dict[int, Scale], dict[str, str]]:
    """Tensors, scales, and metadata that has all of `_WORDS`."""
    try:
        tensors, metadata = safetensors_file.read(path)
    except WeightsFormatError as error:
        raise _unusable(path, "damaged") from error
    try:
        metadata = {word: metadata[word] for word in _WORDS}
        scales = {int(index): Scale(float(s), int(zero)) for index, (s, zero) in json.loads(metadata["scales"]).items()}
    except (AttributeError, KeyError, ValueError, TypeError) as error:
        raise _unusable(path, f"metadata that cannot be used ({error!r})") from error
    return tensors, scales, metadata


def _shapes(spec: ModelSpec) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of each tensor."""
    shapes = {name: ("float32", shape) for name, shape in graph.onnx_shapes(spec).items()}
    for layer in graph.int8_weighted(spec).values():
        for side, kind in (("weights", "int8"), ("biases", "int32")):
            name = f"{layer.name}/{side}"
            shapes[name] = (kind, shapes[name][1])
            shapes[f"{name}_scale"] = ("float32", spec.tensor_shapes[f"{layer.name}/biases"])
    return shapes


def _unusable(path: Path, found: str) -> WeightsFormatError:
    return WeightsFormatError(
        f"{path}: {found}; expected a network in 8 bits, as it was written. Make it again with "
        "`audioset quantize`, or delete it: it is then made when needed"
    )

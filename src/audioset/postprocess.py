"""Embeddings to the form that AudioSet and YouTube-8M release, and back: PCA, whitening, 8 bits.

Released bytes are `uint8((clip(P · (e − m), −2, 2) + 2) · 255 / 4)`, truncating; about 8% of values are clipped at
each end, and no way back restores those.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from audioset.errors import OptionError, WeightsError

QUANTIZE_MIN = -2.0
QUANTIZE_MAX = 2.0
_LEVELS = 255
_STEP = (QUANTIZE_MAX - QUANTIZE_MIN) / _LEVELS

FloatArray = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Pca:
    """PCA with whitening, as published with VGGish.

    Attributes
    ----------
    eigen_vectors : ndarray of float, shape (d, d)
        Row `i` gives component `i`, scaled to unit variance.
    means : ndarray of float, shape (d,)
        Subtracted from the embedding first.
    """

    eigen_vectors: FloatArray
    means: FloatArray

    def __post_init__(self) -> None:
        dim = self.means.size
        if self.means.shape != (dim,) or self.eigen_vectors.shape != (dim, dim):
            raise WeightsError(
                f"PCA parameters: eigen_vectors {self.eigen_vectors.shape} and means {self.means.shape}; "
                "expected (d, d) and (d,)"
            )

    @property
    def sha256(self) -> str:
        """SHA-256 of the parameters' bytes."""
        return hashlib.sha256(self.eigen_vectors.tobytes() + self.means.tobytes()).hexdigest()

    def apply(self, embeddings: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Return the components, float32 (k, d), of raw embeddings (k, d); not clipped."""
        raw = _rows(embeddings, self.means.size)
        # In float64, as published: a float32 product would depend on how many rows there are.
        return np.asarray(
            (self.eigen_vectors.astype(np.float64) @ (raw.T - self.means[:, np.newaxis])).T, dtype=np.float32
        )

    def invert(self, components: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Return raw embeddings, float32 (k, d), of components (k, d): `invert(apply(e))` is `e` up to rounding."""
        rows = _rows(components, self.means.size).astype(np.float64)
        raw = np.linalg.solve(self.eigen_vectors.astype(np.float64), rows.T).T + self.means
        return np.asarray(raw, dtype=np.float32)


def quantize(components: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    """Return the released bytes of PCA components: clipped to [−2, 2], scaled to 0…255, truncated."""
    values = np.clip(np.asarray(components), QUANTIZE_MIN, QUANTIZE_MAX)
    if not np.isfinite(values).all():
        raise OptionError("components: NaN among them; expected finite values")
    scaled = (values - QUANTIZE_MIN) * (_LEVELS / (QUANTIZE_MAX - QUANTIZE_MIN))
    return np.asarray(scaled, dtype=np.uint8)


def dequantize(released: npt.NDArray[np.uint8], *, half_bin: bool = False) -> npt.NDArray[np.float32]:
    """Return PCA components of released bytes.

    Parameters
    ----------
    released : ndarray of uint8
        Bytes 0…255.
    half_bin : bool
        False: `q · 4/255 − 2`, the plain inverse, the lower edge of what the byte stands for. True: `4/512` more, as
        YouTube-8M's reader has it; about the middle, so that quantizing again gives the same bytes.

    Returns
    -------
    ndarray of float32, same shape
        In [−2, 2], or up to 2 + 1/128 with `half_bin`.
    """
    array = np.asarray(released)
    if array.dtype != np.uint8:
        raise OptionError(
            f"released: dtype {array.dtype}; expected uint8. Bytes read as signed are `array.view(numpy.uint8)`"
        )
    offset = (QUANTIZE_MAX - QUANTIZE_MIN) / 512 if half_bin else 0.0
    return (array * _STEP + (QUANTIZE_MIN + offset)).astype(np.float32)


def _rows(values: npt.ArrayLike, dim: int) -> FloatArray:
    rows = np.asarray(values)
    if rows.ndim != 2 or rows.shape[1] != dim or rows.dtype.kind != "f":
        raise OptionError(f"embeddings: {rows.dtype} of shape {rows.shape}; expected float of shape (k, {dim})")
    return rows

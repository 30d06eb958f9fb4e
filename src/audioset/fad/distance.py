"""The Fréchet distance of two Gaussians, without complex numbers, and what makes it comparable."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from audioset.errors import OptionError, RecordError
from audioset.fad.statistics import Float64Array, Statistics
from audioset.records.info import JobInfo

ENOUGH_PER_DIM = 10
EXTRAPOLATED_PER_DIM = 4  # the fewest that `fad_infinity` takes
# As shares of the largest eigenvalue: what rounding to float64 makes of zero, and more than rounding to float32 does.
_ROUNDING = 1e-12
_DAMAGE = 1e-6

_EMBEDDER = (
    "model",
    "weights_sha256",
    "embedding_dim",
    "regime",
    "dtype",
    "hop_s",
    "pad",
    "pool",
    "pca_sha256",
    "precision",
    "int8_sha256",
)
_BESIDE_FLOAT32 = ("engine", "device")


class SmallSampleWarning(UserWarning):
    """Statistics are of so few examples that a distance from them comes out too large."""


@dataclass(frozen=True, eq=False)
class Gaussian:
    """A Gaussian in the form that distances need.

    Attributes
    ----------
    mean : ndarray of float64, shape (dim,)
        Its mean.
    root : ndarray of float64, shape (dim, rank)
        `root @ root.T` is its covariance.
    trace : float
        Of the covariance.
    """

    mean: Float64Array
    root: Float64Array
    trace: float

    @classmethod
    def of(cls, statistics: Statistics) -> Gaussian:
        """Return that of statistics.

        Raises
        ------
        RecordError
            Their covariance is none: an eigenvalue is below zero by more than a millionth of the largest.

        Warns
        -----
        UserWarning
            An eigenvalue is below zero by more than float64 explains, as of statistics that were computed in float32.
            It counts as zero.
        """
        mean = np.asarray(statistics.mean, np.float64)
        covariance = np.asarray(statistics.covariance, np.float64)
        covariance = (covariance + covariance.T) / 2
        values, vectors = np.linalg.eigh(covariance)
        lowest, highest = float(values[0]), float(np.abs(values).max())
        found = f"{statistics.source}: its covariance has an eigenvalue of {lowest:.3g}, the largest is {highest:.3g}"
        if lowest < -_DAMAGE * highest:
            raise RecordError(
                f"{found}; expected none below zero. It is damaged or no covariance: measure the embeddings again"
            )
        if lowest < -_ROUNDING * highest:
            warnings.warn(f"{found}: arithmetic in float32 leaves as much; taken as zero", stacklevel=3)
        # What is left of directions without variance is rounding, and its root would not be small.
        kept = values > len(values) * np.finfo(np.float64).eps * highest
        return cls(mean, vectors[:, kept] * np.sqrt(values[kept]), float(np.trace(covariance)))

    @classmethod
    def of_rows(cls, rows: npt.NDArray[np.generic]) -> Gaussian:
        """Return that of two or more rows, (n, dim), without their covariance: fast where n is below dim."""
        mean = rows.mean(axis=0, dtype=np.float64)
        root = (rows - mean).T / np.sqrt(len(rows) - 1)
        return cls(mean, root, float(np.square(root).sum()))

    def distance(self, other: Gaussian) -> float:
        """Return the squared Fréchet distance, 0 or more.

        The trace of √(√Σ₁ Σ₂ √Σ₁) is the sum of the singular values of √Σ₁√Σ₂, for any roots. Taken so, it loses no
        digits to square roots of rounding errors; a sum that comes out below zero, by some 1e-14 of the traces, is 0.
        """
        gap = self.mean - other.mean
        overlap = np.linalg.svd(self.root.T @ other.root, compute_uv=False).sum()
        return max(0.0, float(gap @ gap + (self.trace + other.trace - 2 * overlap)))


def frechet_distance(reference: Statistics, evaluated: Statistics) -> float:
    """Return the Fréchet Audio Distance: ‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2√(Σ₁Σ₂)), 0 or more.

    The order does not matter to the value. It is biased: of few examples it comes out too large; see `fad_infinity`.
    Source: Kilgour et al. (2019), "Fréchet Audio Distance: A Reference-free Metric for Evaluating Music Enhancement
    Algorithms"; Dowson and Landau (1982).

    Parameters
    ----------
    reference, evaluated : Statistics
        Of embeddings that one embedder made.

    Raises
    ------
    OptionError
        They are of different embedders or dimensions.
    RecordError
        A covariance is damaged.

    Warns
    -----
    SmallSampleWarning
        One is of fewer than ten examples a dimension.
    """
    check_comparable(reference, evaluated)
    for statistics in (reference, evaluated):
        if said := small_sample(statistics):
            warnings.warn(said, SmallSampleWarning, stacklevel=2)
    return Gaussian.of(reference).distance(Gaussian.of(evaluated))


def small_sample(statistics: Statistics) -> str | None:
    """Return what to say of statistics of too few examples, None where there are enough or nobody knows."""
    count, dim = statistics.count, statistics.dim
    if count is None or count >= ENOUGH_PER_DIM * dim:
        return None
    rank = f", fewer than its {dim} dimensions need for a covariance of full rank" if count <= dim else ""
    hint = ", or --infinity (fad_infinity) for what is evaluated" if count >= EXTRAPOLATED_PER_DIM * dim else ""
    return (
        f"{statistics.source}: {count:,} examples{rank}; the distance comes out too large. "
        f"Expected {ENOUGH_PER_DIM * dim:,} or more: use more audio{hint}"
    )


def check_comparable(reference: Statistics, evaluated: Statistics) -> None:
    """Raise OptionError for statistics that no distance relates; what is unknown of one is taken to be as the other."""
    check_dims(reference.dim, evaluated.dim, reference.source, evaluated.source)
    check_embedders(reference.info, evaluated.info, reference.source, evaluated.source)


def check_dims(reference: int, evaluated: int, *names: str) -> None:
    """Raise OptionError where embeddings have different dimensions; `names` are those of the two."""
    if reference != evaluated:
        raise OptionError(
            f"{names[1]}: {evaluated} dimensions, {names[0]} has {reference}; expected embeddings of one model"
        )


def check_embedders(reference: JobInfo | None, evaluated: JobInfo | None, *names: str) -> None:
    """Raise OptionError where it is known that two embedders differ; `names` are what they embedded."""
    if reference is None or evaluated is None:
        return
    float32 = reference.precision == evaluated.precision == "fp32"
    fields = _EMBEDDER if float32 else (*_EMBEDDER, *_BESIDE_FLOAT32)
    pairs = [(name, *(_value(info, name) for info in (reference, evaluated))) for name in fields]
    different = [f"{name} {one} and {other}" for name, one, other in pairs if one != other]
    if different:
        raise OptionError(
            f"{' and '.join(names)}: of different embedders ({'; '.join(different)}); expected one for both, without "
            "which the distance means nothing. Embed one of them again"
        )


def describe(info: JobInfo) -> str:
    """Return an embedder in a line."""
    regimes = {"raw": "raw values", "pca": "PCA components", "uint8": "8-bit values as released (0 to 255)"}
    pooled = "" if info.pool == "none" else f", {info.pool} of each file"
    return (
        f"{info.model} (weights {info.weights_name}, sha256 {info.weights_sha256[:12]}), {regimes[info.regime]}, "
        f"hop {info.hop_s:g} s, {info.precision}{pooled}"
    )


def _value(info: JobInfo, name: str) -> object:
    value = getattr(info, name)
    if name == "device":
        return value.partition(":")[0]
    return value[:12] if name.endswith("sha256") and value is not None else value

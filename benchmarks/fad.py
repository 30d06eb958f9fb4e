"""What few examples do to the Fréchet Audio Distance, and what extrapolation takes of it away.

    python benchmarks/fad.py

Prints the tables of docs/how-to/fad.md, of Gaussians of 128 dimensions with variances 1/i: their distance is known.
"""

from __future__ import annotations

import warnings

import numpy as np

from audioset.fad import Statistics, fad_infinity, frechet_distance, statistics_of

DIM = 128
REPEATS = 6


def main() -> None:
    warnings.simplefilter("ignore")  # of few examples, which are the point
    rng = np.random.default_rng(0)
    deviations = np.arange(1, DIM + 1) ** -0.5
    mixing = np.linalg.qr(rng.standard_normal((DIM, DIM)))[0] * deviations
    shift = 0.3 * rng.standard_normal(DIM) * deviations
    reference = Statistics(np.zeros(DIM), mixing @ mixing.T)
    trace = float(np.trace(reference.covariance))

    def drawn(count: int) -> np.ndarray:
        return np.asarray(rng.standard_normal((count, DIM)) @ mixing.T)

    print(f"sum of variances {trace:.3f}; the same distribution, true distance 0")
    for per_dim in (0.5, 1, 2, 5, 10, 20, 50, 100):
        count = int(per_dim * DIM)
        found = np.mean([frechet_distance(reference, statistics_of(drawn(count))) for _ in range(REPEATS)])
        print(f"{per_dim:5g} a dimension  {count:6,} examples  {found:.4f}  {found / trace:.2%} of the variances")
    truth = float(shift @ shift)
    print(f"shifted, true distance {truth:.4f}: plain, extrapolated, extrapolated with replacement")
    for count in (1_000, 3_000):
        rows = [drawn(count) + shift for _ in range(REPEATS)]
        columns = [
            [frechet_distance(reference, statistics_of(some)) for some in rows],
            [fad_infinity(reference, some).value for some in rows],
            [fad_infinity(reference, some, replacement=True).value for some in rows],
        ]
        print(f"{count:6,} examples ", *(f"{np.mean(column):.4f} ± {np.std(column):.4f}" for column in columns))


if __name__ == "__main__":
    main()

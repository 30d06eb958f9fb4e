from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def scored(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """400 clips, 12 classes, one without a positive and one with nothing else; scores of 1/16, so many are equal."""
    targets = rng.random((400, 12)) < np.linspace(0.5, 0.02, 12)
    targets[:, 3], targets[:, 7] = False, True
    scores = np.round((rng.standard_normal((400, 12)) + 1.5 * targets) * 16) / 16
    return scores.astype(np.float32), targets

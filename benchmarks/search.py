"""The search on simulated spaces, and replayed on a store of a dense one.

python benchmarks/search.py [--sizes 1000 3000] [--seeds 30] [--scales 1 2 3]: spaces of
which the truth is known: estimate x errors with the structure that measured rows show.
Success: the chosen one is within 3 % of the best.
"""

from __future__ import annotations

import numpy as np

from fastlab.search.beliefs import Beliefs


def space(n: int, scale: float, seed: int, reach: float = 1.1):
    """Beliefs of n candidates, and their true seconds."""
    rng = np.random.default_rng(seed)
    layers = rng.choice([2, 3, 4, 6, 8, 12, 16, 24], n)
    hidden = rng.choice([128, 192, 256, 384, 512, 768, 1024], n)
    batch, length = rng.choice([1, 1, 4], n), rng.choice([64, 256, 1024], n)
    kind, way = rng.integers(0, 6, n), rng.integers(0, 4, n)
    launches = layers * (12 + 8 * (way == 0))
    work = layers * hidden**2.0 * np.array([1, 0.5, 0.6, 0.4, 0.8, 0.7])[kind]
    guess = np.log(2e-9 * work * (1 + batch / 8) + 4e-6 * launches + 2e-8 * length)
    places = np.log(np.stack([layers, hidden, batch, length, launches], axis=1))
    beliefs = Beliefs(guess, kind, way, np.arange(n), places)
    everyone = np.arange(n)
    spread = beliefs.covariance(everyone, everyone) + 1e-9 * np.eye(n)
    errors = np.linalg.cholesky(spread) @ rng.standard_normal(n)
    return beliefs, np.exp(guess + scale * errors)

"""Small tables of outcomes with a known truth."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest


def simulated(accuracies: Mapping[str, float], seeds: int = 4, items: int = 400, flips: float = 0.1) -> pd.DataFrame:
    """Return a row for each run and item: variants fail on the hardest items, and a seed flips some of them."""
    rng = np.random.default_rng(0)
    difficulty = np.arange(items) / items
    rows = [
        {"variant": name, "seed": seed, "item": f"i{item}", "correct": bool(right)}
        for name, accuracy in accuracies.items()
        for seed in range(1, seeds + 1)
        for item, right in enumerate((difficulty < accuracy) ^ (rng.random(items) < flips))
    ]
    return pd.DataFrame(rows)


@pytest.fixture
def three() -> pd.DataFrame:
    """A is ahead of B and C, which are equal."""
    return simulated({"A": 0.95, "B": 0.7, "C": 0.7})

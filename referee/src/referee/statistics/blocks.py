"""Runs in blocks: kinds of machines, of software versions, of sites, each of which may move the scores of its runs.

    m_vs = μ_v + β_b(v,s) + noise              of the run of variant v with seed s, which ran in block b

The β_b are estimated by least squares and taken off (`Blocks.taken_off`), so that a comparison is one within blocks.
Each but the first costs a degree of freedom: of ν = Σ_v (S_v − 1) there are ν − λ left, λ = rank(μ, β) − K, and the
variance of what remains is ν/(ν − λ) times as large. The variance of a difference of two means, σ² (1/S_a + 1/S_b)
without blocks, is σ² cᵀ(XᵀX)⁺c with them (X: the columns of μ and β; c: 1 at a, −1 at b): the same where all variants
of each seed ran in one block, larger where blocks and variants are mixed. Two variants whose seeds are each a block of
their own are compared as paired ones are.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np


class Blocks(NamedTuple):
    """What blocks do to a comparison of K variants."""

    shifts: list[np.ndarray]  # of each variant: what its block adds to a run's score, (S,)
    left: float  # share of the degrees of freedom that is left, (ν − λ)/ν
    dearer: np.ndarray  # (K, K): by how much the variance of a difference grows by mixing; inf: not comparable

    def taken_off(self, outcomes: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return outcomes, each (S, N), without their blocks' effects."""
        return [y - shift[:, None] for y, shift in zip(outcomes, self.shifts, strict=True)]


def estimated(scores: Sequence[np.ndarray], blocks: Sequence[np.ndarray]) -> Blocks:
    """Estimate the effect of each block from the scores of each variant, (S,), and the block of each run, (S,)."""
    counts = np.array([len(each) for each in scores])
    K, (names, codes) = len(scores), np.unique(np.concatenate(blocks), return_inverse=True)
    X = np.zeros((len(codes), K + len(names)))
    X[np.arange(len(codes)), np.repeat(np.arange(K), counts)] = 1
    X[np.arange(len(codes)), K + codes] = 1
    information = np.linalg.pinv(X.T @ X)
    effects = (information @ X.T @ np.concatenate(scores))[K:]
    shifts = np.split((effects - effects[codes].mean())[codes], counts.cumsum()[:-1])
    freedom, lost = counts.sum() - K, np.linalg.matrix_rank(X) - K
    if lost == freedom:
        return Blocks(shifts, 1.0, np.full((K, K), np.inf))
    dearer = np.ones((K, K))
    for a, b in combinations(range(K), 2):
        contrast = np.zeros(len(information))
        contrast[[a, b]] = 1, -1
        seen = np.allclose(information @ (X.T @ X) @ contrast, contrast)  # in the span of the runs
        variance = contrast @ information @ contrast
        dearer[a, b] = dearer[b, a] = variance / (1 / counts[[a, b]]).sum() if seen else np.inf
    return Blocks(shifts, float(freedom - lost) / float(freedom), dearer)


def not_compared(blocks: Mapping[str, Mapping[Any, str]], test: str) -> tuple[str, str] | None:
    """Return the first two variants that differ in their blocks as well, so that nothing tells which of both it was.

    Tests other than the pooled one take no effects off, so they need the same blocks, here by variant and seed.
    """
    for a, b in combinations([name for name, of_seeds in blocks.items() if of_seeds], 2):
        first, second = blocks[a], blocks[b]
        if test == "pooled":
            unlike = not set(first.values()) & set(second.values())
        elif test == "paired":
            unlike = any(first[seed] != second[seed] for seed in first.keys() & second.keys())
        else:
            unlike = sorted(first.values()) != sorted(second.values())
        if unlike:
            return a, b
    return None

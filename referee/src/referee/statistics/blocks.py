"""Runs in blocks: kinds of machines, of software versions, of sites, each of which may move the scores of its runs.

    m_vs = μ_v + β_b(v,s) + noise              of the run of variant v with seed s, which ran in block b

The β_b are estimated by least squares and taken off (`Blocks.taken_off`), so that a comparison is one within blocks.
Each but the first costs a degree of freedom: of ν = Σ_v (S_v − 1) there are ν − λ left, λ = rank(μ, β) − K, and the
variance of what remains is ν/(ν − λ) times as large. The variance of a difference of two means, σ² (1/S_a + 1/S_b)
without blocks, is σ² cᵀ(XᵀX)⁺c with them (X: the columns of μ and β; c: 1 at a, −1 at b): the same where all variants
of each seed ran in one block, larger where blocks and variants are mixed. Two variants whose seeds are each a block of
their own are compared as paired ones are.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from scipy import special


class Blocks(NamedTuple):
    """What blocks do to contrasts of K variants."""

    shifts: list[np.ndarray]  # of each variant: what its block adds to a run's score, (S,)
    left: float  # share of the degrees of freedom that is left, (ν − λ)/ν
    counts: np.ndarray  # of runs, (K,)
    X: np.ndarray

    def taken_off(self, outcomes: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return outcomes, each (S, N), without their blocks' effects."""
        return [y - shift[:, None] for y, shift in zip(outcomes, self.shifts, strict=True)]

    def growth(self, weights: Mapping[int, float]) -> float:
        """Return by how much the variance of a contrast grows by mixing; inf: it cannot be estimated."""
        information, c = np.linalg.pinv(self.X.T @ self.X), np.zeros(self.X.shape[1])
        c[[*weights]] = [*weights.values()]
        in_span = np.allclose(information @ (self.X.T @ self.X) @ c, c)  # of the runs
        if not in_span or np.linalg.matrix_rank(self.X) == len(self.X):
            return math.inf
        return float(c @ information @ c) / float((c[: len(self.counts)] ** 2 / self.counts).sum())


def estimated(scores: Sequence[np.ndarray], blocks: Sequence[np.ndarray]) -> Blocks:
    """Estimate the effect of each block from the scores of each variant, (S,), and the block of each run, (S,)."""
    counts = np.array([len(each) for each in scores])
    K, (names, codes) = len(scores), np.unique(np.concatenate(blocks), return_inverse=True)
    X = np.zeros((len(codes), K + len(names)))
    X[np.arange(len(codes)), np.repeat(np.arange(K), counts)] = 1
    X[np.arange(len(codes)), K + codes] = 1
    effects = (np.linalg.pinv(X.T @ X) @ X.T @ np.concatenate(scores))[K:]
    shifts = np.split((effects - effects[codes].mean())[codes], counts.cumsum()[:-1])
    freedom, lost = counts.sum() - K, np.linalg.matrix_rank(X) - K
    return Blocks(shifts, 1.0 if lost == freedom else float(freedom - lost) / float(freedom), counts, X)


def interaction(scores: Sequence[np.ndarray], blocks: Sequence[np.ndarray]) -> float:
    """Return the p of an F test that blocks move all variants alike; nan without two runs of a variant in a block."""
    X, y = estimated(scores, blocks).X, np.concatenate(scores)
    _, cells = np.unique(X, axis=0, return_inverse=True)
    alike, cell = np.linalg.matrix_rank(X), np.eye(cells.max() + 1)[cells]
    left, apart = len(y) - cell.shape[1], cell.shape[1] - alike
    if not left or not apart:
        return math.nan
    additive, own = (y - M @ np.linalg.lstsq(M, y)[0] for M in (X, cell))
    within = float(own @ own) / left
    between = (float(additive @ additive) - float(own @ own)) / apart
    return float(special.fdtrc(apart, left, between / within)) if within else math.nan


def first_confounded(blocks: Mapping[str, Mapping[Any, str]], test: str) -> tuple[str, str] | None:
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

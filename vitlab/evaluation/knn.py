"""k-nearest-neighbor classification, which needs no training.

Q queries, N labeled examples (the bank), D numbers per example, C width of features.
"""

import torch
from torch import Tensor

MOST_NEIGHBORS = 50_000  # of the pixels that features are held against
MOST_SIMILARITIES = 2**28  # at a time: a gigabyte, also among ImageNet's images


def nearest(queries: Tensor, bank: Tensor, k: int, chunk: int = 2048) -> Tensor:
    """Return the indices of each query's k nearest examples by Euclidean distance, the nearest first.

    Args:
        queries: (Q, D).
        bank: (N, D), k <= N.
        chunk: queries at a time; bounds the memory to chunk · N distances.

    Returns:
        (Q, k) int64
    """
    # |q − b|² = |q|² − 2 q·b + |b|², and |q|² is the same for every b.
    square = bank.square().sum(dim=1)  # (N,)
    parts = (torch.addmm(square, part, bank.T, alpha=-2) for part in queries.split(chunk))
    return torch.cat([distances.topk(k, largest=False).indices for distances in parts])


def vote(neighbors: Tensor, num_classes: int) -> Tensor:
    """Return the most frequent label of each row's neighbors; of equally frequent ones, that of the nearest.

    Args:
        neighbors: labels (Q, k), the nearest first.

    Returns:
        (Q,) int64
    """
    k = neighbors.shape[1]
    # A vote counts 1 plus less than 1/k by rank: all extras together cannot overturn a majority.
    weight = 1 + (0.5 ** torch.arange(1, k + 1, dtype=torch.float64, device=neighbors.device)) / (2 * k)  # (k,)
    votes = torch.zeros(len(neighbors), num_classes, dtype=torch.float64, device=neighbors.device)
    return votes.scatter_add_(1, neighbors, weight.expand_as(neighbors)).argmax(dim=1)


def predict(queries: Tensor, bank: Tensor, labels: Tensor, k: int, num_classes: int) -> Tensor:
    """Classify each query by the labels (N,) of its k nearest examples. Returns (Q,) int64."""
    return vote(labels[nearest(queries, bank, k)], num_classes)


def choose_k(
    queries: Tensor, query_labels: Tensor, bank: Tensor, labels: Tensor, candidates: tuple[int, ...], num_classes: int
) -> int:
    """Return the k that classifies the queries best, the smallest of equally good ones.

    The queries must not be those on which the result is reported. Candidates larger than the bank are ignored.
    """
    possible = sorted(k for k in candidates if k <= len(bank))
    neighbors = labels[nearest(queries, bank, possible[-1])]  # one search serves all k
    right = [int((vote(neighbors[:, :k], num_classes) == query_labels).sum()) for k in possible]
    return possible[right.index(max(right))]


def predict_weighted(queries: Tensor, bank: Tensor, labels: Tensor, num_classes: int, k: int = 20) -> Tensor:
    """Return the class with the most `weighted_votes` for each query, (Q,) int64."""
    return weighted_votes(queries, bank, labels, num_classes, k).argmax(dim=1)


def weighted_votes(
    queries: Tensor, bank: Tensor, labels: Tensor, num_classes: int, k: int = 20, temperature: float = 0.07
) -> Tensor:
    """Classify features as DINO does: each of the k most similar examples votes with exp(cosine / temperature).

    The defaults are the released code's (`eval_knn.py`, where k = 20 is the best of 10, 20, 100, 200).

    Args:
        queries: (Q, C), of any length.
        bank: (N, C); k is at most N.
        labels: (N,) of the bank.

    Returns:
        votes (Q, num_classes)
    """
    bank = torch.nn.functional.normalize(bank, dim=1)
    k = min(k, len(bank))
    found = []
    rows = max(1, min(2048, MOST_SIMILARITIES // len(bank)))
    for part in torch.nn.functional.normalize(queries, dim=1).split(rows):
        similarity, nearest_k = (part @ bank.T).topk(k)  # (q, k)
        votes = torch.zeros(len(part), num_classes, device=part.device)
        found.append(votes.scatter_add_(1, labels[nearest_k], (similarity / temperature).exp()))
    return torch.cat(found)

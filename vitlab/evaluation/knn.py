"""k-nearest-neighbor classification, which needs no training.

Q queries, N labeled examples (the bank), C width of features.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vitlab.evaluation.features import extract_pixels

MOST_NEIGHBORS = 50_000  # of raw pixels
MOST_SIMILARITIES = 2**28  # at a time: a gigabyte, also among ImageNet's images


def classify_pixels(
    data: Any, bank: Sequence[str], split: str, device: torch.device | str = "cpu", most: int = MOST_NEIGHBORS
) -> tuple[Tensor, Tensor, int]:
    """Classify the images of a split by their raw pixels, at most 32 px a side, as k-NN classifies features.

    Args:
        data: A data module.
        bank: The splits whose images are the labeled examples; of larger data, every n-th of them, at most `most`.

    Returns:
        classes (Q,) int64, labels (Q,), and the number of examples N
    """
    every = -(-sum(len(data.labels(each)) for each in bank) // most)
    parts = [extract_pixels(data.batches(each, device, every)) for each in bank]
    examples, known = (torch.cat(each) for each in zip(*parts, strict=True))
    queries, labels = extract_pixels(data.batches(split, device))
    return predict_weighted(queries, examples, known, data.num_classes), labels, len(known)


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

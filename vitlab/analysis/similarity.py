"""How alike are the features of two models, block by block? Linear CKA (Kornblith et al. 2019), on batches.

    CKA(X, Y) = HSIC(X Xᵀ, Y Yᵀ) / √(HSIC(X Xᵀ, X Xᵀ) · HSIC(Y Yᵀ, Y Yᵀ))

with features X (n, p) and Y (n, q) of n images: 1 if they are the same up to rotation and scale. HSIC is estimated
without bias in each batch and summed (Nguyen et al. 2021): n images need not outnumber p features, where the
usual estimate calls noise alike. It may fall a little below 0.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from vitlab.analysis.activations import block_outputs
from vitlab.models import ImageModel

FEWEST = 4
"""Images that an unbiased estimate needs."""


def hsic(first: Float[Tensor, "I n n"], second: Float[Tensor, "J n n"]) -> Float[Tensor, "I J"]:
    """Return the unbiased HSIC of each pair of Gram matrices of the same n images (Song et al. 2012)."""
    n = first.shape[1]
    off_diagonal = 1 - torch.eye(n, dtype=first.dtype, device=first.device)
    first, second = first * off_diagonal, second * off_diagonal
    traces = torch.einsum("iab, jab -> ij", first, second)
    sums = torch.outer(first.sum(dim=(1, 2)), second.sum(dim=(1, 2))) / ((n - 1) * (n - 2))
    crossed = 2 / (n - 2) * first.sum(dim=1) @ second.sum(dim=1).T
    return (traces + sums - crossed) / (n * (n - 3))


def grams(features: Iterable[Float[Tensor, "n *_"]]) -> Float[Tensor, "L n n"]:
    """Return X Xᵀ of each layer. HSIC does not depend on the mean of X; without it, the products keep their digits."""
    centered = (x.flatten(1).float() - x.flatten(1).float().mean(dim=0) for x in features)
    return torch.stack([(x @ x.T).double() for x in centered])


def linear_cka(batches: Iterable[tuple[list[Tensor], list[Tensor]]]) -> Float[Tensor, "I J"]:
    """Return the CKA of each layer of one model with each of another's.

    A batch is the features of the same images: for each of I and of J layers a tensor (n, …).
    """
    joint, own_first, own_second = torch.zeros(()), torch.zeros(()), torch.zeros(())
    for first, second in batches:
        K, L = grams(first), grams(second)
        joint = joint + hsic(K, L).cpu()
        own_first, own_second = own_first + hsic(K, K).diag().cpu(), own_second + hsic(L, L).diag().cpu()
    return joint / torch.outer(own_first, own_second).sqrt()


def model_similarity(
    first: ImageModel,
    second: ImageModel,
    batches: Iterable[tuple[Float[Tensor, "n C H W"], Float[Tensor, "n C2 H2 W2"]]],
) -> Float[Tensor, "I J"]:
    """Return the CKA of the blocks of two models; a batch is the same images as each of them sees them."""
    return linear_cka((block_outputs(first, a), block_outputs(second, b)) for a, b in batches)

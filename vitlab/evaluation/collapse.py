"""Spread of features: shows without labels whether an encoder has collapsed.

N images, C the width of the embedding.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def rank_me(features: Float[Tensor, "N C"]) -> float:
    """Return RankMe, the effective number of dimensions, from 1 to C (Garrido et al. 2023, equations 1 and 2).

    exp(−Σ_k p_k ln p_k) with p_k = σ_k / Σ σ, σ the singular values of the features, not centered. 1 if all are 0.
    """
    singular = torch.linalg.eigvalsh(features.double().T @ features.double()).clamp_min(0).sqrt()  # (C,)
    return float(torch.special.entr(singular / singular.sum().clamp_min(1e-300)).sum().exp())


def relative_std(features: Float[Tensor, "N C"]) -> float:
    """Return the standard deviation over images of features of length 1, averaged over channels, times √C.

    0 if all images have the same features, near 1 if they point in all directions (Chen and He 2021, section 4.1).
    """
    deviation = F.normalize(features.double(), dim=1).std(dim=0)  # (C,)
    return float(deviation.mean()) * features.shape[1] ** 0.5

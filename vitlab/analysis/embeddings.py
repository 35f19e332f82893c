"""What the first layer learned: filters, and where patches are (Dosovitskiy et al. 2021, Fig. 7)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vitlab.models import Backbone, VisionTransformer


@torch.no_grad()
def position_similarity(model: VisionTransformer) -> Float[Tensor, "H W H W"]:
    """Return the cosine similarity of each patch's position embedding to all others'."""
    H, W = model.patch_embed.grid_size
    positions = F.normalize(model.pos_embed[0, -H * W :], dim=-1)  # prefix tokens come first
    return (positions @ positions.T).view(H, W, H, W)


@torch.no_grad()
def filter_components(model: Backbone, count: int = 28) -> Float[Tensor, "n C p p"]:
    """Return the first principal components of the patch embedding's filters: of length 1, largest value positive."""
    filters = model.patch_embed.proj.weight  # (D, C, p, p)
    centered = filters.flatten(1) - filters.flatten(1).mean(dim=0)
    components = torch.linalg.svd(centered, full_matrices=False).Vh[:count]  # (n, C·p·p)
    largest = components.gather(1, components.abs().argmax(dim=1, keepdim=True))
    return (components * largest.sign()).unflatten(1, filters.shape[1:])

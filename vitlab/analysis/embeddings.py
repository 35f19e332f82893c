"""What the first layer learned: filters and positions (Dosovitskiy et al. 2021, Fig. 7)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitlab.models import Backbone, ImageModel


@torch.no_grad()
def position_similarity(model: Backbone) -> Float[Tensor, "H W H W"] | None:
    """Return the cosine similarity of each patch's position embedding to all others; None if there are none."""
    images = torch.zeros(1, model.in_chans, *model.img_size, device=next(model.parameters()).device)
    positions = model.add_pos_embed(torch.zeros_like(model.patch_embed(images)))[0]  # (H, W, D)
    if not positions.any():
        return None
    unit = F.normalize(positions, dim=-1)
    return torch.einsum("hwd, ijd -> hwij", unit, unit)


@torch.no_grad()
def filter_components(model: ImageModel, count: int = 28) -> Float[Tensor, "n C p p"] | None:
    """Return the first principal components of the first convolution's filters; None if it sees no color or gray.

    Each has length 1, and its largest value is positive.
    """
    filters = next((m.weight for m in model.modules() if isinstance(m, nn.Conv2d)), None)  # (D, C, p, p)
    if filters is None or filters.shape[1] not in (1, 3):
        return None
    centered = filters.flatten(1) - filters.flatten(1).mean(dim=0)
    components = torch.linalg.svd(centered, full_matrices=False).Vh[:count]  # (n, C·p·p)
    largest = components.gather(1, components.abs().argmax(dim=1, keepdim=True))
    return (components * largest.sign()).unflatten(1, filters.shape[1:])

"""Insides of a model: the output of each block and its scale, the first layer's filters, the positions."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitlab.models import Backbone, ImageModel


@torch.no_grad()
def block_outputs(model: ImageModel, images: Float[Tensor, "B Cin Hpx Wpx"]) -> list[Float[Tensor, "B N C"]]:
    """Return the output of each of `model.blocks` that is a map or a sequence of tokens, prefix tokens included."""
    outputs: list[Tensor] = []

    def keep(block: Any, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim > 2:
            first, *_, last = output.shape[1:]
            if output.ndim == 4 and output.shape[2] == last != first:  # a square map of a convolution, (B, C, H, W)
                output = output.movedim(1, -1)
            outputs.append(output.flatten(1, -2))

    handles = [block.register_forward_hook(keep) for block in model.blocks]
    try:
        model.embed(images)
    finally:
        for handle in handles:
            handle.remove()
    return outputs


def amplitude(features: Float[Tensor, "B N C"]) -> float:
    """Return the variance over images and tokens, averaged over channels (Brock et al. 2021).

    Block by block it gives Swin v2's Fig. 2: it grows with pre-norm, not with res-post-norm.
    """
    return float(features.flatten(0, 1).float().var(dim=0).mean())


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

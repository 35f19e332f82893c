"""What the blocks of a model pass on, and how large it becomes."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vitlab.models import Backbone
from vitlab.models.hierarchy import WindowBlock
from vitlab.models.vit import Block


@torch.no_grad()
def block_outputs(model: Backbone, images: Float[Tensor, "B Cin Hpx Wpx"]) -> list[Float[Tensor, "B N C"]]:
    """Return what each block hands to the next, prefix tokens included."""
    found: list[Tensor] = []

    def keep(block: Any, inputs: Any, output: Tensor) -> None:
        found.append(output.flatten(1, -2))

    blocks = [module for module in model.modules() if isinstance(module, Block | WindowBlock)]
    handles = [block.register_forward_hook(keep) for block in blocks]
    try:
        model.forward_features(images)
    finally:
        for handle in handles:
            handle.remove()
    return found


def amplitude(features: Float[Tensor, "B N C"]) -> float:
    """Return the variance of a channel over images and tokens, the mean over channels (Brock et al. 2021).

    By block it is the signal propagation plot of Swin v2's Fig. 2: pre-norm lets it grow, res-post-norm does not.
    """
    return float(features.flatten(0, 1).float().var(dim=0).mean())

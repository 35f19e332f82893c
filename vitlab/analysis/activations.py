"""What the blocks of a model pass on, and how large it becomes."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vitlab.models import Backbone


@torch.no_grad()
def block_outputs(model: Backbone, images: Float[Tensor, "B Cin Hpx Wpx"]) -> list[Float[Tensor, "B N C"]]:
    """Return what each block (`parts_to_compile`) hands to the next, prefix tokens included; none that is no map."""
    found: list[Tensor] = []

    def keep(block: Any, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim > 2:
            found.append(_channels_last(output).flatten(1, -2))

    handles = [block.register_forward_hook(keep) for block in model.parts_to_compile()]
    try:
        model.forward_features(images)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _channels_last(output: Tensor) -> Tensor:
    """Return a square map (B, H, W, C), also where the block is a convolution's and gives (B, C, H, W)."""
    first, *_, last = output.shape[1:]
    return output.movedim(1, -1) if output.ndim == 4 and output.shape[2] == last != first else output


def amplitude(features: Float[Tensor, "B N C"]) -> float:
    """Return the variance of a channel over images and tokens, the mean over channels (Brock et al. 2021).

    By block it is the signal propagation plot of Swin v2's Fig. 2: pre-norm lets it grow, res-post-norm does not.
    """
    return float(features.flatten(0, 1).float().var(dim=0).mean())

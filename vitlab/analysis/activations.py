"""The output of each block of a model, and its scale."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vitlab.models import ImageModel


@torch.no_grad()
def block_outputs(model: ImageModel, images: Float[Tensor, "B Cin Hpx Wpx"]) -> list[Float[Tensor, "B N C"]]:
    """Return the output of each of `model.blocks` that is a map or a sequence of tokens, prefix tokens included."""
    outputs: list[Tensor] = []

    def keep(block: Any, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim > 2:
            outputs.append(_channels_last(output).flatten(1, -2))

    handles = [block.register_forward_hook(keep) for block in model.blocks]
    try:
        model.embed(images)
    finally:
        for handle in handles:
            handle.remove()
    return outputs


def _channels_last(output: Tensor) -> Tensor:
    """Return a square map as (B, H, W, C), also if the block is convolutional and gives (B, C, H, W)."""
    first, *_, last = output.shape[1:]
    return output.movedim(1, -1) if output.ndim == 4 and output.shape[2] == last != first else output


def amplitude(features: Float[Tensor, "B N C"]) -> float:
    """Return the variance over images and tokens, averaged over channels (Brock et al. 2021).

    Block by block it gives Swin v2's Fig. 2: it grows with pre-norm, not with res-post-norm.
    """
    return float(features.flatten(0, 1).float().var(dim=0).mean())

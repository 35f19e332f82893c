"""Small models of each architecture, and the same model in timm."""

from collections.abc import Callable
from typing import Any

import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.swin_transformer import SwinTransformer as TimmSwin
from timm.models.swin_transformer_v2 import SwinTransformerV2 as TimmSwinV2
from timm.models.vision_transformer import VisionTransformer as TimmViT
from torch import Tensor, nn

from vitlab.models import Backbone, SwinTransformer, SwinTransformerV2, VisionTransformer

VIT = {"img_size": 16, "patch_size": 4, "num_classes": 5, "embed_dim": 24, "depth": 3, "num_heads": 2}
SWIN = {
    "img_size": 32,
    "patch_size": 2,
    "num_classes": 5,
    "embed_dim": 8,
    "depths": (2, 2, 2),
    "num_heads": (1, 2, 4),
    "window_size": 4,
    "drop_path_rate": 0.0,
}

SMALL: dict[str, Callable[..., Backbone]] = {
    "vit": lambda **changes: VisionTransformer(**VIT | changes),
    "deit": lambda **changes: VisionTransformer(**VIT | {"distilled": True} | changes),
    "swin": lambda **changes: SwinTransformer(**SWIN | changes),
    "swinv2": lambda **changes: SwinTransformerV2(**SWIN | changes),
}

TIMM: dict[str, Callable[..., nn.Module]] = {
    "vit": lambda **changes: TimmViT(**VIT | changes),
    "deit": lambda **changes: VisionTransformerDistilled(**VIT | changes),
    "swin": lambda **changes: TimmSwin(**SWIN | changes),
    "swinv2": lambda **changes: TimmSwinV2(**SWIN | changes),
}


def images(model: Any, batch: int = 2) -> Tensor:
    """Return noise of the size that a model expects."""
    return torch.randn(batch, model.in_chans, *model.img_size)


def shake(model: nn.Module) -> nn.Module:
    """Move every parameter off its initial value: at 0 or 1 a norm or bias in the wrong place goes unnoticed."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def pair_of(family: str, **changes: Any) -> tuple[Any, Any]:
    """Return a model and timm's with the same weights."""
    ours, theirs = SMALL[family](**changes), shake(TIMM[family](**changes))
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """Return the largest difference, in units of the largest value expected."""
    return ((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-12)).item()

"""Class tokens of a ViT's last blocks: what published protocols read of a frozen encoder.

B images, D the width of the tokens. A ViT that pools the mean has its norm after the pooling, so that its tokens are
not normalized.
"""

from typing import TypeGuard

import torch
from jaxtyping import Float
from torch import Tensor

from vitlab.models import ImageModel, VisionTransformer

BASE_WIDTH = 768  # a ViT-B's


def has_class_token(encoder: ImageModel) -> TypeGuard[VisionTransformer]:
    """Return whether class tokens of several blocks can be read."""
    return isinstance(encoder, VisionTransformer) and encoder.cls_token is not None


def class_tokens(encoder: VisionTransformer, images: Tensor, blocks: int, norm: bool) -> list[Float[Tensor, "B D"]]:
    """Return the class token as it leaves each of the last blocks, with the final norm or without."""
    last = min(blocks, len(encoder.blocks))
    maps = encoder.forward_intermediates(images, last, return_prefix_tokens=True, norm=norm, intermediates_only=True)
    return [prefix[:, 0] for _, prefix in maps]


def raw_class_token(encoder: ImageModel, images: Tensor) -> Float[Tensor, "B D"]:
    """Return the class token before the final norm, as MSN's low-shot evaluation reads it (src/deit.py:266-288)."""
    assert has_class_token(encoder)
    return class_tokens(encoder, images, 1, norm=False)[0]


def class_token(encoder: ImageModel, images: Tensor) -> Float[Tensor, "B D"]:
    """Return the class token after the final norm, as MAE's linear probe reads it; without one, the embedding."""
    return encoder.forward_features(images).prefix[:, 0] if has_class_token(encoder) else encoder.embed(images)


def dino_features(encoder: ImageModel, images: Tensor) -> Float[Tensor, "B C"]:
    """Return what DINO's linear probe reads, each token after the final norm (eval_linear.py:164-173, 256-260).

    Of a ViT narrower than a ViT-B the class tokens of the last four blocks, (B, 4·D). Of others the class token of the
    last block and the mean of its patches, (B, 2·D). Of an encoder without a class token its embedding.
    """
    if not has_class_token(encoder):
        return encoder.embed(images)
    if encoder.num_features < BASE_WIDTH:
        return torch.cat(class_tokens(encoder, images, 4, norm=True), dim=1)
    features = encoder.forward_features(images)
    return torch.cat([features.prefix[:, 0], features.patches.mean(dim=1)], dim=1)

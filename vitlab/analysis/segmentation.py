"""How well attention outlines objects: Jaccard similarity of thresholded attention maps and masks (DINO, Fig. 4).

Of each head of the last block, the class token's attention to the patches is thresholded to keep the patches of largest
weight that hold 60 % of it, as in DINO's `visualize_attention.py`, and compared with the object's mask by intersection
over union. The paper reports the best head of each image (ImageNet-pretrained ViT-S/16 on PASCAL VOC12: 22.0 % with
random weights, 27.3 % supervised, 45.9 % DINO).

Letters: B or N images, h heads, H x W patches, Hpx x Wpx pixels.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from vitlab.analysis.attention import query_map
from vitlab.models import ImageModel
from vitlab.models.backbone import in_eval_mode

MASS = 0.6


class AttentionOverlap(NamedTuple):
    """Jaccard similarity of attention and masks by image: of each image's best head, and the mean over heads."""

    best: np.ndarray  # (N,)
    mean: np.ndarray


@torch.no_grad()
def has_class_attention(model: ImageModel, images: Float[Tensor, "B C Hpx Wpx"]) -> bool:
    """Return whether the model's output reads a class token that attends to the patches; the model stays as it is."""
    with in_eval_mode(model):  # else a batch norm would average the images in, and drop path draw random numbers
        return model.global_pool == "token" and bool(model.attention_maps(images[:1]))


@torch.no_grad()
def attention_overlap(
    model: ImageModel, batches: Iterable[Float[Tensor, "B C Hpx Wpx"]], masks: Bool[Tensor, "N Hpx Wpx"]
) -> AttentionOverlap:
    """Measure a model in eval mode on images in the order of `masks`."""
    done, overlaps = 0, []
    with in_eval_mode(model):
        for images in batches:
            inside = masks[done : done + len(images)].to(images.device)
            overlaps.append(jaccard(class_token_masks(model, images), inside).cpu())
            done += len(images)
    heads = torch.cat(overlaps)  # (N, h)
    return AttentionOverlap(*(values.double().numpy() for values in (heads.amax(dim=1), heads.mean(dim=1))))


def class_token_masks(model: ImageModel, images: Float[Tensor, "B C Hpx Wpx"]) -> Bool[Tensor, "B h Hpx Wpx"]:
    """Return the pixels that hold most of the class token's attention in the last block, by head."""
    kept = keep_mass(query_map(model.attention_maps(images)[-1], 0).float())
    return F.interpolate(kept.float(), images.shape[2:], mode="nearest-exact").bool()


def keep_mass(maps: Float[Tensor, "B h H W"], mass: float = MASS) -> Bool[Tensor, "B h H W"]:
    """Keep the largest values of each map whose sum is `mass` of its total, and the one that exceeds it."""
    values, order = maps.flatten(2).sort(dim=2)  # ascending, as released
    kept = (values / values.sum(dim=2, keepdim=True)).cumsum(dim=2) > 1 - mass
    return torch.zeros_like(kept).scatter(2, order, kept).view(maps.shape)


def jaccard(masks: Bool[Tensor, "B h H W"], truth: Bool[Tensor, "B H W"]) -> Float[Tensor, "B h"]:
    """Return the number of pixels in both masks over that in either, in [0, 1]."""
    both, either = masks & truth[:, None], masks | truth[:, None]
    return both.sum(dim=(2, 3)) / either.sum(dim=(2, 3))

"""Attention distance, attention maps of single queries, attention rollout, and how well attention outlines objects.

Functions take `AttentionMap`s, in which windows are back at their places, for ViT and Swin alike.

How well attention outlines objects is the Jaccard similarity of thresholded attention maps and masks (DINO, Fig. 4). Of
each head of the last block, the class token's attention to the patches is thresholded to keep the patches of largest
weight that hold 60 % of it, as in DINO's `visualize_attention.py`, and compared with the object's mask by intersection
over union. The paper reports the best head of each image (ImageNet-pretrained ViT-S/16 on PASCAL VOC12: 22.0 % with
random weights, 27.3 % supervised, 45.9 % DINO).

Letters: B or N images, h heads, Q queries (P prefix tokens, then the N patches of an H x W map), K keys of each query,
Hpx x Wpx pixels.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from vitlab.models import AttentionMap, ImageModel
from vitlab.models.backbone import in_eval_mode

MASS = 0.6


def num_prefix(attention: AttentionMap) -> int:
    """Return P."""
    return attention.weights.shape[2] - attention.size[0] * attention.size[1]


def attention_distance(attention: AttentionMap) -> Float[Tensor, "B h"]:
    """Return the attention distance in pixels: Σ_k attention(q, k) · |place(q) − place(k)|, the mean over patches q.

    Places are the patches' centers (Dosovitskiy et al. 2021, Fig. 7). Attention to prefix tokens and padding is left
    out, and the rest is normalized.
    """
    (H, W), P = attention.size, num_prefix(attention)
    places = attention.stride * torch.cartesian_prod(torch.arange(H), torch.arange(W)).to(attention.weights)  # (N, 2)
    keys = attention.keys[P:] - P  # (N, K), below 0 without a place
    apart = (places[:, None] - places[keys.clamp(min=0)]).norm(dim=-1)  # (N, K)
    weights = attention.weights[:, :, P:] * (keys >= 0)
    return ((weights * apart).sum(dim=-1) / weights.sum(dim=-1)).mean(dim=-1)


def query_map(attention: AttentionMap, query: int) -> Float[Tensor, "B h H W"]:
    """Return the attention of one query to each patch, as a map; attention to prefix tokens and padding is left out.

    Queries are the prefix tokens, the class token first, then the patches row by row.
    """
    (H, W), P = attention.size, num_prefix(attention)
    B, h, _, K = attention.weights.shape
    place = (attention.keys[query] - P + 1).clamp(min=0)  # (K,), 0 without a place
    whole = attention.weights.new_zeros(B, h, H * W + 1)
    whole.scatter_add_(2, place.expand(B, h, K), attention.weights[:, :, query])
    return whole[..., 1:].unflatten(2, (H, W))


def query_at(attention: AttentionMap, row: int, column: int) -> int:
    """Return the query whose patch this pixel is in."""
    return num_prefix(attention) + row // attention.stride * attention.size[1] + column // attention.stride


def rollout(maps: list[AttentionMap], rows: Float[Tensor, "B R Q"]) -> Float[Tensor, "B R Q1"]:
    """Follow attention from the last block's tokens back to the first's: rows · Â_L · … · Â_1.

    Â = (A + I) / 2 of each block, A the mean over heads (Abnar and Zuidema 2020). With the identity for `rows` it is
    the whole product. In a Swin, a merged token's share goes in equal parts to the tokens that it was merged from; the
    paper has no merging.
    """
    size = maps[-1].size
    for attention in reversed(maps):
        if attention.size != size:
            ones = rows.new_ones(1, 1, *attention.size)
            members = F.avg_pool2d(ones, 2, ceil_mode=True, divisor_override=1)  # fewer at odd borders
            shares = (rows.unflatten(2, size) / members).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
            size = attention.size
            rows = shares[:, :, : size[0], : size[1]].flatten(2)
        # rows · A without writing A down, which has Q² entries where windows have Q · K
        weights = attention.weights.mean(dim=1) * (attention.keys >= 0)  # (B, Q, K)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        terms = (rows[..., None] * weights[:, None]).flatten(2)  # (B, R, Q·K)
        product = torch.zeros_like(rows).scatter_add_(2, attention.keys.clamp(min=0).flatten().expand_as(terms), terms)
        rows = (product + rows) / 2
    return rows


def input_map(model: ImageModel, images: Float[Tensor, "B C Hpx Wpx"]) -> Float[Tensor, "B H W"]:
    """Return how much each patch of the image contributes to what the classifier reads, by rollout."""
    maps = model.attention_maps(images)
    if not maps:
        raise ValueError(f"{type(model).__name__} has no attention maps to follow. Use a ViT, Swin or Swin v2.")
    P, Q = num_prefix(maps[-1]), maps[-1].weights.shape[2]
    tokens = torch.arange(Q, device=images.device)
    read = tokens < model.num_class_tokens if model.global_pool == "token" else tokens >= P  # (Q,)
    rows = (read / read.sum()).expand(len(images), 1, Q)
    return rollout(maps, rows)[:, 0, P:].unflatten(1, maps[0].size)


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

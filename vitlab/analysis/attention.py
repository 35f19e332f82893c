"""Attention distance, attention maps of single queries, and attention rollout.

Functions take `AttentionMap`s, in which windows are back at their places, for ViT and Swin alike.

Letters: B images, h heads, Q queries (P prefix tokens, then the N patches of an H × W map), K keys of each query.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vitlab.models import AttentionMap, ImageModel


def num_prefix(attention: AttentionMap) -> int:
    """Return P."""
    return attention.weights.shape[2] - attention.size[0] * attention.size[1]


def attention_distance(attention: AttentionMap) -> Float[Tensor, "B h"]:
    """Return the attention distance in pixels: Σ_k attention(q, k) · |place(q) − place(k)|, the mean over patches q.

    Places are the patches' centers (Dosovitskiy et al. 2021, Fig. 7). Attention to prefix tokens and padding is left
    out, and the rest is normalized.
    """
    (H, W), P = attention.size, num_prefix(attention)
    rows, columns = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    places = attention.stride * torch.stack([rows, columns], dim=-1).flatten(0, 1).to(attention.weights)  # (N, 2)
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
            rows, size = _unmerge(rows, size, attention.size), attention.size
        rows = (_times_attention(rows, attention) + rows) / 2
    return rows


def _times_attention(rows: Float[Tensor, "B R Q"], attention: AttentionMap) -> Float[Tensor, "B R Q"]:
    """Return rows · A without writing A down, which has Q² entries where windows have Q · K."""
    weights = attention.weights.mean(dim=1) * (attention.keys >= 0)  # (B, Q, K)
    weights = weights / weights.sum(dim=-1, keepdim=True)
    terms = (rows[..., None] * weights[:, None]).flatten(2)  # (B, R, Q·K)
    return torch.zeros_like(rows).scatter_add_(2, attention.keys.clamp(min=0).flatten().expand_as(terms), terms)


def _unmerge(
    rows: Float[Tensor, "B R N"], size: tuple[int, int], finer: tuple[int, int]
) -> Float[Tensor, "B R finer_N"]:
    members = F.avg_pool2d(rows.new_ones(1, 1, *finer), 2, ceil_mode=True, divisor_override=1)  # fewer at odd borders
    shares = (rows.unflatten(2, size) / members).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    return shares[:, :, : finer[0], : finer[1]].flatten(2)


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

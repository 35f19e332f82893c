"""Attention that starts as a convolution: each head attends mostly to one neighbor, the same for all tokens.

Structured initialization (Zheng et al. 2025, https://arxiv.org/abs/2505.19985): random impulses serve a convolution as
well as learned filters, and attention that begins with them learns from fewer images. The paper solves for queries and
keys by singular values. Here a Swin's position bias has the impulses itself, and a ViT's positions are waves, which a
rotation in the queries moves by the offset.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitlab.models.layers import sincos_waves

Size = tuple[int, int]  # rows and columns of tokens
CPU = torch.device("cpu")  # where all is computed, whichever device a model is built on
NINE = torch.cartesian_prod(torch.arange(-1, 2), torch.arange(-1, 2))  # a token itself, and those around it


def draw_offsets(num_heads: int, distance: int) -> Int[Tensor, "h 2"]:
    """Draw how far each head looks, in rows and columns: 0 or `distance`; none twice before all nine are drawn."""
    if distance < 1:
        raise ValueError(f"impulses is {distance}; give the distance of neighbors in tokens, like 1, or 0 for none.")
    rounds = [NINE[torch.randperm(len(NINE), device=CPU)] for _ in range(-(-num_heads // len(NINE)))]
    return distance * torch.cat(rounds)[:num_heads]


def impulse_table(window: Size, num_heads: int, distance: int) -> Float[Tensor, "offsets h"]:
    """Return position biases that give four fifths of each head's attention to a neighbor `distance` tokens away.

    A window of too few rows or columns for it has the row or column of the token itself instead.
    """
    offsets = draw_offsets(num_heads, distance)
    rows, columns = (offsets * (offsets.abs() < torch.tensor(window, device=CPU))).unbind(dim=1)
    places = (rows + window[0] - 1) * (2 * window[1] - 1) + columns + window[1] - 1
    height = math.log(4 * max(math.prod(window) - 1, 1))  # over biases of 0 for all others
    return height * F.one_hot(places, math.prod(2 * side - 1 for side in window)).t().float()


@torch.no_grad()
def start_with_impulses(
    qkvs: list[nn.Linear], num_heads: int, pos_embed: Float[Tensor, "N D"], grid: Size, distance: int
) -> None:
    """Write waves into a ViT's positions, and queries and keys that find a neighbor by them."""
    D = pos_embed.shape[1]
    d = D // num_heads
    if D % 4 or d % 4:
        raise ValueError(f"impulses need a width and a head width that 4 divides, not {D} and {d}.")
    if pos_embed.is_meta:
        return
    with CPU:
        # Up to three quarters of the highest frequency that places `distance` tokens apart can have.
        omega = 0.75 * math.pi / distance * (torch.arange(D // 4) + 0.5) / (D // 4)
        pos_embed.copy_(2 * sincos_waves(omega, *grid))  # twice, to be heard beside the patches that are added
        for qkv in qkvs:
            weights = [find_neighbor(d, omega, offset) for offset in draw_offsets(num_heads, distance)]
            qkv.weight[: 2 * D] = torch.stack(weights, dim=1).flatten(0, 2)  # from (2, h, d, D)


def find_neighbor(d: int, omega: Float[Tensor, "F"], offset: Int[Tensor, "2"]) -> Float[Tensor, "2 d D"]:
    """Return the weights of a head's queries and keys, with which a token attends to the one at `offset` from it.

    Each head reads d/4 frequencies of each direction. With a key of sin(ωx) and cos(ωx), and a query of the same at
    x - Δ, the product of both is a sum of cos(ω (x - x' - Δ)), largest at x' = x - Δ.
    """
    F_, count = len(omega), d // 4
    q, k = torch.zeros(2, d, 4 * F_)
    for axis, tokens in enumerate(offset.flip(0)):  # columns first, as the waves
        read = ((torch.arange(count) + torch.rand(count)) * (F_ / count)).long()  # one of each few in a row
        sines, cosines = 2 * axis * F_ + read, (2 * axis + 1) * F_ + read
        rows = 2 * axis * count + torch.arange(count)
        turn = omega[read] * tokens
        k[rows, sines] = k[rows + count, cosines] = 1
        q[rows, sines], q[rows, cosines] = turn.cos(), -turn.sin()  # sin(ω (x - Δ))
        q[rows + count, cosines], q[rows + count, sines] = turn.cos(), turn.sin()  # cos(ω (x - Δ))
    return torch.stack([q, k])

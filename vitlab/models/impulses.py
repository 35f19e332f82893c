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

from vitlab.models.bias_tables import Size, relative_coords

NINE = torch.cartesian_prod(torch.arange(-1, 2), torch.arange(-1, 2))  # a token itself, and those around it


def draw_offsets(num_heads: int, distance: int) -> Int[Tensor, "h 2"]:
    """Draw how far each head looks, in rows and columns: 0 or `distance`; none twice before all nine are drawn."""
    if distance < 1:
        raise ValueError(f"impulses is {distance}; give the distance of neighbors in tokens, like 1, or 0 for none.")
    rounds = [NINE[torch.randperm(len(NINE))] for _ in range(-(-num_heads // len(NINE)))]
    return distance * torch.cat(rounds)[:num_heads]


def impulse_table(window: Size, num_heads: int, distance: int) -> Float[Tensor, "offsets h"]:
    """Return position biases that give four fifths of each head's attention to a neighbor `distance` tokens away.

    A window of too few rows or columns for it has the row or column of the token itself instead.
    """
    offsets = draw_offsets(num_heads, distance)
    rows, columns = (offsets * (offsets.abs() < torch.tensor(window))).unbind(dim=1)
    places = (rows + window[0] - 1) * (2 * window[1] - 1) + columns + window[1] - 1
    height = math.log(4 * max(math.prod(window) - 1, 1))  # over biases of 0 for all others
    return height * F.one_hot(places, len(relative_coords(window))).t().float()


def waves(dim: int, grid: Size, distance: int) -> tuple[Float[Tensor, "N dim"], Float[Tensor, "F"]]:
    """Return an embedding of each place, and its frequencies: 2 sin(ωx), 2 cos(ωx), 2 sin(ωy), 2 cos(ωy).

    Up to three quarters of the highest frequency that places `distance` tokens apart can have. The factor is the best
    of 1, 2 and 4 for the speedrun's ViT: patches are added to the embedding, and both pass the same norm.
    """
    omega = 0.75 * math.pi / distance * (torch.arange(dim // 4) + 0.5) / (dim // 4)
    rows, columns = torch.cartesian_prod(*(torch.arange(side, dtype=torch.float32) for side in grid)).split(1, dim=1)
    angles = [place * omega for place in (columns, rows)]
    return 2 * torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1), omega


@torch.no_grad()
def start_with_impulses(
    qkvs: list[nn.Linear], num_heads: int, pos_embed: Float[Tensor, "N D"], grid: Size, distance: int
) -> None:
    """Write waves into a ViT's positions, and queries and keys that find a neighbor by them.

    Each head reads d/4 frequencies of each direction. With a key of sin(ωx) and cos(ωx), and a query of the same at
    x - Δ, the product of both is a sum of cos(ω (x - x' - Δ)), largest at x' = x - Δ. Values keep their weights.

    Raises:
        ValueError: a width, or that of a head, that 4 does not divide.
    """
    D = pos_embed.shape[1]
    d, F_ = D // num_heads, D // 4
    if D % 4 or d % 4:
        raise ValueError(f"impulses need a width and a head width that 4 divides, not {D} and {d}.")
    table, omega = waves(D, grid, distance)
    pos_embed.copy_(table)
    for qkv in qkvs:
        for head, offset in enumerate(draw_offsets(num_heads, distance)):
            q, k = (qkv.weight[start : start + d].zero_() for start in (head * d, D + head * d))
            for axis, tokens in enumerate(offset.flip(0)):  # columns first, as the waves
                read = ((torch.arange(d // 4) + torch.rand(d // 4)) * num_heads).long()  # one of each h in a row
                sines, cosines = 2 * axis * F_ + read, (2 * axis + 1) * F_ + read
                rows = axis * d // 2 + torch.arange(d // 4)
                others = rows + d // 4
                turn = omega[read] * tokens
                k[rows, sines] = k[others, cosines] = 1
                q[rows, sines], q[rows, cosines] = turn.cos(), -turn.sin()  # sin(ω (x - Δ))
                q[others, cosines], q[others, sines] = turn.cos(), turn.sin()  # cos(ω (x - Δ))

"""The heads of DINO and MSN, used in training only: a projection, and the prototypes it is compared with.

Letters: B embeddings, C width of the backbone, d of the projection, K outputs.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitlab.models.layers import BatchNorm, Init, init_linears, trunc_normal


def projection(
    in_dim: int, hidden_dim: int, out_dim: int, batch_norm: bool, init: Init = trunc_normal
) -> nn.Sequential:
    """Return three linear layers with GELU between them, in MSN after a batch norm: (B, C) -> (B, d)."""

    def layers() -> Iterator[nn.Module]:
        for dim in (in_dim, hidden_dim):
            yield nn.Linear(dim, hidden_dim)
            if batch_norm:
                yield BatchNorm(hidden_dim, track_running_stats=False)  # it is not used in evaluation
            yield nn.GELU()
        yield nn.Linear(hidden_dim, out_dim)

    mlp = nn.Sequential(*layers())
    init_linears(mlp, init)
    return mlp


class Prototypes(nn.Module):
    """Compare embeddings z with K learned directions: g_k · cos(z, v_k), where g_k is 1 unless it is learned.

    In DINO they are the weight-normalized last layer, whose parameter names are kept. Computed in float32 under
    autocast too: divided by a temperature of 0.04, bfloat16's rounding of a cosine is an error of 0.1 in a logit.
    """

    def __init__(self, dim: int, num: int, learn_norm: bool = False) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(num, 1), requires_grad=learn_norm)
        self.weight_v = nn.Parameter(nn.init.uniform_(torch.empty(num, dim), -(dim**-0.5), dim**-0.5))

    def forward(self, z: Float[Tensor, "B d"]) -> Float[Tensor, "B K"]:
        with torch.autocast(z.device.type, enabled=False):
            z = F.normalize(z.to(self.weight_v.dtype), dim=1)
            return F.linear(z, self.weight_g * F.normalize(self.weight_v, dim=1))

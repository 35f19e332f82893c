"""Swin Transformer v2 (Liu et al. 2022, https://arxiv.org/abs/2111.09883).

    z = z + LN(Attention(z));  z = z + LN(MLP(z))      every second block shifts its windows by half
    Attention = softmax(cos(q, k) / τ + B) v           within windows; τ learned for each head, never below 0.01
    B = 16 σ(MLP(sign(x)·log2(1 + 8|x|) / log2(8)))    x: offset, 1 at the farthest of the training window

In shapes: B images, H × W tokens of width C, nW windows of N = wh·ww tokens, h heads of width d. Names are timm's:
stage i > 0 begins with its patch merging, where the official code ends stage i - 1 with it.

`position_bias` also takes the other two kinds of the paper's Table 1, a table (Swin v1) and a linear continuous bias,
and the two of Swin's Table 4: none, and an absolute embedding.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitlab.models.impulses import Size
from vitlab.models.windows import (
    PositionBias,
    StagedTransformer,
    WindowAttention,
    WindowBlock,
    cosine,
    look_up,
    merge_2x2,
    new_bias_table,
    relative_coords,
    relative_position_index,
    resize_bias_table,
    zero_bias,
)


class ContinuousBias(nn.Sequential):
    """B = 16 σ(MLP(offset)): a function of the offset, which extends to windows never trained on.

    Offsets are relative to the window of the pre-training, if there was one: a distance in tokens keeps its bias in a
    larger window, and only larger distances are extrapolated. The MLP sees their logarithms, which grow little beyond
    those trained on, or with `log_spaced=False` the offsets themselves.
    """

    relative_coords_table: Tensor
    relative_position_index: Tensor

    def __init__(self, num_heads: int, window: Size, pretrained_window: Size, log_spaced: bool) -> None:
        super().__init__(nn.Linear(2, 512), nn.ReLU(inplace=True), nn.Linear(512, num_heads, bias=False))
        self.pretrained_window, self.log_spaced = pretrained_window, log_spaced
        self.register_buffer("relative_coords_table", torch.empty(0), persistent=False)
        self.register_buffer("relative_position_index", torch.empty(0), persistent=False)
        self.set_window(window)

    def bias(self) -> Float[Tensor, "h N N"]:
        table = 16 * torch.sigmoid(self(self.relative_coords_table))  # (offsets, h)
        return look_up(table, self.relative_position_index)

    def set_bias(self, table: Float[Tensor, "offsets h"]) -> None:
        """Fit the MLP: hidden units drawn at random, then the smallest output weights of least error.

        Without biases, as `init` starts them, hidden units could not distinguish offsets of one direction. Softmax sees
        only differences of B, so the middle of the table is put at 8, the middle of B's range. `rcond` bounds the
        weights: errors are below 0.04 for windows of up to 8, and grow with larger ones.
        """
        hidden, output = (layer for layer in self if isinstance(layer, nn.Linear))
        nn.init.normal_(hidden.weight)
        nn.init.uniform_(hidden.bias, -1.5, 1.5)
        features = torch.relu(hidden(self.relative_coords_table)).double().cpu()
        wanted = torch.logit((table - (table.max() + table.min()) / 2).double() / 16 + 0.5)
        output.weight.copy_(torch.linalg.lstsq(features, wanted, rcond=1e-4, driver="gelsd").solution.T)

    def set_window(self, window: Size) -> None:  # no weight changes
        reference = self.pretrained_window if all(self.pretrained_window) else window
        # A window of 1 has only the offset 0: without max, 0 / 0.
        x = relative_coords(window) / torch.tensor([max(side - 1, 1) for side in reference])
        if self.log_spaced:
            x = x.sign() * torch.log2(1 + 8 * x.abs()) / math.log2(8)
        device = self.relative_coords_table.device
        self.relative_coords_table = x.to(device)
        self.relative_position_index = relative_position_index(window).to(device)


class TableBias(nn.Module):
    """A learned number for each head and offset, as in Swin."""

    relative_position_index: Tensor

    def __init__(self, num_heads: int, window: Size) -> None:
        super().__init__()
        self.window = window
        self.relative_position_bias_table = nn.Parameter(new_bias_table(window, num_heads))
        self.register_buffer("relative_position_index", relative_position_index(window), persistent=False)

    def bias(self) -> Float[Tensor, "h N N"]:
        return look_up(self.relative_position_bias_table, self.relative_position_index)

    def set_bias(self, table: Float[Tensor, "offsets h"]) -> None:
        self.relative_position_bias_table.copy_(table)

    def set_window(self, window: Size) -> None:  # the table is interpolated
        old = self.relative_position_bias_table
        table = resize_bias_table(old.detach(), self.window, window)
        self.relative_position_bias_table = nn.Parameter(table, requires_grad=old.requires_grad)
        self.relative_position_index = relative_position_index(window).to(table.device)
        self.window = window


class ScaledCosineAttention(WindowAttention):
    """softmax(cos(q, k) / τ + B) v, with a learned τ for each head."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window: Size,
        relative_bias: ContinuousBias | TableBias | None,
        qkv_bias: bool,
        attn_drop: float,
        proj_drop: float,
        *,
        init_scale: float = 10.0,
    ) -> None:
        super().__init__(dim, num_heads, window, attn_drop, proj_drop)
        self.logit_scale = nn.Parameter(torch.full((num_heads, 1, 1), math.log(init_scale)))
        self.cpb_mlp = relative_bias  # timm's name, whatever the kind
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        # As released, q and v have a bias and k has none. One bias for all three would train differently and not load.
        self.q_bias = nn.Parameter(torch.zeros(dim)) if qkv_bias else None
        self.v_bias = nn.Parameter(torch.zeros(dim)) if qkv_bias else None

    def project_qkv(self, x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H W 3*C"]:
        bias = None
        if self.q_bias is not None and self.v_bias is not None:
            bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        return F.linear(x, self.qkv.weight, bias)

    def scaled(self, q: Float[Tensor, "BnW h N d"], k: Float[Tensor, "BnW h N d"]) -> tuple[Tensor, Tensor, float]:
        return *cosine(q, k, self.logit_scale), 1.0

    def bias(self) -> Float[Tensor, "h N N"]:
        """Return B of each head, query and key: 0 without a relative bias."""
        if self.cpb_mlp is None:
            return zero_bias(self.num_heads, self.window, self.proj.weight.device)
        return self.cpb_mlp.bias()

    def set_bias(self, table: Float[Tensor, "offsets h"]) -> None:
        assert self.cpb_mlp is not None
        self.cpb_mlp.set_bias(table)

    def set_window(self, window: Size) -> None:
        self.window = window
        if self.cpb_mlp is not None:
            self.cpb_mlp.set_window(window)


class ResPostNormBlock(WindowBlock):
    """Norms follow attention and MLP, and start at `init_values`.

    At 0, as released, the block starts as the identity, but no gradient reaches its branches, and an adaptive optimizer
    raises the norms by about one learning rate a step.
    """

    def __init__(self, *args: Any, init_values: float = 0.0) -> None:
        super().__init__(*args)
        for norm in (self.norm1, self.norm2):
            nn.init.constant_(norm.weight, init_values)

    def forward(self, x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H W C"]:
        x = x + self.drop_path(self.norm1(self.attend(x)))
        return x + self.drop_path(self.norm2(self.mlp(x)))


class PatchMerging(nn.Module):
    """Halve the map and double the width: concatenate 2 × 2 tokens, reduce, normalize."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(2 * dim)

    def forward(self, x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H2 W2 2*C"]:
        return self.norm(self.reduction(merge_2x2(x)))


class SwinTransformerV2(StagedTransformer):
    """Encode an image at ever coarser resolutions with blocks that attend within shifted windows.

    Args:
        pretrained_window_sizes: the window of each stage in the pre-training, after clamping ([12, 12, 12, 6] for
            192 px and window 12), or 0, to divide offsets by the present one.
        position_bias: log-spaced as published; `linear` or `table` (parametrized) of the paper's Table 1; `none` or
            `absolute` of Swin's Table 4.
        init_scale: 1/τ of each head at the start, the factor of the cosine; 10 as published. Lower values leave more to
            the position bias.
        init_values: initial weight of the norms that end the branches; by default 0 as released, and 0.5 below Swin-T's
            width of 96, where training is short and 0 costs it many steps.
    """

    merging = PatchMerging

    def __init__(
        self,
        *args: Any,
        pretrained_window_sizes: tuple[int, ...] = (0, 0, 0, 0),
        position_bias: PositionBias = "log",
        init_scale: float = 10.0,
        init_values: float | None = None,
        **kwargs: Any,
    ) -> None:
        self.pretrained_windows, self.position_bias = pretrained_window_sizes, position_bias
        self.init_scale, self.init_values = init_scale, init_values
        super().__init__(*args, position_bias=position_bias, **kwargs)
        stages, given = len(self.layers), pretrained_window_sizes
        if len(given) < stages or any(given[stages:]):  # the default's zeros may be too many
            raise ValueError(f"pretrained_window_sizes {given}: give {stages} sides, or zeros.")

    def new_attention(self, stage: int, dim: int, num_heads: int, window: Size, *rest: Any) -> WindowAttention:
        bias: ContinuousBias | TableBias | None = None
        if self.position_bias in ("log", "linear"):
            side = max(self.pretrained_windows[stage : stage + 1], default=0)  # too few are refused in the end
            bias = ContinuousBias(num_heads, window, (side, side), log_spaced=self.position_bias == "log")
        elif self.position_bias == "table":
            bias = TableBias(num_heads, window)
        return ScaledCosineAttention(dim, num_heads, window, bias, *rest, init_scale=self.init_scale)

    def new_block(self, *args: Any) -> WindowBlock:
        width = self.patch_embed.proj.out_channels
        gain = self.init_values if self.init_values is not None else 0.0 if width >= 96 else 0.5
        return ResPostNormBlock(*args, init_values=gain)

    def arguments_at(self, img_size: int, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Let windows grow with the images, and keep offsets relative to the windows that the model was trained with.

        Otherwise the new window would be the reference, and the bias would interpolate.
        """
        windows = [stage.blocks[0].attn.window for stage in self.layers]  # type: ignore[union-attr, index]
        pretrained = arguments["pretrained_window_sizes"]
        if any(not before and h != w for before, (h, w) in zip(pretrained, windows, strict=False)):
            raise ValueError(f"Only square windows keep their bias at other sizes, not {windows}.")
        sides = [before or side for before, (side, _) in zip(pretrained, windows, strict=False)]
        return super().arguments_at(img_size, arguments) | {"pretrained_window_sizes": sides}

    def describe(self) -> dict[str, str]:
        return super().describe() | {"bias": self.position_bias}

"""Swin Transformer (Liu et al. 2021, https://arxiv.org/abs/2103.14030).

    z = z + Attention(LN(z));  z = z + MLP(LN(z))      every second block shifts its windows by half
    Attention = softmax(q kᵀ / √d + B) v               within windows; B: a learned table over relative positions

B images, H × W tokens of width C, nW windows of N = wh·ww tokens, h heads of width d. Names are timm's: stage i > 0
begins with its patch merging, where the official code ends stage i - 1 with it.

The Swin v2 paper leads from Swin to Swin v2 in steps (its Table 6): `block=vitlab.models.swin_v2.ResPostNormBlock`,
then also `attention=vitlab.models.swin.CosineAttention`.
"""

import math
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitlab.models.impulses import Size
from vitlab.models.swin_v2 import ResPostNormBlock
from vitlab.models.windows import (
    StagedTransformer,
    WindowAttention,
    WindowBlock,
    cosine,
    look_up,
    merge_2x2,
    new_bias_table,
    relative_position_index,
    resize_bias_table,
    zero_bias,
)


class DotProductAttention(WindowAttention):
    """softmax(q kᵀ / √d + B) v, with a learned table of B."""

    relative_position_index: Tensor

    def __init__(
        self, dim: int, num_heads: int, window: Size, table: bool, qkv_bias: bool, attn_drop: float, proj_drop: float
    ) -> None:
        super().__init__(dim, num_heads, window, attn_drop, proj_drop)
        self.relative_position_bias_table = nn.Parameter(new_bias_table(window, num_heads)) if table else None
        self.register_buffer("relative_position_index", relative_position_index(window), persistent=False)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)

    def project_qkv(self, x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H W 3*C"]:
        return self.qkv(x)

    def scaled(self, q: Float[Tensor, "BnW h N d"], k: Float[Tensor, "BnW h N d"]) -> tuple[Tensor, Tensor, float]:
        return q, k, q.shape[-1] ** -0.5

    def bias(self) -> Float[Tensor, "h N N"]:
        """Return B of each head, query and key: 0 without a table."""
        if self.relative_position_bias_table is None:
            return zero_bias(self.num_heads, self.window, self.proj.weight.device)
        return look_up(self.relative_position_bias_table, self.relative_position_index)

    def set_bias(self, table: Float[Tensor, "offsets h"]) -> None:
        assert self.relative_position_bias_table is not None
        self.relative_position_bias_table.copy_(table)

    def set_window(self, window: Size) -> None:
        if (old := self.relative_position_bias_table) is not None:
            resized = resize_bias_table(old.detach(), self.window, window)
            self.relative_position_bias_table = nn.Parameter(resized, requires_grad=old.requires_grad)
        self.relative_position_index = relative_position_index(window).to(self.proj.weight.device)
        self.window = window


class CosineAttention(DotProductAttention):
    """softmax(cos(q, k) / τ + B) v: Swin v2's similarity, the second step from Swin to Swin v2."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.logit_scale = nn.Parameter(torch.full((self.num_heads, 1, 1), math.log(10)))

    def scaled(self, q: Float[Tensor, "BnW h N d"], k: Float[Tensor, "BnW h N d"]) -> tuple[Tensor, Tensor, float]:
        return *cosine(q, k, self.logit_scale), 1.0


class PreNormBlock(WindowBlock):
    """Norms precede attention and MLP."""

    def forward(self, x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H W C"]:
        x = x + self.drop_path(self.attend(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PatchMerging(nn.Module):
    """Halve the map and double the width: concatenate 2 × 2 tokens, normalize, reduce."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H2 W2 2*C"]:
        return self.reduction(self.norm(merge_2x2(x)))


class SwinTransformer(StagedTransformer):
    """Encode an image at ever coarser resolutions with blocks that attend within shifted windows.

    Args:
        position_bias: a table as published, or `none` or `absolute` of the paper's Table 4.
        table_resize: how loading resizes the tables of another window: bicubic as Swin's fine-tuning, or geometric, as
            SimMIM's and BEiT's, so that offsets of one token keep their biases.
        block: the published Swin's by default; another class leads a step towards Swin v2, as does `attention`.
        attention: the published Swin's by default.
    """

    merging = PatchMerging

    def __init__(
        self,
        *args: Any,
        position_bias: Literal["none", "absolute", "table"] = "table",
        table_resize: Literal["bicubic", "geometric"] = "bicubic",
        block: type[PreNormBlock] | type[ResPostNormBlock] = PreNormBlock,
        attention: type[DotProductAttention] = DotProductAttention,
        **kwargs: Any,
    ) -> None:
        self.table_resize, self.table = table_resize, position_bias == "table"
        self.new_block, self.attention = block, attention
        super().__init__(*args, position_bias=position_bias, **kwargs)

    def new_attention(self, stage: int, dim: int, num_heads: int, window: Size, *rest: Any) -> WindowAttention:
        return self.attention(dim, num_heads, window, self.table, *rest)

"""Swin Transformer (Liu et al. 2021, https://arxiv.org/abs/2103.14030).

    z = z + Attention(LN(z));  z = z + MLP(LN(z))      every second block shifts its windows by half
    Attention = softmax(q kᵀ / √d + B) v               within windows; B: a learned table over relative positions

B images, H × W tokens of width C, nW windows of N = wh·ww tokens, h heads of width d. Names are timm's: stage i > 0
begins with its patch merging, where the official code ends stage i - 1 with it.

The Swin v2 paper leads from Swin to Swin v2 in steps (its Table 6): `block=vitlab.models.swin_v2.ResPostNormBlock`,
then also `attention=vitlab.models.swin.CosineAttention`.
"""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitlab.models.bias_tables import look_up, new_bias_table, relative_position_index, resize_bias_table, zero_bias
from vitlab.models.layers import Init
from vitlab.models.stages import StagedTransformer, merge_2x2
from vitlab.models.swin_v2 import ResPostNormBlock
from vitlab.models.windows import Size, WindowAttention, WindowBlock, check_position_bias, cosine


class DotProductAttention(WindowAttention):
    """softmax(q kᵀ / √d + B) v, with a learned table of B."""

    relative_position_index: Tensor

    def __init__(
        self, dim: int, num_heads: int, window: Size, table: bool, qkv_bias: bool, attn_drop: float, proj_drop: float
    ) -> None:
        super().__init__(dim, num_heads, window, attn_drop, proj_drop)
        parameter = nn.Parameter(new_bias_table(window, num_heads)) if table else None
        self.relative_position_bias_table = parameter
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
        """Change the window; the table is resized."""
        if (old := self.relative_position_bias_table) is not None:
            resized = resize_bias_table(old.detach(), self.window, window)
            self.relative_position_bias_table = nn.Parameter(resized, requires_grad=old.requires_grad)
        self.relative_position_index = relative_position_index(window).to(self.proj.weight.device)
        self.window = window


class CosineAttention(DotProductAttention):
    """softmax(cos(q, k) / τ + B) v: Swin v2's similarity, the second step from Swin to Swin v2."""

    def __init__(
        self, dim: int, num_heads: int, window: Size, table: bool, qkv_bias: bool, attn_drop: float, proj_drop: float
    ) -> None:
        super().__init__(dim, num_heads, window, table, qkv_bias, attn_drop, proj_drop)
        self.logit_scale = nn.Parameter(torch.full((num_heads, 1, 1), math.log(10)))

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
        window_size: one side for all stages, [height, width], or one side per stage of three or more. A window larger
            than its map is clamped to it and not shifted; a map that the window does not divide is padded.
        shift: false shifts no block's windows.
        position_bias: a table as published, or `none` or `absolute` of the paper's Table 4.
        table_resize: how loading resizes the tables of another window: bicubic as Swin's fine-tuning, or geometric, as
            SimMIM's and BEiT's, so that offsets of one token keep their biases.
        block: the published Swin's by default; another class leads a step towards Swin v2, as does `attention`.
        attention: the published Swin's by default.
        dynamic_img_size: accept images of other sizes with the windows chosen for `img_size`. On by default, unlike
            timm, because multi-crop objectives call one model on two sizes.
        dynamic_img_pad: zero-pad images whose sides are not multiples of the patch at the bottom and right.
        init: initializes linear layers; by default timm's `trunc_normal`, and `fan_in` below Swin-T's width of 96.
        impulses: distance in tokens, like 1, of the neighbor that each head attends to at the start, see
            `vitlab.models.impulses`; 0, as published: none.
        grad_checkpointing: recompute each block's activations in the backward pass instead of storing them.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 4,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 96,
        depths: tuple[int, ...] = (2, 2, 6, 2),
        num_heads: tuple[int, ...] = (3, 6, 12, 24),
        window_size: int | tuple[int, ...] = 7,
        shift: bool = True,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        position_bias: Literal["none", "absolute", "table"] = "table",
        table_resize: Literal["bicubic", "geometric"] = "bicubic",
        block: type[PreNormBlock] | type[ResPostNormBlock] = PreNormBlock,
        attention: type[DotProductAttention] = DotProductAttention,
        dynamic_img_size: bool = True,
        dynamic_img_pad: bool = False,
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        init: Init | None = None,
        impulses: int = 0,
        grad_checkpointing: bool = False,
    ) -> None:
        check_position_bias(position_bias, ("none", "absolute", "table"))
        if table_resize not in ("bicubic", "geometric"):
            raise ValueError(f"table_resize must be bicubic or geometric, not {table_resize}.")

        def new_block(i: int, dim: int, size: Size, window: Size, odd: bool, drop_path: float) -> WindowBlock:
            table = position_bias == "table"
            attn = attention(dim, num_heads[i], window, table, qkv_bias, attn_drop_rate, proj_drop_rate)
            return block(dim, size, shift and odd, attn, mlp_ratio, proj_drop_rate, drop_path)

        super().__init__(
            img_size=img_size,
            patch_size=patch_size,
            in_chans=in_chans,
            num_classes=num_classes,
            embed_dim=embed_dim,
            depths=depths,
            num_heads=num_heads,
            window_size=window_size,
            position_bias=position_bias,
            new_block=new_block,
            merging=PatchMerging,
            dynamic_img_size=dynamic_img_size,
            dynamic_img_pad=dynamic_img_pad,
            drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
            init=init,
            impulses=impulses,
            grad_checkpointing=grad_checkpointing,
        )
        self.table_resize = table_resize

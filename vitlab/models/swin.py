"""Swin Transformer (Liu et al. 2021, https://arxiv.org/abs/2103.14030).

    z = z + Attention(LN(z));  z = z + MLP(LN(z))      every second block shifts its windows by half
    Attention = softmax(q kᵀ / √d + B) v               within windows; B: a learned table over relative positions

B images, H × W tokens of width C, nW windows of N = wh·ww tokens, h heads of width d. Names are timm's: stage i > 0
begins with its patch merging, where the official code ends stage i - 1 with it.

The paper on Swin v2 gets there step by step (its Table 6): `block=vitlab.models.swin_v2.ResPostNormBlock`, then
`attention=vitlab.models.swin.CosineAttention`.
"""

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitlab.models.hierarchy import HierarchicalBackbone, WindowAttention, WindowBlock, check_stages
from vitlab.models.layers import Init, PatchEmbed, trunc_normal
from vitlab.models.windows import (
    Size,
    clamp_window,
    cosine,
    look_up,
    merge_2x2,
    relative_position_index,
    resize_bias_table,
    split_windows,
    stage_windows,
)


class TableAttention(WindowAttention, ABC):
    """Windowed attention whose bias is a learned table over relative positions; leaves choose the similarity."""

    relative_position_index: Tensor

    def __init__(
        self, dim: int, num_heads: int, window: Size, qkv_bias: bool, attn_drop: float, proj_drop: float
    ) -> None:
        super().__init__(dim, num_heads, window, attn_drop, proj_drop)
        table = torch.empty((2 * window[0] - 1) * (2 * window[1] - 1), num_heads)
        self.relative_position_bias_table = nn.Parameter(nn.init.trunc_normal_(table, std=0.02))
        self.register_buffer("relative_position_index", relative_position_index(window), persistent=False)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)

    @abstractmethod
    def similarity(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor, float]:
        """Return q, k and a number, whose product is the similarity."""

    def heads(self, x: Float[Tensor, "B H W C"]) -> tuple[Tensor, Tensor, Tensor, float]:
        q, k, v = (split_windows(part, self.window, self.num_heads) for part in self.qkv(x).chunk(3, dim=-1))
        q, k, scale = self.similarity(q, k)
        return q, k, v, scale

    def bias(self) -> Float[Tensor, "h N N"]:
        return look_up(self.relative_position_bias_table, self.relative_position_index)

    def set_window(self, window: Size) -> None:
        """Change the window, resizing the table."""
        table = self.relative_position_bias_table
        resized = resize_bias_table(table.detach(), self.window, window)
        self.relative_position_bias_table = nn.Parameter(resized, requires_grad=table.requires_grad)
        self.relative_position_index = relative_position_index(window).to(table.device)
        self.window = window


class DotProductAttention(TableAttention):
    """softmax(q kᵀ / √d + B) v."""

    def similarity(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor, float]:
        return q, k, q.shape[-1] ** -0.5


class CosineAttention(TableAttention):
    """softmax(cos(q, k) / τ + B) v, with a learned temperature for each head, as in Swin v2."""

    def __init__(
        self, dim: int, num_heads: int, window: Size, qkv_bias: bool, attn_drop: float, proj_drop: float
    ) -> None:
        super().__init__(dim, num_heads, window, qkv_bias, attn_drop, proj_drop)
        self.logit_scale = nn.Parameter(torch.full((num_heads, 1, 1), math.log(10)))

    def similarity(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor, float]:
        return *cosine(q, k, self.logit_scale), 1.0


class PreNormBlock(WindowBlock):
    """Normalize what goes into attention and MLP."""

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


class SwinTransformer(HierarchicalBackbone):
    """Encode an image at ever coarser resolutions with blocks that attend within shifted windows.

    Args:
        window_size: one side for all stages, [height, width], or a side a stage. A window larger than a stage's map
            is clamped to it and not shifted; a map it does not divide is padded.
        block, attention: the published Swin by default; the other leaves lead to Swin v2 step by step.
        dynamic_img_size: accept images of other sizes with the windows chosen for `img_size`. On by default, unlike
            timm, because multi-crop objectives call one model on two sizes.
        dynamic_img_pad: fill up images whose sides are no multiple of the patch with zeros, below and to the right.
        init: how linear layers start; `vitlab.models.layers.fan_in` for small widths.
        grad_checkpointing: recompute each block's activations in the backward pass rather than hold them.
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
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        block: type[WindowBlock] = PreNormBlock,
        attention: type[TableAttention] = DotProductAttention,
        dynamic_img_size: bool = True,
        dynamic_img_pad: bool = False,
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        init: Init = trunc_normal,
        grad_checkpointing: bool = False,
    ) -> None:
        check_stages(embed_dim, depths, num_heads)
        windows = stage_windows(window_size, len(depths))

        def make_block(stage: int, dim: int, size: Size, shifted: bool, drop_path: float) -> WindowBlock:
            window, _ = clamp_window(size, windows[stage])
            attn = attention(dim, num_heads[stage], window, qkv_bias, attn_drop_rate, proj_drop_rate)
            return block(dim, size, shifted, attn, mlp_ratio, proj_drop_rate, drop_path)

        super().__init__(
            PatchEmbed(
                img_size, patch_size, in_chans, embed_dim, nn.LayerNorm(embed_dim), dynamic_img_size, dynamic_img_pad
            ),
            depths,
            windows,
            PatchMerging,
            make_block,
            num_classes,
            drop_rate,
            drop_path_rate,
            init,
            grad_checkpointing,
        )

    def no_weight_decay(self) -> set[str]:
        """The position bias tables, and the temperatures of cosine attention as in Swin v2."""
        ends = ("relative_position_bias_table", "logit_scale")
        return {name for name, _ in self.named_parameters() if name.endswith(ends)}

"""Swin Transformer v2 (Liu et al. 2022, https://arxiv.org/abs/2111.09883).

    z = z + LN(Attention(z));  z = z + LN(MLP(z))      every second block shifts its windows by half
    Attention = softmax(cos(q, k) / τ + B) v           within windows; τ learned for each head, never below 0.01
    B = 16 σ(MLP(sign(x)·log2(1 + 8|x|) / log2(8)))    x: offsets, 1 for the farthest in the window trained on

B images, H × W tokens of width C, nW windows of N = wh·ww tokens, h heads of width d. Names are timm's: stage i > 0
begins with its patch merging, where the official code ends stage i - 1 with it.

`position_bias` also takes the other two kinds of the paper's Table 1.
"""

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
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
    relative_coords,
    relative_position_index,
    resize_bias_table,
    split_windows,
    stage_windows,
)


class PositionBias(nn.Module, ABC):
    """A bias for each head and relative position within a window, built from (heads, window, window trained on)."""

    @abstractmethod
    def bias(self) -> Float[Tensor, "h N N"]:
        """Return the bias of each head, query and key."""

    @abstractmethod
    def set_window(self, window: Size) -> None:
        """Change the window."""


class ContinuousBias(nn.Sequential, PositionBias):
    """B = 16 σ(MLP(offset)): a function of the offset, so it extends to windows never trained on.

    Offsets are measured in the window of the pre-training, where there is one, so that a distance in tokens keeps its
    bias in a larger window and only what lies beyond the old one is extrapolated.
    """

    relative_coords_table: Tensor
    relative_position_index: Tensor

    def __init__(self, num_heads: int, window: Size, pretrained_window: Size) -> None:
        super().__init__(nn.Linear(2, 512), nn.ReLU(inplace=True), nn.Linear(512, num_heads, bias=False))
        self.pretrained_window = pretrained_window
        self.register_buffer("relative_coords_table", torch.empty(0), persistent=False)
        self.register_buffer("relative_position_index", torch.empty(0), persistent=False)
        self.set_window(window)

    @abstractmethod
    def space(self, coords: Float[Tensor, "offsets 2"]) -> Float[Tensor, "offsets 2"]:
        """Map offsets, 1 for the farthest in the reference window, to what the MLP reads."""

    def bias(self) -> Float[Tensor, "h N N"]:
        table = 16 * torch.sigmoid(self(self.relative_coords_table))  # (offsets, h)
        return look_up(table, self.relative_position_index)

    def set_window(self, window: Size) -> None:
        reference = self.pretrained_window if all(self.pretrained_window) else window
        # A window of 1 has the one offset 0: without the guard, 0 / 0.
        farthest = torch.tensor([max(side - 1, 1) for side in reference])
        device = self.relative_coords_table.device
        self.relative_coords_table = self.space(relative_coords(window) / farthest).to(device)
        self.relative_position_index = relative_position_index(window).to(device)


class LogSpacedBias(ContinuousBias):
    """Swin v2's: logarithms of offsets, of which a larger window holds few beyond those trained on."""

    def space(self, coords: Float[Tensor, "offsets 2"]) -> Float[Tensor, "offsets 2"]:
        return coords.sign() * torch.log2(1 + 8 * coords.abs()) / math.log2(8)


class LinearSpacedBias(ContinuousBias):
    """The offsets themselves."""

    def space(self, coords: Float[Tensor, "offsets 2"]) -> Float[Tensor, "offsets 2"]:
        return coords


class TableBias(PositionBias):
    """A learned number for each head and offset, as in Swin (the paper's "parametrized")."""

    relative_position_index: Tensor

    def __init__(self, num_heads: int, window: Size, pretrained_window: Size) -> None:
        super().__init__()
        self.window = window
        table = torch.empty((2 * window[0] - 1) * (2 * window[1] - 1), num_heads)
        self.relative_position_bias_table = nn.Parameter(nn.init.trunc_normal_(table, std=0.02))
        self.register_buffer("relative_position_index", relative_position_index(window), persistent=False)

    def bias(self) -> Float[Tensor, "h N N"]:
        return look_up(self.relative_position_bias_table, self.relative_position_index)

    def set_window(self, window: Size) -> None:
        table = self.relative_position_bias_table
        resized = resize_bias_table(table.detach(), self.window, window)
        self.relative_position_bias_table = nn.Parameter(resized, requires_grad=table.requires_grad)
        self.relative_position_index = relative_position_index(window).to(table.device)
        self.window = window


class CosineAttention(WindowAttention):
    """softmax(cos(q, k) / τ + B) v, with a learned temperature for each head."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window: Size,
        position_bias: PositionBias,
        qkv_bias: bool,
        attn_drop: float,
        proj_drop: float,
    ) -> None:
        super().__init__(dim, num_heads, window, attn_drop, proj_drop)
        self.logit_scale = nn.Parameter(torch.full((num_heads, 1, 1), math.log(10)))
        self.cpb_mlp = position_bias  # timm's name, whatever the kind
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        # q and v have a bias and k has none, as released: one bias for all three trains otherwise, and does not load.
        self.q_bias = nn.Parameter(torch.zeros(dim)) if qkv_bias else None
        self.v_bias = nn.Parameter(torch.zeros(dim)) if qkv_bias else None

    def heads(self, x: Float[Tensor, "B H W C"]) -> tuple[Tensor, Tensor, Tensor, float]:
        bias = None
        if self.q_bias is not None and self.v_bias is not None:
            bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        q, k, v = (
            split_windows(x, self.window, self.num_heads) for x in F.linear(x, self.qkv.weight, bias).chunk(3, dim=-1)
        )
        return *cosine(q, k, self.logit_scale), v, 1.0

    def bias(self) -> Float[Tensor, "h N N"]:
        return self.cpb_mlp.bias()

    def set_window(self, window: Size) -> None:
        self.window = window
        self.cpb_mlp.set_window(window)


class ResPostNormBlock(WindowBlock):
    """Normalize what attention and MLP add.

    The norms start at 0, and so the block as the identity; otherwise training diverges or trails.
    """

    def __init__(
        self,
        dim: int,
        size: Size,
        shifted: bool,
        attn: WindowAttention,
        mlp_ratio: float,
        proj_drop: float,
        drop_path: float,
    ) -> None:
        super().__init__(dim, size, shifted, attn, mlp_ratio, proj_drop, drop_path)
        for parameter in (*self.norm1.parameters(), *self.norm2.parameters()):
            nn.init.zeros_(parameter)

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


class SwinTransformerV2(HierarchicalBackbone):
    """Encode an image at ever coarser resolutions with blocks that attend within shifted windows.

    Args:
        window_size: one side for all stages, [height, width], or a side a stage. A window larger than a stage's map
            is clamped to it and not shifted; a map it does not divide is padded.
        pretrained_window_sizes: the window of each stage in the training that the weights come from, after clamping
            ([12, 12, 12, 6] for 192 px and window 12), or 0. Without it a larger window is interpolated.
        position_bias: the published, log-spaced one by default.
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
        pretrained_window_sizes: tuple[int, ...] = (0, 0, 0, 0),
        position_bias: type[PositionBias] = LogSpacedBias,
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
        trained_at, beyond = pretrained_window_sizes[: len(depths)], pretrained_window_sizes[len(depths) :]
        if len(trained_at) < len(depths) or min(trained_at) < 0 or any(beyond):  # the default's zeros may be too many
            raise ValueError(f"pretrained_window_sizes {pretrained_window_sizes}: give {len(depths)} sides, or zeros.")
        windows = stage_windows(window_size, len(depths))

        def make_block(stage: int, dim: int, size: Size, shifted: bool, drop_path: float) -> WindowBlock:
            window, _ = clamp_window(size, windows[stage])
            bias = position_bias(num_heads[stage], window, (pretrained_window_sizes[stage],) * 2)
            attn = CosineAttention(dim, num_heads[stage], window, bias, qkv_bias, attn_drop_rate, proj_drop_rate)
            return ResPostNormBlock(dim, size, shifted, attn, mlp_ratio, proj_drop_rate, drop_path)

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
        """The position bias and the temperatures."""
        return {name for name, _ in self.named_parameters() if ".cpb_mlp." in name or name.endswith("logit_scale")}

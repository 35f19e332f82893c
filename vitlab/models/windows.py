"""What Swin and Swin v2 share: attention within shifted windows, position biases, and stages of ever coarser maps.

A map of H × W tokens is padded and cut into windows of wh × ww = N tokens. Shifted blocks roll it before, so that
windows straddle the previous borders; a mask separates tokens that only the roll made neighbors. A position bias is one
number for each head and offset of two tokens, of which a window has (2wh-1)·(2ww-1); a table of them is resized where
the window changes.
"""

import logging
import math
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from inspect import Signature, signature
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitlab.models.backbone import AttentionMap, Backbone, FeatureInfo, Features, recompute_attention
from vitlab.models.impulses import Size, impulse_table
from vitlab.models.layers import (
    DropPath,
    Init,
    Mlp,
    PatchEmbed,
    add_positions,
    check_heads,
    classifier,
    default_init,
    drop_path_rates,
    init_linears,
    new_classifier,
    resample_grid,
    resize_pos_embed,
    run_block,
)

logger = logging.getLogger(__name__)

PositionBias = Literal["none", "absolute", "table", "linear", "log"]
"""How a Swin knows where tokens are: nothing; one position embedding after the patch embedding and no bias of the
attention; or a bias for each head and offset of two tokens: learned numbers (Swin), or a function of the offset or of
its logarithm (Swin v2)."""


def relative_coords(window: Size) -> Float[Tensor, "offsets 2"]:
    """Return all offsets (rows, columns) between two tokens of a window, (2wh-1)·(2ww-1) of them, rows first."""
    rows = torch.arange(1 - window[0], window[0], dtype=torch.float32)
    columns = torch.arange(1 - window[1], window[1], dtype=torch.float32)
    return torch.cartesian_prod(rows, columns)


def relative_position_index(window: Size) -> Int[Tensor, "N N"]:
    """Return which row of `relative_coords` is the offset of query i from key j."""
    rows, columns = torch.cartesian_prod(torch.arange(window[0]), torch.arange(window[1])).unbind(dim=1)
    row_offset = rows[:, None] - rows[None, :] + window[0] - 1
    column_offset = columns[:, None] - columns[None, :] + window[1] - 1
    return row_offset * (2 * window[1] - 1) + column_offset


def look_up(table: Float[Tensor, "offsets h"], index: Int[Tensor, "N N"]) -> Float[Tensor, "h N N"]:
    """Return the bias of each head, query and key: `table[index]`, which takes six times as long."""
    return table.t().index_select(1, index.flatten()).unflatten(1, index.shape)


def zero_bias(num_heads: int, window: Size, device: torch.device) -> Float[Tensor, "h N N"]:
    """Return the bias of an attention that has none."""
    return torch.zeros(num_heads, math.prod(window), math.prod(window), device=device)


def new_bias_table(window: Size, num_heads: int) -> Float[Tensor, "offsets h"]:
    """Return a random bias for each offset within a window and each head."""
    return nn.init.trunc_normal_(torch.empty((2 * window[0] - 1) * (2 * window[1] - 1), num_heads), std=0.02)


def resize_bias_table(
    table: Float[Tensor, "offsets h"], window: Size, new_window: Size
) -> Float[Tensor, "new_offsets h"]:
    """Resize a bias table as an image of offsets whose channels are the heads: bicubic, as in the official code."""
    grid = table.unflatten(0, (2 * window[0] - 1, 2 * window[1] - 1))
    return resample_grid(grid, 2 * new_window[0] - 1, 2 * new_window[1] - 1, antialias=False).flatten(0, 1)


def resize_bias_table_geometrically(
    table: Float[Tensor, "offsets h"], window: Size, new_window: Size
) -> Float[Tensor, "new_offsets h"]:
    """Resize a bias table so that offsets of one token keep their biases and the largest offsets become the largest.

    The old offsets are put at 1, 1 + q, 1 + q + q², …, and a cubic spline is read at whole offsets: `utils.py` of
    SimMIM and of BEiT. Bicubic interpolation stretches all offsets alike.
    """
    from scipy.interpolate import RectBivariateSpline  # takes a second to import

    places = []  # of the rows and of the columns: 0, and on both sides 1 + q + … + q^(i-1) for offset i
    for side, new_side in zip(window, new_window, strict=True):
        low, high = 1.01, 1.5  # within which the released code looks for q
        while high - low > 1e-6:
            q = (low + high) / 2
            low, high = (low, q) if sum(q**i for i in range(side - 1)) > new_side - 1 else (q, high)
        positive = np.cumsum(q ** np.arange(side - 1))
        places.append(np.concatenate([-positive[::-1], [0.0], positive]))
    new_rows, new_columns = (np.arange(1 - side, side) for side in new_window)
    grid = table.double().cpu().numpy().reshape(len(places[0]), len(places[1]), -1)
    (rows, columns), (kx, ky) = places, (min(3, len(along) - 1) for along in places)
    heads = [RectBivariateSpline(rows, columns, head, kx=kx, ky=ky) for head in np.moveaxis(grid, 2, 0)]
    return torch.from_numpy(np.stack([head(new_rows, new_columns) for head in heads], axis=-1)).flatten(0, 1).to(table)


def clamp_window(size: Size, window: Size) -> tuple[Size, Size]:
    """Return the window clamped to the map, and the shift of odd blocks: half a window, 0 if one covers the side."""
    clamped = (min(size[0], window[0]), min(size[1], window[1]))
    shift = (0 if size[0] <= window[0] else window[0] // 2, 0 if size[1] <= window[1] else window[1] // 2)
    return clamped, shift


def shift_mask(
    size: Size, window: Size, shift: Size, device: torch.device | None = None
) -> Float[Tensor, "nW N N"] | None:
    """Return 0 where two tokens of a rolled window are neighbors in the image, else -100; None without a shift.

    -100 instead of -inf, as in the official code: released weights were trained with what leaks through.
    """
    if not any(shift):
        return None
    regions = torch.zeros([-(-side // w) * w for side, w in zip(size, window, strict=True)], device=device)
    for axis, side in enumerate(regions.shape):  # of the padded map
        if shift[axis]:
            position = torch.arange(side, device=device)
            region = (position >= side - window[axis]).float() + (position >= side - shift[axis]).float()
            regions = 3 * regions + (region[:, None] if axis == 0 else region[None, :])
    regions = regions.unflatten(1, (-1, window[1])).unflatten(0, (-1, window[0]))  # (H/wh, wh, W/ww, ww)
    regions = regions.permute(0, 2, 1, 3).flatten(2).flatten(0, 1)  # (nW, N)
    return torch.where(regions[:, :, None] == regions[:, None, :], 0.0, -100.0)


def pad_to_windows(x: Float[Tensor, "B H W C"], window: Size) -> Float[Tensor, "B Hp Wp C"]:
    """Pad with zeros at the bottom and right to a whole number of windows."""
    below, right = -x.shape[1] % window[0], -x.shape[2] % window[1]
    return F.pad(x, (0, 0, 0, right, 0, below)) if below or right else x


def split_windows(x: Float[Tensor, "B H W C"], window: Size, num_heads: int) -> Float[Tensor, "BnW h N d"]:
    """Split a map into windows, row by row, and heads, in one copy."""
    x = x.unflatten(3, (num_heads, -1)).unflatten(2, (-1, window[1])).unflatten(1, (-1, window[0]))
    return x.permute(0, 1, 3, 5, 2, 4, 6).flatten(4, 5).flatten(0, 2)  # from (B, H/wh, wh, W/ww, ww, h, d)


def join_windows(x: Float[Tensor, "BnW h N d"], window: Size, size: Size) -> Float[Tensor, "B H W C"]:
    """Undo `split_windows`, in one copy."""
    x = x.unflatten(2, window).unflatten(0, (-1, size[0] // window[0], size[1] // window[1]))
    return x.permute(0, 1, 4, 2, 5, 3, 6).flatten(5).flatten(3, 4).flatten(1, 2)  # from (B, H/wh, W/ww, h, wh, ww, d)


def in_windows(
    x: Float[Tensor, "B H W C"],
    attn: Callable[[Tensor, Tensor | None], Tensor],
    window: Size,
    shift: Size,
    mask: Float[Tensor, "nW N N"] | None,
) -> Float[Tensor, "B2 H W C2"]:
    """Pad maps to whole windows, roll them by `shift`, apply `attn`, and undo both.

    In this order, as in the official code for detection and in torchvision. timm 1.0 rolls first: the padding then lies
    between the rows that the mask is to separate, and opposite ends of the map attend to each other.
    """
    H, W = x.shape[1], x.shape[2]
    x = pad_to_windows(x, window)
    if any(shift):
        x = torch.roll(x, (-shift[0], -shift[1]), dims=(1, 2))
    x = attn(x, mask)
    if any(shift):
        x = torch.roll(x, shift, dims=(1, 2))
    return x[:, :H, :W]


def attend(
    q: Float[Tensor, "BnW h N d"],
    k: Float[Tensor, "BnW h N d"],
    v: Float[Tensor, "BnW h N d"],
    bias: Float[Tensor, "h N N"],
    mask: Float[Tensor, "nW N N"] | None,
    scale: float,
    dropout: float,
) -> Float[Tensor, "BnW h N d"]:
    """Return softmax(scale · q kᵀ + bias + mask) v; bias and mask broadcast over images without a copy."""
    attn_mask = (bias.unsqueeze(0) if mask is None else bias + mask.unsqueeze(1)).to(q.dtype)  # (1 or nW, h, N, N)
    if q.is_cpu and attn_mask.requires_grad:
        # No fused kernel for the CPU has a gradient for the bias. PyTorch's fallback computes in float32 and searches
        # for fully masked rows, which a window never has.
        weights = attention_weights(q, k, attn_mask, scale)
        return (F.dropout(weights, dropout) @ v.unflatten(0, weights.shape[:2])).flatten(0, 1)
    if mask is None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, dropout_p=dropout, scale=scale)
    # The windows of an image become heads: the mask then differs along the heads alone and broadcasts.
    q, k, v = (x.unflatten(0, (-1, len(mask))).flatten(1, 2) for x in (q, k, v))  # (B, nW·h, N, d)
    attn_mask = attn_mask.flatten(0, 1).unsqueeze(0)
    x = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, dropout_p=dropout, scale=scale)
    return x.unflatten(1, (len(mask), -1)).flatten(0, 1)


def attention_weights(
    q: Float[Tensor, "BnW h N d"], k: Float[Tensor, "BnW h N d"], attn_mask: Float[Tensor, "nW h N N"], scale: float
) -> Float[Tensor, "B nW h N N"]:
    """Return softmax(scale · q kᵀ + attn_mask), in the precision of q."""
    q, k = (x.unflatten(0, (-1, len(attn_mask))) for x in (q if scale == 1 else q * scale, k))
    return (q @ k.transpose(-2, -1)).add_(attn_mask).softmax(dim=-1, dtype=q.dtype)


class WindowAttention(nn.Module, ABC):
    """Multi-head self-attention within windows: softmax(s q kᵀ + B) v; Swin and Swin v2 differ in q, k and B.

    A subclass registers its own parameters, and writes the five abstract methods.
    """

    def __init__(self, dim: int, num_heads: int, window: Size, attn_drop: float, proj_drop: float) -> None:
        super().__init__()
        self.num_heads, self.window, self.attn_drop = num_heads, window, attn_drop
        self.kept_bias: Tensor | None = None
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    @abstractmethod
    def project_qkv(self, x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H W 3*C"]:
        """Return q, k and v of each token."""

    @abstractmethod
    def scaled(self, q: Float[Tensor, "BnW h N d"], k: Float[Tensor, "BnW h N d"]) -> tuple[Tensor, Tensor, float]:
        """Return q, k and s so that the similarity is s q kᵀ."""

    @abstractmethod
    def bias(self) -> Float[Tensor, "h N N"]:
        """Return B of each head, query and key."""

    @abstractmethod
    def set_bias(self, table: Float[Tensor, "offsets h"]) -> None:
        """Start training from these biases."""

    @abstractmethod
    def set_window(self, window: Size) -> None:
        """Change the window, and what B is made of."""

    @torch.no_grad()
    def start_with_impulses(self, distance: int) -> None:
        """Let each head start by attending to a neighbor `distance` tokens away."""
        if not self.proj.weight.is_meta:
            self.set_bias(impulse_table(self.window, self.num_heads, distance))

    def heads(
        self, x: Float[Tensor, "B H W C"], window: Size
    ) -> tuple[Tensor, Tensor, Tensor, float, Float[Tensor, "h N N"]]:
        """Return q, k, v as (B·nW, h, N, d), s, and B; in a smaller window an offset has the same bias."""
        q, k, v = (split_windows(part, window, self.num_heads) for part in self.project_qkv(x).chunk(3, dim=-1))
        bias = self.bias() if self.kept_bias is None else self.kept_bias
        if window != self.window:
            h, w = window
            bias = bias.unflatten(2, self.window).unflatten(1, self.window)  # (heads, wh, ww, wh, ww)
            bias = bias[:, :h, :w, :h, :w].flatten(3).flatten(1, 2)
        q, k, scale = self.scaled(q, k)
        return q, k, v, scale, bias

    def forward(
        self, x: Float[Tensor, "B H W C"], mask: Float[Tensor, "nW N N"] | None, window: Size | None = None
    ) -> Float[Tensor, "B H W C"]:
        window = window or self.window
        q, k, v, scale, bias = self.heads(x, window)  # (B·nW, h, N, d)
        x_new = attend(q, k, v, bias, mask, scale, self.attn_drop if self.training else 0.0)
        return self.proj_drop(self.proj(join_windows(x_new, window, (x.shape[1], x.shape[2]))))

    def attention_probs(
        self, x: Float[Tensor, "B H W C"], mask: Float[Tensor, "nW N N"] | None, window: Size | None = None
    ) -> Float[Tensor, "BnW h N N"]:
        """Return the attention that `forward` applies."""
        q, k, _, scale, bias = self.heads(x, window or self.window)
        attn_mask = bias.unsqueeze(0) if mask is None else bias + mask.unsqueeze(1)
        return attention_weights(q, k, attn_mask, scale).flatten(0, 1)


class WindowBlock(nn.Module, ABC):
    """Attention in windows, shifted in every second block, and an MLP; a subclass says where the norms are.

    On a map smaller than expected, windows stay as they are and the map is padded, as the released codes of EsViT and
    iBOT do for small crops; or, with `clamps`, one that covers a side is clamped to it and not shifted.
    """

    attn_mask: Tensor | None
    clamps = False

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
        super().__init__()
        self.shifted = shifted
        self.norm1 = nn.LayerNorm(dim)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), proj_drop)
        self.drop_path = DropPath(drop_path)
        self.set_input_size(size, attn.window)

    @abstractmethod
    def forward(self, x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H W C"]: ...

    def attend(self, x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H W C"]:
        """Attend within windows of a map of any size; one of another size than expected gets its own mask."""
        size = (x.shape[1], x.shape[2])
        window, shift = self.windows_on(size)
        mask = self.attn_mask if size == self.size else shift_mask(size, window, shift, x.device)
        return in_windows(x, lambda x, mask: self.attn(x, mask, window), window, shift, mask)

    def windows_on(self, size: Size) -> tuple[Size, Size]:
        """Return the window and the shift on a map of any size."""
        window, shift = self.attn.window, self.shift
        if not self.clamps:
            return window, shift
        return clamp_window(size, window)[0], (shift[0] * (size[0] > window[0]), shift[1] * (size[1] > window[1]))

    def set_input_size(self, size: Size, window: Size) -> None:
        """Change the expected size of the map, and the window."""
        window, shift = clamp_window(size, window)
        self.size, self.shift = size, shift if self.shifted else (0, 0)
        if window != self.attn.window:
            self.attn.set_window(window)
        mask = shift_mask(size, window, self.shift, self.norm1.weight.device)
        self.register_buffer("attn_mask", mask, persistent=False)


def windows_on_map(
    weights: Float[Tensor, "BnW h N N"], window: Size, shift: Size, size: Size
) -> tuple[Float[Tensor, "B h HW N"], Int[Tensor, "HW N"]]:
    """Return the weights at the places of their queries on a map of `size`, and the place of each key, -1 for padding.

    Both pass through `in_windows` like the tokens: first the weights, then the numbers of the places.
    """

    def put_weights(padded: Tensor, _: Tensor | None) -> Tensor:
        return join_windows(weights, window, (padded.shape[1], padded.shape[2]))  # (B, H, W, h·N)

    def put_keys(padded: Tensor, _: Tensor | None) -> Tensor:
        keys = split_windows(padded, window, 1).transpose(2, 3)  # (nW, 1, 1, N)
        return join_windows(keys.expand(-1, -1, keys.shape[3], -1), window, (padded.shape[1], padded.shape[2]))

    places = torch.arange(1.0, size[0] * size[1] + 1, device=weights.device).view(1, *size, 1)  # padding has 0
    on_map, keys = (in_windows(places, put, window, shift, None).flatten(1, 2) for put in (put_weights, put_keys))
    return on_map.unflatten(2, (weights.shape[1], -1)).transpose(1, 2), keys[0].long() - 1


class ScaledUnit(torch.autograd.Function):
    """y = s · x / |x| and 1 / |x|, of which y has a gradient; they and s are stored for the backward pass."""

    @staticmethod
    def forward(x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        precision = torch.promote_types(x.dtype, torch.float32)
        inverse = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=precision).clamp(min=1e-12).reciprocal()
        return x * (scale * inverse).to(x.dtype), inverse

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*output, inputs[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        """dx = s/|x| · (g - u (u·g)) and ds = u·g, with u = x / |x| = y / s."""
        y, inverse, scale = ctx.saved_tensors
        along = (grad * y).sum(dim=-1, keepdim=True, dtype=inverse.dtype) / scale  # u·g
        grad_x = grad * (scale * inverse).to(grad.dtype)
        return grad_x.addcmul_(y, (inverse * along).to(y.dtype), value=-1), along.sum_to_size(scale.shape)


def cosine(
    q: Float[Tensor, "BnW h N d"], k: Float[Tensor, "BnW h N d"], logit_scale: Float[Tensor, "h 1 1"]
) -> tuple[Tensor, Tensor]:
    """Scale q and k so that q kᵀ is cos(q, k) / τ, with 1/τ = exp(min(logit_scale, log 100)) folded into q.

    The clamp is on the logarithm and has no lower bound (official swin_transformer_v2.py:156).
    """
    scale = logit_scale.clamp(max=math.log(100)).exp()
    # The compiler fuses plain operations with what is around them, and stores less.
    unit = ScaledUnit.forward if torch.compiler.is_compiling() else ScaledUnit.apply
    return unit(q, scale)[0], unit(k, torch.ones_like(scale))[0]


def stage_windows(window_size: int | Sequence[int], num_stages: int) -> list[Size]:
    """Return (height, width) of each stage's window, from one side, [height, width], or three or more stages' sides."""
    sides = [window_size] * num_stages if isinstance(window_size, int) else list(window_size)
    windows = [(sides[0], sides[1])] * num_stages if len(sides) == 2 else [(side, side) for side in sides]
    if len(windows) != num_stages or any(side < 1 for window in windows for side in window):
        raise ValueError(f"window_size {window_size}: give one side, [height, width], or {num_stages} sides above 0.")
    return windows


def stage_maps(grid: Size, num_stages: int) -> list[Size]:
    """Return each stage's map of tokens: halved by every patch merging, an odd side rounded up."""
    return [(math.ceil(grid[0] / 2**i), math.ceil(grid[1] / 2**i)) for i in range(num_stages)]


def grown_windows(windows: Sequence[Size], old: Size, new: Size) -> list[Size]:
    """Return each stage's window grown in proportion from an old grid of tokens to a new one."""
    return [(max(1, h * new[0] // old[0]), max(1, w * new[1] // old[1])) for h, w in windows]


@cache  # once for each combination, not for every model of a study
def warn_of_misfits(maps: tuple[Size, ...], windows: tuple[Size, ...]) -> None:
    """Log the windows that are larger than their maps and those that do not divide them."""
    pairs = list(zip(maps, windows, strict=True))
    small = [(m, w) for m, w in pairs if m[0] < w[0] or m[1] < w[1]]
    uneven = [(m, w) for m, w in pairs if (m[0] > w[0] and m[0] % w[0]) or (m[1] > w[1] and m[1] % w[1])]
    for message, misfits in {
        "Windows larger than their maps are clamped to them and not shifted": small,
        "Windows that do not divide their maps have these padded with zeros": uneven,
    }.items():
        if misfits:
            sizes = ", ".join(f"{w[0]}×{w[1]} on a map of {m[0]}×{m[1]}" for m, w in misfits)
            logger.warning("%s: %s.", message, sizes)


def merge_2x2(x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H2 W2 4*C"]:
    """Concatenate each 2 × 2 neighborhood column by column: offsets (0,0), (1,0), (0,1), (1,1) as (row, column).

    `nn.Unfold` goes row by row: released weights would load, and give wrong results.
    """
    x = pad_to_windows(x, (2, 2))
    return x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).permute(0, 1, 3, 4, 2, 5).flatten(3)


class Stage(nn.Module):
    """Patch merging, except in the first stage, and the blocks of one resolution."""

    def __init__(self, downsample: nn.Module, blocks: list[WindowBlock], grad_checkpointing: bool) -> None:
        super().__init__()
        self.downsample, self.blocks = downsample, nn.ModuleList(blocks)
        self.grad_checkpointing = grad_checkpointing

    def forward(self, x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H2 W2 C2"]:
        x = self.downsample(x)
        for block in self.blocks:
            x = run_block(block, x, self.grad_checkpointing)
        return x


class StagedTransformer(Backbone):
    """What Swin and Swin v2 have in common; they add their attention, their blocks and their patch merging.

    Args:
        window_size: one side for all stages, [height, width], or one side per stage of three or more. A window larger
            than its map is clamped to it and not shifted; a map that the window does not divide is padded.
        shift: false shifts no block's windows.
        dynamic_img_size: accept images of other sizes with the windows chosen for `img_size`. On by default, unlike
            timm, because multi-crop objectives call one model on two sizes.
        dynamic_img_pad: zero-pad images whose sides are not multiples of the patch at the bottom and right.
        init: initializes linear layers; by default timm's `trunc_normal`, and `fan_in` below Swin-T's width of 96.
        impulses: distance in tokens, like 1, of the neighbor that each head attends to at the start, see
            `vitlab.models.impulses`; 0, as published: none.
        grad_checkpointing: recompute each block's activations in the backward pass instead of storing them.
    """

    merging: Callable[[int], nn.Module]  # of a width
    new_block: Callable[..., WindowBlock]  # from the arguments of WindowBlock
    table_resize = "bicubic"  # of a table of position biases

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
        *,
        position_bias: PositionBias = "table",
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
        super().__init__()
        if len(depths) != len(num_heads):
            raise ValueError(f"depths {tuple(depths)} and num_heads {tuple(num_heads)} must name the same stages.")
        for i, heads in enumerate(num_heads):
            check_heads(embed_dim * 2**i, heads, f"embed_dim {embed_dim}, in stage {i + 1} a width")
        self.num_classes, self.in_chans, self.num_features = num_classes, in_chans, embed_dim * 2 ** (len(depths) - 1)
        self.windows, self.init = stage_windows(window_size, len(depths)), init or default_init(embed_dim, published=96)
        norm = nn.LayerNorm(embed_dim)
        self.patch_embed = PatchEmbed(
            img_size, patch_size, in_chans, embed_dim, norm, dynamic_img_size, dynamic_img_pad
        )
        self.img_size, maps = self.patch_embed.img_size, stage_maps(self.patch_embed.grid_size, len(depths))
        warn_of_misfits(tuple(maps), tuple(self.windows))
        rates = iter(drop_path_rates(drop_path_rate, sum(depths)))
        self.layers = nn.ModuleList()
        for i, (depth, heads, size) in enumerate(zip(depths, num_heads, maps, strict=True)):
            dim, (window, _) = embed_dim * 2**i, clamp_window(size, self.windows[i])
            blocks = []
            for j in range(depth):
                attn = self.new_attention(i, dim, heads, window, qkv_bias, attn_drop_rate, proj_drop_rate)
                shifted = shift and j % 2 == 1
                blocks.append(self.new_block(dim, size, shifted, attn, mlp_ratio, proj_drop_rate, next(rates)))
            downsample = self.merging(dim // 2) if i else nn.Identity()
            self.layers.append(Stage(downsample, blocks, grad_checkpointing))
        self.norm = nn.LayerNorm(self.num_features)
        fc = classifier(self.num_features, num_classes)
        self.head = nn.Sequential(OrderedDict(drop=nn.Dropout(drop_rate), fc=fc))
        for part in (self.head, self.layers):  # in the order of earlier versions' random draws
            init_linears(part, self.init)
        if impulses and position_bias in ("none", "absolute"):
            raise ValueError(f"impulses need a bias of the attention, which position_bias {position_bias} has not.")
        for block in self.blocks if impulses else ():
            block.attn.start_with_impulses(impulses)
        self.pos_embed = None
        if position_bias == "absolute":  # the official code's `ape`
            N = self.patch_embed.grid_size[0] * self.patch_embed.grid_size[1]
            self.pos_embed = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, N, embed_dim), std=0.02))

    def __init_subclass__(cls) -> None:
        """Show in a subclass's signature the arguments that it passes on; named sizes, exports and editors read it."""
        own = dict(signature(cls.__init__).parameters)
        known = dict(signature(cls.__mro__[1]).parameters) | own if "kwargs" in own else own
        named = [each for name, each in known.items() if name not in ("self", "args", "kwargs")]
        cls.__signature__ = Signature(sorted(named, key=lambda each: each.kind))  # type: ignore[attr-defined]

    @abstractmethod
    def new_attention(self, stage: int, dim: int, num_heads: int, window: Size, *rest: Any) -> WindowAttention:
        """Return the attention of a block; `rest` are `qkv_bias` and the rates of dropout, on weights and outputs."""

    @property
    def blocks(self) -> list[Any]:  # type: ignore[override]  # timm's names have the blocks in stages
        return [block for stage in self.layers for block in stage.blocks]  # type: ignore[union-attr]

    @property
    def stride(self) -> int:
        return self.patch_size * 2 ** (len(self.layers) - 1)

    def add_pos_embed(self, tokens: Float[Tensor, "B H W D"]) -> Float[Tensor, "B H W D"]:
        grid = self.patch_embed.grid_size
        return tokens if self.pos_embed is None else add_positions(tokens, self.pos_embed, grid)

    def encode(self, tokens: Float[Tensor, "B H W D"]) -> Features:
        """Run the stages on a whole map: windows and merging need neighbors, so subsets of tokens do not work."""
        for stage in self.layers:
            tokens = stage(tokens)
        patches = self.norm(tokens).flatten(1, 2)  # (B, N, C)
        return Features(prefix=patches[:, :0], patches=patches)

    def reset_classifier(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.head.fc = new_classifier(self.num_features, num_classes, self.init, like=self.norm.weight)

    def no_weight_decay(self) -> set[str]:
        """The parameters of positions, and the temperatures of cosine attention."""
        ends = ("pos_embed", "relative_position_bias_table", "logit_scale")
        return {name for name, _ in self.named_parameters() if ".cpb_mlp." in name or name.endswith(ends)}

    @property
    def feature_info(self) -> list[FeatureInfo]:
        """Of each resolution, which has half the sides and twice the width of the one before."""
        width, patch = self.patch_embed.proj.out_channels, self.patch_size
        return [
            FeatureInfo(module=f"layers.{i}", num_chs=width * 2**i, reduction=patch * 2**i)
            for i in range(len(self.layers))
        ]

    @contextmanager
    def biases_kept(self) -> Iterator[None]:
        """Compute each position bias once for all forwards inside; the weights must not change."""
        attentions = [block.attn for block in self.blocks]
        try:
            for attention in attentions:
                attention.kept_bias = attention.bias().detach()
            yield
        finally:
            for attention in attentions:
                attention.kept_bias = None

    def attention_maps(self, images: Float[Tensor, "B Cin Hpx Wpx"]) -> list[AttentionMap]:
        """Return each block's attention within the windows of its stage's map."""
        probs = iter(recompute_attention(self, [block.attn for block in self.blocks], images))
        maps = []
        for i, size in enumerate(stage_maps(self.patch_embed.grid_of(images), len(self.layers))):
            for block in self.layers[i].blocks:  # type: ignore[union-attr]
                window, shift = block.windows_on(size)
                weights, keys = windows_on_map(next(probs), window, shift, size)
                maps.append(AttentionMap(weights, keys, size, self.patch_size * 2**i))
        return maps

    def set_input_size(self, img_size: int | Size, window_size: int | Sequence[int] | None = None) -> None:
        """Rebuild a trained model for images of another size; windows grow with them unless `window_size` is given.

        As in timm, a continuous bias is then relative to the new window. With `pretrained_window_sizes` it
        extrapolates, which is Swin v2's transfer.
        """
        old, new, stages = self.patch_embed.grid_size, self.patch_embed.grid_at(img_size), len(self.layers)
        if window_size is None:
            self.windows = grown_windows(self.windows, old, new)
        else:  # first, because it may refuse
            self.windows = stage_windows(window_size, stages)
        self.patch_embed.set_input_size(img_size)
        if self.pos_embed is not None:
            self.pos_embed.data = resize_pos_embed(self.pos_embed.data, 0, old, new)
        self.img_size, maps = self.patch_embed.img_size, stage_maps(new, stages)
        warn_of_misfits(tuple(maps), tuple(self.windows))
        for stage, size, window in zip(self.layers, maps, self.windows, strict=True):
            for block in stage.blocks:  # type: ignore[union-attr]
                block.set_input_size(size, window)

    def resized(self, name: str, tensor: Tensor) -> Tensor | None:
        """Resize positions, or a bias table that was trained with a square window; continuous biases have no need."""
        owner, _, kind = name.rpartition(".")
        if kind != "relative_position_bias_table":
            return super().resized(name, tensor)
        side = (math.isqrt(len(tensor)) + 1) // 2  # a window of s has (2s - 1)² offsets
        heads = self.get_parameter(name).shape[1]
        if tensor.ndim != 2 or tensor.shape[1] != heads or (2 * side - 1) ** 2 != len(tensor):
            return None
        geometric = self.table_resize == "geometric" and side > 1
        resize = resize_bias_table_geometrically if geometric else resize_bias_table
        return resize(tensor, (side, side), self.get_submodule(owner).window)  # type: ignore[arg-type]

    def arguments_at(self, img_size: int, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Let windows grow with the images."""
        grown = grown_windows(self.windows, self.patch_embed.grid_size, self.patch_embed.grid_at(img_size))
        setting = [*grown[0]] if len(set(grown)) == 1 else [height for height, _ in grown]
        return {"img_size": img_size, "window_size": setting}

    def describe(self) -> dict[str, str]:
        return {"window": "×".join(map(str, dict.fromkeys(self.blocks[0].attn.window)))}

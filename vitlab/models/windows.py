"""The geometry of shifted windows, which Swin and Swin v2 share.

A map of H × W tokens is cut into windows of wh × ww = N tokens. Shifted blocks roll the map first, so that windows
straddle the previous borders; a mask separates tokens that only the roll made neighbors.
"""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitlab.models.layers import check_heads, resample_grid

Size = tuple[int, int]

PositionBias = Literal["none", "absolute", "table", "linear", "log"]
"""How a Swin knows where tokens are: nothing; one position embedding after the patch embedding and no bias of the
attention; or a bias for each head and offset of two tokens: learned numbers (Swin), or a function of the offset or of
its logarithm (Swin v2)."""

logger = logging.getLogger(__name__)


def check_stages(embed_dim: int, depths: Sequence[int], num_heads: Sequence[int]) -> None:
    """Raise a ValueError unless the depths, widths and heads of the stages fit together."""
    if not depths or min(depths) < 1 or len(depths) != len(num_heads):
        stages = f"depths {tuple(depths)} and num_heads {tuple(num_heads)}"
        raise ValueError(f"{stages} must name the same stages, each of at least one block.")
    for i, heads in enumerate(num_heads):
        check_heads(embed_dim * 2**i, heads, f"embed_dim {embed_dim}, in stage {i + 1} a width")


def check_position_bias(kind: str, kinds: Sequence[str]) -> None:
    """Raise a ValueError unless a model has this kind of position bias."""
    if kind not in kinds:
        raise ValueError(f"position_bias is {kind}; this model has {', '.join(kinds)}.")


def stage_windows(window_size: int | Sequence[int], num_stages: int) -> list[Size]:
    """Return (height, width) of each stage's window, from one side, one [height, width], or one side per stage."""
    sides = [window_size] * num_stages if isinstance(window_size, int) else list(window_size)
    windows = [(sides[0], sides[1])] * num_stages if len(sides) == 2 else [(side, side) for side in sides]
    if len(windows) != num_stages or any(side < 1 for window in windows for side in window):
        raise ValueError(
            f"window_size {window_size} for {num_stages} stages: "
            f"give one side, [height, width], or {num_stages} sides, each at least 1."
        )
    return windows


def stage_maps(grid: Size, num_stages: int) -> list[Size]:
    """Return each stage's map of tokens: halved by every patch merging, an odd side rounded up."""
    return [(math.ceil(grid[0] / 2**i), math.ceil(grid[1] / 2**i)) for i in range(num_stages)]


def windows_setting(windows: Sequence[Size]) -> list[int]:
    """Return the `window_size` from which `stage_windows` makes these windows."""
    return list(windows[0]) if len(set(windows)) == 1 else [height for height, _ in windows]


def grown_windows(windows: Sequence[Size], old: Size, new: Size) -> list[Size]:
    """Return each stage's window grown in proportion from an old grid of tokens to a new one."""
    return [(max(1, h * new[0] // old[0]), max(1, w * new[1] // old[1])) for h, w in windows]


def warn_of_misfits(maps: Iterable[Size], windows: Iterable[Size]) -> None:
    """Log the windows that are larger than their maps and those that do not divide them."""
    _warn_of_misfits(tuple(maps), tuple(windows))


@cache  # once for each combination, not for every model of a study
def _warn_of_misfits(maps: tuple[Size, ...], windows: tuple[Size, ...]) -> None:
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


def clamp_window(size: Size, window: Size) -> tuple[Size, Size]:
    """Return the window clamped to the map, and the shift of odd blocks: half a window, 0 if one covers the side."""
    clamped = (min(size[0], window[0]), min(size[1], window[1]))
    shift = (0 if size[0] <= window[0] else window[0] // 2, 0 if size[1] <= window[1] else window[1] // 2)
    return clamped, shift


def relative_coords(window: Size) -> Float[Tensor, "offsets 2"]:
    """Return all offsets (rows, columns) between two tokens of a window, (2wh-1)·(2ww-1) of them, rows first."""
    rows = torch.arange(1 - window[0], window[0], dtype=torch.float32)
    columns = torch.arange(1 - window[1], window[1], dtype=torch.float32)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)


def relative_position_index(window: Size) -> Int[Tensor, "N N"]:
    """Return which row of `relative_coords` is the offset of query i from key j."""
    rows, columns = torch.meshgrid(torch.arange(window[0]), torch.arange(window[1]), indexing="ij")
    rows, columns = rows.flatten(), columns.flatten()
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

    sides = zip(window, new_window, strict=True)
    rows, columns = (_geometric_places(side - 1, new_side - 1) for side, new_side in sides)
    new_rows, new_columns = (np.arange(1 - side, side) for side in new_window)
    grid = table.double().cpu().numpy().reshape(len(rows), len(columns), -1)
    kx, ky = min(3, len(rows) - 1), min(3, len(columns) - 1)
    heads = [RectBivariateSpline(rows, columns, head, kx=kx, ky=ky) for head in np.moveaxis(grid, 2, 0)]
    return torch.from_numpy(np.stack([head(new_rows, new_columns) for head in heads], axis=-1)).flatten(0, 1).to(table)


def _geometric_places(count: int, reach: int) -> Float[np.ndarray, "places"]:
    """Return 1 + q + … + q^(i-1) for offset i from 1 to `count`, mirrored and with 0; of the last this is `reach`."""
    low, high = 1.01, 1.5  # within which the released code looks for q
    while high - low > 1e-6:
        q = (low + high) / 2
        low, high = (low, q) if sum(q**i for i in range(count)) > reach else (q, high)
    places = np.cumsum(q ** np.arange(count))
    return np.concatenate([-places[::-1], [0.0], places])


def fit_bias_table(
    tensor: Tensor, table: Float[Tensor, "offsets h"], window: Size, geometric: bool = False
) -> Tensor | None:
    """Resize the bias table of a file, of a square window, to the shape of `table`; None if it is not such a table."""
    side = (math.isqrt(len(tensor)) + 1) // 2  # a window of s has (2s - 1)² offsets
    if tensor.ndim != 2 or tensor.shape[1] != table.shape[1] or (2 * side - 1) ** 2 != len(tensor):
        return None
    resize = resize_bias_table_geometrically if geometric and side > 1 else resize_bias_table
    return resize(tensor, (side, side), window)


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
    """Roll maps by `shift`, pad them to whole windows, apply `attn`, and undo both."""
    H, W = x.shape[1], x.shape[2]
    if any(shift):
        x = torch.roll(x, (-shift[0], -shift[1]), dims=(1, 2))
    x = attn(pad_to_windows(x, window), mask)[:, :H, :W]
    return torch.roll(x, shift, dims=(1, 2)) if any(shift) else x


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


@contextmanager
def kept_biases(attentions: Iterable[nn.Module]) -> Iterator[None]:
    """Compute the position bias of each attention once for all forwards inside; the weights must not change."""
    attentions = list(attentions)
    try:
        for attention in attentions:
            attention.kept_bias = attention.bias().detach()  # type: ignore[operator]
        yield
    finally:
        for attention in attentions:
            attention.kept_bias = None  # type: ignore[assignment]


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


def merge_2x2(x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H2 W2 4*C"]:
    """Concatenate each 2 × 2 neighborhood column by column: offsets (0,0), (1,0), (0,1), (1,1) as (row, column).

    `nn.Unfold` goes row by row: released weights would load, and give wrong results.
    """
    x = pad_to_windows(x, (2, 2))
    return x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).permute(0, 1, 3, 4, 2, 5).flatten(3)


class ScaledUnit(torch.autograd.Function):
    """y = s · x / |x|, which stores y, 1/|x| and s for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        precision = torch.promote_types(x.dtype, torch.float32)
        inverse = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=precision).clamp(min=1e-12).reciprocal()
        y = x * (scale * inverse).to(x.dtype)
        ctx.save_for_backward(y, inverse, scale)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
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
    return ScaledUnit.apply(q, scale), ScaledUnit.apply(k, torch.ones_like(scale))

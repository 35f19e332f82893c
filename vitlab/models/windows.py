"""Attention within shifted windows: the geometry and the modules that Swin and Swin v2 share.

A map of H × W tokens is padded and cut into windows of wh × ww = N tokens. Shifted blocks roll it before, so that
windows straddle the previous borders; a mask separates tokens that only the roll made neighbors.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitlab.models.bias_tables import Size
from vitlab.models.impulses import impulse_table
from vitlab.models.layers import DropPath, Mlp, check_rate

PositionBias = Literal["none", "absolute", "table", "linear", "log"]
"""How a Swin knows where tokens are: nothing; one position embedding after the patch embedding and no bias of the
attention; or a bias for each head and offset of two tokens: learned numbers (Swin), or a function of the offset or of
its logarithm (Swin v2)."""


def check_position_bias(kind: str, kinds: Sequence[str]) -> None:
    """Raise a ValueError unless a model has this kind of position bias."""
    if kind not in kinds:
        raise ValueError(f"position_bias is {kind}; this model has {', '.join(kinds)}.")


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
        check_rate(attn_drop, "attn_drop_rate")
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


@torch.no_grad()
def start_biases_with_impulses(blocks: Iterable[WindowBlock], distance: int, position_bias: PositionBias) -> None:
    """Let each head start by attending to a neighbor `distance` tokens away; 0 leaves the biases as they are."""
    if distance and position_bias in ("none", "absolute"):
        raise ValueError(f"impulses need a bias of the attention, which position_bias {position_bias} has not.")
    for block in blocks if distance else ():
        if not block.attn.proj.weight.is_meta:
            block.attn.set_bias(impulse_table(block.attn.window, block.attn.num_heads, distance))


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

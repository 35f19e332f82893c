"""Random masking of image patches.

A mask is bool, True = hidden; `keep` are the indices of visible tokens. Random numbers come from the device's global
generator, whose state is part of checkpoints, unless a generator is given.

Letters: B images, C channels, N patches or tokens, K of them kept, D width, p pixels a patch side, V = p·p·C.
"""

import math
import random

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from vitlab.models import Backbone

ASPECT = math.log(0.3), math.log(1 / 0.3)  # of a rectangle, height to width


def patchify(images: Float[Tensor, "B C H W"], patch_size: int) -> Float[Tensor, "B N V"]:
    """Cut images into patches, rows first; within a patch rows, columns, then channels (MAE's order)."""
    p = patch_size
    patches = images.unflatten(3, (-1, p)).unflatten(2, (-1, p))  # (B, C, h, p, w, p)
    return patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def unpatchify(patches: Shaped[Tensor, "B N V"], patch_size: int, height: int, width: int) -> Shaped[Tensor, "B C H W"]:
    """Invert `patchify` for `height` × `width` patches."""
    p = patch_size
    grid = patches.unflatten(1, (height, width)).unflatten(3, (p, p, -1))  # (B, h, w, p, p, C)
    return grid.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def num_hidden(num_tokens: int, mask_ratio: float) -> int:
    """Return N·ratio, rounded. MAE's number of visible tokens, `int(N · (1 − ratio))`, suffers from float error: 9 of
    100 at a ratio of 0.9."""
    return round(num_tokens * mask_ratio)


def num_hidden_blocks(num_blocks: int, mask_ratio: float) -> int:
    """Return N·ratio, rounded up as in SimMIM, with a tolerance for float error."""
    return math.ceil(num_blocks * mask_ratio - 1e-9)


def random_masking(
    batch: int,
    num_tokens: int,
    mask_ratio: float,
    device: torch.device | str | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Int[Tensor, "B K"], Bool[Tensor, "B N"]]:
    """Hide the same number of tokens in every image, uniformly at random; return (keep, mask), `keep` ascending."""
    return _hide(batch, num_tokens, num_hidden(num_tokens, mask_ratio), device, generator)


def block_masking(
    batch: int,
    height: int,
    width: int,
    block: int,
    mask_ratio: float,
    device: torch.device | str | None = None,
    generator: torch.Generator | None = None,
) -> Bool[Tensor, "B height width"]:
    """Hide whole blocks of `block` × `block` tokens of a grid, the same number in every image (SimMIM)."""
    rows, columns = height // block, width // block
    assert (rows * block, columns * block) == (height, width), f"blocks of {block} do not fill {height} × {width}"
    hidden = num_hidden_blocks(rows * columns, mask_ratio)
    _, mask = _hide(batch, rows * columns, hidden, device, generator)
    return enlarge(mask.unflatten(1, (rows, columns)), block)


def uniform_masking(
    batch: int,
    height: int,
    width: int,
    device: torch.device | str | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Int[Tensor, "B K"], Bool[Tensor, "B N"]]:
    """Keep one patch of each 2 × 2, at random (UM-MAE); return (keep, mask), `keep` by the order of the 2 × 2."""
    assert height % 2 == width % 2 == 0, f"2 × 2 patches do not fill {height} × {width}"
    choice = (4 * torch.rand(batch, height // 2, width // 2, device=device, generator=generator)).long()
    rows = 2 * torch.arange(height // 2, device=device)[:, None] + choice // 2
    columns = 2 * torch.arange(width // 2, device=device) + choice % 2
    keep = (width * rows + columns).flatten(1)  # (B, K)
    mask = torch.ones(batch, height * width, dtype=torch.bool, device=device).scatter(1, keep, False)
    return keep, mask


def compact(tokens: Float[Tensor, "B H W D"], keep: Int[Tensor, "B K"], side: int) -> Float[Tensor, "B _ _ D"]:
    """Return the map of half the size that consists of the patches that `uniform_masking` keeps.

    Args:
        side: of a patch, in tokens.
    """
    patches = tokens.unflatten(2, (-1, side)).unflatten(1, (-1, side)).transpose(2, 3)  # (B, h, w, side, side, D)
    half = patches.shape[1] // 2, patches.shape[2] // 2
    kept = patches.flatten(3).flatten(1, 2).gather(1, keep[:, :, None].expand(-1, -1, patches[0, 0, 0].numel()))
    kept = kept.unflatten(2, patches.shape[3:]).unflatten(1, half)  # (B, h/2, w/2, side, side, D)
    return kept.transpose(2, 3).flatten(3, 4).flatten(1, 2)


@torch.compiler.disable  # draws with Python's generator, which torch.compile cannot trace
def rectangles(
    height: int, width: int, count: float, least: int, rng: random.Random
) -> Bool[np.ndarray, "height width"]:
    """Hide up to `count` patches of a grid by rectangles of `least` patches or more (BEiT's algorithm).

    Each is drawn up to ten times, until it hides a new patch and not too many; when that fails, fewer are hidden.
    """
    mask, left = np.zeros((height, width), dtype=bool), count
    while left > 0:
        for _ in range(10):
            area, aspect = rng.uniform(least, left), math.exp(rng.uniform(*ASPECT))
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if h >= height or w >= width:
                continue
            y, x = rng.randint(0, height - h), rng.randint(0, width - w)
            part = mask[y : y + h, x : x + w]
            if 0 < (new := part.size - int(part.sum())) <= left:
                part[:] = True
                left -= new
                break
        else:
            break
    return mask


def _hide(
    batch: int, num_tokens: int, hidden: int, device: torch.device | str | None, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    order = torch.rand(batch, num_tokens, device=device, generator=generator).argsort(dim=1)
    keep = order[:, hidden:].sort(dim=1).values  # (B, K)
    mask = torch.ones(batch, num_tokens, dtype=torch.bool, device=device).scatter(1, keep, False)
    return keep, mask


def enlarge(mask: Bool[Tensor, "B h w"], factor: int) -> Bool[Tensor, "B H W"]:
    """Upsample a mask by `factor`: from blocks to tokens, or from tokens to pixels."""
    return mask.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)


def gather_tokens(tokens: Float[Tensor, "B N D"], keep: Int[Tensor, "B K"]) -> Float[Tensor, "B K D"]:
    """Return the tokens at `keep`."""
    return tokens.gather(1, keep[:, :, None].expand(-1, -1, tokens.shape[2]))


def scatter_tokens(
    tokens: Float[Tensor, "B K D"], keep: Int[Tensor, "B K"], num_tokens: int, fill: Float[Tensor, "... D"]
) -> Float[Tensor, "B N D"]:
    """Return N tokens: `tokens` at `keep`, and `fill` everywhere else."""
    whole = fill.to(tokens.dtype).expand(len(tokens), num_tokens, -1)
    return whole.scatter(1, keep[:, :, None].expand(-1, -1, tokens.shape[2]), tokens)


def embed_hiding(
    backbone: Backbone, images: Float[Tensor, "B _ _ _"], hidden: Bool[Tensor, "B h w"], token: Float[Tensor, "1 1 D"]
) -> Float[Tensor, "B H W D"]:
    """Return the tokens of images, with positions, of which the hidden ones, or patches of them, are `token`."""
    tokens = backbone.patch_embed(images)
    hidden = enlarge(hidden, tokens.shape[1] // hidden.shape[1])
    return backbone.add_pos_embed(torch.where(hidden[..., None], token.to(tokens.dtype), tokens))

"""The stages of Swin and Swin v2, of ever coarser maps: windows, modules, and how they change their size."""

import logging
import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from vitlab.models.backbone import AttentionMap, recompute_attention
from vitlab.models.layers import check_heads, resize_pos_embed, run_block
from vitlab.models.windows import Size, WindowBlock, clamp_window, pad_to_windows, windows_on_map

logger = logging.getLogger(__name__)

MakeBlock = Callable[[int, int, Size, Size, bool], WindowBlock]
"""A block from its stage, its width, the map, the window within it, and whether its windows are shifted."""


def check_stages(embed_dim: int, depths: Sequence[int], num_heads: Sequence[int]) -> None:
    """Raise a ValueError unless the depths, widths and heads of the stages fit together."""
    if not depths or min(depths) < 1 or len(depths) != len(num_heads):
        stages = f"depths {tuple(depths)} and num_heads {tuple(num_heads)}"
        raise ValueError(f"{stages} must name the same stages, each of at least one block.")
    for i, heads in enumerate(num_heads):
        check_heads(embed_dim * 2**i, heads, f"embed_dim {embed_dim}, in stage {i + 1} a width")


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


def build_stages(
    embed_dim: int,
    depths: Sequence[int],
    maps: Sequence[Size],
    windows: Sequence[Size],
    block: MakeBlock,
    merging: Callable[[int], nn.Module],
    grad_checkpointing: bool,
) -> nn.ModuleList:
    """Return the stages; the map halves and the width doubles from one to the next, whatever a block is.

    Args:
        merging: Returns the patch merging of a width.
    """
    warn_of_misfits(tuple(maps), tuple(windows))
    stages = nn.ModuleList()
    for i, (depth, size) in enumerate(zip(depths, maps, strict=True)):
        dim, (window, _) = embed_dim * 2**i, clamp_window(size, windows[i])
        blocks = [block(i, dim, size, window, j % 2 == 1) for j in range(depth)]
        stages.append(Stage(merging(dim // 2) if i else nn.Identity(), blocks, grad_checkpointing))
    return stages


def resize_stages(model: Any, img_size: int | Size, window_size: int | Sequence[int] | None) -> None:
    """Rebuild a trained Swin for images of another size; windows grow with them unless `window_size` is given."""
    old, new, stages = model.patch_embed.grid_size, model.patch_embed.grid_at(img_size), len(model.layers)
    if window_size is None:
        model.windows = grown_windows(model.windows, old, new)
    else:  # first, because it may refuse
        model.windows = stage_windows(window_size, stages)
    model.patch_embed.set_input_size(img_size)
    if model.pos_embed is not None:
        model.pos_embed.data = resize_pos_embed(model.pos_embed.data, 0, old, new)
    model.img_size, maps = model.patch_embed.img_size, stage_maps(new, stages)
    warn_of_misfits(tuple(maps), tuple(model.windows))
    for stage, size, window in zip(model.layers, maps, model.windows, strict=True):
        for block in stage.blocks:
            block.set_input_size(size, window)


def attention_of_stages(model: Any, images: Float[Tensor, "B Cin Hpx Wpx"]) -> list[AttentionMap]:
    """Return each block's attention within the windows of its stage's map."""
    probs = iter(recompute_attention(model, [block.attn for block in model.blocks], images))
    maps = []
    for i, size in enumerate(stage_maps(model.patch_embed.grid_of(images), len(model.layers))):
        for block in model.layers[i].blocks:
            weights, keys = windows_on_map(next(probs), block.attn.window, block.shift, size)
            maps.append(AttentionMap(weights, keys, size, model.patch_size * 2**i))
    return maps

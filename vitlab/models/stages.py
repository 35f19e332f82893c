"""What Swin and Swin v2 share: stages of ever coarser maps, their windows, and how they change their size."""

import logging
import math
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cache
from inspect import Parameter, Signature, signature
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitlab.models.backbone import AttentionMap, Backbone, Features, recompute_attention
from vitlab.models.bias_tables import fit_bias_table
from vitlab.models.intermediates import FeatureInfo, pyramid
from vitlab.models.layers import (
    Init,
    PatchEmbed,
    add_positions,
    check_heads,
    classifier,
    default_init,
    drop_path_rates,
    init_linears,
    new_classifier,
    resize_pos_embed,
    run_block,
)
from vitlab.models.windows import (
    PositionBias,
    Size,
    WindowAttention,
    WindowBlock,
    clamp_window,
    kept_biases,
    pad_to_windows,
    start_biases_with_impulses,
    windows_on_map,
)

logger = logging.getLogger(__name__)


def check_stages(embed_dim: int, depths: Sequence[int], num_heads: Sequence[int]) -> None:
    """Raise a ValueError unless the depths, widths and heads of the stages fit together."""
    if not depths or min(depths) < 1 or len(depths) != len(num_heads):
        stages = f"depths {tuple(depths)} and num_heads {tuple(num_heads)}"
        raise ValueError(f"{stages} must name the same stages, each of at least one block.")
    for i, heads in enumerate(num_heads):
        check_heads(embed_dim * 2**i, heads, f"embed_dim {embed_dim}, in stage {i + 1} a width")


def stage_windows(window_size: int | Sequence[int], num_stages: int) -> list[Size]:
    """Return (height, width) of each stage's window, from one side, [height, width], or three or more stages' sides."""
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
        *,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 96,
        depths: tuple[int, ...] = (2, 2, 6, 2),
        num_heads: tuple[int, ...] = (3, 6, 12, 24),
        window_size: int | tuple[int, ...] = 7,
        shift: bool = True,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        position_bias: PositionBias,
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
        check_stages(embed_dim, depths, num_heads)
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
        for i, (depth, size) in enumerate(zip(depths, maps, strict=True)):
            dim, (window, _) = embed_dim * 2**i, clamp_window(size, self.windows[i])
            blocks = []
            for j in range(depth):
                attn = self.new_attention(i, dim, num_heads[i], window, qkv_bias, attn_drop_rate, proj_drop_rate)
                shifted = shift and j % 2 == 1
                blocks.append(self.new_block(dim, size, shifted, attn, mlp_ratio, proj_drop_rate, next(rates)))
            downsample = self.merging(dim // 2) if i else nn.Identity()
            self.layers.append(Stage(downsample, blocks, grad_checkpointing))
        self.norm = nn.LayerNorm(self.num_features)
        fc = classifier(self.num_features, num_classes)
        self.head = nn.Sequential(OrderedDict(drop=nn.Dropout(drop_rate), fc=fc))
        for part in (self.head, self.layers):  # in the order of earlier versions' random draws
            init_linears(part, self.init)
        start_biases_with_impulses(self.blocks, impulses, position_bias)
        self.pos_embed = None
        if position_bias == "absolute":  # the official code's `ape`
            N = self.patch_embed.grid_size[0] * self.patch_embed.grid_size[1]
            self.pos_embed = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, N, embed_dim), std=0.02))

    def __init_subclass__(cls) -> None:
        """Show in a subclass's signature the arguments that it passes on; named sizes, exports and editors read it."""
        own, parents = signature(cls.__init__).parameters, signature(cls.__mro__[1]).parameters
        passes_on = any(each.kind is Parameter.VAR_KEYWORD for each in own.values())
        known = dict(parents) | dict(own) if passes_on else dict(own)
        variadic = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
        named = [each for name, each in known.items() if name != "self" and each.kind not in variadic]
        cls.__signature__ = Signature(sorted(named, key=lambda each: each.kind))  # type: ignore[attr-defined]

    @abstractmethod
    def new_attention(
        self,
        stage: int,
        dim: int,
        num_heads: int,
        window: Size,
        qkv_bias: bool,
        attn_drop: float,
        proj_drop: float,
    ) -> WindowAttention:
        """Return the attention of a block."""

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
        """Of each resolution."""
        return pyramid(self.patch_embed.proj.out_channels, self.patch_size, len(self.layers))

    def biases_kept(self) -> AbstractContextManager[None]:
        """Compute each position bias once for all forwards inside; the weights must not change."""
        return kept_biases(block.attn for block in self.blocks)

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
        window: Any = self.get_submodule(owner).window
        return fit_bias_table(tensor, self.get_parameter(name), window, self.table_resize == "geometric")

    def arguments_at(self, img_size: int, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Let windows grow with the images."""
        grown = grown_windows(self.windows, self.patch_embed.grid_size, self.patch_embed.grid_at(img_size))
        setting = [*grown[0]] if len(set(grown)) == 1 else [height for height, _ in grown]
        return {"img_size": img_size, "window_size": setting}

    def describe(self) -> dict[str, str]:
        """Return the side of the first stage's window, or height × width."""
        return {"window": "×".join(map(str, dict.fromkeys(self.blocks[0].attn.window)))}

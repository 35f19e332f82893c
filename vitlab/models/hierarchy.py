"""What Swin and Swin v2 have in common: windowed attention in blocks, blocks in stages, each stage at half the
resolution of the one before. Their own files say what differs: similarity, position bias, order of norms."""

import logging
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache

from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vitlab.models.backbone import AttentionMap, Backbone, Features, recompute_attention
from vitlab.models.layers import (
    DropPath,
    Init,
    Mlp,
    PatchEmbed,
    check_heads,
    classifier,
    drop_path_rates,
    init_linears,
    new_classifier,
)
from vitlab.models.windows import (
    Size,
    attend,
    attention_weights,
    clamp_window,
    in_windows,
    join_windows,
    shift_mask,
    stage_maps,
    stage_windows,
    windows_on_map,
)

logger = logging.getLogger(__name__)


class WindowAttention(nn.Module, ABC):
    """Multi-head self-attention within windows, with a bias B for each head and relative position.

    softmax(similarity(q, k) + B + mask) v
    """

    def __init__(self, dim: int, num_heads: int, window: Size, attn_drop: float, proj_drop: float) -> None:
        super().__init__()
        self.num_heads, self.window, self.attn_drop = num_heads, window, attn_drop
        self.kept_bias: Tensor | None = None
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    @abstractmethod
    def heads(self, x: Float[Tensor, "B H W C"]) -> tuple[Tensor, Tensor, Tensor, float]:
        """Return q, k, v as (B·nW, h, N, d) and the scale that makes scale · q kᵀ the similarity."""

    @abstractmethod
    def bias(self) -> Float[Tensor, "h N N"]:
        """Return the bias of each head, query and key."""

    @abstractmethod
    def set_window(self, window: Size) -> None:
        """Change the window."""

    def forward(self, x: Float[Tensor, "B H W C"], mask: Float[Tensor, "nW N N"] | None) -> Float[Tensor, "B H W C"]:
        q, k, v, scale = self.heads(x)  # (B·nW, h, N, d)
        bias = self.bias() if self.kept_bias is None else self.kept_bias
        x_new = attend(q, k, v, bias, mask, scale, self.attn_drop if self.training else 0.0)
        return self.proj_drop(self.proj(join_windows(x_new, self.window, (x.shape[1], x.shape[2]))))

    def weights(self, x: Float[Tensor, "B H W C"], mask: Float[Tensor, "nW N N"] | None) -> Float[Tensor, "BnW h N N"]:
        """Return the attention that `forward` applies."""
        q, k, _, scale = self.heads(x)
        attn_mask = self.bias().unsqueeze(0) if mask is None else self.bias() + mask.unsqueeze(1)
        return attention_weights(q, k, attn_mask, scale).flatten(0, 1)


class WindowBlock(nn.Module, ABC):
    """Attention in windows, shifted in every second block, and an MLP; leaves differ in where they normalize."""

    attn_mask: Tensor | None

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
        mask = self.attn_mask if size == self.size else shift_mask(size, self.attn.window, self.shift, x.device)
        return in_windows(x, self.attn, self.attn.window, self.shift, mask)

    def set_input_size(self, size: Size, window: Size) -> None:
        """Change the size of the map expected, and the window."""
        window, shift = clamp_window(size, window)
        self.size, self.shift = size, shift if self.shifted else (0, 0)
        if window != self.attn.window:
            self.attn.set_window(window)
        mask = shift_mask(size, window, self.shift, self.norm1.weight.device)
        self.register_buffer("attn_mask", mask, persistent=False)


class Stage(nn.Module):
    """Patch merging, except in the first stage, and the blocks of one resolution."""

    def __init__(self, downsample: nn.Module, blocks: Iterable[WindowBlock], grad_checkpointing: bool) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.ModuleList(blocks)
        self.grad_checkpointing = grad_checkpointing

    def forward(self, x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H2 W2 C2"]:
        x = self.downsample(x)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.grad_checkpointing else block(x)
        return x

    def set_input_size(self, size: Size, window: Size) -> None:
        """Change the size of the map, after merging, and the window."""
        for block in self.blocks:
            assert isinstance(block, WindowBlock)
            block.set_input_size(size, window)


class Stages(nn.ModuleList):
    """The stages, which timm's parameter names call `layers`; called, they give what a Backbone's `layers()` gives.

    `stem` and `tail` are the modules around the stages, held in tuples so that they are not registered twice.
    """

    def __init__(self, stages: Iterable[Stage], stem: nn.Module, tail: Sequence[nn.Module]) -> None:
        super().__init__(stages)
        self.stem, self.tail = (stem,), tuple(tail)

    def forward(self) -> list[list[nn.Parameter]]:
        """Return all parameters by depth: stem, each block, tail.

        A patch merging goes with the last block before it (official optimizer.py:104-117), although timm's names put
        it first in the stage after.
        """
        groups = [list(self.stem[0].parameters())]
        for stage in self:
            assert isinstance(stage, Stage)
            groups[-1].extend(stage.downsample.parameters())
            groups.extend(list(block.parameters()) for block in stage.blocks)
        return [*groups, [parameter for module in self.tail for parameter in module.parameters()]]


class HierarchicalBackbone(Backbone):
    """Stages of blocks on an ever coarser map, then the mean of its tokens and a linear classifier.

    Args:
        windows: (height, width) of each stage's window before clamping.
        merge: make the patch merging that leaves a stage of this width.
        block: make one block of a stage, given (stage, width, map, shifted, drop path rate).
    """

    def __init__(
        self,
        patch_embed: PatchEmbed,
        depths: Sequence[int],
        windows: Sequence[Size],
        merge: Callable[[int], nn.Module],
        block: Callable[[int, int, Size, bool, float], WindowBlock],
        num_classes: int,
        drop_rate: float,
        drop_path_rate: float,
        init: Init,
        grad_checkpointing: bool,
    ) -> None:
        super().__init__()
        embed_dim, self.in_chans = patch_embed.proj.out_channels, patch_embed.proj.in_channels
        self.num_classes, self.num_features = num_classes, embed_dim * 2 ** (len(depths) - 1)
        self.img_size, self.windows, self.init = patch_embed.img_size, list(windows), init
        self.patch_embed = patch_embed
        rates = iter(drop_path_rates(drop_path_rate, sum(depths)))
        stages = []
        for i, (depth, size) in enumerate(zip(depths, stage_maps(patch_embed.grid_size, len(depths)), strict=True)):
            dim = embed_dim * 2**i
            blocks = [block(i, dim, size, j % 2 == 1, next(rates)) for j in range(depth)]
            stages.append(Stage(merge(dim // 2) if i else nn.Identity(), blocks, grad_checkpointing))
        _say_misfits(tuple(stage_maps(patch_embed.grid_size, len(depths))), tuple(windows))
        self.norm = nn.LayerNorm(self.num_features)
        fc = classifier(self.num_features, num_classes)
        self.head = nn.Sequential(OrderedDict(drop=nn.Dropout(drop_rate), fc=fc))
        self._modules["layers"] = Stages(stages, stem=patch_embed, tail=[self.norm, self.head])
        init_linears(self, init)

    @property
    def layers(self) -> Stages:
        return self._modules["layers"]  # type: ignore[return-value]

    @property
    def stride(self) -> int:
        return self.patch_size * 2 ** (len(self.layers) - 1)

    def add_pos_embed(self, tokens: Float[Tensor, "B H W D"]) -> Float[Tensor, "B H W D"]:
        """Return the tokens as they are: positions come in as biases of the attention."""
        return tokens

    def encode(self, tokens: Float[Tensor, "B H W D"]) -> Features:
        """Run the stages on a whole map: windows and merging need its neighborhoods, so there are no subsets."""
        for stage in self.layers:
            tokens = stage(tokens)
        patches = self.norm(tokens).flatten(1, 2)  # (B, N, C)
        return Features(prefix=patches[:, :0], patches=patches)

    def pool(self, features: Features) -> Float[Tensor, "B C"]:
        return features.patches.mean(dim=1)

    def forward_head(self, features: Features) -> Float[Tensor, "B K"]:
        return self.head(self.pool(features))

    def forward(self, images: Float[Tensor, "B Cin Hpx Wpx"]) -> Float[Tensor, "B K"]:
        return self.forward_head(self.forward_features(images))

    def parts_to_compile(self) -> list[nn.Module]:
        return [block for stage in self.layers for block in stage.blocks]  # type: ignore[union-attr]

    @contextmanager
    def biases_kept(self) -> Iterator[None]:
        """Compute each position bias once for all forwards inside; weights must not change."""
        attentions = [module for module in self.modules() if isinstance(module, WindowAttention)]
        try:
            for attention in attentions:
                attention.kept_bias = attention.bias().detach()
            yield
        finally:
            for attention in attentions:
                attention.kept_bias = None

    def attention_maps(self, images: Float[Tensor, "B Cin Hpx Wpx"]) -> list[AttentionMap]:
        """Return each block's attention within the windows of its stage's map."""
        maps = stage_maps(self.patch_embed.grid_of(images), len(self.layers))
        blocks = [
            (block, size, self.patch_size * 2**i)
            for i, (stage, size) in enumerate(zip(self.layers, maps, strict=True))
            for block in stage.blocks  # type: ignore[union-attr]
        ]
        weights = recompute_attention(self, [block.attn for block, *_ in blocks], images)
        return [
            AttentionMap(*windows_on_map(w, block.attn.window, block.shift, size), size, stride)
            for (block, size, stride), w in zip(blocks, weights, strict=True)
        ]

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        if global_pool not in (None, "avg"):
            raise ValueError(f"global_pool must be avg, the mean over the map, not {global_pool}.")
        self.num_classes = num_classes
        self.head.fc = new_classifier(self.num_features, num_classes, self.init, like=self.norm.weight)

    def head_parameters(self) -> list[nn.Parameter]:
        return list(self.head.parameters())

    def set_input_size(self, img_size: int | tuple[int, int], window_size: int | Sequence[int] | None = None) -> None:
        """Rebuild a trained model for images of another size; windows grow with them unless `window_size` is given.

        As in timm, Swin v2's offsets are then measured in the new window, unless the model has
        `pretrained_window_sizes`. With them the bias extrapolates, which is the paper's transfer.
        """
        old = self.patch_embed.grid_size
        self.patch_embed.set_input_size(img_size)
        self.img_size, new = self.patch_embed.img_size, self.patch_embed.grid_size
        if window_size is None:
            self.windows = [(max(1, h * new[0] // old[0]), max(1, w * new[1] // old[1])) for h, w in self.windows]
        else:
            self.windows = stage_windows(window_size, len(self.windows))
        maps = stage_maps(new, len(self.windows))
        _say_misfits(tuple(maps), tuple(self.windows))
        for stage, size, window in zip(self.layers, maps, self.windows, strict=True):
            assert isinstance(stage, Stage)
            stage.set_input_size(size, window)


def check_stages(embed_dim: int, depths: Sequence[int], num_heads: Sequence[int]) -> None:
    """Raise a ValueError unless the stages' depths, widths and heads fit together."""
    if not depths or min(depths) < 1 or len(depths) != len(num_heads):
        stages = f"depths {tuple(depths)} and num_heads {tuple(num_heads)}"
        raise ValueError(f"{stages} must name the same stages, each of at least one block.")
    for i, heads in enumerate(num_heads):
        check_heads(embed_dim * 2**i, heads, f"embed_dim {embed_dim}, in stage {i + 1} a width")


@cache  # once for each combination, not for every model of a study
def _say_misfits(maps: tuple[Size, ...], windows: tuple[Size, ...]) -> None:
    pairs = list(zip(maps, windows, strict=True))
    small = [(m, w) for m, w in pairs if m[0] < w[0] or m[1] < w[1]]
    uneven = [(m, w) for m, w in pairs if (m[0] > w[0] and m[0] % w[0]) or (m[1] > w[1] and m[1] % w[1])]
    for what, found in {
        "Windows larger than their maps are clamped to them and not shifted": small,
        "Windows that do not divide their maps have these padded with zeros": uneven,
    }.items():
        if found:
            said = ", ".join(f"{w[0]}×{w[1]} on a map of {m[0]}×{m[1]}" for m, w in found)
            logger.warning("%s: %s.", what, said)

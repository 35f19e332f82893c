"""The interface between architectures and objectives.

An `ImageModel` can be trained on labels. A `Backbone` encodes an image in three steps that objectives build on:

    patch_embed(images)   -> tokens (B, H, W, D)
    add_pos_embed(tokens) -> tokens (B, H, W, D)
    encode(tokens)        -> Features

Both give the maps of their stages by timm's names, for detection, segmentation and dense probes. A stage is a block of
a ViT, where all maps have the stride of a patch, and a resolution of a Swin:

    model.feature_info                     of each stage: `num_chs` C, `reduction` in pixels per place, `module`
    model.forward_intermediates(images)    the features, and the maps (B, C, H, W) of all stages
    model.features_only((1, 2, 3))         a module that returns the maps of some stages; it can be exported
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple, TypedDict

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitlab.models.layers import Init, PatchEmbed, new_classifier, resize_pos_embed, trunc_normal

Indices = int | Sequence[int] | None


class FeatureInfo(TypedDict):
    """What a stage gives."""

    module: str
    num_chs: int
    reduction: int


class Features(NamedTuple):
    """The normalized output of an encoder: N patch tokens, and P ≥ 0 prefix tokens (class, distillation, registers)."""

    prefix: Float[Tensor, "B P C"]
    patches: Float[Tensor, "B N C"]


class AttentionMap(NamedTuple):
    """Attention of one block: the probabilities that Q queries give to K keys each.

    Tokens are numbered: first the prefix tokens, then the map of `size` (height, width) row by row.
    """

    weights: Float[Tensor, "B h Q K"]
    keys: Int[Tensor, "Q K"]  # the number of the token; -1 for padding
    size: tuple[int, int]
    stride: int  # side in pixels of one token of the map

    def dense(self) -> Float[Tensor, "B h Q Q"]:
        """Return the probabilities of all tokens, 0 for those outside the window."""
        B, h, Q, _ = self.weights.shape
        index = (self.keys + 1).expand_as(self.weights)
        return self.weights.new_zeros(B, h, Q, Q + 1).scatter_add_(3, index, self.weights)[..., 1:]


@contextmanager
def in_eval_mode(module: nn.Module) -> Iterator[None]:
    """Let a module compute as in evaluation inside; each of its parts leaves in the mode in which it came."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def taken(indices: Indices, info: Sequence[FeatureInfo]) -> list[int]:
    """Return which stages are meant, in the order of the network: all for None, the last n for an int n."""
    count = len(info)
    given = range(count) if indices is None else range(-indices, 0) if isinstance(indices, int) else indices
    wrong = [i for i in given if not -count <= i < count]
    if wrong or len(given) == 0:
        raise ValueError(f"stages {indices}: there are 0 to {count - 1}; negative numbers count from the end.")
    return sorted({i % count for i in given})


def outputs_of(modules: Sequence[nn.Module], run: Callable[[], Any]) -> tuple[Any, list[Tensor]]:
    """Return what `run` returns, and the output that each of the modules has in it."""
    outputs: list[Tensor] = []
    handles = [module.register_forward_hook(lambda _, inputs, output: outputs.append(output)) for module in modules]
    try:
        result = run()
    finally:
        for handle in handles:
            handle.remove()
    # torch.compile looks for hooks when it compiles, and not again.
    assert len(outputs) == len(modules), "the outputs of compiled blocks cannot be read; reload the model"
    return result, outputs


class ImageModel(nn.Module, ABC):
    """Map images to class logits and to an embedding.

    A network without tokens subclasses this, defines `embed` and sets the six attributes below. Everything else
    has a default.
    """

    num_classes: int
    num_features: int  # C, the width of the embedding
    img_size: tuple[int, int]
    in_chans: int
    head: nn.Module  # the classifier, `vitlab.models.layers.classifier(num_features, num_classes)`
    blocks: Sequence[nn.Module] | nn.ModuleList
    """In order of depth. Each is compiled and sharded alone, is one layer of layer decay and one point in figures."""

    init: Init = staticmethod(trunc_normal)  # starts a new classifier
    global_pool: str = "avg"  # "token" if the classifier reads the class token
    num_class_tokens: int = 1  # how many leading prefix tokens it then reads

    @abstractmethod
    def embed(self, images: Float[Tensor, "B Cin Hpx Wpx"]) -> Float[Tensor, "B C"]:
        """Return the pooled embedding that the classifier reads."""

    @property
    def stored_module(self) -> nn.Module:
        """The module whose state is written to files of weights, for a wrapper the one inside."""
        return self

    def forward(self, images: Float[Tensor, "B Cin Hpx Wpx"]) -> Float[Tensor, "B K"]:
        """Return the logits, or the embedding if `num_classes` is 0."""
        return self.head(self.embed(images))

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the classifier by a new one, or by none for 0."""
        self.num_classes = num_classes
        self.head = new_classifier(self.num_features, num_classes, self.init, like=next(self.parameters()))

    def head_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the classifier, which fine-tuning may give another learning rate."""
        return list(self.head.parameters())

    def no_weight_decay(self) -> set[str]:
        """Return the names of parameters that are not decayed although they have more than one dimension."""
        return set()

    def parameters_by_depth(self) -> list[list[nn.Parameter]]:
        """Return all parameters in order of registration: before the first block, by block, after the last block.

        What lies between two blocks, like a patch merging, belongs to the first of them.
        """
        depth_of = {id(p): depth for depth, block in enumerate(self.blocks, start=1) for p in block.parameters()}
        last = len(self.blocks)
        groups: list[list[nn.Parameter]] = [[] for _ in range(last + 2)]
        depth = 0
        for parameter in self.parameters():
            depth = depth_of.get(id(parameter), depth if depth < last else last + 1)
            groups[depth].append(parameter)
        return groups

    def attention_maps(self, images: Float[Tensor, "B Cin Hpx Wpx"]) -> list[AttentionMap]:
        """Return the attention of each block; nothing for an architecture without attention."""
        return []

    @property
    def feature_info(self) -> list[FeatureInfo]:
        """What each stage of `forward_intermediates` gives, as timm has it; nothing if there are no maps."""
        return []

    def forward_intermediates(
        self, images: Float[Tensor, "B Cin Hpx Wpx"], indices: Indices = None, **options: bool | str
    ) -> Any:
        """Return the maps of stages, see `Backbone.forward_intermediates`."""
        raise ValueError(f"{type(self).__name__} gives no maps: it has no `forward_intermediates`.")

    def features_only(self, out_indices: Indices = None, norm: bool = False) -> "FeatureMaps":
        """Return a module that maps images to the maps of some stages, None for all; it shares these weights."""
        return FeatureMaps(self, out_indices, norm)

    def biases_kept(self) -> AbstractContextManager[None]:
        """Let an evaluation compute once what depends on weights alone, like a Swin's position biases."""
        return nullcontext()

    def resized(self, name: str, tensor: Tensor) -> Tensor | None:
        """Return a tensor of a file in the shape of the parameter `name`; None if it cannot be resized."""
        return None

    def arguments_at(self, img_size: int, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the changes to the constructor's `arguments` for images of another size."""
        return {"img_size": img_size}

    def describe(self) -> dict[str, str]:
        """Return what a table of runs at several image sizes shows of the model: a Swin's `window` and `bias`."""
        return {}


class Backbone(ImageModel):
    """Encode images as tokens in three steps.

    Your own architecture sets seven attributes and writes `encode`:

        patch_embed    `vitlab.models.layers.PatchEmbed`
        blocks         its blocks, a ModuleList or a property
        head           `vitlab.models.layers.classifier(num_features, num_classes)`
        num_features   the width of the tokens of `encode`
        num_classes, img_size (height, width), in_chans

    The last three are arguments too, typed and with defaults, because the data set fills them in. Register modules in
    the order of the forward pass: layer decay counts depth in this order.

    Override a default where it does not fit: `stride` if `encode` reduces the map, `add_pos_embed`, `pool`,
    `no_weight_decay`, `attention_maps`, `feature_info`, `resized`, `reset_classifier`.
    """

    patch_embed: PatchEmbed
    _stages: list[FeatureInfo] | None = None

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return self.patch_embed.patch_size

    @property
    def stride(self) -> int:
        """Side in pixels of one token of `encode`."""
        return self.patch_size

    def add_pos_embed(self, tokens: Float[Tensor, "B H W D"]) -> Float[Tensor, "B H W D"]:
        """Add position embeddings, resized if the grid is not the one of `img_size`; by default there are none."""
        return tokens

    @abstractmethod
    def encode(self, tokens: Float[Tensor, "B *grid D"]) -> Features:
        """Run the blocks and the final norm."""

    def pool(self, features: Features) -> Float[Tensor, "B C"]:
        """Return the embedding that the classifier reads: the mean of the patches."""
        return features.patches.mean(dim=1)

    def forward_head(self, features: Features) -> Float[Tensor, "B K"]:
        return self.head(self.pool(features))

    def forward_features(self, images: Float[Tensor, "B Cin Hpx Wpx"]) -> Features:
        return self.encode(self.add_pos_embed(self.patch_embed(images)))

    @property
    def feature_info(self) -> list[FeatureInfo]:
        """Of each block, read off its output for a black image when first asked for."""
        if self._stages is None:
            like = next(self.parameters())
            image = torch.zeros(1, self.in_chans, *self.img_size, dtype=like.dtype, device=like.device)
            names = {id(module): name for name, module in self.named_modules()}
            with torch.no_grad(), in_eval_mode(self):
                _, outputs = outputs_of(list(self.blocks), lambda: self.forward_features(image))
            self._stages = [
                FeatureInfo(module=name, num_chs=x.shape[-1], reduction=self._stride_of(name, x))
                for name, x in zip((names[id(block)] for block in self.blocks), outputs, strict=True)
            ]
        return self._stages

    def _stride_of(self, name: str, x: Tensor) -> int:
        """Return the side in pixels of one place of a block's output, a map or a sequence of all patches."""
        height, width = self.patch_embed.grid_size
        sides = tuple(x.shape[1:3]) if x.ndim == 4 else (height, width) if x.shape[1] >= height * width else (0, 0)
        halved = [self.patch_size * 2**i for i in range(8)]  # first: where a map was padded, a quotient would be less
        for stride in (*halved, round(self.img_size[0] / max(sides[0], 1))):
            if stride and sides == tuple(math.ceil(pixels / stride) for pixels in self.img_size):
                return stride
        wanted = f"maps (B, H, W, C), or prefix tokens and all {height * width} patches (B, P + N, C)"
        raise ValueError(f"{type(self).__name__}: {name} gives {tuple(x.shape)} for one image; blocks give {wanted}.")

    def forward_intermediates(  # type: ignore[override]
        self,
        images: Float[Tensor, "B Cin Hpx Wpx"],
        indices: Indices = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Return the features and a list of the maps of stages; timm's signature.

        Unlike timm's, the features are those of `forward_features`, and no patches are dropped in training.

        Args:
            indices: None for all stages of `feature_info`, an int for the last n, or a list of stages; negative ones
                count from the end. The maps come in the order of the network.
            return_prefix_tokens: each map in a pair with the prefix tokens (B, P, C) of its stage.
            norm: apply the final norm to the maps whose width it has: all of a ViT, the last of a Swin.
            output_fmt: NCHW (B, C, H, W), or NLC (B, N, C).
            intermediates_only: return the list alone.
        """
        stages = [self.get_submodule(self.feature_info[i]["module"]) for i in taken(indices, self.feature_info)]
        features, outputs = outputs_of(stages, lambda: self.encode(self.add_pos_embed(self.patch_embed(images))))
        grid = self.patch_embed.grid_of(images)
        intermediates: list[Any] = []
        for x in outputs:
            if norm and x.shape[-1] == self.num_features:
                x = self.get_submodule("norm")(x)
            if x.ndim == 4:
                prefix, fitted = x.flatten(1, 2)[:, :0], x  # a map
            else:
                num_prefix = x.shape[1] - grid[0] * grid[1]
                prefix, fitted = x[:, :num_prefix], x[:, num_prefix:].unflatten(1, grid)
            fitted = fitted.permute(0, 3, 1, 2).contiguous() if output_fmt == "NCHW" else fitted.flatten(1, 2)
            intermediates.append((fitted, prefix) if return_prefix_tokens else fitted)
        return intermediates if intermediates_only else (features, intermediates)

    def embed(self, images: Float[Tensor, "B Cin Hpx Wpx"]) -> Float[Tensor, "B C"]:
        return self.pool(self.forward_features(images))

    def forward(self, images: Float[Tensor, "B Cin Hpx Wpx"]) -> Float[Tensor, "B K"]:
        return self.forward_head(self.forward_features(images))

    def resized(self, name: str, tensor: Tensor) -> Tensor | None:
        """Resize a file's `pos_embed` (1, P + N, D), taken from a square grid; None for anything else."""
        shape = self.state_dict()[name].shape
        if name != "pos_embed" or tensor.ndim != 3 or tensor.shape[2] != shape[2]:
            return None
        num_prefix = shape[1] - math.prod(self.patch_embed.grid_size)
        side = math.isqrt(max(tensor.shape[1] - num_prefix, 0))
        if side * side != tensor.shape[1] - num_prefix:
            return None
        return resize_pos_embed(tensor, num_prefix, (side, side), self.patch_embed.grid_size)


def recompute_attention(
    model: Backbone, attentions: Sequence[nn.Module], images: Float[Tensor, "B Cin Hpx Wpx"]
) -> list[Float[Tensor, "_ _ _ _"]]:
    """Return the `attention_probs` of each attention in a forward pass, since fused kernels never hold them."""
    probs: list[Tensor] = []

    def record(attention: Any, inputs: tuple[Tensor, ...]) -> None:
        probs.append(attention.attention_probs(*inputs))

    handles = [attention.register_forward_pre_hook(record) for attention in attentions]
    try:
        model.forward_features(images)
    finally:
        for handle in handles:
            handle.remove()
    return probs


class FeatureMaps(nn.Module):
    """Map images to the maps of some stages (timm's `features_only=True`), see `Backbone.forward_intermediates`."""

    def __init__(self, model: ImageModel, out_indices: Indices = None, norm: bool = False) -> None:
        super().__init__()
        if not model.feature_info:
            raise ValueError(f"{type(model).__name__} gives no maps: it has no `feature_info`.")
        self.model, self.norm = model, norm
        self.out_indices = taken(out_indices, model.feature_info)
        self.feature_info: list[FeatureInfo] = [model.feature_info[i] for i in self.out_indices]
        self.in_chans, self.img_size = model.in_chans, model.img_size

    def forward(self, images: Float[Tensor, "B Cin Hpx Wpx"]) -> list[Float[Tensor, "B _ _ _"]]:
        maps: list[Tensor] = self.model.forward_intermediates(
            images, self.out_indices, norm=self.norm, intermediates_only=True
        )
        return maps

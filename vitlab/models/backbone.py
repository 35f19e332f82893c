"""The one interface between architectures and objectives.

`ImageModel` is anything that can be trained on labels, `Backbone` adds the three steps objectives build on:

    patch_embed(images)   -> tokens (B, H, W, D)
    add_pos_embed(tokens) -> tokens (B, H, W, D)
    encode(tokens)        -> Features
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor, nn

from vitlab.models.layers import PatchEmbed


class Features(NamedTuple):
    """What an encoder gives: P prefix tokens (class, distillation; P may be 0) and N patch tokens, normalized."""

    prefix: Float[Tensor, "B P C"]
    patches: Float[Tensor, "B N C"]


class AttentionMap(NamedTuple):
    """Attention of one block: the weights that Q tokens give to the K tokens that each of them sees.

    Tokens are counted as the prefix tokens, then the map of `size` (height, width) row by row.
    """

    weights: Float[Tensor, "B h Q K"]
    keys: Int[Tensor, "Q K"]  # which token; -1 for padding
    size: tuple[int, int]
    stride: int  # side in pixels of what a token of the map stands for

    def dense(self) -> Float[Tensor, "B h Q Q"]:
        """Return weights to all tokens, 0 for those not seen."""
        B, h, Q, _ = self.weights.shape
        index = (self.keys + 1).expand_as(self.weights)
        return self.weights.new_zeros(B, h, Q, Q + 1).scatter_add_(3, index, self.weights)[..., 1:]


class ImageModel(nn.Module, ABC):
    """Map images to class logits and to an embedding."""

    num_classes: int
    num_features: int  # C, the width of the embedding
    img_size: tuple[int, int]
    in_chans: int

    @abstractmethod
    def forward(self, images: Float[Tensor, "B Cin Hpx Wpx"]) -> Float[Tensor, "B K"]:
        """Return the logits, or the embedding where `num_classes` is 0."""

    @abstractmethod
    def embed(self, images: Float[Tensor, "B Cin Hpx Wpx"]) -> Float[Tensor, "B C"]:
        """Return the pooled embedding that the classifier reads."""

    @abstractmethod
    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a fresh one, or by none for 0."""

    @abstractmethod
    def no_weight_decay(self) -> set[str]:
        """Return the names of parameters that are not decayed although they have more than one dimension."""

    @abstractmethod
    def layers(self) -> list[list[nn.Parameter]]:
        """Return all parameters by depth: the embedding first, the final norm and the head last."""

    @abstractmethod
    def head_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the classifier, which fine-tuning may give a learning rate of its own."""

    @abstractmethod
    def parts_to_compile(self) -> list[nn.Module]:
        """Return the modules that `torch.compile` is to take, each by itself: every objective's way leads through them.

        Blocks rather than the whole: it compiles in a quarter of the time and is as fast.
        """

    @contextmanager
    def biases_kept(self) -> Iterator[None]:
        """Let an evaluation compute once what depends on weights alone: a Swin's position biases, else nothing."""
        yield


class Backbone(ImageModel):
    """Encode images as tokens in three public steps.

    A subclass of one's own sets `patch_embed`, `num_classes`, `num_features`, `img_size` and `in_chans`. It writes
    `stride`, `add_pos_embed`, `encode`, `pool`, `forward_head` and `attention_maps`; and of `ImageModel` `forward`,
    `reset_classifier`, `no_weight_decay`, `layers`, `head_parameters` and `parts_to_compile`. `num_classes`, `img_size`
    and `in_chans` are its arguments too, typed and with defaults: the data fill them in.

    A net without tokens is an `ImageModel` alone, which takes these last six and `embed`.
    """

    patch_embed: PatchEmbed

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return self.patch_embed.patch_size

    @property
    @abstractmethod
    def stride(self) -> int:
        """Side in pixels of what a token of `encode` stands for."""

    @abstractmethod
    def add_pos_embed(self, tokens: Float[Tensor, "B H W D"]) -> Float[Tensor, "B H W D"]:
        """Add position embeddings, resized where the grid is not the one of `img_size`."""

    @abstractmethod
    def encode(self, tokens: Float[Tensor, "B *grid D"]) -> Features:
        """Run the blocks and the final norm."""

    @abstractmethod
    def pool(self, features: Features) -> Float[Tensor, "B C"]:
        """Return the embedding that the classifier reads."""

    @abstractmethod
    def forward_head(self, features: Features) -> Float[Tensor, "B K"]:
        """Return the logits."""

    @abstractmethod
    def attention_maps(self, images: Float[Tensor, "B Cin Hpx Wpx"]) -> list[AttentionMap]:
        """Return each block's attention, recomputed from q and k, because fused kernels never hold it."""

    def forward_features(self, images: Float[Tensor, "B Cin Hpx Wpx"]) -> Features:
        """Take the three steps."""
        return self.encode(self.add_pos_embed(self.patch_embed(images)))

    def embed(self, images: Float[Tensor, "B Cin Hpx Wpx"]) -> Float[Tensor, "B C"]:
        return self.pool(self.forward_features(images))


def recompute_attention(
    model: Backbone, attentions: list[nn.Module], images: Float[Tensor, "B Cin Hpx Wpx"]
) -> list[Float[Tensor, "_ h N N"]]:
    """Return what `weights` of each attention gives for its inputs in a forward of the model."""
    found: list[Tensor] = []
    handles = [a.register_forward_pre_hook(lambda a, inputs: found.append(a.weights(*inputs))) for a in attentions]
    try:
        model.forward_features(images)
    finally:
        for handle in handles:
            handle.remove()
    return found

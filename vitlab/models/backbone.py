"""The one interface between architectures and objectives.

`ImageModel` is anything that can be trained on labels, `Backbone` adds the three steps objectives build on:

    patch_embed(images)   -> tokens (B, H, W, D)
    add_pos_embed(tokens) -> tokens (B, H, W, D)
    encode(tokens)        -> Features
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from vitlab.models.layers import PatchEmbed


class Features(NamedTuple):
    """What an encoder gives: P prefix tokens (class, distillation; P may be 0) and N patch tokens, normalised."""

    prefix: Float[Tensor, "B P C"]
    patches: Float[Tensor, "B N C"]


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


class Backbone(ImageModel):
    """Encode images as tokens in three public steps."""

    patch_embed: PatchEmbed

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return self.patch_embed.patch_size

    @property
    def stride(self) -> int:
        """Side in pixels of what a token of `encode` stands for."""
        return self.patch_size

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

    def forward_features(self, images: Float[Tensor, "B Cin Hpx Wpx"]) -> Features:
        """Take the three steps."""
        return self.encode(self.add_pos_embed(self.patch_embed(images)))

    def embed(self, images: Float[Tensor, "B Cin Hpx Wpx"]) -> Float[Tensor, "B C"]:
        return self.pool(self.forward_features(images))

"""What objectives that learn from images alone share: no classifier, and a validation loss."""

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vitlab.models import Backbone, ImageModel, VisionTransformer
from vitlab.objectives.ema import WeightAverage
from vitlab.objectives.objective import Batch, Objective
from vitlab.objectives.task import Monitor
from vitlab.optim import Optimizer, Schedule


class Pretraining(Objective, ABC):
    """Train a backbone without its classifier; compute the validation loss with the same random draws in each epoch.

    Validation images are seen in one view. Where training compares several, `val/loss` is another quantity.
    """

    def __init__(
        self, backbone: ImageModel, optimizer: Optimizer, schedule: Schedule, init_from: str | None = None
    ) -> None:
        backbone.reset_classifier(0)  # the data's number of classes may have been filled in
        super().__init__(backbone, optimizer, schedule, init_from)

    @property
    def monitor(self) -> Monitor | None:
        """The validation loss; none with a moving teacher, whose loss falls as it collapses."""
        moving = any(isinstance(module, WeightAverage) for module in self.modules())
        return None if moving else Monitor("val/loss", "min")

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the loss with draws that depend on the batch index alone, and restore the generators afterwards, so that
        epochs compare and validation does not change training."""
        views, labels = batch
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(batch_idx)
            loss = self.loss(views, labels)
        self.log("val/loss", loss, on_step=False, on_epoch=True, batch_size=len(labels), sync_dist=True)


class MaskedPretraining(Pretraining, ABC):
    """Hide part of each image and predict its pixels."""

    one_view = True

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit" and len(self.trainer.datamodule.training_shares) > 1:  # type: ignore[attr-defined]
            raise ValueError(f"{type(self).__name__} hides patches of images of one size; set data.grow: null.")

    @abstractmethod
    def fill_in(
        self, images: Float[Tensor, "B C H W"], generator: torch.Generator
    ) -> tuple[Float[Tensor, "B C H W"], Bool[Tensor, "B H W"]]:
        """Draw a mask and return (all predicted pixels, the mask on pixels), for figures.

        A prediction of normalized pixels is given the true mean and deviation, which the model never learned.
        """


@torch.no_grad()
def start_as_beit(backbone: Backbone, *others: Tensor) -> None:
    """Start a ViT and other weights as BEiT does, and SimMIM and data2vec with it: normal, σ = 0.02, cut at ± σ.

    What is left has a deviation of 0.0108. The layers with which the l-th block ends are divided by √(2 l).
    """
    if not isinstance(backbone, VisionTransformer):
        raise ValueError(f"released_init: true is for a ViT; leave it out for a {type(backbone).__name__}.")
    nn.init.zeros_(backbone.patch_embed.proj.bias)  # type: ignore[arg-type]
    for weight in (*backbone.parameters(), *others):
        if weight.ndim > 1:
            nn.init.trunc_normal_(weight, std=0.02, a=-0.02, b=0.02)
    for depth, block in enumerate(backbone.blocks, start=1):
        for layer in (block.attn.proj, block.mlp.fc2):  # type: ignore[union-attr]
            layer.weight.div_(math.sqrt(2 * depth))  # type: ignore[union-attr, operator]


def require_final_norm(backbone: Backbone) -> None:
    """Refuse a ViT that normalizes after pooling: the tokens that predict pixels would not be normalized."""
    if isinstance(backbone, VisionTransformer) and isinstance(backbone.norm, nn.Identity):
        wrong = f"With global_pool {backbone.global_pool} this ViT has no norm on its tokens, only on their mean"
        raise ValueError(f"{wrong}; train with fc_norm: false or, with a class token, global_pool: token.")

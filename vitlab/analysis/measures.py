"""Insides of a model: outputs of its blocks, filters and positions; and measures by which a study may rank."""

from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from vitlab.analysis.attention import attention_overlap, has_class_attention
from vitlab.data import ImageDataModule
from vitlab.models import Backbone, ImageModel
from vitlab.models.backbone import in_eval_mode
from vitlab.objectives import Objective
from vitlab.runs.measures import Measure, Measured


@torch.no_grad()
def block_outputs(model: ImageModel, images: Float[Tensor, "B Cin Hpx Wpx"]) -> list[Float[Tensor, "B N C"]]:
    """Return the output of each of `model.blocks` that is a map or a sequence of tokens, prefix tokens included."""
    outputs: list[Tensor] = []

    def keep(block: Any, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim > 2:
            first, *_, last = output.shape[1:]
            if output.ndim == 4 and output.shape[2] == last != first:  # a square map of a convolution, (B, C, H, W)
                output = output.movedim(1, -1)
            outputs.append(output.flatten(1, -2))

    handles = [block.register_forward_hook(keep) for block in model.blocks]
    try:
        model.embed(images)
    finally:
        for handle in handles:
            handle.remove()
    return outputs


def amplitude(features: Float[Tensor, "B N C"]) -> float:
    """Return the variance over images and tokens, averaged over channels (Brock et al. 2021).

    Block by block it gives Swin v2's Fig. 2: it grows with pre-norm, not with res-post-norm.
    """
    return float(features.flatten(0, 1).float().var(dim=0).mean())


@torch.no_grad()
def position_similarity(model: Backbone) -> Float[Tensor, "H W H W"] | None:
    """Return the cosine similarity of each patch's position embedding to all others; None if there are none."""
    images = torch.zeros(1, model.in_chans, *model.img_size, device=next(model.parameters()).device)
    positions = model.add_pos_embed(torch.zeros_like(model.patch_embed(images)))[0]  # (H, W, D)
    if not positions.any():
        return None
    unit = F.normalize(positions, dim=-1)
    return torch.einsum("hwd, ijd -> hwij", unit, unit)


@torch.no_grad()
def filter_components(model: ImageModel, count: int = 28) -> Float[Tensor, "n C p p"] | None:
    """Return the first principal components of the first convolution's filters; None if it sees no color or gray."""
    filters = next((m.weight for m in model.modules() if isinstance(m, nn.Conv2d)), None)  # (D, C, p, p)
    if filters is None or filters.shape[1] not in (1, 3):
        return None
    centered = filters.flatten(1) - filters.flatten(1).mean(dim=0)
    components = torch.linalg.svd(centered, full_matrices=False).Vh[:count]  # (n, C·p·p)
    largest = components.gather(1, components.abs().argmax(dim=1, keepdim=True))
    return (components * largest.sign()).unflatten(1, filters.shape[1:])


class AttentionJaccard(Measure):
    """Logs how well the class token's attention outlines objects, on test images with masks.

    `test/jaccard` is the mean over images of the best head of each (DINO, Fig. 4), `test/jaccard_mean` the mean over
    heads.

    Args:
        data: Other images than the run's, like `Shapes`, which a network can be tested on that has not seen them,
            normalized by their own mean and deviation.
    """

    LOGGED = ("test/jaccard", "test/jaccard_mean")

    def __init__(self, data: ImageDataModule | None = None) -> None:
        self.data = data

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        own: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
        data = self.data or own
        assert isinstance(pl_module, Objective)
        if self.data is not None:
            self.data.prepare_data()
            self.data.setup("test")
        size = pl_module.encoder.img_size
        if data.masks("test") is None:
            raise ValueError(f"AttentionJaccard: {type(data).__name__} has no masks. Use a data set like Shapes.")
        if (data.image_size, data.in_chans) != (own.image_size, own.in_chans):
            raise ValueError(f"AttentionJaccard: {type(data).__name__} needs the image_size and channels of the run.")
        if not has_class_attention(pl_module.encoder, torch.zeros(1, data.in_chans, *size)):
            raise ValueError("AttentionJaccard: the output reads no class token. Use a ViT with global_pool: token.")

    def measure(self, model: ImageModel, data: ImageDataModule, device: torch.device) -> Measured:
        """Return a value for each test image of the run, or the means over another data set's images."""
        shown = self.data or data
        masks = shown.masks("test")
        assert masks is not None
        overlap = attention_overlap(model, (view for (view,), _ in shown.batches("test", device)), masks)
        found = {"test/jaccard": overlap.best, "test/jaccard_mean": overlap.mean}
        return found if self.data is None else {name: float(values.mean()) for name, values in found.items()}


class Amplitude(Measure):
    """Logs how large activations become: their variance over images and tokens, the mean over channels and batches.

    `test/amplitude` is that after the last block, `test/amplitude_growth` that divided by the first block's (Swin v2,
    Fig. 2).
    """

    LOGGED = ("test/amplitude", "test/amplitude_growth")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        assert isinstance(pl_module, Objective)
        model = pl_module.encoder
        with in_eval_mode(model):
            if not block_outputs(model, torch.zeros(1, model.in_chans, *model.img_size, device=pl_module.device)):
                raise ValueError(f"Amplitude: {type(model).__name__} gives no outputs of blocks. Use a vitlab model.")

    def measure(self, model: ImageModel, data: ImageDataModule, device: torch.device) -> Measured:
        with in_eval_mode(model):
            batches = [list(map(amplitude, block_outputs(model, view))) for (view,), _ in data.batches("test", device)]
        by_block: list[Any] = [fmean(block) for block in zip(*batches, strict=True)]
        return {"test/amplitude": by_block[-1], "test/amplitude_growth": by_block[-1] / by_block[0]}

"""Measures of the inside of a trained model, by which a study may rank, see `vitlab.runs.measures`."""

from statistics import fmean
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from vitlab.analysis.activations import amplitude, block_outputs
from vitlab.analysis.attention import attention_overlap, has_class_attention
from vitlab.data import ImageDataModule
from vitlab.models import ImageModel
from vitlab.models.backbone import in_eval_mode
from vitlab.objectives import Objective
from vitlab.runs.measures import Measure, Measured


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
        """Reject data without masks and models without attention of a class token before the training."""
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
            raise ValueError(
                f"AttentionJaccard: {type(data).__name__} has images of {data.image_size} px and {data.in_chans} "
                f"channels, the run of {own.image_size} and {own.in_chans}. Give both the same image_size."
            )
        if not has_class_attention(pl_module.encoder, torch.zeros(1, data.in_chans, *size)):
            raise ValueError("AttentionJaccard: the output reads no class token. Use a ViT with global_pool: token.")

    def measure(self, model: ImageModel, data: ImageDataModule, device: torch.device) -> Measured:
        """Return values by image for the run's test images, means for others: `values.parquet` has the run's images."""
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
        """Reject models without outputs of blocks before the training."""
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

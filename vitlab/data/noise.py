"""Batches of noise in place of a data set's images, on their way from uint8 to views."""

from collections.abc import Iterator

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from vitlab.data.datamodule import ImageDataModule
from vitlab.data.dataset import Batch, Split, View
from vitlab.data.photos import height_and_width


class Noise(LightningDataModule):
    """Gives the same batch of noise many times, and nothing to evaluate.

    Args:
        one_class: whether labels are classes (B,), else numbers (B, K).
    """

    def __init__(self, data: ImageDataModule, batches: int, one_class: bool = True) -> None:
        super().__init__()
        self.data, self.number, self.one_class = data, batches, one_class
        self.batch_size, self.num_classes, self.seed = data.batch_size, data.num_classes, data.seed
        self.mean, self.std, self.multi_crop = data.mean, data.std, data.multi_crop
        self.in_chans, self.training_shares = data.in_chans, data.training_shares
        self.class_names: list[str] = []  # noise has none, whatever a teacher knows

    def batch(self) -> Batch:
        """Return what a loader would."""
        sides = height_and_width(self.data.framing.size)  # may be enlarged on the device
        images = torch.randint(256, (self.batch_size, self.data.in_chans, *sides), dtype=torch.uint8)
        indices = torch.arange(self.batch_size)
        labels = indices % self.num_classes if self.one_class else torch.rand(self.batch_size, self.num_classes).round()
        return Batch(images, labels, indices, epoch=0, first=0, host_indices=indices.numpy().copy())

    def train_dataloader(self) -> DataLoader:
        batch = self.batch()
        return DataLoader(range(self.number), batch_size=None, collate_fn=lambda _: batch)  # type: ignore[arg-type]

    def batches(self, split: Split, device: torch.device) -> Iterator[View]:
        return iter(())

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> View:
        return self.data.on_after_batch_transfer(batch, dataloader_idx)

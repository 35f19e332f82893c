"""Two processes share the images: each is evaluated once, and none is trained on by both."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from tests.objectives.small import quick_trainer
from vitlab.data import BatchAugment, Digits

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),  # Lightning calls what torch has deprecated
]


class _Model(LightningModule):
    """Note each image seen. BatchNorm has buffers, which DDP broadcasts in every forward pass, also in validation."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10))
        self.folder = folder
        self.seen: dict[str, list[Tensor]] = {"train": [], "val": []}

    def setup(self, stage: str) -> None:
        torch.set_num_threads(1)  # a fork waits forever for the threads of its parent

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    def training_step(self, batch: tuple[list[Tensor], Tensor], batch_idx: int) -> Tensor:
        (images,), labels = batch
        self.seen["train"].append(images)
        return F.cross_entropy(self(images), labels)

    def validation_step(self, batch: tuple[list[Tensor], Tensor], batch_idx: int) -> None:
        (images,), _ = batch
        self.seen["val"].append(images)
        self(images)

    def on_train_end(self) -> None:
        torch.save(
            {split: torch.cat(seen) for split, seen in self.seen.items()}, self.folder / f"{self.global_rank}.pt"
        )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def test_two_processes_see_every_image_once(tmp_path: Path) -> None:
    # 359 validation images: 180 and 179, which cut into full batches of 179 would be two batches and one.
    data = Digits(batch_size=100, eval_batch_size=179, val_fraction=0.3, augment=BatchAugment())
    assert len(data.labels("val")) == 359
    quick_trainer(devices=2, strategy="ddp_fork").fit(_Model(tmp_path), datamodule=data)
    shares = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    validated = torch.cat([share["val"] for share in shares])
    assert len(validated) == len(data.labels("val"))
    expected = torch.cat([views[0] for views, _ in data.batches("val", "cpu")])
    assert _rows(validated) == _rows(expected)
    trained = [share["train"] for share in shares]
    assert len(trained[0]) == len(trained[1])
    everything = torch.cat([views[0] for views, _ in data.batches("train", "cpu")])
    assert set(_rows(torch.cat(trained))) <= set(_rows(everything))
    assert not set(_rows(trained[0])) & set(_rows(trained[1]))


def _rows(images: Tensor) -> list[bytes]:
    return sorted(image.numpy().tobytes() for image in images)

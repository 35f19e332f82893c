"""A run that was stopped and continued is the undisturbed run, to the bit (Lightning alone replays the first epoch)."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from tests.data.conftest import PhotoFolder
from tests.objectives.small import quick_trainer
from vitlab.data import BatchAugment, Digits, ImageDataModule, ImageFolder, Mixup, PlacedDigits


class _Model(LightningModule):
    """A model with dropout: it draws from the global generator, as ViT's drop path does."""

    def __init__(self, features: int, num_classes: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(features, 16), nn.Dropout(0.3), nn.Linear(16, num_classes))
        self.seen: list[Tensor] = []

    def training_step(self, batch: tuple[list[Tensor], Tensor], batch_idx: int) -> Tensor:
        views, labels = batch
        self.seen.append(torch.cat([view.flatten(1) for view in views], dim=1))
        return F.cross_entropy(self.net(views[0]), labels)

    def validation_step(self, batch: tuple[list[Tensor], Tensor], batch_idx: int) -> None:
        (images,), labels = batch
        self.log("val/loss", F.cross_entropy(self.net(images), labels))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.01)


class _Keeper(Callback):
    """Save after every step, at every epoch's end and after every validation, with the global generator's state."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.restored: Tensor | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"torch": torch.get_rng_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.restored = state_dict["torch"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.restored is not None:
            torch.set_rng_state(self.restored)

    def _save(self, trainer: Trainer, name: str) -> None:
        if self.folder is not None:
            trainer.save_checkpoint(self.folder / f"{name}.ckpt")

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self._save(trainer, f"step{trainer.global_step}")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer, f"end{trainer.current_epoch}")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer, f"validation{trainer.current_epoch}")


def _fit(
    data: ImageDataModule, folder: Path | None = None, checkpoint: Path | None = None, epochs: int = 3, **trainer: Any
) -> _Model:
    """Train from the start and keep checkpoints in `folder`, or continue from one."""
    torch.manual_seed(0 if checkpoint is None else 123)  # a continued run starts with whatever state it finds
    model = _Model(data.in_chans * data.image_size**2, data.num_classes)
    quick_trainer(epochs, callbacks=[_Keeper(folder)], **trainer).fit(model, datamodule=data, ckpt_path=checkpoint)
    return model


def _assert_same(continued: _Model, undisturbed: _Model) -> None:
    count = len(continued.seen)
    assert count > 0
    for ours, expected in zip(continued.seen, undisturbed.seen[-count:], strict=True):
        assert torch.equal(ours, expected)  # the same images, distorted the same
    for name, value in undisturbed.state_dict().items():
        assert torch.equal(continued.state_dict()[name], value), name


def _digits() -> Digits:
    augment = BatchAugment(shift=1, shift_prob=0.5, erase_prob=0.3)
    return Digits(batch_size=200, augment=augment, mixup=Mixup())  # 5 steps an epoch


# In the first epoch; at its last batch; right after. Between two epochs Lightning continues from "epoch finished" and
# from "validated, the epoch's end not yet recorded" in different ways.
@pytest.mark.parametrize("steps", [5, 3])
def test_continued_run_equals_the_undisturbed(tmp_path: Path, steps: int) -> None:
    shortened = {} if steps == 5 else {"limit_train_batches": 3}  # ends before the loader is exhausted
    undisturbed = _fit(_digits(), tmp_path, epochs=2, **shortened)
    for file in (f"step{steps - 1}", f"step{steps}", f"step{steps + 1}", "end0", "validation0"):
        continued = _fit(_digits(), checkpoint=tmp_path / f"{file}.ckpt", epochs=2, **shortened)
        assert len(continued.seen) == {f"step{steps - 1}": steps + 1, f"step{steps + 1}": steps - 1}.get(file, steps)
        _assert_same(continued, undisturbed)


def test_run_limited_in_steps_is_continued(tmp_path: Path) -> None:
    # With max_steps Lightning counts as "restarting" also at the end of an epoch: old states must not be applied.
    undisturbed = _fit(_digits(), tmp_path, epochs=-1, max_steps=12)
    for file in ("step5", "end0", "step7"):
        continued = _fit(_digits(), checkpoint=tmp_path / f"{file}.ckpt", epochs=-1, max_steps=12)
        _assert_same(continued, undisturbed)


def test_finished_run_is_extended(tmp_path: Path) -> None:
    undisturbed = _fit(_digits(), epochs=3)
    _fit(_digits(), tmp_path, epochs=2)
    continued = _fit(_digits(), checkpoint=tmp_path / "end1.ckpt", epochs=3)
    assert len(continued.seen) == 5
    _assert_same(continued, undisturbed)


@pytest.mark.parametrize("balance", [0.0, 0.5])
def test_few_images_are_continued(tmp_path: Path, balance: float) -> None:
    def data() -> PlacedDigits:
        return PlacedDigits(batch_size=20, train_images=70, imbalance=20, balance=balance)

    undisturbed = _fit(data(), tmp_path, epochs=2)
    continued = _fit(data(), checkpoint=tmp_path / "step5.ckpt", epochs=2)
    _assert_same(continued, undisturbed)
    with pytest.raises(ValueError, match="images was 70, is 80"):
        _fit(PlacedDigits(batch_size=20, train_images=80), checkpoint=tmp_path / "step5.ckpt", epochs=2)
    other = PlacedDigits(batch_size=20, train_images=70, imbalance=20, balance=1.0)
    with pytest.raises(ValueError, match=f"balance was {balance}, is 1.0"):
        _fit(other, checkpoint=tmp_path / "step5.ckpt", epochs=2)


def test_photographs_are_continued_with_another_number_of_workers(tmp_path: Path, photo_folder: PhotoFolder) -> None:
    root = photo_folder({"train/a": 6, "train/b": 6, "val/a": 2, "val/b": 2})

    def data(workers: int) -> ImageFolder:
        return ImageFolder(root=str(root), image_size=16, batch_size=4, num_workers=workers, mixup=Mixup(), repeats=3)

    undisturbed = _fit(data(0), tmp_path, epochs=2)
    continued = _fit(data(2), checkpoint=tmp_path / "step2.ckpt", epochs=2)
    _assert_same(continued, undisturbed)


def test_another_batch_size_is_refused_within_an_epoch_and_accepted_after_one(tmp_path: Path) -> None:
    # 3 batches of 200 are not the first 3 batches of 100: some images would be seen twice, others never.
    _fit(_digits(), tmp_path, epochs=1)
    with pytest.raises(ValueError, match="batch_size was 200, is 100"):
        _fit(Digits(batch_size=100), checkpoint=tmp_path / "step3.ckpt", epochs=1)
    continued = _fit(Digits(batch_size=100), checkpoint=tmp_path / "end0.ckpt", epochs=2)
    assert len(continued.seen) == 10
    loops = torch.load(tmp_path / "step2.ckpt", weights_only=True)["loops"]
    (state,) = loops["fit_loop"]["state_dict"]["combined_loader"]
    order = {"repeats": 1, "blocks": None}
    assert state == {"images": 1078, "batch_size": 200, "seed": 0, "processes": 1, "balance": 0.0} | order


def test_every_test_image_is_predicted_once() -> None:
    # Lightning takes the loader apart for prediction: order and number must survive.
    class Model(_Model):
        def predict_step(self, batch: tuple[list[Tensor], Tensor], batch_idx: int) -> Tensor:
            return batch[1]

    data = Digits(eval_batch_size=64)
    labels = torch.cat(quick_trainer().predict(Model(64, 10), datamodule=data))  # type: ignore[arg-type]
    assert labels.tolist() == data.labels("test").tolist()


def test_overfitting_sees_the_same_batches_again() -> None:
    # Lightning would replace the sampler by one without keys, and the data set would not know what to read.
    model = _fit(_digits(), epochs=2, overfit_batches=2)
    assert len(model.seen) == 4
    assert torch.equal(model.seen[0], model.seen[2])
    assert torch.equal(model.seen[1], model.seen[3])


# Two processes share the images


class _Noting(LightningModule):
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
    quick_trainer(devices=2, strategy="ddp_fork").fit(_Noting(tmp_path), datamodule=data)
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

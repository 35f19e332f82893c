"""Figures drawn during training, for `trainer.callbacks` of a YAML file: PNGs in the run directory and on W&B.

Each is drawn every n epochs and after the last, of the same validation images and with the same random numbers, so that
epochs can be compared. Training does not depend on them.
"""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
import torch
from jsonargparse.typing import PositiveInt
from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.figure import Figure
from torch.distributed.fsdp import FSDPModule

from vitlab.analysis.agreement import agreement, divergence, draw_agreement
from vitlab.analysis.canvas import to_pixels, write_png
from vitlab.analysis.figures import draw_reconstructions
from vitlab.models.backbone import in_eval_mode
from vitlab.objectives import Distillation
from vitlab.objectives.pretraining import MaskedPretraining
from vitlab.objectives.sharding import gathered
from vitlab.runs.checkpoints import is_last_epoch
from vitlab.runs.loggers import UnbreakableWandbLogger
from vitlab.runs.record import RunRecord


class Pictures(Callback, ABC):
    """Draws a figure at intervals.

    Args:
        every_n_epochs: how often, and after the last epoch.
    """

    name: ClassVar[str]  # prefix of the file names

    def __init__(self, every_n_epochs: PositiveInt = 10) -> None:
        self.every_n_epochs = every_n_epochs

    @abstractmethod
    def draw(self, objective: Any, data: Any, title: str) -> Figure:
        """Draw the objective, which is in evaluation mode and without gradients; log metrics if there are any."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        draws = trainer.is_global_zero or isinstance(pl_module, FSDPModule)  # its networks then take all processes
        if not draws or (epoch % self.every_n_epochs and not is_last_epoch(trainer)):
            return
        with in_eval_mode(pl_module), torch.no_grad(), gathered(pl_module):
            figure = self.draw(pl_module, trainer.datamodule, f"epoch {epoch}")  # type: ignore[attr-defined]
        if not trainer.is_global_zero:
            return
        record = next((c for c in trainer.callbacks if isinstance(c, RunRecord)), None)  # type: ignore[attr-defined]
        directory = Path(trainer.default_root_dir) if record is None else record.directory
        file = directory / "pictures" / f"{self.name}-epoch-{epoch:04d}.png"
        write_png(figure, file)
        for logger in trainer.loggers:
            if isinstance(logger, UnbreakableWandbLogger):
                logger.log_picture(f"pictures/{self.name}", file, trainer.global_step)


@final
class Reconstructions(Pictures):
    """Draws the visible patches of images and the prediction of SimMIM or MAE.

    Where normalized pixels are predicted, each patch (MAE) or neighborhood (SimMIM) has its true mean and deviation.

    Args:
        every_n_epochs: how often, and after the last epoch.
        images: how many, always the same ones, drawn from the validation images.
    """

    name = "reconstructions"

    def __init__(self, every_n_epochs: PositiveInt = 10, images: PositiveInt = 8) -> None:
        super().__init__(every_n_epochs)
        self.images = images

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not isinstance(pl_module, MaskedPretraining):
            raise ValueError(f"Reconstructions: {type(pl_module).__name__} predicts no pixels, as SimMIM and MAE do.")

    def draw(self, objective: MaskedPretraining, data: Any, title: str) -> Figure:
        images, _, _ = some_images(data, self.images, objective.device)
        pred, mask = objective.fill_in(images, torch.Generator(objective.device).manual_seed(0))
        shown, painted = (to_pixels(x, data.mean, data.std) for x in (images, pred))
        return draw_reconstructions(shown, painted, mask.cpu().numpy(), title)


@final
class TeacherAgreement(Pictures):
    """Draws and logs how often a distilled student agrees with its teacher on the validation images.

    `val/agreement` is the fraction of equal predictions, `val/teacher_kl` the mean KL(teacher ‖ student) in nats.
    Each head and the average of the weights have their own, `val_distillation/agreement` and so on.
    """

    name = "teacher-agreement"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not isinstance(pl_module, Distillation):
            raise ValueError(f"TeacherAgreement needs a teacher; {type(pl_module).__name__} has none.")

    def draw(self, objective: Distillation, data: Any, title: str) -> Figure:
        answers: list[dict[str, torch.Tensor]] = []
        for (images,), labels in data.batches("val", objective.device):
            answers.append(objective.outputs(images) | {"teacher": objective.teacher(images), "label": labels})
        student = {name: torch.cat([a[name] for a in answers]).float().cpu() for name in answers[0]}
        teacher, labels = student.pop("teacher"), student.pop("label").long()
        for name, logits in student.items():
            equal = agreement(logits, teacher).float().mean()
            objective.log(f"val{name}/agreement", equal, rank_zero_only=True)
            objective.log(f"val{name}/teacher_kl", divergence(logits, teacher), rank_zero_only=True)
        named = {name.removeprefix("_") or "student": logits for name, logits in student.items()}
        return draw_agreement(named, teacher, labels, data.class_names, title)


def some_images(data: Any, count: int, device: torch.device) -> tuple[torch.Tensor, list[int], list[str]]:
    """Return `count` drawn validation images (count, C, H, W), always the same ones, with their labels and names."""
    labels, names = data.labels("val"), data.image_names("val")
    chosen = np.random.default_rng(0).permutation(len(labels))[:count]
    return data.views("val", chosen, device), labels[chosen].tolist(), [names[i] for i in chosen]

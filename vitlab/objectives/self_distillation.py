"""What DINO and MSN share: a student learns to answer as its teacher does, the average of its own past weights.

Nothing in such a loss forbids one answer to all images, so what tells it is logged: the entropy H(t) of the teacher's
answers and their divergence KL(t ‖ s) from the student's, whose sum is the cross-entropy H(t, s).

Letters: V views of B images, the first G of them global crops, C channels, D width of the backbone, K outputs.
"""

import logging
import math
from abc import ABC, abstractmethod
from collections import OrderedDict
from itertools import groupby
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitlab.models import Backbone
from vitlab.objectives.ema import WeightAverage
from vitlab.objectives.objective import Batch, Objective
from vitlab.optim import Optimizer, Schedule

log = logging.getLogger("vitlab")

REMEDIES = (
    "What has helped others: a lower teacher temperature (0.02 to 0.04), warmed up for longer; fewer outputs (4096 for "
    "a small data set); batches of 256 or more;\nanother momentum (0.99 for a short run, 0.9995 for small batches); a "
    "lower learning rate; the last layer frozen for longer; trainer.precision 32-true."
)


class SelfDistillation(Objective, ABC):
    """Train a backbone and a head on it towards their own average, which alone is evaluated and exported.

    As in both released codes, everything of two or more dimensions is decayed: class token, positions and the position
    biases of a Swin too. No epoch is called the best: the teacher moves, so losses of two epochs do not compare, and
    k-NN accuracy would choose by labels.

    Args:
        backbone: Its classifier is left out.
        head: From the embedding (B, D) to what is compared.
        num_outputs: K.
        optimizer: Settings of the optimizer.
        schedule: The learning rate over the run.
        clip_grad: Longest gradient; of what, the objective says.
        init_from: Weights that student and teacher start from.
    """

    def __init__(
        self,
        backbone: Backbone,
        head: nn.Module,
        num_outputs: int,
        optimizer: Optimizer,
        schedule: Schedule,
        clip_grad: float | None,
        init_from: str | None,
    ) -> None:
        backbone.reset_classifier(0)  # the data's number of classes may have been filled in
        super().__init__(backbone, optimizer, schedule, init_from)
        if clip_grad is not None and clip_grad <= 0:
            raise ValueError(f"clip_grad is {clip_grad}; give a length above 0, like 3.0, or null for no clipping.")
        self.backbone: Backbone = backbone
        self.head = head
        self.teacher = WeightAverage(self.student)
        self.num_outputs, self.clip_grad = num_outputs, clip_grad
        self.global_views = 2  # as both released codes have, unless the data tell otherwise
        self.told: str | None = None

    @property
    def student(self) -> nn.Sequential:
        """Backbone and head, as they are trained."""
        return nn.Sequential(OrderedDict(backbone=self.backbone, head=self.head))

    @property
    def encoder(self) -> Backbone:
        return self.teacher.module.backbone  # type: ignore[return-value]

    @abstractmethod
    def momentum(self, progress: float) -> float:
        """Return the share of the teacher that stays in an optimizer step."""

    def no_weight_decay(self) -> set[str]:
        return set()

    def setup(self, stage: str) -> None:
        super().setup(stage)
        multi_crop = self.trainer.datamodule.multi_crop  # type: ignore[attr-defined]
        if multi_crop is not None:  # else the loss says that it is lacking
            self.global_views = multi_crop.global_crops.number

    def load_backbone(self, path: Path) -> None:
        super().load_backbone(path)
        self.teacher.restart(self.student)

    def teacher_forward(self, images: Float[Tensor, "B C H W"]) -> Tensor:
        """Return the teacher's answer, without gradient, nor the drop path that it has copied from its student."""
        with torch.no_grad():
            return self.teacher.eval().module(images)

    def after_optimizer_step(self) -> None:
        self.teacher.update(self.student, self.momentum(self.progress))

    # ---- to see a collapse

    def watch(self, targets: Float[Tensor, "B K"], cross_entropy: Tensor) -> None:
        """Note what a batch tells of the teacher's answers, to be logged."""
        self.entropy = entropy(targets).mean()
        self.kl = cross_entropy.detach() - self.entropy

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        seen = {"train/entropy": self.entropy, "train/kl": self.kl}
        self.log_dict(seen, on_step=False, on_epoch=True, batch_size=len(batch[1]), sync_dist=True)
        return loss

    def on_train_epoch_end(self) -> None:
        """Name a collapse in the log when it begins, but in the first tenth of a run: all of them begin at ln K."""
        super().on_train_epoch_end()
        seen = self.trainer.callback_metrics
        if self.progress < 0.1 or "train/kl" not in seen or not self.trainer.is_global_zero:
            return
        finding = collapse(float(seen["train/entropy"]), float(seen["train/kl"]), self.num_outputs)
        if finding and finding != self.told:
            log.warning("%s\n%s", finding, REMEDIES)
        self.told = finding


def collapse(entropy: float, kl: float, num_outputs: int) -> str | None:
    """Name the collapse that an epoch's means tell of, if they do (Caron et al. 2021, section 5.3)."""
    most = math.log(num_outputs)
    if entropy + kl > 0.99 * most:
        return f"Collapse? The loss is stuck at ln {num_outputs} = {most:.2f}: all outputs are as likely for any image."
    if kl < 0.001 * most:
        return "Collapse? KL is 0: student and teacher agree on every view, as they do where no image matters."
    return None


def entropy(probabilities: Float[Tensor, "*B K"]) -> Float[Tensor, "*B"]:
    """Return −Σ_k p_k ln p_k."""
    return torch.special.entr(probabilities).sum(dim=-1)


def by_resolution(views: list[Tensor]) -> list[list[Tensor]]:
    """Part the views of a batch where their size changes."""
    return [list(group) for _, group in groupby(views, key=lambda view: view.shape[2:])]


def embed_views(backbone: Backbone, views: list[Tensor]) -> Float[Tensor, "VB D"]:
    """Embed all views, view by view, in one forward for each size: ten crops of two sizes are two forwards."""
    return torch.cat([backbone.embed(torch.cat(group)) for group in by_resolution(views)])

"""What objectives with a momentum teacher share: the student learns from a moving average of its own weights,

    f̄ ← m f̄ + (1 − m) f    after each optimizer step.

DINO and MSN compare the outputs of a head; others, like BYOL, compare embeddings and have no head that is averaged.
Such a loss can collapse to one output for all images. Where outputs are distributions, two numbers that reveal a
collapse are logged: the entropy H(t) of the teacher's outputs and their divergence KL(t ‖ s) from the student's,
whose sum is the cross-entropy H(t, s).

Letters: V views of B images, the first G of them global crops, C channels, D width of the backbone and d of the
projection, K outputs.
"""

import math
from abc import ABC
from collections import OrderedDict
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from jsonargparse.typing import ClosedUnitInterval, PositiveFloat
from torch import Tensor, nn

from vitlab import log
from vitlab.distributed import mean_over_processes
from vitlab.models import ImageModel
from vitlab.models.layers import BatchNorm, Init, init_linears, trunc_normal
from vitlab.objectives.ema import WeightAverage
from vitlab.objectives.objective import Objective, Scalar, Views
from vitlab.optim import Optimizer, Schedule, cosine


class SelfDistillation(Objective, ABC):
    """Train a backbone towards its own average, which alone is evaluated and exported.

    As in the released code of DINO and MSN, everything of two or more dimensions is decayed, also class token,
    positions, a Swin's position biases and Swin v2's temperatures. There is no best epoch: the teacher moves, so losses
    of different epochs are not comparable, and choosing by k-NN accuracy would use labels.

    Args:
        backbone: Its classifier is removed.
        optimizer: Settings of the optimizer.
        schedule: The learning rate over the run, with its warm-up: a class of `vitlab.optim`.
        head: From the embedding (B, D) to what is compared, averaged along with the backbone; None: embeddings are
            compared.
        momentum_teacher: m at the start, from where it follows a cosine to `momentum_teacher_end`.
        clip_grad: Maximum norm of the gradient of backbone and head; null: no clipping.
        init_from: Weights that student and teacher start from.
        momentum_teacher_end: m at the end. If both are 0, the teacher is a copy of the student.
    """

    least_global_views = 1  # that the loss compares
    remedies = (
        "What has helped others: another momentum (0.99 for a short run, 0.9995 for small batches); batches of 256 or "
        "more; a lower learning rate; trainer.precision 32-true."
    )

    def __init__(
        self,
        backbone: ImageModel,
        optimizer: Optimizer,
        schedule: Schedule,
        head: nn.Module | None = None,
        momentum_teacher: ClosedUnitInterval = 0.996,
        clip_grad: PositiveFloat | None = None,
        init_from: str | None = None,
        momentum_teacher_end: ClosedUnitInterval = 1.0,
    ) -> None:
        backbone.reset_classifier(0)  # the data's number of classes may have been filled in
        super().__init__(backbone, optimizer, schedule, init_from)
        if head is not None:
            self.head = head
        self.teacher = WeightAverage(self.student)
        self.momentum_teacher, self.momentum_teacher_end = momentum_teacher, momentum_teacher_end
        self.clip_grad = clip_grad
        self.global_views = 2  # as in the released codes, unless the data define it
        self.num_outputs = 0
        self.reported: str | None = None

    @property
    def student(self) -> nn.Sequential:
        """Backbone and heads, as they are trained: what the teacher copies."""
        heads = {name: module for name, module in self.named_children() if name.startswith("head")}
        return nn.Sequential(OrderedDict(backbone=self.backbone, **heads))

    @property
    def encoder(self) -> ImageModel:
        return self.teacher.module.backbone  # type: ignore[return-value]

    @property
    def epoch_metrics(self) -> list[str]:
        return ["train/loss", "train/entropy", "train/kl"]

    def momentum(self, progress: float) -> float:
        """Return m, the fraction of the teacher that an optimizer step keeps."""
        return cosine(self.momentum_teacher, self.momentum_teacher_end, progress)

    def no_weight_decay(self) -> set[str]:
        return set()

    def setup(self, stage: str) -> None:
        super().setup(stage)
        multi_crop = self.trainer.datamodule.multi_crop  # type: ignore[attr-defined]
        number = 1 if multi_crop is None else multi_crop.global_crops.number
        if stage == "fit" and number < (least := self.least_global_views):
            wrong = f"{type(self).__name__} compares {least} global crops of an image, and the data give {number}"
            raise ValueError(f"{wrong}; set data.multi_crop, with as many in global_crops.number.")
        if multi_crop is not None:
            self.global_views = number

    def load_backbone(self, path: Path) -> None:
        super().load_backbone(path)
        self.teacher.restart(self.student)

    def teacher_forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        """Return the teacher's output, without gradient and without the drop path copied from the student."""
        module = self.teacher.eval().module
        with torch.no_grad():
            embedding = module.backbone.embed(images)  # type: ignore[operator, union-attr]
            return module.head(embedding) if hasattr(module, "head") else embedding  # type: ignore[operator]

    def clip_gradients_of_student(self, longest: float) -> None:
        """Clip backbone and head together, as MSN's released code does."""
        nn.utils.clip_grad_norm_(self.student.parameters(), longest)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by `clip_grad`; then the Trainer's own clipping of all gradients, if it is on."""
        if self.clip_grad is not None:
            self.clip_gradients_of_student(self.clip_grad)
        super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def after_optimizer_step(self) -> None:
        self.teacher.update(self.student, self.momentum(self.progress))

    # ---- detecting a collapse

    def watch(self, targets: Float[Tensor, "B K"], cross_entropy: Scalar) -> None:
        """Note the entropy of a batch's targets and their divergence from the student's, to be logged."""
        self.num_outputs = targets.shape[-1]
        mean = entropy(targets).mean()
        self.watched = {"train/entropy": mean, "train/kl": cross_entropy.detach() - mean}

    def on_train_epoch_end(self) -> None:
        """Report a collapse when it begins, except in the first tenth of a run: every run begins at ln K."""
        super().on_train_epoch_end()
        means = self.trainer.callback_metrics
        if self.progress < 0.1 or "train/kl" not in means or not self.trainer.is_global_zero:
            return
        symptom = collapse(float(means["train/entropy"]), float(means["train/kl"]), self.num_outputs)
        if symptom and symptom != self.reported:
            log.warning("%s\n%s", symptom, self.remedies)
        self.reported = symptom


def collapse(entropy: float, kl: float, num_outputs: int) -> str | None:
    """Describe the collapse that an epoch's means indicate, if any (Caron et al. 2021, section 5.3)."""
    most = math.log(num_outputs)
    if entropy + kl > 0.99 * most:
        return f"Collapse? The loss is stuck at ln {num_outputs} = {most:.2f}: all outputs are as likely for any image."
    if kl < 0.001 * most:
        return "Collapse? KL is 0: student and teacher agree on every view, as they do where no image matters."
    return None


def entropy(probabilities: Float[Tensor, "*B K"]) -> Float[Tensor, "*B"]:
    """Return −Σ_k p_k ln p_k."""
    return torch.special.entr(probabilities).sum(dim=-1)


def sinkhorn(targets: Float[Tensor, "B K"], iterations: int = 3) -> Float[Tensor, "B K"]:
    """Balance the images of all processes over the prototypes; rows sum to 1 (Cuturi 2013)."""
    for _ in range(iterations):
        targets = targets / mean_over_processes(targets.mean(dim=0))
        targets = targets / targets.sum(dim=1, keepdim=True)
    return targets


def by_resolution(views: Views) -> list[Views]:
    """Split the views of a batch where their size changes."""
    return [list(group) for _, group in groupby(views, key=lambda view: view.shape[2:])]


def embed_views(backbone: ImageModel, views: Views) -> Float[Tensor, "VB D"]:
    """Embed all views, view by view, in one forward for each size: ten crops of two sizes are two forwards."""
    return torch.cat([backbone.embed(torch.cat(group)) for group in by_resolution(views)])


# ---- the heads of DINO and MSN, used in training only: a projection, and the prototypes it is compared with


def projection(
    in_dim: int, hidden_dim: int, out_dim: int, batch_norm: bool, init: Init = trunc_normal
) -> nn.Sequential:
    """Return three linear layers with GELU between them, in MSN after a batch norm: (B, C) -> (B, d)."""

    def layers() -> Iterator[nn.Module]:
        for dim in (in_dim, hidden_dim):
            yield nn.Linear(dim, hidden_dim)
            if batch_norm:
                yield BatchNorm(hidden_dim, track_running_stats=False)  # it is not used in evaluation
            yield nn.GELU()
        yield nn.Linear(hidden_dim, out_dim)

    mlp = nn.Sequential(*layers())
    init_linears(mlp, init)
    return mlp


class Prototypes(nn.Module):
    """Compare embeddings z with K learned directions: g_k · cos(z, v_k), where g_k is 1 unless it is learned.

    In DINO they are the weight-normalized last layer, whose parameter names are kept. Computed in float32 under
    autocast too: divided by a temperature of 0.04, bfloat16's rounding of a cosine is an error of 0.1 in a logit.
    """

    def __init__(self, dim: int, num: int, learn_norm: bool = False) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(num, 1), requires_grad=learn_norm)
        self.weight_v = nn.Parameter(nn.init.uniform_(torch.empty(num, dim), -(dim**-0.5), dim**-0.5))

    def forward(self, z: Float[Tensor, "B d"]) -> Float[Tensor, "B K"]:
        with torch.autocast(z.device.type, enabled=False):
            z = F.normalize(z.to(self.weight_v.dtype), dim=1)
            return F.linear(z, self.weight_g * F.normalize(self.weight_v, dim=1))

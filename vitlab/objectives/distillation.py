"""Distillation as in DeiT (Touvron et al. 2021, https://arxiv.org/abs/2012.12877): learn from labels and a teacher.

    L = (1 − α) CE(class head, y) + α · T(distillation head, teacher)

    hard:  T = CE(distillation head, argmax_k teacher_k)
    soft:  T = τ² KL(softmax(teacher / τ) ‖ softmax(distillation head / τ))

A student with a distillation token has a head for each; their logits are averaged in evaluation (the paper adds
probabilities: `val_prob/…`). A student with one head learns both with it: what the paper calls usual distillation.

The teacher sees the images that the student sees. With `teacher.cache`, its logits for them are kept on disk, and all
students of a seed ask it only once: a step then costs what it costs without a teacher (`output_cache.py`).

Letters: B images, K classes, y labels, also mixtures of two.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from jsonargparse.typing import ClosedUnitInterval, PositiveFloat
from torch import Tensor
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from vitlab import log
from vitlab.models import ImageModel, TimmModel, VisionTransformer
from vitlab.objectives.classification import Classifier
from vitlab.objectives.labeled import Predictions
from vitlab.objectives.objective import Batch, Labels, Scalar, Views
from vitlab.objectives.output_cache import OutputCache
from vitlab.objectives.teacher import Teacher


class Target(ABC):
    """What a student learns from the teacher's logits."""

    @abstractmethod
    def loss(self, logits: Float[Tensor, "B K"], teacher: Float[Tensor, "B K"]) -> Float[Tensor, ""]:
        """Return T."""


@dataclass
class HardTarget(Target):
    """The class that the teacher predicts, as if it were the label; not smoothed."""

    def loss(self, logits: Float[Tensor, "B K"], teacher: Float[Tensor, "B K"]) -> Float[Tensor, ""]:
        return F.cross_entropy(logits, teacher.argmax(dim=1))


@dataclass
class SoftTarget(Target):
    """The teacher's probabilities. The defaults are the released code's; the paper's are τ = 3, α = 0.1 and per image.

    Args:
        tau: Temperature τ of both, above 0.
        per_class: Divide by K too, as the released code does; the term is then K times smaller.
    """

    tau: PositiveFloat = 1.0
    per_class: bool = True

    def loss(self, logits: Float[Tensor, "B K"], teacher: Float[Tensor, "B K"]) -> Float[Tensor, ""]:
        log_q, log_p = (x / self.tau for x in (logits, teacher))
        log_q, log_p = log_q.log_softmax(dim=1), log_p.log_softmax(dim=1)
        divergence = F.kl_div(log_q, log_p, reduction="sum", log_target=True)
        return self.tau**2 * divergence / (logits.numel() if self.per_class else len(logits))


class Distillation(Classifier):
    """Train an image model on labels and on a teacher's predictions.

    `test/agreement`, measured after training, is the fraction of test images that student and teacher classify alike.

    Args:
        backbone: The student. With a distillation token (`deit_…_distilled…`, `distilled: true`), two heads share
            the work; any other model learns both with its only head.
        teacher: A trained model; its accuracy on the validation images is printed first, and chance is refused.
        target: What is learned from the teacher.
        alpha: Share α of the teacher in the loss: λ in the paper. 0 is a control, whose agreement with the teacher is
            measured.
        more: What `Classifier` and `LabeledObjective` take, by name; smoothing, weights and adjustment are those of the
            labels alone.
    """

    def __init__(
        self,
        backbone: ImageModel,
        teacher: Teacher,
        target: Target,
        *labeled: Any,
        alpha: ClosedUnitInterval = 0.5,
        **more: Any,
    ) -> None:
        super().__init__(backbone, *labeled, **more)
        self.two_heads = isinstance(backbone, VisionTransformer) and backbone.distilled
        if isinstance(backbone, TimmModel) and isinstance(backbone.net.get_classifier(), tuple):
            raise ValueError("This timm student averages its two heads; use vitlab's model of the same name.")
        if self.two_heads and alpha in (0, 1):
            wasted = "distillation" if alpha == 0 else "class"
            raise ValueError(f"alpha is {alpha}: the {wasted} head would learn nothing; set distilled: false.")
        self.teacher, self.target, self.alpha = teacher, target, alpha
        self.cache: OutputCache | None = None
        self.agreement = MeanMetric()
        if self.two_heads:
            names = [f"{split}{head}" for split in ("val", "test") for head in ("_class", "_distillation", "_prob")]
            for name in names:
                top1 = MulticlassAccuracy(backbone.num_classes, average="micro")
                self.metrics[name] = MetricCollection({"top1": top1}, prefix=f"{name}/")

    @property
    def epoch_metrics(self) -> list[str]:
        heads = ("val_class", "val_distillation", "val_prob") if self.two_heads else ()
        return super().epoch_metrics + [str(name) for head in heads for name in self._metrics_of(head)]

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":
            data = self.trainer.datamodule  # type: ignore[attr-defined]
            device = self.trainer.strategy.root_device
            self.teacher.prepare(device, data.mean, data.std, data.class_names)
            if (theirs := self.teacher.model.num_classes) != (own := self.backbone.num_classes):
                wrong = f"The teacher has {theirs} classes and the student {own}"
                raise ValueError(f"{wrong}; a teacher must have been trained on the classes of the data.")
            if not self.trainer.fast_dev_run:  # type: ignore[attr-defined]  # which trains no teacher and keeps nothing
                self.teacher.examine(data.batches("val", device))
                self.cache = self.teacher.open_cache(str(self.trainer.precision))

    def loss(self, views: Views, labels: Labels) -> Scalar:
        (images,) = views
        teacher = self.teacher(images) if self.cache is None else self.cache.outputs(images, self.teacher)  # (B, K)
        cls, dist = self.head_logits(images)  # (B, K) each
        return (1 - self.alpha) * self.label_loss(cls, labels) + self.alpha * self.target.loss(dist, teacher)

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        if self.cache is not None:
            self.cache.flush()

    def on_train_end(self) -> None:
        if self.cache is not None:
            known, of = self.cache.answered, self.cache.batches
            log.info("Outputs of the frozen network: %d of %d batches from %s.", known, of, self.cache.folder)

    def head_logits(self, images: Float[Tensor, "B C H W"]) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B K"]]:
        """Return the logits trained on the labels and on the teacher: the same for a single head."""
        if self.two_heads:
            assert isinstance(self.backbone, VisionTransformer)
            return self.backbone.forward_heads(self.backbone.forward_features(images))
        logits = self.backbone(images)
        return logits, logits

    def test_step(self, batch: Batch, batch_idx: int) -> Predictions:
        predictions = super().test_step(batch, batch_idx)
        (images,), labels = batch
        if self.teacher.ready:
            same = predictions["logits"].argmax(dim=1) == self.teacher(images).argmax(dim=1)
            self.agreement.update(same.float())
            predictions["agreement"] = same.float()
            self.log("test/agreement", self.agreement, on_step=False, on_epoch=True, batch_size=len(labels))
        return predictions

    def outputs(self, images: Float[Tensor, "B C H W"]) -> dict[str, Float[Tensor, "B K"]]:
        if not self.two_heads:
            return super().outputs(images)
        cls, dist = self.head_logits(images)
        prob = torch.logaddexp(cls.log_softmax(dim=1), dist.log_softmax(dim=1)) - math.log(2)
        named = {"": (cls + dist) / 2, "_class": cls, "_distillation": dist, "_prob": prob}
        return named | ({} if self.average is None else {"_ema": self.average.module(images)})

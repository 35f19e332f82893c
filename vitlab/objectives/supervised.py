"""Supervised classification: the cross-entropy between softmax(f(x)) and the label,

    L = −Σ_k y_k log softmax(f(x))_k,    y ← (1 − ε) y + ε / K

with K classes, ε the label smoothing, and y one-hot or, after mixup and cutmix (made by the data), a mixture of two.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from jsonargparse.typing import ClosedUnitInterval
from torchmetrics import Metric

from vitlab.models import Backbone, ImageModel
from vitlab.models.weights import load_classifier_rows
from vitlab.models.whitening import whiten_patches
from vitlab.objectives.classification import ClassificationTask
from vitlab.objectives.ema import Ema
from vitlab.objectives.labeled import LabeledObjective
from vitlab.objectives.objective import Labels, Scalar, Views
from vitlab.optim import Optimizer, Schedule

ENOUGH = 5000  # images for the statistics of their patches, as in airbench


class Supervised(LabeledObjective):
    """Train an image model on labels.

    Args:
        backbone: Any vitlab or timm model; its number of classes must be the data's.
        optimizer: Settings of the optimizer.
        schedule: The learning rate over the run.
        label_smoothing: ε above.
        head_init_scale: Multiplies the classifier's initial weights: 0.001 where MAE and SimMIM fine-tune a ViT, 0
            where Swin fine-tunes and in big_vision. A classifier loaded by `init_from` keeps its weights.
        ema: Also average the weights over the steps, and validate, test and checkpoint the average.
        init_from: Weights to start from: a file, a folder, a run directory, or a name on the hub, `timm/…`.
        head_rows: A file with a number for each class, one a line: the row of the classifier in `init_from` from which
            that of the class starts, like map22kto1k.txt of Swin. Null: a classifier for other classes is initialized.
        init_raw: Start from the trained weights of the run `init_from`, not from their average, if it has one.
        whiten: Start the patch embedding with whitened patches of the training images, see `vitlab.models.whitening`.
        extra_metrics: Additional metrics, from torchmetrics or your own, by name; a study may rank by them.
    """

    task = ClassificationTask()

    def __init__(
        self,
        backbone: ImageModel,
        optimizer: Optimizer,
        schedule: Schedule,
        label_smoothing: ClosedUnitInterval = 0.0,
        head_init_scale: float = 1.0,
        ema: Ema | None = None,
        init_from: str | None = None,
        init_raw: bool = False,
        whiten: bool = False,
        head_rows: str | None = None,
        extra_metrics: Mapping[str, Metric] | None = None,
    ) -> None:
        if whiten and not isinstance(backbone, Backbone):
            raise ValueError(f"whiten is true, but a {type(backbone).__name__} has no patch_embed; set whiten: false.")
        if whiten and init_from is not None:
            raise ValueError(f"whiten is true, but init_from {init_from} has its patch embedding; set one of the two.")
        if head_rows is not None and init_from is None:
            raise ValueError(f"head_rows is {head_rows}, rows of a classifier in init_from, which is null; set both.")
        with torch.no_grad():
            for parameter in backbone.head_parameters():
                parameter.mul_(head_init_scale)
        super().__init__(backbone, optimizer, schedule, ema, init_from, extra_metrics)
        self.label_smoothing, self.init_raw, self.whiten = label_smoothing, init_raw, whiten
        self.head_rows = head_rows

    def load_backbone(self, path: Path) -> None:
        super().load_backbone(path)
        if self.head_rows is None:
            return
        rows = [int(row) for row in Path(self.head_rows).read_text(encoding="utf-8").split()]
        load_classifier_rows(self.backbone, path, rows, self.prefix_in(path))
        if self.average is not None:
            self.average.restart(self.backbone)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if not self.whiten or stage != "fit" or self.trainer.ckpt_path is not None:
            return
        assert isinstance(self.backbone, Backbone)
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        every = max(1, len(data.labels("train")) // ENOUGH)
        batches = data.batches("train", self.device, every)  # not augmented, the same in every process
        whiten_patches(self.backbone.patch_embed, (images for (images,), _ in batches))
        if self.average is not None:
            self.average.restart(self.backbone)

    def loss(self, views: Views, labels: Labels) -> Scalar:
        (images,) = views
        return F.cross_entropy(self.backbone(images), labels, label_smoothing=self.label_smoothing)

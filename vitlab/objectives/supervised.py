"""Supervised classification: the cross-entropy between softmax(f(x)) and the label (`classification.py`)."""

from pathlib import Path
from typing import Any

import torch

from vitlab.models import Backbone, ImageModel
from vitlab.models.weights import load_classifier_rows
from vitlab.models.whitening import whiten_patches
from vitlab.objectives.classification import Classifier
from vitlab.objectives.objective import Labels, Scalar, Views

ENOUGH = 5000  # images for the statistics of their patches, as in airbench


class Supervised(Classifier):
    """Train an image model on labels.

    Args:
        backbone: Any vitlab or timm model; its number of classes must be the data's.
        head_init_scale: Multiplies the classifier's initial weights: 0.001 where MAE and SimMIM fine-tune a ViT, 0
            where Swin fine-tunes and in big_vision. A classifier loaded by `init_from` keeps its weights.
        head_rows: A file with a number for each class, one a line: the row of the classifier in `init_from` from which
            that of the class starts, like map22kto1k.txt of Swin. Null: a classifier for other classes is initialized.
        init_raw: Start from the trained weights of the run `init_from`, not from their average, if it has one.
        whiten: Start the patch embedding with whitened patches of the training images, see `vitlab.models.whitening`.
        more: What `Classifier` and `LabeledObjective` take; optimizer and schedule also by position.
    """

    def __init__(
        self,
        backbone: ImageModel,
        *labeled: Any,
        head_init_scale: float = 1.0,
        init_raw: bool = False,
        whiten: bool = False,
        head_rows: str | None = None,
        **more: Any,
    ) -> None:
        with torch.no_grad():
            for parameter in backbone.head_parameters():
                parameter.mul_(head_init_scale)
        super().__init__(backbone, *labeled, **more)
        if whiten and not isinstance(backbone, Backbone):
            raise ValueError(f"whiten is true, but a {type(backbone).__name__} has no patch_embed; set whiten: false.")
        if whiten and self.init_from is not None:
            raise ValueError(f"whiten is true, but init_from {self.init_from} has a patch embedding; set one of them.")
        if head_rows is not None and self.init_from is None:
            raise ValueError(f"head_rows is {head_rows}, rows of a classifier in init_from, which is null; set both.")
        self.init_raw, self.whiten, self.head_rows = init_raw, whiten, head_rows

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
        return self.label_loss(self.backbone(images), labels)

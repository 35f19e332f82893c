"""A loss on labels of your own: the focal loss (Lin et al. 2017, https://arxiv.org/abs/1708.02002), with a softmax.

    L = −(1 − p)^γ ln p,    p the predicted probability of the image's class

γ = 0 is cross-entropy; a larger γ gives images that are classified well less weight. From this repository's folder, or
with a copy in yours:

    python -m vitlab fit swin_cifar10 --model examples.labeled.Focal --model.gamma 1

`LabeledObjective` validates, tests and keeps what reports read, by the metrics of `task`; in a study, such a loss is a
variant like any other: `Focal: {model: {class_path: examples.labeled.Focal}}`. The types in `__init__` are how YAML
becomes objects. tests/extending trains this file.
"""

import torch.nn.functional as F
from torch import Tensor

from vitlab.models import ImageModel
from vitlab.objectives import LabeledObjective
from vitlab.objectives.classification import ClassificationTask
from vitlab.objectives.ema import Ema
from vitlab.optim import Optimizer, Schedule


class Focal(LabeledObjective):
    """Train any network on the classes of images."""

    task = ClassificationTask()

    def __init__(
        self,
        backbone: ImageModel,
        optimizer: Optimizer,
        schedule: Schedule,
        gamma: float = 2.0,
        ema: Ema | None = None,
        init_from: str | None = None,
    ) -> None:
        super().__init__(backbone, optimizer, schedule, ema, init_from)
        self.gamma = gamma

    def loss(self, views: list[Tensor], labels: Tensor) -> Tensor:
        (images,) = views  # (B, C, H, W)
        surprise = F.cross_entropy(self.backbone(images), labels, reduction="none")  # −ln p, (B,)
        return ((1 - (-surprise).exp()) ** self.gamma * surprise).mean()

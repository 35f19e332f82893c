"""An objective of your own: BYOL (Grill et al. 2020, https://arxiv.org/abs/2006.07733).

It predicts the teacher's projection of the other view:

    L = 4 − 2 cos(q(f(x)), f̄(x')) − 2 cos(q(f(x')), f̄(x)),    f̄ ← m f̄ + (1 − m) f

with x and x' two crops of an image, f the backbone and a projection, f̄ their average and q a predictor. An experiment
with `model: {class_path: examples.objective.BYOL, …}` and `data.init_args.multi_crop: {}` trains it by `fit --import
examples.objective`; `probe`, `export` and `--model.init_from` then use the weights of its teacher. tests/extending
trains this file.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from vitlab.models import Backbone
from vitlab.objectives import SelfDistillation
from vitlab.optim import Optimizer, Schedule


def mlp(in_dim: int, out_dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(in_dim, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, out_dim))


class BYOL(SelfDistillation):
    """Pre-train any backbone on two crops of each image."""

    least_global_views = 2  # else a run is refused before it begins

    def __init__(self, backbone: Backbone, optimizer: Optimizer, schedule: Schedule, dim: int = 128) -> None:
        super().__init__(backbone, optimizer, schedule, head=mlp(backbone.num_features, dim), momentum_teacher=0.99)
        self.predictor = mlp(dim, dim)

    def loss(self, views: list[Tensor], labels: Tensor) -> Tensor:
        x, y, *_ = views  # two global crops, (B, C, H, W) each
        predictions = [self.predictor(self.student(view)) for view in (x, y)]
        targets = [self.teacher_forward(view) for view in (y, x)]
        similarities = [F.cosine_similarity(*pair).mean() for pair in zip(predictions, targets, strict=True)]
        return 4 - 2 * sum(similarities)

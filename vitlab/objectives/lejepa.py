"""LeJEPA (Balestriero and LeCun 2025, https://arxiv.org/abs/2511.08544): views agree, and embeddings are normal.

    L = (1 − λ) mean |z_v − z̄|² / K + λ mean SIGReg(z_v)          over views v;  z_v = g(f(x_v)), z̄: of global views
    SIGReg(z) = mean over directions a of  B ∫ |φ_a(t) − exp(−t²/2)|² exp(−t²/2) dt,    φ_a(t) = mean_b exp(i t aᵀz_b)

with f the backbone and g a projector, used in training only. φ_a is the characteristic function of the embeddings along
a unit vector a, and exp(−t²/2) that of a standard normal distribution (the test of Epps and Pulley). There is no
teacher, and the gradient flows through both sides: normal embeddings cannot collapse. The integral is one of trapezoids
from −3 to 3. Directions are drawn in each step, the same for all views and processes.

The formulas are those of the authors' MINIMAL.md, whose views are all of one kind; with small crops, z̄ is of the large
ones alone, as in the paper. There the backbone ends in a linear layer of 512 outputs, which are evaluated; here
the projector reads the backbone's embedding. SIGReg is computed in float32 under autocast too.

VISReg (Wu et al. 2026, https://arxiv.org/abs/2606.02572) puts another regularizer in the place of SIGReg, which has a
gradient where all embeddings are alike too:

    VISReg(z) = mean μ² + mean (σ − 1)² + mean over directions a of W₂²(aᵀ(z − μ) / σ, N(0, 1))

with μ and σ of each output over the batch of all processes, a σ without gradient in the last term, and W₂ the distance
from the quantiles of a normal distribution, as released.

Letters: V views of B images, K outputs of the projector, S directions, T points of the integral.
"""

from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from jsonargparse.typing import ClosedUnitInterval
from torch import Tensor
from torchvision.ops import MLP  # type: ignore[import-untyped]

from vitlab.distributed import all_rows, mean_over_processes, num_processes
from vitlab.models import ImageModel
from vitlab.models.layers import BatchNorm
from vitlab.objectives.objective import Labels, Objective, Scalar, Views
from vitlab.objectives.self_distillation import embed_views
from vitlab.optim import Optimizer, Schedule

FARTHEST, POINTS = 3.0, 17  # t of the integral, and how many of them from 0 on


class LeJEPA(Objective):
    """Pre-train any image model, one of timm's too, on several views of each image, without labels.

    On small crops a Swin keeps its windows, as in `DINO`. There is no best epoch: the validation images are seen in one
    view, which has nothing to agree with.

    Args:
        backbone: Any vitlab or timm model; its classifier is removed.
        optimizer: Settings of the optimizer.
        schedule: The learning rate over the run, with its warm-up: a class of `vitlab.optim`.
        lamb: λ: of SIGReg 0.05 in the paper, 0.02 in MINIMAL.md; of VISReg 0.9 on ImageNet, 0.6 on Imagenette.
        hidden_dim: Width of the projector's two hidden layers, each followed by a batch norm and a ReLU.
        proj_dim: K.
        num_slices: S; of VISReg 4,096 in its paper.
        init_from: Weights to start from: a file, a folder, a run directory, or a name on the hub, `timm/…`.
        regularizer: What keeps embeddings apart.
    """

    def __init__(
        self,
        backbone: ImageModel,
        optimizer: Optimizer,
        schedule: Schedule,
        lamb: ClosedUnitInterval = 0.05,
        hidden_dim: int = 2048,
        proj_dim: int = 128,
        num_slices: int = 256,
        init_from: str | None = None,
        regularizer: Literal["sigreg", "visreg"] = "sigreg",
    ) -> None:
        backbone.reset_classifier(0)  # the data's number of classes may have been filled in
        super().__init__(backbone, optimizer, schedule, init_from)
        self.lamb, self.num_slices, self.global_views = lamb, num_slices, 2
        self.regularizer = regularizer
        norm: Any = partial(BatchNorm, track_running_stats=False)  # it is not used in evaluation
        self.projector = MLP(backbone.num_features, [hidden_dim, hidden_dim, proj_dim], norm_layer=norm)

    @property
    def epoch_metrics(self) -> list[str]:
        return ["train/loss", "train/invariance", f"train/{self.regularizer}"]

    def setup(self, stage: str) -> None:
        super().setup(stage)
        multi_crop = self.trainer.datamodule.multi_crop  # type: ignore[attr-defined]
        if multi_crop is not None:
            self.global_views = multi_crop.global_crops.number
        if stage == "fit" and (multi_crop is None or sum(crops.number for crops in multi_crop.kinds) < 2):
            raise ValueError("LeJEPA compares several views of an image; set data.multi_crop, with two views or more.")

    def loss(self, views: Views, labels: Labels) -> Scalar:
        z = self.projector(embed_views(self.backbone, views)).unflatten(0, (len(views), -1))  # (V, B, K)
        with torch.autocast(z.device.type, enabled=False):
            z = z.to(torch.promote_types(z.dtype, torch.float32))
            invariance = (z - z[: self.global_views].mean(dim=0)).square().mean()
            directions = torch.randn(z.shape[2], self.num_slices, dtype=z.dtype, device=z.device)
            normality = (sigreg if self.regularizer == "sigreg" else visreg)(z, directions / directions.norm(dim=0))
        self.watched = {"train/invariance": invariance.detach(), f"train/{self.regularizer}": normality.detach()}
        return (1 - self.lamb) * invariance + self.lamb * normality


def sigreg(z: Float[Tensor, "V B K"], directions: Float[Tensor, "K S"]) -> Scalar:
    """Return how far each view's embeddings are from a standard normal distribution, the mean over views.

    The sum over the images of all processes is that of one that has them all.
    """
    t = torch.linspace(0, FARTHEST, POINTS, dtype=z.dtype, device=z.device)
    normal = (-t.square() / 2).exp()
    weights = 2 * (t[1] - t[0]) * normal  # twice, for -t
    weights[[0, -1]] /= 2
    angles = (z @ directions).unsqueeze(-1) * t  # (V, B, S, T)
    real, imaginary = mean_over_processes(torch.stack([angles.cos().mean(dim=1), angles.sin().mean(dim=1)]))
    distance = ((real - normal).square() + imaginary.square()) @ weights  # (V, S)
    return distance.mean() * z.shape[1] * num_processes()


def visreg(z: Float[Tensor, "V B K"], directions: Float[Tensor, "K S"]) -> Scalar:
    """Return how far each view's embeddings are from a standard normal distribution: in mean, scale and shape."""
    z = all_rows(z.transpose(0, 1)).transpose(0, 1)  # of all processes: (V, B, K)
    center, images = z.mean(dim=1, keepdim=True), z.shape[1]
    z = z - center
    scale = z.norm(dim=1, keepdim=True) / images**0.5 + 1e-6
    projected = (z / scale.detach() @ directions).sort(dim=1).values  # (V, B, S)
    normal = torch.special.ndtri(torch.arange(1, images + 1, dtype=z.dtype, device=z.device) / (images + 1))
    shape = (projected - normal[:, None]).square().mean()
    return center.square().mean() + (scale - 1).square().mean() + shape

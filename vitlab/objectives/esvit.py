"""EsViT (Li et al. 2022, https://arxiv.org/abs/2106.09785): DINO for images and for their regions.

    L = ½ L_view + ½ L_region,    L_view: DINO's
    L_region = mean over the same pairs of views, and over regions j of x':  H(t_i*(x), s_j(x')),
    i* = the region of x whose features are most similar to those of region j of x'

with regions the tokens that the backbone ends with: of a Swin 7 × 7 for an image. They have a head and a center of
their own, with DINO's temperatures. Views overlap in unknown places, so regions are matched by their features, the
student's with the teacher's, before the heads.

Letters: V views of B images, the first G of them global crops; N regions of a view, C channels, K outputs.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vitlab.models import Backbone
from vitlab.objectives.dino import DINO, cross_view_entropy, new_head, outputs_of
from vitlab.objectives.ema import WeightAverage
from vitlab.objectives.objective import Labels, Scalar, Views
from vitlab.objectives.pretraining import require_final_norm
from vitlab.objectives.self_distillation import by_resolution


class EsViT(DINO):
    """Pre-train any backbone on crops of two sizes and their regions, without labels.

    Args:
        backbone: ViT, Swin or Swin v2, as for `DINO`.
        dino: What `DINO` takes after it.
        more: What `DINO` takes, by name; the sizes of the head are those of both.
    """

    center_grid: Tensor

    def __init__(self, backbone: Backbone, *dino: Any, **more: Any) -> None:
        super().__init__(backbone, *dino, **more)
        require_final_norm(backbone)
        self.backbone: Backbone = backbone
        self.head_dense = new_head(*self.head_sizes)
        self.teacher = WeightAverage(self.student)
        self.register_buffer("center_grid", torch.zeros_like(self.center))

    def loss(self, views: Views, labels: Labels) -> Scalar:
        global_views = views[: self.global_views]
        with torch.no_grad():
            teacher: Any = self.teacher.eval().module
            embedding, t_features = encode(teacher.backbone, torch.cat(global_views), len(global_views))
            image, regions = teacher.head(embedding), outputs_of(teacher.head_dense, t_features)
        t_images = self.targets(image, self.center)
        t_regions = self.targets(regions, self.center_grid)

        encoded = [encode(self.backbone, torch.cat(group), len(group)) for group in by_resolution(views)]
        embedded = torch.cat([z for z, _ in encoded])
        log_probs = self.log_probs(self.head(embedded))
        view_loss = cross_view_entropy(t_images.chunk(len(global_views)), log_probs.chunk(len(views)))

        terms, v = [], 0
        for _, features in encoded:
            dense = self.log_probs(outputs_of(self.head_dense, features))
            for own, student in zip(features, dense, strict=True):
                pairs = [i for i in range(len(global_views)) if i != v]
                terms += [matched_entropy(t_regions[i], student, t_features[i], own) for i in pairs]
                v += 1
        self.move(self.center, image)
        self.move(self.center_grid, regions)
        self.watch(t_images, view_loss)
        return (view_loss + torch.stack(terms).mean()) / 2 + self.spread(embedded.chunk(len(views)))


def encode(
    backbone: Backbone, images: Float[Tensor, "VB _ _ _"], views: int
) -> tuple[Tensor, Float[Tensor, "V B N C"]]:
    """Return the embeddings (V·B, C) and the regions of views of one size."""
    features = backbone.forward_features(images)
    return backbone.pool(features), features.patches.unflatten(0, (views, -1))


def matched_entropy(
    targets: Float[Tensor, "B Nt K"],
    log_probs: Float[Tensor, "B Ns K"],
    target_features: Float[Tensor, "B Nt C"],
    features: Float[Tensor, "B Ns C"],
) -> Scalar:
    """Return the mean of H(t, s) over images and the student's regions, each with the teacher's most similar one."""
    similarity = F.normalize(features, dim=-1) @ F.normalize(target_features, dim=-1).mT
    nearest = similarity.argmax(dim=-1, keepdim=True)  # (B, Ns, 1)
    matched = targets.gather(1, nearest.expand(-1, -1, targets.shape[2]))
    return -(matched * log_probs).sum(dim=-1).mean()

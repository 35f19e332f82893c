"""iBOT (Zhou et al. 2022, https://arxiv.org/abs/2111.07832): DINO, and the same for the patches that are hidden.

    L = λ₁ L_[CLS] + λ₂ L_patch,    L_[CLS]: DINO's, where the student sees global views with patches hidden
    L_patch = mean over global views of  Σ_i m_i H(t_i(x), s_i(x̂)) / Σ_i m_i

with x̂ the view x in which a learned token stands for the patches of m_i = 1. The teacher sees all of x. Image and
patches share the head, as in the released recipes, or have one each; the patches have a center and temperatures of
their own. A Swin's patches are the tokens that it ends with.

Masks are rectangles at random places, as in BEiT. Each view's share of hidden patches is drawn from `pred_ratio`. With
`sinkhorn`, which iBOT's code has not, the targets of all patches are balanced; DINOv2 balances the hidden ones alone.

Letters: V views of B images, the first G of them global crops; N patches of h × w, D width of the tokens, K outputs.
"""

import random
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from jsonargparse.typing import PositiveFloat
from torch import Tensor, nn

from vitlab.distributed import local_rows, num_processes
from vitlab.models import Backbone, Features
from vitlab.models.layers import multiples_around
from vitlab.objectives.dino import DINO, clip_each, cross_view_entropy, new_head, outputs_of
from vitlab.objectives.ema import WeightAverage
from vitlab.objectives.masking import embed_hiding, rectangles
from vitlab.objectives.objective import Labels, Scalar, Views
from vitlab.objectives.pretraining import require_final_norm
from vitlab.objectives.self_distillation import embed_views


class IBOT(DINO):
    """Pre-train any backbone on crops of two sizes and hidden patches, without labels.

    Args:
        backbone: ViT, Swin or Swin v2, as for `DINO`.
        dino: What `DINO` takes after it.
        lambda1: λ₁.
        lambda2: λ₂.
        pred_ratio: Shares of the patches that may be hidden in a view, of which one is drawn: [0.0, 0.3] as released.
        pred_ratio_var: How far the share may be from each of these: [0.0, 0.2] as released.
        pred_start_epoch: Number of first epochs without hidden patches; 50 for a Swin.
        separate_head: Give the patches a head of their own, as DINOv2's largest runs do.
        teacher_patch_temp: τ_t of patches after its warm-up, which is as long as the images' and begins at
            `pred_start_epoch`.
        warmup_teacher_patch_temp: τ_t of patches until then.
        more: What `DINO` takes, by name.
    """

    center_patch: Tensor

    def __init__(
        self,
        backbone: Backbone,
        *dino: Any,
        lambda1: float = 1.0,
        lambda2: float = 1.0,
        pred_ratio: tuple[float, ...] = (0.3,),
        pred_ratio_var: tuple[float, ...] = (0.0,),
        pred_start_epoch: int = 0,
        separate_head: bool = False,
        teacher_patch_temp: PositiveFloat = 0.07,
        warmup_teacher_patch_temp: PositiveFloat = 0.04,
        **more: Any,
    ) -> None:
        super().__init__(backbone, *dino, **more)
        require_final_norm(backbone)
        self.backbone: Backbone = backbone
        ranges = [(mean - width, mean + width) for mean, width in zip(pred_ratio, pred_ratio_var, strict=False)]
        if len(pred_ratio) != len(pred_ratio_var) or not all(0 <= low <= high < 1 for low, high in ranges):
            need = "as many numbers, whose differences and sums are from 0 to below 1"
            raise ValueError(f"pred_ratio {[*pred_ratio]} and pred_ratio_var {[*pred_ratio_var]}: give {need}.")
        self.lambda1, self.lambda2 = lambda1, lambda2
        self.ranges, self.pred_start_epoch = ranges, pred_start_epoch
        self.patch_temps = (warmup_teacher_patch_temp, teacher_patch_temp, self.teacher_temps[2], pred_start_epoch)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, backbone.patch_embed.proj.out_channels))
        if separate_head:
            self.head_patch = new_head(*self.head_sizes)
            self.teacher = WeightAverage(self.student)
        self.register_buffer("center_patch", torch.zeros_like(self.center))

    def parameters_by_depth(self) -> list[list[nn.Parameter]]:
        """The token of hidden patches learns as the embedding does."""
        embedding, *others = super().parameters_by_depth()
        return [[*embedding, self.mask_token], *others]

    def setup(self, stage: str) -> None:
        super().setup(stage)
        crops = self.trainer.datamodule.multi_crop  # type: ignore[attr-defined]
        if stage == "fit" and (size := crops.global_crops.size) % (stride := self.backbone.stride):
            near = f"{multiples_around(size, stride)}, since patches of {stride} px are hidden"
            raise ValueError(f"data.multi_crop.global_crops.size is {size}; give {near}.")

    def loss(self, views: Views, labels: Labels) -> Scalar:
        global_views, local_views = views[: self.global_views], views[self.global_views :]
        images = torch.cat(global_views)
        mask = self.draw_masks(images)
        with torch.no_grad():
            teacher: Any = self.teacher.eval().module
            features = teacher.backbone.forward_features(images)
            image, patches = teacher.head(teacher.backbone.pool(features)), patches_of(teacher, features)
        targets = self.targets(image, self.center).chunk(len(global_views))
        t_patches = self.targets(patches, self.center_patch, self.patch_temps)  # (G·B, N, K)

        features = self.backbone.encode(embed_hiding(self.backbone, images, mask, self.mask_token))
        embeddings = [self.backbone.pool(features)] + ([embed_views(self.backbone, local_views)] if local_views else [])
        embedded = torch.cat(embeddings)
        log_probs = self.log_probs(self.head(embedded)).chunk(len(views))
        image_loss = cross_view_entropy(targets, log_probs)
        patch_loss = hidden_entropy(t_patches, self.log_probs(patches_of(self, features)), mask.flatten(1))

        self.move(self.center, image)
        self.move(self.center_patch, patches)
        self.watch(torch.cat(targets), image_loss)
        return self.lambda1 * image_loss + self.lambda2 * patch_loss + self.spread(embedded.chunk(len(views)))

    def draw_masks(self, images: Float[Tensor, "GB _ H W"]) -> Bool[Tensor, "GB h w"]:
        """Draw which patches of each image are hidden, by a number of the host's generator."""
        rng = random.Random(int(torch.randint(2**62, ())))
        h, w = images.shape[2] // self.backbone.stride, images.shape[3] // self.backbone.stride
        now = self.current_epoch >= self.pred_start_epoch
        ranges = self.ranges if now else [(0.0, 0.0)]
        count, least = len(images) // self.global_views * num_processes(), (min(h, w) // 3) ** 2
        views = []
        for _ in range(self.global_views):
            drawn = [rectangles(h, w, h * w * rng.uniform(*rng.choice(ranges)), least, rng) for _ in range(count)]
            views.append(local_rows(torch.from_numpy(np.stack(drawn))))
        return torch.cat(views).to(images.device)

    def clip_gradients_of_student(self, longest: float) -> None:
        """Clip tensor by tensor, as released, the token of hidden patches too."""
        clip_each([*self.student.parameters(), self.mask_token], longest)


def patches_of(model: Any, features: Features) -> Float[Tensor, "B N K"]:
    """Return a student's or teacher's outputs for each patch, by the images' head unless patches have their own."""
    return outputs_of(getattr(model, "head_patch", model.head), features.patches)


def hidden_entropy(
    targets: Float[Tensor, "B N K"], log_probs: Float[Tensor, "B N K"], mask: Bool[Tensor, "B N"]
) -> Scalar:
    """Return the mean over images of H(t, s) of their hidden patches; 0 of an image without any."""
    entropy = -(targets * log_probs).sum(dim=-1) * mask
    return (entropy.sum(dim=1) / mask.sum(dim=1).clamp(min=1)).mean()

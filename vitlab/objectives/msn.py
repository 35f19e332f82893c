"""Masked Siamese networks (Assran et al. 2022, https://arxiv.org/abs/2204.07141): match masked views to whole ones.

    p = softmax(cos(f(x_anchor), q) / τ),    p⁺ = softmax(cos(f̄(x_target), q) / τ)^(1/T) / Σ
    L = mean over anchors H(p⁺, p) − λ H(p̄),    f̄ ← m f̄ + (1 − m) f

with f the student, backbone and projection, f̄ its average, q the prototypes and p̄ the mean of p over all anchors. One
anchor is a masked view, the others are small crops; the target is a whole view. H(p̄) keeps all prototypes in use, which
prevents collapse.

Letters: V anchors of each of B images, N patches, C channels, D width of the backbone, K prototypes.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from jsonargparse.typing import ClosedUnitInterval, PositiveFloat
from torch import Tensor, nn

from vitlab.distributed import local_rows, mean_over_processes, num_processes
from vitlab.models import Backbone, VisionTransformer
from vitlab.objectives.masking import compact, gather_tokens, num_hidden_blocks, random_masking, uniform_masking
from vitlab.objectives.objective import Labels, Scalar, Views
from vitlab.objectives.pretraining import require_final_norm
from vitlab.objectives.self_distillation import (
    Prototypes,
    SelfDistillation,
    by_resolution,
    entropy,
    projection,
    sinkhorn,
)
from vitlab.optim import Optimizer, Schedule


class MSN(SelfDistillation):
    """Pre-train a ViT without labels, or with `masking: uniform` a Swin, which cannot drop any tokens.

    The defaults are the released configuration. The paper's best low-shot results use no Sinkhorn and λ = 5. All
    released schedules span 1.25 times the run: `stretch` of the schedule. Patch embedding and class token are
    initialized unlike timm's: `released_init: true`. No Swin was released: on small crops and on the map of half the
    size it keeps the windows of its `img_size`, as DINO's does on small crops, unlike `UMMAE`'s.

    Args:
        backbone: A VisionTransformer, or with uniform masks any vitlab model; its classifier is removed.
        optimizer: Settings of the optimizer.
        schedule: The learning rate over the run, with its warm-up: a class of `vitlab.optim`.
        num_prototypes: K.
        hidden_dim: Width inside the projection.
        output_dim: Width of its output and prototypes.
        patch_drop: Fraction of patches dropped from global anchors, rounded up; more for larger models.
        masking: What a masked anchor keeps: random patches, or one of each 2 × 2, which form a map of half the size
            (UM-MAE, https://arxiv.org/abs/2205.10063); `patch_drop` then says nothing.
        mask_patch_size: Side in pixels of the patches of uniform masks; null: of the backbone's own.
        mask_per_image: Draw a mask per image, as in the paper. The released code draws one per batch.
        temperature: τ.
        sharpen: T; the target's temperature is T·τ.
        me_max_weight: λ.
        sinkhorn: Balance the targets of a batch over the prototypes.
        momentum_teacher: m at the start, rising linearly to 1.
        released_init: Initialize patch embedding and class token as released; not for a trained backbone.
        clip_grad: Maximum gradient norm of backbone and projection together; null: no clipping.
        init_from: Weights to start from: a file, a folder, a run directory, or a name on the hub, `timm/…`.
    """

    least_global_views = 2  # target and anchor

    def __init__(
        self,
        backbone: Backbone,
        optimizer: Optimizer,
        schedule: Schedule,
        num_prototypes: int = 1024,
        hidden_dim: int = 2048,
        output_dim: int = 256,
        patch_drop: ClosedUnitInterval = 0.15,
        masking: Literal["random", "uniform"] = "random",
        mask_patch_size: int | None = None,
        mask_per_image: bool = False,
        temperature: PositiveFloat = 0.1,
        sharpen: PositiveFloat = 0.25,
        me_max_weight: float = 1.0,
        sinkhorn: bool = True,
        momentum_teacher: ClosedUnitInterval = 0.996,
        released_init: bool = False,
        clip_grad: PositiveFloat | None = 3.0,
        init_from: str | None = None,
    ) -> None:
        side = mask_patch_size or backbone.patch_size
        check_masks(backbone, masking, side, backbone.img_size)
        require_final_norm(backbone)
        if released_init:
            nn.init.kaiming_normal_(backbone.patch_embed.proj.weight)
            nn.init.zeros_(backbone.patch_embed.proj.bias)  # type: ignore[arg-type]
            if isinstance(backbone, VisionTransformer) and backbone.cls_token is not None:
                nn.init.trunc_normal_(backbone.cls_token, std=0.02)
        head = projection(backbone.num_features, hidden_dim, output_dim, batch_norm=True)
        super().__init__(backbone, optimizer, schedule, head, momentum_teacher, clip_grad, init_from)
        self.backbone: Backbone = backbone
        self.prototypes = Prototypes(output_dim, num_prototypes)
        self.patch_drop, self.mask_per_image = patch_drop, mask_per_image
        self.temperature, self.sharpen, self.sinkhorn = temperature, sharpen, sinkhorn
        self.me_max_weight = me_max_weight
        self.masking, self.mask_side = masking, side // backbone.patch_size  # in tokens

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":
            size = self.trainer.datamodule.multi_crop.global_crops.size  # type: ignore[attr-defined]
            check_masks(self.backbone, self.masking, self.mask_side * self.backbone.patch_size, (size, size))

    def momentum(self, progress: float) -> float:
        return self.momentum_teacher + (1.0 - self.momentum_teacher) * progress

    def no_weight_decay(self) -> set[str]:
        return {"prototypes.weight_v"}

    def loss(self, views: Views, labels: Labels) -> Scalar:
        target, *anchors = views
        with torch.no_grad():
            similarity = self.prototypes(self.teacher_forward(target)) / self.temperature  # (B, K)
            targets = (similarity / self.sharpen).softmax(dim=-1)
            targets = sinkhorn(targets) if self.sinkhorn else targets

        whole, focal = anchors[: self.global_views - 1], anchors[self.global_views - 1 :]
        embeddings = [self.embed_masked(torch.cat(whole))]
        embeddings += [self.embed_whole(torch.cat(group)) for group in by_resolution(focal)]
        projections = torch.cat([self.head(z) for z in embeddings])  # by resolution: batch norm sees one at a time
        logits = self.prototypes(projections) / self.temperature  # (V·B, K)

        cross_entropy = F.cross_entropy(logits, targets.repeat(len(anchors), 1))
        self.watch(targets, cross_entropy)
        return cross_entropy + self.me_max_weight * me_max(logits.softmax(dim=-1))

    def embed_whole(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D"]:
        """Embed images with all patches: what the objective hides takes the place of `patch_drop_rate`."""
        tokens = self.backbone.add_pos_embed(self.backbone.patch_embed(images))
        return self.backbone.pool(self.backbone.encode(tokens))

    def embed_masked(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D"]:
        """Embed images with some patches dropped."""
        tokens = self.backbone.add_pos_embed(self.backbone.patch_embed(images))  # (B, H, W, D)
        batch, H, W, _ = tokens.shape
        draws = batch * num_processes() if self.mask_per_image else 1
        uniform = self.masking == "uniform"
        if uniform:
            keep, _ = uniform_masking(draws, H // self.mask_side, W // self.mask_side, images.device)
        else:
            hidden = num_hidden_blocks(H * W, self.patch_drop)  # rounded up: 166 of 196 are kept, as released
            keep, _ = random_masking(draws, H * W, hidden / (H * W), images.device)
        keep = (local_rows(keep) if self.mask_per_image else keep).expand(batch, -1)
        kept = compact(tokens, keep, self.mask_side) if uniform else gather_tokens(tokens.flatten(1, 2), keep)
        return self.backbone.pool(self.backbone.encode(kept))


def check_masks(backbone: Backbone, masking: str, side: int, size: tuple[int, int]) -> None:
    """Raise a ValueError unless a backbone can encode what such masks of patches of `side` pixels keep of images."""
    if masking == "random" and not isinstance(backbone, VisionTransformer):
        raise ValueError(f"masking is random, but a {type(backbone).__name__} encodes whole maps: give uniform.")
    own = backbone.patch_size
    if masking == "uniform" and (side % own or any(pixels % (2 * side) for pixels in size)):
        wrong = f"mask_patch_size is {side} px, the backbone's own patches have {own} px and images {size}"
        raise ValueError(f"{wrong}. Give a multiple of {own} of which twice as much divides the images.")


def me_max(probabilities: Float[Tensor, "VB K"]) -> Float[Tensor, ""]:
    """Return ln K − H(p̄): 0 if the images of all processes use the prototypes equally."""
    mean = mean_over_processes(probabilities.mean(dim=0))
    return math.log(len(mean)) - entropy(mean)

"""Masked Siamese networks (Assran et al. 2022, https://arxiv.org/abs/2204.07141): match masked views to whole ones.

    p = softmax(cos(f(x_anchor), q) / τ),    p⁺ = softmax(cos(f̄(x_target), q) / τ)^(1/T) / Σ
    L = mean over anchors H(p⁺, p) − λ H(p̄),    f̄ ← m f̄ + (1 − m) f

with f the student, backbone and projection, f̄ its average, q the prototypes and p̄ the mean of p over all anchors. One
anchor is a view of which patches are left out, the others are small crops; the target is a whole view. H(p̄) keeps all
prototypes in use, and so the answers from being one.

Letters: V anchors of each of B images, N patches, C channels, D width of the backbone, K prototypes.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitlab.distributed import local_rows, mean_over_processes, num_processes
from vitlab.models import VisionTransformer
from vitlab.objectives.heads import Prototypes, projection
from vitlab.objectives.masking import gather_tokens, num_hidden_blocks, random_masking
from vitlab.objectives.pretraining import require_final_norm
from vitlab.objectives.self_distillation import SelfDistillation, by_resolution, entropy
from vitlab.optim import Optimizer, Schedule


class MSN(SelfDistillation):
    """Pre-train a ViT without labels; a Swin cannot leave tokens out.

    The defaults are those of the released configuration. The paper's best figures with few labels are of another one:
    no Sinkhorn, and λ = 5. All schedules there are laid out for a run 1.25 times as long: `stretch` of the schedule.
    Patch embedding and class token start otherwise than timm's there: `released_init: true`.

    Args:
        backbone: A VisionTransformer; its classifier is left out.
        optimizer: Settings of the optimizer.
        schedule: The learning rate over the run.
        num_prototypes: K.
        hidden_dim: Width of the projection.
        output_dim: Width of what is compared with the prototypes.
        patch_drop: Share of the patches that an anchor lacks that is a global crop, rounded up; more for larger models.
        mask_per_image: Draw for each image what it lacks, as the paper has it. The released code draws once a batch.
        temperature: τ.
        sharpen: T, which makes the target's temperature T·τ.
        me_max_weight: λ.
        sinkhorn: Let all targets of a batch together use the prototypes equally.
        momentum_teacher: m at the start, from where it rises to 1 in a line.
        released_init: Start patch embedding and class token anew, as released; not of a backbone that is trained.
        clip_grad: Longest gradient of backbone and projection, all in one; prototypes are free. Null: any.
        init_from: Weights to start from: a file, a run directory, or a name on the hub, `timm/…`.
    """

    def __init__(
        self,
        backbone: VisionTransformer,
        optimizer: Optimizer,
        schedule: Schedule,
        num_prototypes: int = 1024,
        hidden_dim: int = 2048,
        output_dim: int = 256,
        patch_drop: float = 0.15,
        mask_per_image: bool = False,
        temperature: float = 0.1,
        sharpen: float = 0.25,
        me_max_weight: float = 1.0,
        sinkhorn: bool = True,
        momentum_teacher: float = 0.996,
        released_init: bool = False,
        clip_grad: float | None = 3.0,
        init_from: str | None = None,
    ) -> None:
        if not 0 <= patch_drop < 1:
            raise ValueError(f"patch_drop is {patch_drop}; give a share from 0 to below 1, like 0.15.")
        if temperature <= 0 or sharpen <= 0:
            raise ValueError(
                f"temperature {temperature} and sharpen {sharpen} are above 0; 0.1 and 0.25 are published."
            )
        require_final_norm(backbone)
        if released_init:
            nn.init.kaiming_normal_(backbone.patch_embed.proj.weight)
            nn.init.trunc_normal_(backbone.cls_token, std=0.02)
        head = projection(backbone.num_features, hidden_dim, output_dim, batch_norm=True)
        super().__init__(backbone, optimizer, schedule, head, momentum_teacher, clip_grad, init_from)
        self.backbone: VisionTransformer = backbone
        self.prototypes = Prototypes(output_dim, num_prototypes)
        self.patch_drop, self.mask_per_image = patch_drop, mask_per_image
        self.temperature, self.sharpen, self.sinkhorn = temperature, sharpen, sinkhorn
        self.me_max_weight = me_max_weight

    def momentum(self, progress: float) -> float:
        return self.momentum_teacher + (1.0 - self.momentum_teacher) * progress

    def no_weight_decay(self) -> set[str]:
        return {"prototypes.weight_v"}

    def loss(self, views: list[Tensor], labels: Tensor) -> Tensor:
        target, *anchors = views
        if self.global_views < 2 or not anchors or anchors[0].shape != target.shape:
            raise ValueError(
                f"MSN needs two crops of one size, target and anchor, and was given views of "
                f"{[tuple(view.shape[2:]) for view in views]} px; set data.init_args.multi_crop."
            )
        with torch.no_grad():
            similarity = self.prototypes(self.teacher_forward(target)) / self.temperature  # (B, K)
            targets = (similarity / self.sharpen).softmax(dim=-1)
            targets = sinkhorn(targets) if self.sinkhorn else targets

        whole, focal = anchors[: self.global_views - 1], anchors[self.global_views - 1 :]
        embeddings = [self.embed_masked(torch.cat(whole))]
        embeddings += [self.backbone.embed(torch.cat(group)) for group in by_resolution(focal)]
        projections = torch.cat([self.head(z) for z in embeddings])  # by resolution: batch norm sees one at a time
        logits = self.prototypes(projections) / self.temperature  # (V·B, K)

        cross_entropy = F.cross_entropy(logits, targets.repeat(len(anchors), 1))
        self.watch(targets, cross_entropy)
        return cross_entropy + self.me_max_weight * me_max(logits.softmax(dim=-1))

    def embed_masked(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D"]:
        """Embed images without a part of their patches."""
        tokens = self.backbone.add_pos_embed(self.backbone.patch_embed(images)).flatten(1, 2)  # (B, N, D)
        batch, num_patches = tokens.shape[:2]
        hidden = num_hidden_blocks(num_patches, self.patch_drop)  # rounded up: 166 of 196 are kept, as released
        draws = batch * num_processes() if self.mask_per_image else 1
        keep, _ = random_masking(draws, num_patches, hidden / num_patches, images.device)
        keep = local_rows(keep) if self.mask_per_image else keep
        return self.backbone.pool(self.backbone.encode(gather_tokens(tokens, keep.expand(batch, -1))))

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip backbone and projection, as released; Trainer's own clipping, of all, follows where it is on."""
        if self.clip_grad is not None:
            nn.utils.clip_grad_norm_(self.student.parameters(), self.clip_grad)
        super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)


def sinkhorn(targets: Float[Tensor, "B K"], iterations: int = 3) -> Float[Tensor, "B K"]:
    """Make the images of all processes use the prototypes equally, each image with a total of 1 (Cuturi 2013)."""
    for _ in range(iterations):
        targets = targets / mean_over_processes(targets.mean(dim=0))
        targets = targets / targets.sum(dim=1, keepdim=True)
    return targets


def me_max(probabilities: Float[Tensor, "VB K"]) -> Float[Tensor, ""]:
    """Return ln K − H(p̄), 0 where the images of all processes together use all prototypes equally."""
    mean = mean_over_processes(probabilities.mean(dim=0))
    return math.log(len(mean)) - entropy(mean)

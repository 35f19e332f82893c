"""data2vec (Baevski et al. 2022, https://arxiv.org/abs/2202.03555): predict what the teacher makes of hidden patches.

    y = LN(1/L Σ_l LN(z̄_l)),    z̄_l the outputs of the last L blocks of f̄ for the whole image
    L = mean over hidden patches and channels of  smooth_l1_β(g(f(x̂)) − y),    f̄ ← m f̄ + (1 − m) f

with x̂ the image in which a learned token stands for the hidden patches, and g a linear layer. The targets have context:
each is of the whole image, unlike a patch's pixels. Norms LN have no weights. Masks are BEiT's, rectangles at random
places. A Swin predicts the tokens that it ends with, and its last blocks are those of its last stage.

As released for images (facebookresearch/data2vec_vision). There the fine-tuned network is the student; here, as for all
objectives with a teacher, it is the teacher.

Letters: B images, N patches of h × w, C channels of the blocks' output.
"""

import random
from itertools import takewhile

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from jsonargparse.typing import ClosedUnitInterval, PositiveFloat
from torch import Tensor, nn

from vitlab.distributed import local_rows, mean_over_processes, num_processes
from vitlab.models import Backbone
from vitlab.models.backbone import in_eval_mode, outputs_of
from vitlab.models.layers import trunc_normal
from vitlab.objectives.masking import embed_hiding, num_hidden, rectangles
from vitlab.objectives.objective import Labels, Objective, Scalar, Views
from vitlab.objectives.pretraining import require_final_norm, start_as_beit
from vitlab.objectives.self_distillation import SelfDistillation
from vitlab.optim import Optimizer, Schedule


class Data2Vec(SelfDistillation):
    """Pre-train ViT, Swin or Swin v2 without labels, on one view of each image.

    Args:
        backbone: Its classifier is removed.
        optimizer: Settings of the optimizer.
        schedule: The learning rate over the run, with its warm-up: a class of `vitlab.optim`.
        mask_ratio: Fraction of patches that are hidden, at most.
        min_mask_patches: Patches of the smallest rectangle.
        target_layers: L.
        l1_beta: β, the difference from which the loss is linear.
        momentum_teacher: m.
        clip_grad: Maximum norm of the gradient; null: no clipping.
        released_init: Start a ViT as released, see `start_as_beit`; not a trained one.
        init_from: Weights that student and teacher start from.
    """

    one_view = True

    def __init__(
        self,
        backbone: Backbone,
        optimizer: Optimizer,
        schedule: Schedule,
        mask_ratio: float = 0.6,
        min_mask_patches: int = 16,
        target_layers: int = 6,
        l1_beta: float = 2.0,
        momentum_teacher: ClosedUnitInterval = 0.9998,
        clip_grad: PositiveFloat | None = 3.0,
        released_init: bool = False,
        init_from: str | None = None,
    ) -> None:
        require_final_norm(backbone)
        moving = (None, momentum_teacher, clip_grad, init_from, momentum_teacher)  # as `SelfDistillation` takes them
        super().__init__(backbone, optimizer, schedule, *moving)
        self.backbone: Backbone = backbone
        like = next(backbone.parameters())
        image = torch.zeros(1, backbone.in_chans, *backbone.img_size, dtype=like.dtype, device=like.device)
        with torch.no_grad(), in_eval_mode(backbone):
            _, outputs = outputs_of(list(backbone.blocks), lambda: backbone.forward_features(image))
        # All of a ViT, a Swin's last stage.
        alike = len(list(takewhile(lambda x: x.shape == outputs[-1].shape, reversed(outputs))))
        if not 1 <= target_layers <= alike:
            raise ValueError(f"target_layers is {target_layers}; give at most {alike}, which have the output's shape.")
        h, w = self.grid(*backbone.img_size)
        count = num_hidden(h * w, mask_ratio)
        if not 1 <= min_mask_patches <= count < h * w:
            wrong = f"mask_ratio {mask_ratio} hides {count} of {h} × {w} patches; min_mask_patches: {min_mask_patches}"
            raise ValueError(f"{wrong}; hide some and not all, by rectangles that are no larger.")
        self.mask_ratio, self.min_mask_patches = mask_ratio, min_mask_patches
        self.target_layers, self.l1_beta = target_layers, l1_beta
        self.mask_token = nn.Parameter(
            nn.init.trunc_normal_(torch.empty(1, 1, backbone.patch_embed.proj.out_channels), std=0.02)
        )
        self.predictor = nn.Linear(backbone.num_features, backbone.num_features)
        trunc_normal(self.predictor)
        if released_init:
            start_as_beit(backbone, self.mask_token, self.predictor.weight)
            self.teacher.restart(self.student)

    @property
    def epoch_metrics(self) -> list[str]:
        return ["train/loss", "train/target_variance"]

    def no_weight_decay(self) -> set[str]:
        """As released, unlike DINO's: class token and positions are not decayed."""
        return Objective.no_weight_decay(self)

    def clip_gradients_of_student(self, longest: float) -> None:
        """Clip all of it together, as released, mask token and predictor too."""
        nn.utils.clip_grad_norm_([p for p in self.parameters() if p.requires_grad], longest)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Return h and w of an image."""
        return height // self.backbone.stride, width // self.backbone.stride

    def loss(self, views: Views, labels: Labels) -> Scalar:
        (images,) = views
        mask = self.draw_masks(images)
        hidden = mask.flatten(1)
        targets = self.targets(images)  # (B, N, C)
        seen = self.backbone.encode(embed_hiding(self.backbone, images, mask, self.mask_token))
        predicted = self.predictor(seen.patches[hidden])  # (hidden, C)
        mean = mean_over_processes(targets.mean(dim=(0, 1)))
        # Near 0, all targets are alike, as after a collapse.
        self.watched = {"train/target_variance": (targets - mean).square().mean()}
        total = F.smooth_l1_loss(predicted.to(targets.dtype), targets[hidden], beta=self.l1_beta, reduction="sum")
        return total / (mean_over_processes(hidden.sum().to(total.dtype)) * targets.shape[-1])

    def draw_masks(self, images: Float[Tensor, "B _ H W"]) -> Bool[Tensor, "B h w"]:
        """Draw which patches of each image are hidden, by a number of the host's generator."""
        rng, (h, w) = random.Random(int(torch.randint(2**62, ()))), self.grid(*images.shape[2:])
        count = num_hidden(h * w, self.mask_ratio)
        drawn = [rectangles(h, w, count, self.min_mask_patches, rng) for _ in range(len(images) * num_processes())]
        return local_rows(torch.from_numpy(np.stack(drawn))).to(images.device)

    @torch.no_grad()
    def targets(self, images: Float[Tensor, "B _ H W"]) -> Float[Tensor, "B N C"]:
        """Return y of each patch."""
        backbone: Backbone = self.teacher.eval().module.backbone  # type: ignore[assignment]
        blocks = list(backbone.blocks)[-self.target_layers :]
        features, outputs = outputs_of(blocks, lambda: backbone.forward_features(images))
        count = features.patches.shape[1]
        layers = [x.flatten(1, -2)[:, -count:].float() for x in outputs]  # without prefix tokens
        return _norm(torch.stack([_norm(x) for x in layers]).mean(dim=0))


def _norm(x: Float[Tensor, "B N C"]) -> Float[Tensor, "B N C"]:
    return F.layer_norm(x, x.shape[-1:])

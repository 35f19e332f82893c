"""DINO (Caron et al. 2021, https://arxiv.org/abs/2104.14294): self-distillation without labels.

    s = softmax(f(x) / τ_s),    t = softmax((f̄(x) − c) / τ_t)
    L = mean over pairs of a global view x and any other view x' of the image:  H(t(x), s(x')) = −Σ_k t_k ln s_k
    c ← m_c c + (1 − m_c) mean f̄(x),    f̄ ← m f̄ + (1 − m) f

with f the student, backbone and head, and f̄ its teacher. Centering alone makes all answers uniform, sharpening
(τ_t < τ_s) alone lets one output win; together they keep both away. Each can be turned off, as in the paper's Fig. 7:
c = 0 or τ_t = τ_s. So can the teacher's memory: with m = 0 it is the student's copy (Table 7, row 2).

Letters: V views of B images, the first G of them global crops; K outputs.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from jsonargparse.typing import ClosedUnitInterval, PositiveFloat
from torch import Tensor, nn

from vitlab.distributed import mean_over_processes
from vitlab.internals import foreach
from vitlab.models import ImageModel
from vitlab.models.layers import Init, trunc_normal
from vitlab.objectives.objective import Labels, Scalar, Views
from vitlab.objectives.self_distillation import Prototypes, SelfDistillation, embed_views, projection, sinkhorn
from vitlab.optim import Optimizer, Schedule

LEAST = 0.012  # temperature of which e^(1/τ) is finite
Temperatures = tuple[float, float, int, int]  # what `teacher_temperature` takes after the epoch


class DINO(SelfDistillation):
    """Pre-train any image model, one of timm's too, on crops of two sizes, without labels.

    On small crops a Swin keeps the windows of its `img_size` and pads maps that they do not fill, as the released Swins
    of EsViT and iBOT do. With gradient accumulation the center is updated with each batch, the teacher with each
    optimizer step.

    The defaults are the released 100-epoch recipe. Weight decay there rises along a cosine from 0.04 to
    0.4: `weight_decay` and `weight_decay_end` of the optimizer.

    Args:
        backbone: Any vitlab or timm model, with the student's drop path; its classifier is removed.
        optimizer: Settings of the optimizer.
        schedule: The learning rate over the run, with its warm-up: a class of `vitlab.optim`.
        out_dim: Outputs K; fewer for small data.
        hidden_dim: Width of the head.
        bottleneck_dim: Width of the projection, the input of the last layer.
        norm_last_layer: Fix the norms of the last layer's weights at 1, which is more stable.
        head_init: Initializes the projection's linear layers; `vitlab.models.layers.fan_in` where they are far narrower
            than the released 2048.
        head_batch_norm: Normalize what the projection's hidden layers compute over the batch: the released
            `use_bn_in_head`, which learns sooner.
        freeze_last_layer: Number of first epochs in which the last layer is frozen.
        student_temp: τ_s.
        teacher_temp: τ_t after its warm-up; unstable above 0.07.
        warmup_teacher_temp: τ_t in the first epoch.
        warmup_teacher_temp_epochs: Number of epochs in which τ_t rises, one step each.
        momentum_teacher: m at the start, from where it changes along a cosine; higher for batches below 512.
        momentum_teacher_end: m at the end.
        centering: Subtract c; false: c = 0.
        center_momentum: m_c.
        sinkhorn: Balance the targets of a batch over the outputs in place of centering, as DINOv2 does.
        koleo_weight: Weight of DINOv2's `koleo`, which spreads the embeddings of each global view: 0.1 there.
        sharpening: Divide by τ_t; false: by τ_s, whatever the teacher's temperatures.
        clip_grad: Maximum gradient norm of each tensor, unlike Trainer's `gradient_clip_val`; null: no clipping.
        init_from: Weights to start from: a file, a folder, a run directory, or a name on the hub, `timm/…`.
    """

    center: Tensor
    least_global_views = 2
    remedies = (
        "What has helped others: a lower teacher temperature (0.02 to 0.04), warmed up for longer; fewer outputs (4096 "
        "for a small data set); batches of 256 or more;\nanother momentum (0.99 for a short run, 0.9995 for small "
        "batches); a lower learning rate; the last layer frozen for longer; trainer.precision 32-true."
    )

    def __init__(
        self,
        backbone: ImageModel,
        optimizer: Optimizer,
        schedule: Schedule,
        out_dim: int = 65536,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
        norm_last_layer: bool = True,
        head_init: Init = trunc_normal,
        head_batch_norm: bool = False,
        freeze_last_layer: int = 1,
        student_temp: PositiveFloat = 0.1,
        teacher_temp: PositiveFloat = 0.04,
        warmup_teacher_temp: PositiveFloat = 0.04,
        warmup_teacher_temp_epochs: int = 0,
        momentum_teacher: ClosedUnitInterval = 0.996,
        momentum_teacher_end: ClosedUnitInterval = 1.0,
        centering: bool = True,
        center_momentum: float = 0.9,
        sinkhorn: bool = False,
        koleo_weight: float = 0.0,
        sharpening: bool = True,
        clip_grad: PositiveFloat | None = 3.0,
        init_from: str | None = None,
    ) -> None:
        sizes = backbone.num_features, hidden_dim, bottleneck_dim, out_dim, norm_last_layer, head_init, head_batch_norm
        head = new_head(*sizes)
        moving = (head, momentum_teacher, clip_grad, init_from, momentum_teacher_end)
        super().__init__(backbone, optimizer, schedule, *moving)
        if sinkhorn and min(teacher_temp, warmup_teacher_temp) < LEAST:
            raise ValueError(f"teacher_temp {teacher_temp} overflows with sinkhorn; give {LEAST} or more.")
        self.head_sizes = sizes
        self.freeze_last_layer, self.student_temp = freeze_last_layer, student_temp
        self.teacher_temps = (warmup_teacher_temp, teacher_temp, warmup_teacher_temp_epochs, 0)
        self.centering, self.center_momentum, self.sharpening = centering and not sinkhorn, center_momentum, sharpening
        self.sinkhorn, self.koleo_weight = sinkhorn, koleo_weight
        self.register_buffer("center", torch.zeros(out_dim))

    def loss(self, views: Views, labels: Labels) -> Scalar:
        global_views = views[: self.global_views]
        teacher = self.teacher_forward(torch.cat(global_views))  # (G·B, K)
        targets = self.targets(teacher, self.center)
        embeddings = embed_views(self.backbone, views)  # (V·B, D)
        log_probs = self.log_probs(self.head(embeddings))  # (V·B, K)
        loss = cross_view_entropy(targets.chunk(len(global_views)), log_probs.chunk(len(views)))
        self.move(self.center, teacher)
        self.watch(targets, loss)
        return loss + self.spread(embeddings.chunk(len(views)))

    def spread(self, embeddings: Sequence[Float[Tensor, "B D"]]) -> Scalar | float:
        """Return the weighted KoLeo of the global views' embeddings."""
        if not self.koleo_weight:
            return 0.0
        return self.koleo_weight * sum(koleo(view) for view in embeddings[: self.global_views])

    def targets(
        self, teacher: Float[Tensor, "*B K"], center: Float[Tensor, "K"], temps: Temperatures | None = None
    ) -> Float[Tensor, "*B K"]:
        """Return t of the teacher's outputs, by temperatures of their own or the image's."""
        sharp = teacher_temperature(self.current_epoch, *(temps or self.teacher_temps))
        logits = (teacher - center) / (sharp if self.sharpening else self.student_temp)
        if not self.sinkhorn:
            return logits.softmax(dim=-1)
        return sinkhorn(logits.exp().flatten(0, -2)).view_as(logits)

    def log_probs(self, student: Float[Tensor, "*B K"]) -> Float[Tensor, "*B K"]:
        """Return ln s of the student's outputs."""
        return (student / self.student_temp).log_softmax(dim=-1)

    def move(self, center: Float[Tensor, "K"], teacher: Float[Tensor, "*B K"]) -> None:
        """Move a center towards the mean of the teacher's outputs in all processes."""
        if self.centering:
            mean = mean_over_processes(teacher.flatten(0, -2).mean(dim=0))
            mean = torch.where(mean.isfinite(), mean, center)  # a step that is skipped leaves nothing behind
            center.lerp_(mean, 1 - self.center_momentum)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Freeze the last layer at first: gradient None, as AdamW would still decay it at 0."""
        super().on_before_optimizer_step(optimizer)
        if self.current_epoch < self.freeze_last_layer:
            for name, parameter in self.named_parameters():
                if ".last_layer." in name:
                    parameter.grad = None

    def clip_gradients_of_student(self, longest: float) -> None:
        """Clip tensor by tensor, as released."""
        clip_each(self.student.parameters(), longest)


def new_head(
    in_dim: int,
    hidden_dim: int,
    bottleneck_dim: int,
    out_dim: int,
    norm_last_layer: bool,
    init: Init,
    batch_norm: bool,
) -> nn.Sequential:
    """Return a projection and the last layer."""
    mlp = projection(in_dim, hidden_dim, bottleneck_dim, batch_norm=batch_norm, init=init)
    last_layer = Prototypes(bottleneck_dim, out_dim, learn_norm=not norm_last_layer)
    return nn.Sequential(OrderedDict(mlp=mlp, last_layer=last_layer))


def outputs_of(head: nn.Module, tokens: Float[Tensor, "*B N C"]) -> Float[Tensor, "*B N K"]:
    """Return a head's outputs for each patch or region."""
    return head(tokens.flatten(0, -2)).unflatten(0, tokens.shape[:-1])


def teacher_temperature(epoch: int, start: float, end: float, warmup_epochs: int, first_epoch: int = 0) -> float:
    """Return τ_t, which rises evenly to `end` over `warmup_epochs` epochs from `first_epoch` on, as released."""
    epoch = max(epoch - first_epoch, 0)
    return end if epoch >= warmup_epochs else start + (end - start) * epoch / max(warmup_epochs - 1, 1)


def cross_view_entropy(
    targets: Sequence[Float[Tensor, "B K"]], log_probs: Sequence[Float[Tensor, "B K"]]
) -> Float[Tensor, ""]:
    """Return the mean of H(t, s) over images and pairs of two views; the global views come first in both."""
    terms = [
        -(target * log_prob).sum(dim=-1).mean()
        for i, target in enumerate(targets)
        for j, log_prob in enumerate(log_probs)
        if i != j
    ]
    return torch.stack(terms).mean()


def koleo(embeddings: Float[Tensor, "B D"], eps: float = 1e-8) -> Scalar:
    """Return −mean ln of the distance to the nearest other image's embedding, of unit length (Sablayrolles et al. 2019,
    https://arxiv.org/abs/1806.03198); the other images are those of this process."""
    with torch.autocast(embeddings.device.type, enabled=False):
        z = F.normalize(embeddings.to(torch.promote_types(embeddings.dtype, torch.float32)), eps=eps, dim=-1)
        nearest = (z @ z.T).fill_diagonal_(-1.0).argmax(dim=1)
        return -(F.pairwise_distance(z, z[nearest], eps=eps) + eps).log().mean()


def clip_each(parameters: Iterable[nn.Parameter], longest: float) -> None:
    """Clip the norm of each parameter's gradient to `longest`."""
    grads = [p.grad for p in parameters if p.grad is not None]
    foreach("mul_", grads, [(longest / (norm + 1e-6)).clamp(max=1.0) for norm in foreach("norm", grads)])

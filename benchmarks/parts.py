"""Parts that were tried in the speedrun and are not in vitlab: attention, MLPs, starts, steps, images, mirroring.

    make speedrun-parts

trains the studies `parts_*.yaml`, which name these classes. Each adds its parts to one of vitlab's classes, one setting
a part, off by default.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitlab.data import CIFAR10, BatchAugment
from vitlab.data.augment import flip
from vitlab.data.counter_rng import Draws, Stream
from vitlab.models import VisionTransformer
from vitlab.models.layers import Init, Mlp, init_linears, sincos_table
from vitlab.models.vit import Attention, Heads
from vitlab.objectives import Supervised
from vitlab.objectives.objective import Batch, Labels, Scalar, Views
from vitlab.optim import Muon, Optimizer, Schedule
from vitlab.optim.muon import MuonWithAdamW, lr_ratio


class ReluSquared(nn.Module):
    """max(x, 0)² (So et al. 2021, https://arxiv.org/abs/2109.08668)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x).square()


class SwiGLU(nn.Module):
    """SiLU(x W) (x V) W₂ (Shazeer 2020, https://arxiv.org/abs/2002.05202), as large as `start` in place of its GELU."""

    def __init__(self, start: Mlp, init: Init) -> None:
        super().__init__()
        hidden, dim = start.fc1.weight.shape
        self.fc1 = nn.Linear(dim, 2 * (2 * hidden // 3))  # gates, then values
        self.fc2 = nn.Linear(2 * hidden // 3, dim)
        init_linears(self, init)

    def forward(self, x: Float[Tensor, "B *N C"]) -> Float[Tensor, "B *N C"]:
        gates, values = self.fc1(x).chunk(2, dim=-1)
        return self.fc2(nn.functional.silu(gates) * values)


class AttentionWithParts(Attention):
    """Attention that may normalize queries and keys, and mix its values with those of the first block.

    Normalized: ViT-22B (https://arxiv.org/abs/2302.05442), each head's queries and keys by a layer norm, as in timm.
    Mixed: value residuals (https://arxiv.org/abs/2410.17897), v ← λ₁ v₁ + λ₂ v, both λ trained from 0.5.
    """

    def __init__(self, start: Attention, qk_norm: bool, first_values: list[Tensor] | None, is_first: bool) -> None:
        dim, _ = start.proj.weight.shape
        super().__init__(dim, start.num_heads, start.qkv.bias is not None, start.attn_drop, start.proj_drop.p)
        self.qkv, self.proj = start.qkv, start.proj  # as initialized
        norms = [nn.LayerNorm(dim // start.num_heads) if qk_norm else nn.Identity() for _ in range(2)]
        self.q_norm, self.k_norm = norms
        self.first_values, self.is_first = first_values, is_first
        mixes = first_values is not None and not is_first
        self.shares = nn.Parameter(torch.full((2,), 0.5)) if mixes else None

    def project_qkv(self, x: Float[Tensor, "B N D"]) -> tuple[Heads, Heads, Heads]:
        q, k, v = super().project_qkv(x)
        if self.first_values is not None and self.is_first:
            self.first_values[:] = [v]
        if self.first_values is not None and self.shares is not None:
            v = self.shares[0] * self.first_values[0] + self.shares[1] * v
        return self.q_norm(q), self.k_norm(k), v


@torch.no_grad()
def start_mimetically(attn: Attention, queries: bool) -> None:
    """Mimetic initialization (Trockman and Kolter 2023, https://arxiv.org/abs/2305.09828).

    Values and projection: W_V W_proj ≈ 0.4 Z - 0.4 I; with `queries` also W_Q W_Kᵀ ≈ 0.7 Z + 0.7 I of each head, as
    near as its rank allows. Z is normal of variance 1 / D, and the factors come from singular values.
    """
    D, h = len(attn.proj.weight), attn.num_heads

    def factors(alpha: float, beta: float, rank: int) -> tuple[Tensor, Tensor]:
        u, s, vt = torch.linalg.svd(alpha * torch.randn(D, D) / D**0.5 + beta * torch.eye(D))
        root = s[:rank].sqrt()
        return (u[:, :rank] * root).T, vt[:rank] * root[:, None]  # both (rank, D)

    q, k, v = attn.qkv.weight.view(3, D, D)
    values, proj = factors(0.4, -0.4, D)
    v.copy_(values)
    attn.proj.weight.copy_(proj.T)
    for head in range(h) if queries else ():
        rows = slice(head * D // h, (head + 1) * D // h)
        q[rows], k[rows] = factors(0.7, 0.7, D // h)


class ViTWithParts(VisionTransformer):
    """A ViT of these parts.

    Args:
        relu_squared: The MLP's activation is max(x, 0)² instead of GELU.
        swiglu: The MLP is a `SwiGLU` of as many weights.
        qk_norm: Normalize queries and keys.
        value_residuals: Mix each block's values with those of the first.
        mimetic: Start values and projections as `start_mimetically` does, or queries, keys and sin-cos positions too.
    """

    def __init__(
        self,
        *args: Any,
        relu_squared: bool = False,
        swiglu: bool = False,
        qk_norm: bool = False,
        value_residuals: bool = False,
        mimetic: Literal["values", "all"] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if mimetic == "all":
            self.pos_embed.data[0, self.num_prefix_tokens :] = sincos_table(
                self.num_features, *self.patch_embed.grid_size
            )
        first_values: list[Tensor] | None = [] if value_residuals else None
        for i, block in enumerate(self.blocks):
            if relu_squared:
                block.mlp.act = ReluSquared()
            if swiglu:
                block.mlp = SwiGLU(block.mlp, self.init)
            if mimetic and not block.attn.proj.weight.is_meta:
                start_mimetically(block.attn, queries=mimetic == "all")
            if qk_norm or value_residuals:
                block.attn = AttentionWithParts(block.attn, qk_norm, first_values, is_first=i == 0)


@dataclass
class MuonWithParts(Muon):
    """Muon with these parts.

    Args:
        equal_rows: NorMuon (https://arxiv.org/abs/2510.05491): divide each row of an update by the root of its mean
            square over the past (decay 0.95), and give the whole its former norm.
        cautious: Cautious weight decay (https://arxiv.org/abs/2510.12402): only where it moves a weight as the update.
    """

    equal_rows: bool = field(default=False, kw_only=True)
    cautious: bool = field(default=False, kw_only=True)

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        groups = super().build(groups).param_groups
        parts = {"equal_rows": self.equal_rows, "cautious": self.cautious}
        groups = [group | parts if group["hidden_matrices"] else group for group in groups]
        return StepsWithParts(groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=True)


class StepsWithParts(MuonWithAdamW):
    """The optimizer that `MuonWithParts` sets, for one process and float32."""

    def _step_matrices(self, group: dict[str, Any]) -> None:
        for weight, update in self._updates(group).items():
            if group["equal_rows"]:
                update = self._equal_rows(weight, update)
            step = lr_ratio(*update.shape[1:]) * update.flatten(0, 1)
            decayed = weight * (step * weight > 0) if group["cautious"] else weight
            weight.sub_(group["lr"] * (step + group["weight_decay"] * decayed))

    def _equal_rows(self, weight: Tensor, update: Float[Tensor, "P m n"]) -> Float[Tensor, "P m n"]:
        square = update.square().mean(dim=2, keepdim=True)
        mean = self.state[weight].setdefault("row_squares", torch.zeros_like(square)).lerp_(square, 0.05)
        even = update / (mean.sqrt() + 1e-8)
        return even * (update.norm(dim=(1, 2), keepdim=True) / even.norm(dim=(1, 2), keepdim=True))


class SupervisedWithParts(Supervised):
    """Supervised training with these parts.

    Args:
        fit_head: Start the classifier with a ridge regression of one-hot labels on the untrained model's features.
        drop_early: Fraction of a ViT's patches that is left out in the first half of the training.
        hardest: Fraction of a batch, its images of largest loss, that is trained on (as selective backprop,
            https://arxiv.org/abs/1910.00762, which draws them).
    """

    def __init__(  # the recipe's arguments by name: a variant of another class keeps those that it names
        self,
        backbone: VisionTransformer,
        optimizer: Optimizer,
        schedule: Schedule,
        label_smoothing: float = 0.0,
        whiten: bool = False,
        fit_head: bool = False,
        drop_early: float = 0.0,
        hardest: float = 1.0,
    ) -> None:
        super().__init__(backbone, optimizer, schedule, label_smoothing=label_smoothing, whiten=whiten)
        self.fit_head, self.drop_early, self.hardest = fit_head, drop_early, hardest

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if self.fit_head and stage == "fit" and self.trainer.ckpt_path is None:
            self._fit_head()

    @torch.no_grad()
    def _fit_head(self) -> None:
        backbone: Any = self.backbone.eval()
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        pairs = [(backbone.pool(backbone.forward_features(x)), y) for (x,), y in data.batches("train", self.device, 9)]
        features, labels = torch.cat([x for x, _ in pairs]).double(), torch.cat([y for _, y in pairs])
        targets = nn.functional.one_hot(labels, backbone.num_classes).double()
        mean = features.mean(dim=0)
        x, y = features - mean, targets - targets.mean(dim=0)
        ridge = 0.01 * x.square().sum() / x.shape[1] * torch.eye(x.shape[1]).double()
        weight = torch.linalg.solve(x.T @ x + ridge, x.T @ y).T * backbone.num_classes  # logits, not probabilities
        backbone.head.weight.copy_(weight)
        backbone.head.bias.copy_(-weight @ mean)
        backbone.train()

    def loss(self, views: Views, labels: Labels) -> Scalar:
        (images,) = views
        losses = nn.functional.cross_entropy(
            self.backbone(images), labels, label_smoothing=self.label_smoothing, reduction="none"
        )
        return losses.topk(round(self.hardest * len(losses))).values.mean()

    def training_step(self, batch: Batch, batch_idx: int) -> Scalar:
        if self.drop_early:
            self.backbone.patch_drop.rate = self.drop_early if self.progress < 0.5 else 0.0  # type: ignore[union-attr]
        return super().training_step(batch, batch_idx)


@dataclass(kw_only=True, unsafe_hash=True)
class MirrorInTurn(BatchAugment):
    """Mirror in every second epoch the images that the epoch before did not (airbench's alternating flip)."""

    def distort(self, images: Tensor, draws: Draws) -> Tensor:
        shifted = BatchAugment(shift=self.shift, shift_prob=self.shift_prob).distort(images, draws)
        drawn = Draws(draws.seed, draws.epoch - draws.epoch % 2, draws.indices).uniform(Stream.FLIP, 1)
        return flip(shifted, drawn if draws.epoch % 2 == 0 else 1 - 2.0**-24 - drawn, 0.5)


@dataclass(kw_only=True, eq=False, repr=False)
class CIFAR10MirroredInTurn(CIFAR10):
    """CIFAR-10 whose images are shifted by `augment` and mirrored in turn."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.augment = MirrorInTurn(shift=self.augment.shift, shift_prob=self.augment.shift_prob)

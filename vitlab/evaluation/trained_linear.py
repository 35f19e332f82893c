"""Linear probes as DINO and MAE publish them: trained by steps on augmented images, through the frozen encoder.

    DINO   softmax(W x + b)        SGD with momentum 0.9, a cosine by epoch, several learning rates
    MAE    softmax(W norm(x) + b)  LARS (You et al. 2017), a warm-up and a cosine by step; norm: without weights

MAE's batch norm is updated from all batches of 512 images here, and in the released run from those of one device.

Released code: eval_linear.py of facebookresearch/dino, main_linprobe.py and util/lars.py of facebookresearch/mae.
N images, C features, K classes, R learning rates.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitlab import log
from vitlab.atomic_files import flaw, written_whole
from vitlab.evaluation.features import Features
from vitlab.evaluation.probe import Accuracy
from vitlab.optim import WarmupCosine

NORM_BATCH = 512  # images of one device of main_linprobe.py, whose batch norm is not synchronized


def sgd(heads: nn.ModuleList, rates: tuple[float, ...]) -> torch.optim.Optimizer:
    """Return SGD with momentum, without weight decay: each head has its own learning rate."""
    groups = [{"params": [*head.parameters()], "lr": rate} for head, rate in zip(heads, rates, strict=True)]
    return torch.optim.SGD(groups, momentum=0.9)


def lars(heads: nn.ModuleList, rates: tuple[float, ...]) -> torch.optim.Optimizer:
    """Return LARS without weight decay; the rates of biases are not adapted to their norms."""
    from timm.optim.lars import Lars

    groups = []
    for head, rate in zip(heads, rates, strict=True):
        groups.append({"params": [head.weight], "lr": rate, "always_adapt": True})
        groups.append({"params": [head.bias], "lr": rate, "always_adapt": False})
    return Lars(groups, momentum=0.9, trust_coeff=0.001, eps=0.0)


@dataclass(frozen=True)
class LinearProtocol:
    """How a linear probe is trained; `rates` are for a batch of 256 and grow with `batch_size`."""

    epochs: int
    batch_size: int
    rates: tuple[float, ...]
    optimizer: Callable[[nn.ModuleList, tuple[float, ...]], torch.optim.Optimizer]
    schedule: WarmupCosine
    by_epoch: bool  # whether the rate changes every epoch; else every step
    batch_norm: bool
    drop_last: bool


# eval_linear.py: 8 devices of 128 images. The paper sweeps the rate and names no values; 0.001 is the code's.
DINO = LinearProtocol(
    epochs=100,
    batch_size=1024,
    rates=(0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3),
    optimizer=sgd,
    schedule=WarmupCosine(),
    by_epoch=True,
    batch_norm=False,
    drop_last=False,
)
# FINETUNE.md: 32 devices of 512 images; a ViT-L and a ViT-H train for 50 epochs.
MAE = LinearProtocol(
    epochs=90,
    batch_size=16_384,
    rates=(0.1,),
    optimizer=lars,
    schedule=WarmupCosine(warmup_epochs=10),
    by_epoch=False,
    batch_norm=True,
    drop_last=True,
)


@dataclass(frozen=True)
class TrainedLinear:
    """Test accuracy of a trained linear probe."""

    last: Accuracy  # after the last epoch, at the rate chosen on the validation images
    rate: float  # this rate, for a batch of 256
    rates: dict[str, float]  # by rate, after the last epoch
    best: float  # of all epochs and rates, which the released scripts print and the papers quote
    best_epoch: int  # from 1

    def __str__(self) -> str:
        best = f"best of all epochs and rates {100 * self.best:.1f} % (epoch {self.best_epoch})"
        return f"linear probe      {self.last}   rate {self.rate:g}; {best}"


@dataclass(frozen=True)
class Progress:
    """Where the training of a linear probe continues after an interruption, to the bit."""

    file: Path
    key: str  # the weights, data and protocol that it belongs to

    def restore(self, parts: dict[str, Any]) -> Iterable[Tensor]:
        """Load the state after the last whole epoch, and return accuracies by epoch; none without such a state."""
        if not self.file.is_file() or flaw(self.file) is not None:
            return []
        state: dict[str, Any] = torch.load(self.file, map_location="cpu", weights_only=True)
        if state["key"] != self.key:
            return []
        for name, part in parts.items():
            part.load_state_dict(state[name])
        by_epoch: Tensor = state["by_epoch"]
        log.info("Continued after epoch %d.", len(by_epoch))
        return by_epoch

    def save(self, parts: dict[str, Any], by_epoch: list[Tensor]) -> None:
        """Replace the state by that of one more epoch."""
        states = {name: part.state_dict() for name, part in parts.items()}
        with written_whole(self.file) as file:
            torch.save(states | {"by_epoch": torch.stack(by_epoch), "key": self.key}, file)


class Heads(nn.Module):
    """One linear classifier for each learning rate, trained side by side on the same features."""

    def __init__(self, rates: int, features: int, num_classes: int, batch_norm: bool, seed: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(features, eps=1e-6, affine=False) if batch_norm else nn.Identity()
        weight = 0.01 * torch.randn(num_classes, features, generator=torch.Generator().manual_seed(seed))
        self.linears = nn.ModuleList(nn.Linear(features, num_classes) for _ in range(rates))
        for linear in self.linears:
            linear.weight.data.copy_(weight)  # type: ignore[operator]
            linear.bias.data.zero_()  # type: ignore[operator]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the logits (N, K) of each classifier."""
        parts = x.chunk(-(-len(x) // NORM_BATCH)) if self.training else [x]
        x = torch.cat([self.norm(part) for part in parts])
        return [linear(x) for linear in self.linears]

    @torch.no_grad()
    def correct(self, features: Features) -> Tensor:
        """Return which images each classifier names rightly, (R, N) bool."""
        device, right = next(self.parameters()).device, []
        self.eval()
        for x, labels in zip(*(tensor.split(8192) for tensor in features), strict=True):
            right.append(torch.stack([logits.argmax(dim=1) for logits in self(x.to(device))]).cpu() == labels)
        self.train()
        return torch.cat(right, dim=1)


def train_linear(
    protocol: LinearProtocol,
    batches: Callable[[range], Iterable[Features]],
    *,
    train_images: int,
    val: Features,
    test: Features,
    num_classes: int,
    seed: int,
    device: torch.device,
    progress: Progress,
) -> TrainedLinear:
    """Train on features of augmented images, and test after every epoch.

    Args:
        batches: of some epochs: features (B, C) and labels (B,) on the device, in parts of the steps of `step_sizes`.
        val: chooses the learning rate.
    """
    sizes = step_sizes(protocol, train_images)
    heads = Heads(len(protocol.rates), test[0].shape[1], num_classes, protocol.batch_norm, seed).to(device)
    optimizer = protocol.optimizer(heads.linears, tuple(rate * sizes[0] / 256 for rate in protocol.rates))
    total, every = protocol.epochs * len(sizes), len(sizes) if protocol.by_epoch else 1
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: protocol.schedule.lr(1.0, step // every * every, total, protocol.epochs)
    )
    parts = {"heads": heads, "optimizer": optimizer, "scheduler": scheduler}
    by_epoch: list[Tensor] = [*progress.restore(parts)]
    epochs = range(len(by_epoch), protocol.epochs)
    steps = _whole_steps(batches(epochs), sizes * len(epochs))
    for epoch in epochs:
        for x, labels in islice(steps, len(sizes)):
            optimizer.zero_grad()
            torch.stack([F.cross_entropy(logits, labels) for logits in heads(x)]).sum().backward()
            optimizer.step()
            scheduler.step()
        by_epoch.append(heads.correct(test).double().mean(dim=1))
        progress.save(parts, by_epoch)
        log.info("epoch %d of %d: test top-1 %.4f", epoch + 1, protocol.epochs, float(by_epoch[-1].max()))
    progress.file.unlink()
    chosen = int(heads.correct(val).double().mean(dim=1).argmax())
    accuracies = torch.stack(by_epoch)  # (epochs, R)
    return TrainedLinear(
        last=Accuracy.of(heads.correct(test)[chosen], torch.ones(len(test[1]))),
        rate=protocol.rates[chosen],
        rates={f"{rate:g}": float(value) for rate, value in zip(protocol.rates, by_epoch[-1], strict=True)},
        best=float(accuracies.max()),
        best_epoch=1 + int(accuracies.argmax()) // len(protocol.rates),
    )


def step_sizes(protocol: LinearProtocol, train_images: int) -> list[int]:
    """Return the number of images of each step of an epoch; fewer than a batch are one step."""
    batch = min(protocol.batch_size, train_images)
    rest = 0 if protocol.drop_last else train_images % batch
    return [batch] * (train_images // batch) + [rest] * (rest > 0)


def _whole_steps(batches: Iterable[Features], sizes: list[int]) -> Iterator[Features]:
    parts = iter(batches)
    for size in sizes:
        step: list[Features] = []
        while sum(len(labels) for _, labels in step) < size:
            step.append(next(parts))
        yield torch.cat([x for x, _ in step]), torch.cat([labels for _, labels in step])

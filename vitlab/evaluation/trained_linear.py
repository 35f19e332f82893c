"""A linear probe trained by steps on augmented images, through the frozen encoder, as DINO and MAE publish theirs.

    softmax(W x + b)  or  softmax(W norm(x) + b)    norm: a batch norm without weights

`experiments/probes/` has the papers' settings. Released code: eval_linear.py of facebookresearch/dino,
main_linprobe.py and util/lars.py of facebookresearch/mae. MAE's batch norm is updated from all batches of 512 images
here, and in the released run from those of one device.

B images of a batch, N of a split, D the width of the tokens, C features, K classes, R learning rates.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeGuard

import torch
import torch.nn.functional as F
from jaxtyping import Float
from jsonargparse.typing import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from vitlab import log
from vitlab.atomic_files import flaw, written_whole
from vitlab.evaluation.features import Features
from vitlab.evaluation.probe import Accuracy
from vitlab.models import ImageModel, VisionTransformer
from vitlab.optim import WarmupCosine

BASE_WIDTH = 768  # a ViT-B's
NORM_BATCH = 512  # images of one device of main_linprobe.py, whose batch norm is not synchronized

Tokens = Literal["class_token", "raw_class_token", "last_blocks"]


def has_class_token(encoder: ImageModel) -> TypeGuard[VisionTransformer]:
    """Return whether class tokens of several blocks can be read."""
    return isinstance(encoder, VisionTransformer) and encoder.cls_token is not None


def read_tokens(encoder: ImageModel, images: Tensor, tokens: Tokens) -> Float[Tensor, "B C"]:
    """Return what a probe reads of a ViT's class token; of an encoder without one its embedding.

    Args:
        tokens: class_token: after the final norm, if that is not after the pooling. raw_class_token: before it, as MSN
            (src/deit.py:266-288). last_blocks: as DINO (eval_linear.py:164-173, 256-260), those of the last four blocks
            after the norm, (B, 4·D); from a ViT-B on, the last block's and the mean of its patches, (B, 2·D).
    """
    if not has_class_token(encoder):
        return encoder.embed(images)
    if tokens == "raw_class_token" or (tokens == "last_blocks" and encoder.num_features < BASE_WIDTH):
        last, norm = (1, False) if tokens == "raw_class_token" else (min(4, len(encoder.blocks)), True)
        maps = encoder.forward_intermediates(images, last, True, norm, intermediates_only=True)
        return torch.cat([prefix[:, 0] for _, prefix in maps], dim=1)
    features = encoder.forward_features(images)
    mean = [features.patches.mean(dim=1)] if tokens == "last_blocks" else []
    return torch.cat([features.prefix[:, 0], *mean], dim=1)


@dataclass(frozen=True)
class LinearProbe:
    """How a linear probe is trained: on crops of 8 to 100 % of the area, half of them mirrored, with momentum 0.9.

    Args:
        rates: For a batch of 256; they grow with the batch. The best on the validation images counts.
        by_epoch: Whether the rate changes every epoch; else every step.
        drop_last: Leave out an epoch's last images, if they do not fill a batch.
        interpolation: Of the crops.
    """

    tokens: Tokens
    optimizer: Literal["sgd", "lars"]
    rates: tuple[PositiveFloat, ...]
    epochs: PositiveInt
    batch_size: PositiveInt
    warmup_epochs: NonNegativeFloat = 0.0
    by_epoch: bool = False
    batch_norm: bool = False
    drop_last: bool = False
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    def step_sizes(self, train_images: int) -> list[int]:
        """Return the number of images of each step of an epoch; fewer than a batch are one step."""
        batch = min(self.batch_size, train_images)
        rest = 0 if self.drop_last else train_images % batch
        return [batch] * (train_images // batch) + [rest] * (rest > 0)

    def optimizer_of(self, linears: nn.ModuleList, rates: Iterable[float]) -> torch.optim.Optimizer:
        """Return the optimizer, without weight decay, with each classifier's rate; LARS adapts those of weights."""
        groups = [
            {"params": [parameter], "lr": rate, "always_adapt": parameter.ndim > 1}
            for linear, rate in zip(linears, rates, strict=True)
            for parameter in linear.parameters()
        ]
        if self.optimizer == "sgd":
            return torch.optim.SGD(groups, momentum=0.9)
        from timm.optim.lars import Lars

        return Lars(groups, momentum=0.9, trust_coeff=0.001, eps=0.0)


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
        """Return which images each classifier gets right, (R, N) bool."""
        device, right = next(self.parameters()).device, []
        self.eval()
        for x, labels in zip(*(tensor.split(8192) for tensor in features), strict=True):
            right.append(torch.stack([logits.argmax(dim=1) for logits in self(x.to(device))]).cpu() == labels)
        self.train()
        return torch.cat(right, dim=1)


def train_linear(
    probe: LinearProbe,
    batches: Callable[[range], Iterable[Features]],
    train_images: int,
    val: Features,
    test: Features,
    num_classes: int,
    seed: int,
    device: torch.device,
    file: Path,
    key: str,
) -> TrainedLinear:
    """Train on features of augmented images, and test after every epoch.

    Args:
        batches: of some epochs: features (B, C) and labels (B,) on the device, in parts of the steps of `step_sizes`.
        val: chooses the learning rate.
        file: has the state after the last whole epoch, from which an interrupted training continues to the bit.
        key: of the weights, data and settings that this state belongs to.
    """
    sizes = probe.step_sizes(train_images)
    heads = Heads(len(probe.rates), test[0].shape[1], num_classes, probe.batch_norm, seed).to(device)
    optimizer = probe.optimizer_of(heads.linears, [rate * sizes[0] / 256 for rate in probe.rates])
    schedule = WarmupCosine(warmup_epochs=probe.warmup_epochs)
    total, every = probe.epochs * len(sizes), len(sizes) if probe.by_epoch else 1
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: schedule.lr(1.0, step // every * every, total, probe.epochs)
    )
    parts: dict[str, Any] = {"heads": heads, "optimizer": optimizer, "scheduler": scheduler}
    by_epoch: list[Tensor] = []
    if file.is_file() and flaw(file) is None:
        state = torch.load(file, map_location="cpu", weights_only=True)
        if state["key"] == key:
            for name, part in parts.items():
                part.load_state_dict(state[name])
            by_epoch += state["by_epoch"]
            log.info("Continued after epoch %d.", len(by_epoch))
    epochs = range(len(by_epoch), probe.epochs)
    pieces = iter(batches(epochs))
    for epoch in epochs:
        for size in sizes:
            step = [next(pieces)]
            while sum(len(labels) for _, labels in step) < size:
                step.append(next(pieces))
            x, labels = (torch.cat(part) for part in zip(*step, strict=True))
            optimizer.zero_grad()
            torch.stack([F.cross_entropy(logits, labels) for logits in heads(x)]).sum().backward()
            optimizer.step()
            scheduler.step()
        by_epoch.append(heads.correct(test).double().mean(dim=1))
        states = {name: part.state_dict() for name, part in parts.items()}
        with written_whole(file) as opened:
            torch.save(states | {"by_epoch": torch.stack(by_epoch), "key": key}, opened)
        log.info("epoch %d of %d: test top-1 %.4f", epoch + 1, probe.epochs, float(by_epoch[-1].max()))
    file.unlink()
    chosen = int(heads.correct(val).double().mean(dim=1).argmax())
    accuracies = torch.stack(by_epoch)  # (epochs, R)
    return TrainedLinear(
        last=Accuracy.of(heads.correct(test)[chosen], torch.ones(len(test[1]))),
        rate=probe.rates[chosen],
        rates={f"{rate:g}": float(value) for rate, value in zip(probe.rates, by_epoch[-1], strict=True)},
        best=float(accuracies.max()),
        best_epoch=1 + int(accuracies.argmax()) // len(probe.rates),
    )

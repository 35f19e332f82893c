"""Why the published initializations learn slowly in small models: a ViT and a Swin v2 in their first steps on digits.

    python -m benchmarks.small_models

Each is trained with the published and with vitlab's default initialization, in the same order of images. Measured by
block: how much its branches add to the stream, the gradient of its matrices, and how far these move.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.measuring import CPU, machine, markdown, parser_of, save
from vitlab.data import PlacedDigits
from vitlab.models import Backbone, SwinTransformerV2, VisionTransformer
from vitlab.models.layers import fan_in, trunc_normal
from vitlab.optim import WarmupCosine

BATCH, LR = 32, 2e-3
SIZES = {"img_size": 16, "in_chans": 1, "num_classes": 10}
STAGES = {"patch_size": 2, "embed_dim": 32, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4}
VIT = partial(VisionTransformer, patch_size=4, embed_dim=64, depth=4, num_heads=4, global_pool="avg", **SIZES)
SWIN_V2 = partial(SwinTransformerV2, drop_path_rate=0.0, **STAGES, **SIZES)
MODELS: dict[str, Callable[[], Backbone]] = {
    "ViT, σ = 0.02 (published)": partial(VIT, init=trunc_normal),
    "ViT, σ = 1/√fan-in (default)": partial(VIT, init=fan_in),
    "Swin v2, σ = 0.02, norms at 0 (published)": partial(SWIN_V2, init=trunc_normal, init_values=0.0),
    "Swin v2, σ = 1/√fan-in, norms at 0": partial(SWIN_V2, init=fan_in, init_values=0.0),
    "Swin v2, σ = 1/√fan-in, norms at 0.5 (default)": partial(SWIN_V2, init=fan_in, init_values=0.5),
}
COLORS = ("#9ecae1", "#2171b5", "#fdd0a2", "#fd8d3c", "#a63603")


class Start(NamedTuple):
    losses: list[float]  # of every step
    added: list[float]  # of every step: RMS of what a block adds over RMS of its input, mean over blocks
    gradients: list[float]  # by block, of the first step: RMS over the block's matrices
    moved: list[float]  # by block: relative change of its matrices after `early` steps
    accuracy: float  # on the validation images, after the last step


def matrices(block: nn.Module) -> list[nn.Parameter]:
    return [layer.weight for layer in block.modules() if isinstance(layer, nn.Linear)]


def flat(tensors: Iterable[Tensor | None]) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors if tensor is not None])


def train(build: Callable[[], Backbone], data: PlacedDigits, steps: int, early: int, seed: int) -> Start:
    torch.manual_seed(seed)
    model = build()
    added: list[float] = []

    def record(block: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        x = inputs[0].detach()
        added.append(((output.detach() - x).square().mean() / x.square().mean()).sqrt().item())

    for block in model.blocks:
        block.register_forward_hook(record)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.05)
    schedule = WarmupCosine(warmup_epochs=1)  # an epoch of `steps` / 10
    begin = [flat(matrices(block)) for block in model.blocks]
    losses, gradients, moved = [], [], []
    batches = len(data.dataset("train")) // BATCH
    for step in range(steps):
        (images,), labels = data.training_batch(*divmod(step, batches), CPU)[0]
        loss = F.cross_entropy(model(images), labels, label_smoothing=0.1)
        loss.backward()
        losses.append(loss.item())
        if step == 0:
            gradients = [
                flat(weight.grad for weight in matrices(block)).square().mean().sqrt().item() for block in model.blocks
            ]
        for group in optimizer.param_groups:
            group["lr"] = schedule.lr(LR, step, steps, 10)
        optimizer.step()
        optimizer.zero_grad()
        if step + 1 == early:
            moved = [
                ((flat(matrices(b)) - w).norm() / w.norm()).item() for b, w in zip(model.blocks, begin, strict=True)
            ]
    by_step = np.reshape(added, (steps, -1)).mean(axis=1).tolist()
    model.eval()
    with torch.inference_mode():
        right = [model(images).argmax(1) == labels for (images,), labels in data.batches("val", "cpu")]
    return Start(losses, by_step, gradients, moved, torch.cat(right).float().mean().item())


def draw(starts: dict[str, Start], early: int, path: Path) -> None:
    figure, axes = plt.subplots(1, 4, figsize=(15, 3.6), layout="constrained")
    smooth = np.ones(15) / 15
    for (name, start), color in zip(starts.items(), COLORS, strict=True):
        axes[0].plot(np.convolve(start.losses, smooth, "valid"), color=color, label=name)
        axes[1].plot(start.added, color=color)
        blocks = np.arange(1, len(start.moved) + 1)
        axes[2].plot(blocks, start.gradients, "o-", color=color)
        axes[3].plot(blocks, start.moved, "o-", color=color)
    axes[0].set(title="training loss", xlabel="step")
    axes[1].set(title="what a block adds to its input\n(ratio of RMS, mean over blocks)", xlabel="step")
    axes[2].set(title="gradient of a block's matrices\n(RMS, first step)", xlabel="block")
    axes[2].set_yscale("symlog", linthresh=1e-6)
    axes[3].set(title=f"how far they move in {early} steps\n(relative to their start)", xlabel="block")
    axes[3].set_yscale("log")
    for axis in axes[2:]:
        axis.set_xticks(blocks)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=110)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of("small_models", __doc__, "small_models.png and .md")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--early", type=int, default=100, help="steps after which the change of weights is measured")
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args(arguments)
    data = PlacedDigits(batch_size=BATCH)
    results = {
        name: [train(build, data, options.steps, options.early, seed) for seed in range(options.seeds)]
        for name, build in MODELS.items()
    }
    rows = [
        {
            "initialization": name,
            "adds at the start": f"{starts[0].added[0]:.3f}",
            "gradient, first block": f"{starts[0].gradients[0]:.1e}",
            f"moved in {options.early} steps": f"{np.mean(starts[0].moved):.2f}",
            "validation top-1, %": " ".join(f"{100 * start.accuracy:.1f}" for start in starts),
        }
        for name, starts in results.items()
    ]
    table = markdown(machine(CPU), rows)
    save(options.out / "small_models.md", table)
    draw({name: starts[0] for name, starts in results.items()}, options.early, options.out / "small_models.png")
    print(table)


if __name__ == "__main__":
    main()

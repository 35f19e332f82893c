"""Are our models timm's? The same weights and images through both, at full size: logits, gradients, parameters.

The differences are the largest of any value, in units of the largest value: of the logits, and of each parameter's
gradient. A gradient that is 0 in exact arithmetic, as that of a bias that all keys share, is noise in both; none is
therefore measured against less than a hundredth of the model's largest.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vitlab.studies.peers import build

NAMES = (
    "vit_tiny_patch16_224",
    "vit_small_patch32_224",
    "vit_base_patch16_384",
    "deit_tiny_distilled_patch16_224",
    "deit_small_patch16_224",
    "deit_base_patch16_224",
    "deit3_small_patch16_224",
    "swin_tiny_patch4_window7_224",
    "swin_small_patch4_window7_224",
    "swin_base_patch4_window7_224",
    "swin_base_patch4_window12_384",
    "swinv2_tiny_window8_256",
    "swinv2_tiny_window16_256",
    "swinv2_base_window8_256",
    "swinv2_base_window12to24_192to384",
)


@dataclass(frozen=True)
class Parity:
    """How far one of our models is from timm's of its name, in float32."""

    model: str
    img_size: tuple[int, int]
    logits: float
    gradients: float
    parameters: int
    timm_parameters: int


def compare(name: str) -> Parity:
    """Run both on one image with the weights of timm's, each moved a little, since some start as 0 and hide others."""
    device = torch.device("cpu")
    theirs, ours = build(name, "timm", False, device), build(name, "vitlab", False, device)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.02)
    ours.load_state_dict(theirs.state_dict())
    size: tuple[int, int] = ours.img_size  # type: ignore[assignment]
    images = torch.randn(1, 3, *size, generator=generator)
    (logits, gradients), (expected, expected_gradients) = (_run(model, images) for model in (ours, theirs))
    least = 1e-2 * max(float(gradient.abs().max()) for gradient in expected_gradients.values())
    return Parity(
        name,
        size,
        _difference(logits, expected),
        max(_difference(gradients[key], value, least) for key, value in expected_gradients.items()),
        sum(p.numel() for p in ours.parameters()),
        sum(p.numel() for p in theirs.parameters()),
    )


def _run(model: nn.Module, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    logits = model.train()(images)
    logits.square().sum().backward()
    return logits.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def _difference(ours: Tensor, theirs: Tensor, least: float = 0.0) -> float:
    return float((ours - theirs).abs().max()) / max(float(theirs.abs().max()), least)


def markdown(rows: Sequence[Parity]) -> str:
    """Return the table, with the versions in its header."""
    import timm

    lines = [
        f"torch {torch.__version__}, timm {timm.__version__}, float32; one image, the largest relative difference.",
        "",
        "| model | image size | logits | gradients | parameters | timm's |",
        "|---|---|---|---|---|---|",
    ]
    for r in rows:
        size = " × ".join(map(str, r.img_size))
        counts = f"{r.parameters:,} | {r.timm_parameters:,}"
        lines.append(f"| {r.model} | {size} | {r.logits:.1e} | {r.gradients:.1e} | {counts} |")
    return "\n".join(lines) + "\n"

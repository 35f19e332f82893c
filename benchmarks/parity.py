"""Do vitlab's models compute what timm's do? Same weights and image, float32, at full size.

    python -m benchmarks.parity

Differences are the largest of any value, relative to the largest value: of the logits, and of each parameter's
gradient. A gradient that is 0 in exact arithmetic, like that of a bias shared by all keys, is noise in both models, so
none is compared with less than a hundredth of the model's largest.
"""

import argparse
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.against_timm import build, misspelled
from benchmarks.measuring import OUT, machine, markdown, save

CPU = torch.device("cpu")
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare each model, and rewrite the table after it."""
    parser = argparse.ArgumentParser("python -m benchmarks.parity", description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", default=NAMES, help="models that both have")
    parser.add_argument("--out", type=type(OUT), default=OUT, help=f"folder of parity.md [{OUT}]")
    options = parser.parse_args(arguments)
    if problem := misspelled(options.names):
        parser.error(problem)
    header = f"{machine(CPU, 'timm')} float32; one image, the largest relative difference."
    rows: list[dict[str, str]] = []
    for name in tqdm(options.names):
        rows.append(compare(name))
        save(options.out / "parity.md", markdown(header, rows))
    print(markdown(header, rows), end="")


def compare(name: str) -> dict[str, str]:
    """Run both models on one image with timm's weights, each moved a little: some start as 0 and would hide others."""
    theirs, ours = build(name, "timm", False, CPU), build(name, "vitlab", False, CPU)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.02)
    ours.load_state_dict(theirs.state_dict())
    size: tuple[int, int] = ours.img_size  # type: ignore[assignment]
    images = torch.randn(1, 3, *size, generator=generator)
    (logits, gradients), (expected, expected_gradients) = (_run(model, images) for model in (ours, theirs))
    worst = largest_difference(gradients, expected_gradients)
    return {
        "model": name,
        "image size": " × ".join(map(str, size)),
        "logits": f"{difference(logits, expected):.1e}",
        "gradients": f"{worst:.1e}",
        "parameters": f"{sum(p.numel() for p in ours.parameters()):,}",
        "timm's": f"{sum(p.numel() for p in theirs.parameters()):,}",
    }


def _run(model: nn.Module, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    logits = model.train()(images)
    logits.square().sum().backward()
    return logits.detach(), gradients_of(model)


def gradients_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the gradients by the names of the parameters."""
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def largest_difference(gradients: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Return the largest difference of any gradient from the expected one, relative to its largest value."""
    least = 1e-2 * max(float(gradient.abs().max()) for gradient in expected.values())
    return max(difference(gradients[key], value, least) for key, value in expected.items())


def difference(ours: Tensor, theirs: Tensor, least: float = 0.0) -> float:
    """Return the largest difference, relative to the largest value expected, which is taken to be at least `least`."""
    return float((ours - theirs).abs().max()) / max(float(theirs.abs().max()), least)


if __name__ == "__main__":
    main()

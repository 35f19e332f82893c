"""The models whose speed is measured, with the same names in timm, and the goals for one H200."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from benchmarks.against_timm import NUM_CLASSES, build
from vitlab import models


class Architecture(NamedTuple):
    """A model of 224 px, or of the size in its name.

    Attributes:
        name: timm's.
        batch: Images of a training step, halved until they fit.
        goal: Images/s of a training step on an H200, bfloat16, compiled.
        tiny: Arguments that make it small for a dry run.
    """

    name: str
    batch: int
    goal: int | None
    tiny: dict[str, Any]


TINY_VIT: dict[str, Any] = {"img_size": 32, "depth": 1, "embed_dim": 48, "num_heads": 2}
TINY_SWIN: dict[str, Any] = {"img_size": 64, "depths": (1, 1, 1, 1), "embed_dim": 16, "num_heads": (1, 1, 2, 2)}
TINY_CONVNEXT: dict[str, Any] = {"depths": (1, 1, 1, 1), "dims": (16, 16, 32, 32)}

ARCHITECTURES = {
    "ViT-S/16": Architecture("vit_small_patch16_224", 256, 10_000, TINY_VIT),
    "ViT-B/16": Architecture("vit_base_patch16_224", 256, 3_750, TINY_VIT),
    "Swin-T": Architecture("swin_tiny_patch4_window7_224", 256, 6_100, TINY_SWIN),
    "Swin-B": Architecture("swin_base_patch4_window7_224", 128, None, TINY_SWIN),
    "Swin v2-T": Architecture("swinv2_tiny_window8_256", 256, 4_600, TINY_SWIN),
    "Swin v2-B": Architecture("swinv2_base_window8_256", 128, 2_000, TINY_SWIN),
    "ConvNeXt-T": Architecture("convnext_tiny", 256, None, TINY_CONVNEXT),
    "ResNet-50": Architecture("resnet50", 256, None, {}),
}
DRY = ("ViT-S/16", "Swin-T", "Swin v2-T", "ConvNeXt-T")  # one of each kind

# The time for equal FLOPs of the first over that of the second.
TAXES = (("Swin-T", "ViT-S/16"), ("Swin-B", "ViT-B/16"), ("Swin v2-T", "Swin-T"), ("Swin v2-B", "Swin-B"))

# At most this share of timm's time.
SHARE_OF_TIMM = {"Swin v2-T": 0.66, "Swin v2-B": 0.66}
SHARE_OF_TIMM_OTHERS = 0.80


def chosen(dry: bool) -> dict[str, Architecture]:
    """Return the models of a dry run, or all."""
    return {title: ARCHITECTURES[title] for title in DRY} if dry else ARCHITECTURES


def make(architecture: Architecture, whose: str, device: torch.device, dry: bool = False) -> nn.Module:
    """Build vitlab's or timm's model without drop path; what vitlab has not of its own is timm's in its wrapper."""
    changes = architecture.tiny if dry else {}
    own = architecture.name in models.__all__
    if whose == "timm" or own:
        model = build(architecture.name, whose, False, device, **changes)
        return model if own else model.to(memory_format=torch.channels_last)  # as `TimmModel` has it
    wrapped: Callable[..., nn.Module] = models.TimmModel
    return wrapped(architecture.name, num_classes=NUM_CLASSES, drop_path_rate=0.0, model_kwargs=changes).to(device)


def side(architecture: Architecture, dry: bool) -> int:
    """Return the side in pixels of its images."""
    if dry:
        return int(architecture.tiny.get("img_size", 64))
    return 256 if architecture.name.endswith("256") else 224

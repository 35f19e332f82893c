"""Small models and batches for the tests of objectives, and the closed-form inputs of the golden values."""

import math
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from vitlab.config import Config
from vitlab.models import Backbone, Features, SwinTransformer, SwinTransformerV2, VisionTransformer
from vitlab.models.layers import fan_in
from vitlab.objectives import (
    DINO,
    IBOT,
    MAE,
    MSN,
    UMMAE,
    Data2Vec,
    Distillation,
    EsViT,
    LeJEPA,
    Objective,
    SimMIM,
    SoftTarget,
    Supervised,
    Teacher,
)
from vitlab.objectives.masking import embed_hiding
from vitlab.optim import AdamW, WarmupCosine

SMALL = {"img_size": 8, "in_chans": 1, "num_classes": 10, "drop_path_rate": 0.0, "init": fan_in}
STAGES = {"patch_size": 1, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4}
BACKBONES: dict[str, Callable[[], Backbone]] = {
    "vit": lambda: VisionTransformer(patch_size=2, embed_dim=32, depth=2, num_heads=2, **SMALL),
    "swin": lambda: SwinTransformer(**STAGES, **SMALL),
    "swin_v2": lambda: SwinTransformerV2(**STAGES, **SMALL),
}
# Without a class token the mean of normalized patches is read; registers are read by nobody.
OTHER_PREFIXES: dict[str, Callable[[], VisionTransformer]] = {
    name: lambda changes=changes: VisionTransformer(  # type: ignore[misc]
        patch_size=2, embed_dim=32, depth=2, num_heads=2, **SMALL, **changes
    )
    for name, changes in {
        "registers": {"reg_tokens": 2},
        "no class token": {"class_token": False, "global_pool": "avg", "fc_norm": False},
    }.items()
}
# Of the digits, 8 × 8 px and gray, so that nothing is done to colors.
CROPS: Config = {
    "global_crops": {"number": 2, "size": 8, "scale": [0.4, 1.0], "blur_prob": [0.0]},
    "local_crops": {"number": 2, "size": 4, "scale": [0.1, 0.4], "blur_prob": [0.0]},
    "saturation": 0.0,
    "hue": 0.0,
    "gray_prob": 0.0,
}


def closed_form(*shape: int, a: float = 0.7, b: float = 0.0, s: float = 1.0) -> Tensor:
    """Return sin(a · arange + b) · s in float64: inputs on which the released code was run once."""
    return (torch.sin(torch.arange(math.prod(shape), dtype=torch.float64) * a + b) * s).reshape(shape)


def batch(n: int = 8) -> tuple[list[Tensor], Tensor]:
    """Return n images of noise, 1 × 8 × 8, and a label for each."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, 1, 8, 8, generator=generator)], torch.arange(n) % 10


def crops(n: int = 4, num_local: int = 2) -> tuple[list[Tensor], Tensor]:
    """Return two global crops of 8 × 8 px and some local ones of 4 × 4 px of each of n images.

    An image is noise, and each view of it has some noise of its own.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(n, 1, 8, 8, generator=generator)
    views = [images + 0.3 * torch.randn(n, 1, 8, 8, generator=generator) for _ in range(2 + num_local)]
    return [*views[:2], *(view[..., 2:6, 2:6] for view in views[2:])], torch.arange(n)


RECIPE = (AdamW(1e-3), WarmupCosine())
DECODER = {"decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2}
HEAD = {"out_dim": 24, "hidden_dim": 32, "bottleneck_dim": 16}
UNIFORM = {"masking": "uniform", "mask_patch_size": 2}  # of MSN on a Swin
# Every objective on a backbone: all it has is trained.
OBJECTIVES: dict[str, Callable[[Any], Objective]] = {
    "supervised": lambda net: Supervised(net, *RECIPE),
    "distillation": lambda net: Distillation(net, Teacher(BACKBONES["vit"]()), SoftTarget(), *RECIPE),
    "simmim": lambda net: SimMIM(net, *RECIPE, mask_patch_size=2),
    "mae": lambda net: MAE(net, *RECIPE, **DECODER),
    "um_mae": lambda net: UMMAE(net, *RECIPE, mask_patch_size=2, **DECODER),
    "dino": lambda net: DINO(net, *RECIPE, **HEAD, norm_last_layer=False),
    "ibot": lambda net: IBOT(net, *RECIPE, **HEAD, norm_last_layer=False, pred_ratio=(0.5,), pred_ratio_var=(0.2,)),
    "esvit": lambda net: EsViT(net, *RECIPE, **HEAD, norm_last_layer=False),
    "data2vec": lambda net: Data2Vec(net, *RECIPE, min_mask_patches=1, target_layers=1),
    "lejepa": lambda net: LeJEPA(net, *RECIPE, hidden_dim=24, proj_dim=6),
    "msn": lambda net: MSN(
        net,
        *RECIPE,
        num_prototypes=6,
        hidden_dim=32,
        output_dim=16,
        **({} if isinstance(net, VisionTransformer) else UNIFORM),  # type: ignore[arg-type]
    ),
}


def views_for(name: str) -> tuple[list[Tensor], Tensor]:
    return crops() if name in ("dino", "ibot", "esvit", "lejepa", "msn") else batch()


def wake(model: torch.nn.Module) -> None:
    """Move all weights a little: Swin v2's blocks begin as the identity, and their weights matter from the first step
    on, not before."""
    for parameter in model.parameters():
        parameter.data += 0.01


def without_gradient(model: torch.nn.Module) -> list[str]:
    """Return the names of trained parameters that have no gradient, or one that is zero throughout."""
    return [name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]


def encode_hiding(objective: Any, images: Tensor, mask: Tensor) -> Features:
    """Return what the student of iBOT or data2vec sees of images with hidden patches."""
    return objective.backbone.encode(embed_hiding(objective.backbone, images, mask, objective.mask_token))


def overfit_one_batch(objective: Objective, steps: int = 200) -> float:
    """Return the loss after so many steps on one batch of two images, with the same random draws in each."""
    views, labels = batch(2)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=2e-3, weight_decay=0.0)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 2e-3 * (1 - step / steps)
        torch.manual_seed(0)
        optimizer.zero_grad()
        loss = objective.loss(views, labels)
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def quick_trainer(epochs: int = 1, **kwargs: Any) -> Trainer:
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    usual = {"num_sanity_val_steps": 0, "use_distributed_sampler": False}
    return Trainer(max_epochs=epochs, accelerator="cpu", **quiet | usual | kwargs)

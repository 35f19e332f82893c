"""Named sizes of the architectures: timm's name, a class, and the defaults that differ."""

import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from vitlab.models.swin import SwinTransformer
from vitlab.models.swin_v2 import SwinTransformerV2
from vitlab.models.timm_model import TimmModel
from vitlab.models.vit import VisionTransformer

P = ParamSpec("P")
Model = TypeVar("Model")


def named_size(build: Callable[P, Model], **defaults: Any) -> Callable[P, Model]:
    """Return `build` as a function with other defaults and otherwise the same signature.

    Editors, `help` and the command line read this signature, as if the function were written by hand.
    """
    signature = inspect.signature(build)
    unknown = defaults.keys() - signature.parameters.keys()
    assert not unknown, f"{build} does not take {sorted(unknown)}"

    def create(*args: P.args, **kwargs: P.kwargs) -> Model:
        bound = create.__signature__.bind(*args, **kwargs)  # type: ignore[attr-defined]
        bound.apply_defaults()
        return build(*bound.args, **bound.kwargs)

    parameters = [p.replace(default=defaults.get(p.name, p.default)) for p in signature.parameters.values()]
    create.__signature__ = signature.replace(parameters=parameters, return_annotation=build)  # type: ignore[attr-defined]
    create.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": build}
    parents = [inspect.cleandoc(parent.__doc__ or "") for parent in getattr(build, "__mro__", ())[1:]]
    shared = [text.partition("\nArgs:\n")[2] for text in parents]  # arguments that the class passes on
    create.__doc__ = "\n".join(filter(None, [inspect.getdoc(build), *shared]))
    return create


# fmt: off

# Vision Transformer (paper's table 1; Ti and S from DeiT) at patch 8, 14, 16 or 32.
_vit_tiny = {"embed_dim": 192, "depth": 12, "num_heads": 3}
_vit_small = {"embed_dim": 384, "depth": 12, "num_heads": 6}
_vit_medium = {"embed_dim": 512, "depth": 12, "num_heads": 8}
_vit_base = {"embed_dim": 768, "depth": 12, "num_heads": 12}
_vit_large = {"embed_dim": 1024, "depth": 24, "num_heads": 16}
_vit_huge = {"embed_dim": 1280, "depth": 32, "num_heads": 16}
vit_tiny_patch16_224 = named_size(VisionTransformer, img_size=224, patch_size=16, **_vit_tiny)
vit_tiny_patch16_384 = named_size(VisionTransformer, img_size=384, patch_size=16, **_vit_tiny)
vit_small_patch32_224 = named_size(VisionTransformer, img_size=224, patch_size=32, **_vit_small)
vit_small_patch32_384 = named_size(VisionTransformer, img_size=384, patch_size=32, **_vit_small)
vit_small_patch16_224 = named_size(VisionTransformer, img_size=224, patch_size=16, **_vit_small)
vit_small_patch16_384 = named_size(VisionTransformer, img_size=384, patch_size=16, **_vit_small)
vit_small_patch8_224 = named_size(VisionTransformer, img_size=224, patch_size=8, **_vit_small)
vit_base_patch32_224 = named_size(VisionTransformer, img_size=224, patch_size=32, **_vit_base)
vit_base_patch32_384 = named_size(VisionTransformer, img_size=384, patch_size=32, **_vit_base)
vit_base_patch16_224 = named_size(VisionTransformer, img_size=224, patch_size=16, **_vit_base)
vit_base_patch16_384 = named_size(VisionTransformer, img_size=384, patch_size=16, **_vit_base)
vit_base_patch8_224 = named_size(VisionTransformer, img_size=224, patch_size=8, **_vit_base)
vit_large_patch32_224 = named_size(VisionTransformer, img_size=224, patch_size=32, **_vit_large)
vit_large_patch32_384 = named_size(VisionTransformer, img_size=384, patch_size=32, **_vit_large)
vit_large_patch16_224 = named_size(VisionTransformer, img_size=224, patch_size=16, **_vit_large)
vit_large_patch16_384 = named_size(VisionTransformer, img_size=384, patch_size=16, **_vit_large)
vit_large_patch14_224 = named_size(VisionTransformer, img_size=224, patch_size=14, **_vit_large)
vit_huge_patch14_224 = named_size(VisionTransformer, img_size=224, patch_size=14, **_vit_huge)

# DeiT, without and with distillation token.
deit_tiny_patch16_224 = named_size(VisionTransformer, img_size=224, **_vit_tiny)
deit_small_patch16_224 = named_size(VisionTransformer, img_size=224, **_vit_small)
deit_base_patch16_224 = named_size(VisionTransformer, img_size=224, **_vit_base)
deit_base_patch16_384 = named_size(VisionTransformer, img_size=384, **_vit_base)
deit_tiny_distilled_patch16_224 = named_size(VisionTransformer, img_size=224, distilled=True, **_vit_tiny)
deit_small_distilled_patch16_224 = named_size(VisionTransformer, img_size=224, distilled=True, **_vit_small)
deit_base_distilled_patch16_224 = named_size(VisionTransformer, img_size=224, distilled=True, **_vit_base)
deit_base_distilled_patch16_384 = named_size(VisionTransformer, img_size=384, distilled=True, **_vit_base)

# DeiT III: LayerScale, and positions for patches only.
_deit3 = {"no_embed_class": True, "init_values": 1e-6}
deit3_small_patch16_224 = named_size(VisionTransformer, img_size=224, **_vit_small, **_deit3)
deit3_small_patch16_384 = named_size(VisionTransformer, img_size=384, **_vit_small, **_deit3)
deit3_medium_patch16_224 = named_size(VisionTransformer, img_size=224, **_vit_medium, **_deit3)
deit3_base_patch16_224 = named_size(VisionTransformer, img_size=224, **_vit_base, **_deit3)
deit3_base_patch16_384 = named_size(VisionTransformer, img_size=384, **_vit_base, **_deit3)
deit3_large_patch16_224 = named_size(VisionTransformer, img_size=224, **_vit_large, **_deit3)
deit3_large_patch16_384 = named_size(VisionTransformer, img_size=384, **_vit_large, **_deit3)
deit3_huge_patch14_224 = named_size(VisionTransformer, img_size=224, patch_size=14, **_vit_huge, **_deit3)

# DINOv2 with registers, and without a class token, as timm trained them.
_registers = {"reg_tokens": 4, "no_embed_class": True, "init_values": 1e-5}
_no_class_token = {"class_token": False, "global_pool": "avg"}
_gap = {"fc_norm": False, **_no_class_token}
_gap_medium = {"qkv_bias": False, "init_values": 1e-6, **_gap}
vit_small_patch14_reg4_dinov2 = named_size(VisionTransformer, img_size=518, patch_size=14, **_vit_small, **_registers)
vit_base_patch14_reg4_dinov2 = named_size(VisionTransformer, img_size=518, patch_size=14, **_vit_base, **_registers)
vit_large_patch14_reg4_dinov2 = named_size(VisionTransformer, img_size=518, patch_size=14, **_vit_large, **_registers)
vit_medium_patch16_gap_240 = named_size(VisionTransformer, img_size=240, **_vit_medium, **_gap_medium)
vit_medium_patch16_gap_256 = named_size(VisionTransformer, img_size=256, **_vit_medium, **_gap_medium)
vit_medium_patch16_gap_384 = named_size(VisionTransformer, img_size=384, **_vit_medium, **_gap_medium)
vit_huge_patch14_gap_224 = named_size(VisionTransformer, img_size=224, patch_size=14, **_vit_huge, **_gap)
vit_medium_patch16_reg4_gap_256 = named_size(
    VisionTransformer, img_size=256, **_vit_medium, **_registers, **_no_class_token)

# Swin and Swin v2 (paper's section 3.3).
_swin_tiny = {"embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)}
_swin_small = {"embed_dim": 96, "depths": (2, 2, 18, 2), "num_heads": (3, 6, 12, 24)}
_swin_base = {"embed_dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32)}
_swin_large = {"embed_dim": 192, "depths": (2, 2, 18, 2), "num_heads": (6, 12, 24, 48)}
swin_tiny_patch4_window7_224 = named_size(SwinTransformer, img_size=224, window_size=7, **_swin_tiny)
swin_small_patch4_window7_224 = named_size(SwinTransformer, img_size=224, window_size=7, **_swin_small)
swin_base_patch4_window7_224 = named_size(SwinTransformer, img_size=224, window_size=7, **_swin_base)
swin_base_patch4_window12_384 = named_size(SwinTransformer, img_size=384, window_size=12, **_swin_base)
swin_large_patch4_window7_224 = named_size(SwinTransformer, img_size=224, window_size=7, **_swin_large)
swin_large_patch4_window12_384 = named_size(SwinTransformer, img_size=384, window_size=12, **_swin_large)

# "12to24": trained with window 12 at 192 px, where the last map is 6 × 6, and fine-tuned with window 24.
_from12 = {"pretrained_window_sizes": (12, 12, 12, 6)}
swinv2_tiny_window8_256 = named_size(SwinTransformerV2, img_size=256, window_size=8, **_swin_tiny)
swinv2_tiny_window16_256 = named_size(SwinTransformerV2, img_size=256, window_size=16, **_swin_tiny)
swinv2_small_window8_256 = named_size(SwinTransformerV2, img_size=256, window_size=8, **_swin_small)
swinv2_small_window16_256 = named_size(SwinTransformerV2, img_size=256, window_size=16, **_swin_small)
swinv2_base_window8_256 = named_size(SwinTransformerV2, img_size=256, window_size=8, **_swin_base)
swinv2_base_window16_256 = named_size(SwinTransformerV2, img_size=256, window_size=16, **_swin_base)
swinv2_base_window12_192 = named_size(SwinTransformerV2, img_size=192, window_size=12, **_swin_base)
swinv2_base_window12to16_192to256 = named_size(SwinTransformerV2, img_size=256, window_size=16, **_swin_base, **_from12)
swinv2_base_window12to24_192to384 = named_size(SwinTransformerV2, img_size=384, window_size=24, **_swin_base, **_from12)
swinv2_large_window12_192 = named_size(SwinTransformerV2, img_size=192, window_size=12, **_swin_large)
swinv2_large_window12to16_192to256 = named_size(
    SwinTransformerV2, img_size=256, window_size=16, **_swin_large, **_from12)
swinv2_large_window12to24_192to384 = named_size(
    SwinTransformerV2, img_size=384, window_size=24, **_swin_large, **_from12)

# For images of 32 and 64 px, with patches in proportion: 8 × 8 tokens in a ViT, 16 × 16, 8 × 8 and 4 × 4 in a Swin,
# whose middle stage has enough blocks to match the ViT's FLOPs within 3 %. docs/results.md has the measurement.
_swin_mini = {"embed_dim": 96, "depths": (2, 8, 2), "num_heads": (3, 6, 12), "window_size": 4}
vit_tiny_patch4_32 = named_size(VisionTransformer, img_size=32, patch_size=4, **_vit_tiny)
vit_tiny_patch8_64 = named_size(VisionTransformer, img_size=64, patch_size=8, **_vit_tiny)
deit_tiny_distilled_patch4_32 = named_size(VisionTransformer, img_size=32, patch_size=4, distilled=True, **_vit_tiny)
deit_tiny_distilled_patch8_64 = named_size(VisionTransformer, img_size=64, patch_size=8, distilled=True, **_vit_tiny)
swin_mini_patch2_window4_32 = named_size(SwinTransformer, img_size=32, patch_size=2, **_swin_mini)
swin_mini_patch4_window4_64 = named_size(SwinTransformer, img_size=64, patch_size=4, **_swin_mini)
swinv2_mini_patch2_window4_32 = named_size(SwinTransformerV2, img_size=32, patch_size=2, **_swin_mini)
swinv2_mini_patch4_window4_64 = named_size(SwinTransformerV2, img_size=64, patch_size=4, **_swin_mini)

# Convolutional networks of the same cost: mini as the models above, micro as those of the quickstart. The first of four
# stages has the resolution of the image.
_resnet_mini = {"layers": [2, 2, 3, 2], "channels": [48, 96, 192, 384], "stem_width": 24}
_resnet_micro = {"layers": [1, 1, 1, 1], "channels": [16, 32, 64, 64], "stem_width": 8}
_convnext_mini = {"depths": [3, 3, 9, 3], "dims": [48, 96, 192, 384], "patch_size": 1}
_convnext_micro = {"depths": [1, 1, 3, 1], "dims": [16, 32, 64, 64], "patch_size": 1}
_resnet = {"name": "resnet18d", "small_stem": True}
_convnext = {"name": "convnext_atto"}
resnet_mini_32 = named_size(TimmModel, img_size=32, model_kwargs=_resnet_mini, **_resnet)
resnet_micro_16 = named_size(TimmModel, img_size=16, model_kwargs=_resnet_micro, **_resnet)
convnext_mini_32 = named_size(TimmModel, img_size=32, model_kwargs=_convnext_mini, **_convnext)
convnext_micro_16 = named_size(TimmModel, img_size=16, model_kwargs=_convnext_micro, **_convnext)

# fmt: on

__all__ = [_name for _name, _value in vars().items() if inspect.isfunction(_value) and _value is not named_size]

for _name in __all__:  # its import path in YAML is vitlab.models.<name>
    _function = vars()[_name]
    _function.__module__, _function.__name__, _function.__qualname__ = "vitlab.models", _name, _name

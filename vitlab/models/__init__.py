"""ViT, DeiT, Swin and Swin v2 under timm's names: the classes, and named sizes that build them."""

from types import ModuleType as _ModuleType

from vitlab.models.backbone import AttentionMap as AttentionMap
from vitlab.models.backbone import Backbone as Backbone
from vitlab.models.backbone import Features as Features
from vitlab.models.backbone import ImageModel as ImageModel
from vitlab.models.sizes import *  # noqa: F403
from vitlab.models.swin import SwinTransformer as SwinTransformer
from vitlab.models.swin_v2 import SwinTransformerV2 as SwinTransformerV2
from vitlab.models.timm_model import TimmModel as TimmModel
from vitlab.models.vit import VisionTransformer as VisionTransformer

__all__ = [name for name, value in vars().items() if name[0] != "_" and not isinstance(value, _ModuleType)]

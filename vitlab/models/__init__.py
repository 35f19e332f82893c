"""ViT, DeiT, Swin and Swin v2 under timm's names."""

from vitlab.models.backbone import Backbone as Backbone
from vitlab.models.backbone import Features as Features
from vitlab.models.backbone import ImageModel as ImageModel
from vitlab.models.vit import *  # noqa: F403

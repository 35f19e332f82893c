"""Data sets as Lightning data modules. Order and augmentation are functions of (seed, epoch, image) only."""

from vitlab.data.augment import BatchAugment
from vitlab.data.cifar import CIFAR10, CIFAR100
from vitlab.data.datamodule import ImageDataModule
from vitlab.data.decoding import decode
from vitlab.data.digits import Digits
from vitlab.data.image_folder import ImageFolder
from vitlab.data.in_memory import InMemoryDataModule, TensorImages
from vitlab.data.mixup import Mixup
from vitlab.data.multi_crop import Crops, MultiCrop
from vitlab.data.photos import PhotoAugment
from vitlab.data.source import PhotoSource

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "BatchAugment",
    "Crops",
    "Digits",
    "ImageDataModule",
    "ImageFolder",
    "InMemoryDataModule",
    "Mixup",
    "MultiCrop",
    "PhotoAugment",
    "PhotoSource",
    "TensorImages",
    "decode",
]

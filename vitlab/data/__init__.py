"""Data sets as Lightning data modules. Order and distortions are functions of (seed, epoch, image), of nothing else."""

from vitlab.data.augment import BatchAugment
from vitlab.data.cifar import CIFAR10, CIFAR100
from vitlab.data.datamodule import ImageDataModule
from vitlab.data.digits import Digits
from vitlab.data.image_folder import ImageFolder
from vitlab.data.mixup import Mixup
from vitlab.data.multi_crop import Crops, MultiCrop
from vitlab.data.photos import PhotoAugment

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "BatchAugment",
    "Crops",
    "Digits",
    "ImageDataModule",
    "ImageFolder",
    "Mixup",
    "MultiCrop",
    "PhotoAugment",
]

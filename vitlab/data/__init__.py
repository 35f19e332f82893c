"""Data sets as Lightning data modules. Order and augmentation are functions of (seed, epoch, image) only.

The names are imported when first used, so that `vitlab.data.photos` can be used without loading Lightning.
"""

from typing import TYPE_CHECKING

from vitlab import exported

if TYPE_CHECKING:
    from vitlab.data.augment import BatchAugment as BatchAugment
    from vitlab.data.augment import Growth as Growth
    from vitlab.data.cifar import CIFAR10 as CIFAR10
    from vitlab.data.cifar import CIFAR100 as CIFAR100
    from vitlab.data.datamodule import ImageDataModule as ImageDataModule
    from vitlab.data.dataset import PhotoSource as PhotoSource
    from vitlab.data.decoding import decode as decode
    from vitlab.data.digits import Digits as Digits
    from vitlab.data.digits import PlacedDigits as PlacedDigits
    from vitlab.data.folds import Folds as Folds
    from vitlab.data.hugging_face import HuggingFace as HuggingFace
    from vitlab.data.image_folder import ImageFolder as ImageFolder
    from vitlab.data.in_memory import InMemoryDataModule as InMemoryDataModule
    from vitlab.data.in_memory import TensorImages as TensorImages
    from vitlab.data.label_table import LabelTable as LabelTable
    from vitlab.data.lit_data import LitData as LitData
    from vitlab.data.mixup import Mixup as Mixup
    from vitlab.data.multi_crop import Crops as Crops
    from vitlab.data.multi_crop import MultiCrop as MultiCrop
    from vitlab.data.photos import PhotoAugment as PhotoAugment
    from vitlab.data.shapes import Shapes as Shapes

__all__, __getattr__ = exported("vitlab.data")

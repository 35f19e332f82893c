"""A user's own photographs in folders, one folder a class."""

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, final

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from vitlab.data.augment import BOX_DRAWS
from vitlab.data.checking import Check
from vitlab.data.counter_rng import Draws, Stream, host_seed
from vitlab.data.datamodule import Batch, ImageDataModule, ImageDataset, Split, check_fraction, stratified_split, tell
from vitlab.data.decoding import Half, Pixels, as_text
from vitlab.data.folder import Folder, below_split
from vitlab.data.mixup import Mixup
from vitlab.data.multi_crop import MultiCrop
from vitlab.data.oddities import oddities
from vitlab.data.packed import Packed, is_packed
from vitlab.data.photos import (
    Framing,
    Photo,
    PhotoAugment,
    apply,
    central_crop,
    half_will_do,
    make_rand_augment,
    random_crop,
    seeded,
)
from vitlab.data.sampler import Key
from vitlab.data.source import Part, PhotoSource

_NAMED = 3  # broken images that a message names


class Photos(ImageDataset):
    """One split of photographs, read, cropped and distorted one by one."""

    def __init__(
        self,
        source: PhotoSource,
        names: list[str],
        labels: np.ndarray,
        image_size: int,
        crop_pct: float | None,
        augment: PhotoAugment,
        multi_crop: MultiCrop | None,
        mean: tuple[float, ...],
        seed: int,
        contents: np.ndarray | None = None,
    ) -> None:
        self.source, self.labels, self.seed, self._contents = source, labels, seed, contents
        # An array, not a list: a worker that reads a list's element counts a reference to it, and so gets its own copy
        # of that page of memory, until each worker holds its own copy of all names.
        self._files = np.array([os.fsencode(name) for name in names], dtype=np.bytes_)
        self.image_size, self.crop_pct, self.augment = image_size, crop_pct, augment
        self.multi_crop = multi_crop
        self._rand_augment = make_rand_augment(augment, image_size, mean)

    @property
    def names(self) -> list[str]:
        """Paths below the root, as text."""
        return [as_text(os.fsdecode(file)) for file in self._files]

    def _identity(self) -> list[bytes]:
        """Return names as they are wherever the folder lies, and what the files hold."""
        names = "\0".join(below_split(name) for name in self.names).encode()
        return [names, b"" if self._contents is None else self._contents.tobytes()]

    def __getitems__(self, keys: list[Key]) -> Batch:
        """Read one batch."""
        epoch, first = keys[0].epoch, keys[0].first
        indices = torch.tensor([key.image for key in keys])
        labels = torch.from_numpy(self.labels[indices.numpy() % len(self)])
        if epoch is None:
            images = _stack([self._central(key.image) for key in keys])
        elif self.multi_crop is not None:
            return Batch(self._views(self.multi_crop, Draws(self.seed, epoch, indices)), labels, indices, epoch, first)
        else:
            draws = Draws(self.seed, epoch, indices)
            boxes = draws.uniform(Stream.CROP, BOX_DRAWS).tolist()
            flips = (draws.uniform(Stream.FLIP, 1)[:, 0] < self.augment.flip_prob).tolist()
            each = zip(keys, boxes, flips, strict=True)
            images = _stack([self._random(epoch, key.image, box, flip) for key, box, flip in each])
        numbers = indices.numpy().copy()  # a worker that sends a tensor moves its memory
        return Batch(images, labels, indices, epoch, first, numbers)

    def raw(self, index: int) -> np.ndarray:
        """Return one image as evaluation sees it: resized and cropped, not normalized."""
        return self._central(index).permute(1, 2, 0).numpy()

    def _open(self, index: int, half: Half | None = None) -> Pixels:
        """Decode one photograph, for which no other may stand in."""
        return self.source.read(os.fsdecode(self._files[index % len(self)]), half)

    def _views(self, multi_crop: MultiCrop, draws: Draws) -> list[Tensor]:
        """Return each view of all images, (B, 3, S, S)."""
        photos = [
            multi_crop.views_of_photo(self._open(index), draw)
            for index, draw in zip(draws.indices.tolist(), multi_crop.draw(draws).split(1, dim=1), strict=True)
        ]
        return [_stack(views) for views in zip(*photos, strict=True)]

    def _central(self, index: int) -> Photo:
        return central_crop(self._open(index), self.image_size, self.crop_pct, self.augment.interpolation)

    def _random(self, epoch: int, index: int, box: list[float], flip: bool) -> Photo:
        image = self._open(index, half_will_do(box, self.image_size, self.augment))
        photo = random_crop(image, box, self.image_size, self.augment)
        if flip:
            photo = photo.flip(-1)
        if self._rand_augment is None:
            return photo
        with seeded(host_seed(self.seed, epoch, Stream.PHOTO, index)):
            return apply(self._rand_augment, photo)


def _stack(photos: Sequence[Photo]) -> UInt8[Tensor, "B 3 S S"]:
    """Stack photographs as they lie in memory, channels last; `normalize` brings them into the models' order."""
    return torch.stack([photo.permute(1, 2, 0) for photo in photos]).permute(0, 3, 1, 2)


@final
class ImageFolder(ImageDataModule):
    """Photographs in one folder a class: `root/train/cat`, `root/val/cat`, perhaps `root/test/cat`; or `root/cat`.

    Class names are the folders' names, in alphabetical order; files may lie deeper. Splits may be called training,
    valid, validation, dev, eval, evaluation or testing too, in any letter case. Where there is no `root/val`, a part of
    each class is held out. Where there is no `root/test` but a `root/val`, the test split *is* the validation split, as
    customary for ImageNet, unless `test_fraction` is given.

    Images are upright as their EXIF data say, RGB whatever they were, transparent parts white (see `read_photo`).
    Before training every file is decoded once; what cannot be, measures less than two pixels or more than 89 million,
    or is over a hundred times as long as wide, is named. Named and kept is what may mislead: the same image in two
    splits, classes of few images, 16-bit pictures that 8 bits leave blank. The second start knows the files that did
    not change. No image is ever replaced by another: one that is deleted or damaged while a run reads stops the run and
    is named, whatever `broken` says; the same command then checks the files and goes on from the last checkpoint. For a
    random crop that is four times as large as `image_size` or more, a JPEG is decoded at half its size (see
    `half_will_do`).

    A link to a folder is followed, but for one that leads back to a folder that it lies in. Names that are no UTF-8
    appear with escapes (`caf\\xe9.jpg`) in everything that is written.

    Args:
        root: the folder, or what `python -m vitlab prepare` made of it.
        image_size: side in pixels that the model sees.
        batch_size: images a step and process.
        eval_batch_size: the same in evaluation; null: `batch_size`.
        num_workers: processes that decode; null: one a core, less one, at most 16.
        seed: decides order and distortions.
        split_seed: decides which images are held out, the same for every `seed`.
        val_fraction: the share of each class that validates where there is no `root/val`.
        test_fraction: the share of each class that tests where there is no `root/test`; null: none beside a `root/val`,
            `val_fraction` otherwise.
        crop_pct: evaluation resizes the shorter side to image_size / crop_pct and cuts the center out; null: it brings
            the whole image to image_size, squashed to a square (Swin at 384 px).
        broken: images that cannot be decoded are left out, or refused before training starts.
        mean: of red, green and blue, on the scale 0 … 1; ImageNet's, as pretrained weights expect.
        std: of the same, on the same scale.
        augment: see `PhotoAugment`.
        mixup: blend training images with each other. Null: off.
        multi_crop: several views of each training image, in place of `augment`, whose interpolation still holds for
            evaluation; see `MultiCrop`. Null: one view.
        repeats: how often a batch holds each of its images, distorted otherwise each time, and an epoch one part in
            `repeats` of all images (repeated augmentation; DeiT has 3).
    """

    augment: PhotoAugment

    def __init__(
        self,
        root: str,
        image_size: int = 224,
        batch_size: int = 64,
        eval_batch_size: int | None = None,
        num_workers: int | None = None,
        seed: int = 0,
        split_seed: int = 0,
        val_fraction: float = 0.1,
        test_fraction: float | None = None,
        crop_pct: float | None = 0.875,
        broken: Literal["skip", "refuse"] = "refuse",
        mean: tuple[float, ...] = (0.485, 0.456, 0.406),
        std: tuple[float, ...] = (0.229, 0.224, 0.225),
        augment: PhotoAugment = PhotoAugment(),  # noqa: B008  (frozen)
        mixup: Mixup | None = None,
        multi_crop: MultiCrop | None = None,
        repeats: int = 1,
    ) -> None:
        super().__init__(
            batch_size,
            eval_batch_size,
            num_workers,
            seed,
            split_seed,
            mean,
            std,
            augment.erase_prob,
            mixup,
            multi_crop,
            repeats,
        )
        check_fraction("val_fraction", val_fraction)
        if test_fraction is not None:
            check_fraction("test_fraction", test_fraction)
            if val_fraction + test_fraction >= 1:
                raise ValueError(
                    f"val_fraction {val_fraction} and test_fraction {test_fraction} leave nothing to train on."
                )
        if image_size < 1:
            raise ValueError(f"data.init_args.image_size is {image_size}; it is a side in pixels, e.g. 224.")
        if not len(mean) == len(std) == 3:
            raise ValueError(
                f"data.init_args.mean {list(mean)} and std {list(std)} must have three values each: photographs are "
                "RGB, gray ones too, in three equal channels."
            )
        if crop_pct is not None and not 0 < crop_pct <= 1:
            raise ValueError(f"data.init_args.crop_pct is {crop_pct}; it lies above 0 and is at most 1, e.g. 0.875.")
        self.root, self.broken, self.augment, self.crop_pct = Path(root), broken, augment, crop_pct
        self.val_fraction, self.test_fraction = val_fraction, test_fraction
        self._image_size = image_size
        self._known: Check | None = None

    @cached_property
    def source(self) -> PhotoSource:
        """The photographs, found on the first use: a model that knows its classes sees other pictures without them."""
        return Packed(self.root) if is_packed(self.root) else Folder(self.root)

    @property
    def class_names(self) -> list[str]:
        """The folders of the training split, in alphabetical order."""
        if self._recalled is not None:
            return list(self._recalled["classes"])
        return [as_text(name) for name in self.source.class_names]

    @property
    def image_size(self) -> int:
        """Side in pixels of the images that the model sees."""
        return self._image_size

    @property
    def framing(self) -> Framing:
        """As for the images of the validation and test splits."""
        return Framing(self._image_size, self.crop_pct, self.augment.interpolation)

    def prepare_data(self) -> None:
        """Check every file, on one process: the others read what it found."""
        self._check()

    def _read(self) -> dict[Split, ImageDataset]:
        found = [as_text(name) for name in self.source.class_names]
        if found != self.class_names:
            raise ValueError(
                f"{self.root} has classes {', '.join(found[:8])}; the run's are {', '.join(self.class_names[:8])}.\n"
                "Give the folder that it was trained on, or one of the same classes."
            )
        broken = self._check().broken
        parts = self._split()
        whole = {split: part.without(broken) for split, part in parts.items()}
        for split, part in whole.items():
            if not part.names:
                raise ValueError(
                    f"The {split} split of {self.root} is empty: no image of it can be decoded, or no class has one "
                    "to spare.\nAdd images."
                )
        gone = [self.source.class_names[k] for k in range(self.num_classes) if k not in whole["train"].labels]
        if gone:
            raise ValueError(
                f"No image of the class {gone[0]} in {self.root} can be decoded.\nRepair or remove the class."
            )
        self._tell(whole, parts["test"] is parts["val"])
        return {
            split: Photos(
                self.source,
                part.names,
                part.labels,
                self._image_size,
                self.crop_pct,
                self.augment,
                self.multi_crop,
                self.mean,
                self.seed,
                part.contents,
            )
            for split, part in whole.items()
        }

    def _tell(self, parts: dict[Split, Part], test_is_validation: bool) -> None:
        """Say what a user should know of these data; what was said of the test split is not said of the other again."""
        for line in self.source.notes:
            tell(line)
        if test_is_validation:
            tell(f"{self.root} has no test folder: the test split is the validation split.")
            parts = {split: part for split, part in parts.items() if split != "val"}
        for line in oddities(self.class_names, parts, self._check()):
            tell(line)

    def _split(self) -> dict[Split, Part]:
        """Hold out what has no folder of its own; from all files, so that repairing one does not change the rest."""
        splits = self.source.parts(self._check())
        test_fraction = self.test_fraction
        if test_fraction is None and "val" not in splits:
            test_fraction = self.val_fraction
        held_out_before = 0.0
        if "test" not in splits and test_fraction is not None:
            splits["train"], splits["test"] = self._hold_out(splits["train"], test_fraction)
            held_out_before = test_fraction
        if "val" not in splits:
            splits["train"], splits["val"] = self._hold_out(splits["train"], self.val_fraction / (1 - held_out_before))
        splits.setdefault("test", splits["val"])
        return splits

    def _hold_out(self, part: Part, fraction: float) -> tuple[Part, Part]:
        kept, held_out = stratified_split(part.labels, fraction, self.split_seed)
        return part.take(kept), part.take(held_out)

    def _check(self) -> Check:
        """Return what is known of each file; name those that are broken, or refuse them."""
        if self._known is None:
            known = self.source.check()
            self._judge(known)
            self._known = known
        return self._known

    def _judge(self, known: Check) -> None:
        broken = known.broken
        if not broken:
            return
        count = f"{len(broken)} of {len(known.contents)} images cannot be decoded"
        some = "\n".join(f"  {self.root / name}: {why}" for name, why in list(broken.items())[:_NAMED])
        more = f"\n  and {len(broken) - _NAMED} more, all in {known.listing}" if len(broken) > _NAMED else ""
        if self.broken == "refuse":
            raise ValueError(f"{count}; repair them, or leave them out with broken: skip.\n{some}{more}")
        tell(f"{count} and are left out:\n{some}{more}")

    def _distort(self, images: Tensor, draws: Draws) -> Tensor:
        return images  # the workers did it

    def _to_size(self, images: Tensor) -> Tensor:
        return images

"""Photographs: a folder per class, a table, or a source of another kind."""

import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, final

import numpy as np
from jsonargparse.typing import ClosedUnitInterval, OpenUnitInterval, PositiveInt, restricted_string_type

from vitlab import log
from vitlab.config import expanded, plain, rows_by_name
from vitlab.data.checking import Check, oddities
from vitlab.data.datamodule import ImageDataModule
from vitlab.data.dataset import EncodedPhotos, PhotoSource, Split, Subset
from vitlab.data.decoding import as_text, height_and_width, some
from vitlab.data.folder import Folder
from vitlab.data.label_table import LabelTable
from vitlab.data.photos import Framing, PhotoAugment, Photos, make_rand_augment
from vitlab.data.tables import Columns

Percent = restricted_string_type("Percent", r"(100|\d{1,2}(\.\d+)?)%$")


@final
@dataclass(kw_only=True, eq=False, repr=False)
class ImageFolder(ImageDataModule):
    """Photographs in one folder per class: `root/train/cat`, `root/val/cat`, optionally `root/test/cat`; or `root/cat`.

    Classes are the folders' names in alphabetical order; files may lie deeper. Splits may also be called training,
    valid, validation, dev, eval, evaluation or testing, in any letter case. Without `root/val`, `val_fraction` of each
    class is held out. With `root/val` but without `root/test`, the test split *is* the validation split, as customary
    for ImageNet, unless `test_fraction` is given. `folds` are parts of all images but those of `root/test`.

    Every file is decoded once before training, see `decode`; the next start checks only files that changed. Messages
    name files that cannot be decoded, and what may mislead (see `oddities`). An image that becomes unreadable during a
    run stops it, whatever `broken` is; the same command continues once the image is restored.

    Classes are matched by name, whatever the Unicode form, between splits and with those of a trained run.

    Args:
        root: the folder.
        table: a CSV, TSV or Parquet file with a row for each photograph; `root` is then where these are, see
            `LabelTable`. Null: `root` has a folder for each class.
        columns: names of the table's columns file, label, split and group; null: usual names.
        only: a regular expression of file names; other images of the folder are left out, as masks beside photographs
            are by `\\.jpg$` or `^(?!.*_mask)`. Null: all.
        source: photographs from elsewhere, a subclass of `PhotoSource` given by its class path. Null: `root`.
        mean: of each channel: three for RGB, one for gray, four for RGBA. The defaults are ImageNet's.
        test_fraction: fraction of each class that tests where there is no `root/test`; null: none if there is a
            `root/val`, `val_fraction` otherwise.
        window: the values of 16-bit and floating-point pixels, and of bands, that become black and white, `[0, 4095]`,
            or percentiles of each image's own, `[1%, 99%]`; those beyond are clipped. Null: 8 bits, of 16 by division
            by 257.
        crop_pct: evaluation resizes the shorter side to image_size / crop_pct and crops the center; null: it resizes
            the whole image to image_size (Swin at 384 px).
        broken: leave out images that cannot be decoded, or refuse to start.
        augment: see `PhotoAugment`; its interpolation applies in evaluation too, also with `multi_crop`.
        repeats: how often a batch contains each of its images, augmented differently each time, see `TrainSampler`;
            DeiT has 3. An epoch then covers one in `repeats` of all images.
    """

    has_folds = True

    root: str | None = None
    table: str | None = None
    columns: Columns | None = None
    only: str | None = None
    source: PhotoSource | None = None
    test_fraction: OpenUnitInterval | None = None
    window: tuple[float, float] | tuple[Percent, Percent] | None = None  # type: ignore[valid-type]
    crop_pct: ClosedUnitInterval | None = 0.875
    broken: Literal["skip", "refuse"] = "refuse"
    augment: PhotoAugment = PhotoAugment()
    repeats: PositiveInt = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if ((self.root or self.table) is None) == (self.source is None):
            raise ValueError("ImageFolder needs one of root (a folder), table and source.")
        try:
            re.compile(self.only or "")
        except re.error as error:
            raise ValueError(f"data.only is no regular expression: {self.only}: {error}.") from None
        if self.test_fraction is not None and self.folds is not None:
            raise ValueError("test_fraction and folds both choose test images; set one of them to null.")
        if self.window is not None and isinstance(self.window[0], str):  # plain texts, which are stored in checkpoints
            self.window = str(self.window[0]), str(self.window[1])
        channels = self.in_chans
        if self.augment.rand_augment is not None and channels not in (1, 3):
            wrong = f"augment.rand_augment needs images of 1 or 3 channels, these have {channels}"
            raise ValueError(f"{wrong}; set augment.rand_augment: null.")
        if self.multi_crop is not None and channels != 3:
            raise ValueError(f"multi_crop needs images of 3 channels, these have {channels}; set multi_crop: null.")

    @cached_property
    def photos(self) -> PhotoSource:
        """The photographs, opened on first use: a trained model does not need them."""
        if self.table:
            photos: PhotoSource = LabelTable(self.table, self.root, self.columns, self.picture_mode, self.only)
        else:
            photos = self.source or Folder(Path(expanded(str(self.root))), self.picture_mode, self.only)
        if self.window is not None:
            if not isinstance(photos, EncodedPhotos):
                raise ValueError(f"data.window: {type(photos).__name__} gives pixels, not files; set window: null.")
            photos.window = self.window
        if twice := [name for name, n in Counter(map(plain, photos.class_names)).items() if n > 1]:
            forms = " and ".join(ascii(name) for name in photos.class_names if plain(name) == twice[0])
            wrong = f"{photos.location} has one class twice, {forms}: they differ in Unicode's form or in spaces"
            raise ValueError(f"{wrong}. Put their images together under one name.")
        return photos

    @property
    def class_names(self) -> list[str]:
        return list(self._recalled["classes"] if self._recalled else map(as_text, self.photos.class_names))

    @property
    def has_test(self) -> bool:
        return "test" in self.photos.splits

    @property
    def grouping(self) -> str | None:
        return self.groups or self.photos.grouping

    @property
    def framing(self) -> Framing:
        interpolation = self.augment.eval_interpolation or self.augment.interpolation
        crop_pct = None if self.crop_pct is None else float(self.crop_pct)  # which is stored in checkpoints
        return Framing(self.image_size, crop_pct, interpolation)

    def prepare_data(self) -> None:
        """Check every file in one process; the others read the result."""
        _ = self._known

    def read_splits(self) -> dict[Split, Photos]:
        """Hold out missing splits and leave out broken images."""
        fold = f"fold {f.test} of {f.count} (split_seed {self.split_seed})" if (f := self.folds) else ""
        location = ", ".join(filter(None, [self.photos.location, fold]))
        all_files = self._split()
        splits = {
            split: subset.take(np.flatnonzero([name not in self._known.broken for name in subset.names]))
            for split, subset in all_files.items()
        }
        for split, subset in splits.items():
            if not subset.names:
                empty = f"The {split} split of {location} is empty: no image can be decoded, or classes have too few"
                raise ValueError(f"{empty}. Add images, or change val_fraction.")
        for k, name in enumerate(self.class_names if splits["train"].labels.ndim == 1 else []):
            if k not in splits["train"].labels:
                broken = " that can be decoded" if k in all_files["train"].labels else ""
                remedy = "Add some, or take the class out of the data set: its name, and its images of other splits."
                raise ValueError(f"{location} has no training image of the class {name}{broken}.\n{remedy}")
        distinct, remarks = dict(splits), [*self.photos.notes]
        if all_files["test"] is all_files["val"]:
            remarks.append(f"{location} has no test folder: the test split is the validation split.")
            del distinct["val"]
        for line in remarks + oddities(self.class_names, distinct, self._known, fold):
            log.info(line)
        rand_augment = make_rand_augment(self.augment, min(height_and_width(self.image_size)), self.mean)
        views = self.crop_pct, self.augment, rand_augment, self.multi_crop, self.effective_augment_seed
        shared = self.image_size, self.in_chans, *views
        datasets = {split: Photos(self.photos, subset, *shared) for split, subset in splits.items()}
        datasets["train"].raw(0)  # which has the channels of `mean`, or is refused before training
        return datasets

    def _split(self) -> dict[Split, Subset]:
        """Hold out missing splits, from all files, so that repairing one moves no other to another split."""
        present = [as_text(name) for name in self.photos.class_names]  # which the run may have listed otherwise
        found = rows_by_name(self.class_names, present)
        if sorted(-1 if row is None else row for row in found) != list(range(self.num_classes)):
            wrong = f"{self.photos.location} has classes {some(present)}; the run's are {some(self.class_names)}"
            raise ValueError(f"{wrong}. Give the folder that it was trained on, or one with the same classes.")
        splits, test_fraction, rows = self.photos.subsets(self._known), self.test_fraction, np.array(found, np.int64)
        if (rows != np.arange(len(rows))).any():
            splits = {
                split: subset._replace(labels=rows[own] if own.ndim == 1 else own[:, np.argsort(rows)])
                for split, subset in splits.items()
                for own in [subset.labels]
            }
        if self.folds is not None:
            return self.parted(splits["train"].joined(splits["val"]) if "val" in splits else splits["train"])
        if test_fraction is None and "val" not in splits:
            test_fraction = self.val_fraction
        tested = (test_fraction or 0.0) if "test" not in splits else 0.0
        if tested + (self.val_fraction if "val" not in splits else 0.0) >= 1:
            fractions = f"val_fraction {self.val_fraction} and test_fraction {test_fraction}"
            raise ValueError(f"{fractions} leave nothing to train on; their sum must be below 1.")
        if tested:
            splits["train"], splits["test"] = self.held_out(splits["train"], tested)
        if "val" not in splits:
            splits["train"], splits["val"] = self.held_out(splits["train"], self.val_fraction / (1 - tested))
        splits.setdefault("test", splits["val"])
        return splits

    @cached_property
    def _known(self) -> Check:
        """What is known of each file; broken ones are logged or refused when they are first checked."""
        known = self.photos.check()
        if known.broken:
            count = f"{len(known.broken)} of {len(known.contents)} images cannot be decoded"
            lines = [f"\n  {self.photos.address(name)}: {why}" for name, why in known.broken.items()]
            if (more := len(lines) - 3) > 0:
                lines[3:] = [f"\n  and {more} more, all in {known.listing}"]
            if self.broken == "refuse":
                raise ValueError(f"{count}; repair them, or leave them out with broken: skip.{''.join(lines)}")
            log.info(f"{count} and are left out:{''.join(lines)}")
        return known

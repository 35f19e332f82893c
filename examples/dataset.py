"""A data set of your own: photographs in a Parquet table, as a subclass of `vitlab.data.PhotoSource`.

    data:
      class_path: vitlab.data.ImageFolder
      init_args: { source: { class_path: examples.dataset.Parquet, init_args: { path: photos.parquet } } }

trains on it by `fit --import examples.dataset`, with the crops, RandAugment, mixup, bit-exact restarts and reports of a
folder. For images that fit in memory, subclass `vitlab.data.InMemoryDataModule` instead, with `class_names`,
`native_size` and `read_splits`; it may override `_distort`, its augmentation. tests/extending trains this file.
"""

import numpy as np
import pyarrow.parquet as parquet

from vitlab.data import PhotoSource, decode


class Parquet(PhotoSource):
    """A table with the columns `image` (the bytes of a file), `label` and, optionally, `split`.

    Args:
        path: of the table. Splits are train, val and test; what is missing of val and test is held out from train.
    """

    def __init__(self, path: str) -> None:
        table = parquet.read_table(path, memory_map=True)
        self.location, self.images = path, table["image"]
        names, labels = np.arange(len(table)).astype(str), np.asarray(table["label"])
        self.class_names = sorted(set(labels))
        targets = np.searchsorted(self.class_names, labels)
        split = np.asarray(table["split"]) if "split" in table.column_names else np.full(len(table), "train")
        self.splits = {key: (names[split == key].tolist(), targets[split == key]) for key in np.unique(split).tolist()}

    def read(self, name: str, half=None) -> np.ndarray:
        try:
            return decode(self.images[int(name)].as_py(), half=half)
        except ValueError as error:
            raise ValueError(f"Row {name} of {self.location}: {error}") from None

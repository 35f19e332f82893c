"""Photographs of Hugging Face `datasets`: from the Hub, or local files of Parquet, Arrow or WebDataset."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
from jaxtyping import Int64

from vitlab.config import expanded
from vitlab.data.dataset import SPLITS, EncodedPhotos, Split, numbers_of
from vitlab.data.decoding import PictureMode, read_regular
from vitlab.data.folder import split_of


@final
class HuggingFace(EncodedPhotos):
    """The examples of a data set that `datasets.load_dataset` or `load_from_disk` opens.

    All are on this machine, mapped into memory, so that order, augmentation and restarts are exact. `LitData` streams.

    Args:
        path: a name on the Hub (`uoft-cs/cifar10`), a folder that `save_to_disk` wrote, or a format: `parquet`,
            `arrow`, `webdataset`.
        data_files: of a format: a file, several, or both by split; paths, or addresses that fsspec opens (`s3://…`,
            `https://…`), from which `datasets` copies them once.
        name: the configuration of the data set.
        revision: a commit on the Hub, which makes a run repeatable.
        image: the column of encoded images, of which each may be a file below the data set's folder instead.
        label: the column of classes: numbers of a `ClassLabel`, other numbers, or text. Splits are matched by the names
            of their classes.
        splits: the data set's names of our splits train, val and test; null: customary names.
        mode: how pictures are decoded.
    """

    def __init__(
        self,
        path: str,
        data_files: str | Sequence[str] | Mapping[str, str | Sequence[str]] | None = None,
        name: str | None = None,
        revision: str | None = None,
        image: str = "image",
        label: str = "label",
        splits: Mapping[Split, str] | None = None,
        mode: PictureMode = "RGB",
    ) -> None:
        self._image, self.mode = image, mode
        path, data_files = expanded(path), _expanded(data_files)
        found = _open(path, name, data_files, revision)
        self.location, self.cache_key, self._folders = path, f"datasets {path}", _places(path, data_files)
        customary = {split_of(name): name for name in list(found)[::-1]}  # the first of several
        chosen: dict[Split, str] = dict(splits or {each: customary[each] for each in SPLITS if each in customary})
        missing = [name for name in chosen.values() if name not in found]
        if missing or "train" not in chosen:
            wrong = f"{path} has the splits {', '.join(found)}, and no {missing[0] if missing else 'train'}"
            raise ValueError(f"{wrong}. Name them with splits, like {{train: train, val: validation}}.")
        # Of Arrow, since in its own format `datasets` opens the pictures and documents of all columns by itself.
        self._data = {split: found[own].with_format("arrow") for split, own in chosen.items()}
        unused = ", ".join(sorted(set(found) - set(chosen.values())))
        self.notes = [f"Splits of {path} that are not used: {unused}."] if unused else []
        for split, table in self._data.items():
            for column in (image, label):
                if column not in table.column_names:
                    wrong = f"{path} has no column {column!r}; it has {', '.join(table.column_names)}"
                    raise ValueError(f"{wrong}. Set image and label to the names of its columns.")
            _require_labels(path, split, label, len(table), table.data.column(label).null_count)
        found_labels = {split: _classes(table, label) for split, table in self._data.items()}
        self.class_names, self.splits = found_labels["train"][0], {}
        for split, (names, own) in found_labels.items():
            if split != "train" and (names == ["-1"] or (own < 0).all()):
                self.notes.append(f"The split {split} of {path} has no labels and is left out.")
                del self._data[split]
                continue
            used = np.unique(own[own >= 0])
            known = np.full(len(names) + 1, -1)  # the last is that of -1, no label
            known[used] = numbers_of(path, self.class_names, split, [names[k] for k in used])
            _require_labels(path, split, label, len(own), int((own < 0).sum()))
            self.splits[split] = [f"{split}/{row}" for row in range(len(own))], known[own].astype(np.int64)

    def marks(self) -> list[str]:
        marks = []
        for split, (names, _) in self.splits.items():
            files = [Path(file["filename"]) for file in self._data[split].cache_files]
            marks += [str([(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files])] * len(names)
        return marks

    def content(self, name: str) -> bytes:
        split, row = name.split("/")
        value: Any = self._data[split][int(row)][self._image][0].as_py()  # type: ignore[index]
        if isinstance(value, bytes):
            return value
        if not isinstance(value, Mapping | None):
            raise ValueError(f"{self._image} is a {type(value).__name__}, not an encoded image")
        if value and value.get("bytes") is not None:
            return bytes(value["bytes"])
        if not value or value.get("path") is None:
            raise ValueError("there is no image")
        files = [Path(os.path.realpath(place / str(value["path"]))) for place in self._folders]
        file = next((file for file in files if file.exists()), files[0])
        if not any(file.is_relative_to(place) for place in self._folders):
            raise ValueError(f"its file {value['path']} is outside of the data set's folder; copy it there")
        return read_regular(file)


def _expanded(files: Any) -> Any:
    """Return `data_files` with each path `expanded`."""
    if isinstance(files, Mapping):
        return {split: _expanded(each) for split, each in files.items()}
    return expanded(files) if isinstance(files, str) else files and [expanded(file) for file in files]


def _places(path: str, data_files: Any) -> list[Path]:
    """Return the folders whose files an example may name: the data set's own, and those that `datasets` fills."""
    from datasets.config import HF_DATASETS_CACHE
    from huggingface_hub.constants import HF_HUB_CACHE

    given = data_files.values() if isinstance(data_files, Mapping) else [data_files]
    files = [file for each in given for file in ([each] if isinstance(each, str) else each or ())]
    own = [Path(path)] if Path(path).is_dir() else [Path(file).parent for file in files if "://" not in file]
    return [Path(os.path.realpath(place)) for place in dict.fromkeys([*own, HF_DATASETS_CACHE, HF_HUB_CACHE])]


def _require_labels(path: str, split: Split, label: str, number: int, missing: int) -> None:
    if missing:
        wrong = f"{path}: {missing} of {number} examples of {split} have no {label}"
        raise ValueError(f"{wrong}. Remove them, or name the splits with labels by splits.")


def _open(path: str, name: str | None, data_files: Any, revision: str | None) -> Mapping[str, Any]:
    try:
        import datasets
    except ModuleNotFoundError:
        raise ValueError("HuggingFace needs the package datasets: pip install 'vitlab[sources]'.") from None
    try:
        if data_files is None and (Path(path) / "dataset_dict.json").is_file():
            found = datasets.load_from_disk(path)
        elif data_files is None and (Path(path) / "state.json").is_file():  # of one table
            found = {"train": datasets.load_from_disk(path)}
        else:
            found = datasets.load_dataset(path, name, data_files=data_files, revision=revision)
    except (OSError, ValueError) as error:  # no such data set, file or configuration, or no network
        raise ValueError(f"datasets cannot open {path}: {error}") from None
    return {str(split): table for split, table in found.items()}


def _classes(table: Any, label: str) -> tuple[list[str], Int64[np.ndarray, "N"]]:
    """Return the names of a split's classes, and its labels; -1 where a `ClassLabel` hides one."""
    feature, values = table.features[label], np.asarray(table.with_format("numpy")[label][:])
    if hasattr(feature, "names"):
        return list(feature.names), values
    names, labels = np.unique(values, return_inverse=True)
    return list(map(str, names)), labels

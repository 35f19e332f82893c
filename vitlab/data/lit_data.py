"""Photographs by the terabyte: LitData's shards in a folder or an object store, or Parquet files of the Hub."""

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
from jaxtyping import Int
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from vitlab.atomic_files import read_json, written_whole
from vitlab.config import expanded, rows_by_name
from vitlab.data.checking import Check, cache_of, content_of
from vitlab.data.dataset import SPLITS, PhotoSource, Split, numbers_of
from vitlab.data.decoding import Half, PictureMode, Pixels, decode, to_array
from vitlab.internals import images_of_chunks


class _Known(NamedTuple):  # from one pass over a split
    labels: np.ndarray  # (N,) int64 or text
    contents: np.ndarray  # (N,) uint64, see `Check`
    chunks: np.ndarray  # (N,) int64


@final
class LitData(PhotoSource):
    """Records of an image and its class, streamed from chunks.

    The first run reads every record once, for its class. Order, augmentation and restarts are exact. Images are
    shuffled a few chunks at a time, so shuffle them all before `optimize` writes them. A broken one stops the run.

    Args:
        train: folder or address of the training images: shards (`s3://…`, `gs://…`), or the Parquet files of a data set
            of the Hub (`hf://datasets/…`), or those of a folder for which LitData's `index_parquet_dataset` wrote an
            index.
        val: of the validation images; null: held out from train.
        test: of the test images; null: held out from train where `val` is missing too.
        image: the record's key of the image: a picture, encoded bytes, `{bytes: …}` as in files of the Hub, or an array
            (H, W, C) or tensor (C, H, W).
        label: its key of the class, a number or a text.
        class_names: in the order of the numbers; null: the numbers, or the texts in alphabetical order.
        mode: how encoded pictures are decoded.
        cache: folder for chunks from an object store; null: LitData's.
        cache_size: its largest size.
    """

    def __init__(
        self,
        train: str,
        val: str | None = None,
        test: str | None = None,
        image: str = "image",
        label: str = "label",
        class_names: Sequence[str] | None = None,
        mode: PictureMode = "RGB",
        cache: str | None = None,
        cache_size: str = "100GB",
    ) -> None:
        self.location, self._image, self._label, self._mode = train, image, label, mode
        self._settings = {"cache_dir": cache and expanded(cache), "max_cache_size": cache_size}
        given: dict[Split, str | None] = {"train": train, "val": val, "test": test}
        self._places = {split: expanded(place) for split, place in given.items() if place is not None}
        self._opened: dict[tuple[int, Split], Any] = {}
        self._known = {split: self._read_once(split) for split in self._places}
        names = np.unique(self._known["train"].labels)
        text, texts = names.dtype.kind == "U", [str(name) for name in names]
        self.class_names = list(class_names or texts)
        if len(self.class_names) != len(names) or (text and None in rows_by_name(self.class_names, texts)):
            raise ValueError(f"class_names is {self.class_names}, but {train} has the classes {texts}.")
        self.splits = {}
        for split, known in self._known.items():
            own, labels = np.unique(known.labels, return_inverse=True)
            # Numbers are named in their order, texts by themselves.
            listed = self.class_names if text or own.dtype.kind == "U" else texts
            numbers = numbers_of(self._places[split], listed, split, [str(name) for name in own])
            self.splits[split] = [f"{split}/{row}" for row in range(len(labels))], numbers[labels]

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_opened": {}}  # a worker opens its own

    def blocks(self, names: Sequence[str]) -> Int[np.ndarray, "{len(names)}"] | None:
        """Return the chunk of each image."""
        places: Any = [name.split("/") for name in names]  # of several splits where folds part the images
        return np.array([(SPLITS.index(own) << 32) + self._known[own].chunks[int(row)] for own, row in places])

    def check(self) -> Check:
        return super().check()._replace(contents=np.concatenate([known.contents for known in self._known.values()]))

    def read(self, name: str, half: Half | None = None) -> Pixels:
        split, row = name.split("/")
        value = _picture(self._stream(split)[int(row)][self._image])  # type: ignore[arg-type]
        if isinstance(value, bytes):
            try:
                return decode(value, self._mode, half)
            except ValueError as error:
                raise ValueError(f"{self.address(name)}: {error}.") from None
        return _pixels(value, self._mode)

    def _stream(self, split: Split) -> Any:
        """Return the records of a split, opened once in each process: threads do not survive a fork."""
        key = os.getpid(), split
        if key not in self._opened:
            try:
                from litdata import StreamingDataset
                from litdata.streaming.item_loader import ParquetLoader
            except ModuleNotFoundError:
                raise ValueError("LitData needs the package litdata: pip install 'vitlab[sources]'") from None
            place = self._places[split]
            index = read_json(Path(place, "index.json"), missing={"config": {}})["config"]
            # `hf://` needs no loader, and older shards do not say theirs.
            loader = ParquetLoader() if index.get("item_loader") == "ParquetLoader" else None
            try:
                stream = StreamingDataset(place, item_loader=loader, **self._settings)
                # A field that is unpickled runs what it contains, whether it is asked for or not.
                written = read_json(Path(stream.input_dir.path, "index.json"), missing={"config": {}})["config"]
                for stored in written.get("data_format") or []:
                    if stored.split(":")[0] in ("pickle", "graph"):
                        wrong = f"a field is stored as {stored}, and reading it would run what it contains"
                        raise ValueError(f"{wrong}. Write {place} anew with pictures, bytes, texts and numbers alone")
                self._opened[key] = stream
                self._opened[key][:1]  # after a slice it fetches whole chunks, not one record at a time
            except (ImportError, OSError, ValueError, RuntimeError, IndexError) as error:
                raise ValueError(f"LitData cannot open {place}: {error}") from None
        return self._opened[key]

    def _read_once(self, split: Split) -> _Known:
        """Return labels and hashes of all records, from the cache where they have been read before."""
        stream = self._stream(split)
        sizes, index = images_of_chunks(stream), Path(stream.input_dir.path, "index.json")  # of an address a fresh copy
        written = hashlib.sha256(index.read_bytes()).hexdigest() if index.is_file() else ""  # shards keep their names
        key = f"{self._places[split]}\0{self._image}\0{self._label}\0{sizes}\0{written}"
        file = cache_of("litdata", key, ".npz")
        chunks = np.repeat(np.arange(len(sizes)), list(sizes.values()))
        if file.is_file():
            stored = np.load(file)
            return _Known(stored["labels"], stored["contents"], chunks)
        labels, contents = [], []
        for row in tqdm(range(len(stream)), f"Reading {self._places[split]}", leave=False, disable=None):
            record = stream[row]
            if not isinstance(record, dict) or {self._image, self._label} - set(record):
                has = list(record) if isinstance(record, dict) else type(record).__name__
                wrong = f"Records of {self._places[split]} have {has}, not {self._image!r} and {self._label!r}"
                raise ValueError(f"{wrong}. Set image and label to the keys of its records.")
            value, label = _picture(record[self._image]), record[self._label]
            if not isinstance(label, str | bytes) and label % 1 != 0:
                where = f"Record {row} of {self._places[split]}: {self._label} is {label}"
                raise ValueError(f"{where}; classes are whole numbers or texts, set label to their key.")
            labels.append(label if isinstance(label, str) else int(label))
            contents.append(content_of(value if isinstance(value, bytes) else _pixels(value, self._mode).tobytes()))
        known = _Known(np.array(labels), np.array(contents, np.uint64), chunks)
        with suppress(OSError), written_whole(file) as whole:  # without a writable cache the next start reads again
            np.savez(whole, labels=known.labels, contents=known.contents)
        return known


def _picture(value: Any) -> Any:
    """Return a record's picture; files of the Hub store a name and the encoded bytes."""
    if isinstance(value, dict) and value.get("bytes") is None:
        raise ValueError(f"a picture has no bytes, but {value}; LitData reads no files beside the shards.")
    return value["bytes"] if isinstance(value, dict) else value


def _pixels(value: Any, mode: PictureMode) -> Pixels:
    """Return the pixels (H, W, C) of a decoded picture."""
    if isinstance(value, Image.Image):
        return to_array(value, mode)
    if isinstance(value, Tensor):
        value = value.movedim(0, -1).numpy()
    return value[..., None] if value.ndim == 2 else value

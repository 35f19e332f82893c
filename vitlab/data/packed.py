"""Photographs in one file, decoded and made small once: Arrow's IPC format, mapped into memory.

A photograph of 12 megapixels takes fifty times as long to decode as the 256 pixels of its shorter side that training
at 224 px can see, in each epoch anew. Rows are in the folder's order and keep its names, labels and splits, also of
photographs that cannot be decoded, so that the same images are held out as from the folder. Arrow, since its files are
read in place by many processes and by many programs, and are known by their end to be complete.

A row's image is a JPEG, or RGB itself of which a crop is cut without decoding anything.
"""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Self, final

import numpy as np
import pyarrow as pa
import simplejpeg

from vitlab.atomic_files import write_text, written_whole
from vitlab.data.checking import Check, content_of, is_faint
from vitlab.data.datamodule import Split
from vitlab.data.decoding import Half, Pixels, as_text, read_photo
from vitlab.data.photos import shrunk
from vitlab.data.source import PhotoSource

FILE, LISTING = "photos.arrow", "broken.txt"
QUALITY = 95  # of JPEGs, without subsampled colors: 43.5 dB from Pillow's bicubic of the original, in the median
ROWS = 64  # of a chunk: photographs in memory at a time
_UNFINISHED = f"{FILE}.*.new"  # what `written_whole` writes to
_VERSION = "1"
_SCHEMA = pa.schema(
    [
        ("name", pa.binary()),  # bytes, as the file system has them
        ("split", pa.string()),
        ("label", pa.int32()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("image", pa.large_binary()),
        ("broken", pa.string()),  # why there is no image
        ("content", pa.uint64()),  # a hash of the image, see `Check`
        ("faint", pa.bool_()),  # of the photograph
    ]
)


class Row(NamedTuple):
    """One photograph, as the schema has it."""

    name: bytes
    split: Split
    label: int
    height: int = 0
    width: int = 0
    image: bytes | None = None
    broken: str | None = None
    content: int = 0
    faint: bool = False

    @classmethod
    def of(cls, root: Path, name: str, split: Split, label: int, short_side: int, pixels: bool) -> Self:
        """Decode a file and make it small; a JPEG that is small already is kept, byte for byte."""
        try:
            whole, jpeg = read_photo(root / name)
        except ValueError as error:
            return cls(os.fsencode(name), split, label, broken=str(error))
        small = shrunk(whole, short_side)
        if pixels:
            image = small.tobytes()
        elif small is whole and jpeg is not None:
            image = jpeg
        else:
            image = simplejpeg.encode_jpeg(small, QUALITY, "RGB", "444")
        height, width, _ = small.shape
        content, faint = content_of(image), is_faint(root / name, whole)
        return cls(os.fsencode(name), split, label, height, width, image, content=content, faint=faint)


def write_packed(root: Path, class_names: list[str], rows: Iterable[Sequence[Row]], pixels: bool) -> int:
    """Write `root/photos.arrow` whole or not at all, a chunk of rows at a time; return how many have no image."""
    about = {"vitlab": _VERSION, "classes": json.dumps(class_names), "pixels": json.dumps(pixels)}
    schema = _SCHEMA.with_metadata(about)
    broken = []
    with written_whole(root / FILE) as file, pa.ipc.new_file(file, schema) as writer:
        for chunk in rows:
            writer.write_batch(pa.record_batch([list(column) for column in zip(*chunk, strict=True)], schema=schema))
            broken += [f"{as_text(os.fsdecode(row.name))}: {row.broken}\n" for row in chunk if row.broken is not None]
    write_text(root / LISTING, "".join(broken))
    for left in root.glob(_UNFINISHED):  # by preparations that were killed
        left.unlink()
    return len(broken)


def is_packed(root: Path) -> bool:
    """Say whether a folder was prepared.

    Raises:
        ValueError: the preparation was interrupted, or is not over.
    """
    if (root / FILE).is_file():
        return True
    if root.is_dir() and any(root.glob(_UNFINISHED)):
        raise ValueError(f"{root / FILE} is not written yet: {_AGAIN}")
    return False


_AGAIN = "wait for `python -m vitlab prepare`, or start it again if it was interrupted."


@final
class Packed(PhotoSource):
    """The photographs of a prepared folder.

    Raises:
        ValueError: the file is damaged, or was written by another version or program.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            # In place: nothing is read before it is asked for, and processes share what was.
            table = pa.ipc.open_file(pa.memory_map(str(root / FILE))).read_all()
        except pa.ArrowInvalid:
            raise ValueError(f"{root / FILE} is no Arrow file, or only the beginning of one.\n{_REMEDY}") from None
        about = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
        if about.get("vitlab") != _VERSION:
            raise ValueError(f"{root / FILE} is not of the version that this program reads.\n{_REMEDY}")
        self.class_names = json.loads(about["classes"])
        self._pixels = json.loads(about["pixels"])
        self._images, self._sizes = table["image"], np.stack([table["height"], table["width"]], axis=1)
        self._names = np.array(table["name"].to_pylist(), np.bytes_)
        self._by_name = np.argsort(self._names, kind="stable")
        names, labels, splits = [os.fsdecode(x) for x in self._names], np.asarray(table["label"]), table["split"]
        self._broken = {names[i]: table["broken"][i].as_py() for i in np.flatnonzero(table["broken"].is_valid())}
        of = np.asarray(splits)
        rows = {split: np.flatnonzero(of == split) for split in splits.unique().to_pylist()}
        self.splits = {split: ([names[i] for i in own], labels[own].astype(np.int64)) for split, own in rows.items()}
        self.notes = []
        self._contents, self._faint = np.zeros(len(names), np.uint64), list[str]()
        if "content" in table.column_names:  # earlier files lack both
            self._contents = np.asarray(table["content"])[np.concatenate([*rows.values()])]
            self._faint = [names[i] for i in np.flatnonzero(table["faint"])]

    def __reduce__(self) -> tuple[type[Self], tuple[Path]]:
        """Open the file anew where a worker does not inherit it: a map of memory cannot be sent."""
        return type(self), (self.root,)

    def check(self) -> Check:
        """Return what was found when the folder was prepared."""
        return Check(self._broken, self.root / LISTING, self._contents, self._faint)

    def read(self, name: str, half: Half | None = None) -> Pixels:
        """Return the pixels of a row, which is small already; of RGB a view of the file, not to be written to."""
        row, image = self._find(name)
        if self._pixels:
            return image.reshape(*self._sizes[row], 3)
        try:
            return simplejpeg.decode_jpeg(image)
        except ValueError as error:
            raise ValueError(f"{as_text(name)} in {self.root / FILE} is damaged: {error}.\n{_REMEDY}") from None

    def _find(self, name: str) -> tuple[int, np.ndarray]:
        row = self._by_name[np.searchsorted(self._names, os.fsencode(name), sorter=self._by_name)]
        return row, np.frombuffer(self._images[row].as_buffer(), np.uint8)


_REMEDY = "Prepare the photographs again: python -m vitlab prepare --root … --out …"

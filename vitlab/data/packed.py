"""Photographs in one file, decoded and resized once: Arrow's IPC format, mapped into memory.

Decoding 12 megapixels in every epoch takes fifty times as long as decoding the 256 pixels of the shorter side that
training at 224 px needs. Rows keep the folder's order, names, labels and splits, also of photographs that cannot be
decoded, so that the same images are held out. Processes share an Arrow file in memory; its end shows that it is
complete.

A row's image is a JPEG, or plain RGB, from which crops are read without decoding.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Self, final

import numpy as np
import pyarrow as pa
import simplejpeg
from PIL import Image
from tqdm import tqdm

from vitlab.atomic_files import write_text, written_whole
from vitlab.data.checking import Check, content_of, is_faint
from vitlab.data.dataset import Split
from vitlab.data.decoding import Half, PictureMode, Pixels, as_text, read_photo, to_array
from vitlab.data.folder import Folder
from vitlab.data.oddities import oddities
from vitlab.data.photos import shrunk
from vitlab.data.source import PhotoSource

FILE, LISTING = "photos.arrow", "broken.txt"
QUALITY = 95  # of JPEGs, without chroma subsampling: a median PSNR of 43.5 dB against Pillow's bicubic
ROWS = 64  # per chunk: photographs in memory at a time
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


class PackedPhoto(NamedTuple):
    """One photograph, in the order of the schema."""

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
        """Decode and resize a file; a JPEG that is small enough is kept byte for byte."""
        try:
            whole, jpeg = read_photo(root / name)
            if whole.shape[2] != 3 or whole.dtype != np.uint8:
                raise ValueError(f"an array {whole.shape} of {whole.dtype}; packed photographs are 8-bit RGB")
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


def write_packed(root: Path, class_names: list[str], rows: Iterable[Sequence[PackedPhoto]], pixels: bool) -> int:
    """Write `root/photos.arrow`, atomically, a chunk of rows at a time; return how many have no image."""
    about = {"vitlab": _VERSION, "classes": json.dumps(class_names), "pixels": json.dumps(pixels)}
    schema = _SCHEMA.with_metadata(about)
    broken = []
    with written_whole(root / FILE) as file, pa.ipc.new_file(file, schema) as writer:
        for chunk in rows:
            writer.write_batch(pa.record_batch([list(column) for column in zip(*chunk, strict=True)], schema=schema))
            broken += [f"{as_text(os.fsdecode(row.name))}: {row.broken}\n" for row in chunk if row.broken is not None]
    write_text(root / LISTING, "".join(broken))
    for unfinished in root.glob(_UNFINISHED):  # of preparations that were killed
        unfinished.unlink()
    return len(broken)


def is_packed(root: Path) -> bool:
    """Return whether a folder was prepared.

    Raises:
        ValueError: the preparation was interrupted, or is still running.
    """
    if (root / FILE).is_file():
        return True
    if root.is_dir() and any(root.glob(_UNFINISHED)):
        raise ValueError(
            f"{root / FILE} is not written yet: wait for `python -m vitlab prepare`, or start it again if it was "
            "interrupted."
        )
    return False


@final
class Packed(PhotoSource):
    """The photographs of a prepared folder.

    Raises:
        ValueError: the file is damaged, or was written by another version or program; or a mode that is not stored.
    """

    def __init__(self, root: Path, mode: PictureMode = "RGB") -> None:
        if mode not in ("RGB", "L"):
            raise ValueError(
                f"{root / FILE} stores 8-bit RGB; for other channels or 16 bits, give the original folder."
            )
        self.root, self.location, self._mode = root, str(root), mode
        try:
            # Mapped: pages are read when they are used, and processes share them.
            table = pa.ipc.open_file(pa.memory_map(str(root / FILE))).read_all()
        except pa.ArrowInvalid:
            raise ValueError(f"{root / FILE} is not a complete Arrow file.\n{_REMEDY}") from None
        about = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
        if about.get("vitlab") != _VERSION:
            raise ValueError(f"{root / FILE} has another version than this program reads.\n{_REMEDY}")
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

    def __reduce__(self) -> tuple[type[Self], tuple[Path, PictureMode]]:
        """Open the file again in a worker that does not inherit it: a memory map cannot be pickled."""
        return type(self), (self.root, self._mode)

    def check(self) -> Check:
        """Return the result of the check when the folder was prepared."""
        return Check(self._broken, self.root / LISTING, self._contents, self._faint)

    def read(self, name: str, half: Half | None = None) -> Pixels:
        """Return the pixels of a row at full size; of stored RGB a read-only view of the file."""
        row = self._by_name[np.searchsorted(self._names, os.fsencode(name), sorter=self._by_name)]
        image = np.frombuffer(self._images[row].as_buffer(), np.uint8)
        try:
            pixels = image.reshape(*self._sizes[row], 3) if self._pixels else simplejpeg.decode_jpeg(image)
        except ValueError as error:
            raise ValueError(f"{as_text(name)} in {self.root / FILE} is damaged: {error}.\n{_REMEDY}") from None
        return pixels if self._mode == "RGB" else to_array(Image.fromarray(pixels), self._mode)


_REMEDY = "Prepare the photographs again: python -m vitlab prepare --root … --out …"


def prepare(root: Path, out: Path, short_side: int, pixels: bool) -> str:
    """Write every photograph of a folder with a shorter side of at most `short_side` pixels; return a summary.

    As JPEG, or with `pixels` as RGB. What cannot be decoded keeps its row, so that no other image changes its split.
    """
    _check_places(root, out, short_side)
    folder = Folder(root)
    todo = [
        (name, split, label)
        for split, (names, labels) in folder.splits.items()
        for name, label in zip(names, labels.tolist(), strict=True)
    ]

    def row(photo: tuple[str, Split, int]) -> PackedPhoto:
        return PackedPhoto.of(root, *photo, short_side, pixels)

    def rows(pool: ThreadPoolExecutor) -> Iterator[list[PackedPhoto]]:
        for start in tqdm(range(0, len(todo), ROWS), desc=f"Writing {out}", leave=False, disable=None):
            yield list(pool.map(row, todo[start : start + ROWS]))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        broken = write_packed(out, folder.class_names, rows(pool), pixels)
    size = (out / FILE).stat().st_size / 1e6
    lines = [f"{out / FILE}: {len(todo):,} photographs, {size:,.1f} MB. Train on it with --data.root {out}"]
    if broken:
        lines.append(f"{broken:,} of them cannot be decoded, see {out / LISTING}")
    packed = Packed(out)
    known = packed.check()
    splits = {split: subset.without(known.broken) for split, subset in packed.subsets(known).items()}
    return "\n".join([*lines, *folder.notes, *oddities(list(map(as_text, folder.class_names)), splits, known)])


def _check_places(root: Path, out: Path, short_side: int) -> None:
    """Raise ValueError for a side that is too small, a `root` that was prepared, or an `out` that has other files."""
    if short_side < 2:
        raise ValueError(f"--short_side is {short_side}; it is a side in pixels, image_size / crop_pct: 256 for 224.")
    if out.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"--out {out} lies in {root}, where it would become a class. Choose another place.")
    if root.is_dir() and is_packed(root):
        raise ValueError(f"--root {root} was itself prepared; give the folder of the original photographs.")
    others = sorted(path.name for path in out.glob("*") if not path.name.startswith((FILE, LISTING)))
    if others:
        raise ValueError(f"--out {out} contains {others[0]}, which the packed file would hide. Choose an empty folder.")

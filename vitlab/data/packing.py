"""A folder of photographs made small once: one file, from which runs read several times as fast."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from vitlab.data.datamodule import Split
from vitlab.data.decoding import as_text
from vitlab.data.folder import Folder
from vitlab.data.oddities import oddities
from vitlab.data.packed import FILE, LISTING, ROWS, Packed, Row, is_packed, write_packed


def prepare(root: Path, out: Path, short_side: int, pixels: bool) -> str:
    """Write every photograph of a folder, the shorter side at most `short_side` pixels, and return what was done.

    As JPEG, or with `pixels` as RGB. What cannot be decoded keeps its place, so that no other image changes its split.
    """
    _check(root, out, short_side)
    folder = Folder(root)
    todo = [
        (name, split, label)
        for split, (names, labels) in folder.splits.items()
        for name, label in zip(names, labels.tolist(), strict=True)
    ]

    def row(photo: tuple[str, Split, int]) -> Row:
        name, split, label = photo
        return Row.of(root, name, split, label, short_side, pixels)

    def rows(pool: ThreadPoolExecutor) -> Iterator[list[Row]]:
        for start in tqdm(range(0, len(todo), ROWS), desc=f"Writing {out}", leave=False, disable=None):
            yield list(pool.map(row, todo[start : start + ROWS]))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        broken = write_packed(out, folder.class_names, rows(pool), pixels)
    size = (out / FILE).stat().st_size / 1e6
    said = [f"{out / FILE}: {len(todo):,} photographs, {size:,.1f} MB. Train on it with --data.root {out}"]
    if broken:
        said.append(f"{broken:,} of them cannot be decoded: {out / LISTING} says why")
    packed = Packed(out)
    known = packed.check()
    parts = {split: part.without(known.broken) for split, part in packed.parts(known).items()}
    return "\n".join([*said, *folder.notes, *oddities(list(map(as_text, folder.class_names)), parts, known)])


def _check(root: Path, out: Path, short_side: int) -> None:
    """Refuse what cannot be meant.

    Raises:
        ValueError: a side that is none, a folder that was prepared, or a place where the file would hide others.
    """
    if short_side < 2:
        raise ValueError(f"--short_side is {short_side}; it is a side in pixels, image_size / crop_pct: 256 for 224.")
    if out.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"--out {out} lies in {root}: its folder would be taken for a class. Choose another place.")
    if root.is_dir() and is_packed(root):
        raise ValueError(f"--root {root} was prepared itself; give the folder of the original photographs.")
    others = sorted(path.name for path in out.glob("*") if not path.name.startswith((FILE, LISTING)))
    if others:
        raise ValueError(f"--out {out} holds {others[0]}, which its one file would stand for. Choose an empty folder.")

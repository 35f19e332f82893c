"""Groups of images that show one patient or scene, by the images' names or a table; folds and studies share it."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path

_TABLE = re.compile(r"(.+\.csv):(.+)")  # file, column


def gives_groups(groups: str) -> bool:
    """Return whether a text is one that `groups_by_name` understands."""
    try:
        return bool(_TABLE.fullmatch(groups)) or re.compile(groups).groups == 1
    except re.error:
        return False


def groups_by_name(groups: str, names: Sequence[str]) -> list[str]:
    """Return the group of each image.

    Args:
        groups: a regular expression of image names, whose one pair of parentheses contains the group; or `FILE:COLUMN`
            of a CSV file that has a column `image`.

    Raises:
        ValueError: an image without a group, one group for all, or a file without these columns.
    """
    found = find_groups(groups, names)
    if None in found:
        table, image = _TABLE.fullmatch(groups), f"the image {names[found.index(None)]}"
        wrong = f"has no row for {image}, or no {table[2]} there" if table else f"does not match {image}"
        raise ValueError(f"groups: {groups!r} {wrong}.")
    if len(set(found)) < 2:
        raise ValueError(f"groups: {groups!r} puts all images into one group, {found[0]}; it takes two or more.")
    return [str(group) for group in found]


def find_groups(groups: str, names: Sequence[str]) -> list[str | None]:
    """Return the group of each image, None where it has none."""
    if table := _TABLE.fullmatch(groups):
        file, column = Path(table[1]), table[2]
        if not file.is_file():
            raise ValueError(f"groups: there is no file {file}.")
        with file.open(encoding="utf-8-sig", newline="") as text:
            rows = csv.DictReader(text)
            if missing := sorted({"image", column} - set(rows.fieldnames or [])):
                columns = ", ".join(rows.fieldnames or [])
                raise ValueError(f"groups: {file} has no column {missing[0]}; its columns are {columns}.")
            known = {row["image"]: row[column] for row in rows}
        return [known.get(name) or None for name in names]
    return [match and match[1] for match in (re.search(groups, name) for name in names)]

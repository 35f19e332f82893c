"""Tables of images: their columns, by usual names, the images that their rows mean, and groups. Loads no torch.

Groups are images that show one patient, animal or scene. They come from the images' names or from a table; splits,
folds and studies keep each of them whole.
"""

import csv
import io
import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict

from vitlab.config import expanded, plain

if TYPE_CHECKING:
    import pandas as pd

Role = Literal["file", "label", "split", "group"]
SUFFIXES = (".csv", ".tsv", ".txt", ".parquet")
# In lower case, without spaces, hyphens and underscores.
USUAL: dict[Role, tuple[str, ...]] = {
    "file": ("file", "path", "image", "filename", "filepath", "imagepath", "imagename", "imageid", "img"),
    "label": (
        *("label", "class", "species", "target", "category"),
        *("classname", "classlabel", "diagnosis", "finding", "breed"),
    ),
    "split": ("split", "subset", "partition"),
    "group": ("group", "patient", "patientid", "subject", "subjectid"),
}


class Columns(TypedDict, total=False):
    """Names of the columns of a table."""

    file: str
    label: str | list[str]
    split: str
    group: str


_TABLE = re.compile(r"(.+\.(?:csv|tsv|txt|parquet)):(.+)")  # file, column
_IMAGE = re.compile(r".+\.(jpe?g|png|tiff?|bmp|gif|webp)", re.IGNORECASE)


def read_table(table: str) -> "pd.DataFrame":
    """Return a table as texts, without blank rows; its index is the line, of a Parquet file the row.

    CSV files are in UTF-8, with commas, semicolons, tabs or bars between the columns. If the first line begins with the
    name of an image, it is no header, and columns may also be parted by spaces: they are file, label, column 3, …
    """
    if not Path(table).is_file():
        raise ValueError(f"There is no table {table}.")
    return _read(table, os.stat(table).st_mtime_ns)


@lru_cache(maxsize=2)  # data and groups, which each split asks for
def _read(table: str, written: int) -> "pd.DataFrame":
    import pandas as pd  # here, because it takes half a second to import

    if table.lower().endswith(".parquet"):
        rows = pd.read_parquet(table).convert_dtypes().astype("string").fillna("").reset_index(drop=True)
        names = [str(name).strip() for name in rows]
    else:
        content = Path(table).read_bytes()
        first = content.partition(b"\n")[0].decode("utf-8-sig", "backslashreplace").strip()
        mark = max(",;\t|", key=lambda mark: len(next(csv.reader([first], delimiter=mark), [])))
        field = re.split(re.escape(mark) if mark in first else r"\s+", first)[0]
        headless = bool(_IMAGE.fullmatch(field.strip('"')))
        if headless and mark not in first:
            mark = r"\s+"
        try:
            text = io.StringIO(content.decode("utf-8-sig"))
            rows = pd.read_csv(text, sep=mark, header=None, dtype=str, na_filter=False, skip_blank_lines=False)
        except UnicodeDecodeError:
            raise ValueError(f"{table} is not in UTF-8: {first[:100]}\nSave it as UTF-8.") from None
        except ValueError as error:  # a line of more columns than the first, or no line
            raise ValueError(f"{table}: {str(error).strip()}. Its first line is: {first[:100]}") from None
        names = [str(name).strip() or f"Unnamed: {place}" for place, name in enumerate(rows.iloc[0])]
        if headless:
            names = ["file", "label", *(f"column {place}" for place in range(3, len(names) + 1))][: len(names)]
        else:
            rows = rows.iloc[1:]
    if twice := [name for name, count in Counter(map(plain, names)).items() if count > 1]:
        raise ValueError(f"{table} has the column {twice[0]} twice; rename or remove one.")
    rows.columns, rows.index = pd.Index(names), rows.index + 1
    rows = rows.apply(lambda column: column.str.strip())
    return rows[(rows != "").any(axis=1)]


def column(table: str, names: Sequence[str], role: Role, wanted: str | None = None) -> str | None:
    """Return the column of this name, or with a usual name of the role; None if there is none, but of files."""
    known = {plain(name): name for name in names}
    if wanted is None:
        usual = {re.sub("[ _-]", "", name.lower()): name for name in reversed(names)}
        wanted = next((usual[name] for name in USUAL[role] if name in usual), "file" if role == "file" else None)
    if wanted is not None and plain(wanted) not in known:
        remedy = f"Call it so, or name it by data.columns.{role}."
        raise ValueError(f"{table} has no column {wanted}; it has {', '.join(names)}. {remedy}")
    return None if wanted is None else known[plain(wanted)]


def matched(wanted: Sequence[str], there: Sequence[str]) -> list[str | None]:
    """Return for each path the one of those there that it means; None where there is none, or several.

    It is the same path in any Unicode form, or else ends so, with or without suffix and zeros: 7 is 007.jpg.
    """
    if set(wanted) <= set(there):
        return list(wanted)
    ends = defaultdict(set)
    for path in there:
        parts = plain(path).split("/")
        for end in ["/".join(parts[start:]) for start in range(len(parts))]:
            stem = os.path.splitext(end)[0]
            for name in (end, stem, str(int(stem)) if stem.isdecimal() else stem):
                ends[name].add(path)
    whole = {plain(path): path for path in there}
    keys = [plain(os.path.normpath(path.replace("\\", "/"))) for path in wanted]
    return [whole.get(key) or (next(iter(ends[key])) if len(ends[key]) == 1 else None) for key in keys]


def checked_groups(groups: str, place: str = "") -> str:
    """Return a text that `groups_by_name` understands, or raise ValueError."""
    with suppress(re.error):
        if _TABLE.fullmatch(groups) or re.compile(groups).groups == 1:
            return groups
    wanted = "a regular expression of image names with the group in parentheses, like '(.*)/', or photos.csv:animal"
    raise ValueError(f"{place}{groups!r}. Expected {wanted}.")


def groups_by_name(groups: str, names: Sequence[str]) -> list[str]:
    """Return the group of each image, which must have one, by `find_groups`."""
    found = find_groups(groups, names)
    if None in found:
        table, image = _TABLE.fullmatch(groups), f"the image {names[found.index(None)]}"
        wrong = f"has no row for {image}, or no {table[2]} there" if table else f"does not match {image}"
        raise ValueError(f"groups: {groups!r} {wrong}.")
    if len(set(found)) < 2:
        raise ValueError(f"groups: {groups!r} puts all images into one group, {found[0]}; it takes two or more.")
    return [str(group) for group in found]


def find_groups(groups: str, names: Sequence[str]) -> list[str | None]:
    """Return the group of each image, None where it has none.

    `groups` is a regular expression of image names, whose one pair of parentheses contains the group; or `FILE:COLUMN`
    of a table that has a column of files.
    """
    if not (table := _TABLE.fullmatch(groups)):
        return [match and match[1] for match in (re.search(groups, name) for name in names)]
    rows = read_table(expanded(table[1]))
    file, group = column(table[1], [*rows], "file"), column(table[1], [*rows], "group", table[2])
    known = dict(reversed([*zip(matched(rows[file].tolist(), names), rows[group], strict=True)]))  # the first row's
    return [known.get(name) or None for name in names]


def about_groups(grouping: str, splits: Mapping[str, Sequence[str]]) -> str:
    """Return a remark on the groups of each split's images: how many, and which are in two splits."""
    images = [name for names in splits.values() for name in names]
    of = dict(zip(images, find_groups(grouping, images), strict=True))
    groups = {split: {of[name] for name in names} - {None} for split, names in splits.items()}
    counts = ", ".join(f"{len(own)} {split}" for split, own in groups.items())
    different = [split for split in splits if split != "test" or splits["test"] != splits["val"]]
    both = sorted({str(g) for a, b in combinations(different, 2) for g in groups[a] & groups[b]})
    if not both:
        return f"Groups by {grouping}: {counts}; none is in two splits."
    some = ", ".join(both[:3]) + " and more" * (len(both) > 3)
    return f"Groups by {grouping}: {counts}; {len(both)} are in two splits, which inflates accuracy: {some}."

"""The axis of a study: numbers of training images, budgets, or the values of any numeric setting.

    along: {train_images: [50, 100, 200]}     # of each variant and seed the same, nested, as many of each class
    along: {epochs: [4, 8, 16]}               # budgets: or images, flops
    along: {model.init_args.label_smoothing: [0.0, 0.1]}

A study with an axis is the same study at each of its places, and a report about all of them.
"""

from typing import Any, NamedTuple

from vitlab.config import Config, nest
from vitlab.studies.file.budget import KINDS, Budget, parse_budget, refuse_unknown
from vitlab.studies.file.format import as_yaml

SHORT = {"train_images": "data.init_args.train_images"}  # axes with a short name


class Place(NamedTuple):
    """One value of an axis."""

    label: str
    x: float
    override: Config
    budget: Budget | None = None


class Axis(NamedTuple):
    """What a study varies in addition to its variants."""

    name: str  # as in a figure
    places: tuple[Place, ...]  # in increasing order


def parse_along(value: Any, budget: Budget | None) -> Axis | None:
    """Parse a study's `along`; `budget` is the study's own.

    Raises:
        ValueError: the message does not name the file.
    """
    if value is None:
        return None
    if not isinstance(value, dict) or len(value) != 1:
        raise ValueError(f"along: {value!r}. Expected one axis and its values, like {{train_images: [50, 100, 200]}}.")
    ((name, values),) = value.items()
    if "." not in name:
        refuse_unknown([name], (*SHORT, *KINDS), "axis of `along`")
    if budget is not None and name in KINDS:
        raise ValueError(f"along: an axis of budgets, and budget: {budget}. Remove one of the two.")
    numbers = isinstance(values, list) and all(type(each) in (int, float) for each in values)
    if not numbers or len(values) < 2 or len(set(values)) < len(values):
        raise ValueError(f"along: {name}: {as_yaml(values)}. Expected a list of two different numbers or more.")
    if min(values) <= 0 and name in (*SHORT, *KINDS):
        raise ValueError(f"along: {name}: {as_yaml(values)}. Expected numbers above 0.")
    title = name.rpartition(".")[2].replace("_", " ").replace("train images", "training images")
    return Axis(title, tuple(_place(name, each) for each in sorted(values)))


def _place(name: str, value: int | float) -> Place:
    if (budget := parse_budget({name: value}) if name in KINDS else None) is not None:
        named = {"images": f"{value:,} images seen", "epochs": f"{value:,} epochs"}  # and so are the folders of runs
        return Place(named.get(name, str(budget)), budget.amount, {}, budget)
    key = SHORT.get(name, name)
    label = f"{value:,} training images" if name in SHORT else f"{key.rpartition('.')[2]} {as_yaml(value)}"
    return Place(label, float(value), nest(key, value))

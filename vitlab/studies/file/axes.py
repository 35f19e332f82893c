"""The axes of a study: numbers of training images, budgets, data sets, or any setting.

    along: {train_images: [50, 100, 200]}     # of each variant and seed the same, nested, as many of each class
    along: {images: [100_000, 1_000_000]}     # budgets: or epochs, flops
    along: {data: {digits: {class_path: …}, photos: photos.yaml}}     # files with a `data` section
    along: {model.init_args.label_smoothing: [0.0, 0.1]}

A study with axes is the same study at each of their places, and a report about all of them. Two axes are a grid.
"""

from collections.abc import Sequence
from functools import reduce
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from vitlab.config import Config, load_yaml, merge, nest
from vitlab.studies.file.budget import KINDS, Budget, parse_budget, refuse_unknown
from vitlab.studies.file.format import as_yaml

SHORT = {"train_images": "data.init_args.train_images"}  # axes with a short name


class Place(NamedTuple):
    """One value of an axis."""

    label: str
    x: float | None  # None: not a number
    override: Config
    budget: Budget | None = None


class Axis(NamedTuple):
    """What a study varies in addition to its variants."""

    name: str  # as in a figure
    places: tuple[Place, ...]  # in increasing order where they are numbers

    @property
    def numeric(self) -> bool:
        """Whether its places are numbers."""
        return all(place.x is not None for place in self.places)


def parse_along(value: Any, folder: Path, budget: Budget | None) -> tuple[Axis, ...]:
    """Parse a study's `along`.

    Args:
        folder: of the study's file, from which paths are relative.
        budget: The study's own.

    Raises:
        ValueError: the message does not name the file.
    """
    if value is None:
        return ()
    if not isinstance(value, dict) or not value:
        raise ValueError(f"along: {value!r}. Expected an axis and its values, like {{train_images: [50, 100, 200]}}.")
    axes = tuple(_axis(str(name), values, folder) for name, values in value.items())
    for numeric, kind in ((True, "numbers"), (False, "names")):
        several = [axis.name for axis in axes if axis.numeric == numeric]
        if len(several) > 1:
            raise ValueError(f"along: {several[0]} and {several[1]} are both axes of {kind}. Give at most one of each.")
    if budget is not None and any(place.budget for axis in axes for place in axis.places):
        raise ValueError(f"along: an axis of budgets, and budget: {budget}. Remove one of the two.")
    return axes


def _axis(name: str, values: Any, folder: Path) -> Axis:
    if "." not in name:
        refuse_unknown([name], (*SHORT, "data", *KINDS), "axis of `along`")
    if isinstance(values, dict):
        places = [_named(name, str(label), each, folder) for label, each in values.items()]
    elif isinstance(values, list):
        places = [_valued(name, each) for each in values]
    else:
        raise ValueError(f"along: {name}: {values!r}. Expected a list of values, or a mapping from names to settings.")
    if len(places) < 2 or len({place.label for place in places}) < len(places):
        raise ValueError(f"along: {name}: {as_yaml(values)}. Expected two different values or more.")
    if all(place.x is not None for place in places):
        if any(place.x is not None and place.x <= 0 for place in places) and name in (*SHORT, *KINDS):
            raise ValueError(f"along: {name}: {as_yaml(values)}. Expected numbers above 0.")
        places.sort(key=lambda place: place.x or 0.0)
    return Axis(name.rpartition(".")[2].replace("_", " ").replace("train images", "training images"), tuple(places))


def _named(name: str, label: str, value: Any, folder: Path) -> Place:
    if isinstance(value, str) and name == "data":
        value = load_yaml(folder / value).get("data")
    if not isinstance(value, dict):
        raise ValueError(
            f"along: {name}: {label}: {value!r}. Expected settings, or a YAML file with a `{name}` section."
        )
    return Place(label, None, nest(SHORT.get(name, name), value))


def _valued(name: str, value: Any) -> Place:
    if name in KINDS:
        budget = parse_budget({name: value})
        assert budget is not None
        named = {"images": f"{value:,} images seen", "epochs": f"{value:,} epochs"}  # and so are the folders of runs
        label = named.get(name, str(budget))
        return Place(label, budget.amount, {}, budget)
    key, number = SHORT.get(name, name), isinstance(value, int | float) and not isinstance(value, bool)
    shown = f"{value:,} training images" if name in SHORT and number else f"{key.rpartition('.')[2]} {as_yaml(value)}"
    return Place(shown, float(value) if number else None, nest(key, value))


def places_of(axes: Sequence[Axis]) -> list[tuple[str, Config, Budget | None]]:
    """Return the label, the settings and the budget of each place of a grid; of none, the one without settings."""
    grid = product(*(axis.places for axis in axes))
    return [
        (
            ", ".join(place.label for place in places),
            reduce(merge, (place.override for place in places), {}),
            next((place.budget for place in places if place.budget), None),
        )
        for places in grid
    ]

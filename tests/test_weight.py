"""The rules of the house: rooms within their budgets, no tiny modules, no option that nobody sets."""

import inspect
import json
import pkgutil
import re
from dataclasses import is_dataclass
from importlib import import_module

import pytest
from lightning import Callback
from torch import nn

import vitlab
from tests.weight import BUDGETS, ROOMS, ROOT, bodies, files_of, lines_of
from vitlab.data import ImageDataModule
from vitlab.optim import Optimizer, Schedule


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_holds_no_more_than_its_budget(room: str) -> None:
    lines = sum(map(lines_of, files_of(ROOMS[room])))
    budget = BUDGETS["rooms"][room.removeprefix("vitlab/")]
    assert lines <= max(budget["budget"], budget.get("today", 0)), f"{room}: {lines} lines; remove before you add"


def test_a_function_has_at_most_50_lines() -> None:
    long = {
        path.relative_to(ROOT).as_posix(): lines
        for path in files_of("vitlab/**/*")
        if path.suffix == ".py" and (lines := max(bodies(path), default=0)) > 50
    }
    assert long.keys() == set(BUDGETS["long_functions"]), long


def test_no_module_has_fewer_than_60_lines() -> None:
    """One-idea files of objectives/, models/ and optim/ apart; those that stay are listed."""
    small = {
        path.relative_to(ROOT).as_posix()
        for path in files_of("vitlab/**/*")
        if path.name != "__init__.py" and path.parent.name not in {"objectives", "models", "optim"}
        if lines_of(path) < 60
    }
    assert small == set(BUDGETS["small_modules"])


def names_that_are_set() -> set[str]:
    """Return each name that a YAML, a page, an example or a notebook gives a value to."""
    places = ["experiments/**/*.yaml", "docs/*.md", "README.md", "examples/*", "Makefile", "maintainers.mk"]
    texts = [path.read_text() for place in places for path in ROOT.glob(place) if path.is_file()]
    for notebook in ROOT.glob("notebooks/*.ipynb"):
        texts += ["".join(cell["source"]) for cell in json.loads(notebook.read_text())["cells"]]
    written = re.compile(r"([\w.]+)[\"']?\s*[:=]|--([\w.]+)")
    return {part for text in texts for found in written.findall(text) for part in "".join(found).split(".")}


def test_every_option_is_set_somewhere() -> None:
    """One that no experiment, page, example or notebook uses goes, unless budgets.yaml says why it stays."""
    configured = (nn.Module, ImageDataModule, Optimizer, Schedule, Callback)
    used = names_that_are_set()
    unused: set[str] = set()
    for module in pkgutil.walk_packages(vitlab.__path__, "vitlab."):
        room = module.name.split(".")[1]
        if room not in {"models", "objectives", "data", "optim", "runs", "analysis"}:
            continue
        for name, found in inspect.getmembers(import_module(module.name), inspect.isclass):
            if found.__module__ != module.name or name.startswith("_"):
                continue
            ours = any("__init__" in vars(base) and base.__module__.startswith("vitlab") for base in found.__mro__)
            if ours and (issubclass(found, configured) or is_dataclass(found)):
                unused |= {
                    parameter.name
                    for parameter in inspect.signature(found).parameters.values()
                    if parameter.default is not parameter.empty and parameter.name not in used
                }
    listed = {option for group in BUDGETS["options"] for option in group}
    assert unused == listed, "list, remove or use what is new; strike off what is used or gone"

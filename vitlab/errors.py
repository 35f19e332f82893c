"""A user's mistake in one message of at most five lines: value, place, remedy, and the nearest right word."""

import difflib
import importlib
import inspect
import re
from collections.abc import Iterable

MOST_LINES = 5

# Lines that tell how jsonargparse searched, not what is wrong.
_NOISE = (
    "Does not validate against",
    "Subtypes:",
    "Errors:",
    "Given value",
    "Expected a path but",
    "Problem with given class_path",
    "Expected a <class 'NoneType'>",
    "Parser key",
    "Not of type",
)


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return ` Did you mean …?` for the choice most like `word`, or nothing."""
    found = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f" Did you mean {found[0]}?" if found else ""


def explain(message: str, options: Iterable[str]) -> str:
    """Condense what jsonargparse says of a wrong argument.

    Its message walks every alternative of every nested type. What counts is the chain of keys and the innermost
    complaint; a misspelt key, class or option is answered with the nearest right one.
    """
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    place = ".".join(dict.fromkeys(re.findall(r'[Kk]ey "([^"]+)"', message)))
    complaints = [line for line in lines if line and not line.startswith(_NOISE)] or lines[-1:]
    classes = re.findall(r"Problem with given class_path '([\w.]+)'", message)
    answers = [_readable(complaint, classes, options) for complaint in dict.fromkeys(complaints)]
    text = "\n".join(answers[-MOST_LINES:])
    return f"{place}: {text}" if place and not text.startswith(place) else text


def _readable(complaint: str, classes: list[str], options: Iterable[str]) -> str:
    if found := re.fullmatch(r"Option '([\w.]+)' is not accepted", complaint):
        owner = _resolve(classes[-1]) if classes else None
        accepted = list(inspect.signature(owner).parameters) if callable(owner) else []
        return f"{classes[-1] if classes else 'this'} has no argument {found[1]}.{nearest(found[1], accepted)}"
    if found := re.fullmatch(r"Expected a dot import path string: (.+)", complaint):
        return f"no class {found[1]}.{nearest(found[1].rpartition('.')[2], _class_names())}"
    if found := re.search(r"module '([\w.]+)' has no attribute '(\w+)'", complaint):
        return f"{found[1]} has no {found[2]}.{nearest(found[2], dir(importlib.import_module(found[1])))}"
    if found := re.search(r"[Uu]nrecognized arguments?: (\S+)", complaint):
        return f"no option {found[1]}.{nearest(found[1].partition('=')[0], options)}"
    if found := re.search(r"Key '?([\w.]+)'? is not expected", complaint):
        return f"no key {found[1]}.{nearest(found[1], (option.removeprefix('--') for option in options))}"
    return complaint


def _resolve(path: str) -> object:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name, None)


def _class_names() -> list[str]:
    """Return the import paths that YAML files may name."""
    modules = [importlib.import_module(f"vitlab.{name}") for name in ("models", "objectives", "data", "optim")]
    return [name for module in modules for name in dir(module) if not name.startswith("_")]

"""A user's mistake in one message of at most five lines: value, place, remedy, and the nearest right word."""

import difflib
import importlib
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

    Its message walks every alternative of a nested type, and each level of nesting wraps the one below. What counts is
    the key and the innermost complaint; a misspelt key, class or option is answered with the nearest right one.

    Args:
        message: What jsonargparse says.
        options: The options that the parser in question has, with their dashes.
    """
    message = message.removeprefix('Parser key "config": ')
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    complaints = [line for line in lines if line and not line.startswith(_NOISE)] or [f"not valid: {lines[-1]}"]
    text = "\n".join(dict.fromkeys(_readable(complaint, options) for complaint in complaints[-MOST_LINES:]))
    given = re.search(r"^ *Given value: (.{1,80})$", message, re.MULTILINE)
    if given and not given[1].startswith(("NestedArg", "Namespace")) and given[1] not in text:
        text += f" Given: {given[1]}"
    place = re.match(r'Parser key "([^"]+)"', message)
    if place is None:
        return text
    # An inner level has put its own key in front already.
    return f"{place[1]}.{text}" if re.match(r"[a-z_.0-9]+: ", text) else f"{place[1]}: {text}"


def readable(error: Exception) -> str:
    """Return an error's message; a constructor's is freed of what jsonargparse wraps around it."""
    message = str(error)
    if message.startswith("Caught ") and "DataLoader worker" in message:  # wrapped in the worker's traceback
        message = message.rpartition(f"\n{type(error).__name__}: ")[2].strip()
    return explain(message, ()) if "Does not validate against" in message else message


def _readable(complaint: str, options: Iterable[str]) -> str:
    if found := re.fullmatch(r"Expected a dot import path string: (.+)", complaint):
        name, known = found[1].rpartition(".")[2], _class_names()
        if name in known:
            return f"{name} is not of the kind that can stand here."
        return f"no class {found[1]}.{nearest(name, known)}"
    if found := re.fullmatch(r"Import path (\S+) does not correspond to a subclass of (.+)", complaint):
        return f"{found[1]} is no {found[2]}, and nothing else can stand here."
    if found := re.search(r"module '([\w.]+)' has no attribute '(\w+)'", complaint):
        return f"{found[1]} has no {found[2]}.{nearest(found[2], dir(importlib.import_module(found[1])))}"
    if found := re.search(r"([Uu]nrecognized arguments?:|does not accept option|Option|Key) '?([\w.-]+)'?", complaint):
        keys = [option.removeprefix("--") for option in options]
        word = found[2].removeprefix("--")
        # A whole section may be misspelt: trainr.max_epochs
        near = nearest(word, keys) or nearest(word.partition(".")[0], {key.partition(".")[0] for key in keys})
        return f"no option {word}.{near}"
    return re.sub(r"<class '([\w.]+)'>", r"\1", complaint)


def _class_names() -> list[str]:
    """Return the names of classes and factories that YAML files may give."""
    modules = [importlib.import_module(f"vitlab.{name}") for name in ("models", "objectives", "data", "optim")]
    return [name for module in modules for name in dir(module) if not name.startswith("_")]

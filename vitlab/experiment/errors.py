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
    "Not a valid subclass of",
    "Subclass types expect one of",
    "a class path (str)",
    "a dict with",
    "Requirement '",
)


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return ` Did you mean …?` for the choice most like `word`, or nothing."""
    found = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f" Did you mean {found[0]}?" if found else ""


COMMON = {"seed": "seed_everything", "epochs": "trainer.max_epochs", "gpus": "trainer.devices"}  # as elsewhere


def nearest_key(word: str, keys: Iterable[str]) -> str:
    """Do so for a dotted key: the same name elsewhere, a like name in the same section, or a like section."""
    keys = list(dict.fromkeys(keys))
    if COMMON.get(word) in keys:
        return f" Did you mean {COMMON[word]}?"
    section, _, name = word.rpartition(".")
    same = [key for key in keys if key.rpartition(".")[2] == name and key != word]
    if section:
        same = [key for key in same if key.startswith(f"{word.partition('.')[0]}.")]
    if len(same) == 1 or (same and not section):
        return f" Did you mean {' or '.join(same[:2])}?"
    beside = {key.rpartition(".")[2]: key for key in keys if key.rpartition(".")[0] == section}
    if near := difflib.get_close_matches(name, beside, n=1, cutoff=0.6):
        return f" Did you mean {beside[near[0]]}?"
    first, _, below = word.partition(".")
    sections = {key.partition(".")[0] for key in keys}
    if first in sections:
        return ""
    near = difflib.get_close_matches(first, sections, n=1, cutoff=0.6)
    return f" Did you mean {near[0]}{'.' + below if f'{near[0]}.{below}' in keys else ''}?" if near else ""


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
    complaints = [line for line in lines if line and not line.startswith(_NOISE)] or ["no value that can stand here."]
    # What other kinds of value would have been right does not matter where one of the right kind has a fault.
    complaints = [line for line in complaints if not line.startswith("Expected a <class")] or complaints
    text = "\n".join(dict.fromkeys(_readable(complaint, options) for complaint in complaints[-MOST_LINES:]))
    given = re.search(r"^ *Given value: (.{1,80})$", message, re.MULTILINE)
    if given and not given[1].startswith(("NestedArg", "Namespace")) and given[1] not in text:
        text += f" Given: {given[1]}"
    place = re.match(r'Parser key "([^"]+)"', message)
    if place is not None:  # an inner level has put its own key in front already
        text = f"{place[1]}.{text}" if re.match(r"[a-z_.0-9]+: ", text) else f"{place[1]}: {text}"
    if unanswered := re.fullmatch(r"([\w.]+): no option ([\w.]+)\.", text):
        text += nearest_key(".".join(unanswered.groups()), (option.removeprefix("--") for option in options))
    return text


def readable(error: Exception) -> str:
    """Return an error's message; a constructor's is freed of what jsonargparse wraps around it."""
    message = str(error)
    if required := re.fullmatch(r"(.*?)(?:: )?the following arguments are required: (.+)", message, re.DOTALL):
        place, names = required[1], required[2].split(", ")
        keys = [f"--{place}.{name}" if place else name if name.startswith("-") else f"--{name}" for name in names]
        return f"{place or 'the command'} needs {', '.join(names)}: give {' and '.join(f'{key} …' for key in keys)}."
    if message.startswith("Caught ") and "DataLoader worker" in message:  # wrapped in the worker's traceback
        message = message.rpartition(f"\n{type(error).__name__}: ")[2].strip()
    return explain(message, ()) if "Does not validate against" in message else message


def _readable(complaint: str, options: Iterable[str]) -> str:
    if found := re.search(r"Expected an instantiatable class, but (\S+) is abstract", complaint):
        return _abstract(found[1])
    if found := re.fullmatch(r"Expected a dot import path string: (.+)", complaint):
        return f"no class {found[1]}."
    if found := re.fullmatch(r"Import path (\S+) does not correspond to a subclass of (.+)", complaint):
        return f"{found[1]} is no {found[2]}, and nothing else can stand here."
    if found := re.search(r"module '([\w.]+)' has no attribute '(\w+)'", complaint):
        return f"{found[1]} has no {found[2]}.{nearest(found[2], dir(importlib.import_module(found[1])))}"
    if found := re.search(r"([Uu]nrecognized arguments?:|does not accept option|Option|Key) '?([\w.-]+)'?", complaint):
        word = found[2].removeprefix("--")
        return f"no option {word}.{nearest_key(word, (option.removeprefix('--') for option in options))}"
    return re.sub(r"<class '([\w.]+)'>", r"\1", complaint)


def _abstract(path: str) -> str:
    """Say which methods a class lacks; of a class of ours that nobody can mean, that another has to be named."""
    module, _, name = path.rpartition(".")
    missing = ", ".join(sorted(getattr(importlib.import_module(module), name).__abstractmethods__))
    if module.startswith("vitlab."):
        return f"no class is named; give a class_path of the kind {name}."
    return f"{path} lacks {missing}; write these methods and properties."

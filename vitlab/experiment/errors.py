"""A user's mistake in one message of at most five lines: value, place, remedy, and the nearest right word."""

import difflib
import os
import re
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from traceback import walk_tb
from types import FrameType
from typing import Any

from vitlab.config import Config, named, untrusted
from vitlab.experiment.class_paths import names_of

MOST_LINES = 5
SECTIONS = ("seed_everything", "init_seed", "run", "model", "data", "trainer", "ckpt_path")  # of a configuration
COMMON = {"seed": "seed_everything", "epochs": "trainer.max_epochs", "gpus": "trainer.devices"}  # as elsewhere


def nearest(word: str, choices: Iterable[str], cutoff: float = 0.6) -> str:
    """Return ` Did you mean …?` for the choice most like `word`, or nothing."""
    near = difflib.get_close_matches(word, list(choices), n=1, cutoff=cutoff)
    return f" Did you mean {near[0]}?" if near else ""


def nearest_key(word: str, keys: Iterable[str]) -> str:
    """The same for a dotted key: the same name elsewhere, of its section if it has one, or the most similar key."""
    keys = list(dict.fromkeys(keys))
    if COMMON.get(word) in keys:
        return f" Did you mean {COMMON[word]}?"
    section, _, name = word.rpartition(".")
    start = f"{section.partition('.')[0]}." if section else ""
    same = [key for key in keys if key.rpartition(".")[2] == name and key.startswith(start)]
    if len(same) == 1 or (same and not section):
        return f" Did you mean {' or '.join(same[:2])}?"
    return nearest(word, [key for key in keys if key.startswith(start)] or keys, 0.8 if section else 0.6)


def refuse_variant(config: Config, file: Path | None = None) -> None:
    """Refuse a study, and settings of a model without its class: a variant, or an overlay."""
    if "base" in config and not config.keys().isdisjoint({"variants", "factors"}):
        raise ValueError("This is a study, not an experiment: it has a base and variants. Train it with `compare`.")
    if isinstance(config.get("model"), dict) and "class_path" not in config["model"]:
        what = f"{file or 'The configuration'} has no model.class_path: it is a variant or an overlay"
        raise ValueError(f"{what}, which changes another file.\nGive that one before it: --config BASE.yaml")


# Lines of jsonargparse's messages that report how it searched, not what is wrong.
SEARCH = re.compile(
    "Does not validate against|Subtypes:|Errors:|Given value|Expected a path but|Problem with given class_path|"
    "Expected a <class 'NoneType'>|Parser key|Not a valid subclass of|Subclass types expect one of|"
    r"a class path \(str\)|a dict with"
)
UNKNOWN = r"(?:[Uu]nrecognized arguments?:|does not accept option|Option|Key) '?(?:--)?([\w.-]+)"
WORDS = (  # what jsonargparse says, and what a message says
    (r"^Group '([\w.]+)' does not accept option '", r"Option '\1."),
    (r"Not of type \w+: ", ""),
    (r"Expected an instantiatable class, but vitlab\.\S*\.(\w+) is abstract", r"no class is named; give a \1."),
)


def explain(message: str, options: Iterable[str]) -> str:
    """Condense what jsonargparse reports of a wrong argument: its key, the innermost complaints, and the closest match.

    Args:
        options: the options of the parser, with their dashes.
    """
    message = message.removeprefix('Parser key "config": ')
    for pattern, words in WORDS:
        message = re.sub(pattern, words, message, flags=re.MULTILINE)
    place = re.match(r'Parser key "([^"]+)"', message)
    key, known = place[1] if place else "", [option.removeprefix("--") for option in options]
    found = re.search(r"^ *Given value: (.{1,80})$", message, re.MULTILINE)
    lines = []
    for line in (line.strip().removeprefix("- ") for line in message.splitlines()):
        if not line or SEARCH.match(line):
            continue
        if abstract := re.search(r"Expected an instantiatable class, but (\S+) is abstract", line):
            missing = ", ".join(sorted(named(abstract[1]).__abstractmethods__))
            line = f"{abstract[1]} lacks {missing}; write these methods and properties."
        elif unknown := re.match(r"Expected a dot import path string: (.+)$", line):
            names = names_of(key)
            few = f" There are {', '.join(names)}." if 0 < len(names) <= 8 else ""  # all of a few
            line = f"no class {unknown[1]}.{nearest(unknown[1], names) or few}"
            if unknown[1] in names:  # as a Swin's name for MAE, which takes a ViT
                line = f"{unknown[1]} is not of the class that is expected here."
        elif absent := re.search(r"module '([\w.]+)' has no attribute '(\w+)'", line):
            module = sys.modules.get(absent[1])
            choices = getattr(module, "__all__", dir(module))
            line = f"{absent[1]} has no {absent[2]}.{nearest(absent[2], choices)}"
        elif denied := re.search(r"Importing '([\w.]+)' is not allowed", line):
            line = f"{untrusted(denied[1])}."
        elif option := re.search(UNKNOWN, line):
            line = f"no option {option[1]}.{nearest_key(option[1], known)}"
        lines.append(re.sub(r"<class '([\w.]+)'>|typing\.Literal\[(.+?)\]", r"\1\2", line))
    # Where a value of the right type has a fault, the other types that would have been right do not matter.
    faults = [line for line in lines if not line.startswith("Expected a ")]
    types = dict.fromkeys(line.removeprefix("Expected a ") for line in lines)
    text = "\n".join(dict.fromkeys(faults[-MOST_LINES:])) or f"expected {' or '.join(types) or 'another value'}."
    if found and not found[1].startswith(("NestedArg", "Namespace")) and found[1] not in text:
        text += f" Given: {found[1]}"
    if key:  # an inner level has put its own key in front already
        text = f"{key}.{text}" if re.match(r"[a-z_.0-9]+: ", text) else f"{key}: {text}"
    if unanswered := re.fullmatch(r"([\w.]+): no option ([\w.]+)\.", text):
        text += nearest_key(".".join(unanswered.groups()), known)
    return text


def readable(error: BaseException) -> str:
    """Return an error's message; a constructor's is freed of what jsonargparse wraps around it."""
    if isinstance(error, OSError) and error.filename and error.strerror:  # the system's own words
        return f"{error.filename}: {error.strerror}."
    message = str(error)
    if missing := re.fullmatch(r"(.*?)(?:: )?the following arguments are required: (.+)", message, re.DOTALL):
        place, names = missing[1], missing[2].split(", ")
        keys = [f"--{place}.{name}" if place else name if name.startswith("-") else f"--{name}" for name in names]
        return f"{place or 'the command'} needs {', '.join(names)}: give {' and '.join(f'{key} …' for key in keys)}."
    if message.startswith("Caught ") and "DataLoader worker" in message:  # wrapped in the worker's traceback
        message = message.rpartition(f"\n{type(error).__name__}: ")[2].strip()
    return explain(message, ()) if "Does not validate against" in message else message


_OURS = tuple(os.path.dirname(str(each.origin)) + os.sep for each in map(find_spec, ("vitlab", "referee")) if each)
_LIBRARY = re.compile(rf"<|{re.escape(os.path.dirname(os.__file__))}|.*[\\/](?:site|dist)-packages[\\/]")


def call_of_user_code(error: BaseException) -> str | None:
    """Return the call of the user's code, with the shapes of its arguments, that raised an error; None if vitlab did.

    The user's code may have called a library. Of a process that loads images, the text of the error has the frames.
    """
    frames: list[tuple[str, Any]] = [(frame.f_code.co_filename, frame) for frame, _ in walk_tb(error.__traceback__)]
    frames += re.findall(r'^ +File "(.+)", line \d+, in (\S+)$', str(error), re.MULTILINE)
    relevant = [each for each in frames if each[0].startswith(_OURS) or not _LIBRARY.match(each[0])]
    calls = list(takewhile(lambda each: not each[0].startswith(_OURS), reversed(relevant)))
    if not calls:
        return None
    file, frame = calls[-1]
    if not isinstance(frame, FrameType):
        return f"{frame} of {file}"
    code = frame.f_code
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    given = [f"{name}={_shape(frame.f_locals[name])}" for name in names if name in frame.f_locals and name != "self"]
    return f"{frame.f_globals['__name__']}.{code.co_qualname}({', '.join(given)})"


def _shape(value: Any) -> str:
    if hasattr(value, "shape"):
        return str(tuple(value.shape))
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_shape, value[:4]))}{', …' if len(value) > 4 else ''}]"
    return repr(value)[:60] if isinstance(value, str | int | float | None) else type(value).__name__


def need(extra: str, *packages: str, what: str) -> None:
    """Raise a ValueError if `what`, an option or a class, needs a package that `pip install 'vitlab[extra]'` brings."""
    for package in packages:
        if find_spec(package) is None:
            raise ValueError(f"{what} needs the package {package}: pip install 'vitlab[{extra}]'")

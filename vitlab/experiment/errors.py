"""A user's mistake in one message of at most five lines: value, place, remedy, and the nearest right word."""

import difflib
import os
import re
import sys
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from traceback import walk_tb
from types import FrameType
from typing import Any

from vitlab.config import Config, load_yaml, locate, named, untrusted
from vitlab.internals import Complaint, is_parsing_failure, missing_arguments, parsing_failure

MOST_LINES = 5
SECTIONS = ("seed_everything", "init_seed", "run", "model", "data", "trainer", "ckpt_path")  # of a configuration


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return ` Did you mean …?` for the choice most like `word`, or nothing."""
    near = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f" Did you mean {near[0]}?" if near else ""


COMMON = {"seed": "seed_everything", "epochs": "trainer.max_epochs", "gpus": "trainer.devices"}  # as elsewhere


def nearest_key(word: str, keys: Iterable[str]) -> str:
    """The same for a dotted key: the same name elsewhere, a similar one in its section, a similar section."""
    keys = list(dict.fromkeys(keys))
    if COMMON.get(word) in keys:
        return f" Did you mean {COMMON[word]}?"
    section, _, name = word.rpartition(".")
    same = [key for key in keys if key.rpartition(".")[2] == name and key != word]
    if section:
        same = [key for key in same if key.startswith(f"{word.partition('.')[0]}.")]
    if len(same) == 1 or (same and not section):
        return f" Did you mean {' or '.join(same[:2])}?"
    siblings = {key.rpartition(".")[2]: key for key in keys if key.rpartition(".")[0] == section}
    if near := difflib.get_close_matches(name, siblings, n=1, cutoff=0.6):
        return f" Did you mean {siblings[near[0]]}?"
    first, _, below = word.partition(".")
    sections = {key.partition(".")[0] for key in keys}
    if first in sections:
        return ""
    near = difflib.get_close_matches(first, sections, n=1, cutoff=0.6)
    return f" Did you mean {near[0]}{'.' + below if f'{near[0]}.{below}' in keys else ''}?" if near else ""


def check_sections(config: Config) -> None:
    """Refuse a section that no experiment has, and a study."""
    if "base" in config and not config.keys().isdisjoint({"variants", "factors"}):
        raise ValueError("This is a study, not an experiment: it has a base and variants. Train it with `compare`.")
    for key in config:
        if key not in SECTIONS:
            raise ValueError(
                f"The configuration has no key {key}.{nearest(key, SECTIONS)} Keys: {', '.join(SECTIONS)}."
            )


def refuse_variant(config: Config, file: Path | None = None) -> None:
    """Refuse settings of a model without its class: a variant of a study, or an overlay; name the base before it."""
    if not isinstance(config.get("model"), dict) or "class_path" in config["model"]:
        return
    base, file = "BASE.yaml", file and locate(file)
    places = [place for parent in file.parents[:3] for place in (parent, parent / "studies")] if file else []
    for study in (path for place in places for path in sorted(place.glob("*.yaml"))):
        content = load_yaml(study)
        variants = content.get("variants")
        files = [study.parent / each for each in variants.values() if isinstance(each, str)] if variants else []
        if file and "base" in content and file.resolve() in [each.resolve() for each in files]:
            base = os.path.relpath(study.parent / content["base"])
            break
    raise ValueError(
        f"{file or 'The configuration'} has no model.class_path: it is a variant or an overlay, which changes another "
        f"file.\nGive that one before it: --config {base} --config {file or 'FILE'}"
    )


def explain(message: str, options: Iterable[str], defaults: Mapping[str, Any] | None = None) -> str:
    """Condense what jsonargparse reports of a wrong argument.

    The key and the innermost complaints count; a misspelled key, class or option gets the closest match.

    Args:
        message: jsonargparse's.
        options: the options of the parser, with their dashes.
        defaults: values by key, as examples of what is right.
    """
    key, complaints, value = parsing_failure(message)
    if [each.kind for each in complaints] == ["type", "choice"]:
        text = _expected(complaints[0].words, complaints[1].words, (defaults or {}).get(str(key)), value)
    else:
        lines = [_readable(complaint, options) for complaint in complaints] or ["not a valid value."]
        text = "\n".join(dict.fromkeys(lines[-MOST_LINES:]))
        if value and not value.startswith(("NestedArg", "Namespace")) and value not in text:
            text += f" Given: {value}"
    if key is not None:  # an inner level has put its own key in front already
        text = f"{key}.{text}" if re.match(r"[a-z_.0-9]+: ", text) else f"{key}: {text}"
    if unanswered := re.fullmatch(r"([\w.]+): no option ([\w.]+)\.", text):
        text += nearest_key(".".join(unanswered.groups()), (option.removeprefix("--") for option in options))
    return text


def readable(error: Exception) -> str:
    """Return an error's message; a constructor's is freed of what jsonargparse wraps around it."""
    if isinstance(error, OSError) and error.filename and error.strerror:  # the system's own words
        return f"{error.filename}: {error.strerror}."
    message = str(error)
    if missing := missing_arguments(message):
        place, names = missing
        keys = [f"--{place}.{name}" if place else name if name.startswith("-") else f"--{name}" for name in names]
        return f"{place or 'the command'} needs {', '.join(names)}: give {' and '.join(f'{key} …' for key in keys)}."
    if message.startswith("Caught ") and "DataLoader worker" in message:  # wrapped in the worker's traceback
        message = message.rpartition(f"\n{type(error).__name__}: ")[2].strip()
    return explain(message, ()) if is_parsing_failure(message) else message


_OURS = tuple(os.path.dirname(str(each.origin)) + os.sep for each in map(find_spec, ("vitlab", "referee")) if each)
_LIBRARY = re.compile(rf"<|{re.escape(os.path.dirname(os.__file__))}|.*[\\/](?:site|dist)-packages[\\/]")


def call_of_user_code(error: BaseException) -> str | None:
    """Return the call of the user's code, with the shapes of its arguments, that raised an error.

    Of vitlab's own frames and the user's, the innermost decides; the user's code may have called a library. None where
    it is vitlab's. Of a process that loads images, the text of the error has the frames.
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


def out_of_memory(error: Exception) -> str:
    """Return what asked for too much memory and what takes less, in one line: a study shows the last line of a log."""
    reason, *_ = f"{error}".splitlines() or [""]
    return (
        f"out of memory. {reason.strip()} Take fewer images at a time, --data.batch_size or --data.eval_batch_size; "
        "--trainer.accumulate_grad_batches keeps the global batch, and --model.backbone.grad_checkpointing true "
        "makes room."
    )


_WORDS = {"int": "an int", "bool": "true or false", "str": "a text", "dict": "a mapping", "tuple": "a list"}


def _expected(types: Iterable[str], choices: Iterable[str], default: Any, value: str | None) -> str:
    """Return which types and values would have been right, with the default for an example of a list."""
    named = [_WORDS.get(name, f"a {name}") for name in types]
    if "an int" in named and "a float" in named:
        named = ["a number", *(name for name in named if name not in ("an int", "a float"))]
    like = f", like {list(default)}" if isinstance(default, list | tuple) and default else ""
    named = [name.replace("tuple with", "list of") for name in named]
    *others, last = [*(f"{name}{like if 'list' in name else ''}" for name in named), *choices]
    listed = f"{', '.join(others)} or {last}" if others else last
    hint = nearest(str(value), choices)
    return f"Expected {listed}. Got value: {value}{'.' if hint else ''}{hint}"


def _readable(complaint: Complaint, options: Iterable[str]) -> str:
    match complaint.kind, complaint.words:
        case "abstract", (path,):
            module, _, name = path.rpartition(".")
            if module.startswith("vitlab."):
                return f"no class is named; give a class_path of the kind {name}."
            missing = ", ".join(sorted(named(path).__abstractmethods__))
            return f"{path} lacks {missing}; write these methods and properties."
        case "no class", (path,):
            return f"no class {path}."
        case "no subclass", (path, parent):
            how = (
                " Let it inherit from vitlab.models.ImageModel, define embed(images), which returns pooled features, "
                "and set num_classes, num_features, img_size, in_chans, head and blocks; or inherit from Backbone, as "
                "examples/architecture.py of the repository does."
            )
            is_network = parent.rpartition(".")[2] in ("ImageModel", "Backbone")
            return f"{path} is not a subclass of {parent}.{how if is_network else ''}"
        case "no attribute", (module, name):
            return f"{module} has no {name}.{nearest(name, dir(sys.modules.get(module)))}"
        case "denied", (path,):
            return f"{untrusted(path)}."
        case "no option", (word,):
            return f"no option {word}.{nearest_key(word, (option.removeprefix('--') for option in options))}"
    return complaint.words[0]


def need(extra: str, *packages: str, what: str) -> None:
    """Raise a ValueError that names the first package that is not installed, and the command that installs it.

    Args:
        extra: of `pip install 'vitlab[extra]'`.
        packages: by the names under which they are imported.
        what: needs them; an option or a class, for the message.
    """
    for package in packages:
        if find_spec(package) is None:
            raise ValueError(f"{what} needs the package {package}: pip install 'vitlab[{extra}]'")

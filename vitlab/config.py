"""Experiments as plain dictionaries: read YAML files and arguments, merge them, list what differs. Knows no torch."""

from collections.abc import Sequence
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

import yaml

Config = dict[str, Any]

# Whether these differ between two starts of a run does not change its result.
HARMLESS = (
    "run.overwrite",
    "run.checkpoint",
    "run.not_finite",
    "run.compile",  # said by `vitlab.resume.inexact`
    "run.wandb",
    "data.init_args.num_workers",
    "model.init_args.teacher.cache",
    "trainer.logger",
    "trainer.enable_progress_bar",
    "trainer.profiler",
    "trainer.log_every_n_steps",
)

ABSENT = "(absent)"


def load_yaml(path: str | Path) -> Config:
    """Read one YAML file whose top level is a mapping.

    Raises:
        FileNotFoundError: no such file; the message lists the YAML files that lie beside it.
        ValueError: not valid YAML (with line and column), or not a mapping.
    """
    path = Path(path)
    if not path.is_file():
        siblings = ", ".join(sorted(p.name for p in path.parent.glob("*.yaml"))) or "no YAML file"
        raise FileNotFoundError(f"No configuration {path}. In {path.parent}/ there is: {siblings}.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} holds a {type(content).__name__}; expected a mapping like `trainer: {{max_epochs: 10}}`."
        )
    return content


def merge(base: Config, override: Config) -> Config:
    """Return `base` with `override` on top: mappings merge, anything else replaces.

    A mapping that names another `class_path` replaces the old one whole. Merging would hand the old class's
    arguments to the new one wherever a name fits both: AdamW's weight decay to an SGD that never asked for it.
    """
    merged = dict(base)
    for key, value in override.items():
        old = merged.get(key)
        if isinstance(value, dict) and isinstance(old, dict) and not _changes_class(old, value):
            merged[key] = merge(old, value)
        else:
            merged[key] = value
    return merged


def _changes_class(old: Config, new: Config) -> bool:
    """Say whether `new` names another class than `old`; `AdamW` and `vitlab.optim.AdamW` are the same one."""
    before, after = old.get("class_path"), new.get("class_path")
    if before is None or after is None:
        return False
    return before.rpartition(".")[2] != after.rpartition(".")[2]


def flatten(config: Config, prefix: str = "") -> Config:
    """Return one level of dotted keys; an empty mapping stays a value, so that nothing vanishes."""
    flat: Config = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def differences(a: Config, b: Config) -> list[tuple[str, Any, Any]]:
    """List `(dotted key, value in a, value in b)` wherever two configurations differ, in the order of the keys."""
    left, right = flatten(a), flatten(b)
    keys = list(left) + [key for key in right if key not in left]
    return [(k, left.get(k, ABSENT), right.get(k, ABSENT)) for k in keys if left.get(k, ABSENT) != right.get(k, ABSENT)]


def changes(stored: Config, wanted: Config) -> list[tuple[str, Any, Any]]:
    """List the differences, but for arguments that did not exist when `stored` was written and have their default."""
    return [
        (key, old, new)
        for key, old, new in differences(stored, wanted)
        if not (old == ABSENT and _is_default(wanted, key, new))
    ]


def conflicts(stored: Config, wanted: Config) -> list[tuple[str, Any, Any]]:
    """List the changes between two starts of a run that make it another run."""
    return [found for found in changes(stored, wanted) if not found[0].startswith(HARMLESS)]


def _is_default(config: Config, key: str, value: Any) -> bool:
    *path, arguments, name = ["", *key.split(".")]
    if arguments != "init_args":
        return False
    node = config
    for part in path[1:]:
        node = node[part]
    module, _, made = node["class_path"].rpartition(".")
    parameter = signature(getattr(import_module(module), made)).parameters.get(name)
    return parameter is not None and parameter.default == (tuple(value) if isinstance(value, list) else value)


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the files that `--config` names, and the other arguments."""
    files: list[str] = []
    rest: list[str] = []
    pending = iter(arguments)
    for argument in pending:
        name, equals, value = argument.partition("=")
        if name in {"-c", "--config"}:
            files.append(value if equals else next(pending, ""))
        else:
            rest.append(argument)
    return files, rest


def gather(files: Sequence[str], rest: Sequence[str]) -> Config:
    """Merge the files; where an argument names another class than they do, drop what they say of the old one."""
    config: Config = {}
    for file in files:
        config = merge(config, load_yaml(file))
    for key, value in pairs(rest):
        config = _without_other_class(config, key.removesuffix(".class_path"), value)
    return config


def pairs(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """Return (key without `--` and `init_args`, value) of each `--key value` and `--key=value`."""
    found = []
    for i, argument in enumerate(arguments):
        if argument.startswith("--"):
            name, equals, value = argument.partition("=")
            following = arguments[i + 1] if i + 1 < len(arguments) else ""
            found.append((short(name.removeprefix("--")), value if equals else following))
    return found


def short(key: str) -> str:
    """Return a dotted key as it may be given on the command line, without the `init_args` in it."""
    return key.replace(".init_args", "")


def _without_other_class(config: Config, key: str, value: str) -> Config:
    """Drop the `init_args` at `key` if `value` names another class there."""
    here, _, below = key.partition(".")
    if "init_args" in config and here not in config:
        return {**config, "init_args": _without_other_class(config["init_args"], key, value)}
    node = config.get(here)
    if not isinstance(node, dict):
        return config
    if below:
        return {**config, here: _without_other_class(node, below, value)}
    asked = yaml.safe_load(value) if value.startswith("{") else {"class_path": value}
    if "class_path" not in node or "init_args" in merge({here: node}, {here: asked})[here]:
        return config
    return {**config, here: {"class_path": node["class_path"]}}

"""Experiments as plain dictionaries: read a YAML file, merge two, list what differs. Knows no torch, no Lightning."""

from pathlib import Path
from typing import Any

import yaml

Config = dict[str, Any]

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

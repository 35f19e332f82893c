"""What a study's file says, and what it takes from the study that it is `like`."""

import os
from pathlib import Path
from typing import Any

from vitlab.config import SHIPPED, Config, load_yaml, locate, merge

LIKE = "like"
WHOLE = ("budget", "along", "metric")  # replaced, not merged: their keys exclude or explain each other


def content_of(study: Path) -> tuple[Config, Path | None]:
    """Return what a study says, and the study that it is like, if any: its own keys change those of that one.

    Raises:
        ValueError, FileNotFoundError: the other study does not exist, or is like a third.
    """
    own = load_yaml(study)
    if LIKE not in own:
        return own, None
    other = beside(study, own.pop(LIKE))
    if not other.is_file():
        raise FileNotFoundError(f"{study}: like: there is no study {other}. The path is relative to the study's file.")
    content = load_yaml(other)
    if LIKE in content or not isinstance(content.get("variants"), dict):
        raise ValueError(f"{study}: like: {other} is no study that says all by itself. Name one that does.")
    content.pop("registered", None)
    files = {name: value for name, value in content["variants"].items() if isinstance(value, str)}
    changed = own["variants"] if isinstance(own.get("variants"), dict) else {}
    for name, value in files.items():
        merged = isinstance(changed.get(name), dict)
        content["variants"][name] = load_yaml(beside(other, value)) if merged else _seen_from(study, other, value)
    content["base"] = _seen_from(study, other, str(content.get("base")))
    return merge({key: value for key, value in content.items() if key not in own or key not in WHOLE}, own), other


def _seen_from(study: Path, other: Path, name: str) -> str:
    """Return a path relative to another study as one relative to this one; that of a shipped file from any place."""
    file, folder = (other.parent / name).resolve(), study.parent.resolve()
    if not file.is_file():
        return name
    if file.is_relative_to(SHIPPED) and not folder.is_relative_to(SHIPPED):
        return f"experiments/{file.relative_to(SHIPPED).as_posix()}"
    return Path(os.path.relpath(file, folder)).as_posix()


def beside(study: Path, name: Any) -> Path:
    """Return the file that a study names: relative to its own, or one that vitlab ships."""
    own, shipped = study.parent / str(name), locate(str(name))
    return shipped if shipped.is_file() and not own.is_file() else own

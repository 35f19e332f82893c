"""Rebuild what a run trained: its checkpoints contain its configuration."""

from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from jsonargparse import ArgumentParser

from vitlab.config import modernize

TIMMS_WEIGHTS = {"pretrained": False, "checkpoint_path": None}  # turned off
T = TypeVar("T")
Settings = dict[str, Any]


def stored_section(path: Path, name: Literal["model", "data"]) -> Settings | None:
    """Return a section of the configuration stored in a run's checkpoint; None for any other file."""
    if path.suffix != ".ckpt":
        return None
    config = torch.load(path, map_location="cpu", weights_only=True, mmap=True).get("vitlab_config")
    return modernize(config[name]) if config else None


def build(kind: type[T], settings: Settings) -> T:
    """Return the object that a configuration describes, before weights are loaded."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(kind, "model")
    model: T = parser.instantiate(parser.parse_object({"model": without_weights(settings)})).model
    return model


def without_weights(settings: Any) -> Any:
    """Return the configuration with pretrained weights of timm models turned off."""
    if isinstance(settings, list):
        return [without_weights(each) for each in settings]
    if not isinstance(settings, dict):
        return settings
    settings = {key: without_weights(value) for key, value in settings.items()}
    return settings | TIMMS_WEIGHTS if TIMMS_WEIGHTS.keys() <= settings.keys() else settings

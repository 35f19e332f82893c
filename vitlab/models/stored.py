"""Rebuild what a run trained: its checkpoints contain its configuration."""

import json
import pickle
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open

from vitlab.atomic_files import read_json
from vitlab.config import import_only_known, modernize, refuse_code

TIMMS_WEIGHTS = {"pretrained": False, "checkpoint_path": None}  # turned off
T = TypeVar("T")
Settings = dict[str, Any]


def stored_settings(path: Path) -> Settings | None:
    """Return the configuration of the objective stored in a run's checkpoint; None for any other file."""
    config = _checkpoint(path).get("vitlab_config")
    return modernize(config["model"]) if config else None


def stored_facts(path: str | Path) -> Settings:
    """Return what a run's checkpoint or an exported file tells of its model: `backbone`, `img_size`, `class_names`, …

    Of weights in a folder of timm's, `config.json` tells the size and the class names; of other files nothing is known.
    """
    path, facts = Path(path), {}
    if path.suffix == ".ckpt" and (settings := stored_settings(path)):
        facts = _checkpoint(path).get("vitlab_inference", {}) | {"backbone": settings["init_args"]["backbone"]}
    elif path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        if "backbone" in metadata:
            facts = {name: json.loads(value) for name, value in metadata.items() if name != "format"}
    if facts:
        return facts | {"img_size": facts["backbone"].get("init_args", {}).get("img_size")}
    beside = path.with_name("config.json")
    if path.name not in ("model.safetensors", "pytorch_model.bin") or not beside.is_file():
        return {}
    config = read_json(beside)
    weights = config.get("pretrained_cfg", {})
    names = config.get("label_names") or weights.get("label_names") or []
    names = [names[key] for key in sorted(names, key=int)] if isinstance(names, dict) else names
    size = config.get("model_args", {}).get("img_size") or weights.get("input_size", [0])[1:]
    return {"class_names": names, "img_size": size}


def _checkpoint(path: Path) -> Settings:
    """Return a run's checkpoint; of another program's, which may be of any form, nothing."""
    if path.suffix != ".ckpt":
        return {}
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, pickle.UnpicklingError):
        return {}
    return stored if isinstance(stored, dict) else {}


def build(kind: type[T], settings: Settings) -> T:
    """Return the object that a configuration describes, before weights are loaded."""
    from jsonargparse import ArgumentParser  # here, because it takes a while to import

    refuse_code(settings, kind.__name__)
    import_only_known()
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(kind, "model")
    values = parser.parse_object({"model": without_weights(settings)})
    refuse_code(values)
    model: T = parser.instantiate(values).model
    return model


def without_weights(settings: Any) -> Any:
    """Return the configuration with pretrained weights of timm models turned off."""
    if isinstance(settings, list):
        return [without_weights(each) for each in settings]
    if not isinstance(settings, dict):
        return settings
    settings = {key: without_weights(value) for key, value in settings.items()}
    return settings | TIMMS_WEIGHTS if TIMMS_WEIGHTS.keys() <= settings.keys() else settings

"""Class names in a configuration: short ones become import paths, wrong ones are answered with those that would do."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib import import_module
from inspect import Parameter, isabstract, isclass, isfunction, signature
from types import NoneType
from typing import Any, get_args

from vitlab.config import Config, named, short
from vitlab.experiment.errors import nearest

# By key: what a class there must be, and where its short name is looked up. Of other keys the parser judges.
PLACES = {
    "model": ("vitlab.objectives.Objective", ("vitlab.objectives",)),
    "model.backbone": ("vitlab.models.ImageModel", ("vitlab.models",)),
    "model.teacher.model": ("vitlab.models.ImageModel", ("vitlab.models",)),
    "model.optimizer": ("vitlab.optim.Optimizer", ("vitlab.optim",)),
    "model.schedule": ("vitlab.optim.Schedule", ("vitlab.optim",)),
    "data": ("vitlab.data.ImageDataModule", ("vitlab.data",)),
    "trainer.callbacks": (
        "lightning.pytorch.Callback",
        ("lightning.pytorch.callbacks", "vitlab.runs.knn_monitor", "vitlab.analysis.image_logging"),
    ),
    "trainer.logger": ("lightning.pytorch.loggers.Logger", ("lightning.pytorch.loggers",)),
}
_FEW = 8


def spell_out(config: Any, key: str = "") -> Any:
    """Return a configuration with the import path of each class that `PLACES` knows.

    Raises:
        ValueError: no such class, or not one for this place; the nearest that is one.
    """
    if isinstance(config, list):
        return [spell_out(each, key) for each in config]
    if not isinstance(config, dict):
        return config
    inner: Config = {}
    for name, value in config.items():
        if name == "class_path":
            inner[name] = full_name(value, key)
        else:
            inner[name] = spell_out(value, key if name == "init_args" else f"{key}.{name}".lstrip("."))
    return inner


def spell_out_arguments(arguments: Sequence[str]) -> list[str]:
    """Do so in the arguments of a command line."""
    spelled: list[str] = []
    option = ""
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if argument.startswith("--") and equals:
            spelled.append(f"{name}={_spelled(value, name)}")
        else:
            spelled.append(_spelled(argument, option) if option and not argument.startswith("--") else argument)
        option = name if argument.startswith("--") and not equals else ""
    return spelled


def _spelled(value: str, option: str) -> str:
    key = short(option.removeprefix("--").removesuffix("+").removesuffix(".class_path").removesuffix(".help"))
    names_class = value not in _NO_CLASS and all(part.isidentifier() for part in value.split("."))
    return full_name(value, key) if names_class else value


_NO_CLASS = ("null", "true", "false", "True", "False", "None")


def full_name(name: Any, key: str) -> Any:
    """Return the import path of a class, whose name or path is a value of `key`."""
    if key not in PLACES or not isinstance(name, str):
        return name
    kind, modules = PLACES[key]
    module, _, word = name.rpartition(".")
    if module and module not in modules:
        return name  # a class of the user's
    known = choices(kind, modules)
    if word in known:
        return known[word]
    if not module and any(word == each.__name__ for each in _below(named(kind))):
        return name  # the user's own, imported before
    some = f" There are {', '.join(known)}." if len(known) <= _FEW else ""
    elsewhere = any(hasattr(import_module(module), word) for _, modules in PLACES.values() for module in modules)
    what = f"{word} is not a subclass of {kind.rpartition('.')[2]}." if elsewhere else f"no class {word}."
    raise ValueError(f"{key}: {what}{nearest(word, known) or some}")


@cache
def choices(kind: str, modules: tuple[str, ...]) -> dict[str, str]:
    """Return the import path, by name, of each class or named size that is valid for an argument of this kind."""
    parent = named(kind)
    classes: dict[str, str] = {}
    for module in modules:
        content = import_module(module)
        for name in getattr(content, "__all__", vars(content)):
            value = getattr(content, name)
            named_size = isfunction(value) and value.__module__ == module == "vitlab.models"
            if named_size or (isclass(value) and issubclass(value, parent) and not isabstract(value)):
                classes.setdefault(name, f"{module}.{name}")
    return {name: path for name, path in classes.items() if name[0] != "_" and named(path) is not parent}


def settable(config: Config) -> Iterator[str]:
    """Yield the keys below the classes that a configuration names, as they may be given on the command line."""
    for key, given in _classes(config):
        try:
            parameters = signature(named(given["class_path"])).parameters.values()
        except (ImportError, AttributeError, ValueError, TypeError):  # the parser answers a wrong path
            continue
        for parameter in parameters:
            linked = f"{key}.{parameter.name}" == "data.seed"
            if not linked and parameter.kind not in (Parameter.VAR_KEYWORD, Parameter.VAR_POSITIONAL):
                yield f"{key}.{parameter.name}"


def nulls(config: Config) -> Iterator[str]:
    """Yield the keys of a parsed configuration that are null and may not be, of which the parser says nothing."""
    for key, given in _classes(config):
        values = given.get("init_args", {})
        for name, parameter in signature(named(given["class_path"]), eval_str=True).parameters.items():
            kind = parameter.annotation  # without one, null is a value
            takes_null = parameter.default is None or kind in (Parameter.empty, Any) or NoneType in get_args(kind)
            if values.get(name, 0) is None and not takes_null:
                yield f"{key}.{name}"


def _classes(config: Config, key: str = "") -> Iterator[tuple[str, Config]]:
    """Yield each class that a configuration names, with its key; what is inside of it first."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _classes(value, key if name == "init_args" else f"{key}.{name}".lstrip("."))
    if "class_path" in config:
        yield key, config


def _below(kind: Any) -> Iterable[Any]:
    for each in kind.__subclasses__():
        yield each
        yield from _below(each)

"""Class paths in a configuration: the import paths of named sizes, the classes that would do, and what they take."""

from collections.abc import Iterable, Iterator, Sequence
from inspect import isabstract, isfunction
from typing import Any

from vitlab.config import Config, named, parameters_of, short

KINDS = {  # what a class must be, by the last part of its key
    "model": "vitlab.objectives.Objective",
    "backbone": "vitlab.models.ImageModel",
    "optimizer": "vitlab.optim.Optimizer",
    "schedule": "vitlab.optim.Schedule",
    "data": "vitlab.data.ImageDataModule",
    "callbacks": "lightning.pytorch.Callback",
    "logger": "lightning.pytorch.loggers.Logger",
}
TAKES_SIZES = ("backbone", "teacher.model", "class_path")  # ends of keys


def named_sizes() -> dict[str, str]:
    """Return the functions of `vitlab.models`, by name, with their import paths."""
    from vitlab import models

    return {name: f"vitlab.models.{name}" for name, value in vars(models).items() if isfunction(value)}


def spell_out(config: Any) -> Any:
    """Return a configuration with the import path of each named size; jsonargparse finds classes by their names."""
    if isinstance(config, list):
        return [spell_out(each) for each in config]
    if not isinstance(config, dict):
        return config
    sizes = named_sizes()
    return {
        key: sizes.get(value, value) if key == "class_path" and isinstance(value, str) else spell_out(value)
        for key, value in config.items()
    }


def spell_out_arguments(arguments: Sequence[str]) -> list[str]:
    """Do so in the arguments of a command line."""
    sizes, spelled = named_sizes(), list[str]()
    for before, argument in zip(["", *arguments], arguments, strict=False):
        option, equals, value = argument.rpartition("=")
        if value in sizes and (option or before).endswith(TAKES_SIZES):
            value = sizes[value]
        spelled.append(f"{option}{equals}{value}")
    return spelled


def names_of(key: str) -> list[str]:
    """Return the names of the classes and sizes that would do as the value of a key."""
    kind = KINDS.get(short(key).rpartition(".")[2])
    if kind is None:
        return []
    sizes = [*named_sizes()] if kind.startswith("vitlab.models") else []
    return [each.__name__ for each in buildable(named(kind))] + sizes


def buildable(kind: type) -> list[type]:
    """Return the imported classes of a kind that can be built; `vitlab.experiment.parser` imports those of vitlab."""
    return [each for each in (kind, *_below(kind)) if not isabstract(each) and each.__name__[0] != "_"]


def settable(config: Config, key: str = "") -> Iterator[str]:
    """Yield the keys below the classes that a configuration names, as they may be given on the command line."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from settable(value, key if name == "init_args" else f"{key}.{name}".lstrip("."))
    if path := config.get("class_path"):
        try:
            kinds = [named(kind) for kind in KINDS.values()] if "." not in path else []
            found = next((each for kind in kinds for each in _below(kind) if each.__name__ == path), None)
            parameters = parameters_of(found or named(path)).values()
        except (ImportError, AttributeError, ValueError, TypeError):  # the parser answers a wrong path
            return
        taken = [each.name for each in parameters if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)]
        yield from (f"{key}.{name}" for name in taken if f"{key}.{name}" != "data.seed")  # which is linked


def _below(kind: Any) -> Iterable[Any]:
    for each in kind.__subclasses__():
        yield each
        yield from _below(each)

"""`python -m vitlab schema`: JSON Schemas of experiments and studies: an editor completes and checks YAML with them."""

import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from importlib import import_module
from inspect import Parameter, getdoc, isabstract, isclass, signature
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from docstring_parser import parse as parse_docstring
from lightning.pytorch import Trainer

from vitlab.config import BUILDS, Config, named, parameters_of
from vitlab.data import ImageDataModule
from vitlab.experiment.class_paths import KINDS, buildable, named_sizes
from vitlab.models import ImageModel
from vitlab.objectives import Objective
from vitlab.runs.trainer import Run
from vitlab.studies.file.study import LIKE, StudyFile

DRAFT = "http://json-schema.org/draft-07/schema#"
PLAIN = {bool: "boolean", int: "integer", float: "number", str: "string", Path: "string", types.NoneType: "null"}
NAMES = ("experiment.schema.json", "study.schema.json")


def experiment_schema() -> Config:
    """Return the JSON Schema of an experiment, or of a part of one, as variants are: no key is required."""
    import_module("vitlab.experiment.parser")  # which imports the classes that a file may name
    classes = _Classes()
    seed = {"type": "integer", "minimum": 0, "maximum": 2**32 - 1}
    properties = {
        "seed_everything": seed | {"description": "Seed of weights, data order and augmentation"},
        "init_seed": {"anyOf": [seed, {"type": "null"}], "description": "Of weights, dropout and masks alone"},
        "model": classes.schema(Objective),
        "data": classes.schema(ImageDataModule),
        "trainer": classes.arguments(Trainer),
        "run": classes.arguments(Run),
        "ckpt_path": {"type": ["string", "null"]},
    }
    shape = {"type": "object", "properties": properties, "additionalProperties": False}
    return {"$schema": DRAFT, "title": "vitlab experiment", **shape, "definitions": classes.definitions}


def study_schema() -> Config:
    """Return the JSON Schema of a study, whose variants are parts of experiments."""
    schema = _finite(StudyFile.model_json_schema())
    properties = schema["properties"]
    part = {"$ref": NAMES[0] + "#/properties/"}
    override = properties["variants"]["additionalProperties"]["anyOf"]
    keys = {key: {"$ref": part["$ref"] + key} for key in ("model", "data", "trainer", "run")}
    override[0] = {"type": "object", "properties": keys}
    properties["factors"]["anyOf"][0]["additionalProperties"]["additionalProperties"]["anyOf"] = override
    properties[LIKE] = {"type": "string", "description": "Another study, which says all that this one does not"}
    schema["$defs"]["Looks"].pop("required")  # the other study may say it
    schema["anyOf"] = [{"required": [LIKE]}, {"required": schema.pop("required")}]
    return {"$schema": DRAFT, **schema, "title": "vitlab study"}


def _finite(node: Any) -> Any:
    """Return a schema of pydantic's with the bounds of unions in JSON Schema's words."""
    if isinstance(node, list):
        return [_finite(each) for each in node]
    if not isinstance(node, dict):
        return node
    words = {"gt": "exclusiveMinimum", "lt": "exclusiveMaximum"}
    return {words.get(key, key): _finite(value) for key, value in node.items() if value != math.inf}


class _Classes:
    """Schemas of types and classes; those of classes go into `definitions` once."""

    def __init__(self) -> None:
        self.definitions: dict[str, Config] = {}

    def schema(self, kind: Any) -> Config:
        """Return the schema of a type's values; an empty one, where JSON Schema has no word for it."""
        origin, inner = get_origin(kind), get_args(kind)
        if origin is Annotated:
            return self.schema(inner[0])
        if origin in (Union, types.UnionType):
            return {"anyOf": [self.schema(each) for each in inner]}
        if origin is Literal:
            return {"enum": list(inner)}
        if isclass(origin) and issubclass(origin, Mapping):
            return {"type": "object", "additionalProperties": self.schema(inner[1])}
        if isclass(origin) and issubclass(origin, Sequence):
            return {"type": "array", "items": self.schema(inner[0])}
        if not isclass(kind):
            return {}
        of_kinds = any(issubclass(kind, named(base)) for base in KINDS.values())
        is_ours = kind.__module__.startswith("vitlab.")
        below = {each.__module__.partition(".")[0] for each in kind.__subclasses__()}
        if of_kinds or (is_ours and (isabstract(kind) or not below.isdisjoint(BUILDS))):
            return self._choice(kind)
        if is_ours and is_dataclass(kind):
            return self.arguments(kind)
        return next(({"type": name} for plain, name in PLAIN.items() if issubclass(kind, plain)), {})

    def arguments(self, made: Any) -> Config:
        """Return the schema of the arguments of a class, with their descriptions and defaults."""
        key = f"{made.__module__}.{made.__qualname__}"
        if key not in self.definitions:
            self.definitions[key] = {}  # while it is made, it may refer to itself
            texts: dict[str, str | None] = {}
            for each in reversed(made.__mro__):
                texts |= {each.arg_name: each.description for each in parse_docstring(getdoc(each) or "").params}
            named_one_by_one = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
            known = {name: each for name, each in parameters_of(made).items() if each.kind in named_one_by_one}
            properties: Config = {}
            for name, each in known.items():
                properties[name] = {} if each.annotation is Parameter.empty else {**self.schema(each.annotation)}
                if isinstance(each.default, bool | int | float | str | None):
                    properties[name]["default"] = each.default
                if text := texts.get(name):
                    properties[name]["description"] = " ".join(text.split())
            self.definitions[key] = {
                "type": ["object", "string"],
                "pattern": r"^\$",  # of a study's levels
                "properties": properties,
                "additionalProperties": False,
            }
        return {"$ref": f"#/definitions/{key}"}

    def _choice(self, kind: Any) -> Config:
        key = f"a {kind.__module__}.{kind.__qualname__}"
        if key not in self.definitions:
            self.definitions[key] = {}
            known = [each for each in buildable(kind) if each.__module__.partition(".")[0] in BUILDS]
            classes = {each.__name__: each for each in sorted(known, key=lambda each: each.__name__)}
            sizes = {name: named(path) for name, path in named_sizes().items()} if issubclass(kind, ImageModel) else {}
            built = {name: signature(size, eval_str=True).return_annotation for name, size in sizes.items()}
            made = classes | {name: size for name, size in sizes.items() if issubclass(built[name], kind)}
            full = rf"\.({'|'.join(made)})$|^(?!vitlab\.).*\."
            class_path = {"anyOf": [{"enum": [*made]}, {"type": "string", "pattern": full}]}
            each_takes = [
                {
                    "if": {"properties": {"class_path": {"pattern": rf"(^|\.){name}$"}}, "required": ["class_path"]},
                    "then": {"properties": {"init_args": self.arguments(built.get(name, each))}},
                }
                for name, each in made.items()
            ]
            properties = {"class_path": class_path, "init_args": {"type": ["object", "string", "null"]}}
            section = {"type": "object", "properties": properties, "additionalProperties": False, "allOf": each_takes}
            self.definitions[key] = {"anyOf": [class_path, section]}
        return {"$ref": f"#/definitions/{key}"}

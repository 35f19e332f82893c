"""Experiments as plain dictionaries: read YAML files and arguments, merge them, list what differs. Knows no torch.

Also which classes a configuration may name, and how class names are compared.
"""

import argparse
import difflib
import os
import re
import unicodedata
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from importlib import import_module
from inspect import Parameter, isclass, isfunction, isroutine, signature
from pathlib import Path
from typing import Any, get_args

import yaml

try:
    from yaml import CSafeLoader as SafeLoader  # of libyaml, eight times as fast
except ImportError:
    from yaml import SafeLoader  # type: ignore[assignment]

Config = dict[str, Any]
Report = Callable[[str], object]

DEEPEST, MOST_VALUES = 100, 100_000  # of any configuration, and then some

# These sections are recipes: another class of the same kind keeps the arguments that mean the same to it. Deeper down,
# equal names mean different things in different classes: AdamW's weight decay is not SGD's, a ViT's depth not a Swin's.
RECIPES = {"model": "vitlab.objectives", "data": "vitlab.data"}  # and where their short class names are looked up
MADE = {"trainer": "lightning.pytorch.Trainer", "run": "vitlab.runs.trainer.Run"}  # from the arguments in a section
SECTIONS = (*RECIPES, *MADE)

# Whether these differ between two starts of a run does not change its result.
HARMLESS = (
    "run.root",  # of one and the same directory, which may have been moved
    "run.name",
    "run.overwrite",
    "run.checkpoint",
    "run.not_finite",
    "run.compile",  # `vitlab.runs.exactness.inexact` reports it
    "run.wandb",
    "data.init_args.num_workers",
    "model.init_args.teacher.cache",
    "trainer.logger",
    "trainer.enable_progress_bar",
    "trainer.enable_model_summary",
    "trainer.profiler",
    "trainer.detect_anomaly",
    "trainer.log_every_n_steps",
)

# Where a run's defaults differ from those of Lightning's Trainer.
TRAINER_DEFAULTS = {"num_sanity_val_steps": 0, "use_distributed_sampler": False, "enable_model_summary": False}

ABSENT = "(absent)"
ROOTS = ("data.init_args.root", "data.init_args.table")  # where the images lie; digests tell if they are the same

TEXTS = ("name", "root", "table", "question")  # keys whose value is a text, 001 or 2024_01 too
WEIGHTS = ("init_from", "checkpoint_path", "weights")  # the last component of a key that names weights
FLAGS = {"--print_config"}  # options of every command that take no value

REMOVED = {"sampling": None, "mask_folder": None, "bits": 8, "adjust_lr_fn": "match_rms_adamw"}  # had no effect

IS_INSTALLED = (Path(__file__).parent / "experiments").is_dir()
SHIPPED = Path(__file__).resolve().parents[not IS_INSTALLED] / "experiments"  # of the package, else of the clone


def expanded(path: str | Path) -> str:
    """Return a path with `~` and `$NAME` replaced as a shell would, unless there is a file of just this name."""
    return os.fspath(path) if os.path.exists(path) else os.path.expanduser(os.path.expandvars(path))


def locate(path: str | Path) -> Path:
    """Return the file, whose `.yaml` may be left out, or run that a path means, else what vitlab ships of this name.

    `experiments/vit_cifar10.yaml` and `vit_cifar10` are the same experiment, `quickstart` is a study.
    """
    path = Path(expanded(path))
    if path.is_file() or (path / "config.yaml").is_file() or path.is_absolute() or ".." in path.parts:
        return path
    name = path.relative_to("experiments") if path.parts[:1] == ("experiments",) else path
    file = name if name.suffix in (".yaml", ".yml") else Path(f"{name}.yaml")
    candidates = (Path(f"{path}.yaml"), SHIPPED / file, SHIPPED / "studies" / file, path, SHIPPED / name)
    return next((candidate for candidate in candidates if name.parts and candidate.exists()), path)


def shipped() -> dict[str, Path]:
    """Return what vitlab ships to be run, by name: experiments, studies, published recipes and claims."""
    claims = ("claims", *(f"claims/{part}" for part in ("cifar10", "longer", "placed", "shapes")))
    folders = {"": "", "studies": "", **{folder: f"{folder}/" for folder in ("imagenet", *claims)}}
    files = [(prefix, path) for folder, prefix in folders.items() for path in sorted((SHIPPED / folder).glob("*.yaml"))]
    return {prefix + path.stem: path for prefix, path in files}


# ---- what a configuration may name: it may come from somebody else, as the folder of a run may

BUILDS = ("vitlab", "torch", "torchvision", "torchmetrics", "timm", "lightning", "__main__")
IMPORT = "VITLAB_IMPORT"  # environment variable: the modules that the user names, with commas


def trust(*modules: str) -> None:
    """Let configurations name what is in these modules, in this process and in those that it starts."""
    os.environ[IMPORT] = ",".join(dict.fromkeys([*_trusted(), *modules]))


def _trusted() -> list[str]:
    return [module for module in os.environ.get(IMPORT, "").split(",") if module]


def _is_in(path: str, modules: Sequence[str]) -> bool:
    return any(f"{path}.".startswith(f"{module}.") for module in modules)


def untrusted(path: str) -> str:
    """Return what to tell of a class or function that no file may name."""
    return f"{path} could run anything, so no file may name it. If it is yours: --import {path.rpartition('.')[0]}"


def named(path: str) -> Any:
    """Return the class or function with this import path; of one that no configuration may name, import nothing."""
    module, _, name = path.rpartition(".")
    if _is_in(module, (*BUILDS, *_trusted())):
        return getattr(import_module(module), name)
    raise ValueError(untrusted(path))


def import_only_known() -> None:
    """Let jsonargparse import the same modules and no others, and build nothing where no class is asked for."""
    from jsonargparse import set_parsing_settings

    set_parsing_settings(instantiate_subclass_spec_in_any=False, import_path_denylist=["*"])
    set_parsing_settings(import_path_allowlist=[*BUILDS, *_trusted()])


def refuse_code(node: Any, key: str = "") -> None:
    """Raise a ValueError if parsed values, of which nothing is built yet, name what could run anything.

    A parameter that takes a function, like those of Lightning's `LambdaCallback`, takes any, so `torch.load` too, and
    any class whose objects can be called.
    """
    node = vars(node) if isinstance(node, argparse.Namespace) else node
    if isinstance(node, list | tuple):
        for each in node:
            refuse_code(each, key)
    elif isinstance(node, dict):
        path, defaults = node.get("class_path"), dict[str, Parameter]()
        if isinstance(path, str):
            if not _is_harmless(path):
                raise ValueError(f"{key}: {untrusted(path)}")
            defaults = {**_parameters(path, "")}
        for name, value in node.items():
            if name == "init_args" and isinstance(value, argparse.Namespace):
                value = {k: v for k, v in vars(value).items() if k not in defaults or v is not defaults[k].default}
            refuse_code(value, key if name == "init_args" else f"{key}.{name}".lstrip("."))
    elif (isclass(node) or isroutine(node)) and not _is_harmless(node):
        raise ValueError(f"{key}: {untrusted(f'{node.__module__}.{node.__qualname__}')}")


def _is_harmless(made: Any) -> bool:
    """Return whether a class or function, or an import path, is the user's own or cannot be called for its effects."""
    try:
        made = named(made) if isinstance(made, str) else made
    except (ImportError, AttributeError):
        return True  # the parser answers
    except ValueError:
        return False
    home = str(getattr(made, "__module__", None))
    named_size_or_start = isfunction(made) and home in ("vitlab.models", "vitlab.models.layers")
    if _is_in(home, _trusted()) or named_size_or_start:
        return True
    names = {f"{base.__module__}.{base.__name__}" for base in getattr(made, "__mro__", ())}
    called = any("__call__" in vars(base) for base in getattr(made, "__mro__", ()))
    return isclass(made) and (
        not called or home.startswith("vitlab.data.") or "torch.nn.modules.module.Module" in names
    )


class Loader(SafeLoader):
    """Reads keys and names as they are written, like off, 001 and 1e-4; elsewhere 1e-3 is a number, 1e5 a whole one."""

    def construct_yaml_float(self, node: Any) -> float:
        number: float = super().construct_yaml_float(node)
        return int(number) if "." not in node.value and number.is_integer() else number

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        own = [key.value for key, _ in node.value if key.value != "<<"]  # of `<<` YAML merges several
        for key in own:
            if own.count(key) > 1:  # of which PyYAML takes the last
                raise yaml.constructor.ConstructorError(problem=f"`{key}` is given twice", problem_mark=node.start_mark)
        self.flatten_mapping(node)
        for key, value in node.value:
            named = key.value in TEXTS and isinstance(value, yaml.ScalarNode) and not value.tag.endswith(":null")
            for text in (key, value) if named else (key,):
                text.tag = "tag:yaml.org,2002:str"
        return super().construct_mapping(node, deep)


class Dumper(yaml.SafeDumper):
    """Quotes texts that `Loader` and jsonargparse would read as numbers."""


Loader.add_constructor("tag:yaml.org,2002:float", Loader.construct_yaml_float)
for _each in (Loader, Dumper):
    _number = re.compile(r"[-+]?(\.\d+|\d[\d_]*\.?[\d_]*)[eE][-+]?\d+$")  # YAML 1.1 wants 1.0e+5
    _each.add_implicit_resolver("tag:yaml.org,2002:float", _number, list("-+.0123456789"))


def dump_yaml(config: Config) -> str:
    """Return a configuration as a text from which it is read again."""
    return yaml.dump(config, Dumper=Dumper, sort_keys=False, allow_unicode=True)


def load_yaml(path: str | Path, loader: Any = Loader) -> Config:
    """Read one YAML file whose top level is a mapping, or one that vitlab ships (`locate`)."""
    path = locate(path)
    if not path.is_file():
        if path.suffix in (".yaml", ".yml"):
            siblings = ", ".join(sorted(p.name for p in path.parent.glob("*.yaml"))) or "no YAML file"
            raise FileNotFoundError(f"No configuration {path}. {path.parent}/ contains {siblings}.")
        runs = [str(file.parent) for deep in ("*/*", "*/*/*") for file in Path("runs").glob(f"{deep}/config.yaml")]
        near = " or ".join(difflib.get_close_matches(str(path), [*shipped(), *runs], n=2, cutoff=0.5))
        hint = f"Did you mean {near}? " if near else ""
        where = "`python -m vitlab init` lists what vitlab ships, `python -m vitlab list` the runs."
        raise FileNotFoundError(f"No configuration or run {path}. {hint}{where}")
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"), str(path), loader)
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a text in UTF-8; --ckpt_path takes a checkpoint.") from None
    if not isinstance(content, dict):
        found = "is empty" if content is None else f"contains a {type(content).__name__}"
        raise ValueError(f"{path} {found}; expected a mapping like `trainer: {{max_epochs: 10}}`.")
    return modernize(content)


def parse_yaml(text: str, source: str, loader: Any = Loader) -> Any:
    """Return the content of a YAML text of a `source`, a file or an option; messages give line and column.

    Brackets so deep that libyaml crashes, and aliases that repeat without end, are refused before anything is built.
    """
    path, sizes = list[list[Any]]([[None, 0]]), dict[str | None, int]()  # anchor and values of what is open; by anchor
    try:
        for event in yaml.parse(text, Loader=SafeLoader):
            if isinstance(event, yaml.CollectionStartEvent):
                path.append([event.anchor, 1])
            elif isinstance(event, yaml.CollectionEndEvent):
                anchor, size = path.pop()
                sizes[anchor] = size
                path[-1][1] += size
            elif isinstance(event, yaml.AliasEvent):
                path[-1][1] += sizes.get(event.anchor, MOST_VALUES + 1)  # it is in what it repeats
            elif isinstance(event, yaml.ScalarEvent):
                sizes[event.anchor] = 1
                path[-1][1] += 1
            if len(path) > DEEPEST or path[-1][1] > MOST_VALUES:
                place: Any = event.start_mark
                where = f"{source}, line {place.line + 1}"
                raise ValueError(f"{where}: more than {DEEPEST} levels, or {MOST_VALUES:,} values with aliases.")
        return yaml.load(text, Loader=loader)
    except yaml.MarkedYAMLError as error:
        mark: Any = error.problem_mark
        began = f", {error.context} that begins in line {error.context_mark.line + 1}" if error.context_mark else ""
        where = f"{source}, line {mark.line + 1}, column {mark.column + 1}"
        raise ValueError(f"{where}: not valid YAML, {error.problem}{began}.") from None
    except yaml.YAMLError as error:  # a character that no text has
        raise ValueError(f"{source} is not valid YAML: {error}".partition("\n")[0]) from None


def modernize(config: Any) -> Any:
    """Return a configuration of today: without `REMOVED`, `labels` of a table and arguments left empty."""
    if isinstance(config, list):
        return [modernize(each) for each in config]
    if not isinstance(config, dict):
        return config
    if {"table", "labels"} <= config.keys():  # of a LabelTable before 0.3.0
        columns = {"label": config["labels"]} if config["labels"] else None
        config = {key: x for key, x in config.items() if key != "labels"} | {"columns": columns}
    removed = REMOVED if config.keys() & {"split_seed", "ns_steps"} else {}  # of a complete data module, or Muon
    empty = {"init_args": None, **removed}
    return {key: modernize(x) for key, x in config.items() if key not in empty or x != empty[key]}


def merge(base: Config, override: Config, report: Report | None = None) -> Config:
    """Return `base` with `override` on top: mappings merge, anything else replaces.

    A mapping that names another `class_path` replaces the old one whole: merging would hand the old class's arguments
    to the new one wherever a name fits both. The sections `model` and `data` keep what the new class takes too; a text
    there is a class. A section without content changes nothing. `report` gets a line for each class that changes.
    """
    base, override = (
        {
            key: {"class_path": value} if key in RECIPES and isinstance(value, str) else value
            for key, value in config.items()
            if key not in SECTIONS or value is not None
        }
        for config in (base, override)
    )
    for key, home in RECIPES.items():
        if _changes_class(base.get(key), override.get(key)):
            override[key] = _inherit(base[key], override[key], home)
    return _merge(base, override, "", report)


def _merge(base: Config, override: Config, path: str, report: Report | None) -> Config:
    merged = base | override
    for key in (key for key in override if key in base):
        old, value = base[key], override[key]
        if isinstance(old, dict) and isinstance(value, dict) and not _changes_class(old, value):
            merged[key] = _merge(old, value, f"{path}{key}.", report)
        elif isinstance(old, dict) and isinstance(value, dict) and report is not None:
            before, after = flatten(old.get("init_args") or {}), flatten(value.get("init_args") or {})
            lost = [f"{short(name)}={before[name]}" for name in before if name not in after]
            kept = [name for name in before if not path and key in RECIPES and before[name] == after.get(name, ABSENT)]
            if lost or kept:
                names = " replaces ".join(node["class_path"].rpartition(".")[2] for node in (value, old))
                own = f"; kept {', '.join(dict.fromkeys(name.partition('.')[0] for name in kept))}" if kept else ""
                report(f"{short(path + key)}: {names}{own}; dropped {', '.join(lost) or 'nothing'}.")
    return merged


def _inherit(old: Config, new: Config, home: str) -> Config:
    """Return `new` with those arguments of `old` under its own that its class takes too.

    Of a method, those for which both classes publish the same default: MAE and SimMIM mask another share of an image.
    """
    takes, took = _parameters(new["class_path"], home), _parameters(old["class_path"], home)
    inherited = {}
    for name, value in old.get("init_args", {}).items():
        if name not in takes or (
            home == RECIPES["model"] and name in took and took[name].default != takes[name].default
        ):
            continue
        kind = _dataclass_in(takes[name].annotation)
        if isinstance(value, dict) and "class_path" not in value and kind is not None:
            known = {field.name for field in fields(kind)}
            value = {key: inner for key, inner in value.items() if key in known}
        inherited[name] = value
    return {**new, "init_args": _merge(inherited, new.get("init_args", {}), "", None)}


def _dataclass_in(annotation: Any) -> Any:
    return next((kind for kind in (annotation, *get_args(annotation)) if is_dataclass(kind)), None)


def parameters_of(made: Any) -> Mapping[str, Parameter]:
    """Return the arguments of a class or function; of a class that passes others on by `**`, its base's too."""
    known: dict[str, Parameter] = {}
    for each in getattr(made, "__mro__", (made,)):
        own = signature(each, eval_str=True).parameters
        known = {**own, **known}
        if all(parameter.kind is not Parameter.VAR_KEYWORD for parameter in own.values()):
            break
    return known


def _parameters(class_path: str, home: str) -> Mapping[str, Parameter]:
    try:
        return parameters_of(named(class_path if "." in class_path else f"{home}.{class_path}"))
    except (ImportError, AttributeError, NameError, ValueError):  # the parser answers a wrong name
        return {}


def _changes_class(old: Any, new: Any) -> bool:
    """Return whether `new` names another class than `old`; `AdamW` and `vitlab.optim.AdamW` are the same one."""
    paths = [node.get("class_path") if isinstance(node, dict) else None for node in (old, new)]
    return None not in paths and len({str(path).rpartition(".")[2] for path in paths}) == 2


def flatten(config: Config, prefix: str = "") -> Config:
    """Return one level of dotted keys; an empty mapping stays a value, so that nothing vanishes."""
    flat: Config = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def texts_of(node: Any, key: object = "") -> Iterator[tuple[str, bool]]:
    """Yield every text in a configuration, and whether it is the value of a `class_path`."""
    if isinstance(node, str):
        yield node, key == "class_path"
    elif isinstance(node, list | tuple):
        node = dict(enumerate(node))
    for inner, value in node.items() if isinstance(node, dict) else ():
        yield from texts_of(value, inner)


def nest(key: str, value: Any) -> Config:
    """Return the configuration that sets a dotted key, the inverse of `flatten`."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return dict(value)


def weights_of(config: Config) -> dict[str, str]:
    """Return where a configuration takes weights from, by key; of timm's pretrained weights `timm/` and the name."""
    flat = flatten(config.get("model", {}), "model.")
    sources = {}
    for key, value in flat.items():
        last = key.rpartition(".")[2]
        if last in WEIGHTS and isinstance(value, str):
            sources[key] = value
        elif last == "pretrained" and value is True:
            sources[key] = f"timm/{flat.get(f'{key.removesuffix(last)}name')}"
    return sources


def changes(stored: Config, wanted: Config) -> list[tuple[str, Any, Any]]:
    """List `(dotted key, stored value, wanted value)` wherever two configurations differ, in the order of the keys.

    Settings that did not exist when `stored` was written and have their default are no changes.
    """
    left, right = flatten(stored), flatten(wanted)
    both = [(key, left.get(key, ABSENT), right.get(key, ABSENT)) for key in left | right]
    changed = [(key, old, new) for key, old, new in both if old != new]
    return [each for each in changed if each[1] != ABSENT or not _is_default(stored, wanted, each[0], each[2])]


def conflicts(stored: Config, wanted: Config) -> list[tuple[str, Any, Any]]:
    """List the changes between two starts of a run that make it another run."""
    return [change for change in changes(stored, wanted) if not change[0].startswith(HARMLESS)]


def _is_default(stored: Any, wanted: Config, key: str, value: Any) -> bool:
    """Return whether a value is the default of an argument of what `stored` describes too, a class or a dataclass."""
    *path, name = key.split(".")
    if not path:
        return value is None  # the default of `init_seed`
    known = _parameters(MADE[path[0]], "") if path[0] in MADE else {}
    for depth, part in enumerate(path):
        if part == "init_args":
            known = _parameters(wanted["class_path"], "")
        elif depth:
            default = getattr(known.get(part), "default", None)
            kind = _dataclass_in(known[part].annotation) if part in known else None
            inner = signature(kind, eval_str=True).parameters if kind else {}
            known = {n: each.replace(default=getattr(default, n, each.default)) for n, each in inner.items()}
        stored, wanted = stored.get(part), wanted[part]
        if not isinstance(stored, dict):
            return False
    default = known[name].default if name in known else ABSENT
    return bool(default == (tuple(value) if isinstance(value, list) else value))


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the files that `--config` names, or that stand alone, and the other arguments.

    A YAML file needs no `--config` unless it is an option's value, nor does what comes first, a run directory or what
    vitlab ships: `fit my.yaml`, `fit vit_cifar10`.
    """
    files: list[str] = []
    rest: list[str] = []
    pending = iter(arguments)
    after_option = False
    for argument in pending:
        name, equals, value = argument.partition("=")
        if name in {"-c", "--config"}:
            files.append(value if equals else next(pending, ""))
        elif not (after_option or argument.startswith("-")) and (
            argument.endswith((".yaml", ".yml"))
            or (not {*rest} - FLAGS and (Path(argument).is_dir() or locate(argument).is_file()))
        ):
            files.append(argument)
        else:
            rest.append(argument)
        after_option = argument.startswith("--") and not equals and name not in {"--config", *FLAGS}
    return [expanded(file) for file in files], rest


def gather(sources: Sequence[str | Path | Config], rest: Sequence[str], report: Report | None = None) -> Config:
    """Merge files and mappings; an argument that names another class changes it as another file would."""
    config: Config = {}
    for source in sources:
        config = merge(config, modernize(source) if isinstance(source, dict) else load_yaml(source), report)
    for key, value in pairs(rest):
        place, node = list[str](), config
        for part in key.removesuffix(".class_path").split("."):
            if "init_args" in node and part not in node:
                place, node = [*place, "init_args"], node["init_args"]
            place, node = [*place, part], node.get(part) or {}
            if not isinstance(node, dict):
                break
        else:
            named = modernize(parse_yaml(value, f"--{key}")) if value.startswith("{") else {"class_path": value}
            if value != "null" and _changes_class(node, named):
                config = merge(config, nest(".".join(place), named), report)
    return config


def pairs(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """Return (key without `--` and `init_args`, value) of each `--key value` and `--key=value`."""
    options = []
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=False):
        if argument.startswith("--"):
            name, equals, value = argument.partition("=")
            options.append((short(name.removeprefix("--")), value if equals else following))
    return options


def short(key: str) -> str:
    """Return a dotted key as on the command line, without the `init_args` in it."""
    return key.replace(".init_args", "")


def plain(name: str) -> str:
    """Return a class name as names are compared: composed in Unicode (NFC), single spaces, none at the ends."""
    return " ".join(unicodedata.normalize("NFC", str(name)).split())


def rows_by_name(known: Sequence[str], wanted: Sequence[str]) -> list[int | None]:
    """Return for each class wanted its place among those known, None where none has its name, see `plain`."""
    places = {plain(name): place for place, name in enumerate(known)}
    return [places.get(plain(name)) for name in wanted]

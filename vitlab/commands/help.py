"""The `--help` of fit, validate and test, read from source files, so that it answers without importing torch."""

import ast
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vitlab.config import TRAINER_DEFAULTS

ROOM = 78  # columns for a text and its default

Options = dict[str, tuple[str, Any]]
"""Text and default of each option by its key."""

FIRST: Options = {
    "config": ("YAML file or run directory; repeat it to merge several", None),
    "print_config": ("Print the complete configuration and exit", None),
    "seed_everything": ("Seed of weights, data order and augmentation", 0),
    "init_seed": ("Seed of weights, dropout and masks alone; null: seed_everything", None),
    "model": ("Objective: Supervised, Distillation, MultiLabel, Regression, MAE, SimMIM, DINO, MSN", None),
    "model.backbone": ("Backbone: VisionTransformer, SwinTransformer, SwinTransformerV2, TimmModel", None),
    "model.optimizer": ("Optimizer: AdamW, Muon, SGD, AnyOptimizer", None),
    "model.schedule": ("Learning rate: WarmupCosine, WarmupStableDecay, WarmupSteps", None),
    "data": ("Data set: CIFAR10, CIFAR100, Digits, PlacedDigits, Shapes, ImageFolder", None),
    "ckpt_path": ("Checkpoint to continue from or to evaluate: a file, last, best or none", None),
}
SETTINGS_OF_RUN = {
    "run": ("trainer.py", "Run"),
    "run.checkpoint": ("checkpoints.py", "Checkpointing"),
    "run.wandb": ("wandb.py", "Wandb"),
}
END = """
A backbone may also be a size under timm's name (vit_…, deit_…, deit3_…, swin_…, swinv2_…), such as
--model.backbone swin_tiny_patch4_window7_224, or a small ResNet or ConvNeXt: resnet_mini_32, resnet_micro_16,
convnext_mini_32, convnext_micro_16. A class of your own is given by its import path. --model.help Supervised
and --data.help CIFAR10 list the arguments of a class; each is a key: --model.optimizer.lr 3e-4, --data.batch_size 64.
"""


CLASSES = ("model", "model.backbone", "model.optimizer", "model.schedule", "data")


def class_names(key: str) -> list[str]:
    """Return what can be given for one of `CLASSES` by its name alone."""
    assigned = ast.parse((Path(__file__).parents[1] / "models" / "sizes.py").read_text(encoding="utf-8")).body
    named = [ast.unparse(each).split(" = named_size(") for each in assigned if isinstance(each, ast.Assign)]
    sizes = [name for name, *arguments in named if arguments]
    return FIRST[key][0].partition(": ")[2].split(", ") + (sizes if key == "model.backbone" else [])


def help_of_run() -> str:
    """Return one line for each option."""
    sections = {"What is run": FIRST, "The run directory": run_options(), "Lightning's Trainer": trainer_options()}
    lines = [line for title, options in sections.items() for line in (title, *map(_line, options.items()))]
    return "\n".join([*lines, END])


def run_options() -> Options:
    """Return the options `run.…`: the fields of three dataclasses."""
    options: Options = {}
    for prefix, (file, name) in SETTINGS_OF_RUN.items():
        node = _class(Path(__file__).parents[1] / "runs" / file, name)
        texts = _texts(node)
        for field in node.body:
            if isinstance(field, ast.AnnAssign):
                argument = ast.unparse(field.target)
                options[f"{prefix}.{argument}"] = texts[argument], _value(field.value)
    return {key: option for key, option in options.items() if key not in SETTINGS_OF_RUN}


def trainer_options() -> Options:
    """Return the options `trainer.…`: the arguments of Lightning's Trainer, with a run's own defaults."""
    (folder,) = find_spec("lightning").submodule_search_locations  # type: ignore[union-attr, misc]
    node = _class(Path(folder) / "pytorch" / "trainer" / "trainer.py", "Trainer")
    init = next(item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__")
    texts, arguments = _texts(init), [argument.arg for argument in init.args.kwonlyargs]
    defaults = dict(zip(arguments, map(_value, init.args.kw_defaults), strict=True)) | TRAINER_DEFAULTS
    return {f"trainer.{name}": (texts.get(name, ""), default) for name, default in defaults.items()}


def _class(file: Path, name: str) -> ast.ClassDef:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)


def _value(node: ast.expr | None) -> Any:
    return None if node is None or isinstance(node, ast.Call) else ast.literal_eval(node)


def _texts(node: ast.ClassDef | ast.FunctionDef) -> dict[str, str]:
    """Return the first sentence of each entry below `Args:` in a docstring."""
    texts: dict[str, str] = {}
    name = ""
    for line in (ast.get_docstring(node) or "").partition("Args:\n")[2].splitlines():
        if line and not line.startswith(" "):
            break
        entry, colon, text = line.partition(":")
        if line.startswith("    ") and line[4:5].strip() and colon and entry.strip().isidentifier():
            name = entry.strip()
            texts[name] = text.strip()
        elif name:
            texts[name] += f" {line.strip()}"
    return {name: " ".join(text.replace("``", "").split()).split(". ")[0].rstrip(".") for name, text in texts.items()}


def _line(option: tuple[str, tuple[str, Any]]) -> str:
    name, (text, default) = option
    shown = "" if default is None else f" [{default}]"
    room = ROOM - len(shown)
    return f"  --{name:<37} {text if len(text) <= room else f'{text[: room - 1]}…'}{shown}"

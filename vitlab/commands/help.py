"""The `--help` of fit, validate and test, read from source files, so that it answers without importing torch."""

import ast
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vitlab.config import TRAINER_DEFAULTS

ROOM = 78  # columns for a text and its default

OBJECTIVES = "Supervised, Distillation, MAE, SimMIM, DINO, MSN"
DATA = "CIFAR10, CIFAR100, Digits, ImageFolder"
FIRST = {
    "--config": "YAML file or run directory; repeat it to merge several",
    "--print_config": "Print the complete configuration and exit",
    "--seed_everything": "Seed of weights, data order and augmentation [0]",
    "--model": f"Objective: {OBJECTIVES}",
    "--model.backbone": "vit_small_patch16_224, swin_tiny_patch4_window7_224, TimmModel …",
    "--data": f"Data set: {DATA}",
    "--ckpt_path": "Checkpoint to continue from or to evaluate: a file, last, best or none",
}
END = """
A class of your own is given by its import path. --model.help Supervised and --data.help CIFAR10 list the arguments of
a class; each is a key: --model.optimizer.lr 3e-4, --data.batch_size 64.
"""


def help_of_run() -> str:
    """Return one line for each option."""
    package = Path(__file__).parents[1]
    lightning = Path((find_spec("lightning") or find_spec("vitlab")).submodule_search_locations[0])  # type: ignore
    lines = ["What is run", *(_line(name, text) for name, text in FIRST.items()), "The run directory"]
    for file, name, prefix in (
        ("runs/trainer.py", "Run", "run"),
        ("runs/checkpoints.py", "Checkpointing", "run.checkpoint"),
        ("runs/wandb.py", "Wandb", "run.wandb"),
    ):
        node = _class(package / file, name)
        lines += _lines(prefix, dict(_fields(node)), _texts(ast.get_docstring(node)))
    lines.append("Lightning's Trainer")
    node = _class(lightning / "pytorch/trainer/trainer.py", "Trainer")
    init = next(item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__")
    arguments = [argument.arg for argument in init.args.kwonlyargs]
    defaults = dict(zip(arguments, map(_value, init.args.kw_defaults), strict=True)) | TRAINER_DEFAULTS
    lines += _lines("trainer", defaults, _texts(ast.get_docstring(init)))
    return "\n".join([*lines, END])


def _class(file: Path, name: str) -> ast.ClassDef:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)


def _fields(node: ast.ClassDef) -> Iterator[tuple[str, Any]]:
    """Yield the fields of a dataclass and their defaults, but for those that are dataclasses themselves."""
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            nested = isinstance(item.value, ast.Call) and "list" not in ast.unparse(item.value)
            if not nested:
                yield item.target.id, _value(item.value)


def _value(node: ast.expr | None) -> Any:
    return None if node is None or isinstance(node, ast.Call) else ast.literal_eval(node)


def _texts(docstring: str | None) -> dict[str, str]:
    """Return the first sentence of each entry below `Args:` in a docstring."""
    texts: dict[str, str] = {}
    name = ""
    for line in (docstring or "").partition("Args:\n")[2].splitlines():
        if line and not line.startswith(" "):
            break
        entry, colon, text = line.partition(":")
        if line.startswith("    ") and line[4:5].strip() and colon and entry.strip().isidentifier():
            name = entry.strip()
            texts[name] = text.strip()
        elif name:
            texts[name] += f" {line.strip()}"
    return {name: " ".join(text.replace("``", "").split()).split(". ")[0].rstrip(".") for name, text in texts.items()}


def _lines(prefix: str, defaults: dict[str, Any], texts: dict[str, str]) -> Iterator[str]:
    for name, default in defaults.items():
        shown = "" if default is None else f" [{default}]"
        text, room = texts.get(name, ""), ROOM - len(shown)
        yield _line(f"--{prefix}.{name}", (text if len(text) <= room else f"{text[: room - 1]}…") + shown)


def _line(name: str, text: str) -> str:
    return f"  {name:<39} {text}"

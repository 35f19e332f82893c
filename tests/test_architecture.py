"""The design's arrows: who may import whom. Read from the source, so that imports inside functions count too."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "vitlab"

# Each part may import itself, `config`, `files` and what stands here.
MAY_IMPORT: dict[str, set[str]] = {
    "config": set(),
    "models": set(),
    "optim": set(),
    "ema": set(),
    "masking": set(),
    "loggers": set(),
    "lock": set(),
    "memory": set(),
    "files": set(),
    "resume": {"processes"},
    "checkpoints": set(),
    "processes": set(),
    "sharding": {"models"},  # which parts of a network are gathered by themselves, its interface says
    "utilisation": set(),
    "data": {"processes"},
    "objectives": {"models", "masking", "optim", "ema", "processes", "sharding"},
    "evaluation": {"models"},
    "analysis": {"models"},
    "callbacks": {
        "checkpoints",
        "evaluation",
        "objectives",
        "ema",
        "loggers",
        "processes",
        "resume",
        "sharding",
        "utilisation",
    },
    "pictures": {"analysis", "callbacks", "loggers", "objectives", "sharding"},
    "studies": {"data", "evaluation", "memory", "models", "utilisation"},
    "errors": set(),
    "class_names": {"errors"},
    "run_directory": set(),
    "trainer_options": {"models", "objectives"},
    "options": {"errors"},
    "benchmarks": {"cli", "memory_benchmarks", "models", "objectives", "options", "studies"},
    "memory_benchmarks": {"cli", "memory", "models", "objectives", "options", "studies"},
    "other_sizes": {"analysis", "cli", "evaluation", "models", "studies"},
    "cli": {
        "callbacks",
        "checkpoints",
        "class_names",
        "data",
        "errors",
        "files",
        "lock",
        "loggers",
        "not_finite",
        "objectives",
        "optim",
        "models",
        "resume",
        "run_directory",
        "trainer_options",
        "utilisation",
    },
    "doctor": set(),
    "preparing": {"data"},
    "not_finite": {"data", "files", "objectives", "processes", "resume", "sharding"},
    "deployment": {"data", "evaluation", "models", "objectives", "studies"},
    "commands": {
        "analysis",
        "benchmarks",
        "callbacks",
        "cli",
        "data",
        "deployment",
        "doctor",
        "errors",
        "evaluation",
        "loggers",
        "memory",
        "models",
        "not_finite",
        "objectives",
        "options",
        "other_sizes",
        "pictures",
        "preparing",
        "studies",
    },
    "__main__": {"commands", "run_directory"},
    "__init__": set(),
}


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_parts(path: Path) -> set[str]:
    modules: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "vitlab":
            modules += [f"vitlab.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides where a name comes from"
            modules.append(node.module or "")
    return {module.split(".")[1] for module in modules if module.startswith("vitlab.")}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_follow_the_design(path: Path) -> None:
    part = part_of(path)
    assert imported_parts(path) <= MAY_IMPORT[part] | {part, "config", "files"}


@pytest.mark.parametrize("name", ["utils", "common", "misc", "helpers"])
def test_no_file_is_named_after_nothing(name: str) -> None:
    assert not list(PACKAGE.rglob(f"{name}.py"))

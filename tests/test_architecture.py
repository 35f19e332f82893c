"""The rooms of the package and the arrows between them: who may import whom. Imports inside functions count too."""

import ast
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

PACKAGE = Path(__file__).parent.parent / "vitlab"


# Imports nothing of the package but itself; `exported` and `log` are of vitlab/__init__.py.
GROUND = {"config", "atomic_files", "distributed", "optim", "internals", "signals", "exported", "log"}


ROOMS = ("experiment", "runs", "data", "objectives", "models", "evaluation", "analysis", "studies", "deployment")
MAY_IMPORT: dict[str, set[str]] = {
    "models": set(),
    "data": set(),
    "evaluation": {"models"},
    "analysis": {"runs", "data", "objectives", "models"},
    "objectives": {"models"},
    "runs": {"data", "objectives", "models", "evaluation"},
    "experiment": {"runs", "data", "objectives", "models", "evaluation"},
    "studies": {"experiment", "runs", "evaluation", "analysis", "data"},
    # `load` and `predict` frame pictures as the data do, without the training images.
    "deployment": {"experiment", "runs", "evaluation", "models", "data"},
    "commands": {*ROOMS},
}


def room_of(module: str) -> str:
    return module.split(".")[1] if module.startswith("vitlab.") else ""


def imported_rooms(path: Path) -> set[str]:
    modules: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "vitlab":
            modules += [f"vitlab.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides where a name comes from"
            modules.append(node.module or "")
    return {room_of(module) for module in modules} - {""}


def test_imports_follow_the_drawing() -> None:
    wrong = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room not in {"__init__", "__main__"}:
            wrong[str(path)] = imported_rooms(path) - (MAY_IMPORT.get(room, set()) | GROUND | {room})
    assert len(wrong) > 150
    assert {path: rooms for path, rooms in wrong.items() if rooms} == {}


@pytest.mark.parametrize("room", ["vitlab", *(f"vitlab.{room}" for room in MAY_IMPORT if room != "commands")])
def test_what_a_room_exports_is_there(room: str) -> None:
    exports = getattr(import_module(room), "__all__", [])
    assert len(set(exports)) == len(exports)
    assert not [name for name in exports if isinstance(getattr(import_module(room), name), ModuleType)]


# Within studies: compare and its neighbors ─► training ─► file
#                              └─► report ─► results ─► file, referee
WITHIN_STUDIES = {
    "file": {"file"},
    "training": {"training", "file"},
    "results": {"results", "file"},
    "report": {"report", "results", "file"},
}


def test_imports_within_studies_follow_the_drawing() -> None:
    wrong = {}
    for path in sorted([*(PACKAGE / "studies").glob("*/*.py"), PACKAGE / "studies" / "results.py"]):
        imported = {
            node.module.split(".")[2]
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vitlab.studies.")
        }
        wrong[str(path)] = imported - WITHIN_STUDIES[path.stem if path.stem in WITHIN_STUDIES else path.parent.name]
    assert len(wrong) > 15
    assert {path: parts for path, parts in wrong.items() if parts} == {}


def test_the_package_has_at_most_18_entries() -> None:
    no_code = ("__pycache__", "py.typed", "experiments")
    assert len([entry for entry in PACKAGE.iterdir() if entry.name not in no_code]) <= 18


def test_nothing_imports_the_benchmarks() -> None:
    assert not [
        path
        for path in PACKAGE.rglob("*.py")
        if "import benchmarks" in (text := path.read_text()) or "from benchmarks" in text
    ]


@pytest.mark.parametrize("name", ["utils", "common", "misc", "helpers"])
def test_no_file_is_named_after_nothing(name: str) -> None:
    assert not list(PACKAGE.rglob(f"{name}.py"))

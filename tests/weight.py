"""How heavy each room of the house is: `make weight`, or `python -m tests.weight`.

Lines are those of .py and .jinja files, tests apart. budgets.yaml has what a room may hold at last (`budget`) and,
where it holds more today, what it may hold until then (`today`). tests/test_weight.py fails above it.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
BUDGETS = yaml.safe_load((ROOT / "tests" / "budgets.yaml").read_text())
ROOMS = {
    **{f"vitlab/{room}": f"vitlab/{room}/**/*" for room in BUDGETS["rooms"] if (ROOT / "vitlab" / room).is_dir()},
    "vitlab/*.py": "vitlab/*",
    "vitlab": "vitlab/**/*",
    "referee": "referee/src/**/*",
    "tests": "*tests/**/*",
    "benchmarks": "benchmarks/**/*",
}


def files_of(pattern: str) -> list[Path]:
    found = [*ROOT.glob(pattern), *(ROOT.glob("referee/" + pattern[1:]) if pattern.startswith("*") else [])]
    return sorted(path for path in found if path.suffix in {".py", ".jinja"} and "experiments" not in path.parts)


def lines_of(path: Path) -> int:
    return len(path.read_text().splitlines())


def bodies(path: Path) -> Iterator[int]:
    """Yield the lines of each function's body, without its docstring."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            yield body[-1].end_lineno - body[0].lineno + 1 if body else 0  # type: ignore[operator]


def main() -> None:
    print(f"{'room':<20}{'files':>6}{'lines':>8}{'budget':>8}{'body':>7}  (lines of body per function)")
    for room, pattern in ROOMS.items():
        paths = files_of(pattern)
        functions = [lines for path in paths if path.suffix == ".py" for lines in bodies(path)]
        budget = BUDGETS["rooms"][room.removeprefix("vitlab/")]["budget"]
        mean = sum(functions) / len(functions)
        print(f"{room:<20}{len(paths):>6}{sum(map(lines_of, paths)):>8}{budget:>8}{mean:>7.1f}")


if __name__ == "__main__":
    main()

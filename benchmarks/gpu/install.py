"""Install what a machine without a network lacks from a folder of wheels; needs Python and pip alone.

    python benchmarks/gpu/install.py wheels

Wheels of packages that are there in a version that pyproject.toml allows are left out. Goes into the active virtual
environment, or without one into .venv/gpu, which sees the packages of the system; prints its Python.

    python benchmarks/gpu/install.py --needed vitlab pytest

prints these packages and all that they need, in the versions that are installed where there is a network.
"""

import re
import subprocess
import sys
import tomllib
import venv
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

ROOT = Path(__file__).parents[2]
ENVIRONMENT = ROOT / ".venv" / "gpu"
BOUND = re.compile(r"([<>]=?)([\d.]+)")


def main() -> int:
    if sys.argv[1] == "--needed":
        print(*(f"{name}=={version(name)}" for name in sorted(needed(sys.argv[2:]))), sep="\n")
        return 0
    folder = Path(sys.argv[1])
    wheels = sorted(folder.glob("*.whl"))
    if not wheels:
        print(f"error: {folder} has no wheels; `make wheels` downloads them where there is a network.", file=sys.stderr)
        return 2
    if sys.prefix == sys.base_prefix:
        if not (ENVIRONMENT / "bin" / "python").exists():
            venv.create(ENVIRONMENT, system_site_packages=True, symlinks=True)  # pip is the system's
        return subprocess.run([ENVIRONMENT / "bin" / "python", __file__, *sys.argv[1:]], check=False).returncode
    if names := lacking(wheels, bounds(ROOT / "pyproject.toml")):
        options = ["--no-index", "--no-deps", "--disable-pip-version-check", "--find-links", str(folder), "--upgrade"]
        subprocess.run([sys.executable, "-m", "pip", "install", *options, *names], stdout=sys.stderr, check=True)
    print(sys.executable)
    return 0


def needed(names: Iterable[str]) -> set[str]:
    """Return packages that are installed, and all that they need, each without what only its extras need."""
    from packaging.requirements import Requirement  # of an environment with a network

    found: set[str] = set()
    left = [(name, {""}) for name in names]
    while left:
        name, extras = left.pop()
        for requirement in map(Requirement, requires(name) or []):
            marker = requirement.marker
            is_needed = marker is None or any(marker.evaluate({"extra": extra}) for extra in extras)
            if is_needed and (normal(requirement.name) not in found or requirement.extras):
                left.append((requirement.name, {"", *requirement.extras}))
        found.add(normal(name))
    return found


def bounds(pyproject: Path) -> dict[str, str]:
    dependencies = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["dependencies"]
    parts = [re.match(r"([\w.-]+)(?:\[.*\])?(.*)", each) for each in dependencies]
    return {normal(part[1]): part[2] for part in parts if part}


def lacking(wheels: Iterable[Path], allowed: dict[str, str], installed: Callable[[str], str] = version) -> list[str]:
    """Return the packages among the wheels that are not installed, or in a version that is not allowed."""
    lack = []
    for name in dict.fromkeys(normal(wheel.name.split("-")[0]) for wheel in wheels):
        limits = BOUND.findall(allowed.get(name, ""))
        try:
            own = numbers(installed(name))
        except PackageNotFoundError:
            own = ()
        if not own or not all(own >= numbers(x) if sign == ">=" else own < numbers(x) for sign, x in limits):
            lack.append(name)
    return lack


def numbers(text: str) -> tuple[int, ...]:
    """Return the release of a version: of 2.11.0+cu130 (2, 11, 0)."""
    found = re.match(r"\d+(\.\d+)*", text)
    return tuple(map(int, found[0].split("."))) if found else ()


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    sys.exit(main())

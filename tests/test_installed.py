"""vitlab as a user has it who installs the wheels: no clone, an empty folder, the commands by name.

The environment is empty but for the two wheels; what they depend on is lent to it by the one that tests, since an
installation of its own takes 6 GB and a network. `VITLAB_TEST_INSTALL=1`, of `make test-release`, makes it for real.
"""

import os
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path
from sysconfig import get_path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import EXPERIMENTS, edges

ROOT = EXPERIMENTS.parent
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Build both wheels from what git has of the project."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheels")
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    archive = subprocess.run(["tar", "-cf-", "--null", "-T-"], cwd=ROOT, input=files, capture_output=True, check=True)
    subprocess.run(["tar", "-xf-"], cwd=source, input=archive.stdout, check=True)
    for project in (source / "referee", source):
        subprocess.run([*PIP, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, project], check=True)
    return sorted(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheels: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the commands of an environment with both wheels."""
    place = tmp_path_factory.mktemp("environment")
    venv.create(place)
    for_real = bool(os.environ.get("VITLAB_TEST_INSTALL"))
    if not for_real:
        site = next(place.glob("lib/python*/site-packages"))
        (site / "lent.pth").write_text(get_path("purelib") + "\n")  # its editable installations are not followed
    dependencies = ["--constraint", str(ROOT / "constraints.txt")] if for_real else ["--no-deps"]
    subprocess.run([*PIP, "--python", place, "install", "--ignore-installed", *dependencies, *wheels], check=True)
    return place / "bin"


@pytest.mark.slow(edge=True)
def test_the_wheel_has_every_shipped_file_once(wheels: list[Path]) -> None:
    names = ZipFile(wheels[1]).namelist()
    shipped = sorted(str(path.relative_to(EXPERIMENTS)) for path in EXPERIMENTS.rglob("*.*") if path.is_file())
    inside = sorted(
        name.removeprefix("vitlab/experiments/") for name in names if name.startswith("vitlab/experiments/")
    )
    assert inside == shipped
    modules = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "vitlab").rglob("*.py"))
    assert sorted(name for name in names if name.endswith(".py")) == modules
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"vitlab"}


@pytest.mark.parametrize("way", ["checkout", *edges("wheel", "editable", "zip")])
def test_the_experiments_are_found(way: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """A checkout and a zip file as Windows has them, without symbolic links: there are none."""
    modes = subprocess.run(["git", "ls-files", "--stage"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not [line for line in modes.splitlines() if line.startswith("120000")]
    clone, place = tmp_path / "clone", tmp_path / "environment"
    python, elsewhere = Path(sys.executable), clone
    if way == "wheel":
        python, elsewhere = request.getfixturevalue("installed") / "python", tmp_path
    elif way == "zip":
        subprocess.run(["git", "archive", "--output", tmp_path / "main.zip", "HEAD"], cwd=ROOT, check=True)
        ZipFile(tmp_path / "main.zip").extractall(clone)
    else:
        subprocess.run(["git", "clone", "--quiet", "-c", "core.symlinks=false", ROOT, clone], check=True)
    if way == "editable":
        venv.create(place)
        python, elsewhere = place / "bin/python", tmp_path
        (next(place.glob("lib/python*/site-packages")) / "lent.pth").write_text(get_path("purelib") + "\n")
        options = ["install", "--ignore-installed", "--no-deps", "--no-build-isolation", "--editable"]
        subprocess.run([*PIP, "--python", place, *options, clone], check=True)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    code = "import vitlab.config as c; print(c.SHIPPED / 'deit_hard.yaml', c.locate('deit_hard'))"
    told = subprocess.run([python, "-c", code], cwd=elsewhere, env=environment, capture_output=True, text=True)
    shipped, located = map(Path, told.stdout.split())
    assert shipped == located, told.stderr
    assert shipped.read_text() == (EXPERIMENTS / "deit_hard.yaml").read_text()
    assert shipped.is_relative_to(python.parent.parent if way == "wheel" else clone)


@pytest.mark.slow
def test_a_study_runs_by_its_name_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    environment = {
        key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "COVERAGE_PROCESS_START"}
    }

    def vitlab(*arguments: str) -> str:
        command = [installed / "vitlab", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode in (0, 1), done.stderr[-2000:]
        return done.stdout

    where = subprocess.run(
        [installed / "python", "-c", "import vitlab, referee; print(vitlab.__file__, referee.__file__)"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert all(Path(file).is_relative_to(installed.parent) for file in where)
    assert "quickstart " in vitlab("init")
    assert "class_path: vitlab.data.CIFAR10" in vitlab("fit", "vit_cifar10", "--print_config")
    assert "python -m vitlab compare mine/studies/quickstart.yaml" in vitlab("init", "mine", "quickstart")
    study = tmp_path / "mine/studies/quickstart.yaml"
    text = re.sub(r"(?m)^budget: .*", "budget: { epochs: 1 }", study.read_text())
    study.write_text(re.sub(r"(?m)^seeds: .*", "seeds: [1, 2]", text.replace("  Swin: ../quickstart/swin.yaml\n", "")))
    vitlab("compare", "mine/studies/quickstart.yaml")
    assert "ViT" in vitlab("verdict", "runs/quickstart")


# pyproject.toml allows the versions that the tests pass with


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = ("slurm", "export", "dashboard")
OPTIONAL = [text for extra in EXTRAS for text in PROJECT["optional-dependencies"][extra]]
REQUIREMENTS = [Requirement(text) for text in (*PROJECT["dependencies"], *OPTIONAL)]
TESTED = {
    canonicalize_name(name): version
    for name, version in re.findall(r"^([\w.-]+)==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
}


# `internals.py` says for which versions it was written; referee is of this repository.
WRITTEN_FOR = dict(re.findall(r"(\w+) (\d+\.\d+)", (ROOT / "vitlab/internals.py").read_text().split('"""')[1].lower()))
BOUNDED = {"referee", *WRITTEN_FOR}


def test_the_versions_of_constraints_are_allowed_and_bounded_where_private_interfaces_are_used() -> None:
    assert WRITTEN_FOR.keys() >= {"torch", "lightning", "jsonargparse", "timm", "pillow"}
    for requirement in REQUIREMENTS:
        operators = {specifier.operator for specifier in requirement.specifier}
        assert operators == ({">=", "<"} if requirement.name in BOUNDED else {">="}), requirement
        assert TESTED.get(canonicalize_name(requirement.name), "0.3.0") in requirement.specifier, requirement
    assert {name: TESTED[name].startswith(version) for name, version in WRITTEN_FOR.items()} == dict.fromkeys(
        WRITTEN_FOR, True
    )


def test_a_plain_installation_takes_twenty_packages_at_most() -> None:
    assert len(PROJECT["dependencies"]) <= 20


def test_what_developers_install_has_every_extra() -> None:
    (own,) = [text for text in PROJECT["optional-dependencies"]["dev"] if text.startswith("vitlab[")]
    assert set(Requirement(own).extras) >= {*EXTRAS, "sources"}

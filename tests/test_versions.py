"""pyproject.toml allows the versions that the tests pass with, and none beyond the next release."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import EXPERIMENTS

ROOT = EXPERIMENTS.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = ("slurm", "export", "dashboard")
OPTIONAL = [text for extra in EXTRAS for text in PROJECT["optional-dependencies"][extra]]
REQUIREMENTS = [Requirement(text) for text in (*PROJECT["dependencies"], *OPTIONAL)]
TESTED = {
    canonicalize_name(name): version
    for name, version in re.findall(r"^([\w.-]+)==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
}


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=lambda requirement: requirement.name)
def test_a_dependency_is_bounded_above_its_tested_version(requirement: Requirement) -> None:
    assert {specifier.operator for specifier in requirement.specifier} == {">=", "<"}
    assert TESTED[canonicalize_name(requirement.name)] in requirement.specifier


def test_a_plain_installation_takes_nineteen_packages_at_most() -> None:
    assert len(PROJECT["dependencies"]) <= 19


def test_what_developers_install_has_every_extra() -> None:
    (own,) = [text for text in PROJECT["optional-dependencies"]["dev"] if text.startswith("vitlab[")]
    assert set(Requirement(own).extras) >= {*EXTRAS, "sources"}


def test_only_the_package_is_installed() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    assert tools["setuptools"]["packages"]["find"]["include"] == ["vitlab*"]

"""pyproject.toml allows the versions that the tests pass with.

A package whose private interfaces are used has an upper bound too, since its next release may change them.
"""

import re
import tomllib

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

"""A configuration that was printed, kept in a run or put on a card is the same run again, nulls and all.

Those of a study's members are tried where they are built, in test_experiments.py.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.conftest import EXPERIMENTS
from tests.test_experiments import make_cifar, make_photos
from vitlab.commands.dispatch import run
from vitlab.config import Config, load_yaml
from vitlab.deployment.card import recipe

TRIED = {  # the first of each objective and kind of data; all of them before a release
    (load_yaml(path)["model"]["class_path"], load_yaml(path)["data"]["class_path"]): path
    for path in sorted(EXPERIMENTS.glob("*.yaml"), reverse=True)
}
FILES = [
    pytest.param(path, marks=() if path in TRIED.values() else pytest.mark.release)
    for path in sorted([*EXPERIMENTS.glob("*.yaml"), *EXPERIMENTS.glob("imagenet/*.yaml")])
]

Resolve = Callable[..., Config]


@pytest.fixture
def resolve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Resolve:
    """Return a function that asks `fit --print_config` what a file, or a configuration written to one, would run."""
    monkeypatch.chdir(tmp_path)
    make_cifar(tmp_path / "data")
    make_photos(tmp_path / "photos")

    def printed(config: Path | Config, *options: str) -> Config:
        if isinstance(config, dict):
            Path("again.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
            config = Path("again.yaml")
        assert run("fit", ["--config", str(config), *options, "--print_config"]) == 0
        found: Config = yaml.safe_load(capsys.readouterr().out)
        return found

    return printed


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_an_experiment_comes_back_from_what_is_printed_and_from_a_card(path: Path, resolve: Resolve) -> None:
    photos = ["--data.root", "photos"] if "ImageFolder" in path.read_text() else []
    printed = resolve(path, *photos)
    assert resolve(printed) == printed
    assert resolve({**recipe(printed), "run": printed["run"]}) == printed

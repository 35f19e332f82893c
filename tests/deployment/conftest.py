"""One small run that all tests here export or use; its weights are averaged too."""

from pathlib import Path

import pytest
import yaml

from tests.conftest import TINY
from vitlab.commands.dispatch import run
from vitlab.config import merge

CHANGES = {"model": {"init_args": {"ema": {"decay": 0.9}}}, "run": {"checkpoint": {"best": True}}}


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train for one epoch, in a place of its own; return the run directory."""
    place = tmp_path_factory.mktemp("deployment")
    config = place / "tiny.yaml"
    config.write_text(yaml.safe_dump(merge(TINY, CHANGES)))
    assert run("fit", ["--config", str(config), "--run.root", str(place / "runs")]) == 0
    return place / "runs/tiny/seed-0"

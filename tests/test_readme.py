"""Every command that the README shows is run here, on small data and for two steps where it trains."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import EXPERIMENTS
from tests.test_experiments import SHORT, make_cifar, make_photos
from vitlab.__main__ import main
from vitlab.commands import benchmark
from vitlab.commands import check_resume as doctor
from vitlab.evaluation import cost
from vitlab.studies.execution import costs as sitting
from vitlab.studies.study import read_study

ROOT = EXPERIMENTS.parent
README = (ROOT / "README.md").read_text()
SHELL = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL))
COMMANDS = [
    *re.findall(r"^python -m vitlab .*$", SHELL, re.MULTILINE),
    *re.findall(r"`(python -m vitlab .*?)`", README),
]
TARGETS = re.findall(r"make ([\w-]+)", README)


@pytest.mark.slow
def test_every_command_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the README's order, in one directory, since later ones use what earlier ones made."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cost, "SECONDS", 0.1)
    for module in (benchmark, sitting):
        monkeypatch.setattr(module, "TURNS", 1)
    monkeypatch.setattr(doctor, "examine", lambda *args: ([1], []))  # test_doctor.py waits for its three processes
    shutil.copytree(EXPERIMENTS, tmp_path / "experiments")
    make_cifar(tmp_path / "data")
    make_photos(tmp_path / "my_photos")
    assert len(COMMANDS) >= 7
    for command in COMMANDS:
        arguments = shlex.split(command)[3:]
        if arguments[0] in {"fit", "test", "probe", "doctor"} and "--help" not in arguments:
            arguments += [part for option in SHORT.items() for part in option]
        if arguments[0] == "benchmark":
            arguments += ["--data.batch_size", "4"]
        if "experiments/finetune_folder.yaml" in arguments:
            arguments += ["--model.init_from", "null"]  # no network here
        if arguments[0] == "compare":
            study = tmp_path / arguments[-1]
            study.write_text(re.sub(r"epochs: \d+", "epochs: 1", study.read_text().replace("[1, 2, 3]", "[1]")))
        assert main(arguments) == 0, command
    assert (tmp_path / "runs/quickstart/report.html").is_file()


@pytest.mark.parametrize("target", sorted(set(TARGETS)))
def test_every_target_of_the_readme_exists(target: str) -> None:
    assert subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, check=False).returncode == 0


def test_the_readmes_study_is_a_valid_one(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    shutil.copytree(EXPERIMENTS, tmp_path / "experiments")
    study = tmp_path / "experiments/studies/mine.yaml"
    study.write_text(text)
    assert list(read_study(study).variants) == ["ViT", "Swin"]


def test_every_place_and_picture_that_the_readme_names_exists() -> None:
    places = re.findall(r"^(vitlab/[\w./]+|experiments/|notebooks/|tests/)", README, re.MULTILINE)
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", README)
    assert [place for place in [*places, *pictures] if not (ROOT / place).exists()] == []

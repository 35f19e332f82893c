"""What vitlab ships is found by its name, and copied to be changed."""

import sys
from pathlib import Path

import pytest

from tests.conftest import EXPERIMENTS
from vitlab.__main__ import main
from vitlab.config import load_yaml, locate, shipped
from vitlab.runs.directory import config_file
from vitlab.studies.file.study import read_study


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("vit_cifar10", "vit_cifar10.yaml"),
        ("experiments/vit_cifar10.yaml", "vit_cifar10.yaml"),
        ("quickstart", "studies/quickstart.yaml"),
        ("imagenet/deit_base", "imagenet/deit_base.yaml"),
        ("claims/class_token", "claims/class_token.yaml"),
    ],
)
def test_a_name_is_a_shipped_file(name: str, file: str) -> None:
    assert locate(name) == EXPERIMENTS / file


@pytest.mark.parametrize("name", ["vit_cifar10", "vit_cifar10.yaml", "experiments/vit_cifar10.yaml"])
def test_a_file_of_ones_own_comes_first(name: str, tmp_path: Path) -> None:
    own = tmp_path / name
    own.parent.mkdir(exist_ok=True)
    own.write_text("trainer: {max_epochs: 3}")
    assert load_yaml(name) == {"trainer": {"max_epochs": 3}}


def test_a_folder_of_ones_own_comes_first_only_if_it_is_a_run(tmp_path: Path) -> None:
    (tmp_path / "quickstart").mkdir()
    study = EXPERIMENTS / "studies/quickstart.yaml"
    assert (locate("quickstart"), config_file("quickstart")) == (study, Path("quickstart"))
    (tmp_path / "quickstart/config.yaml").touch()
    assert locate("quickstart") == Path("quickstart")


@pytest.mark.parametrize("name", ["", "experiments", "../vit_cifar10", "nothing"])
def test_anything_else_stays_what_it_is(name: str) -> None:
    assert locate(name) == Path(name)


def test_classes_of_the_users_folder_are_found_as_by_python_m(monkeypatch: pytest.MonkeyPatch) -> None:
    here = str(Path.cwd())
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place not in ("", here)])
    assert main(["--help"]) == 0  # as the command `vitlab` is started
    assert sys.path[0] == here


@pytest.mark.parametrize("command", ["fit", "compare"])
def test_a_wrong_name_is_answered_with_the_nearest_one(command: str, capsys: pytest.CaptureFixture) -> None:
    assert main([command, "vit_cifar1"]) == 2
    assert "No configuration or run vit_cifar1. Did you mean vit_cifar10" in capsys.readouterr().err


@pytest.mark.parametrize("given", [["runs/vit_cifar10/seed-0"], ["--config", "runs/vit_cifar10/seed-0"]])
def test_a_run_that_is_not_there_is_answered_with_those_that_are(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for name in ("vit_cifar1/seed-0", "study/swin/seed-3"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.yaml").write_text("{}")
    assert main(["predict", *given, "--images", "photos"]) == 2
    said = capsys.readouterr().err
    assert "No configuration or run runs/vit_cifar10/seed-0. Did you mean runs/vit_cifar1/seed-0" in said


def test_a_study_of_ones_own_takes_base_and_variants_by_name(tmp_path: Path) -> None:
    variants = "variants: {ViT: quickstart/vit, other: {seed_everything: 1}}"
    (tmp_path / "mine.yaml").write_text(f"base: vit_cifar10\n{variants}\nseeds: [1]\nbudget: {{epochs: 1}}")
    study = read_study(tmp_path / "mine.yaml")
    assert study.base == EXPERIMENTS / "vit_cifar10.yaml"
    assert study.variants["ViT"] == load_yaml(EXPERIMENTS / "quickstart/vit.yaml")


def test_init_lists_all_with_their_first_lines(capsys: pytest.CaptureFixture) -> None:
    assert main(["init"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(shipped())
    assert all(len(line.split()) > 3 for line in lines)


def test_init_copies_a_study_with_the_files_that_it_names(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["init", "mine/", "quickstart", "vit_cifar10"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "python -m vitlab compare mine/studies/quickstart.yaml",
        "python -m vitlab fit mine/vit_cifar10.yaml",
    ]
    copied, original = read_study(Path("mine/studies/quickstart.yaml")), read_study(Path("quickstart"))
    assert copied.base == Path("mine/studies/../quickstart/base.yaml")
    assert copied.digest == original.digest
    (tmp_path / "mine/vit_cifar10.yaml").write_text("changed: 1")
    assert main(["init", "mine/", "vit_cifar10"]) == 2
    assert "mine/vit_cifar10.yaml exists" in capsys.readouterr().err
    assert (tmp_path / "mine/vit_cifar10.yaml").read_text() == "changed: 1"


def test_every_study_is_still_one_after_it_was_copied() -> None:
    studies = {
        name: path for name, path in shipped().items() if {"variants", "factors", "like"} & load_yaml(path).keys()
    }
    assert len(studies) > 50
    assert main(["init", "mine", *studies]) == 0
    for name, path in studies.items():
        assert read_study(Path("mine") / path.relative_to(EXPERIMENTS)).digest == read_study(Path(name)).digest

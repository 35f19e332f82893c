"""Whole trainings beside those of another script: what is asked of both, and what is measured."""

import sys
from pathlib import Path

import pytest

from tests.test_experiments import make_photos
from vitlab.commands.dispatch import run
from vitlab.studies.end_to_end import Race, Spent, Training, spend


def photos_in(root: Path) -> Path:
    for split in ("train", "val"):
        make_photos(root / split)
    return root


# Stands for timm's script, which is no part of its package: takes its arguments and says which it got.
SCRIPT = """
import sys, pathlib
pathlib.Path({log!r}).open("a").write(" ".join(sys.argv[1:]) + chr(10))
"""


@pytest.mark.slow
def test_both_train_the_same_in_turn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos_in(tmp_path / "photos")
    (tmp_path / "train.py").write_text(SCRIPT.format(log=str(tmp_path / "log")))
    arguments = ["end-to-end", "vit_tiny_patch16_224", "--root", str(tmp_path / "photos"), "--precision", "bfloat16"]
    arguments += ["--train_py", str(tmp_path / "train.py"), "--batch", "4", "--workers", "0", "--repetitions", "1"]
    assert run("benchmark", [*arguments, "--out", str(tmp_path)]) == 0
    assert (tmp_path / "end_to_end.md").read_text() == capsys.readouterr().out
    (given,) = (tmp_path / "log").read_text().splitlines()
    for expected in ("--model vit_tiny_patch16_224", "--batch-size 4", "--epochs 1", "--amp --amp-dtype bfloat16"):
        assert expected in given


def test_the_experiment_asks_for_what_the_script_is_asked_for(tmp_path: Path) -> None:
    photos_in(tmp_path)
    training = Training("swinv2_tiny_window8_256", "float32", tmp_path, 16, 2, 1, True)
    experiment = training.experiment()
    script = training.arguments_of_timm("cpu")
    asked = dict(zip(script[::2], script[1::2], strict=False))
    assert experiment["data"]["init_args"]["image_size"] == 256  # type: ignore[index]
    assert asked["--batch-size"] == "16"
    assert asked["--epochs"] == "2"
    assert asked["--reprob"] == str(experiment["data"]["init_args"]["augment"]["erase_prob"])  # type: ignore[index]
    assert asked["--lr"] == str(experiment["model"]["init_args"]["optimizer"]["init_args"]["lr"])  # type: ignore[index]
    assert "--torchcompile" in script
    assert "--amp" not in script


def test_a_name_that_is_not_of_both_is_refused_before_any_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "train.py"
    script.write_text("raise SystemExit('was started')")
    arguments = ["end-to-end", "vit_tiny_patch16_224", "vit_tini_patch16_224", "--root", str(photos_in(tmp_path))]
    assert run("benchmark", [*arguments, "--train_py", str(script)]) == 2
    assert "vit_tini_patch16_224 is not a model of both. Did you mean vit_tiny_patch16_224?" in capsys.readouterr().err


def test_processor_time_of_all_processes_is_counted(tmp_path: Path) -> None:
    burn = "import time; end = time.process_time() + 0.4\nwhile time.process_time() < end: pass"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"
    assert spend([sys.executable, "-c", parent], tmp_path).processor_seconds > 0.4
    assert spend([sys.executable, "-c", "import time; time.sleep(0.4)"], tmp_path).processor_seconds < 0.4


def test_a_command_that_fails_is_told_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such option"):
        spend([sys.executable, "-c", "raise SystemExit('no such option')"], tmp_path)


def test_ratios_are_of_neighbors_and_above_one_is_faster(tmp_path: Path) -> None:
    photos_in(tmp_path)
    training = Training("vit_tiny_patch16_224", "float32", tmp_path, 2, 1, 0, False)
    ours = [Spent(1.0, 2.0), Spent(2.0, 2.0), Spent(4.0, 2.0)]
    timms = [Spent(2.0, 2.0), Spent(3.0, 3.0), Spent(4.0, 5.0)]
    race = Race(training, ours, timms)
    assert race.ratio == 1.5
    assert race.processor_ratio == 1.5
    assert race.rate(ours) == training.images / 2.0


@pytest.mark.parametrize(("missing", "said"), [("--train_py", "timm's repository"), ("--root", "needs train and val")])
def test_what_is_missing_is_named(missing: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos_in(tmp_path / "photos")
    (tmp_path / "train.py").touch()
    paths = {"--root": tmp_path / "photos", "--train_py": tmp_path / "train.py"} | {missing: tmp_path / "nowhere"}
    arguments = [word for name, path in paths.items() for word in (name, str(path))]
    assert run("benchmark", ["end-to-end", *arguments]) == 2
    assert said in capsys.readouterr().err

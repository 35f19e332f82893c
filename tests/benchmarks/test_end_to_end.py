"""Whole trainings by vitlab and by another script: both get the same settings, and time is counted."""

import sys
from pathlib import Path

import pytest

from benchmarks.end_to_end import Spent, Training, main, row, spend
from tests.test_experiments import make_photos


def photos_in(root: Path) -> Path:
    for split in ("train", "val"):
        make_photos(root / split)
    return root


# Stands in for timm's script, which is not part of its package: logs its arguments.
SCRIPT = """
import sys, pathlib
pathlib.Path({log!r}).open("a").write(" ".join(sys.argv[1:]) + chr(10))
"""


@pytest.mark.release
def test_both_train_the_same_in_turn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos_in(tmp_path / "photos")
    (tmp_path / "train.py").write_text(SCRIPT.format(log=str(tmp_path / "log")))
    arguments = ["vit_tiny_patch16_224", "--root", str(tmp_path / "photos"), "--precision", "bfloat16"]
    arguments += ["--train_py", str(tmp_path / "train.py"), "--batch", "4", "--workers", "0", "--repetitions", "1"]
    main([*arguments, "--out", str(tmp_path)])
    assert (tmp_path / "end_to_end.md").read_text() == capsys.readouterr().out
    (logged,) = (tmp_path / "log").read_text().splitlines()
    for expected in ("--model vit_tiny_patch16_224", "--batch-size 4", "--epochs 1", "--amp --amp-dtype bfloat16"):
        assert expected in logged


def test_experiment_and_script_have_the_same_settings(tmp_path: Path) -> None:
    photos_in(tmp_path)
    training = Training("swinv2_tiny_window8_256", "float32", tmp_path, 16, 2, 1, True)
    experiment = training.experiment()
    script = training.arguments_of_timm("cpu")
    options = dict(zip(script[::2], script[1::2], strict=False))
    assert experiment["data"]["init_args"]["image_size"] == 256  # type: ignore[index]
    assert options["--batch-size"] == "16"
    assert options["--epochs"] == "2"
    assert options["--reprob"] == str(experiment["data"]["init_args"]["augment"]["erase_prob"])  # type: ignore[index]
    assert options["--lr"] == str(experiment["model"]["init_args"]["optimizer"]["init_args"]["lr"])  # type: ignore[index]
    assert "--torchcompile" in script
    assert "--amp" not in script


def test_processor_time_of_all_processes_is_counted(tmp_path: Path) -> None:
    burn = "import time; end = time.process_time() + 0.4\nwhile time.process_time() < end: pass"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"
    assert spend([sys.executable, "-c", parent], tmp_path).processor_seconds > 0.4
    assert spend([sys.executable, "-c", "import time; time.sleep(0.4)"], tmp_path).processor_seconds < 0.4


def test_ratios_are_of_neighbors_and_above_one_is_faster(tmp_path: Path) -> None:
    photos_in(tmp_path)
    training = Training("vit_tiny_patch16_224", "float32", tmp_path, 2, 1, 0, False)
    ours = [Spent(1.0, 2.0), Spent(2.0, 2.0), Spent(4.0, 2.0)]
    timms = [Spent(2.0, 2.0), Spent(3.0, 3.0), Spent(4.0, 5.0)]
    result = row(training, ours, timms)
    assert result["ratio by the clock"] == "1.50"
    assert result["by processor time"] == "**1.50**"
    assert result["images/s"] == f"{training.images / 2.0:.1f}"

"""`make gpu`, of which all runs on a CPU with tiny sizes, so that it does not rot where there is no GPU."""

import json
import subprocess
import sys
import time
import zipfile
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import install, learning, page, parity
from benchmarks.gpu.measurement import Cut, Figures, Measurement, Results, Setting, left_to_do, measure, now
from benchmarks.gpu.speed import ARCHITECTURES
from tests.conftest import EXPERIMENTS

CPU = torch.device("cpu")
ROOT = EXPERIMENTS.parent


@pytest.mark.release
@pytest.mark.filterwarnings("ignore")  # of maps that windows do not divide, of short trainings
def test_all_of_it_is_tried_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice: the second call continues the run that was cut, and measures nothing again."""
    monkeypatch.setattr(parity, "differences_after_kills", lambda *args: [])  # has tests of its own
    file = tmp_path / "gpu.md"
    arguments = ["--dry-run", "--out", str(tmp_path / "out"), "--page", str(file)]
    assert gpu.main(arguments) == 0
    assert f"To be continued: {learning.EXPERIMENTS[0]} after 1 epochs" in file.read_text()
    assert gpu.main(arguments) == 0
    for step, measurements in gpu.STEPS.items():
        lines = Results(tmp_path / "out", step).lines()
        names = [name for name, _ in measurements(Setting(tmp_path / "out", tmp_path, tmp_path, CPU, dry=True))]
        expected = [*names, *(learning.EXPERIMENTS[:1] if step == "learning" else [])]
        assert sorted(line["name"] for line in lines if line["state"] in {"done", "cut"}) == sorted(expected)
    text = file.read_text()
    assert text.startswith(page.HEAD)
    assert "Not measured yet" not in text
    assert "To be continued" not in text
    assert "| Swin-T ÷ ViT-S/16 | training | eager |" in text
    assert "goal 10,000" in text
    assert f"| `experiments/{learning.EXPERIMENTS[0]}.yaml` | 2 | 8 |" in text
    assert json.loads((tmp_path / "out/learning/gpu_vit/seed-101/summary.json").read_text())["epochs"] == 2


# ---- measuring


def setting(folder: Path, until: float = float("inf")) -> Setting:
    return Setting(folder, folder, folder, CPU, until=until)


def test_what_is_done_is_not_repeated_and_what_is_not_is_tried_again(tmp_path: Path) -> None:
    made: list[str] = []

    def good() -> Figures:
        made.append("good")
        return {"figure": 1}

    def bad() -> Figures:
        made.append("bad")
        raise RuntimeError("CUDA error: an illegal memory access\nand more")

    def slow() -> Figures:
        made.append("slow")
        raise Cut(epochs=3)

    measurements = [Measurement("slow", slow), Measurement("bad", bad), Measurement("good", good)]
    results, since = Results(tmp_path, "step"), now()
    assert not measure(measurements, results, setting(tmp_path), since)
    assert made == ["slow", "bad"]  # its process ends with an error, which may have spoilt it
    assert measure(measurements, results, setting(tmp_path), since)
    assert made == ["slow", "bad", "good"]  # the rest of the call
    assert results.last()["bad"]["reason"] == "RuntimeError: CUDA error: an illegal memory access"
    assert results.last()["slow"]["epochs"] == 3
    time.sleep(0.002)
    assert left_to_do(results, ["slow", "bad", "good"], CPU, now()) == ["slow", "bad"]  # by another call
    assert [line["state"] for line in results.lines()] == ["started", "cut", "started", "failed", "started", "done"]


@pytest.mark.slow
def test_a_process_that_dies_ends_its_measurement_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process stands for that of a step: it dies in the first measurement; started again it does the second."""
    program = (
        "import os, sys, torch; from pathlib import Path; from benchmarks.gpu import measurement as m\n"
        "results, since = m.Results(Path(sys.argv[1]), 'step'), sys.argv[2]\n"
        "both = [m.Measurement('dies', lambda: os.abort()), m.Measurement('lives', dict)]\n"
        "setting = m.Setting(*[Path(sys.argv[1])] * 3, torch.device('cpu'))\n"
        "m.measure(both, results, setting, since)\n"
    )
    popen = subprocess.Popen

    def start(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        since = command[command.index("--inside") + 1]
        return popen([sys.executable, "-c", program, str(tmp_path), since], cwd=ROOT, **options)

    monkeypatch.setattr(subprocess, "Popen", start)
    results = Results(tmp_path, "step")
    gpu.supervise("step", ["dies", "lives"], results, setting(tmp_path), now(), seconds=600)
    assert {name: line["state"] for name, line in results.last().items()} == {"dies": "failed", "lives": "done"}
    assert results.last()["dies"]["reason"] == "its process ended with status -6"


# ---- parts of the steps


@pytest.mark.parametrize("name", parity.RESTARTS)
def test_restarts_are_of_experiments_that_exist(name: str) -> None:
    assert (EXPERIMENTS / f"{name}.yaml").is_file()


def test_every_architecture_is_one_that_timm_has() -> None:
    import timm

    assert [a.name for a in ARCHITECTURES.values() if not timm.is_model(a.name)] == []


# ---- installing


def test_what_is_missing_or_has_a_version_that_is_not_allowed_is_installed() -> None:
    there = {"torch": "2.11.0+cu130", "pillow": "12.1.0", "numpy": "2.5.2", "jsonargparse": "4.55"}

    def installed(name: str) -> str:
        if name not in there:
            raise PackageNotFoundError(name)
        return there[name]

    names = ["torch", "pillow", "numpy", "jsonargparse", "wandb_workspaces", "attrs"]
    wheels = [Path(f"{name}-1.0-py3-none-any.whl") for name in names]
    allowed = install.bounds(ROOT / "pyproject.toml")
    assert allowed["jsonargparse"] == ">=4.53,<4.54"
    assert install.lacking(wheels, allowed, installed) == ["pillow", "jsonargparse", "wandb-workspaces", "attrs"]


def test_wheels_are_of_what_vitlab_needs_and_of_no_extra() -> None:
    """jsonargparse[signatures] needs typeshed-client; only the extra `slurm` needs submitit."""
    names = install.needed(["vitlab"])
    assert {"jsonargparse", "typeshed-client", "torch", "referee"} <= names
    assert not {"submitit", "distributed", "ruff"} & names


@pytest.mark.release
def test_a_wheel_is_installed_without_a_network(tmp_path: Path) -> None:
    """Into the active environment, which has pip; the last line that is printed is its Python."""
    python = tmp_path / "environment/bin/python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "environment"], check=True)
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    command = [python, ROOT / "benchmarks/gpu/install.py", wheels]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 2  # no wheels
    info = "vitlab_probe-1.0.dist-info"
    with zipfile.ZipFile(wheels / "vitlab_probe-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("vitlab_probe.py", "")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: vitlab-probe\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    for _ in range(2):  # the second time there is nothing to do
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        assert Path(done.stdout.strip()) == python
        subprocess.run([python, "-c", "import vitlab_probe"], check=True)

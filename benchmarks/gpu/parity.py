"""Does a GPU compute what a CPU computes, to the bit where it is promised, and does every experiment run on it?

- All tests that need a GPU, file by file.
- Each architecture at full size: outputs and gradients in float32 without TF32, with the same weights and images.
- A run that is killed (SIGKILL) and continued equals an undisturbed one to the bit, with deterministic algorithms.
- Every experiment of experiments/ trains two steps on noise.
"""

import copy
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from benchmarks.against_timm import difference, gradients_of, largest_difference
from benchmarks.gpu.measurement import ROOT, Figures, Measurement, Setting
from benchmarks.gpu.speed import Architecture, chosen, make, products_as_in, side
from benchmarks.loaders import make_photos
from benchmarks.measuring import CPU, options_of
from vitlab.commands.dispatch import run
from vitlab.config import load_yaml
from vitlab.objectives import Teacher
from vitlab.runs.exactness import differences_after_kills

TOLERANCE = 1e-3  # relative, of sums of thousands of rounded numbers in another order
EXPERIMENTS = ROOT / "experiments"

# Of the speedrun: Muon, whitening and images that grow, for which positions are resized; and a loss in CUDA graphs.
RESTARTS = ("vit_cifar10", "swin_cifar10", "swinv2_cifar10", "speedrun/vit", "speedrun/gpu_vit")
RESTARTS += tuple(f"{name}_digits" for name in ("simmim", "mae", "dino", "msn"))
DRY_RESTARTS, DRY_EXPERIMENTS = ("mae_digits",), ("dino_digits", "vit_cifar10")


def measurements(setting: Setting) -> Iterator[Measurement]:
    for title, architecture in chosen(setting.dry).items():
        yield Measurement(title, partial(model, architecture, setting))
    for name in DRY_RESTARTS if setting.dry else RESTARTS:
        yield Measurement(f"killed: {name}", partial(restart, name, setting))
    files = [file for pattern in ("*", "imagenet/*", "speedrun/gpu_*") for file in EXPERIMENTS.glob(f"{pattern}.yaml")]
    for name in DRY_EXPERIMENTS if setting.dry else sorted(str(file.relative_to(EXPERIMENTS))[:-5] for file in files):
        yield Measurement(f"two steps: {name}", partial(two_steps, name, setting))


def tests(setting: Setting) -> Iterator[Measurement]:
    """Yield the files of tests that are marked `gpu`; in a dry run the first alone."""
    mark = re.compile(r"pytest\.mark\.gpu\b")
    files = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if mark.search(path.read_text("utf-8"))]
    for file in files[:1] if setting.dry else files:
        yield Measurement(str(file.relative_to(ROOT)), partial(run_tests, file))


def run_tests(file: Path) -> Figures:
    """Run the marked tests of a file; an AssertionError if one failed, or there is none."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", "--tb=short", str(file)]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))  # vitlab may not be installed
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stdout, done.stderr, file=sys.stderr)
        failed = [line.split(" - ")[0].rpartition("::")[2] for line in done.stdout.splitlines() if "FAILED" in line]
        raise AssertionError(f"exit status {done.returncode}: {', '.join(failed) or 'see the output'}")
    last = done.stdout.strip().rpartition("\n")[2]
    counts = {kind: int(number) for number, kind in re.findall(r"(\d+) (passed|skipped)", last)}
    return {"passed": counts.get("passed", 0), "skipped": counts.get("skipped", 0)}


def model(architecture: Architecture, setting: Setting) -> Figures:
    """Return the relative differences between the device and the CPU; an ArithmeticError if rounding cannot explain
    them."""
    torch.manual_seed(0)
    net, outcomes = make(architecture, "vitlab", CPU, setting.dry).eval(), []
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)  # some start as 0 and would hide others
    images = torch.randn(2, 3, *[side(architecture, setting.dry)] * 2)
    with products_as_in("32-true"):
        for device in (setting.device, CPU):
            there = copy.deepcopy(net).to(device)
            value = there(images.to(device)).square().mean()
            value.backward()
            outcomes.append((value.detach().cpu(), {k: g.cpu() for k, g in gradients_of(there).items()}))
    (value, gradients), (expected, expected_gradients) = outcomes
    figures = {"loss": difference(value, expected), "gradients": largest_difference(gradients, expected_gradients)}
    if max(figures.values()) > TOLERANCE:
        raise ArithmeticError(f"loss differs by {figures['loss']:.1e}, gradients by {figures['gradients']:.1e}")
    return figures


def restart(name: str, setting: Setting) -> Figures:
    """Kill a run and continue it; an ArithmeticError if it differs from an undisturbed run."""
    folder = setting.out / "killed" / name
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier call that was cut
    steps, kills = (4, 1) if setting.dry else (12, 2)
    changes = {
        "trainer.max_epochs": 2,
        "trainer.limit_train_batches": steps // 2,
        "trainer.limit_val_batches": 2,
        "trainer.limit_test_batches": 2,
        "trainer.deterministic": "true",
        "run.checkpoint.every_n_steps": 2,
        "run.checkpoint.max_time_share": 1.0,
    }
    at = sorted(random.Random(0).sample(range(1, steps), kills))
    differences = differences_after_kills([*arguments(name, setting), *options_of(changes)], at, folder)
    if differences:
        raise ArithmeticError(f"after kills at {at}, of what differs the first: {differences[0]}")
    return {"steps": steps, "kills": len(at)}


def two_steps(name: str, setting: Setting) -> Figures:
    """Train two steps of an experiment, validate and test a batch."""
    root = setting.out / "two_steps"
    directory = root / Path(name).name
    shutil.rmtree(directory, ignore_errors=True)
    changes: dict[str, object] = {f"trainer.limit_{split}_batches": 2 for split in ("train", "val", "test")}
    changes |= {"trainer.max_epochs": 1, "run.root": root}
    try:
        with mock.patch.object(Teacher, "examine"):  # on noise no teacher is better than chance
            status = run("fit", [*arguments(name, setting), *options_of(changes)])
    finally:
        shutil.rmtree(directory, ignore_errors=True)  # the states of all experiments would fill the disk
    assert status == 0, f"exit status {status}"
    return {}


def arguments(name: str, setting: Setting) -> list[str]:
    """Return the arguments of an experiment on noise in small batches, which loads and downloads nothing."""
    file = EXPERIMENTS / f"{name}.yaml"
    config = load_yaml(file)
    photos = config["data"]["class_path"].endswith("ImageFolder")
    changes: dict[str, object] = {
        "data.batch_size": 8,
        "data.eval_batch_size": 8,
        "trainer.accumulate_grad_batches": 1,
        "run.compile": False,
        "run.wandb.mode": "disabled",
    }
    if photos or "CIFAR" in config["data"]["class_path"]:
        changes["data.root"] = noise(setting.out / "noise") / ("photos" if photos else "cifar")
    if photos:
        changes["data.num_workers"] = 2
    init_args = config["model"]["init_args"]
    if init_args.get("init_from"):
        changes["model.init_from"] = "null"
    if init_args.get("head_rows"):
        changes["model.head_rows"] = "null"
    if teacher := init_args.get("teacher"):
        changes |= {"model.teacher.weights": "null", "model.teacher.cache": "null"}
        if "pretrained" in teacher["model"]["init_args"]:
            changes["model.teacher.model.pretrained"] = False
    return ["--config", str(file), *options_of(changes)]


def noise(folder: Path) -> Path:
    """Write noise in the place of CIFAR-10, CIFAR-100 and photographs, once."""
    if (folder / "photos").is_dir():
        return folder
    rng = np.random.default_rng(0)
    (folder / "cifar").mkdir(parents=True, exist_ok=True)
    for classes, images in ((10, 6000), (100, 1200)):
        arrays = {}
        for split, number in (("train", images), ("test", 200)):
            arrays[f"x_{split}"] = rng.integers(0, 256, (number, 32, 32, 3), dtype=np.uint8)
            arrays[f"y_{split}"] = np.arange(number) % classes
        np.savez(folder / "cifar" / f"cifar{classes}.npz", **arrays)  # type: ignore[arg-type]
    make_photos(folder / "photos", copies=4)  # enough for two batches of repeated augmentation
    return folder

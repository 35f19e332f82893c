"""Does a GPU compute what a CPU computes, to the bit where it is promised, and does every experiment run on it?

- Each architecture at full size, and each objective with each small backbone that it trains: loss and gradients in
  float32 without TF32, the same weights, images and masks on both devices.
- A run that is killed (SIGKILL) and continued equals an undisturbed one to the bit, with deterministic algorithms.
- Every experiment of experiments/ trains two steps on noise.
- A run that needs too much memory ends with one line that says what takes less.
"""

import contextlib
import copy
import io
import multiprocessing
import random
import resource
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.gpu.architectures import Architecture, chosen, make, side
from benchmarks.gpu.measuring import Figures, Measurement, Setting
from benchmarks.gpu.speed import products_as_in
from benchmarks.gpu.tests import ROOT
from benchmarks.loaders import make_photos
from benchmarks.parity import difference, gradients_of, largest_difference
from vitlab.commands.dispatch import run
from vitlab.config import load_yaml
from vitlab.evaluation.cost import device_for, process_status
from vitlab.models import Backbone, SwinTransformer, SwinTransformerV2, VisionTransformer
from vitlab.objectives import (
    DINO,
    MAE,
    MSN,
    Distillation,
    HardTarget,
    Objective,
    SimMIM,
    Supervised,
    Teacher,
    masking,
)
from vitlab.optim import AdamW, WarmupCosine
from vitlab.runs.exactness import differences_after_kills

CPU = torch.device("cpu")
TOLERANCE = 1e-3  # relative, of sums of thousands of rounded numbers in another order
EXPERIMENTS = ROOT / "experiments"

SMALL = {"img_size": 16, "num_classes": 10, "drop_path_rate": 0.0, "embed_dim": 32}
STAGES = {"patch_size": 2, "depths": (2, 1), "num_heads": (1, 2), "window_size": 4}
BACKBONES: dict[str, Callable[[], Backbone]] = {
    "ViT": partial(VisionTransformer, patch_size=4, depth=2, num_heads=2, **SMALL),  # type: ignore[arg-type]
    "Swin": partial(SwinTransformer, **STAGES, **SMALL),  # type: ignore[arg-type]
    "Swin v2": partial(SwinTransformerV2, **STAGES, **SMALL),  # type: ignore[arg-type]
}
RECIPE = AdamW(1e-3), WarmupCosine()
OBJECTIVES: dict[str, tuple[Callable[[Backbone], Objective], Sequence[str]]] = {
    "Supervised": (lambda backbone: Supervised(backbone, *RECIPE), list(BACKBONES)),
    "Distillation": (
        lambda backbone: Distillation(backbone, Teacher(BACKBONES["ViT"]()), HardTarget(), *RECIPE),
        list(BACKBONES),
    ),
    "SimMIM": (lambda backbone: SimMIM(backbone, *RECIPE, mask_patch_size=4), list(BACKBONES)),
    "DINO": (lambda backbone: DINO(backbone, *RECIPE, out_dim=64, hidden_dim=64), list(BACKBONES)),
    "MAE": (
        lambda backbone: MAE(backbone, *RECIPE, decoder_embed_dim=32, decoder_depth=1, decoder_num_heads=2),
        ["ViT"],
    ),
    "MSN": (lambda backbone: MSN(backbone, *RECIPE, num_prototypes=32, hidden_dim=64, output_dim=32), ["ViT"]),
}

# Of the speedrun: Muon, whitening and images that grow, for which positions are resized.
RESTARTS = ("vit_cifar10", "swin_cifar10", "swinv2_cifar10", "speedrun/vit")
RESTARTS += tuple(f"{name}_digits" for name in ("simmim", "mae", "dino", "msn"))
DRY_RESTARTS, DRY_EXPERIMENTS = ("mae_digits",), ("dino_digits", "vit_cifar10")
STARVED, BATCH = 2**30, 4096  # bytes of memory, and images that do not fit into them


def measurements(setting: Setting) -> Iterator[Measurement]:
    for title, architecture in chosen(setting.dry).items():
        yield Measurement(title, partial(model, architecture, setting))
    for name, (build, backbones) in OBJECTIVES.items():
        for backbone in backbones:
            yield Measurement(f"{name}, {backbone}", partial(objective, build, backbone, setting))
    yield Measurement("out of memory", partial(out_of_memory, setting))
    for name in DRY_RESTARTS if setting.dry else RESTARTS:
        yield Measurement(f"killed: {name}", partial(restart, name, setting))
    files = [file for pattern in ("*", "imagenet/*", "speedrun/gpu_*") for file in EXPERIMENTS.glob(f"{pattern}.yaml")]
    for name in DRY_EXPERIMENTS if setting.dry else sorted(str(file.relative_to(EXPERIMENTS))[:-5] for file in files):
        yield Measurement(f"two steps: {name}", partial(two_steps, name, setting))


# ---- the same numbers


def model(architecture: Architecture, setting: Setting) -> Figures:
    """Compare a model of full size, whose parameters are moved: some start as 0 and would hide others."""
    torch.manual_seed(0)
    net = make(architecture, "vitlab", CPU, setting.dry).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    images = torch.randn(2, 3, *[side(architecture, setting.dry)] * 2)
    return compared(net, lambda net, device: net(images.to(device)).square().mean(), setting)


def objective(build: Callable[[Backbone], Objective], backbone: str, setting: Setting) -> Figures:
    """Compare an objective on the views that it takes."""
    torch.manual_seed(0)
    trained = build(BACKBONES[backbone]())
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    sides = [16, 16, 8, 8] if isinstance(trained, DINO | MSN) else [16]
    views, labels = [torch.randn(8, 3, side, side) for side in sides], torch.arange(8)

    def loss(trained: nn.Module, device: torch.device) -> Tensor:
        assert isinstance(trained, Objective)
        if isinstance(trained, Distillation):
            trained.teacher.prepare(device, (0.5,) * 3, (0.5,) * 3)
        return trained.loss([view.to(device) for view in views], labels.to(device))

    return compared(trained, loss, setting)


def compared(net: nn.Module, loss: Callable[[nn.Module, torch.device], Tensor], setting: Setting) -> Figures:
    """Return the relative differences between the device and the CPU.

    Raises:
        ArithmeticError: they are larger than rounding explains.
    """
    outcomes = []
    with products_as_in("32-true"), mock.patch.object(masking, "_hide", partial(_hide_as_on_cpu, masking._hide)):
        for device in (setting.device, CPU):
            there = copy.deepcopy(net).to(device)
            torch.manual_seed(0)
            value = loss(there, device)
            value.backward()
            outcomes.append((value.detach().cpu(), {k: g.cpu() for k, g in gradients_of(there).items()}))
    (value, gradients), (expected, expected_gradients) = outcomes
    figures = {"loss": difference(value, expected), "gradients": largest_difference(gradients, expected_gradients)}
    if max(figures.values()) > TOLERANCE:
        raise ArithmeticError(f"loss differs by {figures['loss']:.1e}, gradients by {figures['gradients']:.1e}")
    return figures


def _hide_as_on_cpu(
    hide: Callable[..., tuple[Tensor, Tensor]],
    batch: int,
    num_tokens: int,
    hidden: int,
    device: torch.device | None,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """Draw a mask on the CPU, whatever the device: each has its own generator."""
    keep, mask = hide(batch, num_tokens, hidden, None, generator)
    return keep.to(device), mask.to(device)


# ---- runs


def restart(name: str, setting: Setting) -> Figures:
    """Kill a run and continue it.

    Raises:
        ArithmeticError: it differs from an undisturbed run.
    """
    folder = setting.out / "killed" / name
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier call that was cut
    steps, kills = (4, 1) if setting.dry else (12, 2)
    limits = {"max_epochs": 2, "limit_train_batches": steps // 2, "limit_val_batches": 2, "limit_test_batches": 2}
    changes = {**{f"trainer.{key}": value for key, value in limits.items()}, "trainer.deterministic": "true"}
    changes |= {"run.checkpoint.every_n_steps": 2, "run.checkpoint.max_time_share": 1.0}
    options = [word for key, value in changes.items() for word in (f"--{key}", str(value))]
    at = sorted(random.Random(0).sample(range(1, steps), kills))
    differences = differences_after_kills([*arguments(name, setting), *options], at, folder)
    if differences:
        raise ArithmeticError(f"after kills at {at}, of what differs the first: {differences[0]}")
    return {"steps": steps, "kills": len(at)}


def two_steps(name: str, setting: Setting) -> Figures:
    """Train two steps of an experiment, validate and test a batch.

    Raises:
        AssertionError: it failed.
    """
    root = setting.out / "two_steps"
    directory = root / Path(name).name
    shutil.rmtree(directory, ignore_errors=True)
    limits = {"max_epochs": 1, **dict.fromkeys(("limit_train_batches", "limit_val_batches", "limit_test_batches"), 2)}
    changes = {**{f"trainer.{key}": value for key, value in limits.items()}, "run.root": root}
    options = [word for key, value in changes.items() for word in (f"--{key}", str(value))]
    try:
        with mock.patch.object(Teacher, "examine"):  # on noise no teacher is better than chance
            status = run("fit", [*arguments(name, setting), *options])
    finally:
        shutil.rmtree(directory, ignore_errors=True)  # the states of all experiments would fill the disk
    assert status == 0, f"exit status {status}"
    return {}


def out_of_memory(setting: Setting) -> Figures:
    """Train in a process that may take little memory.

    Raises:
        AssertionError: it did not end as it should.
    """
    options = {"data.batch_size": BATCH, "run.root": setting.out / "starved", "trainer.max_epochs": 1}
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    status, said = in_own_process(starved, [*arguments("vit_cifar10", setting), *words])
    assert status == 2, f"exit status {status}: {said}"
    assert "error: out of memory." in said, said
    return {"message": said}


def in_own_process(function: Callable[[Sequence[str]], tuple[int, str]], words: Sequence[str]) -> tuple[int, str]:
    """Return what a function returns in a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, words).result()


def starved(words: Sequence[str]) -> tuple[int, str]:
    """Train with little memory; return the exit status and the last line."""
    cap_memory(STARVED, device_for("auto"))
    with contextlib.redirect_stderr(io.StringIO()) as said:
        status = run("fit", words)
    return status, (said.getvalue().strip().splitlines() or [""])[-1]


def cap_memory(limit: int, device: torch.device) -> None:
    """Make this process fail rather than take much more than `limit` bytes."""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), device)
    else:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (process_status("VmData") + limit, hard))


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
    return ["--config", str(file), *(word for key, value in changes.items() for word in (f"--{key}", str(value)))]


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
    shutil.rmtree(folder / "new", ignore_errors=True)  # left by a killed call
    make_photos(folder / "new")
    for file in list((folder / "new").rglob("*.jpg")):  # enough for two batches of repeated augmentation
        for copy_number in range(3):
            shutil.copyfile(file, file.with_stem(f"{file.stem}_{copy_number}"))
    (folder / "new").rename(folder / "photos")
    return folder

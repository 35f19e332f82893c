"""What a training step spends its time on: by phases of the step, and by kinds of operations.

    python -m benchmarks.step_profile --config experiments/vit_cifar10.yaml
    python -m benchmarks.step_figure experiments/speedrun/vit.yaml        # of several experiments, as a figure

Lightning tells a profiler when each part of its loop begins and ends. A phase's time excludes the phases within it: the
optimizer's step calls the forward and the backward pass. Kinds of operations come from torch's profiler in further
steps, because watching each operation slows them down.

A GPU is synchronized at both ends of a phase, so that its work is counted where it was launched. Such a step takes
longer than an unobserved one, where the next phase is launched meanwhile.
"""

import argparse
import json
import re
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from unittest import mock

import torch
from lightning.pytorch.profilers import Profiler
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.measuring import OUT, WARM_UP, machine, markdown, save, train_steps
from vitlab.experiment.experiment import Experiment
from vitlab.optim import muon

# Lightning's names of actions, by how they end or begin; the first that fits.
PHASES = {
    r"train_dataloader_next$": "waiting for data",
    r"batch_to_device$|batch_transfer$": "to the device, augmented there",
    r"\.training_step$": "forward pass and loss",
    r"\.backward$": "backward pass",
    r"\.(optimizer_step|optimizer_zero_grad|configure_gradient_clipping|lr_scheduler_step)$|^zero_grad$": "optimizer",
    r"^\[(Callback|LightningModule|LightningDataModule|Strategy)\]": "callbacks, logging, weight averages",
}
REST = "the loop itself"

MUON = "Muon's products"  # all within `vitlab.optim.muon.orthogonalize`

# Names of ATen's operations; the first that fits.
KINDS = {
    r"scaled_dot_product|_attention": "attention, fused",
    r"mm$|mm_|linear|matmul|einsum|convolution|conv2d": "matrix products, convolutions",
    r"layer_norm|batch_norm": "norms",
    r"gelu|softmax|nll_loss": "GELU, softmax",
    r"_fused_|_foreach_": "optimizer, weight averages",
    r"copy|cat$|clone|index|gather|scatter|roll|pad|fill_|zero_|arange|empty|as_strided|view|slice|select": "copies",
}
OTHER = "sums, products, the rest"


class Profile(NamedTuple):
    """Milliseconds a step."""

    step: float
    phases: dict[str, float]
    kinds: dict[str, float]  # of a profiled step, which takes longer


class StepProfiler(Profiler):
    """Times a number of steps after the warm-up, then profiles as many, and writes a `Profile` as JSON to `file`."""

    def __init__(self, file: str, steps: int) -> None:
        super().__init__()
        self.file, self.steps = Path(file), steps
        self._step = -1 - WARM_UP  # the current one; below 0: warm-up
        self._open: list[str] = []  # phases, the innermost last
        self._mark = self._began = 0.0
        self._seconds: dict[str, float] = defaultdict(float)
        self._watch: profile | None = None

    def start(self, action_name: str) -> None:
        if action_name.endswith("train_dataloader_next"):
            self._next_step()
        self._count()
        self._open.append(phase_of(action_name))

    def stop(self, action_name: str) -> None:
        self._count()
        if self._open:
            self._open.pop()

    def _count(self) -> None:
        """Add the time since the last call to the innermost phase."""
        now = _now()
        if 0 <= self._step < self.steps:
            self._seconds[self._open[-1] if self._open else REST] += now - self._mark
        self._mark = now

    def _next_step(self) -> None:
        self._count()
        self._step += 1
        if self._step == 0:
            self._began = self._mark
        elif self._step == self.steps:
            self._took = self._mark - self._began
            on_gpu = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
            self._watch = profile(activities=[ProfilerActivity.CPU, *on_gpu])
            self._watch.start()
        elif self._step == 2 * self.steps and self._watch is not None:
            self._watch.stop()
            self._write(self._watch)

    def _write(self, watch: profile) -> None:
        seconds: dict[str, float] = defaultdict(float)
        for event in watch.events():
            fused = event.device_type == DeviceType.CUDA and event.name.startswith("triton_")  # after what it fuses
            if event.name.startswith("aten::") or fused:
                took = event.self_device_time_total if torch.cuda.is_available() else event.self_cpu_time_total
                kind = MUON if _is_within(event, MUON) else kind_of(event.name.removeprefix("aten::"))
                seconds[kind] += took / 1e6
        result = Profile(
            1000 * self._took / self.steps,
            {phase: 1000 * value / self.steps for phase, value in self._seconds.items()},
            {kind: 1000 * value / self.steps for kind, value in seconds.items()},
        )
        self.file.write_text(json.dumps(result._asdict()), encoding="utf-8")


def _is_within(event: FunctionEvent, name: str) -> bool:
    parent: FunctionEvent | None = event
    while parent is not None and parent.name != name:
        parent = parent.cpu_parent
    return parent is not None


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def phase_of(action: str) -> str:
    """Return the phase that an action of Lightning's belongs to."""
    return _first(PHASES, action, REST)


def kind_of(operation: str) -> str:
    """Return the kind that an operation of ATen's belongs to."""
    return _first(KINDS, operation, OTHER)


def _first(patterns: Mapping[str, str], name: str, otherwise: str) -> str:
    return next((meaning for pattern, meaning in patterns.items() if re.search(pattern, name)), otherwise)


def profiled(arguments: Sequence[str], steps: int) -> tuple[Experiment, Profile]:
    """Train an experiment, given as to `vitlab fit`, for a few steps, and return it with their profile."""
    marked = record_function(MUON)(muon.orthogonalize)
    with TemporaryDirectory() as folder, mock.patch.object(muon, "orthogonalize", marked):
        file = Path(folder) / "profile.json"
        profiler = {
            "class_path": "benchmarks.step_profile.StepProfiler",
            "init_args": {"file": str(file), "steps": steps},
        }
        total = 2 * steps + WARM_UP + 2  # a loader is asked for a batch ahead
        experiment = train_steps(arguments, folder, total, {"trainer.profiler": json.dumps(profiler)})
        return experiment, Profile(**json.loads(file.read_text(encoding="utf-8")))


def main(arguments: Sequence[str] | None = None) -> None:
    """Profile the steps of an experiment."""
    parser = argparse.ArgumentParser("python -m benchmarks.step_profile", description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=20, help="timed steps, and as many profiled ones [20]")
    parser.add_argument("--out", type=Path, default=OUT, help=f"folder of step.md [{OUT}]")
    parser.epilog = "Other options as in `vitlab fit`."
    options, rest = parser.parse_known_args(arguments)
    experiment, result = profiled(rest, options.steps)
    header = (
        f"{type(experiment.objective).__name__} with {type(experiment.objective.backbone).__name__}, "
        f"batches of {experiment.data.batch_size} images of {experiment.data.image_size} px, "
        f"{experiment.trainer.precision}. {machine(experiment.trainer.strategy.root_device)} "
        f"{options.steps} steps of {result.step:.1f} ms."
    )
    tables = [
        markdown(header, shares("phase", result.phases)),
        markdown("Of the operations:", shares("kind", result.kinds)),
    ]
    save(options.out / "step.md", *tables)
    print("\n".join(tables), end="")


def shares(title: str, times: Mapping[str, float]) -> list[dict[str, str]]:
    """Return a row for each part of the time, the largest first."""
    return [
        {title: name, "ms": f"{value:.2f}", "share": f"{value / sum(times.values()):.1%}"}
        for name, value in sorted(times.items(), key=lambda row: -row[1])
    ]


if __name__ == "__main__":
    main()

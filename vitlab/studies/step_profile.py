"""What a training step's time goes into: by phases of the step, and by kinds of operations.

Lightning tells a profiler when each part of its loop begins and ends. The time of a phase is its own, without the
phases within it: the optimizer's step calls the forward and the backward pass. Kinds of operations are read from
torch's profiler in further steps, since watching each operation slows them down.

A GPU is waited for at both ends of a phase, so that its work is counted where it was ordered; a step takes longer then
than one that nobody watches, where the next phase is ordered meanwhile.
"""

import json
import re
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from lightning.pytorch.profilers import Profiler
from torch.profiler import ProfilerActivity, profile

WARM_UP = 5  # steps

# Lightning's names of actions, by how they end or begin; the first that fits.
PHASES = {
    r"train_dataloader_next$": "waiting for data",
    r"batch_to_device$|batch_transfer$": "to the device, distorted there",
    r"\.training_step$": "forward pass and loss",
    r"\.backward$": "backward pass",
    r"\.(optimizer_step|optimizer_zero_grad|configure_gradient_clipping|lr_scheduler_step)$|^zero_grad$": "optimizer",
    r"^\[(Callback|LightningModule|LightningDataModule|Strategy)\]": "callbacks, logging, averages of weights",
}
REST = "the loop itself"

# Names of ATen's operations; the first that fits.
KINDS = {
    r"scaled_dot_product|_attention": "attention, fused",
    r"mm$|mm_|linear|matmul|einsum|convolution|conv2d": "matrix products, convolutions",
    r"layer_norm|batch_norm": "norms",
    r"gelu|softmax|nll_loss": "GELU, softmax",
    r"_fused_|_foreach_": "optimizer, averages of weights",
    r"copy|cat$|clone|index|gather|scatter|roll|pad|fill_|zero_|arange|empty|as_strided|view|slice|select": "copies",
}
OTHER = "sums, products, the rest"


class Profile(NamedTuple):
    """Milliseconds a step."""

    step: float
    phases: dict[str, float]
    kinds: dict[str, float]  # of a watched step, which is longer


class StepProfiler(Profiler):
    """Measures so many steps after the first few, and watches as many more.

    Args:
        file: where the `Profile` goes, as JSON, when the last step is over.
        steps: of each kind.
    """

    def __init__(self, file: str, steps: int) -> None:
        super().__init__()
        self.file, self.steps = Path(file), steps
        self._step = -1 - WARM_UP  # the one that runs; below 0: not yet measured
        self._open: list[str] = []  # phases that run, the innermost last
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
        """Give the time since the last call to the innermost phase."""
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
        for event in watch.key_averages():
            if event.key.startswith("aten::"):
                took = event.self_device_time_total if torch.cuda.is_available() else event.self_cpu_time_total
                seconds[kind_of(event.key.removeprefix("aten::"))] += took / 1e6
        found = Profile(
            1000 * self._took / self.steps,
            {phase: 1000 * value / self.steps for phase, value in self._seconds.items()},
            {kind: 1000 * value / self.steps for kind, value in seconds.items()},
        )
        self.file.write_text(json.dumps(found._asdict()), encoding="utf-8")


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


def read(file: Path) -> Profile:
    """Read what a `StepProfiler` wrote."""
    return Profile(**json.loads(file.read_text(encoding="utf-8")))


def markdown(found: Profile, header: str) -> str:
    """Return both tables under a line that says what was measured, and where."""
    lines = [f"{header} A step takes {found.step:.1f} ms."]
    for title, times in (("phase", found.phases), ("kind of operation", found.kinds)):
        whole = sum(times.values())
        lines += ["", f"| {title} | ms | share |", "|---|---|---|"]
        for name, value in sorted(times.items(), key=lambda row: -row[1]):
            lines.append(f"| {name} | {value:.2f} | {value / whole:.1%} |")
    return "\n".join(lines) + "\n"

"""What a training step spends its time on: by phases of the step, and by kinds of operations.

    python -m benchmarks.step_profile --config experiments/vit_cifar10.yaml
    python -m benchmarks.step_profile --figure experiments/speedrun/{vit,swin,swin_v2}.yaml  # beside each other

Lightning tells a profiler when each part of its loop begins and ends. A phase's time excludes the phases within it: the
optimizer's step calls the forward and the backward pass. Kinds of operations come from torch's profiler in further
steps, because watching each operation slows them down.

A GPU is synchronized at both ends of a phase, so that its work is counted where it was launched. Such a step takes
longer than an unobserved one, where the next phase is launched meanwhile.

A bar of the figure is an unobserved step, in microseconds an image. Its parts are those of the profiled step, scaled to
it; what no operation of PyTorch's takes is Python, Lightning's loop and waiting.
"""

import json
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from unittest import mock

import torch
from lightning.pytorch.profilers import Profiler
from matplotlib.figure import Figure
from referee.report.drawing import COLORS
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.measuring import WARM_UP, machine, markdown, parser_of, save, train_steps
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
PYTHON = "Python, the loop, waiting"


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
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
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
            self._write(self._watch.events())

    def _write(self, events: Iterable[FunctionEvent]) -> None:
        seconds: dict[str, float] = defaultdict(float)
        for event in events:
            fused = event.device_type == DeviceType.CUDA and event.name.startswith("triton_")  # after what it fuses
            if event.name.startswith("aten::") or fused:
                took = event.self_device_time_total if torch.cuda.is_available() else event.self_cpu_time_total
                parent: FunctionEvent | None = event
                while parent is not None and parent.name != MUON:
                    parent = parent.cpu_parent
                kind = MUON if parent else kind_of(event.name.removeprefix("aten::"))
                seconds[kind] += took / 1e6
        result = Profile(
            1000 * self._took / self.steps,
            {phase: 1000 * value / self.steps for phase, value in self._seconds.items()},
            {kind: 1000 * value / self.steps for kind, value in seconds.items()},
        )
        self.file.write_text(json.dumps(result._asdict()), encoding="utf-8")


def phase_of(action: str) -> str:
    return next((phase for pattern, phase in PHASES.items() if re.search(pattern, action)), REST)


def kind_of(operation: str) -> str:
    return next((kind for pattern, kind in KINDS.items() if re.search(pattern, operation)), OTHER)


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


def shares(title: str, times: Mapping[str, float]) -> list[dict[str, str]]:
    """Return a row for each part of the time, the largest first."""
    return [
        {title: name, "ms": f"{value:.2f}", "share": f"{value / sum(times.values()):.1%}"}
        for name, value in sorted(times.items(), key=lambda row: -row[1])
    ]


def parts(profile: Profile, images: int) -> dict[str, float]:
    """Return microseconds an image by kind. Operations that add up to more than the step are scaled down to it."""
    operations = sum(profile.kinds.values())
    scale = 1000 / images * min(1.0, profile.step / operations)
    kinds = {kind: scale * milliseconds for kind, milliseconds in profile.kinds.items()}
    return kinds | {PYTHON: 1000 / images * profile.step - scale * operations}


def draw(bars: Mapping[str, Mapping[str, float]], title: str) -> Figure:
    figure = Figure(figsize=(11, 1.6 + 0.5 * len(bars)), layout="constrained")
    axes = figure.subplots()
    left = dict.fromkeys(bars, 0.0)
    for index, kind in enumerate([*dict.fromkeys([MUON, *KINDS.values(), OTHER]), PYTHON]):
        widths = [bar.get(kind, 0.0) for bar in bars.values()]
        style = {"color": COLORS[index % len(COLORS)], "hatch": "//" if index >= len(COLORS) else None}
        axes.barh(list(bars), widths, left=list(left.values()), label=kind, edgecolor="white", **style)
        left = {name: left[name] + width for name, width in zip(bars, widths, strict=True)}
    axes.invert_yaxis()
    axes.set(xlabel="µs an image", title=title)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right center", frameon=False)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of("step_profile", __doc__, "step.md or steps.png")
    parser.add_argument("--steps", type=int, default=20, help="timed steps, and as many profiled ones [20]")
    parser.add_argument("--figure", nargs="+", type=Path, metavar="FILE", help="draw the steps of these experiments")
    parser.add_argument("--base", type=Path, help="an experiment that those of the figure are merged into")
    parser.add_argument("--precisions", nargs="+", default=["32-true", "bf16-mixed"], help="of the figure")
    parser.epilog = "Other options as in `vitlab fit`."
    options, rest = parser.parse_known_args(arguments)
    if options.figure:
        bars = {}
        for file, precision in product(options.figure, options.precisions):
            configs = [f"--config={name}" for name in dict.fromkeys([options.base or file, file])]
            experiment, result = profiled([*configs, *rest, "--trainer.precision", precision], options.steps)
            bars[f"{file.stem}, {precision.partition('-')[0]}"] = parts(result, experiment.data.batch_size)
        options.out.mkdir(parents=True, exist_ok=True)
        draw(bars, machine(experiment.trainer.strategy.root_device)).savefig(options.out / "steps.png", dpi=110)
        return
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


if __name__ == "__main__":
    main()

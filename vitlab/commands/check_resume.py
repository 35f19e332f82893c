"""Check that an experiment, on this machine, survives being killed, bit for bit.

Of two equal short runs one is left alone, and the other is killed (SIGKILL) several times and started again, like a job
on a cluster. Then weights, averages, the optimizer's state, the generators, metrics and predictions are compared.
"""

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from vitlab.atomic_files import read_json
from vitlab.commands.options import StudyParser, experiment_of
from vitlab.config import Config, merge

# Columns of metrics.csv that measure the machine.
TIMINGS = ("data_wait", "images_per_second", "tflops", "mfu")

# The results in a checkpoint; its other entries tell when and where it ran.
RESULTS = ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step")

# Of the shortened experiment; nothing else is changed.
EPOCHS, VALIDATED = 2, 2


def run(arguments: Sequence[str]) -> int:
    """Train an experiment twice for a few steps, once killed on the way; 0 if both agree to the bit, 1 if not."""
    parser = StudyParser(
        "python -m vitlab check-resume --config FILE.yaml",
        "Check that an experiment survives being killed, bit for bit, on this machine. Other arguments as in fit.",
    )
    parser.add_argument("--steps", type=int, default=40, help="optimizer steps of each of the two runs [40]")
    parser.add_argument("--kills", type=int, default=3, help="how often one of them is killed [3]")
    parser.add_argument("--kill_seed", type=int, default=0, help="decides when [0]")
    parser.add_argument("--out", type=Path, help="keep both runs in this folder, which must be new")
    options, rest = parser.parse_known_args(arguments)
    if options.steps < 4 or options.kills < 1:
        raise ValueError(f"--steps {options.steps} --kills {options.kills}: give 4 steps or more, and 1 kill or more.")
    if options.out is not None and options.out.exists():
        raise ValueError(f"--out {options.out} exists; give a new folder for the two runs.")
    config = experiment_of(rest).config
    with TemporaryDirectory(prefix="vitlab-check-resume-") as temporary:
        folder = options.out or Path(temporary)
        kills, differences = examine(config, options.steps, options.kills, folder, options.kill_seed)
    print(f"Killed after the states of steps {', '.join(map(str, kills)) or '(none: it was too fast)'}, and continued.")
    if differences:
        print("Different from an undisturbed run:\n" + "\n".join(f"  {place}" for place in differences[:10]))
        return 1
    print("Weights, averages, optimizer, random generators, metrics and predictions equal those of an undisturbed run.")
    return 0


def shortened(config: Config, steps: int, root: Path) -> Config:
    """Return an experiment of this many steps, in two epochs, which writes its state at every other step."""
    batches = max(1, steps // EPOCHS) * int(config["trainer"].get("accumulate_grad_batches") or 1)
    return merge(
        config,
        {
            "trainer": {
                "max_epochs": EPOCHS,
                "max_steps": -1,
                "limit_train_batches": batches,
                "limit_val_batches": VALIDATED,
                "limit_test_batches": VALIDATED,
            },
            "run": {
                "root": str(root),
                "overwrite": False,
                "wandb": {"mode": "disabled"},
                "checkpoint": {"every_n_steps": 2, "max_time_share": 1.0},
            },
        },
    )


def disagreements(undisturbed: Path, other: Path) -> list[str]:
    """Return in what the results of two run directories differ; nothing if they are equal to the bit."""
    import pandas as pd
    import torch

    places: list[str] = []
    states = [
        torch.load(run / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)
        for run in (undisturbed, other)
    ]
    for part in RESULTS:
        places += [f"{part}{where}" for where in _unequal(states[0][part], states[1][part])]
    generators = [state["callbacks"].get("RandomState") for state in states]
    places += [f"random generators{where}" for where in _unequal(*generators)]
    tables = [pd.read_csv(run / "metrics.csv") for run in (undisturbed, other)]
    tables = [table.drop(columns=[c for c in TIMINGS if c in table]) for table in tables]
    if not tables[0].equals(tables[1]):
        rows = [len(table) for table in tables]
        places.append("metrics.csv" if rows[0] == rows[1] else f"metrics.csv: {rows[0]} rows and {rows[1]}")
    files = [run / "predictions.parquet" for run in (undisturbed, other)]
    if files[0].is_file() != files[1].is_file():
        places.append("predictions.parquet is there only once")
    elif files[0].is_file() and not pd.read_parquet(files[0]).equals(pd.read_parquet(files[1])):
        places.append("predictions.parquet")
    summaries = [run / "summary.json" for run in (undisturbed, other)]
    if all(file.is_file() for file in summaries):
        whole, continued = map(_metrics_in, summaries)
        places += [f"summary.json{where}" for where in _unequal(whole, continued)]
    return places


def _metrics_in(summary: Path) -> dict[str, float]:
    metrics = read_json(summary)["metrics"]
    return {name: value for name, value in metrics.items() if name not in TIMINGS}


def _unequal(a: Any, b: Any, where: str = "") -> Iterator[str]:
    """Yield the places at which two nests of dictionaries, lists, tensors and values differ."""
    import torch

    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        if a.shape != b.shape or a.dtype != b.dtype or not torch.equal(_bytes(a), _bytes(b)):
            yield where
    elif isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        for key in a:
            yield from _unequal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from _unequal(x, y, f"{where}.{i}")
    elif a != b:
        yield where


def _bytes(tensor: Any) -> Any:
    """Return a tensor as bytes, of which a NaN equals itself."""
    import torch

    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


class KillableRun:
    """A run in its own process, which can be killed while it trains."""

    def __init__(self, config: Path, name: str, seed: int) -> None:
        self.command = [sys.executable, "-m", "vitlab", "fit", "--config", str(config), "--run.name", name]
        self.log = config.with_name(f"{name}.log")
        self.directory = config.parent / name / f"seed-{seed}"
        self.kills: list[int] = []

    def start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as file:
            return subprocess.Popen(self.command, stdout=file, stderr=file, start_new_session=True)

    def run_to_the_end(self) -> None:
        """Run, and return when it has finished.

        Raises:
            ValueError: it failed; with the last lines that it wrote.
        """
        self._expect_success(self.start())

    def run_with_kills(self, at: Sequence[int], rng: random.Random) -> None:
        """Kill the run soon after it has written its state of each of these steps, and start it again."""
        for step in at:
            process = self.start()
            while process.poll() is None and (self.step() or 0) < step:
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 0.2))
            if process.poll() is None:
                os.killpg(process.pid, 9)
                process.wait()
                self.kills.append(step)
            elif process.returncode:
                self._expect_success(process)
        self.run_to_the_end()

    def step(self) -> int | None:
        """Return the step of the newest state, or None where there is none."""
        import torch

        file = self.directory / "checkpoints" / "last.ckpt"
        try:
            return int(torch.load(file, map_location="cpu", weights_only=True, mmap=True)["global_step"])
        except (OSError, RuntimeError):
            return None

    def _expect_success(self, process: subprocess.Popen[bytes]) -> None:
        if process.wait():
            last = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-5:]
            raise ValueError("The experiment fails by itself, without any kill:\n" + "\n".join(last))


def examine(config: Config, steps: int, kills: int, folder: Path, seed: int) -> tuple[list[int], list[str]]:
    """Train twice in `folder`, one of the runs killed; return the steps of the kills and the disagreements."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "experiment.yaml"
    file.write_text(yaml.safe_dump(shortened(config, steps, folder), sort_keys=False), encoding="utf-8")
    undisturbed, killed = (KillableRun(file, name, config["seed_everything"]) for name in ("undisturbed", "killed"))
    undisturbed.run_to_the_end()
    rng = random.Random(seed)
    last = read_json(undisturbed.directory / "summary.json")["steps"]
    at = sorted(rng.sample(range(1, last), min(kills, last - 1)))
    killed.run_with_kills(at, rng)
    return killed.kills, disagreements(undisturbed.directory, killed.directory)

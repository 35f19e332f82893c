"""The cost of a study's variants, measured in one session in which they take turns.

Each variant has its own process running `benchmark --in_turn`, because peak memory is a property of a process. Taking
turns exposes all variants to the same disturbances, and the spread between turns shows how large these were. As many
processes take a turn together as runs of the study share a device. The variants are compared with each other, so an
interrupted session starts over.
"""

import math
import os
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from itertools import product

from vitlab.config import Config, load_yaml
from vitlab.evaluation.cost import READY, Cost, device_for, device_name, doubts
from vitlab.signals import signals_as_exit
from vitlab.studies.file.format import clock
from vitlab.studies.file.runs import Run
from vitlab.studies.file.study import LENGTH
from vitlab.studies.training.run_all import last_lines, write_config
from vitlab.studies.training.slots import Slots

RATES = ("lr", "muon_lr", "weight_decay")  # of an optimizer
TURNS = 6  # of each process at least


def measure_costs(runs: Sequence[Run], program: Sequence[str], slots: Slots) -> tuple[dict[str, Cost], dict[str, str]]:
    """Measure one run of each variant, with as many threads as a run has.

    Earlier measurements are reused only if they cover all of these configurations on this device.

    Returns:
        The costs by variant, and the reasons of failures by variant.
    """
    known, _ = known_costs(runs)
    if all(run.variant in known and _is_of_this_machine(run, known[run.variant]) for run in runs):
        return known, {}
    failures: dict[str, str] = {}
    with signals_as_exit(), ExitStack() as stack:
        children = _prepare(runs, program, slots, stack, failures)
        start, rounds = time.monotonic(), math.ceil(TURNS / slots.sharing)
        for done in range(rounds):
            left = (time.monotonic() - start) / done * (rounds - done) if done else None
            when = "" if left is None else f", about {clock(left)} left"
            names = ", ".join(dict.fromkeys(child.run.variant for child in children))
            print(f"Measuring cost: round {done + 1} of {rounds} ({names}){when} …", flush=True)
            for first in range(len(children)):  # every process takes its turns with all that follow it
                group = (children[first:] + children[:first])[: slots.sharing]
                group = [child for child in group if child.run.variant not in failures]
                for child in group:
                    child.begin_turn()
                _when_ready(group, failures)
            children = [child for child in children if child.run.variant not in failures]
        failures |= {child.run.variant: why for child in children if (why := child.end())}
    costs = {run.variant: Cost.read(run.folder / "cost.json") for run in runs if run.variant not in failures}
    for doubt in doubts(costs):
        print(doubt, flush=True)
    return costs, failures


def known_costs(runs: Sequence[Run]) -> tuple[dict[str, Cost], dict[str, str]]:
    """Return the measured costs of these configurations on any machine, and the variants without any."""
    costs: dict[str, Cost] = {}
    for run in runs:
        with suppress(FileNotFoundError, ValueError):  # never measured, or by an older version
            cost = Cost.read(run.folder / "cost.json")
            if costly(load_yaml(run.folder / "cost-config.yaml")) == costly(run.config):
                costs[run.variant] = cost
    return costs, {run.variant: "it has not been measured" for run in runs if run.variant not in costs}


def _is_of_this_machine(run: Run, cost: Cost) -> bool:
    return cost.device == device_name(device_for(run.config.get("trainer", {}).get("accelerator", "auto")))


def _prepare(
    runs: Sequence[Run], program: Sequence[str], slots: Slots, stack: ExitStack, failures: dict[str, str]
) -> list["_Child"]:
    """Start the processes that take turns, as many at once as work on the device, and return those that are ready."""
    copies = math.ceil(slots.sharing / len(runs))  # of each variant, where fewer would not fill the device
    starts = list(product(range(copies), runs))
    children: list[_Child] = []
    for first in range(0, len(starts), slots.sharing):
        beginning = starts[first : first + slots.sharing]
        names = ", ".join(dict.fromkeys(run.variant for _, run in beginning))
        print(f"Measuring cost: preparing {names} ({first + len(beginning)} of {len(starts)}) …", flush=True)
        new = [stack.enter_context(closing(_Child(run, program, slots, copy))) for copy, run in beginning]
        children += _when_ready(new, failures)
    return children


def _when_ready(children: Sequence["_Child"], failures: dict[str, str]) -> list["_Child"]:
    """Wait for each process, add to `failures` why one ended instead, and return the others."""
    for child in children:
        if not child.is_ready():
            failures.setdefault(child.run.variant, child.end())
    return [child for child in children if child.run.variant not in failures]


def costly(config: Config) -> Config:
    """Return the part of a configuration that a cost depends on: not length, rates, schedule or number of images."""
    model, trainer, run = config["model"], config.get("trainer", {}), config.get("run", {})
    arguments = {key: value for key, value in model["init_args"].items() if key != "schedule"}
    if "optimizer" in arguments:
        optimizer = arguments["optimizer"].get("init_args", {})
        settings = {key: value for key, value in optimizer.items() if key not in RATES}
        arguments["optimizer"] = {**arguments["optimizer"], "init_args": settings}
    images = {key: value for key, value in config["data"]["init_args"].items() if not key.startswith("train_images")}
    return {
        "model": {**model, "init_args": arguments},
        "data": {**config["data"], "init_args": images},
        "trainer": {k: value for k, value in trainer.items() if k not in LENGTH},
        "compile": run.get("compile", False),
    }


class _Child:
    """A process that measures on request; `close` kills it.

    Args:
        copy: 0, or the number of another process of the variant, which only takes part so that enough do.
    """

    def __init__(self, run: Run, program: Sequence[str], slots: Slots, copy: int) -> None:
        name = f"cost-{copy}" if copy else "cost"
        self.run, self.cost_path, config = run, run.folder / f"{name}.json", run.folder / "cost-config.yaml"
        self.cost_path.unlink(missing_ok=True)
        write_config(config, run.config)
        self.log_path = run.folder / f"{name}.log"
        self.log = self.log_path.open("w", encoding="utf-8")
        together = ["--in_turn", str(slots.sharing)]
        self.process = subprocess.Popen(
            [*program, "benchmark", "--config", str(config), "--json", str(self.cost_path), *together],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env={**os.environ, **slots.environment(0)},
        )

    def close(self) -> None:
        """End it, whatever it does."""
        self.process.kill()
        self.process.communicate()
        self.log.close()

    def is_ready(self) -> bool:
        """Wait until it is; False if it ended instead. Its other output goes to the log."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.strip() == READY:
                return True
            self._note(line)
        return False

    def begin_turn(self) -> None:
        """Let it measure; afterwards it is ready again."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write("\n")
            self.process.stdin.flush()

    def end(self) -> str:
        """Let it write its results; return why it did not, or an empty string."""
        with suppress(BrokenPipeError):
            self._note(self.process.communicate()[0])
        if self.process.returncode == 0 and self.cost_path.is_file():
            return ""
        return ": ".join([f"exit status {self.process.returncode}", *last_lines(self.log_path, 1)])

    def _note(self, text: str) -> None:
        self.log.write(text)
        self.log.flush()

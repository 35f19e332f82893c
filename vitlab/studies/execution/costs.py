"""The cost of a study's variants, measured in one session in which they take turns.

Each variant has its own process running `benchmark --in_turn`, because peak memory is a property of a process. Taking
turns exposes all variants to the same disturbances, and the spread between turns shows how large these were. The
variants are compared with each other, so an interrupted session starts over.
"""

import os
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from vitlab.config import Config, load_yaml
from vitlab.evaluation.cost import READY, TURNS, Cost, device_for, device_name, doubts
from vitlab.studies.execution.local import Allotment, last_lines, signals_as_exit, write_config
from vitlab.studies.format import clock
from vitlab.studies.study import Run


def measure_costs(
    runs: Sequence[Run], program: Sequence[str], allotment: Allotment
) -> tuple[dict[str, Cost], dict[str, str]]:
    """Measure one run of each variant, with as many threads as a run has.

    Earlier measurements are reused only if they cover all of these configurations on this device.

    Returns:
        The costs by variant, and the reasons of failures by variant.
    """
    known, missing = known_costs(runs)
    if not missing:
        return known, {}
    failures: dict[str, str] = {}
    with signals_as_exit(), ExitStack() as stack:
        children: dict[str, _Child] = {}
        for number, run in enumerate(runs, start=1):
            print(f"Measuring cost: preparing {run.variant} ({number} of {len(runs)}) …", flush=True)
            child = stack.enter_context(_Child(run, program, allotment))
            if child.is_ready():
                children[run.variant] = child
            else:
                failures[run.variant] = child.end()
        start = time.monotonic()
        for turn in range(1, TURNS + 1):
            left = (time.monotonic() - start) / (turn - 1) * (TURNS - turn + 1) if turn > 1 else None
            when = "" if left is None else f", about {clock(left)} left"
            print(f"Measuring cost: turn {turn} of {TURNS} ({', '.join(children)}){when} …", flush=True)
            for variant, child in list(children.items()):
                if not child.take_turn():
                    failures[variant] = child.end()
                    del children[variant]
        failures |= {variant: why for variant, child in children.items() if (why := child.end())}
    costs = {run.variant: Cost.read(cost_path(run)) for run in runs if run.variant not in failures}
    for doubt in doubts(costs):
        print(doubt, flush=True)
    return costs, failures


def known_costs(runs: Sequence[Run]) -> tuple[dict[str, Cost], dict[str, str]]:
    """Return the measured costs of these configurations on this device, and the variants without any."""
    costs: dict[str, Cost] = {}
    for run in runs:
        config = run.folder / "cost-config.yaml"
        device = device_name(device_for(run.config.get("trainer", {}).get("accelerator", "auto")))
        with suppress(FileNotFoundError, ValueError):  # never measured, or by an older version
            cost = Cost.read(cost_path(run))
            if cost.device == device and _costly(load_yaml(config)) == _costly(run.config):
                costs[run.variant] = cost
    reason = "it has not been measured on this machine"
    return costs, {run.variant: reason for run in runs if run.variant not in costs}


def cost_path(run: Run) -> Path:
    """Return the file with the cost of a run's variant."""
    return run.folder / "cost.json"


def _costly(config: Config) -> Config:
    """Return the part of a configuration that a cost depends on."""
    trainer = {key: value for key, value in config.get("trainer", {}).items() if key != "max_epochs"}
    return {"model": config["model"], "data": config["data"], "trainer": trainer}


class _Child:
    """A process that measures on request; killed at the end of the `with` block."""

    def __init__(self, run: Run, program: Sequence[str], allotment: Allotment) -> None:
        self.cost_path, config = cost_path(run), run.folder / "cost-config.yaml"
        self.cost_path.unlink(missing_ok=True)
        write_config(config, run.config)
        self.log_path = run.folder / "cost.log"
        self.log = self.log_path.open("w", encoding="utf-8")
        self.process = subprocess.Popen(
            [*program, "benchmark", "--config", str(config), "--json", str(self.cost_path), "--in_turn"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env={**os.environ, **allotment.environment(0)},
        )

    def __enter__(self) -> "_Child":
        return self

    def __exit__(self, *args: object) -> None:
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

    def take_turn(self) -> bool:
        """Let it measure; False if it ended instead."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        return self.is_ready()

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

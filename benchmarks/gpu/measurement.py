"""Measurements of one step, made one after the other; what each of them gives is written as soon as it is known.

The file of a step, `tests.jsonl`, has a line for each event: a measurement is `started`, then `done`, `failed` or
`cut`. The last line of a name counts, so that a call continues what an earlier one has left.
"""

import gc
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch

from vitlab.evaluation.cost import device_name

ROOT = Path(__file__).parents[2]
Figures = dict[str, Any]  # of one measurement, for JSON


@dataclass(frozen=True)
class Setting:
    """Where to measure, and until when."""

    out: Path  # runs, and data that are made
    data: Path  # CIFAR-10
    results: Path
    device: torch.device  # a GPU; a CPU in a dry run
    dry: bool = False  # with the smallest sizes there are: to see that everything works, not how fast
    only: str = ""  # measure what has this in its name
    until: float = float("inf")  # the time (`time.time`) at which the step is to end


class Measurement(NamedTuple):
    name: str
    measure: Callable[[], Figures]


class Cut(Exception):
    """The time is over, and the next call continues the measurement; `figures` tell how far it has come."""

    def __init__(self, **figures: Any) -> None:
        super().__init__()
        self.figures: Figures = figures


class Results:
    def __init__(self, folder: Path, step: str) -> None:
        self.file = folder / f"{step}.jsonl"

    def lines(self) -> list[Figures]:
        """Return all lines but those that a cut left incomplete."""
        lines = []
        for line in self.file.read_text(encoding="utf-8").splitlines() if self.file.is_file() else []:
            with suppress(json.JSONDecodeError):
                lines.append(json.loads(line))
        return lines

    def last(self) -> dict[str, Figures]:
        return {line["name"]: line for line in self.lines()}

    def add(self, name: str, state: str, device: torch.device, **figures: Any) -> None:
        known = {"name": name, "state": state, "at": now(), "device": device_name(device), "torch": torch.__version__}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        torn = self.file.is_file() and not self.file.read_bytes().endswith(b"\n")
        with self.file.open("a", encoding="utf-8") as file:
            file.write("\n" * torn + json.dumps(known | figures) + "\n")


def now() -> str:
    """Return the time, in a form that sorts."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def left_to_do(results: Results, names: Iterable[str], device: torch.device, since: str) -> list[str]:
    """Return the measurements that are not done on this device, nor have ended otherwise since the call began."""
    ended = {
        name
        for name, line in results.last().items()
        if line["device"] == device_name(device)
        and (line["state"] == "done" or (line["state"] in {"failed", "cut"} and line["at"] >= since))
    }
    return [name for name in names if name not in ended]


def measure(measurements: Iterable[Measurement], results: Results, setting: Setting, since: str) -> bool:
    """Make the measurements that are left while there is time. Return whether none has failed in this process, which
    an error of CUDA may have spoilt for the rest."""
    runs, sound = dict(measurements), True
    for name in left_to_do(results, runs, setting.device, since):
        if time.time() >= setting.until:
            break
        print(f"{results.file.stem}: {name}", file=sys.stderr, flush=True)
        results.add(name, "started", setting.device)
        begin = time.perf_counter()
        try:
            figures = runs[name]()
        except Cut as cut:
            results.add(name, "cut", setting.device, **cut.figures)
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
            results.add(name, "failed", setting.device, reason=reason)
            sound = False
            if not setting.dry:
                break
        else:
            seconds = round(time.perf_counter() - begin, 3)
            results.add(name, "done", setting.device, took=seconds, **figures)
        finally:
            gc.collect()
            if setting.device.type == "cuda":
                torch.cuda.empty_cache()
    return sound


def close(results: Results, state: str, device: torch.device, **figures: Any) -> None:
    """Say how a measurement ended whose process did not say it."""
    for name, line in results.last().items():
        if line["state"] == "started":
            results.add(name, state, device, **figures)

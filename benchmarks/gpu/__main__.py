"""`python -m benchmarks.gpu`: measure step by step, each in a process of its own and for at most some minutes."""

import argparse
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.gpu import learning, page, parity, speed
from benchmarks.gpu.measurement import Measurement, Results, Setting, close, left_to_do, measure, now
from vitlab.data import CIFAR10
from vitlab.evaluation.cost import device_for

STEPS: dict[str, Callable[[Setting], Iterable[Measurement]]] = {
    "tests": parity.tests,
    "parity": parity.measurements,
    "speed": speed.speeds,
    "learning": learning.measurements,
}
CIFAR10_FILES = ("cifar10.npz", CIFAR10.official.filename)
NEEDED = "cuda"
GRACE = 30.0  # seconds of a step's time in which a training may write its state


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and rewrite the page after each step. Return 1 if a measurement failed, else 0."""
    parser = argparse.ArgumentParser("python -m benchmarks.gpu", description=__doc__.partition(": ")[2])
    parser.add_argument("steps", nargs="*", metavar="STEP", help=f"of {', '.join(STEPS)} [all]")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of CIFAR-10 [data]")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="folder of runs and made data [runs/gpu]")
    parser.add_argument("--results", type=Path, help="folder of results [that of --out]")
    parser.add_argument("--page", type=Path, default=Path("benchmarks/gpu.md"), help="written from all results")
    parser.add_argument("--minutes", type=float, default=8.0, help="of each step at most [8]")
    parser.add_argument("--total", type=float, default=math.inf, help="minutes of the whole call at most [no limit]")
    parser.add_argument("--only", default="", metavar="TEXT", help="measurements with this in their names [all]")
    parser.add_argument("--dry-run", action="store_true", help="try every step on a CPU, with tiny sizes")
    parser.add_argument("--inside", nargs=2, metavar=("SINCE", "UNTIL"), help=argparse.SUPPRESS)  # of a step's process
    options = parser.parse_args(arguments)
    if unknown := [step for step in options.steps if step not in STEPS]:
        parser.error(f"there is no step {unknown[0]}; the steps are {', '.join(STEPS)}.")
    device = device_for("cpu" if options.dry_run else "auto")
    if device.type != NEEDED and not options.dry_run:
        parser.error("there is no CUDA device; --dry-run tries every step on a CPU.")
    steps = options.steps or list(STEPS)
    has_data = any((options.data / name).is_file() for name in CIFAR10_FILES)
    if "learning" in steps and not options.dry_run and not has_data:
        if options.steps:
            parser.error(f"--data {options.data} has no {' or '.join(CIFAR10_FILES)}, which the step learning needs.")
        steps = [step for step in steps if step != "learning"]
        print(f"The step learning is left out: {options.data} has no CIFAR-10.")
    begin, out = time.time(), options.out.resolve()
    data = parity.noise(out / "noise") / "cifar" if options.dry_run else options.data.resolve()
    setting = Setting(out, data, (options.results or out).resolve(), device, options.dry_run, options.only)
    if options.inside:
        (since, until), (step,) = options.inside, steps
        threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
        setting = replace(setting, until=float(until))
        return 0 if measure(chosen(step, setting), Results(setting.results, step), setting, since) else 1
    failed = []
    for step in steps:
        minutes = min(options.minutes, options.total - (time.time() - begin) / 60)
        failed.append(finish(step, setting, minutes, options.page))
    return int(any(failed))


def chosen(step: str, setting: Setting) -> list[Measurement]:
    return [each for each in STEPS[step](setting) if setting.only in each.name]


def end_with(parent: int) -> None:
    """End this process and its children as soon as the one that started it is gone, which may have been killed."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os.killpg(0, signal.SIGKILL)


def finish(step: str, setting: Setting, minutes: float, file: Path) -> bool:
    """Measure a step, rewrite the page, and print what is left. Return whether a measurement or its process failed."""
    since, results, sound = now(), Results(setting.results, step), True
    names = [name for name, _ in chosen(step, setting)]
    if setting.dry:
        measure(chosen(step, setting), results, setting, since)
    else:
        sound = supervise(step, names, results, setting, since, 60 * minutes)
    page.write(file, setting.results, list(STEPS))
    states = {name: line["state"] for name, line in results.last().items() if name in names}
    failures = [name for name, state in states.items() if state == "failed"]
    left = sum(states.get(name) != "done" for name in names)
    print(f"{step}: {len(names) - left} of {len(names)} done" + f", failed: {'; '.join(failures)}" * bool(failures))
    if not sound:
        print("  its process ended before it measured anything; see the output above")
    elif left > len(failures):
        print(f"  the same command continues with the other {left - len(failures)}")
    return bool(failures) or not sound


def supervise(step: str, names: Sequence[str], results: Results, setting: Setting, since: str, seconds: float) -> bool:
    """Measure a step in a process of its own, and in another one after a failure, until its time is over.

    Return whether each process measured something, even if that failed.
    """
    end = time.time() + seconds
    inside = ["--inside", since, str(end - GRACE)]
    folders = ["--out", setting.out, "--results", setting.results, "--data", setting.data, "--only", setting.only]
    command = [sys.executable, "-m", "benchmarks.gpu", step, *inside, *folders]
    environment = {"TORCHINDUCTOR_CACHE_DIR": str(setting.out / "inductor"), **os.environ}
    sound = True
    while sound and time.time() < end - GRACE and left_to_do(results, names, setting.device, since):
        known = len(results.lines())
        process = subprocess.Popen([str(word) for word in command], env=environment, process_group=0)
        try:
            status = process.wait(max(0.0, end - time.time()))
        except subprocess.TimeoutExpired:
            break
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        close(results, "failed", setting.device, reason=f"its process ended with status {status}")
        sound = len(results.lines()) > known  # or it would not measure anything the next time
    close(results, "cut", setting.device)
    return sound


if __name__ == "__main__":
    sys.exit(main())

"""`python -m benchmarks.gpu`: measure step by step, each in a process of its own and for at most some minutes."""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from benchmarks.gpu import learning, loading, page, parity, profiles, speed, tests
from benchmarks.gpu.measuring import Measurement, Results, Setting, close, left_to_do, measure, now
from vitlab.data import CIFAR10
from vitlab.evaluation.cost import device_for

STEPS: dict[str, Callable[[Setting], Iterable[Measurement]]] = {
    "tests": tests.measurements,
    "parity": parity.measurements,
    "speed": speed.measurements,
    "loading": loading.measurements,
    "learning": learning.measurements,
    "profiles": profiles.measurements,
}
CIFAR10_FILES = ("cifar10.npz", CIFAR10.official.filename)
NEEDED = "cuda"
GRACE = 30.0  # seconds of a step's time in which a training may write its state


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and rewrite the page after each step. Return 1 if a measurement failed, else 0."""
    parser = argparse.ArgumentParser("python -m benchmarks.gpu", description=__doc__.partition(": ")[2])
    parser.add_argument("steps", nargs="*", metavar="STEP", help=f"of {', '.join(STEPS)} [all]")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of CIFAR-10 [data]")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="folder of results and runs [runs/gpu]")
    parser.add_argument("--page", type=Path, default=Path("docs/gpu.md"), help="written from all results [docs/gpu.md]")
    parser.add_argument("--minutes", type=float, default=8.0, help="of each step at most [8]")
    parser.add_argument("--dry-run", action="store_true", help="try all of it on a CPU, with tiny sizes")
    parser.add_argument("--inside", nargs=2, metavar=("SINCE", "UNTIL"), help=argparse.SUPPRESS)  # of a step's process
    options = parser.parse_args(arguments)
    if unknown := [step for step in options.steps if step not in STEPS]:
        parser.error(f"there is no step {unknown[0]}; the steps are {', '.join(STEPS)}.")
    device = device_for("cpu" if options.dry_run else "auto")
    if device.type != NEEDED and not options.dry_run:
        parser.error("there is no CUDA device; --dry-run tries everything on a CPU.")
    steps = options.steps or list(STEPS)
    has_data = any((options.data / name).is_file() for name in CIFAR10_FILES)
    if "learning" in steps and not options.dry_run and not has_data:
        if options.steps:
            parser.error(f"--data {options.data} has no {' or '.join(CIFAR10_FILES)}, which the step learning needs.")
        steps = [step for step in steps if step != "learning"]
        print(f"The step learning is left out: {options.data} has no CIFAR-10.")
    out = options.out.resolve()
    data = parity.noise(out / "noise", few=True) / "cifar" if options.dry_run else options.data.resolve()
    setting = Setting(out, data, device, options.dry_run)
    if options.inside:
        since, until = options.inside
        (step,) = steps
        setting = Setting(setting.out, setting.data, device, until=float(until))
        return 0 if measure(STEPS[step](setting), Results(setting.out, step), setting, since) else 1
    failed = [finish(step, setting, options.minutes, options.page) for step in steps]
    return int(any(failed))


def finish(step: str, setting: Setting, minutes: float, file: Path) -> bool:
    """Measure a step, rewrite the page, and print what is left. Return whether a measurement failed."""
    since, results = now(), Results(setting.out, step)
    names = [name for name, _ in STEPS[step](setting)]
    if setting.dry:
        measure(STEPS[step](setting), results, setting, since)
    else:
        supervise(step, names, results, setting, since, 60 * minutes)
    page.write(file, setting.out, list(STEPS))
    states = {name: line["state"] for name, line in results.last().items() if name in names}
    failures = [name for name, state in states.items() if state == "failed"]
    left = sum(states.get(name) != "done" for name in names)
    print(f"{step}: {len(names) - left} of {len(names)} done" + f", failed: {'; '.join(failures)}" * bool(failures))
    if left > len(failures):
        print(f"  the same command continues with the other {left - len(failures)}")
    return bool(failures)


def supervise(step: str, names: Sequence[str], results: Results, setting: Setting, since: str, seconds: float) -> None:
    """Measure a step in a process of its own, and in another one after a failure, until its time is over."""
    end = time.time() + seconds
    inside = ["--inside", since, str(end - GRACE)]
    command = [sys.executable, "-m", "benchmarks.gpu", step, *inside, "--out", setting.out, "--data", setting.data]
    environment = {"TORCHINDUCTOR_CACHE_DIR": str(setting.out / "inductor"), **os.environ}
    while time.time() < end - GRACE and left_to_do(results, names, setting.device, since):
        known = len(results.lines())
        process = subprocess.Popen([str(word) for word in command], env=environment, start_new_session=True)
        try:
            status = process.wait(max(0.0, end - time.time()))
        except subprocess.TimeoutExpired:
            break
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        close(results, "failed", setting.device, reason=f"its process ended with status {status}")
        if len(results.lines()) == known:
            break  # it measured nothing, and would not the next time
    close(results, "cut", setting.device)


if __name__ == "__main__":
    sys.exit(main())

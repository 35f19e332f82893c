"""How long a process lives after its run has ended, for every way to end: `python -m benchmarks.endings`.

Each ending is a real process: a small ViT on handwritten digits. The time is from the event (a signal, an error, the
run's last file) to the end of the process, its loader processes and W&B's included.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import chdir, nullcontext
from itertools import product
from pathlib import Path

from lightning.pytorch import Callback

from benchmarks.measuring import CPU, machine, markdown, parser_of, save
from vitlab.runs import checkpoints
from vitlab.runs.lock import run_lock

PATIENCE = 180.0  # seconds, after which a process is taken to hang
EXPECTED = {
    "done": 0, "not finite": 1, "exception": 1, "SIGTERM": 75, "SIGHUP": 75, "SIGUSR1": 75, "SIGINT": 130,
    "lock refused": 2, "disk full": 73,
}  # fmt: skip
WANDB = ("disabled", "offline")
SETTINGS = {
    "no loader processes": ["--data.num_workers", "0"],
    "2 loader processes": ["--data.hold_on_device", "false", "--data.num_workers", "2"],
    "2 processes (DDP) of 2 loaders": [
        *("--data.hold_on_device", "false", "--data.num_workers", "2"),
        *("--trainer.devices", "2", "--trainer.strategy", "ddp"),
    ],
}
ARGUMENTS = {
    "not finite": ["--model.optimizer.lr", "1e25", "--model.schedule.warmup_epochs", "0"],
    **{name: ["--trainer.max_epochs", "500"] for name in EXPECTED if name.startswith("SIG")},
}


EXPERIMENT = Path(__file__).parents[1] / "experiments" / "teacher_digits.yaml"
FIT = [
    *(sys.executable, "-W", "ignore", "-m", "vitlab", "fit", "--config", str(EXPERIMENT), "--run.name", "tiny"),
    *("--trainer.accelerator", "cpu", "--trainer.max_epochs", "1"),
]


class Event(Callback):
    """Marks the third step by a file, and there raises an error or fills the disk if that is the ending."""

    def __init__(self, ending: str) -> None:
        self.ending = ending

    def on_train_batch_end(self, trainer: object, module: object, outputs: object, batch: object, index: int) -> None:
        if index != 2:
            return
        Path("event").touch()
        if self.ending == "exception":
            raise RuntimeError("an error of the user's callback")
        if self.ending == "disk full":

            def full(*args: object, **kwargs: object) -> None:
                raise OSError(28, "No space left on device")

            checkpoints.written_whole = full


def measured(ending: str, arguments: list[str], wandb: str) -> tuple[int | str, float]:
    """Return the status of a run with this ending, and the seconds from the event to the end of its process."""
    callback = {"class_path": "benchmarks.endings.Event", "init_args": {"ending": ending}}
    command = [*FIT, "--trainer.callbacks+", json.dumps(callback), *ARGUMENTS.get(ending, []), *arguments]
    command += ["--run.wandb.mode", wandb]
    lock = run_lock(Path("runs/tiny/seed-0")) if ending == "lock refused" else nullcontext()  # of another process
    with lock, Path("log.txt").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        event = None
        while process.poll() is None:
            time.sleep(0.01)
            if event is None and happened(ending):
                event = time.monotonic()
                if ending.startswith("SIG"):
                    process.send_signal(signal.Signals[ending])
            if event is not None and time.monotonic() - event > PATIENCE:
                os.killpg(process.pid, signal.SIGKILL)
                return "hangs", PATIENCE
    return process.returncode, time.monotonic() - event if event is not None else float("nan")


def happened(ending: str) -> bool:
    """Return whether the event of an ending has happened: by what the run has written."""
    if ending == "done":
        return Path("runs/tiny/seed-0/summary.json").is_file()
    words = {"not finite": "the run stops", "lock refused": "error: ", "disk full": "is not finished"}
    return words[ending] in Path("log.txt").read_text() if ending in words else Path("event").exists()


def main(arguments: Sequence[str] | None = None) -> None:
    out = parser_of("endings", __doc__, "endings.md").parse_args(arguments).out.absolute()
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path[1:2]])}
    rows = []
    for (ending, status), (name, setting), wandb in product(EXPECTED.items(), SETTINGS.items(), WANDB):
        if "DDP" in name and wandb == "offline":
            continue
        with tempfile.TemporaryDirectory() as folder, chdir(folder):
            told, seconds = measured(ending, setting, wandb)
        row = {"ending": ending, "processes": name, "W&B": wandb, "documented": status, "status": told}
        rows.append(row | {"seconds to the end": f"{seconds:.1f}"})
        print(*rows[-1].values(), sep=" | ", flush=True)
    save(out / "endings.md", markdown(machine(CPU, "lightning"), rows))


if __name__ == "__main__":
    main()

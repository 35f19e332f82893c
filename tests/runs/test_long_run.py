"""A long run stays flat: what its processes hold after a tenth of its steps is what they hold at the end."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.conftest import TINY
from vitlab.config import Config, merge

pytestmark = pytest.mark.benchmarks  # minutes, and memory is a measurement

SLACK = 0.02  # of the memory at a tenth of the run; an allocator's pages come and go
LEAST_SLACK = 8 * 2**20  # bytes
# A batch on its way from a worker is an open file for each of its tensors: 2 batches of images, labels and indices.
FILES_OF_A_WORKER = 6


def _tree(pid: int) -> list[int]:
    """Return a process and all below it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += _tree(int(child))
    return found


def _held(pid: int) -> tuple[int, int]:
    """Return the memory of all processes of a tree together, in bytes (RSS), and their open files."""
    memory = files = 0
    for process in _tree(pid):
        rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
        memory += 1024 * next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Rss:"))
        files += len(os.listdir(f"/proc/{process}/fd"))
    return memory, files


def _steps(metrics: Path) -> int:
    try:
        return int(metrics.read_text().splitlines()[-1].partition(",")[0])
    except (OSError, ValueError, IndexError):
        return 0


def _watch(path: Path, steps: int, environment: dict[str, str]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Train; return what is held from a tenth of the steps on, and towards the end: each the least of a few looks.

    The least, since a look can fall into a validation or a checkpoint.
    """
    command = [sys.executable, "-m", "vitlab", "fit", "--config", str(path)]
    metrics = Path("runs/long/seed-0/metrics.csv")
    with open("said.txt", "w") as said:
        run = subprocess.Popen(command, env=os.environ | environment, stderr=said)
    looks: list[tuple[int, tuple[int, int]]] = []
    while run.poll() is None:
        try:
            looks.append((_steps(metrics), _held(run.pid)))
        except (OSError, StopIteration):
            continue  # a process that ended meanwhile
        time.sleep(0.1)
    assert run.returncode == 0, Path("said.txt").read_text()
    early = [held for step, held in looks if 0.1 * steps <= step < 0.25 * steps]
    late = [held for step, held in looks if 0.85 * steps <= step < 0.99 * steps]
    assert len(early) >= 3, looks
    assert len(late) >= 3, looks
    first, last = (tuple(min(values) for values in zip(*part, strict=True)) for part in (early, late))
    return first, last  # type: ignore[return-value]


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="looks into Linux's /proc")
@pytest.mark.parametrize(
    ("workers", "epochs"),
    [(0, 75), (2, 36)],  # 5,025 steps; 2,412 with workers, whose batches take longer on their way
)
def test_memory_and_open_files_stay_what_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, epochs: int
) -> None:
    monkeypatch.chdir(tmp_path)
    # Small enough that a step takes milliseconds. Validated before the first look: its workers live on, too.
    changes: Config = {
        "data": {"init_args": {"batch_size": 16, "num_workers": workers, "hold_on_device": not workers}},
        "model": {"init_args": {"backbone": {"init_args": {"depth": 1}}}},
        "trainer": {"max_epochs": epochs, "check_val_every_n_epoch": 3},
        "run": {"wandb": {"mode": "disabled"}, "name": "long"},
    }
    path = tmp_path / "long.yaml"
    path.write_text(yaml.safe_dump(merge(TINY, changes)))
    (memory, files), (memory_at_end, files_at_end) = _watch(path, 67 * epochs, {"OMP_NUM_THREADS": "1"})
    print(
        f"{workers} workers: {memory / 2**20:.1f} -> {memory_at_end / 2**20:.1f} MiB, {files} -> {files_at_end} files"
    )
    assert memory_at_end - memory <= max(SLACK * memory, LEAST_SLACK)
    assert files_at_end <= files + FILES_OF_A_WORKER * workers

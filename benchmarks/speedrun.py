r"""The table and the curves of docs/results.md, from the run directories of `make speedrun` and `make speedrun-times`.

    python -m benchmarks.speedrun docs/records/speedrun{-first,-second,,-bf16,-fourth,-fifth,-sixth} \
        --times docs/records/speedrun-times

It reads run directories of any of these names; docs/records has those of the published runs.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from referee.report.drawing import COLORS
from referee.statistics.contrast import t_interval

from benchmarks.measuring import CPU, machine, markdown, parser_of, save
from vitlab.evaluation.cost import dtype_of, gemm_peak, processor_name

MATRIX = 2048  # rows and columns of the product whose rate is the machine's
NAMES = {"vit": "ViT", "swin": "Swin", "swin-v2": "Swin v2"}


class Finished(NamedTuple):
    """One run: when it was validated, how well, and what the whole command took."""

    minutes: np.ndarray  # (E,) since the start of the command, after each validation
    validation: np.ndarray  # (E,) top-1 in %
    test: float  # top-1 in %
    wall: float  # minutes, from the start of the command to the last test prediction
    overhead: float  # share of it that is no training step: start-up, validation, checkpoints, test
    images: int
    teraflops: float  # of the training steps, forward and backward, as PyTorch counts them
    rate: float  # of them a second, while it trains
    machine: str  # as in `this_machine`
    precision: str  # Lightning's name


class Entry(NamedTuple):
    """The seeds of an entry, and the one run that had the machine for itself."""

    seeds: list[Finished]
    timed: Finished | None


def read(directory: Path) -> Finished:
    """Read a finished run. Start-up and test are counted before the first epoch, other time equally over the epochs."""
    summary = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
    environment = json.loads((directory / "environment.json").read_text(encoding="utf-8"))
    metrics = pd.read_csv(directory / "metrics.csv")
    speed = metrics["images_per_second"].dropna().to_numpy()
    accuracy = metrics.dropna(subset=["val/top1"]).groupby("epoch")["val/top1"].last()
    steps = summary["images_seen"] / len(speed) / speed  # seconds of the steps of each epoch
    teraflops = (metrics["tflops"].dropna().to_numpy() * steps).sum()
    other = (summary["seconds"] - steps.sum()) / len(steps)
    ends = summary["wall_seconds"] - summary["seconds"] + np.cumsum(steps + other)
    return Finished(
        minutes=ends[accuracy.index.to_numpy()] / 60,
        validation=100 * accuracy.to_numpy(),
        test=100 * summary["metrics"]["test/top1"],
        wall=summary["wall_seconds"] / 60,
        overhead=1 - steps.sum() / summary["wall_seconds"],
        images=summary["images_seen"],
        teraflops=teraflops,
        rate=teraflops / steps.sum(),
        machine=f"{environment['device']} {environment['cpu_capability']}",
        precision=environment["precision"],
    )


def this_machine() -> str:
    """Return the processor and the vector units that PyTorch uses: clouds name several processors alike."""
    return f"{processor_name()} {torch.backends.cpu.get_cpu_capability()}"


def row(study: str, name: str, entry: Entry, rates: Mapping[tuple[str, str], float]) -> dict[str, str]:
    """Return the row of one entry; the interval is Student's over seeds.

    Args:
        rates: Matrix rates by machine and precision; a run without one is not related to any.
    """
    timed = entry.timed
    matrix_rate = rates.get((timed.machine, timed.precision)) if timed else None
    test = t_interval([run.test for run in entry.seeds])
    return {
        "entry": study,
        "": name,
        "seeds": str(len(entry.seeds)),
        "test top-1, %": f"{test.mean:.1f} [{test.low:.1f}, {test.high:.1f}]",
        "minutes": f"{timed.wall:.2f}" if timed else "",
        "images seen": f"{entry.seeds[0].images:,}",
        "overhead": f"{100 * timed.overhead:.1f} %" if timed else "",
        "TFLOP": f"{entry.seeds[0].teraflops:.1f}",
        "GFLOP/s": f"{1000 * timed.rate:.0f}" if timed else "",
        "of the matrix rate": f"{100 * timed.rate / matrix_rate:.0f} %" if timed and matrix_rate else "",
    }


def draw(entries: dict[tuple[str, str], Entry], path: Path) -> None:
    """Draw the seeds' validation accuracy at the minutes at which the timed run was validated."""
    figure, axes = plt.subplots(1, len(NAMES), figsize=(13, 3.8), sharey=True, layout="constrained")
    colors = dict(zip(dict.fromkeys(study for study, _ in entries), COLORS, strict=False))
    lines = {}
    for (study, key), (seeds, timed) in entries.items():
        if timed:
            axis, color = axes[list(NAMES).index(key)], colors[study]
            for run in seeds:
                axis.plot(timed.minutes, run.validation, color=color, alpha=0.25, linewidth=1)
            mean = np.mean([run.validation for run in seeds], axis=0)
            (lines[study],) = axis.plot(timed.minutes, mean, "o-", color=color)
    for axis, name in zip(axes, NAMES.values(), strict=True):
        axis.set(title=name, xlabel="minutes of two cores since the start of the command")
        axis.set_xlim(left=0)
    axes[0].set_ylabel("validation top-1, %")
    figure.legend(lines.values(), lines.keys(), frameon=False, loc="outside lower center", ncols=len(lines))
    figure.savefig(path, dpi=110)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of("speedrun", __doc__, "speedrun.md and speedrun.png")
    parser.add_argument("studies", nargs="+", type=Path, help="folders of studies, the first entry first")
    parser.add_argument("--times", type=Path, required=True, help="runs that had the machine for themselves")
    options = parser.parse_args(arguments)
    entries: dict[tuple[str, str], Entry] = {}
    for study, key in product(options.studies, NAMES):
        seeds, timed = (
            [read(summary.parent) for summary in sorted((folder / key).glob("seed-*/summary.json"))]
            for folder in (study, options.times / study.name)
        )
        if seeds:
            entries[study.name, key] = Entry(seeds, timed[0] if timed else None)
    here = this_machine()
    precisions = {timed.precision for _, timed in entries.values() if timed and timed.machine == here}
    rates = {(here, each): gemm_peak(dtype_of(each), CPU, MATRIX) / 1e12 for each in sorted(precisions)}
    rows = [row(study, NAMES[key], entry, rates) for (study, key), entry in entries.items()]
    measured = ", ".join(f"{1000 * rate:.0f} GFLOP/s in {precision}" for (_, precision), rate in rates.items())
    table = markdown(f"{machine(CPU, 'lightning')} Matrix rate: {measured or 'not measured'}.", rows)
    save(options.out / "speedrun.md", table)
    draw(entries, options.out / "speedrun.png")
    print(table)


if __name__ == "__main__":
    main()

"""A study's runs for other engines: a W&B sweep and a SLURM array. `compare` then reports the finished runs.

Each run is `fit --config` with its complete configuration, which contains its run directory, so `compare` finds its
results whoever started it.
"""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from vitlab.studies.execution.local import is_finished, write_config
from vitlab.studies.grid import Run
from vitlab.studies.study import Study, slug

Engine = Callable[[Study, Sequence[Run], Path], Path]


def write_sweep(study: Study, runs: Sequence[Run], folder: Path) -> Path:
    """Write a W&B sweep, a grid over the configurations of unfinished runs, and return its path."""
    path = folder / "sweep.yaml"
    sweep = {
        "name": study.name,
        "method": "grid",
        "command": ["${env}", "${interpreter}", "-m", "vitlab", "fit", "${args}"],
        "program": "vitlab",  # required by W&B, though the command does not use it
        "parameters": {"config": {"values": _configurations(runs)}},
    }
    head = [
        f"# The runs of {study.name} as a W&B sweep. Run from the folder in which it was written:",
        f"#   wandb sweep {path}    prints the agent's command",
        f"#   {_report(study)}    writes the report when all are done",
    ]
    path.write_text("\n".join([*head, yaml.safe_dump(sweep, sort_keys=False, allow_unicode=True)]), encoding="utf-8")
    return path


def write_slurm(study: Study, runs: Sequence[Run], folder: Path) -> Path:
    """Write a SLURM array, one task for each unfinished run, and return its path."""
    path = folder / "array.sbatch"
    configurations = _configurations(runs)
    lines = [
        "#!/bin/bash",
        f"#SBATCH --job-name={slug(study.name)}",
        f"#SBATCH --array=0-{len(configurations) - 1}",
        f"#SBATCH --output={folder}/slurm-%A_%a.log",
        "#SBATCH --open-mode=append",
        "#SBATCH --requeue",
        "#SBATCH --signal=USR1@90",
        f"# Add what your cluster requires (--partition, --gres=gpu:1, --time), then: sbatch {path}",
        "# An interrupted task returns to the queue and continues. When all are done:",
        f"#   {_report(study)}",
        "configurations=(",
        *(f"  {shlex.quote(configuration)}" for configuration in configurations),
        ")",
        'srun python -m vitlab fit --config "${configurations[$SLURM_ARRAY_TASK_ID]}"',
        "status=$?",
        '[ "$status" -eq 75 ] && scontrol requeue "$SLURM_JOB_ID"  # stopped by a signal after writing its state',
        'exit "$status"',
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _configurations(runs: Sequence[Run]) -> list[str]:
    """Write the configurations of the runs that are not finished and return their paths."""
    waiting = [run for run in runs if not is_finished(run)]
    if not waiting:
        raise ValueError("All runs are finished already. `compare` without --emit writes the report.")
    for run in waiting:
        write_config(run.config_path, run.config)
    return [str(run.config_path) for run in waiting]


def _report(study: Study) -> str:
    return f"python -m vitlab compare --config {shlex.quote(str(study.path))}"

"""A run that continues another from a state that `run.checkpoint.keep` kept, as it would continue its own."""

import shutil
from pathlib import Path

from vitlab.atomic_files import write_text
from vitlab.config import Config, dump_yaml
from vitlab.runs.checkpoints import kept_state
from vitlab.runs.directory import CONFIG, DATA, ENVIRONMENT, METRICS, RunDirectory

COPIED = (METRICS, DATA, ENVIRONMENT)


def branch_off(trunk: Path, step: int, directory: Path, config: Config) -> None:
    """Make a run directory whose run continues after `step` steps of another; leave a run alone that has begun.

    Raises:
        FileNotFoundError: that state was not kept.
    """
    if (directory / CONFIG).is_file():
        return
    own, kept = RunDirectory(directory), RunDirectory(trunk).checkpoints
    state = kept_state(kept, step)
    if not state.is_file():
        raise FileNotFoundError(f"{state} does not exist. Train {trunk} with --run.checkpoint.keep [{step}].")
    own.checkpoints.mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        shutil.copyfile(trunk / name, directory / name)
    shutil.copyfile(state, own.last_checkpoint)
    if (best := kept_state(kept, step, "-best")).is_file():
        shutil.copyfile(best, own.checkpoints / "best.ckpt")
    write_text(directory / CONFIG, dump_yaml(config))

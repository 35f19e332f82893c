"""Repeat a training step whose loss or gradient was not finite, from what its run kept."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from vitlab.commands.options import StudyParser


def run(arguments: Sequence[str]) -> int:
    """Print in which module, and for which images, the step was not finite."""
    parser = StudyParser("python -m vitlab replay", "Repeat a step whose loss or gradient was not finite.")
    parser.add_argument("folder", type=Path, help="the folder not_finite in the directory of a run that stopped so")
    folder: Path = parser.parse_args(arguments).folder
    if not (folder / "report.json").is_file():
        raise FileNotFoundError(f"{folder} has no report.json; give the folder not_finite of a run that stopped so.")

    from vitlab.commands.quiet import quiet
    from vitlab.experiment.experiment import Experiment
    from vitlab.runs.finite_steps import Replay

    quiet()
    with TemporaryDirectory(prefix="vitlab-replay-") as temporary:
        elsewhere = {"run": {"root": temporary, "overwrite": True, "wandb": {"mode": "disabled"}}}
        experiment = Experiment(folder.parent / "config.yaml", elsewhere)
        replayed = Replay(folder)
        experiment.trainer.callbacks.insert(0, replayed)  # type: ignore[attr-defined]
        with suppress(SystemExit):
            experiment.trainer.fit(experiment.objective, datamodule=experiment.data, ckpt_path=folder / "state.ckpt")
    if replayed.result is None:
        raise ValueError(f"{folder / 'state.ckpt'} does not continue; was {folder.parent / 'config.yaml'} changed?")
    print(f"Step {replayed.result.step}: {replayed.result}")
    return 0

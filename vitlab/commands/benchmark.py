"""`python -m vitlab benchmark …`: what an experiment costs on this machine.

The objective, its optimizer, weight averages, gradient clipping, the check of each step and the way from uint8 to views
are the experiment's. Only the images are noise, so that no data set is needed, but for the names of a folder's classes;
a run directory has recorded them.
"""

import argparse
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from vitlab.commands.options import StudyParser, experiment_of
from vitlab.config import Config, merge, split
from vitlab.runs.directory import config_file, run_of

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from vitlab.evaluation.cost import Cost
    from vitlab.experiment.experiment import Experiment


def run(arguments: Sequence[str]) -> int:
    """Print what an experiment costs on this machine."""
    parser = StudyParser(
        "python -m vitlab benchmark --config FILE.yaml",
        "Cost of an experiment's own training step and of inference on this machine: parameters, FLOPs, images/s, "
        "memory. Other keys as in fit.",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write it to a file")
    # For `compare`, in whose studies that many processes measure at once: a turn begins when a line comes in.
    parser.add_argument("--in_turn", type=int, help=argparse.SUPPRESS)
    options, rest = parser.parse_known_args(arguments)
    # One process on one device.
    rest += ["--trainer.devices", "1", "--trainer.num_nodes", "1", "--trainer.strategy", "auto"]
    images = run_of([config_file(file) for file in split(rest)[0]]) is None  # those of a run may not be here any more
    config = experiment_of(rest, images).config

    from vitlab.data.terminal import counted
    from vitlab.evaluation.cost import doubts
    from vitlab.evaluation.cost.step import TURNS

    turns = turns_on_request() if options.in_turn else counted(range(TURNS), TURNS, "Measuring cost")
    logging.disable(logging.WARNING)  # training on noise
    try:
        with warnings.catch_warnings(action="ignore"):
            cost = measure(config, turns, options.in_turn or 1, images)
    finally:
        logging.disable(logging.NOTSET)
    if options.json:
        cost.write(options.json)
    for name, value in asdict(cost).items():
        print(f"{name:<27} {f'{value:,}' if type(value) in (int, float) else value}")
    backbone = config["model"]["init_args"]["backbone"]["class_path"].rpartition(".")[2]
    for doubt in doubts({backbone: cost}):
        print(doubt)
    return 0


def measure(config: Config, turns: Iterator[object], processes: int = 1, images: bool = True) -> "Cost":
    """Return the cost of an experiment; see `vitlab.evaluation.cost.step.measure`."""
    import torch

    from vitlab.data.noise import Noise
    from vitlab.data.photos import height_and_width
    from vitlab.evaluation.cost import step
    from vitlab.evaluation.cost.memory import map_tensors

    map_tensors()
    experiment = on_noise(config, images)
    objective, data = experiment.objective, experiment.data
    trainer = endless(experiment)
    noise = torch.randn(data.batch_size, data.in_chans, *height_and_width(data.image_size))
    shares = {height_and_width(size): share for size, share in data.training_shares.items()}
    if compiled := bool(experiment.config["run"]["compile"]):
        objective.compile_parts()
    classes = objective.task is None or objective.one_class
    batches = Noise(data, step.ENDLESS * trainer.accumulate_grad_batches, classes)
    return step.measure(objective, trainer, batches, noise, shares, turns, processes, compiled)


def on_noise(config: Config, images: bool = True) -> "Experiment":
    """Return an experiment whose objective trains on noise: it asks for no stored weights, no cache and no classes."""
    from vitlab.experiment.experiment import Experiment
    from vitlab.models.stored import without_weights
    from vitlab.objectives import Distillation

    arguments: Config = {"init_from": None}  # the values of weights take no memory and no time
    if "whiten" in config["model"]["init_args"]:
        arguments["whiten"] = False
    if "teacher" in config["model"]["init_args"]:
        arguments["teacher"] = {"cache": None} | _untrained_teacher(config, images)
    config = config | {"model": without_weights(config["model"])}
    experiment = Experiment(merge(config, {"model": {"init_args": arguments}}), images=images)
    if isinstance(experiment.objective, Distillation):  # noise has no classes to recognize
        experiment.objective.teacher.examine = lambda batches: None  # type: ignore[method-assign]
    return experiment


def _untrained_teacher(config: Config, images: bool) -> Config:
    """Return the settings by which a teacher needs no weights; that of a run keeps them, as they name its model."""
    from vitlab.experiment.chain import TEACHER
    from vitlab.experiment.experiment import Experiment

    if config["model"]["init_args"]["teacher"]["model"] is not None:
        return {"weights": None}
    before = Experiment(config, images=images).before()  # perhaps not trained yet
    if (taught_by := before.get(TEACHER)) is None:
        return {}
    return {"weights": None, "model": taught_by.config["model"]["init_args"]["backbone"]}


def endless(experiment: "Experiment") -> "Trainer":
    """Return a trainer like the experiment's, in all that a step takes, which writes nothing."""
    from lightning.pytorch import Trainer

    from vitlab.evaluation.cost.step import ENDLESS
    from vitlab.runs.finite_steps import FiniteSteps

    like = experiment.trainer
    return Trainer(
        accelerator="gpu" if like.strategy.root_device.type == "cuda" else "cpu",
        devices=1,
        precision=like.precision,
        gradient_clip_val=like.gradient_clip_val,
        gradient_clip_algorithm=like.gradient_clip_algorithm,
        accumulate_grad_batches=like.accumulate_grad_batches,
        max_epochs=like.max_epochs or 1,  # none of a frozen encoder
        max_steps=ENDLESS,
        limit_val_batches=0,
        callbacks=[FiniteSteps("skip")],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def turns_on_request() -> Iterator[None]:
    """Yield for each line that comes in; say when ready for it."""
    from vitlab.evaluation.cost import READY

    print(READY, flush=True)
    for _ in sys.stdin:
        yield
        print(READY, flush=True)

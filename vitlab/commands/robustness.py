"""`robustness`: evaluate all models of a study on corrupted images."""

import argparse
import logging
import shlex
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vitlab.commands.options import StudyParser

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger("vitlab")

NAMES = ("noise", "blur", "contrast", "JPEG", "resolution", "occlusion")  # of the corruptions, for `--help`


def run(arguments: Sequence[str]) -> int:
    """Evaluate all models of a study on corrupted images: a table, accuracy against strength, and a page."""
    options = _parse(arguments)

    import torch

    from vitlab.commands.quiet import quiet
    from vitlab.data.corruptions import CORRUPTIONS, corrupted
    from vitlab.evaluation.classify import require_classes
    from vitlab.evaluation.cost import device_for
    from vitlab.evaluation.robustness import Batches, accuracies, select_images
    from vitlab.experiment.experiment import Experiment
    from vitlab.runs.directory import RunDirectory
    from vitlab.studies.report.robustness import finished_runs, write_robustness
    from vitlab.studies.robustness import CLEAN, FinishedRun, measure_study

    quiet()
    runs, excluded = finished_runs(options.study)
    if options.seeds is not None:
        seeds = sorted({run.seed for run in runs})
        runs = [run for run in runs if run.seed in options.seeds]
        if not runs:
            raise ValueError(f"--seeds {options.seeds}: the study's finished runs have seeds {seeds}.")
    labels = RunDirectory(runs[0].directory).predictions.labels
    require_classes(torch.from_numpy(labels))
    for reason in excluded:
        log.warning("Excluded: %s", reason)
    corruptions = {corruption.name: corruption for corruption in CORRUPTIONS if corruption.name in options.corruptions}
    device = device_for("auto")

    def evaluate(
        run: FinishedRun, names: Sequence[str], chosen: "np.ndarray", on_batch: Callable[[int], None]
    ) -> dict[tuple[str, float], float]:
        experiment = Experiment.load(run.directory, {"run": {"root": str(options.study)}})
        model, data = experiment.objective.backbone.to(device).eval(), experiment.data  # the weights the study ranks
        if model.num_classes != len(data.class_names):
            raise ValueError(f"{run.directory}: the model was trained without labels, so it classifies no image.")
        streams: dict[tuple[str, float], Callable[[Batches], Batches]] = {(CLEAN, 0.0): iter}
        for corruption in (corruptions[name] for name in names):
            for strength in corruption.strengths:
                streams[corruption.name, strength] = partial(
                    corrupted, corruption=corruption, strength=strength, mean=data.mean, std=data.std
                )
        return accuracies(model, select_images(data.batches("test", device), chosen), streams, on_batch)

    out = options.out or options.study / "robustness"
    measures = {name: corruption.measure for name, corruption in corruptions.items()}
    table = measure_study(runs, evaluate, measures, options.images, out)
    command = shlex.join(["python", "-m", "vitlab", "robustness", *arguments])
    print(write_robustness(table, len(labels), excluded, options.study, out, command))
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = StudyParser(
        "python -m vitlab robustness",
        "Evaluate a study's models under noise, blur, low contrast, JPEG, low resolution and occlusion of increasing "
        "strength. Finished models are kept; an interrupted command continues with the next model.",
    )
    parser.add_argument("--study", type=Path, required=True, help="folder of a finished study, like runs/quickstart")
    parser.add_argument(
        "--corruptions", nargs="+", metavar="NAME", choices=NAMES, default=list(NAMES),
        help=f"some of {', '.join(NAMES)} [all]",
    )  # fmt: skip
    parser.add_argument("--images", type=int, help="number of test images, stratified by class [all]")
    parser.add_argument("--seeds", nargs="+", type=int, help="only models of these seeds [all]")
    parser.add_argument("--out", type=Path, help="folder of the page, figure and table [robustness/ in the study's]")
    options = parser.parse_args(arguments)
    if options.images is not None and options.images < 1:
        raise ValueError(f"--images {options.images}: expected 1 or more.")
    return options

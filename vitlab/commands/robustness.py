"""`robustness`: evaluate all models of a study on corrupted images."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitlab import log
from vitlab.commands.options import StudyParser, quiet

if TYPE_CHECKING:
    import numpy as np

    from vitlab.studies.report.robustness import FinishedRun


def run(arguments: Sequence[str]) -> int:
    """Measure what is missing in the study's robustness.csv, which is written after each model."""
    parser = StudyParser(
        "python -m vitlab robustness",
        "Evaluate a study's models under noise, blur, low contrast, JPEG, low resolution and occlusion of increasing "
        "strength. Finished models are kept; an interrupted command continues with the next model.",
    )
    parser.add_argument("alone", nargs="?", type=Path, metavar="STUDY", help="short for --study STUDY")
    parser.add_argument("--study", type=Path, help="folder of a finished study, like runs/quickstart")
    parser.add_argument("--images", type=int, help="number of test images, stratified by class [all]")
    options = parser.parse_args(arguments)
    options.study = options.study or options.alone
    if options.study is None:
        raise ValueError("robustness takes the folder of a study. For example: robustness runs/quickstart")
    if options.images is not None and options.images < 1:
        raise ValueError(f"--images {options.images}: expected 1 or more.")

    from vitlab.data.corruptions import CORRUPTIONS
    from vitlab.experiment.same_images import judged_by_features
    from vitlab.runs.directory import RunDirectory
    from vitlab.runs.lock import refuse_links
    from vitlab.studies.file.format import clock
    from vitlab.studies.report.robustness import FILE, current, finished_runs, keep, read_kept

    quiet()
    refuse_links(options.study, options.study.parent)
    runs, excluded = finished_runs(options.study)
    if probed := [run for run in runs if judged_by_features(RunDirectory(run.directory).config)]:
        raise ValueError(
            f"--study {options.study} ranks {probed[0].variant} by its features (run.probe), and "
            "corruptions are measured on a network's own answers. Give a study of classifiers."
        )
    for reason in excluded:
        log.warning("Excluded: %s", reason)
    chosen = _sample(runs[0], options.images)
    jobs = []
    for run in runs:
        known = current(read_kept(options.study), [run])
        under = {*known[known["images"] == len(chosen)]["corruption"]}
        jobs += [run] if {corruption.name for corruption in CORRUPTIONS} - under else []
    if len(jobs) < len(runs):
        log.info("%d of %d models are already measured.", len(runs) - len(jobs), len(runs))
    began = time.monotonic()
    for done, finished in enumerate(jobs):
        left = f", about {clock((time.monotonic() - began) / done * (len(jobs) - done))} left" if done else ""
        log.info("%s, seed %d (model %d of %d)%s", finished.variant, finished.seed, done + 1, len(jobs), left)
        keep(_measure(finished, chosen), options.study)
    print(options.study / FILE)
    log.info("`compare` adds these curves to the study's report; it does not repeat finished runs.")
    return 0


def _sample(run: "FinishedRun", images: int | None) -> "np.ndarray":
    """Return the positions of so many test images, stratified by class and the same for every model; None: all."""
    import numpy as np
    import torch

    from vitlab.evaluation.features import require_classes
    from vitlab.runs.directory import RunDirectory

    labels = RunDirectory(run.directory).predictions.labels
    require_classes(torch.from_numpy(labels))
    if images is None or len(labels) <= images:
        return np.arange(len(labels))
    order = np.random.default_rng(0).permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]  # classes one after the other, each shuffled
    # Equidistant picks meet each class in proportion to its length, to within one image.
    return np.sort(by_class[(2 * np.arange(images) + 1) * len(labels) // (2 * images)])


def _measure(run: "FinishedRun", chosen: "np.ndarray") -> Any:
    """Return rows of robustness.csv."""
    import pandas as pd
    import torch

    from vitlab.data.corruptions import CORRUPTIONS, accuracies, select_images
    from vitlab.evaluation.cost import device_for
    from vitlab.experiment.experiment import Experiment
    from vitlab.experiment.same_images import other_images
    from vitlab.studies.report.robustness import fingerprint

    device = device_for("auto")
    experiment = Experiment.load(run.directory)
    model, data = experiment.objective.backbone.to(device).eval(), experiment.data  # the weights the study ranks
    if model.num_classes != len(data.class_names):
        raise ValueError(f"{run.directory}: the model was trained without labels, so it classifies no image.")
    if others := other_images(run.directory, data, ("test",)):
        raise ValueError(
            f"{run.directory} was tested on other images than these ({'; '.join(others)}), and may have been trained "
            "on some of them.\nRestore the images."
        )
    with torch.inference_mode(), model.biases_kept():
        batches = select_images(data.batches("test", device), chosen)
        top1 = accuracies(model, batches, CORRUPTIONS, data.mean, data.std)
    measures = {corruption.name: corruption.measure for corruption in CORRUPTIONS}
    rows = [(*kind, value, measures.get(kind[0], "")) for kind, value in top1.items()]
    table = pd.DataFrame(rows, columns=["corruption", "strength", "top1", "measure"])
    measured = fingerprint(run.directory)
    return table.assign(variant=run.variant, seed=run.seed, images=len(chosen), predictions=measured)

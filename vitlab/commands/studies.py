"""`compare`, `plan`, `verdict` and `robustness`: run a study, plan one, ask what one concluded, corrupt its images.

A verdict is an exit status, so that a script can ask whether a gain is noise.
"""

import sys
from collections.abc import Sequence
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse.typing import PositiveFloat, PositiveInt

from vitlab import log
from vitlab.atomic_files import read_json
from vitlab.commands.options import StudyParser, quiet
from vitlab.experiment.errors import need

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


def run_compare(arguments: Sequence[str]) -> int:
    """Run a study and write its report."""
    parser = StudyParser(
        "python -m vitlab compare STUDY.yaml",
        "Run a study: variants × seeds, then a report. `--data.root photos` and other settings of the data change the "
        "base of the study.",
    )
    again = "train again what has another configuration or was cut short"
    parser.add_argument("--overwrite", action="store_true", help=again)
    parser.add_argument("--root", type=Path, default=Path("runs"), help="folder of all runs [runs]")
    parser.add_argument("--dashboard", action="store_true", help="show the report in W&B; offline without a key")
    elsewhere = (
        "train elsewhere: slurm partition=gpu, dask address=tcp://host:8786, ray, or an import path; give it once for "
        "each kind of machine"
    )
    names = ("NAME", "KEY=VALUE")
    parser.add_argument("--executor", nargs="+", action="append", default=[], metavar=names, help=elsewhere)
    anew = "register a claim whose settings changed after an outcome; new seeds"
    parser.add_argument("--register-anew", action="store_true", help=anew)
    study, options, data = parser.parse_study(arguments)
    from vitlab.studies.file.study import read_study

    print(f"{read_study(study).size}. Reading the images and building each variant once …", flush=True)
    from vitlab.commands.dispatch import run
    from vitlab.experiment.parser import configuration_parser
    from vitlab.studies.compare import RunsFailed, compare
    from vitlab.studies.training.executors import ForkServer, new_executor

    quiet()
    configuration_parser()  # for all runs
    dashboard = None
    if options.dashboard:
        need("dashboard", "wandb_workspaces", what="--dashboard")
        from vitlab.runs.loggers import Wandb
        from vitlab.studies.report.page import write_dashboard

        settings = Wandb()
        dashboard = partial(write_dashboard, online=settings.enabled and not settings.offline)
    by_words = {tuple(words): partial(new_executor, words[0], words[1:]) for words in options.executor}
    executors = [by_words[tuple(words)] for words in options.executor]
    given: dict[str, Any] = {"dashboard": dashboard, "executors": executors, "register_anew": options.register_anew}
    try:  # the server is begun before anything is computed
        with closing(ForkServer(run)) if sys.platform == "linux" else nullcontext() as server:
            print(f"The report: {compare(study, options.root, options.overwrite, data=data, server=server, **given)}")
    except RunsFailed as failed:
        print(failed, file=sys.stderr)
        return 1
    return 0


def run_plan(arguments: Sequence[str]) -> int:
    parser = StudyParser(
        prog="python -m vitlab plan STUDY.yaml",
        description="What a true difference takes in seeds, test images, hours, disk and energy, with ranges of 80 %, "
        "from a study's finished runs, or before any run from the size of the test set. `--data.root` as in compare.",
    )
    what = "to be found: points of accuracy, else the metric's unit [the study's margin]"
    parser.add_argument("--difference", type=PositiveFloat, help=what)
    parser.add_argument("--root", type=Path, default=Path("runs"), help="folder of all runs [runs]")
    study, options, data = parser.parse_study(arguments)

    from vitlab.studies.planning import describe, plan_study

    quiet()
    planned = plan_study(study, options.root, data)
    difference = options.difference or planned.study.margin
    if difference is not None and planned.metric.is_log and difference <= 1:
        raise ValueError(f"--difference {difference:g}: a factor on a logarithmic scale; give one above 1, like 1.5.")
    print(describe(planned, None if difference is None else planned.metric.own(difference)))
    return 0


def run_verdict(arguments: Sequence[str]) -> int:
    """Print the verdict of a study or of two of its variants, and return its status."""
    from referee.answer import STATUS, answered

    statuses = ", ".join(f"{status}: {verdict}" for verdict, status in STATUS.items())
    parser = StudyParser("python -m vitlab verdict", f"What a reported study concluded. Exit status: {statuses}.")
    parser.add_argument("study", type=Path, metavar="STUDY", help="its folder, like runs/quickstart, or its YAML file")
    parser.add_argument("--root", type=Path, default=Path("runs"), help="folder of all runs, for a YAML file [runs]")
    parser.add_argument("--better", metavar="VARIANT", help="is it better … [the one with the best mean]")
    parser.add_argument("--than", metavar="VARIANT", help="… than this one? [than all others]")
    options = parser.parse_args(arguments)
    study = options.study
    path = study / "verdict.json"
    if study.suffix in (".yaml", ".yml"):
        from vitlab.studies.file.study import read_study

        path = read_study(study).folder(options.root) / "verdict.json"
    if not path.is_file():
        if places := ", ".join(str(each.parent) for each in sorted(path.parent.glob("*/verdict.json"))):
            raise ValueError(f"{study} has a verdict for each place of its axis; give one of {places}.")
        raise FileNotFoundError(f"{path} does not exist. `python -m vitlab compare` writes it into the study's folder.")
    record = read_json(path)
    lines, word = answered(record, options.better, options.than, f" of {study}")
    print(*lines, sep="\n")
    return STATUS[word]


def run_robustness(arguments: Sequence[str]) -> int:
    """Write what is missing of each run's robustness.csv."""
    parser = StudyParser(
        "python -m vitlab robustness",
        "Evaluate a study's models under noise, blur, low contrast, JPEG, low resolution and occlusion of increasing "
        "strength. Finished models are kept; an interrupted command continues with the next model.",
    )
    parser.add_argument("study", type=Path, metavar="STUDY", help="folder of a finished study, like runs/quickstart")
    parser.add_argument("--images", type=PositiveInt, help="number of test images, stratified by class [all]")
    options = parser.parse_args(arguments)
    study = options.study

    import pandas as pd

    from vitlab.atomic_files import write_text
    from vitlab.data.corruptions import CORRUPTIONS
    from vitlab.experiment.same_images import judged_by_features
    from vitlab.runs.directory import ROBUSTNESS, RunDirectory
    from vitlab.runs.lock import refuse_links

    quiet()
    refuse_links(study, study.parent)
    runs = finished_runs(study)
    if probed := [name for name, run in runs.items() if judged_by_features(RunDirectory(run).config)]:
        raise ValueError(f"{study} probes features ({probed[0]}: run.probe). Give a study of classifiers.")
    chosen = sample(RunDirectory(next(iter(runs.values()))).predictions.labels, options.images)
    files = {run: run / ROBUSTNESS for run in runs.values() if (run / ROBUSTNESS).is_file()}
    known = {run: pd.read_csv(file, keep_default_na=False) for run, file in files.items()}
    measured = {run: {*table[table["images"] == len(chosen)]["corruption"]} for run, table in known.items()}
    names = {corruption.name for corruption in CORRUPTIONS}
    jobs = {name: run for name, run in runs.items() if not names <= measured.get(run, set())}
    if len(jobs) < len(runs):
        log.info("%d of %d models are already measured.", len(runs) - len(jobs), len(runs))
    for number, (name, run) in enumerate(jobs.items(), start=1):
        log.info("%s (model %d of %d)", name, number, len(jobs))
        table = pd.concat([*([known[run]] if run in known else []), measure(run, chosen)])
        table = table.drop_duplicates(["corruption", "strength", "images"], keep="last")
        write_text(run / ROBUSTNESS, table.to_csv(index=False))
    log.info("`compare` adds these curves to the study's report; it does not repeat finished runs.")
    return 0


def finished_runs(study: Path) -> dict[str, Path]:
    """Return the run directories of a study's folder, in the report's order, by variant and seed; name the others."""
    import pandas as pd

    from vitlab.studies.file.study import folder_of_variant
    from vitlab.studies.results import FOLDS

    path = study / "results.csv"
    if not path.is_file():
        raise FileNotFoundError(f"{study}: no {path.name} in it; give the folder of a finished study.")
    if (study / FOLDS).is_file():
        raise ValueError(f"{study}: with folds each image has another model. Give a study without `folds`.")
    table = pd.read_csv(path, dtype={"variant": str}, keep_default_na=False)  # a variant may be called None
    runs = {}
    for variant, seed, status in zip(table["variant"], table["seed"].astype(int), table["status"], strict=True):
        if status == "finished":
            runs[f"{variant}, seed {seed}"] = folder_of_variant(study, variant) / f"seed-{seed}"
        else:
            log.warning("Excluded: %s, seed %d: %s", variant, seed, status)
    if not runs:
        raise ValueError(f"{study}: none of its runs finished; see {path}.")
    return runs


def sample(labels: "np.ndarray", images: int | None) -> "np.ndarray":
    """Return the positions of so many test images, stratified by class and the same for every model; None: all."""
    import numpy as np
    import torch

    from vitlab.evaluation.features import require_classes

    require_classes(torch.from_numpy(labels))
    if images is None or len(labels) <= images:
        return np.arange(len(labels))
    order = np.random.default_rng(0).permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]  # classes one after the other, each shuffled
    # Equidistant picks meet each class in proportion to its length, to within one image.
    return np.sort(by_class[(2 * np.arange(images) + 1) * len(labels) // (2 * images)])


def measure(directory: Path, chosen: "np.ndarray") -> "pd.DataFrame":
    """Return rows of a run's robustness.csv."""
    import pandas as pd
    import torch

    from vitlab.data.corruptions import CORRUPTIONS, accuracies, select_images
    from vitlab.evaluation.cost import device_for
    from vitlab.experiment.experiment import Experiment
    from vitlab.experiment.same_images import other_images

    device = device_for("auto")
    experiment = Experiment.load(directory)
    model, data = experiment.objective.backbone.to(device).eval(), experiment.data  # the weights the study ranks
    if others := other_images(directory, data, ("test",)):
        raise ValueError(f"{directory} was tested on other images ({'; '.join(others)}). Restore the images.")
    with torch.inference_mode(), model.biases_kept():
        batches = select_images(data.batches("test", device), chosen)
        top1 = accuracies(model, batches, CORRUPTIONS, data.mean, data.std)
    measures = {corruption.name: corruption.measure for corruption in CORRUPTIONS}
    rows = [(name, measures.get(name, ""), strength, len(chosen), value) for (name, strength), value in top1.items()]
    return pd.DataFrame(rows, columns=["corruption", "measure", "strength", "images", "top1"])

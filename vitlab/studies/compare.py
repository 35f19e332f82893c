"""A study from its YAML to its report: plan, train, measure, report."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vitlab.evaluation.cost import Cost
from vitlab.studies.baselines import Baselines, baselines
from vitlab.studies.execution.costs import known_costs, measure_costs
from vitlab.studies.execution.export_jobs import Engine
from vitlab.studies.execution.local import Allotment, Outcome, allot, is_finished, refuse_conflicts, run_all
from vitlab.studies.execution.progress import display_for
from vitlab.studies.execution.slurm import run_array
from vitlab.studies.format import counted
from vitlab.studies.report.page import write_report
from vitlab.studies.report.verdict import outlooks, verdict
from vitlab.studies.results import StudyResults, read_results
from vitlab.studies.study import Run, Study, differing_keys, plan, plan_tuning, read_study, slug
from vitlab.studies.tuning import (
    Choice,
    Measure,
    Train,
    refuse_to_tune_on_test_images,
    refuse_what_has_no_top1,
    spend_budget,
    tune,
)
from vitlab.studies.workshop import Images, Workshop

if TYPE_CHECKING:
    from submitit import Executor

Dashboard = Callable[[StudyResults, Images, Path], str]
Cluster = Callable[[str, Path], "Executor"]
PROGRAM = (sys.executable, "-m", "vitlab")


class RunsFailed(RuntimeError):
    """Some runs of a study failed. The report is written nevertheless and names them."""

    def __init__(self, report: Path, failures: Sequence[Outcome]) -> None:
        which = "; ".join(str(run) for run, _ in failures)
        super().__init__(f"{counted(len(failures), 'run')} failed ({which}). See the report: {report}")
        self.report = report


def compare(
    study_path: Path,
    workshop: Workshop,
    root: Path = Path("runs"),
    overwrite: bool = False,
    program: Sequence[str] = PROGRAM,
    dashboard: Dashboard | None = None,
    cluster: Cluster | None = None,
) -> Path:
    """Run the missing parts of a study and write its report.

    Args:
        study_path: The study's YAML.
        workshop: Completes configurations and knows the data sets.
        root: Folder of all runs; the study's go to `root/<study>/<variant>/seed-<n>/`, its report to `root/<study>/`.
        overwrite: Retrain runs whose directory has another configuration than the study's.
        program: The command line of vitlab, to which `fit` and `benchmark` are appended.
        dashboard: Also publishes the report, and returns where.
        cluster: Returns submitit's executor for a study's name and folder; None trains on this machine.

    Returns:
        The path of report.html.

    Raises:
        ValueError, FileNotFoundError: a user's mistake, detected before any run starts.
        RunsFailed: some runs failed; the report is written.
    """
    study = read_study(study_path)
    runs = plan(study, workshop, root)
    if not overwrite and study.settled:
        refuse_conflicts(runs)
    folder = root / slug(study.name)
    executor = None if cluster is None else cluster(study.name, folder)
    folder.mkdir(parents=True, exist_ok=True)

    # Before the first run, so that data is downloaded once and broken data is detected here.
    images = _images_for(study, workshop, runs[0])
    lines = baselines(images, runs[0].config["data"], folder / "baselines.json")
    print(f"Baselines: majority class {lines.majority:.1%}, k-NN on raw pixels {lines.knn:.1%}.", flush=True)
    allotment = allot(runs, study.jobs)
    size = f"{counted(len(study.variants), 'variant')}, {counted(len(study.seeds), 'seed')}"
    print(f"{study.name}: {size}; {allotment}.", flush=True)

    def measure(first: Sequence[Run]) -> tuple[dict[str, Cost], dict[str, str]]:
        return measure_costs(first, program, allotment)

    def train(runs: list[Run]) -> list[Outcome]:
        if not overwrite:
            refuse_conflicts(runs)
        if executor is not None:
            return run_array(runs, program, executor, overwrite)
        return run_all(runs, program, allotment, display_for(runs), overwrite)

    choices, runs = _settle(study, runs, workshop, root, images, measure, train)
    outcomes = train(runs)
    results = _gather(study, runs, outcomes, measure(first_runs(study, runs)), images, lines, allotment, choices)
    report = write_report(results, images, folder)
    print("", verdict(results), *outlooks(results), "", sep="\n", flush=True)
    if dashboard is not None and results.finished:
        print(f"Dashboard: {dashboard(results, images, folder)}", flush=True)
    if results.failures:
        raise RunsFailed(report, results.failures)
    return report


def results_of(study_path: Path, workshop: Workshop, root: Path = Path("runs")) -> tuple[StudyResults, Images]:
    """Return a study's results so far, and its images; starts no run and measures no cost.

    Raises:
        ValueError: a run directory has another configuration than the study's, or `compare` has not yet measured the
            budget or tuned the study.
    """
    study = read_study(study_path)
    runs = plan(study, workshop, root)
    folder, images = root / slug(study.name), _images_for(study, workshop, runs[0])
    folder.mkdir(parents=True, exist_ok=True)
    choices, runs = _settle(study, runs, workshop, root, images, known_costs, lambda runs: [])
    refuse_conflicts(runs)
    outcomes = [Outcome(run, None if is_finished(run) else "is not finished") for run in runs]
    lines = baselines(images, runs[0].config["data"], folder / "baselines.json")
    costs, _ = known_costs(first_runs(study, runs))
    return _gather(study, runs, outcomes, (costs, {}), images, lines, allot(runs, study.jobs), choices), images


def _settle(
    study: Study,
    runs: list[Run],
    workshop: Workshop,
    root: Path,
    images: Images,
    measure: Measure,
    train: Train,
) -> tuple[list[Choice], list[Run]]:
    """Convert the budget into epochs and tune; return the choices and the runs with them."""
    if study.settled:
        return [], runs
    decided = spend_budget(study, first_runs(study, runs), images, measure, root / slug(study.name))
    choices, decided = tune(study, workshop, root, decided, train)
    return choices, plan(study, workshop, root, decided)


def _images_for(study: Study, workshop: Workshop, run: Run) -> Images:
    """Return the images of a study, after checking that it can be run on them."""
    images = workshop.data(run.config)
    refuse_what_has_no_top1(study, images)
    refuse_to_tune_on_test_images(study, images)
    return images


def _gather(
    study: Study,
    runs: list[Run],
    outcomes: Sequence[Outcome],
    costs: tuple[dict[str, Cost], dict[str, str]],
    images: Images,
    lines: Baselines,
    allotment: Allotment,
    choices: list[Choice],
) -> StudyResults:
    finished, failures = read_results(outcomes)
    return StudyResults(
        study=study,
        differences=differing_keys(study, runs),
        finished=finished,
        failures=failures,
        costs=costs[0],
        cost_failures=costs[1],
        baselines=lines,
        class_names=images.class_names,
        allotment=str(allotment),
        choices=choices,
    )


def emit(
    study_path: Path, workshop: Workshop, engine: Engine, root: Path = Path("runs"), program: Sequence[str] = PROGRAM
) -> Path:
    """Write the runs of a study for another engine instead of starting them, and return the path of that file.

    If the study tunes, its tuning runs are written first; once they are finished, the same call writes the others.
    """
    study = read_study(study_path)
    runs = plan(study, workshop, root)
    folder = root / slug(study.name)
    folder.mkdir(parents=True, exist_ok=True)
    if not study.settled:
        images = _images_for(study, workshop, runs[0])
        allotment = allot(runs, study.jobs)
        first = first_runs(study, runs)
        decided = spend_budget(study, first, images, lambda runs: measure_costs(runs, program, allotment), folder)
        trials = [run for of_value in plan_tuning(study, workshop, root, decided) for run in of_value]
        if not all(is_finished(run) for run in trials):
            print("These are the tuning runs. Once they are finished, the same command writes the others.", flush=True)
            refuse_conflicts(trials)
            return engine(study, trials, folder)
        _, decided = tune(study, workshop, root, decided, lambda runs: [])
        runs = plan(study, workshop, root, decided)
    refuse_conflicts(runs)
    return engine(study, runs, folder)


def first_runs(study: Study, runs: Sequence[Run]) -> list[Run]:
    """Return the run of each variant that has the first seed."""
    return [run for run in runs if run.seed == study.seeds[0]]

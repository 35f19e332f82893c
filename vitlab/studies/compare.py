"""A study from its YAML to its report: plan, run, measure, tell."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from vitlab.config import Config, load_yaml
from vitlab.studies.baselines import Baselines, baselines
from vitlab.studies.cluster import run_array
from vitlab.studies.cost import Cost, device_for, device_name
from vitlab.studies.decisions import Choice, refuse_to_tune_on_test_images, spend_budget, tune
from vitlab.studies.engines import Engine
from vitlab.studies.grid import Run, Study, differing_keys, plan, plan_tuning, read_study, slug
from vitlab.studies.progress import display_for
from vitlab.studies.report import write_report
from vitlab.studies.results import StudyResults, read_results
from vitlab.studies.runner import Allotment, Outcome, allot, is_finished, last_lines, refuse_conflicts, run_all
from vitlab.studies.verdict import outlooks, verdict
from vitlab.studies.workshop import Images, Workshop

if TYPE_CHECKING:
    from submitit import Executor

Dashboard = Callable[[StudyResults, Images, Path], str]
Cluster = Callable[[str, Path], "Executor"]
PROGRAM = (sys.executable, "-m", "vitlab")


class RunsFailed(RuntimeError):
    """Some runs of a study failed; the report is written all the same and says which."""

    def __init__(self, report: Path, failures: Sequence[Outcome]) -> None:
        which = "; ".join(str(run) for run, _ in failures)
        runs = "1 run" if len(failures) == 1 else f"{len(failures)} runs"
        super().__init__(f"{runs} failed ({which}). The report says why: {report}")
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
    """Run what is missing of a study and write its report.

    Args:
        study_path: The study's YAML.
        workshop: Completes configurations and knows the data sets.
        root: Folder of all runs; the study's go to `root/<study>/<variant>/seed-<n>/`, its report to `root/<study>/`.
        overwrite: Train anew where a run directory holds another configuration than the study's.
        program: The command line of vitlab, which `fit` and `benchmark` are appended to.
        dashboard: Shows the report elsewhere too, and returns where.
        cluster: Where the runs are trained, if not here: returns submitit's executor for a study's name and folder.

    Returns:
        The path of report.html.

    Raises:
        ValueError, FileNotFoundError: a user's mistake, found before any run started.
        RunsFailed: some runs failed; the report is written.
    """
    study = read_study(study_path)
    runs = plan(study, workshop, root)
    if not overwrite and study.settled:
        refuse_conflicts(runs)
    folder = root / slug(study.name)
    executor = None if cluster is None else cluster(study.name, folder)
    folder.mkdir(parents=True, exist_ok=True)

    # Before the first run: a download happens once, not in several processes, and broken data stops everything here.
    images = workshop.data(runs[0].config)
    refuse_to_tune_on_test_images(study, images)
    lines = baselines(images, runs[0].config["data"], folder / "baselines.json")
    print(f"Lines to beat: majority class {lines.majority:.1%}, k-NN on raw pixels {lines.knn:.1%}.", flush=True)
    allotment = allot(runs, study.jobs)
    print(f"{study.name}: {len(study.variants)} variants, {len(study.seeds)} seeds; {allotment}.", flush=True)

    def measure(first: Sequence[Run]) -> tuple[dict[str, Cost], dict[str, str]]:
        print("Measuring cost …", flush=True)
        return measure_costs(first, program, allotment)

    def train(runs: list[Run]) -> list[Outcome]:
        if not overwrite:
            refuse_conflicts(runs)
        if executor is not None:
            return run_array(runs, program, executor, overwrite)
        return run_all(runs, program, allotment, display_for(runs), overwrite)

    choices: list[Choice] = []
    if not study.settled:
        decided = spend_budget(study, first_runs(study, runs), images, measure, folder)
        choices, decided = tune(study, workshop, root, decided, train)
        runs = plan(study, workshop, root, decided)
    outcomes = train(runs)
    results = _gather(study, runs, outcomes, measure(first_runs(study, runs)), images, lines, allotment, choices)
    report = write_report(results, images, folder)
    print("", verdict(results), *outlooks(results), "", sep="\n", flush=True)
    if dashboard is not None and results.finished:
        print(f"The dashboard: {dashboard(results, images, folder)}", flush=True)
    if results.failures:
        raise RunsFailed(report, results.failures)
    return report


def results_of(study_path: Path, workshop: Workshop, root: Path = Path("runs")) -> tuple[StudyResults, Images]:
    """Return what the runs of a study have left so far, and its images; starts no run and measures no cost.

    Raises:
        ValueError: a run directory holds another configuration than the study's, or the study tunes or spends a budget
            that `compare` has not begun to.
    """
    study = read_study(study_path)
    runs = plan(study, workshop, root)
    folder, images = root / slug(study.name), workshop.data(runs[0].config)
    folder.mkdir(parents=True, exist_ok=True)
    choices: list[Choice] = []
    if not study.settled:
        decided = spend_budget(study, first_runs(study, runs), images, _known_costs, folder)
        choices, decided = tune(study, workshop, root, decided, lambda runs: [])
        runs = plan(study, workshop, root, decided)
    refuse_conflicts(runs)
    outcomes = [Outcome(run, None if is_finished(run) else "is not finished") for run in runs]
    lines = baselines(images, runs[0].config["data"], folder / "baselines.json")
    costs, _ = _known_costs(first_runs(study, runs))
    return _gather(study, runs, outcomes, (costs, {}), images, lines, allot(runs, study.jobs), choices), images


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
    """Write the runs of a study for another engine instead of starting them, and return the path of what was written.

    Where the study tunes, its tuning runs are written first; when they are finished, the same call writes the others.
    """
    study = read_study(study_path)
    runs = plan(study, workshop, root)
    folder = root / slug(study.name)
    folder.mkdir(parents=True, exist_ok=True)
    if not study.settled:
        images = workshop.data(runs[0].config)
        refuse_to_tune_on_test_images(study, images)
        allotment = allot(runs, study.jobs)
        first = first_runs(study, runs)
        decided = spend_budget(study, first, images, lambda runs: measure_costs(runs, program, allotment), folder)
        trials = [run for of_value in plan_tuning(study, workshop, root, decided) for run in of_value]
        if not all(is_finished(run) for run in trials):
            print("These are the tuning runs; when they are finished, the same command writes the others.", flush=True)
            refuse_conflicts(trials)
            return engine(study, trials, folder)
        _, decided = tune(study, workshop, root, decided, lambda runs: [])
        runs = plan(study, workshop, root, decided)
    refuse_conflicts(runs)
    return engine(study, runs, folder)


def first_runs(study: Study, runs: Sequence[Run]) -> list[Run]:
    """Return the run of each variant that has the first seed."""
    return [run for run in runs if run.seed == study.seeds[0]]


def measure_costs(
    runs: Sequence[Run], program: Sequence[str], allotment: Allotment
) -> tuple[dict[str, Cost], dict[str, str]]:
    """Measure one run of each variant, each in a process of its own with the threads of a run, one after the other.

    Figures of earlier are used only if all of them are of these configurations and of this device: they are compared
    with each other, so they come from one sitting.

    Returns:
        The costs by variant, and why there is none by variant.
    """
    known = {run.variant: cost for run in runs if (cost := _known_cost(run)) is not None}
    if len(known) == len(runs):
        return known, {}
    costs: dict[str, Cost] = {}
    failures: dict[str, str] = {}
    for run in runs:
        run.folder.mkdir(parents=True, exist_ok=True)
        _cost_path(run).unlink(missing_ok=True)
        config, log = run.folder / "cost-config.yaml", run.folder / "cost.log"
        config.write_text(yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True), encoding="utf-8")
        command = [*program, "benchmark", "--config", str(config), "--json", str(_cost_path(run))]
        with log.open("w", encoding="utf-8") as out:
            code = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **allotment.environment(0)},
            ).returncode
        if code == 0 and _cost_path(run).is_file():
            costs[run.variant] = Cost.read(_cost_path(run))
        else:
            failures[run.variant] = ": ".join([f"exit status {code}", *last_lines(log, 1)])
    return costs, failures


def _cost_path(run: Run) -> Path:
    return run.folder / "cost.json"


def _costly(config: Config) -> Config:
    """Return the part of a configuration that a cost depends on: neither how long it trains nor where results go."""
    trainer = {key: value for key, value in config.get("trainer", {}).items() if key != "max_epochs"}
    return {"model": config["model"], "data": config["data"], "trainer": trainer}


def _known_costs(runs: Sequence[Run]) -> tuple[dict[str, Cost], dict[str, str]]:
    costs = {run.variant: _known_cost(run) for run in runs}
    missing = dict.fromkeys((variant for variant, cost in costs.items() if cost is None), "nobody has measured it here")
    return {variant: cost for variant, cost in costs.items() if cost is not None}, missing


def _known_cost(run: Run) -> Cost | None:
    config = run.folder / "cost-config.yaml"
    if not _cost_path(run).is_file() or not config.is_file() or _costly(load_yaml(config)) != _costly(run.config):
        return None
    try:
        cost = Cost.read(_cost_path(run))
    except ValueError:
        return None
    device = device_name(device_for(run.config.get("trainer", {}).get("accelerator", "auto")))
    return cost if cost.device == device else None

"""A study from its YAML to its report: plan, train, report."""

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from referee.formats import counted, joined
from referee.report.claim import headline, in_words

from vitlab import log
from vitlab.atomic_files import read_cache, write_text
from vitlab.config import Config, merge
from vitlab.experiment.chain import branch_off
from vitlab.experiment.noise import flops_per_image
from vitlab.runs.lock import refuse_links, run_lock
from vitlab.studies.file import runs as grid
from vitlab.studies.file.fairness import Images, Split, data_of, groups_of, overruled, split_groups
from vitlab.studies.file.format import as_yaml
from vitlab.studies.file.metric import Metric
from vitlab.studies.file.registration import UNFINISHED, Outcome, is_finished, refuse_conflicts, register
from vitlab.studies.file.runs import Run, images_of
from vitlab.studies.file.study import Choice, Study, read_study
from vitlab.studies.report.cost import as_tuned, winner_costs
from vitlab.studies.report.page import write_curves, write_report
from vitlab.studies.report.verdict import append_look, judged, look_of, outlooks, read_looks, verdict
from vitlab.studies.results import Baselines, Pool, StudyResults, baselines, context_of, duplicates, read_results
from vitlab.studies.training.executors import Fleet, ForkServer, Local, allot
from vitlab.studies.training.run_all import Display, Train, run_all
from vitlab.studies.training.spending import branching_step, spend_budget
from vitlab.studies.training.tuning import refuse_unfit_images, tune

FILE = "study.json"


def claim_folder(study: Study, root: Path) -> None:
    """Record that the folder is this study's; refuse that of another file, unless its variants include the other's."""
    record, base = study.folder(root) / FILE, study.base_config
    texts = {name: as_yaml(merge(base, override)) for name, override in study.variants.items()}
    digests = {name: hashlib.sha256(text.encode()).hexdigest()[:16] for name, text in texts.items()}
    known = read_cache(record, {})
    path, variants = str(study.path.resolve()), known.get("variants", {})
    nested = variants.items() <= digests.items() or digests.items() <= variants.items()
    if known.get("file", path) != path and not nested:
        raise ValueError(
            f"{study.path}: {record.parent} belongs to another study of the name {study.name!r}: {known['file']}, with "
            f"{joined([*variants])}. Give this one another `name`. If it is the same study, remove {record}."
        )
    claimed = {"file": path, "variants": digests} | ({"given": study.given} if study.given else {})
    if known != claimed:
        write_text(record, json.dumps(claimed, indent=2, ensure_ascii=False) + "\n")


def begun_study(path: Path, root: Path, data: Config | None = None) -> Study:
    """Read a study with arguments of its data set; without any, with those that its folder was begun with."""
    study = read_study(path)
    given = {"data": {"init_args": data}} if data else read_cache(study.folder(root) / FILE, {}).get("given", {})
    study = replace(study, given=given)
    if study.folds_without_test:
        whole = replace(study, folds=None)
        first = grid.complete(whole.points[0], next(iter(whole.variants)), root, {})
        return whole if images_of(first).has_test else study
    return study


@dataclass
class ResolvedStudy:
    """A study with its images and its runs, as far as they are determined."""

    study: Study
    root: Path
    runs: list[Run]
    images: Images
    decided: dict[str, Config]  # by variant, overrides from the budget and from tuning
    choices: list[Choice]

    @classmethod
    def of(cls, study: Study, root: Path) -> "ResolvedStudy":
        """Return a study without an axis, or one place of a study that has one."""
        runs = grid.plan(study, root)
        parts = [images_of(run) for run in runs[: len(study.parts)]]  # of the first variant and seed
        images = Pool(parts) if study.folds else parts[0]
        refuse_unfit_images(study, runs[0].metric, images)
        resolved = cls(study, root, runs, images, {}, [])
        groups_of(resolved.grouped, images.image_names("test"))  # or says which image has none
        study.folder(root).mkdir(parents=True, exist_ok=True)
        return resolved

    @property
    def grouped(self) -> Study:
        return replace(self.study, groups=self.study.groups or self.images.grouping)

    @property
    def folder(self) -> Path:
        return self.study.folder(self.root)

    @cached_property
    def metric(self) -> Metric:
        """What ranks the runs; k-NN accuracy only where all are tested so."""
        metric, *others = (run.metric for run in self.runs)
        return metric if all(each.title == metric.title for each in others) else replace(metric, title="")

    @cached_property
    def baselines(self) -> Baselines | None:
        """The accuracies that every model must beat; None where another metric ranks."""
        if not self.metric.is_accuracy:
            return None
        return baselines(self.images, self.runs[0].config["data"], self.folder / "baselines.json")

    @cached_property
    def leaks(self) -> list[str]:
        runs, cache = self.first_runs(), self.folder / "leaks.json"
        searched = runs[:1] if self.study.folds else runs  # the folds of all variants are of the same images
        copies = [line for run in searched for line in duplicates(self.images_of(run), data_of(run.config), cache)]
        known = [f"{run.variant}: {line}, which inflates accuracy." for run in runs for line in grid.known_before(run)]
        return [*dict.fromkeys(filter(None, [*copies, *known, split_groups(self.grouped, self.images)]))]

    def images_of(self, run: Run) -> Images:
        """Return the images of a run; those of most variants are the study's."""
        return self.images if data_of(run.config) == data_of(self.runs[0].config) else images_of(run)

    def training_images(self, run: Run) -> int:
        return len(self.images_of(run).labels("train"))

    def first_runs(self) -> list[Run]:  # a run of each variant
        return [run for run in self.runs if (run.seed, run.fold) == (self.study.seeds[0], self.study.parts[0])]

    def spend_budget(self) -> None:
        drafts = self.first_runs()
        self.decided = spend_budget(self.study, drafts, self.training_images, flops_per_image, self.folder)
        if self.study.converts_budget:
            self.runs = grid.plan(self.study, self.root, self.decided)

    def tune(self, train: Train) -> None:
        self.choices, tuned = tune(self.study, self.root, self.decided, train, self.images)
        if self.study.tuning is not None:
            self.runs = grid.plan(self.study, self.root, self.decided, tuned)

    def results(self, outcomes: Sequence[Outcome]) -> StudyResults:
        results = StudyResults(
            self.grouped,
            grid.differing_keys(self.study, self.runs),
            *read_results(outcomes, self.study.folds),
            self.baselines,
            self.images.class_names,
            choices=self.choices,
            metric=self.metric,
            log=read_looks(self.folder),
        ).used()
        known = [*(result.run for result in results.finished), *(run for run, _ in results.failures)]
        cells = {(run.variant, run.seed) for run in known}
        used = [run for run in self.runs if (run.variant, run.seed) in cells]
        context = context_of(self.study, self.runs, used, self.folder, results.metric, self.leaks)
        return replace(results, context=context)

    def write(self, results: StudyResults) -> Path:
        """Record a look, and write the report; return its page."""
        append_look(results, self.folder)
        return write_report(results, self.images, self.folder)

    def train(self, train: Train, overwrite: bool) -> StudyResults:
        """Train all runs; or those of one look after the other, with a report between two looks."""
        if not self.study.looks:
            return self.results(train(self.runs))
        # By run: an interrupted look has finished runs, and is trained with them.
        outcomes = {} if overwrite else {run: Outcome(run, None) for run in self.runs if is_finished(run)}
        refuse_conflicts([*outcomes])  # what this study was before its file changed
        results = self.results([*outcomes.values()])
        while (watch := results.verdict.watch) and not watch.stop and watch.missing:
            runs = [run for run in self.runs if (run.variant, str(run.seed)) in watch.missing]
            outcomes |= {outcome.run: outcome for outcome in train(runs)}
            results = self.results([*outcomes.values()])
            if results.verdict.watch and not results.verdict.watch.stop:
                self.write(results)
                print(f"  {look_of(results)}: {verdict(results)}", flush=True)
        return results


Dashboard = Callable[[StudyResults, Path], str]
PROGRAM = (sys.executable, "-m", "vitlab")


class RunsFailed(RuntimeError):
    """The report is written nevertheless and names the runs that failed."""

    def __init__(self, report: Path, failures: Sequence[Outcome]) -> None:
        which = "; ".join(str(run) for run, _ in failures)
        super().__init__(f"{counted(len(failures), 'run')} failed ({which}). See the report: {report}")
        self.report = report


def compare(
    study_path: Path,
    root: Path = Path("runs"),
    overwrite: bool = False,
    program: Sequence[str] = PROGRAM,
    dashboard: Dashboard | None = None,
    executors: Sequence[Callable[[], Executor]] = (),
    register_anew: bool = False,
    data: Config | None = None,
    server: ForkServer | None = None,
) -> Path:
    """Run the missing parts of a study, write its report, and return the path of report.html.

    Args:
        root: Folder of all runs; the study's go to `root/<study>/<variant>/seed-<n>/`.
        overwrite: Retrain runs whose directory has another configuration than the study's.
        program: The command line of vitlab, to which `fit` is appended.
        dashboard: Publishes the report, and returns where.
        executors: Return what trains the runs, each all variants of its seeds; none: this machine.
        register_anew: Register a claim whose settings have changed since it had an outcome.
        data: Arguments of the data set in place of the base's; None: as the study began.
        server: Forks into the runs that train on CPUs of this machine; None: new processes.

    Raises:
        ValueError, FileNotFoundError: a user's mistake, detected before any run starts.
        RunsFailed: some runs failed; the report is written.
    """
    study = begun_study(study_path, root, data)
    if dashboard is not None and study.along:
        raise ValueError(f"{study_path}: a dashboard shows one report, and `along` gives one at each place.")
    refuse_links(study.folder(root), root)
    with run_lock(study.folder(root), "give this study another `name`"), ExitStack() as ends:
        register(study, root, register_anew)
        plans = [ResolvedStudy.of(point, root) for point in study.points]
        splits: Sequence[Split] = ["test"] if study.folds else ["train", "val", "test"]
        print(f"Images: {', '.join(f'{len(plans[0].images.labels(each)):,} {each}' for each in splits)}.", flush=True)
        if study.branch:
            _branches(plans)  # refuses runs that cannot branch
        claim_folder(study, root)
        runs = in_turn(plans)
        for run in {run.variant: run for run in runs if not is_finished(run)}.values():
            grid.check_first(study, run)  # or each run would fail
        for planned in plans:
            if not (overwrite or study.tuning or planned.study.converts_budget):  # the file alone determines the runs
                refuse_conflicts(planned.runs)
        slots = allot(runs, study.jobs)
        for planned in plans:  # what is known without training, so that broken images are detected here
            if lines := planned.baselines:
                where = f", {planned.study.place}" if study.along else ""
                known = f"majority class {lines.majority:.1%}, k-NN on raw pixels {lines.knn:.1%}"
                print(f"Baselines{where}: {known}.", flush=True)
        for leak in dict.fromkeys(leak for planned in plans for leak in planned.leaks):
            log.info(leak)  # once: data sets log the same lines as they are read
        print(*overruled(study), f"{study.size}; {slots}.", sep="\n", flush=True)
        built = {build: build() for build in executors}
        executor = Fleet([built[build] for build in executors], study.seeds) if built else Local(slots, server)
        ends.callback(executor.shutdown, wait=False)

        def train(runs: list[Run]) -> list[Outcome]:
            if not overwrite:
                refuse_conflicts(runs)
            return run_all(runs, program, executor, Display(sys.stdout, runs), overwrite)

        for planned in plans:
            planned.spend_budget()
        missing = sum(not is_finished(run) for planned in plans for run in planned.runs)
        if missing:
            most, after = " at most" * bool(study.looks), ", after those of tuning" * bool(study.tuning)
            size = f"To train: {counted(missing, 'run')}{most}{after}."
            print(*grid.never_reached(in_turn(plans)), size, sep="\n", flush=True)
        for planned in plans:
            planned.tune(train)
        found = _train_along(plans, train) if study.along else [plans[0].train(train, overwrite)]
        report, *_ = [planned.write(results) for planned, results in zip(plans, found, strict=True)]
        results, said = found[0], [study.question] if study.question else []
        if study.along:
            report, answer = write_curves(study, found, study.folder(root))
            said.append(answer)
        else:
            shown = judged(results)
            if study.claim:
                said += [headline(study.claim, shown), *in_words(study.claim, shown)]
            said += [shown.sentence, *winner_costs(results), *as_tuned(results), *outlooks(results)]
        print("", *said, "", sep="\n", flush=True)
        if dashboard is not None and results.finished:
            print(f"Dashboard: {dashboard(results, plans[0].folder)}", flush=True)
        if failures := [failure for results in found for failure in results.failures]:
            raise RunsFailed(report, failures)
        return report


def _train_along(plans: Sequence[ResolvedStudy], train: Train) -> list[StudyResults]:
    if plans[0].study.branch:  # the longest runs first, so that the others continue from their states
        longest, branches = plans[-1], _branches(plans)
        for i, run in enumerate(longest.runs):
            keep = {"run": {"checkpoint": {"keep": [step for _, step in branches[run]]}}}
            longest.runs[i] = replace(run, config=merge(run.config, keep))
        for outcome, each in zip(train(longest.runs), branches.values(), strict=True):
            for run, step in each if outcome.failure is None else ():
                try:
                    branch_off(outcome.run.directory, step, run.directory, run.config)
                except FileNotFoundError as error:  # trained before this place was added, or stopped early
                    print(f"{run} trains from its beginning: {error}")
    outcomes = {outcome.run: outcome for outcome in train(in_turn(plans))}
    return [planned.results([outcomes[run] for run in planned.runs]) for planned in plans]


def _branches(plans: Sequence[ResolvedStudy]) -> dict[Run, list[tuple[Run, int]]]:
    """Return the runs that branch off each of the longest, and after which steps."""
    *shorter, longest = plans
    images = {run.variant: longest.training_images(run) for run in longest.first_runs()}
    return {
        trunk: [(run, branching_step(run, images[trunk.variant])) for run in (planned.runs[i] for planned in shorter)]
        for i, trunk in enumerate(longest.runs)
    }


def in_turn(plans: Sequence[ResolvedStudy]) -> list[Run]:
    """Return the runs of all plans by seed, so that an early look sees every place."""
    order = {seed: position for position, seed in enumerate(plans[0].study.seeds)}
    return sorted((run for planned in plans for run in planned.runs), key=lambda run: order[run.seed])


def results_of(study_path: Path, root: Path = Path("runs")) -> tuple[StudyResults, Images]:
    """Return the results so far of a study without an axis, and its images; starts no run."""
    planned = ResolvedStudy.of(begun_study(study_path, root), root)
    planned.spend_budget()
    planned.tune(lambda runs: [])
    refuse_conflicts(planned.runs)
    failed = {run: why for look in read_looks(planned.folder)[-1:] for run, why in look["failures"].items()}
    outcomes = [
        Outcome(run, None if is_finished(run) else failed.get(str(run), UNFINISHED))
        for run in planned.runs
        if not planned.study.looks or is_finished(run) or str(run) in failed
    ]
    return planned.results(outcomes), planned.images

"""A study with its images and its runs, as far as they are determined."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from vitlab.config import Config
from vitlab.experiment.noise import flops_per_image
from vitlab.runs.directory import SUMMARY
from vitlab.studies.file.fairness import Images, data_of, groups_of, split_groups
from vitlab.studies.file.metric import Metric
from vitlab.studies.file.registration import Outcome, is_finished, refuse_conflicts
from vitlab.studies.file.runs import Run, differing_keys, images_of, known_before, plan
from vitlab.studies.file.space import Choice
from vitlab.studies.file.study import Study, slug
from vitlab.studies.report.verdict import read_looks
from vitlab.studies.results.context import Baselines, baselines, context_of
from vitlab.studies.results.duplicates import duplicates
from vitlab.studies.results.folds import Pool
from vitlab.studies.results.run import read_results
from vitlab.studies.results.table import StudyResults
from vitlab.studies.training.spending import spend_budget
from vitlab.studies.training.tuning import Train, refuse_unfit_images, tune


@dataclass
class ResolvedStudy:
    study: Study
    root: Path
    runs: list[Run]
    images: Images
    decided: dict[str, Config]  # by variant, overrides from the budget and from tuning
    choices: list[Choice]

    @classmethod
    def of(cls, study: Study, root: Path) -> "ResolvedStudy":
        """Return a study without an axis, or one place of a study that has one.

        Raises:
            ValueError, FileNotFoundError: a user's mistake, with value, place and remedy.
        """
        runs = plan(study, root)
        parts = [images_of(run) for run in runs[: len(study.parts)]]  # of the first variant and seed
        images = Pool(parts) if study.folds else parts[0]
        refuse_unfit_images(study, runs[0].metric, images)
        resolved = cls(study, root, runs, images, {}, [])
        groups_of(resolved.grouped, images.image_names("test"))  # or says which image has none
        study.folder(root).mkdir(parents=True, exist_ok=True)
        return resolved

    @property
    def grouped(self) -> Study:
        """The study with the groups of its data, if it gives none."""
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
        """What test images share with images to train or validate on, in sentences."""
        cache = self.folder / "copies.json"
        runs = self.first_runs()
        searched = runs[:1] if self.study.folds else runs  # the folds of all variants are of the same images
        copies = [duplicates(self.images_of(run), data_of(run.config), cache) for run in searched]
        known = [f"{run.variant}: {line}, which inflates accuracy." for run in runs for line in known_before(run)]
        return [*dict.fromkeys(filter(None, [*copies, *known, split_groups(self.grouped, self.images)]))]

    def images_of(self, run: Run) -> Images:
        """Return the images of a run; those of most variants are the study's."""
        return self.images if data_of(run.config) == data_of(self.runs[0].config) else images_of(run)

    def training_images(self, run: Run) -> int:
        return len(self.images_of(run).labels("train"))

    def first_runs(self) -> list[Run]:
        """Return the run of each variant that has the first seed, and the first fold of that."""
        return [run for run in self.runs if (run.seed, run.fold) == (self.study.seeds[0], self.study.parts[0])]

    def spend_budget(self) -> None:
        """Set the length of each variant by the study's budget; see `spending.spend_budget`."""
        drafts = self.first_runs()
        self.decided = spend_budget(self.study, drafts, self.training_images, flops_per_image, self.folder)
        if self.study.converts_budget:
            self.runs = plan(self.study, self.root, self.decided)

    def missing_trials(self) -> int:
        if self.study.tuning is None:
            return 0
        each, folder = self.study.tuning.runs(len(self.study.seeds)), self.study.tuning_folder(self.root)
        done = [len([*folder.glob(f"{slug(variant)}/**/{SUMMARY}")]) for variant in self.study.variants]
        return sum(max(0, each - number) for number in done)

    def tune(self, train: Train) -> None:
        self.choices, tuned = tune(self.study, self.root, self.decided, train, self.images)
        if self.study.tuning is not None:
            self.runs = plan(self.study, self.root, self.decided, tuned)

    def results(self, outcomes: Sequence[Outcome]) -> StudyResults:
        finished, failed = read_results(outcomes, self.study.folds)
        results = StudyResults(
            study=self.grouped,
            differences=differing_keys(self.study, self.runs),
            finished=finished,
            failures=failed,
            baselines=self.baselines,
            class_names=self.images.class_names,
            choices=self.choices,
            metric=self.metric,
            log=read_looks(self.folder),
        ).used()
        known = [*(result.run for result in results.finished), *(run for run, _ in results.failures)]
        cells = {(run.variant, run.seed) for run in known}
        used = [run for run in self.runs if (run.variant, run.seed) in cells]
        context = context_of(self.study, self.runs, used, self.folder, results.metric, self.leaks)
        return replace(results, context=context)

    def next_runs(self, results: StudyResults) -> list[Run]:
        """Return the runs of the next look, none if the study has ended."""
        watch, variants = results.verdict.watch, list(self.study.variants)
        missing = [] if watch is None or watch.stop else watch.missing
        return [run for run in self.runs if (variants.index(run.variant), str(run.seed)) in missing]

    def train(self, train: Train, overwrite: bool, show: Callable[[StudyResults], None]) -> list[Outcome]:
        """Train all runs; or those of one look after the other, and show the results between two looks."""
        if not self.study.looks:
            return train(self.runs)
        # By run: an interrupted look has finished runs, and `next_runs` names them with the others.
        outcomes = {} if overwrite else {run: Outcome(run, None) for run in self.runs if is_finished(run)}
        refuse_conflicts([*outcomes])  # what this study was before its file changed
        results = self.results([*outcomes.values()])
        while runs := self.next_runs(results):
            outcomes |= {outcome.run: outcome for outcome in train(runs)}
            results = self.results([*outcomes.values()])
            if results.verdict.watch and not results.verdict.watch.stop:
                show(results)
        return [*outcomes.values()]

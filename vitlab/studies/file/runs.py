"""The grid of a study's runs, variants × seeds, each with a complete and validated configuration.

Nothing here writes a file, so an invalid study leaves no trace.
"""

import difflib
import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate, combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from vitlab.config import ABSENT, ROOTS, Config, flatten, load_yaml, locate, merge, nest, short, weights_of
from vitlab.experiment.chain import Source
from vitlab.experiment.errors import call_of_user_code
from vitlab.studies.file.fairness import kind_of, overruled
from vitlab.studies.file.format import as_yaml
from vitlab.studies.file.metric import TOP1, Metric, chosen_metric, refuse_unknown_needs, refuse_untuned
from vitlab.studies.file.study import NAMES, SETTINGS, VALIDATION, WARMUP, Study, is_frozen, seed_settings, source_draws

if TYPE_CHECKING:
    from vitlab.data import ImageDataModule
    from vitlab.experiment.experiment import Experiment

SCHEDULE = "model.init_args.schedule"
SET_BY_FROZEN = ("trainer.max_epochs", "run.probe")  # keys in which only the other variants have to agree


@dataclass(frozen=True, eq=False)
class Run:
    """One cell of the grid: a variant with a seed. The study writes its own files next to the run directory."""

    variant: str
    seed: int
    config: Config
    folder: Path
    metric: Metric = TOP1  # that ranks it
    place: str = ""  # on the axis of its study
    fold: int | None = None  # the part of the images that tests; None: of a study without folds, or all parts together

    @property
    def directory(self) -> Path:
        return self.folder / (f"fold-{self.fold}" if self.fold else "") / f"seed-{self.seed}"

    @property
    def config_path(self) -> Path:
        return self.directory.with_name(f"config-seed-{self.seed}.yaml")

    @property
    def log_path(self) -> Path:
        return self.directory.with_name(f"seed-{self.seed}.log")

    @property
    def is_frozen(self) -> bool:
        return is_frozen(self.config)

    @property
    def epochs(self) -> int:
        return int(self.config["trainer"]["max_epochs"])

    def __str__(self) -> str:
        fold = f"fold {self.fold}" if self.fold else ""
        return ", ".join(filter(None, [self.variant, self.place, f"seed {self.seed}", fold]))


class Difference(NamedTuple):
    """A key of the configuration that differs between variants."""

    key: str
    values: dict[str, Any]  # by variant
    declared: bool  # allowed by the study's `may_differ`


def experiment_of(config: Config) -> "Experiment":
    from vitlab.experiment.experiment import Experiment  # here, because it takes seconds to import

    return Experiment(config)


def check_first(study: Study, run: Run) -> None:
    """Raise what `fit` refuses of weights, data and precision before it trains, so that it is reported once."""
    with _naming(study, run.variant):
        experiment = experiment_of(run.config)
        if weights_of(run.config):
            experiment.find_weights()
        experiment.check()


@contextmanager
def _naming(study: Study, variant: str) -> Iterator[None]:
    """Name the variant in a mistake of its settings; an error in code of the user's own stays as it is."""
    try:
        yield
    except ValueError as error:
        if call_of_user_code(error):
            raise
        raise ValueError(f"Variant {variant!r} of {study.path}: {error}") from None


def images_of(run: Run) -> "ImageDataModule":
    return experiment_of(run.config).data


def known_before(run: Run) -> list[str]:
    """Say which of its test images a run's weights were trained on."""
    if not weights_of(run.config):
        return []
    from vitlab.experiment.same_images import known_test_images  # here, because it takes seconds to import

    return known_test_images(experiment_of(run.config))


def plan(
    study: Study,
    root: Path,
    decided: Mapping[str, Config] | None = None,
    tuned: Mapping[tuple[str, int], Config] | None = None,
) -> list[Run]:
    """Return the runs of a study, ordered by seed so that an early stop leaves pairs.

    Args:
        decided: By variant, overrides from the budget.
        tuned: By variant and seed, overrides from tuning; a run without one has the value of the base.
    """
    overruled(study)
    completed: dict[tuple[str, str], Run] = {}

    def cell(variant: str, seed: int) -> Run:
        settings = (tuned or {}).get((variant, seed), {})
        key = variant, as_yaml(settings)
        if key not in completed:
            completed[key] = complete(study, variant, root, merge((decided or {}).get(variant, {}), settings))
        return completed[key]

    for fault in _faults(study, [cell(variant, study.seeds[0]) for variant in study.variants]):
        raise ValueError(f"{study.path}: {fault}")
    return [
        with_seed(study, cell(variant, seed), seed, fold)
        for seed in study.seeds
        for variant in study.variants
        for fold in study.parts
    ]


def complete(study: Study, variant: str, root: Path, decided: Config) -> Run:
    """Return the run of a variant with the study's first seed, complete and checked; `decided` as in `plan`."""
    import torch  # here, because it takes seconds to import

    folder = study.folder(root, variant)
    first = Run(variant, study.seeds[0], {}, folder, place=study.place, fold=study.parts[0])
    fixed = _seeded(study, first)
    group = f"{study.name}, {study.place}" if study.place else study.name  # of its runs in W&B
    fixed["run"] |= {"root": str(folder.parent), "test": True, "wandb": {"group": group}}
    if study.budget is not None and study.budget.kind == "epochs" and variant not in study.frozen:
        fixed["trainer"] = {"max_epochs": study.budget.amount}
    config = merge(merge(merge(study.base_config, study.variants[variant]), fixed), decided)
    config = _on_the_same_images(study, config, study.given)
    flat = flatten(config)
    for key, value in flatten(study.settings).items():
        if (actual := flat.get(key, ABSENT)) != value or key in study.tuned:
            what = f"{variant} has {key}: {as_yaml(actual)}, set by the variant, the budget or tuning"
            raise ValueError(f"{study.path}: along: {study.place}: {what}. Remove it there, or the axis.")
    with _naming(study, variant):
        experiment = experiment_of(config)
        with warnings.catch_warnings(action="ignore"):
            try:  # to build it, so that a mistake shows before anything is trained; without memory for weights
                with torch.device("meta"):
                    metric, _ = chosen_metric(experiment, study.metric), experiment.trainer
            except RuntimeError:  # code that reads values, which a tensor on the meta device lacks
                metric, _ = chosen_metric(experiment, study.metric), experiment.trainer
            if study.claim is not None and variant in study.claim.variants:
                refuse_unknown_needs(study.claim, experiment, metric)
            if study.tuning:
                refuse_untuned(experiment, metric)
            experiment.before()
    # As read back from a file, where tuples are lists, to be comparable with the run directories.
    config = yaml.safe_load(yaml.safe_dump(experiment.config, sort_keys=False))
    return replace(first, config=config, metric=metric)


def _on_the_same_images(study: Study, config: Config, changes: Config) -> Config:
    """Return a run's configuration; an experiment that it starts from follows changes of the data that it shares."""
    for key, value in weights_of(config).items() if changes else ():
        base, there = _data_before(study, value)
        if not base or any(base.get(root) != there.get(root) for root in ROOTS):
            continue
        settings = [
            f"{short(name)}={as_yaml(each)}"
            for name, each in flatten(changes).items()
            if kind_of(name) == "data" and each is not None and there.get(name, ABSENT) == base.get(name, ABSENT)
        ]
        if spaced := [setting for setting in settings if re.search(r"\s", setting)]:
            raise ValueError(f"{spaced[0]}: {value} trains on these images first, and takes no name with a space.")
        config = merge(config, nest(key, " ".join([value, *settings])))
    return config


def _data_before(study: Study, weights: str) -> tuple[Config, Config]:
    """Return the data settings of the base and of an experiment that gives weights; empty unless of one data module."""
    source = Source.parse(weights)
    if source is None or not locate(source.file).is_file():
        return {}, {}
    files = study.base, source.file
    base, there = (flatten(merge({}, load_yaml(file)).get("data", {}), "data.") for file in files)
    kinds = {str(data.get("data.class_path")).rpartition(".")[2] for data in (base, there)}
    return (base, there) if len(kinds) == 1 else ({}, {})


def with_seed(study: Study, run: Run, seed: int, fold: int | None = None) -> Run:
    """Return the run with another seed, and another part of the images that tests."""
    other = replace(run, seed=seed, fold=fold)
    seeded = _seeded(study, other)
    config = merge(run.config, seeded)
    return replace(other, config=config if fold is None else _on_the_same_images(study, config, seeded))


def _seeded(study: Study, run: Run) -> Config:
    override: Config = {"run": {"name": str(run.directory.parent.relative_to(run.folder.parent))}}
    for key, value in seed_settings(study.vary, run.seed, study.seeds[0]).items():
        override = merge(override, nest(key, value))
    if run.fold is not None:
        folds = {"count": study.folds, "test": run.fold, "groups": study.groups}
        override = merge(override, {"data": {"init_args": {"split_seed": run.seed, "folds": folds}}})
    return override


def comparable(config: Config) -> Config:
    """Return a configuration with that part of its `run` section in which variants may differ."""
    kept = ("probe", "compile", "not_finite")
    run = {key: value for key, value in config.get("run", {}).items() if key in kept and value is not None}
    return {key: value for key, value in config.items() if key != "run"} | ({"run": run} if run else {})


def differing_keys(study: Study, runs: list[Run]) -> list[Difference]:
    """List every key in which the variants' resolved configurations differ with the first seed, declared keys first."""
    flat = {run.variant: flatten(comparable(run.config)) for run in runs if run.seed == study.seeds[0]}
    epochs = {run.variant: run.epochs for run in runs}
    for variant, config in flat.items() if study.tuning and study.tuning.within_seeds else ():
        for key in study.tuned:
            values = [flatten(run.config).get(key, ABSENT) for run in runs if run.variant == variant]
            config[key] = values[0] if all(value == values[0] for value in values) else values
    differences = []
    for key in dict.fromkeys(key for config in flat.values() for key in config):
        by_variant = {variant: config.get(key, ABSENT) for variant, config in flat.items()}
        if any(value != next(iter(by_variant.values())) for value in by_variant.values()):
            declared = any(key == prefix or key.startswith(f"{prefix}.") for prefix in study.allowed)
            trained = {variant: value for variant, value in by_variant.items() if variant not in study.frozen}
            scaled = study.converts_budget and key in (WARMUP, f"trainer.{VALIDATION}")
            declared = declared or (scaled and bool(trained) and _in_proportion(trained, epochs))
            declared = declared or (key in SET_BY_FROZEN and len(set(map(str, trained.values()))) < 2)
            differences.append(Difference(key, by_variant, declared))
    return sorted(differences, key=lambda difference: not difference.declared)


def _in_proportion(values: Mapping[str, Any], epochs: Mapping[str, int]) -> bool:
    """Whether each variant's value is the same share of its epochs; one of whole epochs was rounded, and is from 1."""
    if not all(type(value) in (int, float) for value in values.values()):
        return False
    lowest, highest = 0.0, math.inf
    for variant, value in values.items():
        room = 0.5 if type(value) is int else 1e-6
        at_least_one = type(value) is int and value == 1
        lowest = max(lowest, 0.0 if at_least_one else (value - room) / epochs[variant])
        highest = min(highest, (value + room) / epochs[variant])
    return lowest <= highest


def _faults(study: Study, runs: Sequence[Run]) -> Iterator[str]:
    """Yield what is wrong with the runs of the variants, one each, as far as it is known before they train."""
    for a, b in combinations(runs, 2):
        if comparable(a.config) == comparable(b.config):
            yield f"variants {a.variant!r} and {b.variant!r} do not differ in a single value. Change or remove one."
    keys = {key for run in runs for key in flatten(run.config)}
    sections = sorted({section for key in keys for section in accumulate(key.split("."), "{}.{}".format)})
    for where, key in [("may_differ", key) for key in study.may_differ] + [("tune: space", k) for k in study.tuned]:
        if key not in sections:
            closest = difflib.get_close_matches(key, sections, n=1)  # of too many to name them all
            hint = f" Did you mean `{closest[0]}`?" if closest else ""
            yield f"{where}: no variant's configuration has a key `{key}`.{hint}"
    for run in runs:
        others = {each: source for each in weights_of(run.config).values() if (source := Source.parse(each))}
        for each in others if study.folds else ():
            base, there = _data_before(study, each)
            if any(base.get(root) != there.get(root) for root in ROOTS):
                yield f"folds: {run.variant!r} takes weights from {each}, perhaps trained on test images of some folds."
        # An experiment that gives weights follows the folds, and needs one look; a run does not.
        for fold in (study.parts[:1] if others else study.parts) if study.folds else ():
            for known in known_before(with_seed(study, run, run.seed, fold)):
                yield f"folds: {run.variant!r}: {known}. Give weights of a training on other images."
        if run.variant not in study.frozen:  # fewer training batches are a fair budget
            trainer = run.config.get("trainer", {})
            if study.budget is None and trainer.get("max_epochs") in (None, -1):
                yield f"{run.variant!r} has no training length. Add a budget, like {{epochs: 30}}."
            for key, value in trainer.items():
                if key in COMPLETE and value is not None and not COMPLETE[key](value):
                    yield f"trainer.{key} is {as_yaml(value)} for {run.variant!r}. Remove it: it cuts runs short."
        elif not weights_of(run.config):
            yield f"{run.variant!r} is frozen, and has random weights. Set init_from, or `pretrained: true`."
        for source in others.values():
            yield from (f"{run.variant!r}: {fault}" for fault in source_draws(study.vary, source))
        flat = flatten(run.config)
        for kind, key in SETTINGS.items():
            if kind in study.vary and flat.get(key, ABSENT) not in (ABSENT, None):
                fixed = f"{key} is {flat[key]}, so no seed changes {NAMES[kind]}. Remove it, or {kind} from `vary`"
                yield f"{run.variant!r}: {fixed}."
    if "images" in study.vary and all(run.config["data"]["init_args"].get("train_images") is None for run in runs):
        yield "vary: images: every variant trains on all images. Set data.init_args.train_images."
    if len(metrics := {run.metric for run in runs}) > 1:
        names = " and ".join(sorted(metric.label for metric in metrics))
        yield f"the tasks of the variants' objectives rank by {names}. Compare by one metric."


# By key of the trainer, whether a value leaves a run complete; null always does.
COMPLETE: Mapping[str, Callable[[Any], bool]] = {
    "limit_test_batches": lambda limit: isinstance(limit, float) and limit == 1.0,  # 1 is a single batch
    "limit_val_batches": lambda limit: isinstance(limit, float) and limit == 1.0,  # for tuning and curves
    "limit_train_batches": lambda limit: limit > 0,
    "overfit_batches": lambda batches: batches == 0,
    "fast_dev_run": lambda on: not on,
    "max_epochs": lambda epochs: epochs != 0,
    "max_steps": lambda steps: steps != 0,
    "max_time": lambda time: False,
}


def never_reached(runs: Iterable[Run]) -> list[str]:
    """Return for each variant what of its schedule its runs are too short for."""
    from vitlab.optim import unreached  # here, because it takes seconds to import

    missed = {}
    for run in (run for run in runs if not run.is_frozen):
        flat = flatten(run.config)
        warmup, milestones = (flat.get(f"{SCHEDULE}.init_args.{name}") for name in ("warmup_epochs", "milestones"))
        missed[run.variant] = unreached(run.epochs, warmup or 0, milestones or ())
    return [f"{variant}: {line}" for variant, line in missed.items() if line]


def own_share(study: Study, run: Run) -> float:
    """Return the fraction of a run's steps that it shares with no longer run: of a branch its cooldown, else all."""
    if not study.branch or study.along is None or run.epochs == study.along.places[-1].x:
        return 1.0
    return float(flatten(run.config)[f"{SCHEDULE}.init_args.cooldown"])

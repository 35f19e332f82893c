"""A study's YAML file, read and checked.

    name: quickstart
    question: Which of ViT and Swin serves small images best?  # printed above the report's headline; may be left out
    base: ../quickstart/base.yaml     # an experiment, complete with what the variants add; relative to this file
    variants:                         # only the differences: a mapping, or the path of a YAML file
      ViT: {model: {init_args: {backbone: {class_path: …}}}}
    seeds: {from: 4, to: 12}          # add one of each variant until settled; or a list, trained as a whole: [1, 2, 3]
    margin: 0.5                       # the smallest difference that matters, here in points; null: any
    metric: {name: rank, mode: max}   # of summary.json, on the test images; null: the metric of the objective's task;
                                      # with `title: effective rank`, figures and tables have that name
    claim:                            # null; a sentence of a paper that the study tests (`claim`)
    test: pooled                      # exact: no distributional assumption; paired: variants from the same weights
    budget: {epochs: 35}              # the same for all: epochs, images, flops or minutes; null: as in the base
    may_differ: [model.init_args.backbone]
    tune:                             # null: one recipe for all
      key: model.init_args.optimizer.init_args.lr
      values: [5.0e-4, 1.0e-3, 2.0e-3]
      seeds: [1000, 1001, 1002]       # of the tuning runs; null: these, or the next from 1000 on that `seeds` lacks
      within: null                    # seed: each seed of the study repeats the search with its own runs
    search: {space: {…}, trials: 24}  # null; several settings drawn for each variant (`search_space`)
    vary: [init, order, augmentation] # what seeds draw (`draws`); split: the choice of validation images too
    target_accuracy: 0.95             # report the time to this validation accuracy; null: what every run reaches
    along: {train_images: [50, 100]}  # null; the same study at several numbers of images, budgets or data sets (`axes`)
    branch: false                     # shorter runs of an axis of epochs branch off the longest one (`branching`)
    jobs: 2                           # parallel runs; null: one per GPU, or per core

The paths of `base` and of variants are relative to the study's file.
"""

import hashlib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import count, islice
from pathlib import Path
from typing import Any

from referee.claim import Claim, parse_claim
from referee.statistics.comparison import LEVEL, TESTS

from vitlab.config import Config, flatten, load_yaml, merge
from vitlab.experiment.chain import Source
from vitlab.studies.axes import Axis, parse_along, places_of
from vitlab.studies.budget import Budget, parse_budget, refuse_unknown
from vitlab.studies.draws import BY_DEFAULT, parse_vary
from vitlab.studies.format import as_yaml
from vitlab.studies.search_space import Search, parse_search

KEYS = (
    *("name", "question", "base", "variants", "seeds", "until", "margin", "metric", "claim", "test"),
    *("budget", "may_differ", "tune", "search", "vary", "target_accuracy", "along", "branch", "jobs"),
)
MODES = ("min", "max")
REQUIRED = ("base", "variants", "seeds")
VALIDATION = "check_val_every_n_epoch"
LENGTH = ("max_epochs", "limit_train_batches", VALIDATION)  # keys of the trainer, set by a budget
WARMUP = "model.init_args.schedule.init_args.warmup_epochs"
IMAGES_A_STEP = ("data.init_args.batch_size", "trainer.accumulate_grad_batches")
COSTLY = {"backbone", "image_size", "grow", "multi_crop", "mask_ratio", "patch_drop"}  # keys, or sections of keys
COSTLESS = {
    *("drop_rate", "pos_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate"),
    *("init", "patch_init", "cls_token_std", "init_values"),
}  # keys of a backbone
LOOK_FROM = 4  # seeds of the first look; at three, spreads that differ cost up to 9 % false claims instead of 5
LEAST_SEEDS = 3
TUNING_SEEDS = 3
TUNE_FROM = 1000  # the first seed of tuning runs
# Folders next to those of the variants.
RESERVED_SLUGS = ("before", "figures", "rehearsal", "robustness", "search", "transfer", "tuning", "wandb")


@dataclass(frozen=True)
class Tuning:
    """A setting tuned on validation images, with the same values for every variant."""

    key: str
    values: list[Any]
    seeds: list[int]  # of the tuning runs; those of the study within seeds
    within_seeds: bool = False  # each seed of the study chooses its own value
    seeds_given: bool = True  # in the file


@dataclass(frozen=True)
class Study:
    """A study's YAML, validated."""

    path: Path
    name: str
    base: Path
    variants: dict[str, Config]  # by name: its changes to the base
    seeds: list[int]  # all that may be trained
    budget: Budget | None
    may_differ: list[str]
    jobs: int | None
    tuning: Tuning | None = None
    search: Search | None = None
    target_accuracy: float | None = None
    looks: tuple[int, ...] = ()  # numbers of seeds after which results are looked at; empty: after all of them
    margin: float | None = None  # differences below it do not matter, as shown: in points of accuracy
    test: str = "pooled"  # one of `comparison.TESTS`
    metric: Mapping[str, Any] | None = None  # fields of the `Metric` by which it ranks, in place of the task's
    claim: Claim | None = None
    vary: tuple[str, ...] = BY_DEFAULT  # what seeds draw, of `draws.KINDS`
    along: tuple[Axis, ...] = ()
    question: str = ""  # that the study asks, above the report's headline
    branch: bool = False  # shorter runs continue states of the longest
    place: str = ""  # on the axes of the study that this is a part of
    settings: Config = field(default_factory=dict)  # of that place
    files: Mapping[str, Path] = field(default_factory=dict)  # of the variants that are files

    def folder(self, root: Path, variant: str = "") -> Path:
        """Return the folder of the study's files, or of a variant's runs."""
        own = slug(f"{variant} {self.place}".replace(",", ""))
        return root / slug(self.name) / own if own else root / slug(self.name)

    @property
    def title(self) -> str:
        """The name, and the place on the axes."""
        return f"{self.name}, {self.place}" if self.place else self.name

    @property
    def points(self) -> "list[Study]":
        """The study at each place of its axes; itself where it has none."""
        if not self.along:
            return [self]
        return [
            replace(
                self,
                place=label,
                along=(),
                settings=override,
                variants={name: merge(override, own) for name, own in self.variants.items()},
                budget=budget or self.budget,
            )
            for label, override, budget in places_of(self.along)
        ]

    @property
    def digest(self) -> str:
        """A hash of its files: its own, the base, those of variants, and experiments that runs start from."""
        values = [
            value for config in (load_yaml(self.base), *self.variants.values()) for value in flatten(config).values()
        ]
        sources = [source.file for value in values if isinstance(value, str) and (source := Source.parse(value))]
        files = [self.path, self.base, *self.files.values(), *(path for path in sources if path.is_file())]
        return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]

    @property
    def determined(self) -> bool:
        """Whether the file alone determines the runs: nothing is tuned, and the budget is in epochs."""
        return self.tuning is None and self.search is None and not self.converts_budget

    @property
    def converts_budget(self) -> bool:
        """Whether the budget is converted into a number of epochs for each variant."""
        return self.budget is not None and self.budget.kind != "epochs"

    @property
    def tuned(self) -> list[str]:
        """The keys that are chosen on validation images before the comparison."""
        return [*([self.tuning.key] if self.tuning else []), *(self.search.space if self.search else [])]

    @property
    def allowed(self) -> list[str]:
        """The keys in which variants may differ: those compared, tuned, or set by the budget."""
        bought = [f"trainer.{key}" for key in LENGTH if key != VALIDATION] if self.converts_budget else []
        return [*self.may_differ, *self.tuned, *bought]

    @property
    def in_proportion(self) -> list[str]:
        """The keys that the budget scales with the epochs of a variant: they may differ as far as those do."""
        interval = [f"trainer.{VALIDATION}"] if self.budget is not None and self.budget.sets_validation else []
        return [WARMUP, *interval] if self.converts_budget else []


def slug(name: str) -> str:
    """Return the name as a folder name: lower case, digits, hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def read_study(path: Path) -> Study:
    """Read and check a study's YAML.

    Raises:
        ValueError, FileNotFoundError: a user's mistake, with value, place and remedy.
    """
    content = load_yaml(path)
    base = path.parent / str(content.get("base"))
    if content.get("base") and not base.is_file():
        raise FileNotFoundError(
            f"{path}: base: {content['base']} does not exist (looked for {base}).\n"
            "The path is relative to the study's file."
        )
    try:
        return _parse(content, path, base)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _parse(content: Config, path: Path, base: Path) -> Study:
    def checked(key: str, valid: Callable[[Any], bool], expected: str) -> Any:
        value = content.get(key)
        if value is not None and not valid(value):
            raise ValueError(f"{key}: {value!r}. Expected {expected}.")
        return value

    if {"model", "data"} & content.keys() and "variants" not in content:
        raise ValueError("this is an experiment, not a study: it has no variants. Train it with `fit`.")
    refuse_unknown(content, KEYS, "key")
    for key in REQUIRED:
        if content.get(key) in (None, {}, []):
            raise ValueError(f"the study has no `{key}`. It needs {', '.join(REQUIRED)}.")
    name = str(content.get("name") or path.stem)
    if not slug(name):
        raise ValueError(f"name: {name!r} cannot name a folder. Use letters or digits.")
    keys = checked(
        "may_differ",
        lambda value: isinstance(value, list) and all(isinstance(key, str) for key in value),
        "a list of keys, like [model.init_args.backbone]",
    )
    seeds, looks = _seeds_and_looks(content["seeds"], content.get("until"))
    test = checked("test", TESTS.__contains__, f"one of {', '.join(TESTS)}") or "pooled"
    if test == "exact":
        _refuse_too_few(len(content["variants"]), len(seeds), bool(looks))
    variants = _variants(content["variants"], path.parent)
    if test == "paired" and looks and len(variants) > 2:
        raise ValueError(
            "test: paired compares the same seeds, but of three variants or more one leaves the race before the others."
            "\nGive `seeds` as a list without `until`."
        )
    margin = checked(
        "margin",
        lambda value: type(value) in (int, float) and 0 < value < math.inf,
        "a number above 0, like 0.5 for half a point of accuracy, or null",
    )
    budget = parse_budget(content.get("budget"))
    if content.get("tune") is not None and content.get("search") is not None:
        raise ValueError("tune and search both choose settings before the comparison. Remove one of the two.")
    along = parse_along(content.get("along"), path.parent, budget)
    if along and content.get("claim") is not None:
        raise ValueError("claim: a study with `along` is many studies. Remove one of the two.")
    if along and looks:
        raise ValueError("along: the places of an axis have the same seeds. Give `seeds` as a list without `until`.")
    if test == "exact" and any(axis.numeric for axis in along):
        raise ValueError(
            "test: exact has no crossings along an axis of numbers, and settles little at many places. "
            "Use test: pooled, or give the places names."
        )
    study = Study(
        path=path,
        name=name,
        base=base,
        variants=variants,
        seeds=seeds,
        budget=budget,
        may_differ=keys or [],
        jobs=checked("jobs", lambda jobs: type(jobs) is int and jobs >= 1, "a whole number from 1, or null"),
        tuning=_tuning(content.get("tune"), seeds),
        search=parse_search(content.get("search"), seeds),
        looks=looks,
        margin=margin,
        metric=checked(
            "metric",
            lambda value: (
                isinstance(value, dict)
                and {"name", "mode"} <= set(value) <= {"name", "mode", "title"}
                and value["mode"] in MODES
            ),
            "a metric of summary.json, whether higher is better, and an optional title for figures, "
            "like {name: rank, mode: max, title: effective rank}, or null",
        ),
        claim=parse_claim(content.get("claim"), variants, margin, bool(looks)),
        test=test,
        vary=parse_vary(content.get("vary")),
        target_accuracy=checked(
            "target_accuracy",
            lambda value: type(value) is float and 0 < value < 1,
            "a fraction between 0 and 1, like 0.9, or null",
        ),
        along=along,
        files={str(v): path.parent / each for v, each in content["variants"].items() if isinstance(each, str)},
        question=checked("question", lambda value: isinstance(value, str), "a text, or null") or "",
        branch=checked("branch", lambda value: type(value) is bool, "true or false") or False,
    )
    _refuse_other_runs(study)
    if along:
        _refuse_shared_folders(study)
    return study


def _refuse_other_runs(study: Study) -> None:
    """Refuse settings with which the runs would differ from the study's description."""
    budgets = [point.budget for point in study.points]
    larger = [key for key in study.tuned if key in IMAGES_A_STEP]
    if larger and any(budget and budget.kind != "epochs" for budget in budgets):
        raise ValueError(
            f"tune or search: {', '.join(larger)} changes how many images a step takes, and the budget is a number of "
            "steps by then. Give a budget in epochs."
        )
    dearer = [key for key in study.tuned if _changes_cost(key)]
    if dearer and any(budget and budget.kind in ("flops", "minutes") for budget in budgets):
        raise ValueError(
            f"tune or search: {', '.join(dearer)} changes what an image costs, which the budget measures before the "
            "tuning. Give a budget in epochs or images."
        )
    if not study.branch:
        return
    if study.tuned:
        raise ValueError("branch: shorter runs continue the longest, and tuning could give them other settings.")
    places = study.along[0].places if len(study.along) == 1 else ()
    if not places or not all(place.budget and place.budget.kind == "epochs" for place in places):
        raise ValueError("branch: only runs along an axis of epochs branch off each other. Give along: {epochs: […]}.")


def _changes_cost(key: str) -> bool:
    """Return whether a setting is of the architecture, of the images' size, or of the tokens that a step computes."""
    parts = key.split(".")
    if parts[-1] in COSTLESS:
        return False
    return not COSTLY.isdisjoint(parts) or parts[-1].startswith("decoder_")


def _refuse_shared_folders(study: Study) -> None:
    """Refuse axes whose places and variants differ by no letter or digit."""
    named: dict[Path, str] = {}
    for point in study.points:
        for variant in ("", *study.variants):
            name, folder = f"{variant} {point.place}".strip(), point.folder(Path(), variant)
            if folder in named:
                raise ValueError(f"along: {named[folder]!r} and {name!r} would share the folder {folder.name}/.")
            named[folder] = name


def _variants(value: Any, folder: Path) -> dict[str, Config]:
    if not isinstance(value, dict):
        raise ValueError(f"variants: expected a mapping from names to differences, got {value!r}.")
    variants: dict[str, Config] = {}
    by_slug: dict[str, str] = {}
    for name, override in ((str(name), override) for name, override in value.items()):
        if isinstance(override, str):
            override = load_yaml(folder / override)
        if override is not None and not isinstance(override, dict):
            raise ValueError(f"variants: {name}: {override!r}. Expected a mapping or the path of a YAML file.")
        short = slug(name)
        if not short or short in RESERVED_SLUGS:
            raise ValueError(f"variants: {name!r} cannot name a folder. Use a name with letters or digits.")
        if short in by_slug:
            raise ValueError(f"variants {by_slug[short]!r} and {name!r} would share the folder {short}/. Rename one.")
        variants[name], by_slug[short] = override or {}, name
    if len(variants) < 2:
        raise ValueError(
            f"variants: there is only {next(iter(variants))!r}; a comparison needs two.\n"
            "To train one model, use `python -m vitlab fit`."
        )
    return variants


def _seeds(value: Any) -> list[int]:
    if not isinstance(value, list) or not all(type(seed) is int and seed >= 0 for seed in value):
        raise ValueError(f"seeds: {value!r}. Expected a list of whole numbers from 0, like [1, 2, 3].")
    twice = sorted({seed for seed in value if value.count(seed) > 1})
    if twice:
        raise ValueError(f"seeds: {value} contains {twice[0]} twice; equal seeds give equal runs. Remove one.")
    return value


def _seeds_and_looks(value: Any, until: Any) -> tuple[list[int], tuple[int, ...]]:
    """Parse the seeds, and the numbers of them after which results are looked at; none for a fixed list."""
    if until not in (None, "settled"):
        raise ValueError(f"until: {until!r}. Expected `settled`, or leave it out.")
    if not isinstance(value, dict):
        seeds = _seeds(value)
        first = LOOK_FROM if until else len(seeds)
        if first > len(seeds):
            raise ValueError(f"until: settled looks from {LOOK_FROM} seeds on; `seeds` has {len(seeds)}. List more.")
        return seeds, tuple(range(first, len(seeds) + 1)) if until else ()
    refuse_unknown(value, ("from", "to", "step"), "key of `seeds`")
    first, last, step = value.get("from", LOOK_FROM), value.get("to", 0), value.get("step", 1)
    if not all(type(number) is int for number in (first, last, step)) or not LEAST_SEEDS <= first <= last or step < 1:
        raise ValueError(
            f"seeds: {as_yaml(value)}. Expected whole numbers with {LEAST_SEEDS} <= from <= to and step >= 1, "
            f"like {{from: {LOOK_FROM}, to: 12}}."
        )
    looks = range(first, last + 1, step)
    return list(range(1, looks[-1] + 1)), tuple(looks)


def _refuse_too_few(variants: int, seeds: int, growing: bool) -> None:
    """Refuse an exact test that can settle nothing: with n seeds each, p is at least 2 of C(2n, n) regroupings."""
    if growing:
        raise ValueError("test: exact is for a fixed list of seeds. Give a list without `until`, or `test: pooled`.")
    pairs = math.comb(variants, 2)
    needed = next(n for n in range(2, 100) if 2 / math.comb(2 * n, n) * pairs < LEVEL)
    if seeds < needed:
        raise ValueError(
            f"test: exact settles nothing with {seeds} seeds: for {variants} variants it takes {needed}, since p is at "
            f"least 2 of {math.comb(2 * seeds, seeds):,} regroupings. Add seeds, or use `test: pooled`."
        )


def _tuning(value: Any, seeds: list[int]) -> Tuning | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ValueError(f"tune: {value!r}. Expected a mapping with `key` and `values`.")
    refuse_unknown(value, ("key", "values", "seeds", "within"), "key of `tune`")
    key, values = value.get("key"), value.get("values")
    if not isinstance(key, str) or not isinstance(values, list) or len(values) < 2:
        raise ValueError(f"tune: expected a `key` and two `values` or more, got {key!r} and {values!r}.")
    if len({slug(str(value)) for value in values}) < len(values):
        raise ValueError(f"tune: values: {values} contains duplicates. Remove them.")
    within, own = value.get("within"), value.get("seeds")
    if within not in (None, "seed"):
        raise ValueError(f"tune: within: {within!r}. Expected `seed`, or leave it out.")
    if within and own is not None:
        raise ValueError(f"tune: seeds: {own}, but `within: seed` tunes with the study's seeds. Remove one of the two.")
    unused = islice((seed for seed in count(TUNE_FROM) if seed not in seeds), TUNING_SEEDS)
    try:
        tuning_seeds = _seeds(own) if own is not None else seeds if within else list(unused)
        return Tuning(key, values, tuning_seeds, within == "seed", own is not None)
    except ValueError as error:
        raise ValueError(f"tune: {error}") from None

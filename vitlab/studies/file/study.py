"""A study's YAML file, read and checked. docs/studies.md describes its keys, those of `StudyFile` and `like`.

name: quickstart
base: ../quickstart/base.yaml     # an experiment, complete with what the variants add; relative to this file
variants:                         # only the differences: a mapping, or the path of a YAML file
  ViT: {model: {init_args: {backbone: {class_path: …}}}}
seeds: {from: 4, to: 12}          # add one of each variant until settled; or a list, trained as a whole: [1, 2, 3]
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, islice, product
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from annotated_types import Ge, Gt, Len, Lt
from pydantic import AfterValidator, Field, NonNegativeInt, PositiveInt, ValidationError, model_validator
from referee.claim import Claim, parse_claim, parse_order
from referee.formats import SPACE, counted, joined
from referee.statistics.contrast import LEVEL

from vitlab.config import SHIPPED, Config, flatten, load_yaml, locate, merge, nest, short
from vitlab.data.tables import checked_groups
from vitlab.experiment.chain import Source
from vitlab.studies.file.format import Section, as_yaml, expected, mistake, refuse_unknown
from vitlab.studies.file.metric import TOP1, Metric

# ---- what seeds draw

SETTINGS = {"init": "init_seed", "order": "data.init_args.order_seed", "augmentation": "data.init_args.augment_seed"}
IMAGES = "data.init_args.train_images_seed"  # as given, unless named
DRAWS = (*SETTINGS, "images")
BY_DEFAULT = tuple(SETTINGS)
NAMES = {
    "init": "the initialization",
    "order": "the data order",
    "augmentation": "the augmentation",
    "images": "the choice of training images",
}


def _distinct(values: list[Any]) -> list[Any]:
    if twice := [value for value in values if values.count(value) > 1]:
        raise ValueError(f"{values} contains {twice[0]} twice. Remove one.")
    return values


Seeds = Annotated[list[NonNegativeInt], AfterValidator(_distinct)]
Vary = Annotated[
    list[Literal["init", "order", "augmentation", "images"]],
    Len(1),
    AfterValidator(lambda kinds: tuple(kind for kind in DRAWS if kind in kinds)),
]
Along = Annotated[dict[str, Annotated[list[float | int], Len(2), AfterValidator(_distinct)]], Len(1, 1)]


def seed_settings(vary: Sequence[str], seed: int, first: int) -> Config:
    """Return the dotted keys that a run with a seed sets; with the default, `seed_everything` alone."""
    held = {key: first for kind, key in SETTINGS.items() if kind not in vary}
    return {"seed_everything": seed, **held} | ({IMAGES: seed} if "images" in vary else {})


def source_draws(vary: Sequence[str], source: Source) -> Iterator[str]:
    """Yield what an experiment that is trained first draws though `vary` lacks it, or fixes though it names it."""
    if source.has_seed:  # the weights of one run
        return
    given = {short(key): value for key, value in flatten(load_yaml(locate(source.file))).items()}
    given |= dict(setting.split("=", 1) for setting in source.settings)
    is_free = {kind: given.get(short(key)) in (None, "null") for kind, key in SETTINGS.items()}
    if drawn := [NAMES[kind] for kind, free in is_free.items() if free and kind not in vary]:
        yield f"vary: add {joined(drawn)}, which {source.file} draws with each seed."
    for kind, free in is_free.items():
        if kind in vary and not free:
            yield f"{source.file} sets {SETTINGS[kind]}, so no seed changes {NAMES[kind]} of that training. Remove it."


def describe_draws(vary: Sequence[str], folds: int | None = None) -> str:
    """Return what differs between the seeds, and what does not."""
    drawn = [NAMES[kind] for kind in DRAWS if kind in vary]
    fixed = [NAMES[kind] for kind in BY_DEFAULT if kind not in vary]
    if folds:
        held = f" {joined(fixed).capitalize()} {'is' if len(fixed) == 1 else 'are'} held fixed." if fixed else ""
        drawn.append(f"the partition of all images into {folds} folds")
        share = f"{100 * (folds - 1) / folds:.3g}{SPACE}%"
        return (
            f"Seeds vary {joined(drawn)}.{held} A seed is {folds} trainings, and each image is tested by the one that "
            f"has not seen it: the result is about trainings on {share} of these images, and about images like them."
        )
    fixed += ["the split"] if "images" in vary else ["training set", "split"]
    return f"Seeds vary {joined(drawn)}; {joined(fixed)} {'is' if len(fixed) == 1 else 'are'} held fixed."


# ---- the budget, and the places of an axis

Number = Annotated[float | int, Gt(0), Lt(math.inf)]
BUDGET_TOLERANCE = 0.05  # share of the budget by which a length may miss it


class Budget(Section):
    """The amount of a resource that each variant may spend."""

    epochs: PositiveInt | None = None
    images: PositiveInt | None = None  # repetitions count
    flops: Number | None = None  # of whole training steps, with all that the objective computes

    @model_validator(mode="after")
    def _has_one_kind(self) -> "Budget":
        if len(self.model_fields_set) != 1:
            raise ValueError("Expected one of epochs, images, flops, like {epochs: 30}.")
        return self

    @property
    def kind(self) -> str:
        return next(iter(self.model_fields_set))

    @property
    def amount(self) -> int | float:
        return getattr(self, self.kind)

    def __str__(self) -> str:
        return {
            "epochs": f"{self.amount:,} epoch{'' if self.amount == 1 else 's'}",
            "images": f"{self.amount:,} training images",
            "flops": f"{self.amount:.3g} training FLOPs",
        }[self.kind]


SHORT = {"train_images": "data.init_args.train_images"}  # axes with a short name


class Place(NamedTuple):
    label: str
    x: float
    override: Config
    budget: Budget | None = None


class Axis(NamedTuple):
    name: str  # as in a figure
    places: tuple[Place, ...]  # in increasing order
    of_data_sets: bool = False  # which have no order, and a verdict over all of them


def axis_of(along: Along, budget: Budget | None) -> Axis:
    ((name, values),) = along.items()
    key, kinds = SHORT.get(name, name), [*Budget.model_fields]
    if "." not in key:
        refuse_unknown([name], (*SHORT, *kinds), "axis of `along`")
    if budget is not None and name in kinds:
        raise ValueError(f"along: an axis of budgets, and budget: {budget}. Remove one of the two.")
    if min(values) <= 0 and (name in SHORT or name in kinds):
        raise ValueError(f"along: {name}: {as_yaml(values)}. Expected numbers above 0.")
    places = []
    for value in sorted(values):
        if name in kinds:
            each = Budget.model_validate({name: value})
            named = {"images": f"{value:,} images seen", "epochs": f"{value:,} epochs"}  # and so are folders of runs
            places.append(Place(named.get(name, str(each)), each.amount, {}, each))
        else:
            label = f"{value:,} training images" if name in SHORT else f"{key.rpartition('.')[2]} {as_yaml(value)}"
            places.append(Place(label, float(value), nest(key, value)))
    return Axis(name.rpartition(".")[2].replace("_", " ").replace("train images", "training images"), tuple(places))


# ---- variants that are a grid: the settings of a cell are those of its levels together; what `variants` has under its
# name comes on top. Its name joins the levels, after a preposition that ends a factor's name: ViT with SimMIM, of the
# factors `network` and `trained with`

LET = "let"
PREPOSITION = "(with|on|at|in|by|from|of)"
PHRASE = re.compile(rf"\b{PREPOSITION}(\b.*\b{PREPOSITION})?$")
Cells = dict[str, dict[str, str]]  # by name: the level of each factor


def cells_of(content: Config) -> Cells:
    """Return the cells of a study, the last factor's levels in turn; none of one without factors."""
    factors, without = content.get("factors") or {}, content.get("except") or []
    for each in without:
        refuse_unknown(each, [*factors], "factor of `except`")
        for factor, level in each.items():
            refuse_unknown([level], [*factors[factor]], f"level of {factor} in `except`")
    cells: Cells = {}
    for levels in product(*factors.values()) if factors else ():
        cell, words = dict(zip(factors, levels, strict=True)), list[str]()
        for factor, level in cell.items():
            phrase = PHRASE.search(factor)
            words += [phrase[0], level] if words and phrase else [level]
        if not any(each.items() <= cell.items() for each in without):
            cells[" ".join(words)] = cell
    return cells


def written_out(content: Config, load: Callable[[str], Config]) -> Config:
    """Return what a study says without factors: a variant for each cell, and its claim about variants."""
    if not (factors := content.get("factors")):
        return content
    cells, whole = cells_of(content), {key: content[key] for key in content if key not in ("factors", "except")}

    def read(own: Config | str | None) -> Config:
        return load(own) if isinstance(own, str) else own or {}

    levels = {factor: {name: read(own) for name, own in each.items()} for factor, each in factors.items()}
    changes = content.get("variants") or {}
    refuse_unknown(changes, [*cells], "cell of `factors` in `variants`")
    known = {name for each in levels.values() for own in each.values() for name in own.get(LET, ())}
    whole["variants"] = {
        name: merge(_together({f"{f}: {level}": levels[f][level] for f, level in cell.items()}, known), read(own))
        for name, cell in cells.items()
        for own in [changes.get(name)]
    }
    if isinstance(claim := content.get("claim"), dict):
        order, orders = claim.get("order"), list[Any]()
        for each in order if isinstance(order, list) else [order]:  # of levels: of the cells that differ in them alone
            orders += [
                f"{a} {sign} {b}"
                for first, sign, second in (parse_order(each) if isinstance(each, str) else ())
                for (a, of_a), (b, of_b) in product(cells.items(), repeat=2)
                if [(of_a[f], of_b[f]) for f in of_a if of_a[f] != of_b[f]] == [(first, second)]
            ] or [each]
        whole["claim"] = claim | {"order": order if orders == [order] else orders}
        if len(factors) == 2 and "along" not in claim:  # a curve for each level of the first
            (first, names), second = next(iter(factors.items())), [*factors][1]
            curves = {name: {at[second]: cell for cell, at in cells.items() if at[first] == name} for name in names}
            whole["claim"]["along"] = {second: curves}
    return whole


def _together(levels: Mapping[str, Config], known: set[str]) -> Config:
    """Return the settings of a cell from those of its levels; `known` is what any level of the study lets."""
    let = {name: value for own in levels.values() for name, value in own.get(LET, {}).items()}

    def filled(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: filled(value) for key, value in node.items()}
        name = node.removeprefix("$") if isinstance(node, str) and node.startswith("$") else None
        if name in known and name not in let:
            raise ValueError(f"factors: {joined([*levels])}: no level has {node} under `{LET}`.")
        return let.get(name, node)

    merged, before = dict[str, Any](), dict[str, tuple[str, Any]]()
    for where, own in levels.items():
        settings = filled({key: value for key, value in own.items() if key != LET})
        flat = {key: (where, value) for key, value in flatten(settings).items()}
        for (a, (there, x)), (b, (_, y)) in product(before.items(), flat.items()):
            if (f"{a}.".startswith(f"{b}.") or f"{b}.".startswith(f"{a}.")) and x != y and {} not in (x, y):
                both = f"{there} has {a}: {as_yaml(x)}, and {where} has {b}: {as_yaml(y)}"
                raise ValueError(f"factors: {both}. Give it to one of the two, or to single cells under `variants`.")
        merged, before = merge(merged, settings), before | flat
    return merged


# ---- tuning: the same trials for every variant, on validation images; several lists are a grid of all combinations

TUNING_SEEDS = 3
TUNE_FROM = 1000  # the first seed of the runs of a grid


class Tuning(Section):
    """`tune` of a study's file: settings with the same candidates for every variant."""

    space: Annotated[dict[str, Annotated[list[Any], Len(2)]], Len(1)]  # by key, the values
    within: Literal["seed", "study"] = "seed"  # each seed of the study tunes for its own run, with that seed
    seeds: Seeds | None = None  # of the tuning runs; None: three from 1000 on that the study's `seeds` lack

    @model_validator(mode="after")
    def _seeds_are_of_the_study(self) -> "Tuning":
        if self.seeds is not None and self.within_seeds:
            raise ValueError(f"seeds: {self.seeds}: `within: seed` tunes with the study's seeds. Remove one.")
        return self

    def beside(self, seeds: list[int]) -> "Tuning":
        """Return the tuning of a study with these seeds, with three others for its own runs unless it names them."""
        if self.within_seeds or self.seeds:
            return self
        unused = (seed for seed in count(TUNE_FROM) if seed not in seeds)
        return self.model_copy(update={"seeds": list(islice(unused, TUNING_SEEDS))})

    @property
    def within_seeds(self) -> bool:
        return self.within == "seed"

    @property
    def names(self) -> list[str]:  # the last words of the keys
        return [key.rpartition(".")[2] for key in self.space]

    @property
    def candidates(self) -> dict[str, dict[str, Any]]:
        """What each variant tries, by the name of its folder: settings by key."""
        tried = [dict(zip(self.space, values, strict=True)) for values in product(*self.space.values())]
        return {"-".join(map("{}-{}".format, self.names, each.values())): each for each in tried}

    def runs(self, seeds: int) -> int:  # of a variant, in a study of some seeds
        return math.prod(map(len, self.space.values())) * (len(self.seeds) if self.seeds else seeds)


class Trial(NamedTuple):
    """Settings that a variant tried."""

    settings: dict[str, Any]  # by key
    score: float | None  # the metric on the validation images, mean over the tuning seeds; None if a run failed

    @property
    def text(self) -> str:
        """The value of a single setting, or the names and values of several."""
        if len(self.settings) == 1:
            return as_yaml(*self.settings.values())
        return ", ".join(f"{key.rpartition('.')[2]} {as_yaml(value)}" for key, value in self.settings.items())


class Choice(NamedTuple):
    """The result of tuning a variant, or within seeds of a variant with one seed."""

    variant: str
    trials: list[Trial]
    metric: Metric = TOP1
    taken: int = 0  # index of the trial whose settings the variant is trained with
    error: float = 0.0  # standard error of the difference of two trials
    seeds: Sequence[int] = ()  # of the tuning runs
    seed: int | None = None  # of the study, whose run has these settings; None: all of them

    @property
    def best(self) -> Trial:
        """The trial with the best score, the first one of equal ones."""
        finished = [trial for trial in self.trials if trial.score is not None]
        return max(finished or self.trials, key=lambda trial: self.metric.sign * (trial.score or 0.0))

    @property
    def chosen(self) -> Trial:
        return self.trials[self.taken]

    @property
    def ties(self) -> list[Trial]:
        """The trials within a standard error of the best one, itself included."""
        best = self.best.score
        if best is None:
            return [self.best]
        return [t for t in self.trials if t.score is not None and abs(best - t.score) <= self.error]

    @property
    def at_the_edge(self) -> bool:
        """Whether the single best trial has an outermost value, so that a better one may lie beyond it."""
        alone = [trial.score for trial in self.trials].count(self.best.score) == 1
        tried = {key: [trial.settings[key] for trial in self.trials] for key in self.best.settings}
        numbers = {key: values for key, values in tried.items() if all(type(each) in (int, float) for each in values)}
        return alone and any(self.best.settings[key] in (min(own), max(own)) for key, own in numbers.items())


# ---- the file

LIKE = "like"
GRIDS = ("variants", "factors")
WHOLE = ("budget", "along", "metric")  # replaced, not merged: their keys exclude or explain each other


def content_of(study: Path) -> tuple[Config, Path | None]:
    """Return what a study says, and the study that it is like, if any: its own keys change those of that one."""
    own = load_yaml(study)
    if LIKE not in own:
        return own, None

    def seen_from_here(name: str) -> str:  # that of a shipped file from any place
        file, folder = (other.parent / name).resolve(), study.parent.resolve()
        if not file.is_file():
            return name
        if file.is_relative_to(SHIPPED) and not folder.is_relative_to(SHIPPED):
            return f"experiments/{file.relative_to(SHIPPED).as_posix()}"
        return Path(os.path.relpath(file, folder)).as_posix()

    other = beside(study, own.pop(LIKE))
    if not other.is_file():
        raise FileNotFoundError(f"{study}: like: there is no study {other}. The path is relative to the study's file.")
    content = load_yaml(other)
    if LIKE in content or not any(isinstance(content.get(key), dict) for key in GRIDS):
        raise ValueError(f"{study}: like: {other} is no study that says all by itself. Name one that does.")
    changed = own["variants"] if isinstance(own.get("variants"), dict) else {}
    for name, value in (content.get("variants") or {}).items():
        if isinstance(value, str):
            merged = isinstance(changed.get(name), dict)
            content["variants"][name] = load_yaml(beside(other, value)) if merged else seen_from_here(value)
    for levels in (content.get("factors") or {}).values():
        levels |= {name: load_yaml(beside(other, each)) for name, each in levels.items() if isinstance(each, str)}
    content["base"] = seen_from_here(str(content.get("base")))
    return merge({key: value for key, value in content.items() if key not in own or key not in WHOLE}, own), other


def beside(study: Path, name: Any) -> Path:
    """Return the file that a study names: relative to its own, or one that vitlab ships."""
    own, shipped = study.parent / str(name), locate(str(name))
    return shipped if shipped.is_file() and not own.is_file() else own


REQUIRED = ("base", "variants", "seeds")
Parts = Annotated[int, Ge(2)]
Override = Annotated[dict[str, Any] | str | None, expected("a mapping or the path of a YAML file")]
VALIDATION = "check_val_every_n_epoch"
LENGTH = ("max_epochs", "limit_train_batches", VALIDATION)  # keys of the trainer, set by a budget
WARMUP = "model.init_args.schedule.init_args.warmup_epochs"
IMAGES_A_STEP = ("data.init_args.batch_size", "trainer.accumulate_grad_batches")
COSTLY = {"backbone", "image_size", "grow", "multi_crop", "mask_ratio", "patch_drop"}  # keys, or sections of keys
COSTLESS = {
    *("drop_rate", "pos_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate"),
    *("init", "patch_init", "cls_token_std", "init_values"),
}  # keys of a backbone
PROBES = {"linear": "a linear classifier", "knn": "k-NN"}
LOOK_FROM = 4  # seeds of the first look; at three, spreads that differ cost up to 9 % false claims instead of 5
LEAST_SEEDS = 3
WITHOUT_EFFECT = ("name", "question", "registered", "jobs")  # keys that change no result
# Folders next to those of the variants.
RESERVED_SLUGS = ("before", "features", "figures", "robustness", "transfer", "tuning", "wandb")


class Looks(Section):
    """`seeds` that are added until the study is settled."""

    start: Annotated[int, Ge(LEAST_SEEDS)] = Field(LOOK_FROM, alias="from")
    to: int
    first: NonNegativeInt = 1
    until: Literal["cells"] | None = None  # of a grid; else until its factors are

    @model_validator(mode="after")
    def _counts_up(self) -> "Looks":
        if self.start > self.to:
            raise ValueError(f"from {self.start} is above to {self.to}.")
        return self


class Ranking(Section):
    """`metric` of a study's file."""

    name: str
    mode: Literal["min", "max"]
    title: str | None = None
    scale: Literal["log"] | None = None  # for a ratio or a loss


class StudyFile(Section):
    """A study's file without what is null, which is the default."""

    base: str
    variants: dict[str, Override] = Field(default={})
    factors: Annotated[
        dict[str, Annotated[dict[str, Override], Len(1)]] | None,
        expected("{network: {ViT: {…}, Swin: {…}}, …}, the levels of each factor"),
    ] = None
    without: list[dict[str, str]] = Field(default=[], alias="except")  # cells of the factors that are no variants
    seeds: Annotated[Looks | Seeds, expected("{from: 4, to: 12} with 3 <= from <= to, or a list, like [1, 2, 3]")]
    name: str = ""
    question: str = ""
    budget: Budget | None = None
    tune: Tuning | None = None
    claim: dict[str, Any] | None = None  # see `referee.claim`
    vary: Vary | None = None
    along: Along | None = None
    data_sets: Annotated[
        dict[str, dict[str, Any]] | None, Len(2), expected("{CIFAR-10: {data: {…}}, digits: {data: {…}}}, two or more")
    ] = None
    may_differ: list[str] = Field(default=[])
    margin: Number | None = None
    metric: Ranking | None = None
    groups: Annotated[str, AfterValidator(checked_groups)] | None = None
    folds: Annotated[
        Parts | Annotated[dict[Literal["without_test"], Parts], Len(1)] | None,
        expected("a number of parts, like 5, {without_test: 5}, or null"),
    ] = None
    test: Literal["pooled", "exact", "paired"] = "pooled"
    branch: bool = False
    jobs: PositiveInt | None = None
    registered: dict[Literal["date", "digest"], Any] | None = None  # of earlier versions; record.json has it


KEYS = tuple(each.alias or name for name, each in StudyFile.model_fields.items())


@dataclass(frozen=True)
class Study:
    """A study's YAML, validated."""

    path: Path
    name: str
    base: Path
    variants: dict[str, Config]  # by name: its changes to the base
    seeds: list[int]  # all that may be trained
    budget: Budget | None = None
    may_differ: list[str] = field(default_factory=list)
    jobs: int | None = None
    tuning: Tuning | None = None
    looks: tuple[int, ...] = ()  # numbers of seeds after which results are looked at; empty: after all of them
    until_cells: bool = False  # looks at a grid end it when its cells are settled, not when its factors are
    margin: float | None = None  # differences below it do not matter, as shown: in points of accuracy
    groups: str | None = None  # as `groups_by_name` takes it
    folds: int | None = None  # parts of the images of a seed, each of which tests once
    folds_without_test: bool = False  # only if the data set has no test images
    test: str = "pooled"  # one of `contrast.TESTS`
    metric: Mapping[str, Any] | None = None  # fields of the `Metric` by which it ranks, in place of the task's
    claim: Claim | None = None
    vary: tuple[str, ...] = BY_DEFAULT  # what seeds draw, of `DRAWS`
    along: Axis | None = None
    question: str = ""  # that the study asks, above the report's headline
    branch: bool = False  # shorter runs continue states of the longest
    place: str = ""  # on the axis of the study that this is a part of
    settings: Config = field(default_factory=dict)  # of that place
    files: Mapping[str, Path] = field(default_factory=dict)  # of the variants that are files
    like: Path | None = None  # the study that it changes
    factors: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # the level of each variant
    given: Config = field(default_factory=dict)  # settings of the data from the command line, which change the base

    @property
    def base_config(self) -> Config:
        """The base, with what the command line changed of its data."""
        return merge(load_yaml(self.base), self.given)

    def folder(self, root: Path, variant: str = "") -> Path:
        """Return the folder of the study's files, or of a variant's runs."""
        return root / slug(self.name) / slug(f"{variant} {self.place}")

    @property
    def parts(self) -> Sequence[int | None]:
        """The parts of the images that test in the runs of a seed; None: the data set's own test images."""
        return range(1, self.folds + 1) if self.folds else (None,)

    @property
    def points(self) -> "list[Study]":
        """The study at each place of its axis; itself where it has none."""
        if self.along is None:
            return [self]
        return [
            replace(
                self,
                place=place.label,
                along=None,
                settings=place.override,
                variants={name: merge(place.override, own) for name, own in self.variants.items()},
                budget=place.budget or self.budget,
            )
            for place in self.along.places
        ]

    @property
    def size(self) -> str:
        """The numbers of variants, seeds, folds and places of its axis, in a sentence."""
        counts = {"variant": len(self.variants), "seed": len(self.seeds), "fold": self.folds, "place": len(self.points)}
        shown = [counted(number, what) for what, number in counts.items() if number and (what != "place" or self.along)]
        return f"{self.name}: {'at most ' * bool(self.looks)}{' × '.join(shown)}"

    @property
    def digest(self) -> str:
        """A hash of the settings of its file, the base, its variants, and experiments that runs start from."""
        whole = written_out(content_of(self.path)[0], lambda name: load_yaml(beside(self.path, name)))
        own = {key: value for key, value in whole.items() if key not in WITHOUT_EFFECT}
        if isinstance(own.get("claim"), dict):
            own["claim"] = {key: own["claim"].get(key) for key in ("order", "needs")}
        if isinstance(own.get("metric"), dict):
            own["metric"].pop("title", None)
        values = [value for config in (self.base_config, *self.variants.values()) for value in flatten(config).values()]
        sources = [source.file for value in values if isinstance(value, str) and (source := Source.parse(value))]
        of_sources = [load_yaml(path) for path in dict.fromkeys(sources) if locate(path).is_file()]
        settings = [own, self.base_config, self.variants, *of_sources]
        return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:16]

    @property
    def converts_budget(self) -> bool:
        return self.budget is not None and self.budget.kind != "epochs"

    @property
    def tuned(self) -> list[str]:
        return list(self.tuning.space) if self.tuning else []

    @property
    def allowed(self) -> list[str]:
        """The keys in which variants may differ: those compared, tuned, or set by the budget."""
        bought = [f"trainer.{key}" for key in LENGTH if key != VALIDATION] if self.converts_budget else []
        return [*self.may_differ, *self.tuned, *bought]

    @property
    def frozen(self) -> set[str]:
        return {name for name, override in self.variants.items() if is_frozen(override)}


def folder_of_variant(study: Path, variant: str) -> Path:
    """Return where the runs of a variant lie: in the study's folder, or beside that of a place on an axis."""
    inside = study / slug(variant)
    return inside if inside.is_dir() else study.with_name(f"{inside.name}-{study.name}")


def slug(name: str) -> str:
    """Return the name as a folder name: lower case, digits, hyphens; 1,078 is a number."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower().replace(",", "")).strip("-")


def read_study(path: Path) -> Study:
    path = locate(path)
    content, like = content_of(path)
    base = beside(path, content.get("base"))
    if content.get("base") and not base.is_file():
        raise FileNotFoundError(f"{path}: base: {base} does not exist. The path is relative to the study's file.")
    try:
        study = replace(_parse(content, path), base=base, like=like)
        for contradiction in _contradictions(study):
            raise ValueError(contradiction)
        return study
    except ValueError as error:
        what = mistake(error, content) if isinstance(error, ValidationError) else error
        raise ValueError(f"{path}: {what}") from None


def _parse(content: Config, path: Path) -> Study:
    if {"model", "data"} & content.keys() and content.keys().isdisjoint(GRIDS):
        raise ValueError("this is an experiment, not a study: it has no variants. Train it with `fit`.")
    for key in REQUIRED:
        if content.get(key) in (None, {}, []) and not (key == "variants" and content.get("factors")):
            raise ValueError(f"the study has no `{key}`. It needs {', '.join(REQUIRED)}.")
    file = StudyFile.model_validate({key: value for key, value in content.items() if value is not None})
    if len(many := [key for key in ("along", "data_sets", "claim") if content.get(key)]) > 1:
        raise ValueError(f"{many[0]}: such a study is many studies, and {many[1]} needs a single one. Remove one.")
    cells, whole = cells_of(content), written_out(content, lambda name: load_yaml(beside(path, name)))
    fields, seeds, variants = dict(file), file.seeds, _variants(whole["variants"], path)
    factors, files = fields.pop("factors") or {}, {**file.variants}
    for name, cell in cells.items():
        for factor, level in cell.items():
            if isinstance(each := factors[factor][level], str):
                files |= {name: each, f"{factor}: {level}": each}
    if isinstance(seeds, Looks):
        fields["looks"], fields["until_cells"] = tuple(range(seeds.start, seeds.to + 1)), seeds.until is not None
        seeds = list(range(seeds.first, seeds.first + seeds.to))
    if isinstance(file.folds, dict):
        fields |= {"folds": file.folds["without_test"], "folds_without_test": True}
    tune, _, _ = fields.pop("tune"), fields.pop("without"), fields.pop("registered")
    fields |= {
        "path": path,
        "name": file.name or path.stem,
        "variants": variants,
        "files": {name: beside(path, each) for name, each in files.items() if isinstance(each, str)},
        "factors": {factor: {name: cell[factor] for name, cell in cells.items()} for factor in factors},
        "seeds": seeds,
        "vary": file.vary or BY_DEFAULT,
        "tuning": tune and tune.beside(seeds),
        "metric": file.metric and file.metric.model_dump(exclude_none=True),
        "claim": parse_claim(whole.get("claim"), variants, file.margin),
        "along": file.along and axis_of(file.along, file.budget),
    }
    if data_sets := fields.pop("data_sets"):
        places = [Place(name, i, override) for i, (name, override) in enumerate(data_sets.items())]
        fields["along"] = Axis("data sets", tuple(places), of_data_sets=True)
    return Study(**fields)


def _contradictions(study: Study) -> Iterator[str]:
    """Yield which settings contradict each other, with value, place and remedy."""
    variants, seeds = len(study.variants), len(study.seeds)
    if study.metric and "scale" in study.metric and study.margin is not None and study.margin <= 1:
        yield f"margin: {study.margin:g} is a factor where the metric has `scale: log`. Give one above 1, like 1.1."
    if study.test == "paired" and study.looks and variants > 2:
        yield "test: paired compares the same seeds, and looks add other seeds to each variant. Give `seeds` as a list."
    exact = study.test == "exact"
    if exact and study.looks:
        yield "test: exact is for a fixed list of seeds. Give a list, or `test: pooled`."
    # With n seeds each, p is at least 2 of C(2n, n) regroupings.
    needed = next(n for n in range(2, 100) if 2 / math.comb(2 * n, n) * math.comb(variants, 2) < LEVEL)
    if exact and seeds < needed:
        yield f"test: exact needs {needed} seeds for {variants} variants, not {seeds}. Add some, or use `test: pooled`."
    if exact and study.along:
        yield "test: exact has no crossings along an axis, and settles little at many places. Use test: pooled."
    budgets = {point.budget.kind for point in study.points if point.budget}
    larger = [key for key in study.tuned if key in IMAGES_A_STEP]
    if larger and budgets - {"epochs"}:
        yield f"tune: {', '.join(larger)} changes how many images a step takes. Give a budget in epochs."
    # Of the architecture, of the images' size, or of the tokens that a step computes.
    costly = [key for key in study.tuned if not COSTLY.isdisjoint(key.split(".")) or ".decoder_" in key]
    costly = [key for key in costly if key.rpartition(".")[2] not in COSTLESS]
    if costly and "flops" in budgets:
        yield f"tune: {', '.join(costly)} changes what an image costs. Give a budget in epochs or images."
    if study.looks and study.tuning and study.tuning.within_seeds:
        yield "tune: a seed that a look may never train is not tuned. Give `seeds` as a list, or write `within: study`."
    if of_seeds := [key for key in study.tuned if key in seed_settings((), 0, 0)]:
        yield f"tune: space: {of_seeds[0]} is what `seeds` and `vary` set. Remove it."
    if study.tuned and study.branch:
        yield "branch: shorter runs continue the longest, and tuning could give them other settings."
    if study.frozen and (study.tuned or study.branch):
        yield f"{'tune' if study.tuned else 'branch'}: {sorted(study.frozen)[0]!r} is frozen and takes no steps."
    if study.along and study.looks:
        yield "looks: all places of an axis and all data sets have the same seeds. Give `seeds` as a list."
    if study.branch and (not study.along or budgets != {"epochs"} or study.points[0].settings):
        yield "branch: only runs along an axis of epochs branch off each other. Give along: {epochs: […]}."
    if study.folds and study.tuning:
        yield "folds: tuning chooses by images that other parts test. Remove `tune` or `folds`."
    if study.until_cells and not study.factors:
        yield "seeds: until: cells is of a grid. Give `factors`, or remove it."
    if not slug(study.name):
        yield f"name: {study.name!r} cannot name a folder. Use letters or digits."


def _variants(given: Mapping[str, Config | str | None], path: Path) -> dict[str, Config]:
    variants: dict[str, Config] = {}
    by_slug: dict[str, str] = {}
    for name, override in given.items():
        short = slug(name)
        if not short or short in RESERVED_SLUGS:
            raise ValueError(f"variants: {name!r} cannot name a folder. Use a name with letters or digits.")
        if short in by_slug:
            raise ValueError(f"variants {by_slug[short]!r} and {name!r} would share the folder {short}/. Rename one.")
        own = load_yaml(beside(path, override)) if isinstance(override, str) else override or {}
        if "frozen" in own:  # a run without steps, tested by a probe
            own, frozen = dict(own), own["frozen"]
            if frozen not in [{"probe": probe} for probe in PROBES]:
                raise ValueError(f"variants: {name}: frozen: {frozen!r}. Expected {{probe: {' or '.join(PROBES)}}}.")
            del own["frozen"]
            own = merge(own, {"trainer": {"max_epochs": 0}, "run": frozen})
        variants[name], by_slug[short] = own, name
    if len(variants) < 2:
        raise ValueError(f"variants: there is only {next(iter(variants))!r}; a comparison needs two.")
    return variants


def is_frozen(config: Config) -> bool:
    """Whether a run takes no step and is tested by a probe of its features."""
    trainer, run = config.get("trainer") or {}, config.get("run") or {}
    return trainer.get("max_epochs") == 0 and run.get("probe") is not None

"""The variants of a study that are a grid (`factors`), what its seeds draw (`vary`), its budget, the places of its axis
(`along`), and what is tuned before (`tune`): see docs/studies.md.

A cell's settings are those of its levels together; what `variants` has under its name comes on top. Its name joins the
levels, after a preposition that ends a factor's name: ViT with SimMIM, of the factors `network` and `trained with`.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count, islice, product
from typing import Annotated, Any, Literal, NamedTuple

from annotated_types import Gt, Len, Lt
from pydantic import AfterValidator, NonNegativeInt, PositiveInt, model_validator
from referee.claim import parse_order
from referee.formats import SPACE, joined

from vitlab.config import Config, flatten, load_yaml, locate, merge, nest, short
from vitlab.experiment.chain import Source
from vitlab.studies.file.format import Section, as_yaml, refuse_unknown
from vitlab.studies.file.metric import TOP1, Metric

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


def drawn_before(vary: Sequence[str], source: Source) -> Iterator[str]:
    """Yield how an experiment that is trained before, with each seed, departs from what the seeds are to draw."""
    if source.has_seed:  # the weights of one run
        return
    given = {short(key): value for key, value in flatten(load_yaml(locate(source.file))).items()}
    given |= dict(setting.split("=", 1) for setting in source.settings)
    follows = {kind: given.get(short(key)) in (None, "null") for kind, key in SETTINGS.items()}
    if drawn := [NAMES[kind] for kind, free in follows.items() if free and kind not in vary]:
        yield f"vary: add {joined(drawn)}, which {source.file} draws with each seed."
    for kind, free in follows.items():
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


Number = Annotated[float | int, Gt(0), Lt(math.inf)]
REFUSED = 0.05  # of the budget, by which no length may miss it


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


class Candidate(NamedTuple):
    """Settings that are tried, in a run for each seed."""

    name: str
    settings: dict[str, Any]  # by key
    seeds: list[int]


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

    def candidates(self, seed: int | None) -> list[Candidate]:
        """Return what each variant tries for the run of a seed, or for all runs."""
        seeds = self.seeds or [] if seed is None else [seed]
        tried = [dict(zip(self.space, values, strict=True)) for values in product(*self.space.values())]
        return [Candidate("-".join(map("{}-{}".format, self.names, each.values())), each, seeds) for each in tried]

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

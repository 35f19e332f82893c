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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Len
from pydantic import AfterValidator, Field, NonNegativeInt, PositiveInt, ValidationError, model_validator
from referee.claim import Claim, parse_claim
from referee.formats import counted
from referee.statistics.contrast import LEVEL

from vitlab.config import SHIPPED, Config, flatten, load_yaml, locate, merge
from vitlab.data.tables import checked_groups
from vitlab.experiment.chain import Source
from vitlab.studies.file.format import Section, expected, mistake
from vitlab.studies.file.variants import (
    BY_DEFAULT,
    Along,
    Axis,
    Budget,
    Number,
    Place,
    Seeds,
    Tuning,
    Vary,
    axis_of,
    cells_of,
    seed_settings,
    written_out,
)

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
WITHOUT_EFFECT = ("name", "question", "jobs")  # keys that change no result
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
    vary: tuple[str, ...] = BY_DEFAULT  # what seeds draw, of `variants.DRAWS`
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
    def determined(self) -> bool:
        """Whether the file alone determines the runs: nothing is tuned, and the budget is in epochs."""
        return self.tuning is None and not self.converts_budget

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
    tune, _ = fields.pop("tune"), fields.pop("without")
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

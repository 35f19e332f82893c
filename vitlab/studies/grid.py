"""A study's YAML becomes a grid of runs: variants × seeds, each a complete configuration, checked beforehand.

    name: quickstart
    base: ../quickstart/base.yaml     # a complete experiment but for what the variants add; relative to this file
    variants:                         # what differs, nothing else: a mapping, or the path of a YAML file
      ViT: {model: {init_args: {backbone: {class_path: …}}}}
    seeds: [1, 2, 3]
    budget: {epochs: 35}              # for all; null: the base's own
    may_differ: [model.init_args.backbone]
    jobs: 2                           # runs at a time; null: one per GPU, or per core

Nothing here writes a file: a mistake in a study leaves no trace.
"""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from vitlab.config import ABSENT, Config, flatten, load_yaml, merge
from vitlab.studies.workshop import Workshop

KEYS = ("name", "base", "variants", "seeds", "budget", "may_differ", "jobs")
REQUIRED = ("base", "variants", "seeds")
BUDGET_KEYS = ("epochs",)
RESERVED_SLUGS = ("figures",)  # lies beside the variants' folders


@dataclass(frozen=True)
class Study:
    """What a study's YAML says, checked."""

    path: Path
    name: str
    base: Path
    variants: dict[str, Config]  # by name: what it changes of the base
    seeds: list[int]
    epochs: int | None
    may_differ: list[str]
    jobs: int | None


@dataclass(frozen=True, eq=False)
class Run:
    """One cell of the grid: a variant with a seed.

    The run directory belongs to the run; what the study writes about it lies beside it, in the variant's folder.
    """

    variant: str
    seed: int
    config: Config
    folder: Path

    @property
    def directory(self) -> Path:
        """Where the run keeps its results."""
        return self.folder / f"seed-{self.seed}"

    @property
    def config_path(self) -> Path:
        """The configuration it is started with."""
        return self.folder / f"config-seed-{self.seed}.yaml"

    @property
    def log_path(self) -> Path:
        """What its process printed."""
        return self.folder / f"seed-{self.seed}.log"

    @property
    def epochs(self) -> int:
        """Epochs it trains for."""
        return int(self.config["trainer"]["max_epochs"])

    def __str__(self) -> str:
        return f"{self.variant}, seed {self.seed}"


class Difference(NamedTuple):
    """A key of the configuration that is not the same in all variants."""

    key: str
    values: dict[str, Any]  # by variant
    declared: bool  # the study's `may_differ` allows it: it is what is compared


def slug(name: str) -> str:
    """Return the name as a folder name: lower case, digits, hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def read_study(path: Path) -> Study:
    """Read and check a study's YAML.

    Raises:
        ValueError, FileNotFoundError: a user's mistake, with value, place and remedy.
    """
    content = load_yaml(path)
    _refuse_unknown(content, KEYS, path, "key")
    for key in REQUIRED:
        if content.get(key) in (None, {}, []):
            raise ValueError(f"{path} has no `{key}`. A study needs {', '.join(REQUIRED)}.")

    base = path.parent / str(content["base"])
    if not base.is_file():
        raise FileNotFoundError(
            f"{path}: base: {content['base']} names no file ({base} does not exist).\n"
            "The path is relative to the study's own file."
        )
    name = str(content.get("name") or path.stem)
    if not slug(name):
        raise ValueError(f"{path}: name: {name!r} holds no letter or digit to make a folder's name of.")
    return Study(
        path=path,
        name=name,
        base=base,
        variants=_variants(content["variants"], path),
        seeds=_seeds(content["seeds"], path),
        epochs=_epochs(content.get("budget"), path),
        may_differ=_may_differ(content.get("may_differ"), path),
        jobs=_jobs(content.get("jobs"), path),
    )


def plan(study: Study, workshop: Workshop, root: Path) -> list[Run]:
    """Return the runs of a study, seed by seed so that an early stop leaves pairs; writes nothing.

    Raises:
        ValueError: a variant that changes nothing, or a configuration that the workshop refuses.
    """
    base = load_yaml(study.base)
    for variant, override in study.variants.items():
        if merge(base, override) == base:
            raise ValueError(
                f"Variant {variant!r} of {study.path} changes nothing: {study.base.name} has all of it already.\n"
                "Give it what sets it apart; leave out of the base what only one variant has."
            )
    runs = [
        Run(variant, seed, _resolve(study, variant, seed, base, workshop, root), _folder(study, variant, root))
        for seed in study.seeds
        for variant in study.variants
    ]
    _refuse_equal_variants(study, runs)
    _refuse_unknown_may_differ(study, runs)
    return runs


def without_run(config: Config) -> Config:
    """Return a configuration without its section `run`, which says where results go, not what they are."""
    return {key: value for key, value in config.items() if key != "run"}


def differing_keys(study: Study, runs: list[Run]) -> list[Difference]:
    """List every key in which the resolved configurations of the variants differ, the declared ones first.

    Read from the runs of the first seed; the seeds are the same for all variants.
    """
    flat = {run.variant: flatten(without_run(run.config)) for run in runs if run.seed == study.seeds[0]}
    found = []
    for key in dict.fromkeys(key for config in flat.values() for key in config):
        values = {variant: config.get(key, ABSENT) for variant, config in flat.items()}
        if any(value != next(iter(values.values())) for value in values.values()):
            found.append(Difference(key, values, any(_within(key, prefix) for prefix in study.may_differ)))
    return sorted(found, key=lambda difference: not difference.declared)


def _resolve(study: Study, variant: str, seed: int, base: Config, workshop: Workshop, root: Path) -> Config:
    own: Config = {
        "seed_everything": seed,
        "run": {
            "root": str(root / slug(study.name)),
            "name": slug(variant),
            "test": True,
            "wandb": {"group": study.name},
        },
    }
    if study.epochs is not None:
        own["trainer"] = {"max_epochs": study.epochs}
    try:
        resolved = workshop.resolve(merge(merge(base, study.variants[variant]), own))
    except ValueError as error:
        raise ValueError(f"Variant {variant!r} of {study.path}: {error}") from None
    # As read back from a file: tuples are lists there, and only then do comparisons with run directories hold.
    plain: Config = yaml.safe_load(yaml.safe_dump(resolved, sort_keys=False))
    return plain


def _folder(study: Study, variant: str, root: Path) -> Path:
    return root / slug(study.name) / slug(variant)


def _within(key: str, prefix: str) -> bool:
    return key == prefix or key.startswith(f"{prefix}.")


def _refuse_unknown(given: Iterable[str], known: tuple[str, ...], path: Path, what: str) -> None:
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"Did you mean `{near[0]}`?" if near else f"Known: {', '.join(known)}."
            raise ValueError(f"{path}: unknown {what} `{key}`. {hint}")


def _refuse_equal_variants(study: Study, runs: list[Run]) -> None:
    seen: list[Run] = []
    for run in runs[: len(study.variants)]:
        for other in seen:
            if without_run(run.config) == without_run(other.config):
                raise ValueError(
                    f"Variants {other.variant!r} and {run.variant!r} of {study.path} are the same experiment:\n"
                    "their resolved configurations do not differ in a single value. Change or remove one."
                )
        seen.append(run)


def _refuse_unknown_may_differ(study: Study, runs: list[Run]) -> None:
    known = {key for run in runs for key in _prefixes(run.config)}
    for prefix in study.may_differ:
        if prefix not in known:
            near = difflib.get_close_matches(prefix, sorted(known), n=1)
            hint = f" Did you mean `{near[0]}`?" if near else ""
            raise ValueError(f"{study.path}: may_differ: `{prefix}` is no key of any variant's configuration.{hint}")


def _prefixes(config: Config, prefix: str = "") -> Iterable[str]:
    for key, value in config.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _prefixes(value, f"{prefix}{key}.")


def _variants(given: Any, path: Path) -> dict[str, Config]:
    if not isinstance(given, dict):
        raise ValueError(f"{path}: variants: expected a mapping from names to what differs, got {given!r}.")
    variants: dict[str, Config] = {}
    by_slug: dict[str, str] = {}
    for name, override in ((str(name), override) for name, override in given.items()):
        if isinstance(override, str):
            override = load_yaml(path.parent / override)
        if override is not None and not isinstance(override, dict):
            raise ValueError(f"{path}: variants: {name}: {override!r}. Expected a mapping or the path of a YAML file.")
        short = slug(name)
        if not short or short in RESERVED_SLUGS:
            raise ValueError(f"{path}: variants: {name!r} cannot name a folder. Use a name with letters or digits.")
        if short in by_slug:
            raise ValueError(
                f"{path}: variants {by_slug[short]!r} and {name!r} would share the folder {short}/. Rename one of them."
            )
        variants[name], by_slug[short] = override or {}, name
    if len(variants) < 2:
        raise ValueError(
            f"{path}: variants: there is only {next(iter(variants))!r}; a comparison needs two.\n"
            "To train one model, use `python -m vitlab fit`."
        )
    return variants


def _seeds(given: Any, path: Path) -> list[int]:
    if not isinstance(given, list) or not all(type(seed) is int and seed >= 0 for seed in given):
        raise ValueError(f"{path}: seeds: {given!r}. Expected a list of whole numbers from 0, like [1, 2, 3].")
    twice = sorted({seed for seed in given if given.count(seed) > 1})
    if twice:
        raise ValueError(f"{path}: seeds: {given} holds {twice[0]} twice; equal seeds give equal runs. Remove one.")
    return given


def _epochs(budget: Any, path: Path) -> int | None:
    if budget is None:
        return None
    if not isinstance(budget, dict):
        raise ValueError(f"{path}: budget: {budget!r}. Expected `budget: {{epochs: 30}}`.")
    _refuse_unknown(budget, BUDGET_KEYS, path, "key of `budget`")
    epochs = budget.get("epochs")
    if epochs is not None and (type(epochs) is not int or epochs < 1):
        raise ValueError(f"{path}: budget: epochs: {epochs!r}. Expected a whole number from 1.")
    return epochs


def _may_differ(given: Any, path: Path) -> list[str]:
    given = given or []
    if not isinstance(given, list) or not all(isinstance(key, str) for key in given):
        raise ValueError(f"{path}: may_differ: {given!r}. Expected a list of keys, like [model.init_args.backbone].")
    return given


def _jobs(given: Any, path: Path) -> int | None:
    if given is not None and (type(given) is not int or given < 1):
        raise ValueError(f"{path}: jobs: {given!r}. Expected a whole number from 1, or null.")
    return given

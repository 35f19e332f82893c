"""Settings of a variant that the study sets itself: refused in the study's file, named where another file has them.

A variant that is a file is an experiment of its own, whose length and seed hold where it is trained alone.
"""

from collections.abc import Collection, Iterator, Mapping

from referee.formats import listed

from vitlab.config import flatten
from vitlab.studies.file.format import as_yaml
from vitlab.studies.file.study import Study
from vitlab.studies.file.vary import seed_settings

LENGTH = "trainer.max_epochs"


def refuse_overruled(study: Study) -> None:
    """Raise ValueError for the first setting that the study's file gives a variant, and the study another value."""
    remedies, along = _remedies(study), flatten(study.settings)
    for name, key, value in _replaced(study, remedies):
        if key not in along and name not in study.files:
            raise ValueError(
                f"{study.path}: variant {name!r} has {key}: {as_yaml(value)}, which the study overrides. "
                f"{remedies[key]}"
            )


def overruled(study: Study) -> list[str]:
    """Return a sentence for each variant whose own length, or whose tuned setting, the study replaces."""
    found: dict[str, list[str]] = {}
    for name, key, value in _replaced(study, [*([LENGTH] if _epochs(study) else []), *study.tuned]):
        found.setdefault(name, []).append(f"{key}: {as_yaml(value)}")
    return [f"{name} has {listed(each)}, which the study's budget or tuning replaces." for name, each in found.items()]


def _remedies(study: Study) -> Mapping[str, str]:
    """Return what to do about each setting that the study gives to all of its runs."""
    seeds = "Remove it: `seeds` are the same for all variants, and `vary` says what they draw."
    folders = "Remove it: the study names the folders of its runs; --root and the study's `name` move them."
    remedies: dict[str, str] = dict.fromkeys(seed_settings(study.vary, 0, 0), seeds)
    remedies |= dict.fromkeys(("run.root", "run.name", "run.wandb.group"), folders)
    remedies |= {
        "run.test": "Remove it: every run of a study is tested.",
        "run.overwrite": "Remove it: such a run would start again each time; `compare --overwrite` replaces runs.",
    }
    if study.branch:
        remedies["run.checkpoint.keep"] = "Remove it: `branch` keeps the states that shorter runs continue."
    if _epochs(study):
        remedies[LENGTH] = (
            "Remove it; or remove `budget`, give each variant its own length, and add trainer.max_epochs to "
            "`may_differ`."
        )
    return remedies


def _epochs(study: Study) -> set[float]:
    """Return the budgets in epochs of the places; others set a length in proportion to the variant's own."""
    budgets = [point.budget for point in study.points]
    return {budget.amount for budget in budgets if budget is not None and budget.kind == "epochs"}


def _replaced(study: Study, keys: Collection[str]) -> Iterator[tuple[str, str, object]]:
    """Yield the settings of some keys, by variant, that the study sets otherwise; a frozen one keeps its epochs."""
    fixed: Mapping[str, Collection[object]] = {"run.test": {True}, "run.overwrite": {False}, LENGTH: _epochs(study)}
    for name, override in study.variants.items():
        for key, value in flatten(override).items():
            is_kept = key == LENGTH and name in study.frozen
            if key in keys and not is_kept and [*fixed.get(key, ())] != [value]:  # a list has no hash
                yield name, key, value

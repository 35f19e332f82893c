"""What the directories of a study's runs hold: finished runs, runs that were cut short, runs of other settings."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from vitlab.config import ABSENT, ROOT, conflicts
from vitlab.runs.directory import CONFIG, SUMMARY, RunDirectory
from vitlab.studies.file.format import as_yaml
from vitlab.studies.file.runs import Run, without_run

UNFINISHED = "is not finished"  # why a run has no result that may still come


class Outcome(NamedTuple):
    """How a run ended: `failure` is None if it finished, else the reason in one line."""

    run: Run
    failure: str | None


def is_finished(run: Run) -> bool:
    """Whether the run has its results."""
    return RunDirectory(run.directory).is_finished


def cut_short(run: Run) -> str | None:
    """Return why a finished run has no valid result; None for a complete run."""
    short = RunDirectory(run.directory).shortfalls
    return f"incomplete run: {', '.join(short)} (--overwrite retrains it)" if short else None


def refuse_without_metric(runs: Iterable[Run]) -> None:
    """Raise ValueError for a complete run that did not log the metric by which the study ranks."""
    for run in runs:
        directory = RunDirectory(run.directory)
        if directory.shortfalls or not run.config.get("run", {}).get("test"):
            continue
        known = directory.metrics
        if not run.metric.is_accuracy and run.metric.test not in known:
            names = ", ".join(sorted(name.removeprefix("test/") for name in known)) or "none"
            raise ValueError(
                f"metric: {run.directory / SUMMARY} has no {run.metric.test}, so nothing ranks the runs.\n"
                f"Give one of its metrics ({names}), or let the objective or a callback log {run.metric.test}."
            )


def conflicting(runs: Sequence[Run]) -> list[Run]:
    """Return the runs whose directory contains a run with another configuration, started or finished."""
    return [run for run in runs if _conflicts(run)]


def _conflicts(run: Run) -> list[tuple[str, object, object]]:
    if not (run.directory / CONFIG).is_file():
        return []
    changed = conflicts(without_run(RunDirectory(run.directory).config), without_run(run.config))
    if [key for key, _, _ in changed] != [ROOT]:
        return changed
    from vitlab.experiment.experiment import Experiment  # here, because it takes seconds to import
    from vitlab.experiment.same_images import other_images

    return [] if other_images(run.directory, Experiment(run.config).data) == [] else changed


def refuse_conflicts(runs: Sequence[Run]) -> None:
    """Raise ValueError for the first run directory that contains a run with another configuration."""
    for run in conflicting(runs):
        (key, *values), *others = _conflicts(run)
        there, wanted = ("nothing" if value == ABSENT else as_yaml(value) for value in values)
        more = f" (and {len(others)} more)" if others else ""
        raise ValueError(
            f"{run.directory} contains a run of {run.variant!r} with another configuration:\n"
            f"{key} is {there} there and {wanted} in the study{more}.\n"
            "Retrain it with --overwrite, or give the study another name."
        )


def to_replace(runs: Sequence[Run], overwrite: bool) -> set[Run]:
    """Return the runs to restart: those with another configuration and those that were cut short."""
    replaced = set(conflicting(runs))
    assert overwrite or not replaced
    return replaced | {run for run in runs if overwrite and is_finished(run) and cut_short(run)}

"""What a study finds of its earlier runs: the record of its claim, and run directories.

A claim is registered before its first run, and keeps every word that it ever had. record.json beside the study's file
has, by the name of the file, of each registration:

registered, digest, seeds   when, with which settings that the word depends on, and with which seeds
note                        what was changed, of registrations that were entered later from the project's history
words                       each that differs from the one before: date, word, and the seeds of each variant; that of
                            a look before the last has `ended: false` until the next look replaces it

With other settings a claim is another one, and needs seeds whose results nobody has seen.
"""

import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from referee.formats import counted, listed

from vitlab.atomic_files import read_json, write_text
from vitlab.config import ABSENT, IS_INSTALLED, ROOTS, SHIPPED, conflicts
from vitlab.runs.directory import CONFIG, SUMMARY, RunDirectory
from vitlab.studies.file.format import as_yaml
from vitlab.studies.file.metric import PREDICTED
from vitlab.studies.file.runs import Run
from vitlab.studies.file.study import Study

RECORD = "record.json"
Registration = dict[str, Any]


def record_of(study: Study) -> list[Registration]:
    """Return the registrations of a claim, the first one first."""
    return read_json(study.path.with_name(RECORD), missing={}).get(study.path.stem, [])


def register(study: Study, root: Path, anew: bool = False) -> None:
    """Register a claim for the first time, or again if its settings changed before any result.

    With `anew` also after a result, with new seeds; the earlier registrations stay.
    """
    if study.claim is None:
        if anew:
            raise ValueError(f"--register-anew: {study.path} has no claim to register.")
        return
    record = record_of(study)
    finished = study.folder(root).glob(f"**/seed-*/{SUMMARY}")
    if record and record[-1]["digest"] == study.digest:
        if anew:
            raise ValueError(f"--register-anew: {study.path} is as it was registered. Leave the option out.")
        return
    if record and (any(each["words"] for each in record) or any(finished)):
        if not anew:
            raise ValueError(
                f"{study.path}: the claim was registered and has results, but with other settings: one has changed "
                f"since {record[-1]['registered']}.\nChange it back, or give --register-anew and new seeds."
            )
        used = {seed for each in record for seed in each["seeds"]}
        if again := sorted(used & {*study.seeds}):
            new = max(used) + 1
            raise ValueError(f"--register-anew: {listed([*map(str, again)])} have results; give seeds from {new} on.")
    else:
        record = []  # nothing is known that a change could follow
    record.append({"registered": time.strftime("%Y-%m-%d"), "digest": study.digest, "seeds": study.seeds, "words": []})
    _write(study, record)


def _write(study: Study, record: list[Registration]) -> None:
    file = study.path.with_name(RECORD)
    records = read_json(file, missing={}) | {study.path.stem: record}  # another claim may have a new word
    lines = (
        f"{json.dumps(name)}: [\n" + ",\n".join(map(json.dumps, each)) + "\n]" for name, each in sorted(records.items())
    )
    try:
        write_text(file, "{\n" + ",\n".join(lines) + "\n}\n")
    except OSError as error:
        raise ValueError(f"{study.path}: a claim is registered in {file}: {error}.") from None


def keep_word(study: Study, word: str, seeds: list[int], ended: bool = True) -> None:
    """Add a word to the record, if it is not the last one of these settings; not to that of an installed package.

    A study that has not `ended` binds its settings from its first look on, but has no word yet.
    """
    record = record_of(study)
    if (IS_INSTALLED and study.path.is_relative_to(SHIPPED)) or not record or record[-1]["digest"] != study.digest:
        return
    before = record[-1]["words"]
    words = [each for each in before if each.get("ended", True)]
    if not words or words[-1]["word"] != word:
        new = {"date": time.strftime("%Y-%m-%d"), "word": word, "seeds": seeds}
        words.append(new if ended else {**new, "ended": False})
    if words != before:
        record[-1]["words"] = words
        _write(study, record)


def _words_of(record: list[Registration]) -> list[dict[str, Any]]:
    return [word for each in record for word in each["words"] if word.get("ended", True)]


def first_word(study: Study) -> str:
    """Return the first word that the claim ever had; empty before."""
    return next((word["word"] for word in _words_of(record_of(study))), "")


def history(study: Study) -> str:
    """Return when the claim was registered, and its words before the present one; empty for one that is not."""
    record = record_of(study)
    if not record:
        return ""
    times = f" ({counted(len(record), 'registration')})" if len(record) > 1 else ""
    words = [f"{word['word']} ({word['date']})" for word in _words_of(record)]
    earlier = f" Its words so far: {', '.join(words)}." if words else ""
    return f"Registered on {record[-1]['registered']}{times}.{earlier}"


UNFINISHED = "is not finished"  # why a run has no result that may still come


class Outcome(NamedTuple):
    """How a run ended: `failure` is None if it finished, else the reason in one line."""

    run: Run
    failure: str | None


def is_finished(run: Run) -> bool:
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
        if run.metric.name not in PREDICTED and run.metric.test not in known:
            names = ", ".join(sorted(name.removeprefix("test/") for name in known)) or "none"
            raise ValueError(f"metric: {run.directory / SUMMARY} has no {run.metric.test}; rank by one of {names}.")


def conflicting(runs: Sequence[Run]) -> list[Run]:
    """Return the runs whose directory contains a run with another configuration, started or finished."""
    return [run for run in runs if _conflicts(run)]


def _conflicts(run: Run) -> list[tuple[str, object, object]]:
    there = RunDirectory(run.directory)
    changed = conflicts(there.config, run.config) if (there.path / CONFIG).is_file() else []
    if not changed or any(key not in ROOTS for key, _, _ in changed):
        return changed
    from vitlab.experiment.experiment import Experiment  # here, because it takes seconds to import
    from vitlab.experiment.same_images import other_images

    return [] if other_images(run.directory, Experiment(run.config).data) == [] else changed


def refuse_conflicts(runs: Sequence[Run]) -> None:
    """Raise ValueError for the first run directory that contains a run with another configuration."""
    for run, found in ((run, found) for run in runs if (found := _conflicts(run))):
        (key, *values), *others = found
        there, wanted = ("nothing" if value == ABSENT else as_yaml(value) for value in values)
        more = f" (and {len(others)} more)" if others else ""
        raise ValueError(
            f"{run.directory} contains a run of {run.variant!r} with another configuration:\n"
            f"{key} is {there} there and {wanted} in the study{more}.\n"
            "Retrain it with --overwrite, or give the study another name."
        )

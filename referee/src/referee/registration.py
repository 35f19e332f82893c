"""Looks that are registered before any result, at runs that other tools train: study.looks.json, beside study/.

registered   the date
plan         options of the command; looks: the numbers of seeds
looks        those so far: number, date, names of seeds and variants, sentence, stop
runs         that a look has judged, with a digest of each: like the plan, they may not change
"""

import hashlib
import json
import re
import time
from argparse import ArgumentTypeError
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from referee.checks import Check
from referee.formats import by_number, joined, listed
from referee.judging import MOST_LOOKS, judge, refuse_settings
from referee.outcomes import Outcomes, Run
from referee.sources import LOOKS, found, here, score_in
from referee.verdict import Verdict

DATE = "%Y-%m-%d"
ANOTHER = "register new seeds in another folder"
LEAST_SEEDS = 4  # of the first look; of three, 9 % of equal variants with spreads of 4 : 1 are called different


@dataclass
class Registration:
    """The plan of a watched study, and its looks so far."""

    file: Path
    plan: dict[str, Any]
    registered: str = field(default_factory=lambda: time.strftime(DATE))
    looks: list[dict[str, Any]] = field(default_factory=list)
    runs: dict[str, str] = field(default_factory=dict)

    def write(self) -> None:
        content = {key: getattr(self, key) for key in ("registered", "plan", "looks", "runs")}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        beside = self.file.with_name(f".{self.file.name}")  # so that no failure to write ends the registration
        beside.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        beside.replace(self.file)


def from_to(text: str) -> list[int]:
    """Return the numbers of seeds at the looks, of FROM..TO."""
    ends = re.fullmatch(r"(\d+)\.\.(\d+)", text)
    if ends is None or not LEAST_SEEDS <= int(ends[1]) <= int(ends[2]) <= MOST_LOOKS:
        raise ArgumentTypeError(f"{text}. Give numbers from {LEAST_SEEDS} on, like 4..15, and at most {MOST_LOOKS}.")
    return [*range(int(ends[1]), int(ends[2]) + 1)]


def known(place: str) -> Registration | None:
    """Return what is registered for a place of results: a file, a folder, or folder/{variant}/{seed}.txt."""
    file = _file_of(place)
    try:
        return Registration(file, **json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file} is damaged ({error}). Restore it: it keeps the registered looks.") from None


def _file_of(place: str) -> Path:
    place = here(place)
    fixed = re.split(r"[{*]", place)[0]
    path = Path(fixed) if fixed == place or fixed.endswith("/") else Path(fixed).parent
    return path.with_name(path.name + LOOKS) if path.name else path / LOOKS


def load_or_register(place: str, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> Registration:
    """Return what is registered for a place of results, or register it.

    Raises:
        ValueError: there are results without a registration, or an option is not as registered.
    """
    if registration := known(place):
        for key, value in given.items():
            there = registration.plan.get(key)
            if key == "lower" and there is None and not registration.looks:  # asked for when results were read
                registration.plan[key] = value
            elif value != there:
                told = f"{registration.file} registered {there} on {registration.registered}"
                raise ValueError(f"--{key} {value}: {told}. Leave it out, or {ANOTHER}.")
        return registration
    try:
        file = next(iter(found([place], given.get("read"))[0]))
    except FileNotFoundError:
        if not given.get("looks") or given.get("test") == "exact":
            raise ValueError(f"{place}: no looks are registered. Give --seeds 4..15, and no --test exact.") from None
        plan = {**defaults, **given}
        refuse_settings(plan.get("margin"), plan["looks"], plan["test"])
        if plan.get("read") is not None:
            score_in(plan["read"], plan.get("metric"), plan.get("lower"))
        registration = Registration(_file_of(place), plan)
        registration.write()
        return registration
    raise ValueError(f"{place} has results already, like {file}. Judge them (`referee {place}`), or {ANOTHER}.")


def look(registration: Registration, outcomes: Outcomes) -> tuple[Verdict | None, str]:
    """Judge results at the last registered look that they allow, and record it if it is new.

    Return the verdict, None before the first look; and which look it is, why it is the last or when the next comes.

    Raises:
        ValueError: a run that a look has judged has changed.
    """
    last = registration.looks[-1] if registration.looks else {"look": 0, "seeds": [], "stop": None}
    now = {str(run): _digest(run) for run in outcomes.runs}
    changed = [run for run, digest in registration.runs.items() if now.get(run) != digest]
    changed += [variant for variant in outcomes.variants if variant not in last.get("variants", outcomes.variants)]
    if changed:
        of_look = f"those of look {last['look']} in {registration.file}"
        raise ValueError(f"{changed[0]}: these results are not {of_look}. Restore them, or {ANOTHER}.")
    planned = registration.plan["looks"]
    seeds = [*last["seeds"], *sorted({run.seed for run in outcomes.runs} - {*last["seeds"]}, key=by_number)]
    verdict = _judged(registration, outcomes, last["seeds"] if last["stop"] else seeds[: planned[-1]])
    if verdict.watch is None or not verdict.watch.looks:
        void = any(check.is_void for check in verdict.checks)
        lacking = [each for each in verdict.watch.missing if each[1]] if verdict.watch else []
        which = "; {} has no seed {}, and all have seeds of the same names".format(*lacking[0]) if lacking else ""
        text = f"No look yet: the first comes after {planned[0]} seeds of each variant{which}."
        return verdict if void else None, text
    watch, number, stop = verdict.watch, len(verdict.watch.looks), verdict.watch.stop
    used = seeds[: planned[number - 1]]
    verdict = _judged(registration, outcomes, used)
    if number > last["look"]:
        names = {"seeds": used, "variants": outcomes.variants}
        shown = {"date": time.strftime(DATE), "sentence": verdict.sentence, "stop": stop}
        registration.looks.append({"look": number, **names, **shown})
        registration.runs |= {str(run): _digest(run) for run in verdict.outcomes.runs}
        registration.write()
    if stop and (added := [seed for seed in seeds if seed not in used]):
        text = f"seeds were added beyond look {number}, the last: {listed(added)}. They are left out of all figures."
        verdict = replace(verdict, checks=[*verdict.checks, Check("R009", text)])
    after = f"the last: {stop}" if stop else f"the next after {planned[number]} seeds of {joined(watch.active)}"
    return verdict, f"Look {number} of at most {len(planned)}, {after}."


def another_look(places: Iterable[str]) -> Iterator[Check]:
    """R009: results whose looks are registered are judged at one more."""
    around = (str(folder) for place in places for folder in (place, *Path(place).parents))
    for file in dict.fromkeys(registration.file for registration in map(known, around) if registration):
        yield Check("R009", f"{file} registers looks; this is one more. Give `referee watch`.")


def _judged(registration: Registration, outcomes: Outcomes, seeds: Sequence[str]) -> Verdict:
    plan, place = registration.plan, {seed: number for number, seed in enumerate(seeds)}
    runs = sorted((run for run in outcomes.runs if run.seed in place), key=lambda run: place[run.seed])
    table = replace(outcomes, runs=runs, planned=outcomes.variants)
    return judge(table, plan.get("margin"), plan["looks"], plan["test"])


def _digest(run: Run) -> str:
    return hashlib.sha256(run.outcomes.astype(float).tobytes() + "\n".join(run.items).encode()).hexdigest()[:16]

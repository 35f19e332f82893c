"""`referee FILES…`: which variant is better, and how sure that is. Also `referee plan` and `referee watch`."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import referee
from referee.answer import STATUS, answered

if TYPE_CHECKING:  # scipy and pandas are imported by the command that needs them
    from referee.outcomes import Outcomes
    from referee.verdict import Verdict

KINDS = ("variant", "seed", "item", "label", "prediction", "correct", "score", "probabilities", "group", "block",
         "fold", "dataset")  # fmt: skip


class Parser(argparse.ArgumentParser):
    """argparse, but a wrong option is a ValueError like every other mistake."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return 0 where the best (or `--better`) variant is better, else another status of STATUS."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if arguments[:1] == ["watch"]:
            return _watch(arguments[1:])
        statuses = ", ".join(f"{status}: {verdict}" for verdict, status in STATUS.items())
        parser = _parser("referee", f"Which variant is better, from result files. Exit status: {statuses}.")
        if plans := arguments[:1] == ["plan"]:
            about = "How many seeds or items settle a true difference, by the spread of these runs."
            parser, lead = _parser("referee plan", about, judges=False), "the true lead to find, as scores are shown"
            parser.add_argument("--difference", type=float, required=True, help=lead)
        options = parser.parse_args(arguments[plans:])

        from referee.judging import judge
        from referee.plan import plan
        from referee.registration import another_look

        margin, asked = None if plans else options.margin, {"items": options.items, "scale": options.scale}
        verdict = judge(_outcomes_of(options), margin, options.looks, options.test, **asked)
        if plans:
            print(plan(verdict, options.difference))
            return 0
        verdict.checks.extend(another_look(options.files))
        return _show(verdict, options)
    except BrokenPipeError:  # `referee … | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains when it flushes
        return 128 + signal.SIGPIPE
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _watch(arguments: Sequence[str]) -> int:
    from referee.registration import from_to, load_or_register, look

    about = "Register looks before any result; then judge at each. A score of nan is a failed run."
    parser = _parser("referee watch", about)
    parser.add_argument("--seeds", dest="looks", type=from_to, metavar="FROM..TO", help="--looks FROM … TO")
    plan = ("looks", "margin", "metric", "lower", "read", "pick", "test", *KINDS)
    defaults = {key: value for key in plan if (value := parser.get_default(key)) is not None}
    parser.set_defaults(**dict.fromkeys(plan))
    options = parser.parse_args(arguments)
    if len(options.files) > 1:
        raise ValueError(f"{' '.join(options.files)}: give one folder, file or path with {{variant}} and {{seed}}.")
    (place,), given = options.files, {key: value for key in plan if (value := getattr(options, key)) is not None}
    if options.items is not None:
        raise ValueError(f"--items {options.items}: this is for variants with one seed each. Leave it out.")
    registration = load_or_register(place, given, defaults)
    vars(options).update(registration.plan)
    try:
        outcomes = _outcomes_of(options)
    except FileNotFoundError:
        if registration.looks:
            raise
        looks = ", ".join(map(str, options.looks))
        print(f"Registered before any result in {registration.file}: looks after {looks} seeds.")
        return STATUS["no winner yet"]
    verdict, standing = look(registration, outcomes)
    status = STATUS["no winner yet"] if verdict is None else _show(verdict, options)
    print(standing)
    return status


def _show(verdict: "Verdict", options: argparse.Namespace) -> int:
    """Print a verdict, write its report, and return its exit status."""
    from referee.effects import beside
    from referee.verdict import repetition, scope

    (headline, *answers), word = answered(verdict.record(), options.better, options.than, "", options.in_general)
    first, *notes = verdict.outcomes.notes
    print(f"Read: {first}")
    print(*(f"  {line}" for line in verdict.outcomes.columns if options.explain), sep="\n", end="\n" * options.explain)
    print(headline)
    if verdict.pairs:
        print(*filter(None, [*beside(verdict), scope(verdict), repetition(verdict)]), sep="\n")
    for line in (*verdict.checks, *(f"Read: {note}" for note in notes)):
        print(line)
    if options.latex:
        print(verdict.latex())
    if options.out is not None:
        print(f"Report: {verdict.report(options.out / 'report.html')}")
    print(*answers, sep="\n", end="\n" * len(answers))
    return STATUS[word]


def _parser(program: str, description: str, judges: bool = True) -> Parser:
    parser = Parser(prog=program, description=description, allow_abbrev=False)
    add = parser.add_argument
    add("files", nargs="+", metavar="FILES", help="files, folders, or paths like logs/{variant}/{seed}.txt")
    add("--version", action="version", version=f"referee {referee.__version__}")
    add("--metric", help="column or name of the score")
    ways = parser.add_mutually_exclusive_group()
    for way, lower in (("lower", True), ("higher", False)):
        ways.add_argument(f"--{way}", dest="lower", action="store_const", const=lower, help=f"a {way} score is better")
    add("--items", type=int, metavar="N", help="size of the test set, where one seed's score is a fraction of it")
    add("--read", metavar="REGEX", help="its first group is the score in a log, like 'val_loss:(\\S+)'")
    picks = parser.add_mutually_exclusive_group()
    pick: dict[str, Any] = {"dest": "pick", "action": "store_const"}
    picks.add_argument("--last", const="last", help="take the last match of --read [default], or row of a run", **pick)
    picks.add_argument("--best", const="best", help="take the best, which flatters", **pick)
    add("--folds", type=int, metavar="K", help="parts that the images are split into, where scores are of folds")
    add("--runs", type=int, metavar="N", help="runs behind each published mean")
    add("--spread", choices=("sd", "se"), help="what stands beside a published mean: standard deviation or error")
    add("--explain", action="store_true", help="print how each column was read, with its first three values")
    add("--scale", choices=["log"], help="log: a lead is a factor, as of losses and ratios")
    add("--test", default="pooled", help="pooled, exact or paired [pooled]")
    looks = "numbers of seeds after which results are looked at"
    add("--looks", type=int, nargs="+", default=[], metavar="N", help=looks)
    if judges:
        add("--margin", type=float, help="the smallest difference that matters, as scores are shown")
        add("--better", metavar="VARIANT", help="is it better … [the one with the best mean]")
        add("--than", metavar="VARIANT", help="… than this one? [than all others]")
        general = "is it better on other data sets of the kind, not on these?"
        add("--in-general", action="store_true", help=general)
        add("--out", type=Path, metavar="FOLDER", help="write report.html, report.md and verdict.json")
        add("--latex", action="store_true", help="print the table for a paper")
    for kind in KINDS:
        add(f"--{kind}", metavar="COLUMN", help=argparse.SUPPRESS)
    names = ", ".join(f"--{kind} COLUMN" for kind in KINDS)
    parser.epilog = f"Names of columns: {names}. With --variant A,B each variant is a cell of the factors A and B."
    return parser


def _outcomes_of(options: argparse.Namespace) -> "Outcomes":
    from referee.outcomes import Reading
    from referee.sources import read

    columns = {kind: name for kind in KINDS if (name := getattr(options, kind)) is not None}
    of_runs = (options.folds, options.runs, options.spread)
    return read(options.files, Reading(options.metric, options.lower, columns, options.read, options.pick, *of_runs))


if __name__ == "__main__":
    sys.exit(main())

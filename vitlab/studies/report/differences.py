"""The section on the differences between variants: every pair, and where its uncertainty comes from."""

import numpy as np
from referee.formats import NONE, SPACE, counted, p_value, percent, signed
from referee.report.document import Cell, Details, Figure, Note, Part, Row, Table
from referee.report.drawing import Drawing
from referee.statistics.comparison import LEVEL, UNEQUAL, half_width, least_visible
from referee.statistics.power import detectable, need
from scipy import special

from vitlab.studies.report.verdict import required
from vitlab.studies.results import Pair, StudyResults
from vitlab.studies.run_results import RunResult, VariantResult

INTERVAL = "95 % interval"
POINT = 0.01  # the true lead to plan for, of a study without a margin
RULES = {
    "pooled": "Student's t on seeds",
    "exact": "all regroupings of the runs",
    "paired": "Student's t on the differences by seed",
}


def differences_section(results: StudyResults, drawing: Drawing) -> list[Part]:
    """Return every pair of variants, with the sources of its uncertainty and McNemar's tests folded up."""
    if not results.pairs:
        return []
    tested = sum(pair.difference is not None for pair in results.pairs)
    adjusted = "p" if tested < 2 else f"p, adjusted\nfor {counted(tested, 'pair')}"
    planned = [] if (size := _planned(results)) is None else [f"Needed\nfor {results.metric.size(size)}"]
    rows = [Row(_name(pair), _pair(pair, results)) for pair in results.pairs]
    columns = ["Pair", "Lead", INTERVAL, "Conclusion", adjusted, "Detectable\n(80 %)", *planned]
    parts: list[Part] = [
        Figure(
            drawing,
            "By how much the first variant of each pair leads. Filled marker: better; open marker: not. Bar: 95 % "
            f"interval; all of them hold at once.{'' if results.margin is None else ' Shaded: the margin.'}",
        ),
        Table("Differences between variants", columns, rows, left=[INTERVAL, "Conclusion"], labeled=True),
        Note(_how_to_read(results, tested)),
    ]
    if tested:
        parts += [Note(" ".join(limits(results)))]
    if tested and results.study.test != "exact":
        parts += [Details("Where the uncertainty comes from", _sources(results))]
    return [*parts, *_mcnemar(results)]


def conclusion(pair: Pair, results: StudyResults) -> str:
    """Return the conclusion on a pair with its numbers of seeds, like "better (7 seeds each)"."""
    a, b = len(pair.better.runs), len(pair.worse.runs)
    seeds = f"{counted(a, 'seed')} each" if a == b else f"{a} and {counted(b, 'seed')}"
    if pair.difference is None:
        return f"not tested ({seeds})"
    if pair.equal and results.margin is not None:
        return f"equal to within {results.metric.size(results.margin)} ({seeds})"
    return f"{'better' if pair.settled else 'undecided'} ({seeds})"


def _pair(pair: Pair, results: StudyResults) -> list[str | Cell]:
    metric, digits, pilot, size = results.metric, results.digits, pair.pilot, _planned(results)
    cells: list[str | Cell] = [
        Cell(metric.text(pair.lead, digits), bold=True),
        metric.bracket(pair.interval, digits) or NONE,
        conclusion(pair, results),
        p_value(pair.p),
        NONE if pilot is None else metric.text(detectable(pilot, min(map(len, _runs(pair)))), digits),
    ]
    if size is not None:
        cells.append(NONE if pilot is None else required(need(pilot, size)).removesuffix(" of each variant"))
    return cells


def _planned(results: StudyResults) -> float | None:
    """Return the true lead to plan for; None where no size is natural."""
    return results.margin or (POINT if results.metric.is_accuracy else None)


def _how_to_read(results: StudyResults, tested: int) -> str:
    metric, study = results.metric, results.study
    lines = [] if metric.mode == "max" else ["A lead is by how much the first variant is lower."]
    if not tested:
        return " ".join([*lines, "A single seed cannot show what is chance."])
    held = "all intervals of the table hold at once" + (", at every look" if study.looks else "")
    lines.append(f"*95 % interval*: of the true lead; {held}.")
    chance, images = "other seeds", ""
    if metric.is_accuracy:
        chance, images = "other seeds and other test images", " with the variance of the images added"
    adjusted = f", adjusted for {counted(tested, 'pair')} by Shaffer's step-down" if tested > 1 else ""
    better = "p is below 0.05"
    if results.level < LEVEL:
        better = f"p is at most {p_value(results.level)}, at which all looks together call equal variants different in "
        better += f"5{SPACE}% of studies; the p of the look that settled it is given"
    lines += [
        f"*p*: how often chance alone ({chance}) would give a lead this large, by {RULES[study.test]}{images}"
        f"{adjusted}.",
        f"*Better*: {better}.",
        "*Undecided* does not mean equal: the interval shows which differences remain possible.",
    ]
    if results.margin is not None:
        size = results.metric.size(results.margin)
        lines.append(f"*Equal to within {size}*: two one-sided tests exclude a difference of {size} or more.")
    lines.append("*Detectable (80 %)*: the true lead that 4 of 5 such studies would call better.")
    if (planned := _planned(results)) is not None:
        lines.append(
            f"*Needed for {metric.size(planned)}*: seeds of each variant, to settle a true lead of that size, with "
            f"the 80{SPACE}% range that these runs leave"
            + ("; test images where more seeds alone will not settle it." if metric.is_accuracy else ".")
        )
    return " ".join(lines)


def limits(results: StudyResults) -> list[str]:
    """State what no test of a few seeds can see."""
    several = [result for result in results.ranking if len(result.runs) > 1]
    failed = {run.variant for run, _ in results.failures}
    lines = []
    if sound := [len(result.runs) for result in several if result.variant not in failed]:
        unseen = percent(1 - LEVEL ** (1 / min(sound)), 0)
        error = 14 if len(several) == 2 else 8 if results.study.looks else 6
        lines.append(
            f"No failure in {counted(min(sound), 'seed')} says little about rare ones: it excludes only that more than "
            f"{unseen}{SPACE}% of seeds fail. Where one variant fails rarely and the others never, up to "
            f"{error}{SPACE}% of studies of equal variants call one better, instead of 5{SPACE}%."
        )
    wide, narrow = max(several, key=_spread), min(several, key=_spread)
    if _spread(narrow) > 0 and _spread(wide) > _spread(narrow):
        ratio = _spread(wide) / _spread(narrow)
        limit = special.fdtri(len(wide.runs) - 1, len(narrow.runs) - 1, UNEQUAL)
        beyond = ratio**2 > limit and len(several) > 2 and results.study.test == "pooled"
        lines.append(
            f"The seeds of {wide.variant} vary {signed(ratio, 1)} times as much as those of {narrow.variant}"
            + (", more than by chance: their pair is tested by its own degrees of freedom (Welch)." if beyond else ".")
        )
    return lines


def _spread(result: VariantResult) -> float:
    return float(np.std([run.score for run in result.runs], ddof=1))


def _sources(results: StudyResults) -> list[Part]:
    metric, digits, rows = results.metric, results.digits, []
    for pair in results.pairs:
        if (difference := pair.difference) is None:
            continue
        sources = (difference.seeds, 0.0), (0.0, difference.images), (difference.seeds, difference.images)
        halves = [half_width(LEVEL, *source, difference.freedom) for source in sources]
        shown = [f"±{SPACE}{metric.text(half, digits)}" for half in (halves if metric.is_accuracy else halves[:1])]
        if metric.is_accuracy and not float(metric.text(halves[1], digits)):
            shown[1] = _below(pair, results)
        rows.append(Row(_name(pair), (*shown, f"{difference.freedom:.1f}", p_value(difference.p), _won(pair))))
    columns = ["Seeds", "Images", "Both"] if metric.is_accuracy else ["Seeds"]
    images = (
        " *Images*: the variance over test images, less what seeds flip. The squares add up."
        if metric.is_accuracy
        else ""
    )
    seeds = "Student's t with the variance over seeds, pooled over all variants and never less than the pair's own"
    if results.study.test == "paired":
        seeds = "Student's t with the variance of the differences by seed"
    return [
        Table("Sources of uncertainty", ["Pair", *columns, "Degrees of freedom", "p of the pair", "Won"], rows),
        Note(
            f"Half-widths of the 95 % interval of each pair alone. *Seeds*: {seeds}.{images} *Won*: shared seeds with "
            "which the first variant scored better."
        ),
    ]


def _below(pair: Pair, results: StudyResults) -> str:
    """Return what an influence of images that rounds to 0, or whose estimate was cut off there, may still be."""
    a, b = pair.better.outcomes, pair.worse.outcomes
    half = half_width(LEVEL, 0.0, least_visible(a, b, results.study.test == "paired"), 1.0)
    shown = results.metric.text(half, results.digits)
    return f"below what {counted(len(results.labels), 'image')} can show (±{SPACE}{shown})"


def _won(pair: Pair) -> str:
    first, second = ({run.run.seed: run.score for run in runs} for runs in _runs(pair))
    shared = first.keys() & second.keys()
    sign = pair.better.runs[0].run.metric.sign
    won = sum(sign * first[seed] > sign * second[seed] for seed in shared)
    return f"{won} of {counted(len(shared), 'seed')}" if shared else NONE


def _mcnemar(results: StudyResults) -> list[Part]:
    rows = [
        Row(_name(pair), (str(seed), str(test.only_a), str(test.only_b), p_value(test.p)))
        for pair in results.pairs
        for seed, test in pair.mcnemar.items()
    ]
    if not rows:
        return []
    columns = ["Pair", "Seed", "Only the first correct", "Only the second correct", "Exact p"]
    note = "Each row compares two trained models, not their architectures, and is not adjusted for the number of rows."
    return [Details("McNemar's test for each seed", [Table("McNemar's test by seed", columns, rows), Note(note)])]


def _name(pair: Pair) -> str:
    return f"{pair.better.variant} – {pair.worse.variant}"


def _runs(pair: Pair) -> tuple[list[RunResult], list[RunResult]]:
    return pair.better.runs, pair.worse.runs

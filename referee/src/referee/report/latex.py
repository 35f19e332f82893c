"""The ranking as a table for a paper: means with intervals, the best and what is not worse than it in bold."""

import math
import re

from referee.formats import p_value
from referee.verdict import Verdict


def as_latex(verdict: Verdict) -> str:
    """Return a table that needs the package booktabs."""
    metric, digits, best = verdict.metric, verdict.digits, next(iter(verdict.ranking), None)
    of_best = {pair.worse.name: pair for pair in verdict.pairs if pair.better is best}
    rows = []
    for variant in verdict.ranking:
        pair = of_best.get(variant.name)
        _, low, high = variant.score  # of which a fraction's lies within 0 and 1
        half = metric.scale * max(high - variant.score.mean, variant.score.mean - low)
        shown = f"{metric.scale * variant.score.mean:.{digits}f}"
        shown += "" if math.isnan(half) else rf" \pm {half:.{digits}f}"
        bold = pair is None or (pair.difference is not None and pair.verdict != "better")
        score = rf"$\mathbf{{{shown}}}$" if bold else f"${shown}$"
        lead = "--"
        if pair is not None:
            ends = ", ".join(f"{metric.scale * end:.{digits}f}" for end in pair.interval[1:])
            gap = f"{metric.scale * pair.lead:.{digits}f}"
            begin = "(" if pair.settled and pair.interval.low == 0 else "["
            lead = f"${gap}$" if math.isnan(pair.interval.low) else f"${gap}$ ${begin}{ends}]$"
        p = "--" if pair is None or math.isnan(pair.p) else p_value(pair.p).replace("< 0.001", "$<$0.001")
        rows.append(f"{escaped(variant.name)} & {len(variant.runs)} & {score} & {lead} & {p} \\\\")
    header = rf"Variant & Seeds & {escaped(metric.axis())} & Lead of the best & $p$ \\"
    return "\n".join(
        [r"\begin{tabular}{lrrrr}", r"\toprule", header, r"\midrule", *rows, r"\bottomrule", r"\end{tabular}"]
    )


def escaped(text: str) -> str:
    """Return a name with LaTeX's special characters made plain."""
    plain = re.sub(r"([&%$#_{}])", r"\\\1", text.replace("\\", r"\textbackslash "))
    return plain.replace("^", r"\textasciicircum{}").replace("~", r"\textasciitilde{}")

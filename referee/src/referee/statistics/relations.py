"""What runs say about the relations that a claim expects: each is the contrast of a pair, tested alone (`contrast`).

d is the first variant minus the second, m the margin, α the level, and p the two-sided p-value of the nearest end.

            repeated                   contradicted                equal within the margin
    A > B   d > 0,       p < α         d < 0,            p < α     −m < d < m, p < 2α
    A >= B  d > −m,      p < 2α        d < −m,           p < α
    A = B   −m < d < m,  p < 2α        d < −m or d > m,  p < α

A claim is repeated where each relation is, and needs no correction for their number (intersection-union, Berger 1982).
One relation is enough against it, so *contradicted* and *equal* are corrected (Holm 1979). The first word that applies
is given, whichever variant leads. In a study that is looked at while it grows, a word stands, and a variant trains on
while a relation with it is open.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from referee.statistics.contrast import INDEPENDENT, LEVEL, Contrast, Dependence, in_steps
from referee.statistics.sequential import Rows, cells_of

REPEATED, CONTRADICTED, EQUAL, OPEN = "repeated", "contradicted", "equal within the margin", "not settled"


class Relation(NamedTuple):
    """What a claim expects of two variants."""

    first: str
    sign: str  # >, >= or =
    second: str


class Finding(NamedTuple):
    """What runs say about a relation."""

    word: str = OPEN
    difference: Contrast | None = None  # first minus second, when the word was given; None: fewer than two runs
    is_small: bool = False  # smaller than the margin, whether beyond chance or not
    p: float = 1.0  # of the word, or where it is open of the nearest; scaled from the look's level to 0.05


@dataclass
class Race:
    """The relations of a claim, as far as the looks at its runs have come."""

    relations: Sequence[Relation]
    margin: float
    test: str = "pooled"
    dependence: Dependence = INDEPENDENT  # of the items
    blocks: Mapping[str, Mapping[Any, Any]] | None = None  # of each variant, by seed
    findings: list[Finding] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.findings = [Finding()] * len(self.relations)

    def look(self, rows: Mapping[str, Rows], level: float) -> None:
        """Judge the relations that are open by the runs of each variant."""
        tested, evidence, shared = [], [], None
        for relation, known in zip(self.relations, self.findings, strict=True):
            a, _, b = relation
            if self.test == "paired":  # by the seeds that these two share
                shared = cells_of(
                    {name: rows.get(name, {}) for name in (a, b)}, self.test, self.dependence, self.blocks
                )
            elif shared is None:
                shared = cells_of(rows, self.test, self.dependence, self.blocks)
            _, places, cells = shared
            difference = None if known.word == OPEN else known.difference
            if known.word == OPEN and cells and a in places and b in places:
                difference = cells.pair(places[a], places[b])._replace(level=level, alpha=level)
            tested.append(difference)
            evidence.append(_evidence(relation.sign, difference, self.margin))
        holm = range(len(evidence), 0, -1)
        against, equal = (in_steps([each[k] for each in evidence], holm) for k in (1, 2))
        for k, difference in enumerate(tested):
            if self.findings[k].word != OPEN:
                continue
            p_of = {REPEATED: evidence[k][0], CONTRADICTED: against[k], EQUAL: equal[k]}
            word = next((word for word, p in p_of.items() if p < level), OPEN)
            p = float(min(1.0, p_of.get(word, min(p_of.values())) * LEVEL / level))
            self.findings[k] = Finding(word, difference, evidence[k][3] < level, p)

    @property
    def racing(self) -> set[str]:
        """The variants with a relation that is open."""
        both = zip(self.relations, self.findings, strict=True)
        return {name for (a, _, b), each in both if each.word == OPEN for name in (a, b)}

    @property
    def is_level(self) -> bool:
        """Whether every relation is settled as equal to within the margin."""
        both = zip(self.relations, self.findings, strict=True)
        return all(each.word == (REPEATED if sign == "=" else EQUAL) for (_, sign, _), each in both)


def _evidence(sign: str, difference: Contrast | None, margin: float) -> tuple[float, float, float, float]:
    """Return the p-values, to be compared with α, of repeated, contradicted and equal, and of |d| < m."""
    if difference is None:
        return 1.0, 1.0, 1.0, 1.0
    d, low, high = difference.mean, difference.p_of(-margin), difference.p_of(margin)
    within = max(low, high) / 2 if -margin < d < margin else 1.0
    if sign == "=":
        return within, 1.0 if -margin <= d <= margin else low if d < 0 else high, 1.0, within
    if sign == ">=":
        return low / 2 if d > -margin else 1.0, low if d < -margin else 1.0, 1.0, within
    zero = difference.p_of(0.0)
    return zero if d > 0 else 1.0, zero if d < 0 else 1.0, within, within


def claimed(findings: Sequence[Finding]) -> str:
    """Return the word for a claim of several relations: one against it decides, then one that is open."""
    words = [each.word for each in findings]
    return next(word for word in (CONTRADICTED, OPEN, EQUAL, REPEATED) if word in words)


def p_of_claim(findings: Sequence[Finding]) -> float:
    """Return the p-value of the word for a claim: of all its relations, or of the one that is enough against it."""
    word = claimed(findings)
    of_word = [each.p for each in findings if each.word == word]
    return min(of_word) if word == CONTRADICTED else max(of_word)

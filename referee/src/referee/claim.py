"""A published claim as the `claim:` of a study, and in one word what the study's runs say about it.

Its keys are in docs/claims.md. `order` is like A > B (better), A = B (equal), A >= B (not worse), A, B > C (both).
Where the runs lack what the claim `needs`, it is not tested. Each relation of `order` is the contrast of a pair, tested
alone.

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

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, product
from typing import Any, NamedTuple

import numpy as np

from referee.formats import nearest
from referee.statistics.contrast import LEVEL, POOLED, Contrast, Rule, in_steps, t_interval
from referee.statistics.sequential import Rows, cells_of

KEYS = ("sentence", "source", "published", "order", "needs", "differs", "doubt", "minutes", "along")
REPEATED, CONTRADICTED, EQUAL, OPEN = "repeated", "contradicted", "equal within the margin", "not settled"
NOT_TESTED = "not tested"  # what the claim needs is not true
TRAIN = {"all variants train": "score above chance"}


Line = float | Mapping[str, Sequence[float]]
"""What a quantity has to be above: the same for all, or of each run, by variant."""


class Relation(NamedTuple):
    """What a claim expects of two variants."""

    first: str
    sign: str  # >, >= or =
    second: str


class Need(NamedTuple):
    """What has to be true of every variant that the order names: a quantity of its runs is above a line."""

    quantity: str
    line: str

    def __str__(self) -> str:
        return f"{self.quantity} above {self.line}"

    @property
    def names(self) -> list[str]:
        """What it is about: a quantity, and another one where the line is no number."""
        return [self.quantity] if isinstance(_number(self.line, {}), float) else [self.quantity, self.line]


@dataclass(frozen=True)
class Claim:
    """A sentence of a paper, and what it means for the variants of a study."""

    sentence: str
    source: str
    relations: tuple[Relation, ...]
    differs: str
    doubt: str
    published: dict[str, float] = field(default_factory=dict)  # by variant
    minutes: float | None = None  # of two processor cores; None: not measured
    axis: str = ""  # what the figure is drawn over; empty: the variants
    curves: dict[str, dict[float | str, str]] = field(default_factory=dict)  # by name: variants by place on that axis
    needs: tuple[Need, ...] = ()  # without which it is not tested

    @property
    def variants(self) -> list[str]:
        """Those that the order names."""
        return list(dict.fromkeys(name for each in self.relations for name in (each.first, each.second)))

    def unmet(self, scores: Mapping[str, Mapping[str, Sequence[float]]], lines: Mapping[str, Line]) -> tuple[str, ...]:
        """Return why preconditions are not met, by the scores of runs by quantity and variant, and lines by name.

        One is met where the 95 % interval of every variant is above its line. Of each, the first reason is given.
        """
        reasons = dict[Need, str]()
        for need, variant in product(self.needs, self.variants):
            values, line = scores.get(need.quantity, {}).get(variant, []), _number(need.line, lines.get(need.line, {}))
            own = line.get(variant, []) if isinstance(line, Mapping) else [line] * len(values)
            if not values:
                reasons.setdefault(need, f"{variant} has no {need.quantity}")
            elif len(own) != len(values):
                reasons.setdefault(need, f"{need.line} is not known")
            elif not t_interval(np.subtract(values, own)).low > 0:
                means = f"{np.mean(values):.3g}, is not above {np.mean(own):.3g} beyond chance"
                reasons.setdefault(need, f"the {need.quantity} of {variant}, {means}")
        return tuple(reasons.values())


def parse_claim(value: Any, variants: Collection[str], margin: float | None) -> Claim | None:
    """Parse a study's `claim`; a missing or unknown key or variant, or no margin, is a ValueError."""
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ValueError(f"claim: {value!r}. Expected a mapping with {', '.join(KEYS)}.")
    for key in value:
        if key not in KEYS:
            raise ValueError(f"unknown key of `claim` `{key}`. {nearest(key, KEYS)}")
    _refuse_no_text(value, "order")  # and its variants first: what is misspelled, before what is missing
    orders = value["order"] if isinstance(value["order"], list) else [value["order"]]
    relations = tuple(relation for order in orders for relation in parse_order(str(order)))
    published, along = value.get("published") or {}, value.get("along") or {}
    if len(along) > 1:
        raise ValueError(f"claim: along: {', '.join(map(str, along))}. A figure has one axis.")
    axis, by_name = next(iter(along.items()), ("", {}))
    curves = {name: {_number(place, place): each for place, each in curve.items()} for name, curve in by_name.items()}
    named = [*(name for each in relations for name in (each.first, each.second)), *published]
    named += [name for curve in curves.values() for name in curve.values()]
    for name in named:
        if name not in variants:
            raise ValueError(f"claim: {name!r} is not a variant of the study. There are {', '.join(variants)}.")
    _refuse_no_text(value, "sentence", "source", "differs", "doubt")
    if margin is None:
        raise ValueError("claim: the study has no `margin`, the difference below which the claim does not matter.")
    minutes = value.get("minutes")
    words = value["sentence"], value["source"], relations, value["differs"], value["doubt"]
    texts, needs = value.get("needs") or [], []
    for text in texts if isinstance(texts, list) else [texts]:
        quantity, above, line = (part.strip() for part in TRAIN.get(text, str(text)).partition(" above "))
        if not (quantity and above and line):
            raise ValueError(f"claim: needs: {text!r}. Expected `all variants train`, or like `score above pixels`.")
        needs.append(Need(quantity, line))
    return Claim(*words, published, minutes, axis, curves, tuple(needs))


def _refuse_no_text(value: Mapping[str, Any], *keys: str) -> None:
    for key in keys:
        if not isinstance(value.get(key), str | list) or not value[key]:
            raise ValueError(f"claim: {key}: {value.get(key)!r}. Expected a text.")


def _number(text: Any, known: Any) -> Any:
    try:
        return float(text)
    except ValueError:
        return known


def parse_order(order: str) -> list[Relation]:
    groups = [[name.strip() for name in group.split(",")] for group in re.split(r">=|>|=", order)]
    signs = re.findall(r">=|>|=", order)
    if not signs or not all(name for group in groups for name in group):
        raise ValueError(f"claim: order: {order!r}. Expected variants with >, >= or = between them, like A > B.")
    return [
        Relation(first, sign, second)
        for (above, below), sign in zip(pairwise(groups), signs, strict=True)
        for first in above
        for second in below
    ]


# ---- what runs say


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
    rule: Rule = POOLED
    findings: list[Finding] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.findings = [Finding()] * len(self.relations)

    def look(self, rows: Mapping[str, Rows], level: float) -> None:
        """Judge the relations that are open by the runs of each variant."""
        tested, evidence, shared = [], [], None
        for relation, known in zip(self.relations, self.findings, strict=True):
            a, _, b = relation
            if shared is None or self.rule.test == "paired":  # which is by the seeds that these two share
                both = {name: rows.get(name, {}) for name in (a, b)}
                shared = cells_of(both if self.rule.test == "paired" else rows, self.rule)
            cells, difference = shared[1], None if known.word == OPEN else known.difference
            if known.word == OPEN and cells and {a, b} <= cells.places.keys():
                difference = cells.pair(a, b)._replace(level=level, alpha=level)
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

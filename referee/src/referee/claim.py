"""A published claim as the `claim:` of a study, and in one word what the study's runs say about it.

    claim:
      sentence: Shifted windows are better than windows that stay in place.
      source: Liu et al. 2021, Swin Transformer, table 4 (arXiv 2103.14030), top-1 of Swin-T on ImageNet
      published: {shifted: 81.3, in place: 80.2}    # by variant, as printed
      order: shifted > in place                     # A > B: better; A = B: equal; A >= B: not worse; A, B > C: both
      differs: Digits of 8 px and 0.3 M parameters instead of ImageNet and 28 M.
      doubt: Runs with 224 px, where a window is a smaller part of the image.    # what would change the word
      minutes: 9                                    # of two processor cores, measured
      along: {mask ratio: {MAE: {0.5: half, 0.75: three quarters}}}    # null: no figure over a quantity

The pairs that `order` relates are judged by the rule of the study, so the word is as sure as a verdict.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

from referee.formats import nearest

KEYS = ("sentence", "source", "published", "order", "differs", "doubt", "minutes", "along")
REPEATED, CONTRADICTED, EQUAL, OPEN = "repeated", "contradicted", "equal within the margin", "not settled"


class Relation(NamedTuple):
    """What a claim expects of two variants."""

    first: str
    sign: str  # >, >= or =
    second: str

    def word(self, result: "PairResult | None") -> str:
        """Return what a study found about the two; None: nothing."""
        if result is None:
            return OPEN
        as_expected = result.settled and self.sign != "=" and result.better == self.first
        if as_expected or (result.equal and self.sign != ">"):
            return REPEATED
        if result.equal:
            return EQUAL
        return CONTRADICTED if result.settled else OPEN


class PairResult(NamedTuple):
    """What a study found about two variants."""

    better: str  # the one with the better mean
    worse: str
    settled: bool  # better beyond chance
    equal: bool  # to within the margin, settled or not


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
    curves: dict[str, dict[float, str]] = field(default_factory=dict)  # by name: variants by their place on that axis

    def relates(self, first: str, second: str) -> bool:
        """Whether it is about two variants."""
        return any({first, second} == {each.first, each.second} for each in self.relations)

    def words(self, results: Iterable[PairResult]) -> list[str]:
        """Return the word of each relation."""
        by_names = {frozenset((each.better, each.worse)): each for each in results}
        return [each.word(by_names.get(frozenset((each.first, each.second)))) for each in self.relations]

    def word(self, results: Iterable[PairResult]) -> str:
        """Return repeated, contradicted, equal within the margin, or not settled."""
        words = self.words(results)
        return next(word for word in (CONTRADICTED, OPEN, EQUAL, REPEATED) if word in words)


def parse_claim(value: Any, variants: Collection[str], margin: float | None, watched: bool) -> Claim | None:
    """Parse a study's `claim`.

    Args:
        watched: Whether the study looks at its results before all seeds are trained.

    Raises:
        ValueError: a missing or unknown key or variant, or a study that cannot judge the claim.
    """
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ValueError(f"claim: {value!r}. Expected a mapping with {', '.join(KEYS)}.")
    for key in value:
        if key not in KEYS:
            raise ValueError(f"unknown key of `claim` `{key}`. {nearest(key, KEYS)}")
    _refuse_no_text(value, "order")  # and its variants first: what is misspelled, before what is missing
    orders = value["order"] if isinstance(value["order"], list) else [value["order"]]
    relations = tuple(relation for order in orders for relation in _relations(str(order)))
    published, along = value.get("published") or {}, value.get("along") or {}
    if len(along) > 1:
        raise ValueError(f"claim: along: {', '.join(map(str, along))}. A figure has one axis.")
    axis, curves = next(iter(along.items()), ("", {}))
    named = [*(name for each in relations for name in (each.first, each.second)), *published]
    named += [name for curve in curves.values() for name in curve.values()]
    for name in named:
        if name not in variants:
            raise ValueError(f"claim: {name!r} is not a variant of the study. There are {', '.join(variants)}.")
    _refuse_no_text(value, "sentence", "source", "differs", "doubt")
    if margin is None:
        raise ValueError("claim: the study has no `margin`, the difference below which the claim does not matter.")
    if watched and len(variants) > 2:
        raise ValueError(
            f"claim: with {len(variants)} variants, a study that looks at its results stops training those that lost, "
            "and settles no order among them. Give `seeds` as a list without `until`."
        )
    minutes = value.get("minutes")
    words = value["sentence"], value["source"], relations, value["differs"], value["doubt"]
    return Claim(*words, published, minutes, axis, curves)


def _refuse_no_text(value: Mapping[str, Any], *keys: str) -> None:
    for key in keys:
        if not isinstance(value.get(key), str | list) or not value[key]:
            raise ValueError(f"claim: {key}: {value.get(key)!r}. Expected a text.")


def _relations(order: str) -> list[Relation]:
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

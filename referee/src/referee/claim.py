"""A published claim as the `claim:` of a study, and in one word what the study's runs say about it.

    claim:
      sentence: Shifted windows are better than windows that stay in place.
      source: Liu et al. 2021, Swin Transformer, table 4 (arXiv 2103.14030), top-1 of Swin-T on ImageNet
      published: {shifted: 81.3, in place: 80.2}    # by variant, as printed
      order: shifted > in place                     # A > B: better; A = B: equal; A >= B: not worse; A, B > C: both
      needs: all variants train                     # or a list, like [score above pixels, rank above 8]
      differs: Digits of 8 px and 0.3 M parameters instead of ImageNet and 28 M.
      doubt: Runs with 224 px, where a window is a smaller part of the image.    # what would change the word
      minutes: 9                                    # of two processor cores, measured
      along: {mask ratio: {MAE: {0.5: half, 0.75: three quarters}}}    # or names; null: a figure over the variants

Each relation of `order` is judged as a study of two variants (`statistics.relations`). Where the runs lack what the
claim `needs`, it is not tested.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from referee.formats import nearest
from referee.statistics.intervals import t_interval
from referee.statistics.relations import Relation

KEYS = ("sentence", "source", "published", "order", "needs", "differs", "doubt", "minutes", "along")
NOT_TESTED = "not tested"  # what the claim needs is not true
TRAIN = {"all variants train": "score above chance"}


Line = float | Mapping[str, Sequence[float]]
"""What a quantity has to be above: the same for all, or of each run, by variant."""


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

    def unmet(
        self, scores: Mapping[str, Mapping[str, Sequence[float]]], lines: Mapping[str, Line], variants: Iterable[str]
    ) -> str:
        """Return in words why it is not met, see `Claim.unmet`; empty if it is, by each variant's 95 % interval."""
        line = _number(self.line, lines.get(self.line, {}))
        for variant in variants:
            if not (values := scores.get(self.quantity, {}).get(variant, [])):
                return f"{variant} has no {self.quantity}"
            own = line.get(variant, []) if isinstance(line, Mapping) else [line] * len(values)
            if len(own) != len(values):
                return f"{self.line} is not known"
            if not t_interval(np.subtract(values, own)).low > 0:
                mean, below = np.mean(values), np.mean(own)
                return f"the {self.quantity} of {variant}, {mean:.3g}, is not above {below:.3g} beyond chance"
        return ""


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
        """Return why preconditions are not met.

        Args:
            scores: by quantity and variant, of each run; `score` is what the study ranks by.
            lines: by name, such as chance.
        """
        return tuple(filter(None, (need.unmet(scores, lines, self.variants) for need in self.needs)))


def parse_claim(value: Any, variants: Collection[str], margin: float | None) -> Claim | None:
    """Parse a study's `claim`.

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
    needs = value.get("needs") or ()
    return Claim(*words, published, minutes, axis, curves, _needs(needs if isinstance(needs, list) else (needs,)))


def _refuse_no_text(value: Mapping[str, Any], *keys: str) -> None:
    for key in keys:
        if not isinstance(value.get(key), str | list) or not value[key]:
            raise ValueError(f"claim: {key}: {value.get(key)!r}. Expected a text.")


def _needs(texts: Iterable[Any]) -> tuple[Need, ...]:
    needs = []
    for text in filter(None, texts):
        quantity, above, line = (part.strip() for part in TRAIN.get(text, str(text)).partition(" above "))
        if not (quantity and above and line):
            raise ValueError(f"claim: needs: {text!r}. Expected `all variants train`, or like `score above pixels`.")
        needs.append(Need(quantity, line))
    return tuple(needs)


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

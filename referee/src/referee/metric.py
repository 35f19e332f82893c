"""What a score is called, which way it is better, and how it is shown."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from referee.formats import SPACE, signed
from referee.statistics.contrast import Interval

FRACTIONS = {"accuracy", "acc", "top1", "top5", "f1", "match", "correct", "pass"}
HIGHER = {*FRACTIONS, "auc", "auroc", "auprc", "ap", "map", "map50", "precision", "recall", "bleu", "rouge", "iou",
          "miou", "dice", "r2", "psnr", "ssim", "mcc", "kappa", "reward", "return", "oa"}  # fmt: skip
LOWER = {"loss", "nll", "error", "errors", "err", "perplexity", "ppl", "bpb", "mse", "mae", "rmse", "mape", "entropy",
         "wer", "cer", "eer", "fid", "ece", "brier", "regret", "latency"}  # fmt: skip


def words_of(name: object) -> list[str]:
    """Return the words of a column's name in small letters: test, acc of `Test Acc (%)`; top1, err of top1_err."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", " ", str(name))
    top = r"top[-_ ](?=\d)|(?<![a-z])(?:acc|prec)(?=[15](?![a-z\d]))"  # acc1, prec5
    return re.findall(r"[^\W_]+", re.sub(top, "top", apart.lower()))


def mode_of(*names: str | None) -> Literal["min", "max"] | None:
    """Return which score is better, by the first name that says it with its last known word; None: no name says it."""
    for words in map(words_of, filter(None, names)):
        known = [word for word in words if word in HIGHER | LOWER]
        if known and not {"neg", "negative"} & {*words}:  # of an error or of a likelihood
            return "min" if known[-1] in LOWER else "max"
        if words[-1:] == ["score"] and {*words} <= {"score", "test", "val", "eval", "mean"}:
            return "max"
    return None


def names_fraction(name: str) -> bool:
    """Whether a metric of this name is a fraction of the items."""
    return bool(FRACTIONS & {*words_of(name)}) and mode_of(name) == "max"


@dataclass(frozen=True)
class Metric:
    """The score of a run on all items.

    Where scores are logarithms, of a ratio or a loss, figures show them, and texts what they are of, so that a mean is
    geometric and a lead a factor.
    """

    name: str = "accuracy"  # in sentences
    mode: Literal["min", "max"] = "max"  # which score is better
    is_fraction: bool = True  # of the items, such as accuracy, and shown in per cent
    is_log: bool = False  # whether scores are logarithms

    @property
    def sign(self) -> int:
        """The factor that makes higher better."""
        return 1 if self.mode == "max" else -1

    @property
    def scale(self) -> int:
        """The factor between a value and what is shown: per cent of a fraction."""
        return 100 if self.is_fraction else 1

    @property
    def label(self) -> str:
        """Its name in a sentence."""
        return self.name

    def axis(self, split: str = "") -> str:
        """Return its name with its unit, at an axis and above a column, for the metric on a split."""
        name = f"{'ln ' if self.is_log else ''}{split} {self.label}".strip()
        return f"{name}, %" if self.is_fraction else name

    def digits(self, scores: Sequence[float], spreads: Sequence[float], items: int) -> int:
        """Return the decimals to show: of a fraction what this many items resolve, else two digits of the spreads."""
        if self.is_fraction:
            return 2 if items >= 5_000 else 1
        if self.is_log:
            return 2
        spread = float(np.median([value for value in spreads if value > 0] or [0.0]))
        size = spread / 10 or max(map(abs, scores), default=1.0) / 1e4 or 1.0
        return max(0, -math.floor(math.log10(size)))

    def text(self, value: float, digits: int) -> str:
        """Return a value without its unit."""
        return signed(self.shown(value), digits)

    def shown(self, value: float) -> float:
        """Return a score or a difference as it is shown, from one in the unit of the scores."""
        return math.exp(value) if self.is_log else self.scale * value

    def own(self, shown: float) -> float:
        """Return a difference in the unit of the scores, from one as it is shown."""
        return math.log(shown) if self.is_log else shown / self.scale

    def difference(self, value: float, digits: int) -> str:
        """Return a difference with its unit."""
        text = self.text(value, digits) + (f"{SPACE}points" if self.is_fraction else "")
        return f"a factor of {text}" if self.is_log else text

    def size(self, value: float) -> str:
        """Return the size of a difference that somebody chose, with its unit and no more digits than it has."""
        if self.is_log:
            return f"a factor of {self.shown(value):.3g}"
        number = f"{self.shown(value):.6g}"
        return f"{number}{SPACE}point{'' if number == '1' else 's'}" if self.is_fraction else number

    def bracket(self, interval: Interval, digits: int) -> str:
        """Return an interval like [0.4, 2.2]; empty without an interval."""
        ends = self.text(interval.low, digits), self.text(interval.high, digits)
        return "" if math.isnan(interval.low) else f"[{f',{SPACE}'.join(ends)}]"

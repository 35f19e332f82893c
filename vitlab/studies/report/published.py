"""Whether a variant's score is the published one, in a word.

The interval is of the variant's mean over other seeds and other test images, D = mean − published:

    equal within m   the interval lies in (−m, m), m being the study's margin
    above, below     it lies on one side of 0
    not settled      else

With `scale: log`, D is the logarithm of a ratio and m that of the margin, which is a factor. The published
figure is taken as it stands; what its own seeds would change is not known. S seeds, N test images.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from referee.formats import SPACE
from referee.report.document import Note, Part, Row, Table
from referee.statistics.comparison import LEVEL
from referee.statistics.intervals import Interval
from scipy import stats

from vitlab.studies.results.folds import overlap_of
from vitlab.studies.results.run import VariantResult
from vitlab.studies.results.table import StudyResults


class Compared(NamedTuple):
    """A variant beside a published figure, both as the report shows them."""

    variant: str
    score: Interval
    value: float
    word: str
    source: str
    what: str

    def record(self) -> dict[str, Any]:
        """Return this for JSON, where an end that is not known is null."""
        ends = {name: None if math.isnan(value) else value for name, value in self.score._asdict().items()}
        return {**self._asdict(), "score": ends}


def compared(results: StudyResults) -> Iterator[Compared]:
    """Yield the variants with a published figure, in the order of the ranking."""
    groups = results.outcomes.groups if results.by_image else None
    for result in results.ranking:
        if known := results.study.published.get(result.variant):
            own = interval_of(result, groups, results.by_image, overlap_of(results.study.folds))
            score, value = Interval(*map(results.metric.shown, own)), float(known["value"])
            yield Compared(result.variant, score, value, _word(score, value, results), known["source"], known["what"])


def interval_of(result: VariantResult, groups: np.ndarray | None, by_image: bool, overlap: float = 1.0) -> Interval:
    """Return the mean over the seeds with its interval over other seeds and, where known, other images."""
    scores = np.array([run.score for run in result.runs])
    seeds, images = scores.var(ddof=1) / len(scores) if len(scores) > 1 else math.nan, 0.0
    if by_image and len(scores) > 1:
        rows = np.stack([np.asarray(run.by_image, dtype=float) for run in result.runs])  # (S, N)
        away = rows.mean(axis=0) - rows.mean()
        totals = away if groups is None else np.bincount(groups, weights=away)  # of images that fail together
        flips = rows.var(axis=0, ddof=1).sum() / len(rows)  # what seeds change in single images is in the first term
        images = overlap * max(0.0, float((totals**2).sum() - flips)) / rows.shape[1] ** 2
    total = seeds + images
    freedom = total**2 / (seeds**2 / (len(scores) - 1)) if seeds > 0 else math.inf
    half = math.sqrt(total) * stats.t.ppf(1 - LEVEL / 2, freedom) if total > 0 else 0.0 if total == 0 else math.nan
    return Interval(float(scores.mean()), float(scores.mean() - half), float(scores.mean() + half))


def _word(score: Interval, value: float, results: StudyResults) -> str:
    if math.isnan(score.low):
        return "one seed tells nothing"
    metric, margin = results.metric, results.study.margin
    if margin is not None:
        middle, most = metric.own(value), metric.own(margin)
        if metric.shown(middle - most) < score.low and score.high < metric.shown(middle + most):
            return f"equal within {metric.size(most)}"
    return "above" if score.low > value else "below" if score.high < value else "not settled"


def published_parts(results: StudyResults) -> list[Part]:
    """Return the table, and how it is read; nothing where no variant has a published figure."""
    digits, rows = results.digits, []
    index = {result.variant: result.index for result in results.ranking}
    for each in compared(results):
        here = f"{each.score.mean:.{digits}f} [{each.score.low:.{digits}f}, {each.score.high:.{digits}f}]"
        cells = (here, f"{each.value:g}", each.word, each.what, each.source)
        rows.append(Row(each.variant, cells, index[each.variant]))
    if not rows:
        return []
    over = "seeds and test images" if results.by_image else "seeds"
    return [
        Table(
            "Published figures",
            ["Variant", "Here", "Published", "This study is", "What was measured", "Source"],
            rows,
            left=["This study is", "What was measured", "Source"],
            wrapped=["What was measured", "Source"],
        ),
        Note(
            f"*Here*: the mean with its 95{SPACE}% interval over other {over}. *Above*, *below*: the interval lies on "
            "one side of the published figure, which is taken as it stands. *Equal within*: it lies in the margin "
            "around it."
        ),
    ]

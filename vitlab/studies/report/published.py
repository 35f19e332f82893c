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

from referee.along import interval_of
from referee.formats import SPACE
from referee.report.document import Note, Part, Row, Table
from referee.statistics.intervals import Interval

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
    for result in results.ranking:
        if known := results.study.published.get(result.variant):
            own = interval_of(result.judged, results.outcomes.dependence)
            score, value = Interval(*map(results.metric.shown, own)), float(known["value"])
            yield Compared(result.variant, score, value, _word(score, value, results), known["source"], known["what"])


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
    digits, rows = results.verdict.digits, []
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

"""How often tools call one of equal variants better, and find one that is: the same simulated studies for all of them.

    pip install . ./referee autorank==1.3.0 evalstats==0.3.3 rliable==1.2.0 'pandas<3'
    python -m benchmarks.rivals

in an environment of its own: what rliable needs does not import with pandas 3. Each tool is used as its documentation
says, at 5 %. Seeds move the accuracy by a standard deviation of 0.5 points; variants are equal on every item, apart
from the lead of the first in the rows of power. A cell ends after a number of studies or of seconds.
"""

import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from io import StringIO
from itertools import combinations
from typing import NamedTuple

import numpy as np
from referee.statistics.contrast import LEVEL, Dependence, all_pairs, in_family, mean_of
from scipy import stats

from benchmarks.measuring import markdown, parser_of, save
from benchmarks.simulations import Design, discriminant, drawn, outcomes

Pair = tuple[int, int]
PARTS = 10  # in as many repetitions


class Study(NamedTuple):
    """What is known of a study; a tool takes what it can."""

    scores: np.ndarray  # (K, S, D): of each variant, seed and data set; of folds (K, repetitions × parts, 1)
    items: list[list[np.ndarray]]  # of each data set and variant, (S, N) bool; of folds none

    def better(self, p: Mapping[Pair, float]) -> set[Pair]:
        """Return who is better than whom, by p-values of pairs."""
        means = self.scores.mean(axis=(1, 2))
        return {(a, b) if means[a] > means[b] else (b, a) for (a, b), each in p.items() if each < LEVEL}


class World(NamedTuple):
    name: str
    design: Design | None  # None: 10 × 10 folds of two equal discriminants
    datasets: int = 1

    def draw(self, number: int) -> Study:
        rng = np.random.default_rng([zlib.crc32(repr(self).encode()), number])
        if self.design is None:
            x, y, tests = drawn(200, PARTS, PARTS, rng)
            right = [(discriminant(block, y, ~tests, rng) & tests).sum(axis=1) for block in x]
            return Study((np.stack(right) / tests.sum(axis=1))[..., None], [])
        items = [outcomes(self.design, rng) for _ in range(self.datasets)]
        return Study(np.stack([[y.mean(axis=1) for y in each] for each in items], axis=-1), items)


TWO, FIVE = Design(2, 5, 10_000, taste=0), Design(5, 5, 1_000, taste=0)
WORLDS = (
    World("2 variants, 10,000 items", TWO),
    World("2 variants, 500 items", TWO._replace(images=500)),
    World("2 variants, spreads 4 : 1", TWO._replace(sd=0.3, spread=4.0)),
    World("5 variants, 1,000 items", FIVE),
    World("5 variants, spreads 4 : 1", FIVE._replace(sd=0.3, spread=4.0)),
    World("2 variants on 6 data sets", TWO._replace(images=1_000), datasets=6),
    World("10 × 10 folds", None),
    World("power: 2 variants, a lead of 1.5", TWO._replace(lead=1.5)),
    World("power: 5 variants, a lead of 2.5", FIVE._replace(lead=2.5)),
)


def referee(study: Study) -> set[Pair]:
    """The rule of `referee.judge`, which reads tables and writes sentences besides."""
    if not study.items:
        overlap = Dependence(overlap=1 + study.scores.shape[1] / (PARTS - 1))
        found = all_pairs([each.T for each in study.scores], dependence=overlap)
    elif len(study.items) == 1:
        found = all_pairs(study.items[0])
    else:
        each = [all_pairs(items) for items in study.items]
        over = {pair: mean_of([found[pair] for found in each]) for pair in each[0]}
        found = in_family(over, dict(enumerate(study.scores.mean(axis=(1, 2)))))
    return study.better({pair: each.adjusted for pair, each in found.items()})


def scipy_tests(study: Study) -> set[Pair] | None:
    """Welch's test of two, Tukey's of more, over seeds or folds."""
    if len(study.items) > 1:
        return None
    if len(study.scores) == 2:
        return study.better({(0, 1): stats.ttest_ind(*study.scores[..., 0], equal_var=False).pvalue})
    p = stats.tukey_hsd(*study.scores[..., 0]).pvalue
    return study.better({pair: p[pair] for pair in combinations(range(len(p)), 2)})


def one_seed(study: Study) -> set[Pair] | None:
    """McNemar's test of the first seed of each by statsmodels, with Bonferroni's correction."""
    from statsmodels.stats.contingency_tables import mcnemar

    if len(study.items) != 1:
        return None
    first, p = [y[0] for y in study.items[0]], {}
    pairs = list(combinations(range(len(first)), 2))
    for a, b in pairs:
        table = np.histogram2d(first[a], first[b], bins=2)[0]
        p[a, b] = len(pairs) * mcnemar(table, exact=False).pvalue
    return Study(study.scores[:, :1], []).better(p)


def evalstats(study: Study) -> set[Pair] | None:
    """`analyze` of outcomes by item and run; of two, since five take it seconds."""
    import evalstats as es

    if len(study.items) != 1 or len(study.scores) > 2:
        return None
    scores = np.stack(study.items[0]).transpose(0, 2, 1)[..., None].astype(float)  # (K, N, S, 1)
    names = [str(item) for item in range(scores.shape[1])]
    table = es.BenchmarkResult(scores, template_labels=["0", "1"], input_labels=names)
    return study.better({(0, 1): es.analyze(table).pairwise.results["0", "1"].p_value})


def autorank(study: Study) -> set[Pair]:
    """Populations that are paired by data set, or by seed or fold where there is one data set."""
    import pandas as pd
    from autorank import autorank as rank

    columns = study.scores.mean(axis=1) if len(study.items) > 1 else study.scores[..., 0]
    with redirect_stdout(StringIO()):  # it prints its table
        found = rank(pd.DataFrame(columns.T, columns=[str(variant) for variant in range(len(columns))]))
    p = dict.fromkeys(combinations(range(len(columns)), 2), found.pvalue)
    for a, b in p if found.pvalue < LEVEL and found.posthoc else ():
        first, second = found.rankdf.loc[str(a)], found.rankdf.loc[str(b)]
        if found.posthoc == "nemenyi":
            apart = abs(first["meanrank"] - second["meanrank"]) > found.cd
        else:  # Tukey's
            apart = max(first["ci_lower"], second["ci_lower"]) > min(first["ci_upper"], second["ci_upper"])
        p[a, b] = 0.0 if apart else 1.0
    return study.better(p)


def improvement(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return rliable's `probability_of_improvement`, (1,), without a Mann-Whitney test that takes 30 times as long."""
    gap = x[:, None] - y
    return np.atleast_1d(((gap > 0) + 0.5 * (gap == 0)).mean())


def rliable(study: Study) -> set[Pair] | None:
    """The interval of the probability of improvement of one over the other leaves out 1/2; by 2,000 replications."""
    from rliable import library

    if len(study.scores) > 2:
        return None
    _, found = library.get_interval_estimates({"a,b": tuple(study.scores)}, improvement, reps=2_000)
    low, high = found["a,b"][:, 0]
    return {(0, 1)} if low > 0.5 else {(1, 0)} if high < 0.5 else set()


Tool = Callable[[Study], set[Pair] | None]
TOOLS: dict[str, Tool] = {
    "referee": referee,
    "scipy": scipy_tests,
    "McNemar, one seed": one_seed,
    "evalstats": evalstats,
    "autorank": autorank,
    "rliable": rliable,
}


def cell(tool: Tool, world: World, studies: int, seconds: float) -> str:
    """Return the share of studies with a claim, or the true one, and their number; nothing of a tool that cannot."""
    if tool(world.draw(0)) is None:
        return ""
    design, claimed, begin = world.design, 0, time.monotonic()
    for number in range(studies):
        found = tool(world.draw(number)) or set()
        if design and design.lead:
            claimed += all((0, other) in found for other in range(1, design.variants))
        else:
            claimed += bool(found)
        if time.monotonic() - begin > seconds:
            break
    return f"{100 * claimed / (number + 1):.1f} ({number + 1:,})"


def rows(worlds: tuple[World, ...], studies: int, seconds: float) -> Iterator[dict[str, object]]:
    for world in worlds:
        yield {"world": world.name} | {name: cell(tool, world, studies, seconds) for name, tool in TOOLS.items()}


def main(arguments: list[str] | None = None) -> None:
    parser = parser_of("rivals", __doc__, "rivals.md")
    parser.add_argument("--worlds", nargs="+", type=int, choices=range(len(WORLDS)), help="some rows, by number [all]")
    parser.add_argument("--studies", type=int, default=4_000, help="of a cell at most [%(default)s]")
    parser.add_argument("--seconds", type=float, default=15, help="of a cell at most [%(default)s]")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")  # the tools' own, of ties and small samples
    worlds = tuple(WORLDS[number] for number in options.worlds or range(len(WORLDS)))
    header = "Studies that call one of equal variants better, or find the one that is, % (studies)."
    table = markdown(header, list(rows(worlds, options.studies, options.seconds)))
    save(options.out / "rivals.md", table)
    print(table)


if __name__ == "__main__":
    main()

"""What an author takes from a report into a paper: a paragraph on methods that is true of this study, and a table."""

from collections.abc import Iterator, Sequence

from referee.formats import SPACE, counted, joined, percent
from referee.report.differences import chance
from referee.report.document import Code, Details, Note, Part, Text

from vitlab.config import flatten
from vitlab.studies.file.study import PROBES
from vitlab.studies.file.vary import NAMES
from vitlab.studies.results.run import RunResult, VariantResult
from vitlab.studies.results.table import StudyResults

PACKAGES = ("vitlab", "torch", "lightning", "timm")
TABLE = "table.tex"
RATE = "model.init_args.optimizer.init_args.lr"


def for_a_paper(results: StudyResults) -> list[Part]:
    """Return the section: methods, the table in LaTeX, and which files have the rest."""
    return [
        Text(" ".join(methods(results))),
        Details(f"The ranking in LaTeX ({TABLE}, with booktabs)", [Code(results.verdict.latex())]),
        Note("Bold in it: the best, and what the test does not show to be worse, which may still be much worse."),
        Note(
            "Figures are in *figures/* as PDF, SVG and PNG. *report.csv* has every number of this page, *results.csv* "
            "a row for each run."
        ),
    ]


def methods(results: StudyResults) -> list[str]:
    """Return the sentences of the paragraph."""
    tuned = [key.rpartition(".")[2] for key in results.study.tuned]
    return [
        _data(results),
        _variants(results),
        *_trained(results),
        *_weights(results),
        *([f"We chose {joined(tuned)} of each variant on the validation images."] if tuned else []),
        f"Scores are {results.metric.label} of the weights after the last epoch on the {results.metric.split} images, "
        f"means over seeds with 95{SPACE}% t-intervals.",
        *_tested(results),
        *_software(results.finished),
    ]


def _data(results: StudyResults) -> str:
    first = results.finished[0]
    name = first.run.config["data"]["class_path"].rpartition(".")[2]
    root = flatten(first.run.config["data"]).get("init_args.root")
    source = f"{name} ({root})" if root else name
    splits = {split: facts.get("images") for split, facts in first.data.get("splits", {}).items()}
    classes = f" of {len(results.class_names)} classes" if results.metric.one_class else ""
    if folds := results.study.folds:
        return (
            f"{source}: {counted(len(results.labels), 'image')}{classes}, each tested once a seed in {folds} folds by "
            "the run that was not trained on it."
        )
    words = {"train": "training", "val": "validation"}
    sizes = [f"{splits[split]:,} {word}" for split, word in words.items() if splits.get(split)]
    also = ", which are also the validation images" if results.tested_on_validation else ""
    return f"{source}: {joined([*sizes, f'{len(results.labels):,} test'])} images{classes}{also}."


def _variants(results: StudyResults) -> str:
    study, ranking = results.study, results.ranking
    counts = sorted({len(result.runs) for result in ranking})
    seeds = f"{counts[0]} to {counts[-1]} seeds" if len(counts) > 1 else counted(counts[0], "seed")
    drawn = joined([NAMES[kind] for kind in NAMES if kind in study.vary])
    failed = f" {counted(len(results.failures), 'run')} failed." if results.failures else ""
    return f"We compared {joined(_quoted(ranking))} with {seeds} each, which change {drawn}.{failed}"


def _trained(results: StudyResults) -> list[str]:
    """Say how long and with what each variant was trained; alike ones together."""
    alike: dict[str, list[VariantResult]] = {}
    for result in results.ranking:
        config = result.runs[0].run.config
        if result.is_frozen:
            how = f"{PROBES[config['run']['probe']]} read the features of the frozen network, without augmentation"
        else:
            arguments = flatten(config).get
            recipe = [arguments("model.class_path"), arguments("model.init_args.optimizer.class_path")]
            names = [str(name).rpartition(".")[2] for name in recipe if name]
            rates = {flatten(each.run.config).get(RATE) for each in result.runs}  # several where seeds tuned
            lr = rates.pop() if len(rates) == 1 else None
            epochs = counted(result.runs[0].run.epochs, "epoch")
            how = f"trained for {epochs} by {' and '.join(names)}" + (f" at a rate of {lr:g}" if lr else "")
        alike.setdefault(how, []).append(result)
    return [f"{joined(_quoted(each))}: {how}." for how, each in alike.items()]


def _weights(results: StudyResults) -> Iterator[str]:
    for each in results.context.compute:
        verb = "was taught by" if each.taught else "started from"
        own = ", a run of its own for each seed" if each.by_seed else ""
        names = joined([f"“{name}”" for name in each.variants])
        yield f"{names} {verb} {each.source}{own}."


def _quoted(ranking: Sequence[VariantResult]) -> list[str]:
    return [f"“{result.variant}”" for result in ranking]


def _tested(results: StudyResults) -> list[str]:
    verdict, lines = results.verdict, []
    tested = sum(pair.difference is not None for pair in verdict.pairs)
    if not tested:
        return []
    adjusted = f", adjusted for {counted(tested, 'pair')} by a closed test from the top" if tested > 1 else ""
    extended = results.verdict.watch is None and results.earlier_plans
    level = percent(verdict.level, 1) if extended else 5
    lines.append(f"Pairs were compared at a level of {level}{SPACE}%{adjusted}; chance is {chance(verdict)}.")
    if extended:
        looks = joined([*map(str, results.earlier_plans)])
        lines.append(f"Seeds were added after looks at {looks} of them, for which the level is lower.")
    if results.verdict.watch is not None:
        first, last = results.study.looks[0], results.study.looks[-1]
        lines.append(
            f"The study was planned for {first} to {last} seeds and tested after each from seed {first} on, the last "
            f"time at a level of {percent(verdict.level, 1)}{SPACE}%, so that all looks together make at most "
            f"5{SPACE}% false claims."
        )
    if (margin := verdict.margin) is not None:
        lines.append(f"Differences below {verdict.metric.size(margin)} were taken not to matter.")
    if verdict.outcomes.groups is not None:
        lines.append("Test images of a group were taken to fail together.")
    if (machines := verdict.outcomes.blocks) is not None:
        kinds = {kind for of_seeds in machines.values() for kind in of_seeds.values()}
        how = "what each adds to all scores was estimated by least squares and subtracted"
        how = how if verdict.design.test == "pooled" else "compared variants have the same ones"
        lines.append(f"The runs come from {len(kinds)} kinds of machines; {how}.")
    return lines


def _software(finished: Sequence[RunResult]) -> list[str]:
    def values(key: str) -> str:
        known = list(dict.fromkeys(str(run.environment[key]) for run in finished if run.environment.get(key)))
        return joined(known) if known else ""

    versions = [f"{name} {values(name)}" for name in PACKAGES if values(name)]
    where = " ".join(filter(None, [values("device"), f"in {values('precision')}" if values("precision") else ""]))
    return [f"{joined(versions)}{f' on {where}' if where else ''}."] if versions else []

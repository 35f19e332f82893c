"""The paragraph on methods for a paper, made from the runs of a study."""

from collections.abc import Iterator, Sequence

from referee.formats import SPACE, counted, joined
from referee.report.differences import chance, limits

from vitlab.config import flatten
from vitlab.studies.file.study import PROBES
from vitlab.studies.file.variants import NAMES
from vitlab.studies.results.table import StudyResults

PACKAGES = ("vitlab", "torch", "lightning", "timm")  # that it names


def methods(results: StudyResults) -> Iterator[str]:
    """Yield the sentences of the paragraph on methods."""
    study, metric, first = results.study, results.metric, results.finished[0]
    data = first.run.config["data"]
    root = flatten(data).get("init_args.root")
    source = data["class_path"].rpartition(".")[2] + (f" ({root})" if root else "")
    classes = f" of {len(results.class_names)} classes" if metric.one_class else ""
    splits = {split: facts.get("images") for split, facts in first.data.get("splits", {}).items()}
    words = {"train": "training", "val": "validation"}
    sizes = [f"{splits[split]:,} {word}" for split, word in words.items() if splits.get(split)]
    sizes += [f"{len(results.labels):,} test"]
    tested = ", which are also the validation images" if results.tested_on_validation else ""
    if study.folds:
        sizes = [f"{len(results.labels):,}"]
        tested = f", each tested once a seed in {study.folds} folds by the run that was not trained on it"
    yield f"{source}: {joined(sizes)} images{classes}{tested}."
    counts = sorted({len(result.runs) for result in results.ranking})
    seeds = (f"{counts[0]} to " if len(counts) > 1 else "") + counted(counts[-1], "seed")
    drawn = joined([NAMES[kind] for kind in NAMES if kind in study.vary])
    failed = f" {counted(len(results.failures), 'run')} failed." if results.failures else ""
    names = [result.variant for result in results.ranking]
    yield f"We compared {_quoted(names)} with {seeds} each, which change {drawn}.{failed}"
    yield from _trained(results)
    if study.tuning:
        yield f"We chose {joined(study.tuning.names)} of each variant on the validation images."
    yield (
        f"Scores are {metric.label} of the weights after the last epoch on the {metric.split} images, means over seeds "
        f"with 95{SPACE}% t-intervals."
    )
    yield from _judged(results)
    known = {key: joined(values) for key, values in results.environment.items()}
    if versions := [f"{name} {known[name]}" for name in PACKAGES if name in known]:
        on = {"device": "on", "precision": "in"}
        yield f"{joined(versions)}{''.join(f' {word} {known[key]}' for key, word in on.items() if key in known)}."


def _trained(results: StudyResults) -> Iterator[str]:
    """Yield how long and with what variants were trained, alike ones together, and from which weights."""
    alike: dict[str, list[str]] = {}
    for result in results.ranking:
        settings = flatten(result.runs[0].run.config)
        recipe = [settings.get("model.class_path"), settings.get("model.init_args.optimizer.class_path")]
        by = " and ".join(str(path).rpartition(".")[2] for path in recipe if path)
        rates = {flatten(each.run.config).get("model.init_args.optimizer.init_args.lr") for each in result.runs}
        rate = rates.pop() if len(rates) == 1 else None  # several where seeds tuned
        epochs = counted(result.runs[0].run.epochs, "epoch")
        how = f"trained for {epochs} by {by}" + (f" at a rate of {rate:g}" if rate else "")
        if result.is_frozen:
            how = f"{PROBES[settings['run.probe']]} read the features of the frozen network, without augmentation"
        alike.setdefault(how, []).append(result.variant)
    yield from (f"{_quoted(variants)}: {how}." for how, variants in alike.items())
    for each in results.context.compute:
        own = ", a run of its own for each seed" if each.by_seed else ""
        yield f"{_quoted(each.variants)} {'was taught by' if each.taught else 'started from'} {each.source}{own}."


def _quoted(names: Sequence[str]) -> str:
    return joined([f"“{name}”" for name in names])


def _judged(results: StudyResults) -> Iterator[str]:
    """Yield by which test, and at which level, pairs were compared."""
    verdict, looks, extended = results.verdict, results.study.looks, results.earlier_plans
    tested = sum(pair.difference is not None for pair in verdict.pairs)
    if not tested:
        return
    adjusted = f", adjusted for {counted(tested, 'pair')} by a closed test from the top" if tested > 1 else ""
    level = f"{100 * verdict.level:.2g}{SPACE}%"
    yield f"Pairs were compared at a level of {level}{adjusted}; chance is {chance(verdict)}."
    if looks:
        yield (
            f"The study was planned for {looks[0]} to {looks[-1]} seeds and tested after each from seed {looks[0]} on, "
            f"so that all looks together make at most 5{SPACE}% false claims."
        )
    elif extended:
        yield f"Seeds were added after looks at {joined([*map(str, extended)])} of them, for which the level is lower."
    if verdict.outcomes.groups is not None:
        yield "Test images of a group were taken to fail together."
    if (margin := verdict.margin) is not None:
        yield f"Differences below {verdict.metric.size(margin)} were taken not to matter."
    yield from (line for line in limits(verdict) if line.startswith("The runs come from"))

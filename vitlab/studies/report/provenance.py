"""Where the runs of a study come from: remarks on their environment, code, weights and images; methods for a paper."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

from referee.formats import SPACE, counted, joined, percent
from referee.judging import apart_by_block
from referee.report.differences import chance
from referee.report.document import Code, Details, Note, Part, Text
from referee.statistics.blocks import not_compared

from vitlab.config import ABSENT, flatten
from vitlab.experiment.chain import Source
from vitlab.studies.file.fairness import kind_of, matters, own_classes
from vitlab.studies.file.study import PROBES
from vitlab.studies.file.variants import NAMES
from vitlab.studies.results.run import RunResult
from vitlab.studies.results.table import SET_APART, StudyResults

TRAINING_IMAGES = "training images"
TABLE = "table.tex"
PACKAGES, MACHINE = ("vitlab", "torch", "lightning", "timm"), ("device", "precision")  # that the methods name
TEST_TIME = 1.2  # times the FLOPs of a training forward that a forward pass at test may cost


def confounded_environments(results: StudyResults) -> Iterator[str]:
    """Object to an environment that two variants do not share."""
    confounded, machines = _confounded(results), results.outcomes.blocks
    for key, values in confounded.items():
        each = "; ".join(f"{variant} {' and '.join(own)}" for variant, own in values.items())
        yield f"The environment differs between variants ({key}: {each}), which may be why they do."
    if not confounded and machines and (both := not_compared(machines, results.study.test)):
        seeds = "Train each seed" if results.study.test == "pooled" else f"test: {results.study.test} needs each seed"
        yield (
            f"{joined(both)} trained on different kinds of machines ({_by_kind(machines)}), which may be why they "
            f"differ. {seeds} of all variants on one kind."
        )
    elif not confounded:
        for check in apart_by_block(results.outcomes, results.study.test):
            yield f"{check.text[0].upper()}{check.text[1:]}"


def _by_kind(machines: Mapping[str, Mapping[str, str]]) -> str:
    """Return the seeds of each kind of machine, with the variant where only some of them trained there."""
    where: dict[str, dict[str, list[str]]] = {}
    for variant, of_seeds in machines.items():
        for seed, machine in of_seeds.items():
            where.setdefault(machine, {}).setdefault(seed, []).append(variant)
    count = len(machines)
    return "; ".join(
        f"{machine}: "
        + ("seed " if len(of_seeds) == 1 else "seeds ")
        + joined([s if len(variants) == count else f"{s} ({joined(variants)})" for s, variants in of_seeds.items()])
        for machine, of_seeds in where.items()
    )


def _confounded(results: StudyResults) -> dict[str, dict[str, tuple[str, ...]]]:
    """Return by variant the values of each decisive entry of environment.json that separates two of them.

    Two variants without a common value cannot be told from their environments. What the study sets is no environment.
    """
    values = {
        key: {
            result.variant: tuple(sorted({str(run.environment.get(key, ABSENT)) for run in result.runs}))
            for result in results.ranking
        }
        for key in SET_APART
        if key not in results.set_by_study and not key.startswith("data.")
    }
    images = {
        result.variant: tuple(sorted({run.training_images for run in result.runs if run.training_images}))
        for result in results.ranking
    }
    chosen = any(kind_of(each.key) == "data" and matters(each.key, each.values) for each in results.differences)
    if all(images.values()) and not chosen and not _draws_images(results):
        values[TRAINING_IMAGES] = images
    return {
        key: by_variant
        for key, by_variant in values.items()
        if any(set(a).isdisjoint(b) for a, b in combinations(by_variant.values(), 2))
    }


def _draws_images(results: StudyResults) -> bool:
    return "images" in results.study.vary or results.study.folds is not None


def mixed_environments(results: StudyResults) -> Iterator[str]:
    """Name what varies among the runs without being confounded with the variants."""
    confounded, machines = _confounded(results), results.outcomes.blocks
    mixed = [
        f"{key}: {', '.join(values)}"
        for key, values in results.environment.items()
        if len(values) > 1 and key not in confounded and key != "git"  # which says less than the hash of the code
    ]
    if mixed:
        within = ""
        if machines and not not_compared(machines, results.study.test):
            within = f" Variants are compared within kinds of machines ({_by_kind(machines)})."
        yield f"The runs come from different environments ({'; '.join(mixed)}).{within}"
    for run in [part for result in results.finished for part in result.parts or [result]]:
        if "changed" in run.environment:
            yield f"{run.run} was continued after {joined(run.environment['changed'])} had changed."


def mixed_code(results: StudyResults) -> Iterator[str]:
    """Object to runs of one variant that trained different code, or started from different weights."""
    for result in results.ranking:
        for entry, what in (("sources", "code"), ("weights", "weights")):
            parts = [part for run in result.runs for part in run.parts or [run]]
            recorded = [part.environment.get(entry, {}) for part in parts]
            settings = flatten(parts[0].run.config)
            for name in dict.fromkeys(name for each in recorded for name in each):
                if Source.parse(settings.get(name)):  # trained with each seed
                    continue
                if seeds := _seeds_by_hash(parts, [each.get(name, {}).get("hash") for each in recorded]):
                    yield f"The runs of {result.variant} differ in {what}, {name} ({seeds})."


def mixed_images(results: StudyResults) -> Iterator[str]:
    """Object to runs of one variant that were trained on different images, unless its seeds draw them."""
    for result in [] if _draws_images(results) else results.ranking:
        if seeds := _seeds_by_hash(result.runs, [run.training_images for run in result.runs]):
            yield (
                f"The runs of {result.variant} were trained on different images ({seeds}). Did the folder change? "
                "Remove the run directories of one hash and compare again."
            )


def _seeds_by_hash(runs: Sequence[RunResult], hashes: Sequence[str | None]) -> str:
    """Return which runs of a variant have which hash; empty where they agree. Runs of older versions have none."""
    seeds: dict[str, dict[str, None]] = {}
    for run, value in zip(runs, hashes, strict=True):
        if value:
            seeds.setdefault(value, {})[str(run.run.seed)] = None
    return "; ".join(f"hash {value}: seed {joined([*own])}" for value, own in seeds.items()) if len(seeds) > 1 else ""


def own_code(results: StudyResults) -> list[str]:
    """Name classes of the user's own, whose behavior in evaluation nothing here knows."""
    users: dict[str, list[str]] = {}
    for result in results.ranking:
        run = result.runs[0]
        recorded = run.environment.get("sources", {})
        for path in own_classes(run.run.config, recorded):
            source = recorded.get(path)
            where = f"{source['file']}, hash {source['hash']}" if source else "its code was not recorded"
            users.setdefault(f"{path} ({where})", []).append(result.variant)
    return [
        f"{joined(variants)} use{'s' * (len(variants) == 1)} a class of your own: {path}. What it does in evaluation "
        "is not checked."
        for path, variants in users.items()
    ]


def more_at_test_time(results: StudyResults) -> Iterator[str]:
    """Name variants that compute more at test time than in training, as one does that averages views."""
    for result in results.ranking:
        times = result.cost("flops") / (result.cost("train_forward_flops") or math.nan)
        if times > TEST_TIME:
            yield (
                f"A forward pass of {result.variant} takes {times:.1f} times as many FLOPs at test as in training, as "
                "one that averages several views of an image."
            )


# ---- for a paper


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


def methods(results: StudyResults) -> Iterator[str]:
    """Yield the sentences of the paragraph."""
    study, metric, first = results.study, results.metric, results.finished[0]
    data = first.run.config["data"]
    root = flatten(data).get("init_args.root")
    source = data["class_path"].rpartition(".")[2] + (f" ({root})" if root else "")
    classes = f" of {len(results.class_names)} classes" if metric.one_class else ""
    if study.folds:
        yield (
            f"{source}: {counted(len(results.labels), 'image')}{classes}, each tested once a seed in {study.folds} "
            "folds by the run that was not trained on it."
        )
    else:
        splits = {split: facts.get("images") for split, facts in first.data.get("splits", {}).items()}
        words = {"train": "training", "val": "validation"}
        sizes = [f"{splits[split]:,} {word}" for split, word in words.items() if splits.get(split)]
        also = ", which are also the validation images" if results.tested_on_validation else ""
        yield f"{source}: {joined([*sizes, f'{len(results.labels):,} test'])} images{classes}{also}."
    low, high = (end(len(result.runs) for result in results.ranking) for end in (min, max))
    seeds = f"{low} to {high} seeds" if low < high else counted(low, "seed")
    drawn = joined([NAMES[kind] for kind in NAMES if kind in study.vary])
    failed = f" {counted(len(results.failures), 'run')} failed." if results.failures else ""
    names = [result.variant for result in results.ranking]
    yield f"We compared {_quoted(names)} with {seeds} each, which change {drawn}.{failed}"
    yield from _trained(results)
    if study.tuned:
        tuned = joined([key.rpartition(".")[2] for key in study.tuned])
        yield f"We chose {tuned} of each variant on the validation images."
    yield (
        f"Scores are {metric.label} of the weights after the last epoch on the {metric.split} images, means over seeds "
        f"with 95{SPACE}% t-intervals."
    )
    yield from _tested(results)
    known = {key: dict.fromkeys(run.environment.get(key) for run in results.finished) for key in (*PACKAGES, *MACHINE)}
    texts = {key: joined([str(value) for value in values if value]) for key, values in known.items() if any(values)}
    if versions := [f"{name} {texts[name]}" for name in PACKAGES if name in texts]:
        on = f" on {texts['device']}" if "device" in texts else ""
        in_precision = f" in {texts['precision']}" if "precision" in texts else ""
        yield f"{joined(versions)}{on}{in_precision}."


def _trained(results: StudyResults) -> Iterator[str]:
    """Say how long and with what each variant was trained, alike ones together, and from which weights."""
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


def _tested(results: StudyResults) -> Iterator[str]:
    verdict, looks = results.verdict, results.study.looks
    tested = sum(pair.difference is not None for pair in verdict.pairs)
    if not tested:
        return
    adjusted = f", adjusted for {counted(tested, 'pair')} by a closed test from the top" if tested > 1 else ""
    extended = verdict.watch is None and results.earlier_plans
    level = percent(verdict.level, 1)
    at = f"{level if extended else 5}{SPACE}%"
    yield f"Pairs were compared at a level of {at}{adjusted}; chance is {chance(verdict)}."
    if extended:
        earlier = joined([*map(str, results.earlier_plans)])
        yield f"Seeds were added after looks at {earlier} of them, for which the level is lower."
    if verdict.watch is not None:
        yield (
            f"The study was planned for {looks[0]} to {looks[-1]} seeds and tested after each from seed {looks[0]} on, "
            f"the last time at a level of {level}{SPACE}%, so that all looks together make at most 5{SPACE}% false "
            "claims."
        )
    if (margin := verdict.margin) is not None:
        yield f"Differences below {verdict.metric.size(margin)} were taken not to matter."
    if verdict.outcomes.groups is not None:
        yield "Test images of a group were taken to fail together."
    if (machines := verdict.outcomes.blocks) is not None:
        kinds = {kind for of_seeds in machines.values() for kind in of_seeds.values()}
        how = "compared variants have the same ones"
        if verdict.design.test == "pooled":
            how = "what each adds to all scores was estimated by least squares and subtracted"
        yield f"The runs come from {len(kinds)} kinds of machines; {how}."

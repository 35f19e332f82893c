"""What makes the comparison of a study void, and what qualifies its conclusion."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import combinations

import numpy as np
from referee.checks import two_states
from referee.formats import SPACE, counted, joined, listed, percent
from referee.judging import apart_by_block
from referee.statistics.blocks import first_confounded
from referee.statistics.contrast import LEVEL, half_width, spread, t_interval

from vitlab.config import ABSENT, flatten
from vitlab.experiment.chain import Source
from vitlab.studies.file.fairness import kind_of, label, matters, name_of, own_classes
from vitlab.studies.file.format import clock
from vitlab.studies.file.registration import UNFINISHED
from vitlab.studies.file.runs import never_reached
from vitlab.studies.file.study import PROBES
from vitlab.studies.report.cost import cost_remarks, winner_costs
from vitlab.studies.report.tuning import tuning_remarks
from vitlab.studies.results.run import RunResult, VariantResult
from vitlab.studies.results.table import MACHINE, StudyResults

SHOWN = 4  # settings that an objection names
ABOVE = 2  # remarks above a ranking, besides objections
UNEVEN = 3  # times as many test images of one class as of another
DIFFERENT = 0.01  # the share by which numbers of training images may differ
TEST_TIME = 1.2  # times the FLOPs of a training forward that a forward pass at test may cost


def objections(results: StudyResults) -> list[str]:
    """List what makes the comparison void, the gravest first: no variant can be called better."""
    if len(results.ranking) < 2:
        return []
    lines = []
    differing = [each for each in results.differences if not each.declared and matters(each.key, each.values)]
    if names := list(dict.fromkeys(label(each.key) for each in differing)):
        pure = "architecture comparison" if _architecture_differs(results) else "comparison of what the study declares"
        which = joined(names) if len(names) <= SHOWN else listed(names, SHOWN)
        verb = "differs" if len(names) == 1 else "differ"
        lines.append(f"Not a pure {pure}: {which} {verb} too, and the study does not declare it.")
    lines += [f"{line}, so its lead is that of selected runs." for line in _survivors(results, leading=True)]
    return [*lines, *mixed_runs(results), *confounded_environments(results)]


def remarks(results: StudyResults) -> list[str]:
    """List what qualifies the conclusion, the gravest kind first; begins with the objections."""
    if not results.finished:
        return [*_failures(results)]
    return [*objections(results), *(line for kind in (*DECISIVE, _further) for line in kind(results))]


def remarks_above(results: StudyResults) -> list[str]:
    """List the remarks that stand above the ranking: all objections, and the first of the two gravest kinds."""
    if not results.finished:
        return [*_failures(results)]
    gravest = [line for kind in DECISIVE for line in [*kind(results)][:1]]
    return [*objections(results), *gravest[:ABOVE]]


def remarks_below(results: StudyResults) -> list[str]:
    """List the other remarks, without the sentence on cost that stands beside the headline."""
    above = [*remarks_above(results), *winner_costs(results)]
    return [line for line in remarks(results) if line not in above]


def _declared(results: StudyResults) -> Iterator[str]:
    """Name the declared differences that are not architecture; tuned ones and those of the budget have own sections."""
    chosen = tuple(results.study.may_differ)
    kinds: dict[str, dict[str, None]] = {}  # names of settings by kind
    for each in results.differences:
        kind = kind_of(each.key)
        if kind != "architecture" and each.declared and each.key.startswith(chosen) and matters(each.key, each.values):
            kinds.setdefault(kind, {})[name_of(each.key)] = None
    named = "; ".join(f"{listed([*names])} ({kind})" for kind, names in sorted(kinds.items()))
    if named and _architecture_differs(results):
        yield f"Declared, but not architecture: {named}. The differences are not the architectures' alone."
    elif named:
        yield f"All variants have the same architecture; they differ, as declared, in {named}."


def _architecture_differs(results: StudyResults) -> bool:
    return any(kind_of(each.key) == "architecture" for each in results.differences)


def _states(results: StudyResults) -> list[str]:
    return [f"{check.text[0].upper()}{check.text[1:]}" for check in two_states(results.outcomes)]


def _weights(results: StudyResults) -> Iterator[str]:
    context, parts = results.context, []
    for each in context.compute:
        who = "all variants" if len(each.variants) == len(results.study.variants) else joined(each.variants)
        if each.in_each_run:
            verb = "is taught by" if each.taught else "starts from"
            own = " with its own seed" if each.by_seed else ""
            where = "Training time includes that; images seen leave it out."
            yield f"Each run of {who} {verb} a run of {each.source}{own}. {where}"
            continue
        spent = "compute unknown"
        if each.seconds is not None and each.images is not None:
            spent = f"{clock(each.seconds)} of training, {counted(each.images, 'image')}"
        parts.append(f"{who} {'taught by' if each.taught else 'from'} {each.source} ({spent})")
    if parts:
        yield (
            f"Weights from elsewhere: {'; '.join(parts)}. Images seen and training time leave this out. All seeds "
            "share these weights, so no interval covers another training of them."
        )
    if runs := context.trials:
        spent = f"{clock(context.trial_seconds)} of training on {counted(context.trial_images, 'image')}"
        yield f"Tuning took {counted(runs, 'more run')}, {spent}. Images seen and training time leave this out."


def _failures(results: StudyResults) -> Iterator[str]:
    if not results.failures:
        return
    total = len(results.finished) + len(results.failures)
    which = "; ".join(f"{run}: {failure}" for run, failure in results.failures)
    yield f"{len(results.failures)} of {counted(total, 'run')} failed and are excluded from all averages ({which})."
    yield from (f"{line}." for line in _survivors(results, leading=False))


def _survivors(results: StudyResults, leading: bool) -> Iterator[str]:
    """Name the variants with failed seeds: those that are better than another one, or the rest."""
    better = [pair.better for pair in results.verdict.pairs if pair.settled]
    for result in results.ranking:
        failed = sum(run.variant == result.variant and why != UNFINISHED for run, why in results.failures)
        if not failed or leading != any(each is result.judged for each in better):
            continue
        total = len(result.runs) + failed
        text = f"{result.variant} failed in {failed} of {counted(total, 'seed')}"
        if results.metric.is_accuracy:
            chance = 1 / len(results.class_names)
            mean = (sum(run.score for run in result.runs) + failed * chance) / total
            level = percent(chance, 0 if chance >= 0.01 else 1)
            text += (
                f"; counted as chance ({level}{SPACE}%), its mean would be {_score(mean, results)} instead of "
                f"{_score(result.score.mean, results)}"
            )
        yield text


def _left_out(results: StudyResults) -> Iterator[str]:
    if runs := results.context.left_out:
        named = "; ".join(f"{name}: {_score(score, results)}" for name, score in runs)
        verb = "is" if len(runs) == 1 else "are"
        yield (
            f"Left out: {counted(len(runs), 'finished run')} in the study's folder {verb} not in this comparison "
            f"({named}). Seeds or variants that were dropped after their results were known bias it."
        )


def _extension(results: StudyResults) -> Iterator[str]:
    """State what it costs that seeds were added after a look at the results which was not planned."""
    if not results.earlier_plans:
        return
    ended = [look for look in results.log if look["stop"] and len(look["seeds"]) in results.earlier_plans]
    trained = max((variant["seeds"] for look in ended for variant in look["variants"]), default=0)
    numbers = f"{', '.join(map(str, results.earlier_plans))} to {counted(len(results.study.seeds), 'seed')}"
    if not results.study.looks:
        yield (
            f"The list was extended from {numbers} after a look at the results, so each pair is tested at the level "
            f"{results.verdict.level:.3f} instead of 0.05: half of the error that the earlier looks left. "
            "`seeds: {from: 4, to: …}` plans the looks."
        )
    elif max((len(result.runs) for result in results.ranking), default=0) > trained:
        more = f"so more than 5{SPACE}% of such claims may be false."
        yield f"The study was extended from {numbers} after it had ended, and trained further, {more}"


def _late_variants(results: StudyResults) -> Iterator[str]:
    """Name the variants that joined after a look at the others, which nobody planned."""
    first = results.log[0] if results.log else {"variants": []}
    known = {variant["variant"] for variant in first["variants"]}
    names = [result.variant for result in results.ranking if known and result.variant not in known]
    if late := [name for name in names if not any(run.startswith(f"{name}, ") for run in first.get("failures", ()))]:
        yield f"{joined(late)} joined after a look at the others: more than 5{SPACE}% of claims about it may be false."


def _off_plan(results: StudyResults) -> Iterator[str]:
    """Compare the epochs and images of every run with the plan."""
    budget = results.study.budget
    for result in results.ranking:
        short = [run for run in result.runs if run.summary.get("epochs", run.run.epochs) != run.run.epochs]
        if short:
            epochs = [run.summary["epochs"] for run in short]
            trained = f"{_range(epochs)}{SPACE}epoch{'' if max(epochs) == 1 else 's'}"
            planned = f"{short[0].run.epochs} (seed {joined([str(run.run.seed) for run in short])})"
            yield f"{result.variant} trained {trained} instead of {planned}: something ended its runs early."
    yield from never_reached(run.run for result in results.ranking for run in result.runs)
    learners = [result for result in results.ranking if not result.is_frozen]
    seen = {result.variant: [run.images_seen for run in result.runs] for result in learners}
    unequal = budget is not None and budget.kind == "flops"
    groups = seen.values() if unequal else [[n for images in seen.values() for n in images]]
    if any(max(group) > (1 + DIFFERENT) * min(group) for group in groups if group):
        each = "; ".join(f"{variant} {_range(images)}" for variant, images in seen.items())
        yield f"The runs did not see equally many training images: {each}."


def _averaged(results: StudyResults) -> Iterator[str]:
    """Name variants whose averaged weights are clearly better than the weights that are ranked."""
    sign = results.metric.sign
    for result in results.ranking:
        ema, score = result.score_ema, result.score
        end = score.high if sign > 0 else score.low
        if ema is not None and sign * ema.mean > sign * end:
            last, averaged = _score(score.mean, results), _score(ema.mean, results)
            better = f"the averages of its weights are better by more than the interval ({averaged})"
            yield f"{result.variant} is ranked by its last weights ({last}); {better}."


def not_beyond_baselines(results: StudyResults) -> list[str]:
    """Name, for each baseline and for the start of the training, the variants whose lead over it can be chance.

    Three sources of chance: the seeds of the variant, the test images of its accuracy, and those of the baseline's. A
    variant and a baseline find the same images hard, so that adding the last two is on the safe side.
    """
    lines, vain, digits = [], [], results.verdict.digits
    known = results.baselines.lines.items() if results.baselines else ()
    for line, value in sorted(known, key=lambda each: -each[1]):  # what beats the best beats all
        below = [result for result in results.ranking if not _beats(result, value, results)]
        scores = [(result.variant, percent(result.score.mean, digits)) for result in below]
        at = f"{line} ({percent(value, digits)}{SPACE}%)"
        if len(below) == len(results.ranking) > 1:
            beats = f"beats {at} beyond chance" if results.ranking[0].score.mean > value else f"reaches {at}"
            lines.append(f"No variant {beats}: {', '.join(map(' '.join, scores))}.")
        elif below:
            who = joined([f"{variant} ({score}{SPACE}%)" for variant, score in scores])
            lines.append(f"{who} {'does' if len(below) == 1 else 'do'} not beat {at} beyond chance.")
    for result in results.ranking:
        gains = [run.score - run.untrained for run in result.runs if run.untrained is not None]
        if any(gain <= 0 for gain in gains) if len(gains) < 2 else not t_interval(gains).low > 0:
            vain.append(result.variant)
    if vain:
        lines.append(f"The training of {joined(vain)} improved no features beyond chance.")
    return lines


def design_effect(rate: np.ndarray, groups: np.ndarray | None) -> float:
    """Return by how much the variance of a mean over images (N,) grows, as those of a group are alike; 1 or more."""
    if groups is None or not rate.var():
        return 1.0
    sums = np.bincount(groups, rate - rate.mean())
    return max(1.0, float(np.square(sums).sum() / (len(rate) * rate.var())))


def _beats(result: VariantResult, line: float, results: StudyResults) -> bool:
    """Whether the 95 % interval of a variant's lead over a baseline lies above zero."""
    assert results.baselines is not None
    N, S = len(results.labels), len(result.runs)
    several = [other for other in results.ranking if len(other.runs) > 1]
    variances = [spread(np.array([run.score for run in other.runs]), 1 / N) ** 2 for other in several]
    freedom = [len(other.runs) - 1 for other in several]
    seeds = float(np.average(variances, weights=freedom)) / S if several else 0.0
    rate = np.mean([run.correct for run in result.runs], axis=0)  # of being right, (N,)
    images = float(rate.var()) / N + line * (1 - line) / results.baselines.test_images
    images *= design_effect(rate, results.outcomes.groups)
    return result.score.mean - line > half_width(LEVEL, seeds, images, sum(freedom) or 1)


def _leaks(results: StudyResults) -> Iterator[str]:
    if results.tested_on_validation:
        yield (
            f"The {counted(len(results.labels), 'test image')} are also the validation images: best.ckpt and every "
            "tuned setting were selected on them. Hold out other images for unbiased numbers."
        )
    yield from results.context.leaks


def _uneven_classes(results: StudyResults) -> Iterator[str]:
    if not results.metric.is_accuracy:
        return
    counts = results.per_class["images"].loc[lambda images: images > 0]
    if counts.max() >= UNEVEN * counts.min():
        yield (
            f"Test classes are uneven, {counts.max():,} images of {counts.idxmax()} and {counts.min():,} of "
            f"{counts.idxmin()}, so that large ones decide the accuracy. `metric: {{name: balanced_accuracy, mode: "
            "max}`, or macro_f1, counts all classes equally."
        )


def _ranked_on_validation(results: StudyResults) -> Iterator[str]:
    if results.metric.split == "validation":
        others = "by which checkpoints and settings may have been chosen; test images may rank them otherwise"
        yield f"Variants are ranked by {results.metric.name}, of validation images, {others}."


# ---- code, weights, machines and images of the runs


def confounded_environments(results: StudyResults) -> Iterator[str]:
    """Object to an environment that two variants do not share."""
    confounded = _confounded(results)
    for key, values in confounded.items():
        each = "; ".join(f"{variant} {' and '.join(own)}" for variant, own in values.items())
        yield f"The environment differs between variants ({key}: {each}), which may be why they do."
    for check in () if confounded else apart_by_block(results.outcomes, results.study.test):
        yield f"On several machines, {check.text}"


def _confounded(results: StudyResults) -> dict[str, dict[str, tuple[str, ...]]]:
    """Return, by variant, each decisive entry of environment.json of which two have no value in common."""
    values = {
        key: {
            result.variant: tuple(sorted({str(run.environment.get(key, ABSENT)) for run in result.runs}))
            for result in results.ranking
        }
        for key in ("vitlab", "code", *MACHINE)
        if key not in results.set_by_study
    }
    images = {
        result.variant: tuple(sorted({run.training_images for run in result.runs if run.training_images}))
        for result in results.ranking
    }
    chosen = any(kind_of(each.key) == "data" and matters(each.key, each.values) for each in results.differences)
    if all(images.values()) and not chosen and not results.study.folds and "images" not in results.study.vary:
        values["training images"] = images
    return {
        key: by_variant
        for key, by_variant in values.items()
        if any(set(a).isdisjoint(b) for a, b in combinations(by_variant.values(), 2))
    }


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
        if machines and not first_confounded(machines, results.study.test):
            within = " Variants are compared within kinds of machines."
        yield f"The runs come from different environments ({'; '.join(mixed)}).{within}"
    for run in [part for result in results.finished for part in result.parts or [result]]:
        if "changed" in run.environment:
            yield f"{run.run} was continued after {joined(run.environment['changed'])} had changed."


def mixed_runs(results: StudyResults) -> Iterator[str]:
    """Object to runs of one variant that differ in their code, the weights they start from, or their images."""
    drawn = results.study.folds or "images" in results.study.vary  # by the seeds
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
        seeds = _seeds_by_hash(result.runs, [run.training_images for run in result.runs])
        if seeds and not drawn:
            remedy = "Did the folder change? Remove the run directories of one hash and compare again."
            yield f"The runs of {result.variant} were trained on different images ({seeds}). {remedy}"


def _seeds_by_hash(runs: Sequence[RunResult], hashes: Sequence[str | None]) -> str:
    """Return which runs of a variant have which hash; empty where they agree. Runs of older versions have none."""
    seeds: dict[str, dict[str, None]] = {}
    for run, value in zip(runs, hashes, strict=True):
        if value:
            seeds.setdefault(value, {})[str(run.run.seed)] = None
    return "; ".join(f"hash {value}: seed {joined([*own])}" for value, own in seeds.items()) if len(seeds) > 1 else ""


def own_code(results: StudyResults) -> Iterator[str]:
    """Name classes of the user's own, whose behavior in evaluation nothing here knows."""
    users: dict[str, list[str]] = {}
    for result in results.ranking:
        run = result.runs[0]
        recorded = run.environment.get("sources", {})
        for path in own_classes(run.run.config, recorded):
            source = recorded.get(path)
            where = f"{source['file']}, hash {source['hash']}" if source else "its code was not recorded"
            users.setdefault(f"{path} ({where})", []).append(result.variant)
    for path, variants in users.items():
        use = "uses" if len(variants) == 1 else "use"
        yield f"{joined(variants)} {use} a class of your own: {path}. What it does in evaluation is not checked."


Kind = Callable[[StudyResults], Iterable[str]]

# What may change what a reader concludes or does next, the gravest first.
DECISIVE: tuple[Kind, ...] = (
    _failures, _ranked_on_validation, _leaks, _uneven_classes, not_beyond_baselines, _states, _extension,
    _late_variants, _left_out, _declared, _off_plan, _averaged, tuning_remarks,
)  # fmt: skip


def _further(results: StudyResults) -> Iterator[str]:
    yield from winner_costs(results)
    if frozen := [result for result in results.ranking if result.is_frozen]:
        names = joined([result.variant for result in frozen])
        how = joined(list(dict.fromkeys(PROBES[result.runs[0].run.config["run"]["probe"]] for result in frozen)))
        verb, whose = ("is", "its") if len(frozen) == 1 else ("are", "their")
        yield f"{names} {verb} frozen: no step trains the network, {how} of {whose} features is all that is fitted."
    yield from [*_weights(results), *own_code(results)]
    for result in results.ranking:
        times = result.cost("flops") / (result.cost("train_forward_flops") or math.nan)
        if times > TEST_TIME:  # as one that averages several views of an image
            yield f"A forward pass of {result.variant} takes {times:.1f} times as many FLOPs at test as in training."
    yield from [*mixed_environments(results), *cost_remarks(results)]
    if studies := results.context.studies:
        others = "Another study" if len(studies) == 1 else f"{len(studies)} other studies"
        unknown = "choices made by those results are not accounted for"
        yield f"{others} in this folder used the same test images ({listed(studies)}); {unknown}."


def _score(value: float | None, results: StudyResults) -> str:
    if value is None or math.isnan(value):
        return "no score"
    return results.metric.text(value, results.verdict.digits) + (f"{SPACE}%" if results.metric.is_fraction else "")


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"

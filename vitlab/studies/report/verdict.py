"""The verdict of a study: referee's, unless something else than the declared settings differs between its variants.

First what makes the comparison void, and what qualifies its conclusion. For other programs the verdict is in
`verdict.json`, whose keys docs/studies.md lists, and `claim.json`; `looks.jsonl` records each look at the test results:
testing repeatedly, or adding seeds after seeing results, inflates false positives.
"""

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import referee.plan
from referee.checks import Check, two_states
from referee.claim import OPEN, p_of_claim
from referee.formats import SPACE, counted, joined, listed, percent
from referee.judging import apart_by_block
from referee.report.claim import deciding
from referee.statistics.blocks import first_confounded
from referee.statistics.contrast import LEVEL, half_width, spread, t_interval
from referee.statistics.power import MOST_SEEDS, Need
from referee.verdict import VOID, Pair, Verdict

from vitlab.atomic_files import write_text
from vitlab.config import ABSENT, flatten
from vitlab.experiment.chain import Source
from vitlab.studies.file.fairness import kind_of, label, matters, name_of, own_classes
from vitlab.studies.file.format import clock, duration
from vitlab.studies.file.registration import UNFINISHED, keep_word
from vitlab.studies.file.runs import never_reached
from vitlab.studies.file.study import PROBES, Study
from vitlab.studies.report.cost import cost_remarks, tuning_remarks, winner_costs
from vitlab.studies.results import MACHINE, RunResult, StudyResults

SHOWN = 4  # settings that an objection names
ABOVE = 2  # remarks above a ranking, besides objections
UNEVEN = 3  # times as many test images of one class as of another
DIFFERENT = 0.01  # the share by which numbers of training images may differ
TEST_TIME = 1.2  # times the FLOPs of a training forward that a forward pass at test may cost


def objections(results: StudyResults) -> list[str]:
    """List what makes the comparison void, the gravest first: no variant can be called better.

    Undeclared settings; a leader's failed seeds; runs of one variant that differ in their code, the weights they start
    from, or their images; an environment that two variants do not share.
    """
    if len(results.ranking) < 2:
        return []
    lines = []
    differing = [each for each in results.differences if not each.declared and matters(each.key, each.values)]
    if names := list(dict.fromkeys(label(each.key) for each in differing)):
        architectures = any(kind_of(each.key) == "architecture" for each in results.differences)
        pure = "architecture comparison" if architectures else "comparison of what the study declares"
        which = joined(names) if len(names) <= SHOWN else listed(names, SHOWN)
        verb = "differs" if len(names) == 1 else "differ"
        lines.append(f"Not a pure {pure}: {which} {verb} too, and the study does not declare it.")
    lines += [f"{line}, so its lead is that of selected runs." for line in _survivors(results, leading=True)]
    drawn = results.study.folds or "images" in results.study.vary  # by the seeds
    for result in results.ranking:
        parts = [part for run in result.runs for part in run.parts or [run]]
        for entry, what in (("sources", "code"), ("weights", "weights")):
            recorded, settings = [part.environment.get(entry, {}) for part in parts], flatten(parts[0].run.config)
            for name in dict.fromkeys(name for each in recorded for name in each):
                if Source.parse(settings.get(name)):  # trained with each seed
                    continue
                if seeds := _seeds_by_hash(parts, [each.get(name, {}).get("hash") for each in recorded]):
                    lines.append(f"The runs of {result.variant} differ in {what}, {name} ({seeds}).")
        seeds = _seeds_by_hash(result.runs, [run.training_images for run in result.runs])
        if seeds and not drawn:
            remedy = "Did the folder change? Remove the run directories of one hash and compare again."
            lines.append(f"The runs of {result.variant} were trained on different images ({seeds}). {remedy}")
    confounded = _confounded(results)
    for key, values in confounded.items():
        each_one = "; ".join(f"{variant} {' and '.join(own)}" for variant, own in values.items())
        lines.append(f"The environment differs between variants ({key}: {each_one}), which may be why they do.")
    blocks = [] if confounded else apart_by_block(results.outcomes, results.study.test)
    return [*lines, *(f"On several machines, {check.text}" for check in blocks)]


def remarks(results: StudyResults) -> list[str]:
    """List what qualifies the conclusion, the gravest kind first; begins with the objections."""
    if not results.finished:
        return [*_failures(results)]
    return [*objections(results), *(line for kind in _decisive(results) for line in kind), *_further(results)]


def remarks_above(results: StudyResults) -> list[str]:
    """List the remarks that stand above the ranking: all objections, and the first of the two gravest kinds."""
    if not results.finished:
        return [*_failures(results)]
    return [*objections(results), *[kind[0] for kind in _decisive(results) if kind][:ABOVE]]


def remarks_below(results: StudyResults) -> list[str]:
    """List the other remarks, without the sentence on cost that stands beside the headline."""
    above = [*remarks_above(results), *winner_costs(results)]
    return [line for line in remarks(results) if line not in above]


def _decisive(results: StudyResults) -> Iterator[list[str]]:
    """Yield by kind what may change what a reader concludes or does next, the gravest kind first."""
    yield [*_failures(results)]
    yield from _of_images(results)
    yield not_beyond_baselines(results)
    yield [f"{check.text[0].upper()}{check.text[1:]}" for check in two_states(results.outcomes)]
    yield from _of_plan(results)
    yield from _of_runs(results)
    yield tuning_remarks(results)


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


def _of_images(results: StudyResults) -> Iterator[list[str]]:
    """Yield by kind what qualifies scores on these images: chosen by them, or seen before, or of uneven classes."""
    others = "by which checkpoints and settings may have been chosen; test images may rank them otherwise"
    on_validation = f"Variants are ranked by {results.metric.name}, of validation images, {others}."
    yield [on_validation] if results.metric.split == "validation" else []
    both = (
        f"The {counted(len(results.labels), 'test image')} are also the validation images: best.ckpt and every "
        "tuned setting were selected on them. Hold out other images for unbiased numbers."
    )
    yield [*([both] if results.tested_on_validation else []), *results.context.leaks]
    if results.metric.is_accuracy:
        counts = results.per_class["images"].loc[lambda images: images > 0]
        uneven = (
            f"Test classes are uneven, {counts.max():,} images of {counts.idxmax()} and {counts.min():,} of "
            f"{counts.idxmin()}, so that large ones decide the accuracy. `metric: {{name: balanced_accuracy, mode: "
            "max}`, or macro_f1, counts all classes equally."
        )
        yield [uneven] if counts.max() >= UNEVEN * counts.min() else []


def _of_plan(results: StudyResults) -> Iterator[list[str]]:
    """Yield by kind what changed after results were known, and the declared differences that are not architecture.

    Those that tuning or the budget set have sections of their own.
    """
    study, lines = results.study, list[str]()
    if results.earlier_plans:  # seeds were added after a look that was not planned
        ended = [look for look in results.log if look["stop"] and len(look["seeds"]) in results.earlier_plans]
        trained = max((variant["seeds"] for look in ended for variant in look["variants"]), default=0)
        numbers = f"{', '.join(map(str, results.earlier_plans))} to {counted(len(study.seeds), 'seed')}"
        if not study.looks:
            lines.append(
                f"The list was extended from {numbers} after a look at the results, so each pair is tested at the "
                f"level {results.verdict.level:.3f} instead of 0.05: half of the error that the earlier looks left. "
                "`seeds: {from: 4, to: …}` plans the looks."
            )
        elif max((len(result.runs) for result in results.ranking), default=0) > trained:
            more = f"so more than 5{SPACE}% of such claims may be false."
            lines.append(f"The study was extended from {numbers} after it had ended, and trained further, {more}")
    yield lines
    first = results.log[0] if results.log else {"variants": []}
    known = {variant["variant"] for variant in first["variants"]}
    names = [result.variant for result in results.ranking if known and result.variant not in known]
    late = [name for name in names if not any(run.startswith(f"{name}, ") for run in first.get("failures", ()))]
    more = f"more than 5{SPACE}% of claims about it may be false."
    yield [f"{joined(late)} joined after a look at the others: {more}"] if late else []
    if runs := results.context.left_out:
        named = "; ".join(f"{name}: {_score(score, results)}" for name, score in runs)
        which = f"{counted(len(runs), 'finished run')} in the study's folder {'is' if len(runs) == 1 else 'are'}"
        bias = "Seeds or variants that were dropped after their results were known bias it."
        yield [f"Left out: {which} not in this comparison ({named}). {bias}"]
    kinds: dict[str, dict[str, None]] = {}  # names of settings by kind
    for each in results.differences:
        kind = kind_of(each.key)
        is_chosen = each.declared and each.key.startswith(tuple(study.may_differ))
        if kind != "architecture" and is_chosen and matters(each.key, each.values):
            kinds.setdefault(kind, {})[name_of(each.key)] = None
    shown = "; ".join(f"{listed([*names])} ({kind})" for kind, names in sorted(kinds.items()))
    text = f"All variants have the same architecture; they differ, as declared, in {shown}."
    if any(kind_of(each.key) == "architecture" for each in results.differences):
        text = f"Declared, but not architecture: {shown}. The differences are not the architectures' alone."
    yield [text] if shown else []


def _of_runs(results: StudyResults) -> Iterator[list[str]]:
    """Yield by kind where runs depart from the plan, and variants whose averaged weights are clearly better."""
    budget, sign, lines = results.study.budget, results.metric.sign, list[str]()
    for result in results.ranking:
        short = [run for run in result.runs if run.summary.get("epochs", run.run.epochs) != run.run.epochs]
        if short:
            epochs = [run.summary["epochs"] for run in short]
            trained = f"{_range(epochs)}{SPACE}epoch{'' if max(epochs) == 1 else 's'}"
            planned = f"{short[0].run.epochs} (seed {joined([str(run.run.seed) for run in short])})"
            lines.append(f"{result.variant} trained {trained} instead of {planned}: something ended its runs early.")
    lines += never_reached(run.run for result in results.ranking for run in result.runs)
    learners = [result for result in results.ranking if not result.is_frozen]
    seen = {result.variant: [run.images_seen for run in result.runs] for result in learners}
    unequal = budget is not None and budget.kind == "flops"
    groups = seen.values() if unequal else [[n for images in seen.values() for n in images]]
    if any(max(group) > (1 + DIFFERENT) * min(group) for group in groups if group):
        each = "; ".join(f"{variant} {_range(images)}" for variant, images in seen.items())
        lines.append(f"The runs did not see equally many training images: {each}.")
    yield lines
    better = []
    for result in results.ranking:
        ema, score = result.score_ema, result.score
        if ema is not None and sign * ema.mean > sign * (score.high if sign > 0 else score.low):
            last, averages = _score(score.mean, results), _score(ema.mean, results)
            why = f"the averages of its weights are better by more than the interval ({averages})"
            better.append(f"{result.variant} is ranked by its last weights ({last}); {why}.")
    yield better


def not_beyond_baselines(results: StudyResults) -> list[str]:
    """Name, for each baseline and for the start of the training, the variants whose lead over it can be chance.

    Three sources of chance: the seeds of the variant, the test images of its accuracy, and those of the baseline's. A
    variant and a baseline find the same images hard, so that adding the last two is on the safe side.
    """
    if not results.finished:
        return []
    lines, vain, digits, N = [], [], results.verdict.digits, len(results.labels)
    several, known = [result for result in results.ranking if len(result.runs) > 1], results.baselines
    variances = [spread(np.array([run.score for run in result.runs]), 1 / N) ** 2 for result in several]
    freedom = [len(result.runs) - 1 for result in several]
    of_seeds = float(np.average(variances, weights=freedom)) if several else 0.0
    # What beats the best beats all.
    for line, value in sorted(known.lines.items(), key=lambda each: -each[1]) if known else ():
        assert known is not None
        below = []
        for result in results.ranking:
            rate = np.mean([run.correct for run in result.runs], axis=0)  # of being right, (N,)
            images = float(rate.var()) / N + value * (1 - value) / known.test_images
            images *= design_effect(rate, results.outcomes.groups)
            half = half_width(LEVEL, of_seeds / len(result.runs), images, sum(freedom) or 1)
            below += [] if result.score.mean - value > half else [result]
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


# ---- code, weights, machines and images of the runs


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


def _seeds_by_hash(runs: Sequence[RunResult], hashes: Sequence[str | None]) -> str:
    """Return which runs of a variant have which hash; empty where they agree. Runs of older versions have none."""
    seeds: dict[str, dict[str, None]] = {}
    for run, value in zip(runs, hashes, strict=True):
        if value:
            seeds.setdefault(value, {})[str(run.run.seed)] = None
    return "; ".join(f"hash {value}: seed {joined([*own])}" for value, own in seeds.items()) if len(seeds) > 1 else ""


def _further(results: StudyResults) -> Iterator[str]:
    yield from winner_costs(results)
    context, users = results.context, dict[str, list[str]]()  # by class of their own
    if frozen := [result for result in results.ranking if result.is_frozen]:
        names = joined([result.variant for result in frozen])
        how = joined(list(dict.fromkeys(PROBES[result.runs[0].run.config["run"]["probe"]] for result in frozen)))
        verb, whose = ("is", "its") if len(frozen) == 1 else ("are", "their")
        yield f"{names} {verb} frozen: no step trains the network, {how} of {whose} features is all that is fitted."
    elsewhere = []
    for each in context.compute:
        who = "all variants" if len(each.variants) == len(results.study.variants) else joined(each.variants)
        if each.in_each_run:
            own = f"{each.source}{' with its own seed' if each.by_seed else ''}"
            where = "Training time includes that; images seen leave it out."
            yield f"Each run of {who} {'is taught by' if each.taught else 'starts from'} a run of {own}. {where}"
            continue
        spent = "compute unknown"
        if each.seconds is not None and each.images is not None:
            spent = f"{clock(each.seconds)} of training, {counted(each.images, 'image')}"
        elsewhere.append(f"{who} {'taught by' if each.taught else 'from'} {each.source} ({spent})")
    if elsewhere:
        yield (
            f"Weights from elsewhere: {'; '.join(elsewhere)}. Images seen and training time leave this out. All seeds "
            "share these weights, so no interval covers another training of them."
        )
    if runs := context.trials:
        spent = f"{clock(context.trial_seconds)} of training on {counted(context.trial_images, 'image')}"
        yield f"Tuning took {counted(runs, 'more run')}, {spent}. Images seen and training time leave this out."
    for result in results.ranking:
        recorded = result.runs[0].environment.get("sources", {})
        for path in own_classes(result.runs[0].run.config, recorded):
            source = recorded.get(path)
            where = f"{source['file']}, hash {source['hash']}" if source else "its code was not recorded"
            users.setdefault(f"{path} ({where})", []).append(result.variant)
    for path, variants in users.items():
        use = "uses" if len(variants) == 1 else "use"
        yield f"{joined(variants)} {use} a class of your own: {path}. What it does in evaluation is not checked."
    for result in results.ranking:
        times = result.cost("flops") / (result.cost("train_forward_flops") or math.nan)
        if times > TEST_TIME:  # as one that averages several views of an image
            yield f"A forward pass of {result.variant} takes {times:.1f} times as many FLOPs at test as in training."
    yield from [*mixed_environments(results), *cost_remarks(results)]
    if studies := context.studies:
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


# ---- the verdict, in words and in files

FEW_IMAGES = 100  # below which 95 % intervals of an accuracy are 10 points wide and more
LOOKS = "looks.jsonl"  # in the study's folder


def judged(results: StudyResults) -> Verdict:
    """Return the verdict with the objections to the study, each of which makes it void."""
    void = [line.replace("Not a pure ", "not a pure ", 1) for line in objections(results)]
    return replace(results.verdict, checks=[Check("", line, is_void=True) for line in void])


def verdict(results: StudyResults) -> str:
    """Return the headline: what the study shows, or why it shows nothing; and if no variant beats a baseline."""
    vain = [line for line in not_beyond_baselines(results) if line.startswith("No variant")][:1]
    return " ".join([judged(results).sentence, *vain])


def outlooks(results: StudyResults) -> list[str]:
    """List what would settle the best variant's leads, or a claim's relations, and what could have been found."""
    claim, at_once = results.study.claim, runs_at_once(results)
    relations = zip(claim.relations, results.verdict.relations, strict=True) if claim else ()
    still_open = [{relation.first, relation.second} for relation, found in relations if found.word == OPEN]

    def is_claimed(pair: Pair) -> bool:
        return {pair.better.name, pair.worse.name} in still_open

    def time_of(needed: Need) -> str:
        each = sum(result.mean("seconds") for result in results.ranking) / at_once
        low, high = (None if seeds is None else seeds * each for seeds in needed.seeds[1:])
        time = duration(MOST_SEEDS * each, None) if low is None else duration(low, high)
        return time if results.study.jobs else f"{time}, one run at a time"

    if objections(results):
        return []
    lines = referee.plan.outlooks(judged(results), is_claimed if claim else None, time_of)
    return [*lines, *few_images(results.study, len(results.labels))] if lines and results.by_image else lines


def few_images(study: Study, images: int) -> list[str]:
    folds = "" if study.folds else ", or `folds`, which tests each of them,"
    few = f"With {counted(images, 'test image')}, more pictures{folds} help more than seeds."
    return [few] if images < FEW_IMAGES else []


def runs_at_once(results: StudyResults) -> int:
    """Return how many runs the study trains at a time, whichever machine reads this: one where its file gives none."""
    return min(results.study.jobs or 1, len(results.finished))


def write_verdict(results: StudyResults, folder: Path) -> None:
    """Write verdict.json, and of a study that tests a claim also claim.json, for the page about all claims."""
    record = as_record(results) | {"looks": results.log, "remarks": remarks(results)}
    write_text(folder / "verdict.json", json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    claim, verdict = results.study.claim, judged(results)
    if claim is None or not results.finished:
        return
    is_tested = bool(verdict.relations) and verdict.verdict != VOID and not verdict.design.unmet
    seconds = sum(result.summary.get("wall_seconds", result.seconds) for result in results.finished)
    record = {
        "word": verdict.word,
        "p": p_of_claim(verdict.relations) if is_tested else None,
        "here": [f"{order}: {lead} {interval}" for order, lead, interval, *_ in deciding(claim, verdict)],
        "files": results.study.digest,
        "ended": not results.failures and (results.verdict.watch is None or results.verdict.watch.stop is not None),
        "minutes": seconds / 60 / runs_at_once(results),
    }
    write_text(folder / "claim.json", json.dumps(record))
    keep_word(results.study, record["word"], [len(result.runs) for result in results.ranking], record["ended"])


def as_record(results: StudyResults) -> dict[str, Any]:
    """Return the verdict in plain values; scores and differences as the report shows them, accuracies in per cent."""
    verdict, study, looks = judged(results), results.study, len(results.earlier_plans) + 1
    record, claim = verdict.record(), study.claim
    return {
        "study": study.name,
        "headline": record["headline"],
        "verdict": record["verdict"],
        "claim": None if claim is None else {"sentence": claim.sentence, "word": verdict.word},
        **{key: record[key] for key in ("metric", "test", "level")},
        "margin": study.margin,
        "look": record["look"] if results.verdict.watch else looks,
        "of": len(study.looks) or looks,
        "stop": record["stop"],
        "seeds": study.seeds,
        "variants": record["variants"],
        "pairs": record["pairs"],
        "objections": objections(results),
        "failures": {str(run): why for run, why in results.failures},
    }


def read_looks(folder: Path) -> list[dict[str, Any]]:
    path = folder / LOOKS
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.is_file() else []


def append_look(results: StudyResults, folder: Path) -> None:
    """Record what a look shows; the last look again, by a study that is started anew, is none."""
    looks = read_looks(folder)
    look = json.loads(json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **as_record(results)}))
    if not looks or looks[-1] | look != looks[-1] | {"time": look["time"]}:  # earlier versions recorded more
        lines = [json.dumps(each, ensure_ascii=False, allow_nan=False) for each in (*looks, look)]
        write_text(folder / LOOKS, "".join(f"{line}\n" for line in lines))


def look_of(results: StudyResults) -> str:
    """Return which look this is, like "Look 4 of at most 7"; empty for a fixed list of seeds."""
    if results.verdict.watch is None:
        return ""
    return f"Look {len(results.verdict.watch.looks)} of at most {len(results.study.looks)}"

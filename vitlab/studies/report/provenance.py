"""Remarks on where the runs of a study come from: their environment, code, weights and training images."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

from referee.formats import joined
from referee.judging import apart_by_block
from referee.statistics.blocks import not_compared

from vitlab.config import ABSENT, flatten
from vitlab.experiment.chain import Source
from vitlab.studies.file.fairness import kind_of, matters, own_classes
from vitlab.studies.results.run import RunResult
from vitlab.studies.results.table import DECISIVE, StudyResults

TRAINING_IMAGES = "training images"
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
        for key in DECISIVE
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
    """Whether the seeds draw the training images."""
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

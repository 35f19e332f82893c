"""Read finished runs; a result that no average may include is a failure with the reason."""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from vitlab.runs.directory import SUMMARY, RunDirectory
from vitlab.studies.file.metric import TOP1
from vitlab.studies.file.registration import UNFINISHED, Outcome, cut_short
from vitlab.studies.results.folds import joined
from vitlab.studies.results.run import RunResult


def read_results(outcomes: Sequence[Outcome], folds: int | None = None) -> tuple[list[RunResult], list[Outcome]]:
    """Read the finished runs; return them, and the failures.

    A run that is unreadable, was cut short or was tested on other images than the rest is a failure with the reason:
    no average includes it.

    Args:
        folds: the runs of a seed, which are one result together; a seed that is not complete is left out.
    """
    failures = [outcome for outcome in outcomes if outcome.failure is not None]
    results = []
    for run in (outcome.run for outcome in outcomes if outcome.failure is None):
        try:
            why, d = cut_short(run), RunDirectory(run.directory)
            if why is None:
                result = RunResult(run, d.predictions, d.summary, d.environment, d.history, d.data, d.values)
                scores = result.score, result.seconds, d.metrics.get(run.metric.test, 0.0)
                if not (np.isfinite(scores).all() and np.isfinite(result.predictions.logits).all()):
                    why = "its predictions or their score are not finite numbers"
                elif _is_of_another_test(result):
                    why = f"its predictions are of other weights or settings; run `test` on {run.directory}"
        except KeyError as error:
            why = f"{run.directory / SUMMARY} has no {error}"
        except (OSError, ValueError, TypeError) as error:
            why = f"its results cannot be read: {error}"
        if why is None:
            results.append(result)
        else:
            failures.append(Outcome(run, why))
    if folds:
        results, failures = _by_seed(results, failures, folds)
    tested = Counter(_test_set(result) for result in results)
    usual = tested.most_common(1)[0][0] if tested else None
    others = [result for result in results if _test_set(result) != usual]
    failures += [Outcome(each.run, "was tested on other images or labels than the other runs") for each in others]
    return [result for result in results if result not in others], failures


def _by_seed(
    results: Iterable[RunResult], failures: Iterable[Outcome], folds: int
) -> tuple[list[RunResult], list[Outcome]]:
    """Join the folds of each variant and seed; one that failed is the failure of the seed."""
    known: dict[tuple[str, int], dict[int, RunResult]] = {}
    for result in results:
        known.setdefault((result.run.variant, result.run.seed), {})[result.run.fold or 0] = result
    failed: dict[tuple[str, int], list[Outcome]] = {}
    for outcome in failures:
        failed.setdefault((outcome.run.variant, outcome.run.seed), []).append(outcome)
    whole = [joined([parts[fold] for fold in sorted(parts)]) for parts in known.values() if len(parts) == folds]
    return whole, [min(each, key=lambda outcome: outcome.failure == UNFINISHED) for each in failed.values()]


def _is_of_another_test(result: RunResult) -> bool:
    """Whether predictions.parquet is of a later `test` or `predict`, with other weights or settings than the run."""
    known = result.summary.get("metrics", {}).get(TOP1.test)
    if known is None or not result.run.metric.is_accuracy:
        return False
    return abs(float(known) - result.score) > 2 / len(result.correct)  # float32 may turn an image


def _test_set(result: RunResult) -> tuple[tuple[str, ...], bytes]:
    return tuple(result.predictions.images), result.predictions.labels.tobytes()

"""The verdict of a study: referee's, unless something else than the declared settings differs between its variants.

For other programs it is in `verdict.json`, whose keys docs/studies.md lists, and `claim.json`; `looks.jsonl` records
each look at the test results: testing repeatedly, or adding seeds after seeing results, inflates false positives.
"""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import referee.plan
from referee.checks import Check
from referee.claim import OPEN, p_of_claim
from referee.formats import counted
from referee.report.claim import deciding
from referee.statistics.power import MOST_SEEDS, Need
from referee.verdict import VOID, Pair, Verdict

from vitlab.atomic_files import write_text
from vitlab.studies.file.format import duration
from vitlab.studies.file.registration import keep_word
from vitlab.studies.file.study import Study
from vitlab.studies.report.remarks import not_beyond_baselines, objections, remarks
from vitlab.studies.results.table import StudyResults

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
    record = as_record(results) | {"looks": results.log, "remarks": remarks(results)}
    write_text(folder / "verdict.json", json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_claim(results: StudyResults, folder: Path) -> None:
    """Write claim.json into the folder of a study that tests a claim, for the page about all claims."""
    claim, verdict = results.study.claim, judged(results)
    assert claim is not None
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

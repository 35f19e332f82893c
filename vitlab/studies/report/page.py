"""The report of a study: one self-contained HTML file, Markdown with its figures, and a table of the runs."""

import time
from pathlib import Path

from referee.formats import SPACE, counted
from referee.report import drawing
from referee.report.claim import about, decided, headline
from referee.report.claim import chart as chart_of
from referee.report.document import Document, write_document
from referee.verdict import conclusion

from vitlab.atomic_files import write_text
from vitlab.studies.file.images import Images
from vitlab.studies.file.registration import history
from vitlab.studies.file.vary import describe_draws
from vitlab.studies.report import figures
from vitlab.studies.report.cost import costlier
from vitlab.studies.report.looks import look_of
from vitlab.studies.report.paper import TABLE
from vitlab.studies.report.remarks import objections, remarks_above
from vitlab.studies.report.robustness import Robustness, read_robustness
from vitlab.studies.report.sections import sections_of
from vitlab.studies.report.tuning import as_tuned
from vitlab.studies.report.verdict import judged, outlooks, verdict
from vitlab.studies.report.verdict_file import write_claim, write_verdict
from vitlab.studies.results.folds import FOLDS, table_of
from vitlab.studies.results.table import StudyResults

# How a study that looks at its results ended.
ENDS = {
    "decided": ", at which it was settled. A lead just settled is too large on average: by half if the true one is one "
    "deviation of a seed, by little from two on",
    "equal": ", at which the variants left were equal to within the margin",
    "hopeless": ", after which more seeds were unlikely to settle it",
    "out of budget": ", the last one",
}


def write_report(results: StudyResults, images: Images, folder: Path) -> Path:
    """Write report.html, report.md, report.csv, verdict.json, results.csv, table.tex and figures/; return the first.

    Of a study with folds also folds.csv, which has the fold of each image by seed.
    """
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    write_text(folder / "results.csv", results.table().to_csv(index=False))
    if results.study.folds and results.finished:
        write_text(folder / FOLDS, table_of(results.finished).to_csv(index_label="image"))
    write_verdict(results, folder)
    study, claim = results.study, results.study.claim
    robustness = read_robustness(folder, [result.run for result in results.finished])
    drawings = _drawings(results, robustness, folder / "figures") if results.finished else {}
    if results.finished and results.metric.one_class:
        write_text(folder / "per_class.csv", results.per_class.to_csv(index_label="class"))
    if results.finished:
        write_text(folder / TABLE, results.verdict.latex() + "\n")
    if results.finished and claim is not None:
        write_claim(results, folder)
    document = Document(
        title=f"{study.name} – a comparison",
        kicker=f"Study “{study.name}” · {time.strftime('%Y-%m-%d')}",
        heading=headline(claim, judged(results)) if claim else verdict(results),
        lead=[
            *([*decided(claim, judged(results)), f"All variants: {verdict(results)}", *about(claim)] if claim else []),
            *([known] if claim and (known := history(study)) else []),
            *([f"Apart from that: {conclusion(results.verdict)}"] if objections(results) else []),
            *costlier(results),
            *_summary(results),
            *as_tuned(results),
            *_looks(results),
            *outlooks(results),
        ],
        remarks=remarks_above(results),
        sections=sections_of(results, images, drawings, robustness, folder),
        question=study.question,
    )
    return write_document(document, folder)


def _drawings(results: StudyResults, robustness: Robustness | None, folder: Path) -> dict[str, drawing.Drawing]:
    """Draw the charts of a study that has finished runs into a folder."""
    charts: list[drawing.Chart | None] = [*figures.charts_for(results.metric)]
    if robustness and not robustness.table.empty:
        charts.append(robustness.chart(list(results.study.variants)))
    if results.study.claim is not None:
        charts.append(chart_of(results.study.claim, results.verdict))
    return {chart.name: drawing.draw(chart, results, folder) for chart in charts if chart is not None}


def _looks(results: StudyResults) -> list[str]:
    """State at which look a growing study is, and why it ended; nothing for a fixed list of seeds."""
    if results.verdict.watch is None:
        return []
    end = ENDS.get(results.verdict.watch.stop or "", "")
    which = "each look" if results.study.margin is None else "this look"
    return [
        f"{look_of(results)} (a look is a test of the seeds finished so far){end}. So that all looks together make at "
        f"most 5{SPACE}% false claims, {which} asks for p < {results.verdict.level:.3f} instead of 0.05."
    ]


def _summary(results: StudyResults) -> list[str]:
    """Summarize the size of the study and what its intervals are about; nothing if no run finished."""
    if not results.finished:
        return []
    study, metric = results.study, results.metric
    epochs = sorted({result.run.epochs for result in results.finished} - {0})  # frozen encoders have none
    spent = f" ({study.budget} each)" if study.budget and study.budget.kind == "flops" else ""
    validation = " (the validation images)" if results.tested_on_validation else ""
    classes = f" of {len(results.class_names)} classes" if metric.one_class else ""
    unit = f"percentage points of test {metric.label}"
    over = f"seeds{' and test images' if results.by_image else ' alone'}"
    if (groups := results.outcomes.groups) is not None:
        over = f"seeds and {counted(int(groups.max()) + 1, 'group')} of test images"
    if not metric.is_accuracy:
        unit = f"{metric.score} ({'higher' if metric.mode == 'max' else 'lower'} is better)"
    simultaneous = "simultaneous " if len(results.verdict.pairs) > 1 else ""
    intervals = any(len(result.runs) > 1 for result in results.ranking)
    return [
        f"{counted(len(results.ranking), 'variant')}, {_seeds(results)} each, "
        + (f"{' or '.join(map(str, epochs))} epoch{'' if epochs == [1] else 's'}{spent}, " if epochs else "")
        + f"{results.scored}{validation}{classes}. Leads are in {unit}"
        + (f", with {simultaneous}95{SPACE}% intervals over {over}. " if intervals else ". ")
        + describe_draws(study.vary, study.folds)
    ]


def _seeds(results: StudyResults) -> str:
    """Return how many seeds finished, and of how many: 3 seeds, 2 to 4 of 5 seeds."""
    finished, planned = [len(result.runs) for result in results.ranking], counted(len(results.study.seeds), "seed")
    low, high = min(finished), max(finished)
    if low == len(results.study.seeds):
        return planned
    return f"{low} of {planned}" if low == high else f"{low} to {high} of {planned}"

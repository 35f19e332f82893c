"""The report of a study: one self-contained HTML file, Markdown with its figures, and a table of the runs."""

import shlex
import time
from pathlib import Path

from referee.formats import SPACE, counted
from referee.report import drawing
from referee.report.claim import about, caption, decided, deciding, deciding_table, headline
from referee.report.claim import chart as chart_of
from referee.report.document import Code, Details, Document, Figure, Part, Section, Text, render
from referee.sentences import conclusion

from vitlab.atomic_files import write_text
from vitlab.evaluation.spreadsheet import as_csv
from vitlab.studies.baselines import Images
from vitlab.studies.draws import describe_draws
from vitlab.studies.looks import look_of
from vitlab.studies.report import figures
from vitlab.studies.report.claim import write_claim
from vitlab.studies.report.cost import costlier
from vitlab.studies.report.heat import heat_chart
from vitlab.studies.report.remarks import objections, remarks_above, remarks_below
from vitlab.studies.report.robustness import read_robustness
from vitlab.studies.report.search import budgets, search_chart
from vitlab.studies.report.sections import sections_of
from vitlab.studies.report.tuning import as_tuned
from vitlab.studies.report.verdict import judged, outlooks, verdict
from vitlab.studies.report.verdict_file import write_verdict
from vitlab.studies.results import StudyResults
from vitlab.studies.robustness import FinishedRun

# How a study that looks at its results ended.
ENDS = {
    "decided": ", at which it was settled. Leads at an early end are a little too large on average",
    "equal": ", at which the variants left were equal to within the margin",
    "hopeless": ", after which more seeds were unlikely to settle it",
    "out of budget": ", the last one",
}


def write_report(results: StudyResults, images: Images, folder: Path) -> Path:
    """Write report.html, report.md, verdict.json, results.csv and figures/, and return the path of the HTML file."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    write_text(folder / "results.csv", as_csv(results.table(), index=False))
    write_verdict(results, folder)
    study, claim, sections = results.study, results.study.claim, list[Section]()
    root = folder.parents[1] if study.place else folder.parent
    place = "" if root == Path("runs") else f" --root {shlex.quote(str(root))}"
    commands: list[Part] = [
        Code(f"python -m vitlab compare --config {shlex.quote(str(study.path))}{place}    # the whole study")
    ]
    if results.finished:
        if results.metric.one_class:
            write_text(folder / "per_class.csv", as_csv(results.per_class, index_label="class"))
        runs = [FinishedRun(r.run.variant, r.run.seed, r.run.directory) for r in results.finished]
        robustness = read_robustness(folder, runs)
        charts = figures.charts_for(results.metric)
        if robustness and not robustness.table.empty:
            charts.append(robustness.chart("curves_of_robustness", list(study.variants)))
        if claim is not None:
            charts.append(chart_of(claim, results.verdict))
        if results.searched and (chart := search_chart(results)) is not None:
            charts.append(chart)
        is_over = results.watch is None or results.watch.stop is not None
        if results.metric.one_class and is_over and (chart := heat_chart(results, images)) is not None:
            charts.append(chart)
        drawings = {chart.name: drawing.draw(chart, results, folder / "figures") for chart in charts}
        sections = sections_of(results, images, drawings, robustness, folder)
        config = shlex.quote(str(results.finished[0].run.config_path))
        commands.append(Code(f"python -m vitlab fit --config {config}    # one of its runs"))
    commands.append(Details("The study's file", [Code(study.path.read_text(encoding="utf-8").strip())]))
    claimed = []
    if claim is not None and results.finished:
        table = deciding_table(deciding(claim, judged(results)))
        claimed = [Section("Claim", [Figure(drawings["claim"], caption(claim)), *table])]
        write_claim(results, drawings["claim"], folder)
    below = remarks_below(results)
    further = [Section("Remarks", [Text(line) for line in below])] if below else []
    document = Document(
        title=f"{study.name} – a comparison",
        kicker=f"Study “{study.name}” · {time.strftime('%Y-%m-%d')}",
        heading=headline(claim, judged(results)) if claim else verdict(results),
        lead=[
            *([*decided(claim, judged(results)), f"All variants: {verdict(results)}", *about(claim)] if claim else []),
            *([f"Apart from that: {conclusion(results.verdict)}"] if objections(results) else []),
            *costlier(results),
            *_summary(results),
            *as_tuned(results),
            *budgets(results),
            *_looks(results),
            *outlooks(results),
        ],
        remarks=remarks_above(results),
        sections=[*claimed, *sections, *further, Section("Reproduce", commands)],
        question=study.question,
    )
    for name in ("report.md", "report.html"):
        (folder / name).write_text(render(document, name), encoding="utf-8")
    return folder / "report.html"


def _looks(results: StudyResults) -> list[str]:
    """State at which look a growing study is, and why it ended; nothing for a fixed list of seeds."""
    if results.watch is None:
        return []
    end = ENDS.get(results.watch.stop or "", "")
    level = f"Each look tests at the level {results.level:.3f}"
    return [f"{look_of(results)}{end}. {level}, so that all looks together make at most 5{SPACE}% false claims."]


def _summary(results: StudyResults) -> list[str]:
    """Summarize the size of the study and what its intervals are about; nothing if no run finished."""
    if not results.finished:
        return []
    study, metric = results.study, results.metric
    epochs = sorted({result.run.epochs for result in results.finished})
    spent = f" ({study.budget} each)" if study.budget and study.budget.measured else ""
    validation = " (the validation images)" if results.tested_on_validation else ""
    classes = f" of {len(results.class_names)} classes" if metric.one_class else ""
    if metric.is_accuracy:
        unit, over = "percentage points of test accuracy", "seeds and test images"
    else:
        unit, over = f"test {metric.name} ({'higher' if metric.mode == 'max' else 'lower'} is better)", "seeds"
    simultaneous = "simultaneous " if len(results.pairs) > 1 else ""
    intervals = any(len(result.runs) > 1 for result in results.ranking)
    return [
        f"{counted(len(results.ranking), 'variant')}, {_seeds(results)} each, "
        f"{' or '.join(map(str, epochs))} epoch{'' if epochs == [1] else 's'}{spent}, "
        f"{counted(len(results.labels), 'test image')}{validation}{classes}. Leads are in {unit}"
        + (f", with {simultaneous}95{SPACE}% intervals over {over}. " if intervals else ". ")
        + describe_draws(study.vary)
    ]


def _seeds(results: StudyResults) -> str:
    """Return how many seeds finished, and of how many: 3 seeds, 2 to 4 of 5 seeds."""
    finished, planned = [len(result.runs) for result in results.ranking], counted(len(results.study.seeds), "seed")
    low, high = min(finished), max(finished)
    if low == len(results.study.seeds):
        return planned
    return f"{low} of {planned}" if low == high else f"{low} to {high} of {planned}"

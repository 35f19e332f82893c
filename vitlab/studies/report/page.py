"""The report of a study: one self-contained HTML file, Markdown with its figures, and a table of the runs.

Of a study along an axis, each place has such a report, and one page is about all, with a curve of each variant.
"""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from referee.effects import over_datasets
from referee.formats import NONE, SPACE, counted, joined
from referee.report import drawing
from referee.report.along import Line, Reference, best_where, interval_of, line_parts, number
from referee.report.claim import about, headline, in_words
from referee.report.claim import chart as chart_of
from referee.report.document import Code, Document, Links, Note, Part, Row, Section, Table, Text, write_document
from referee.report.effects import CELLS, datasets_section, draw_cells
from referee.verdict import conclusion

from vitlab.atomic_files import write_text
from vitlab.studies.file.fairness import Images
from vitlab.studies.file.registration import history
from vitlab.studies.file.runs import own_share
from vitlab.studies.file.study import Axis, Study, describe_draws
from vitlab.studies.report import figures, sections, verdict
from vitlab.studies.report.cost import as_tuned, speed_remarks, winner_costs
from vitlab.studies.results import FOLDS, StudyResults, table_of

ENDS = {  # of a study that looks at its results
    "decided": ", at which it was settled",
    "equal": ", at which the variants left were equal to within the margin",
    "hopeless": ", after which more seeds were unlikely to settle it",
    "out of budget": ", the last one",
}


def write_report(results: StudyResults, images: Images, folder: Path) -> Path:
    """Write report.html and the files beside it; return the path of the first."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    write_text(folder / "results.csv", results.table().to_csv(index=False))
    if results.study.folds and results.finished:
        write_text(folder / FOLDS, table_of(results.finished).to_csv(index_label="image"))
    verdict.write_verdict(results, folder)
    study, claim = results.study, results.study.claim
    robustness = sections.read_robustness([result.run for result in results.finished])
    charts: list[drawing.Chart | None] = []
    if results.finished:
        write_text(folder / sections.TABLE, results.verdict.latex() + "\n")
        charts += figures.charts_for(results.metric)
        if results.verdict.effects is not None:
            charts.append(CELLS._replace(draw=lambda results, layout: draw_cells(results.verdict, layout)))
        if robustness:
            title = "Accuracy against strength for each corruption and variant."
            charts.append(drawing.Chart("curves_of_robustness", title, partial(sections.draw_curves, robustness)))
        if results.metric.one_class:
            write_text(folder / "per_class.csv", results.per_class.to_csv(index_label="class"))
            if study.folds:
                write_text(folder / sections.LABELS, results.label_margins.to_csv(index_label="image"))
        if claim is not None:
            charts.append(chart_of(claim, results.verdict))
    drawings = {each.name: drawing.draw(each, results, folder / "figures") for each in charts if each is not None}
    judged, said = verdict.judged(results), verdict.verdict(results)
    lead = [f"Apart from that: {conclusion(results.verdict)}"] if verdict.objections(results) else []
    if claim is not None:
        own = [*in_words(claim, judged), f"All variants: {said}", *about(claim)]
        lead = [*own, *filter(None, [history(study)]), *lead]
    document = Document(
        title=f"{study.name} – a comparison",
        kicker=f"Study “{study.name}” · {time.strftime('%Y-%m-%d')}",
        heading=headline(claim, judged) if claim else said,
        lead=[*lead, *winner_costs(results), *_summary(results), *as_tuned(results), *verdict.outlooks(results)],
        remarks=verdict.remarks_above(results),
        sections=sections.sections_of(results, images, drawings, robustness, folder),
        question=study.question,
    )
    return write_document(document, folder)


def _summary(results: StudyResults) -> list[str]:
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
    if not metric.is_fraction:
        unit = f"{metric.score} ({'higher' if metric.mode == 'max' else 'lower'} is better)"
    simultaneous = "simultaneous " if len(results.verdict.pairs) > 1 else ""
    finished = [len(result.runs) for result in results.ranking]
    low, high, seeds = min(finished), max(finished), counted(len(study.seeds), "seed")
    if low < len(study.seeds):
        seeds = f"{low} of {seeds}" if low == high else f"{low} to {high} of {seeds}"
    lines = [
        f"{counted(len(results.ranking), 'variant')}, {seeds} each, "
        + (f"{' or '.join(map(str, epochs))} epoch{'' if epochs == [1] else 's'}{spent}, " if epochs else "")
        + f"{results.scored}{validation}{classes}. Leads are in {unit}"
        + (f", with {simultaneous}95{SPACE}% intervals over {over}. " if high > 1 else ". ")
        + describe_draws(study.vary, study.folds)
    ]
    if groups is not None and "also trained or validated on" not in " ".join(results.context.leaks):
        lines.append(f"All images of a group (by {study.groups}) are on one side of every split.")
    if (watch := results.verdict.watch) is not None and len(results.verdict.design.looks) > 1:
        which, level = "each look" if study.margin is None else "this look", f"{results.verdict.level:.3f}"
        end = ENDS.get(watch.stop or "", "")
        lines.append(
            f"{verdict.look_of(results)} (a look is a test of the seeds finished so far){end}. So that all looks "
            f"together make at most 5{SPACE}% false claims, {which} asks for p < {level} instead of 0.05."
        )
    return lines


# ---- a study along an axis


def line_of(axis: Axis, grid: Sequence[StudyResults]) -> Line:
    x, labels = [place.x for place in axis.places], [place.label for place in axis.places]
    level = min(results.verdict.level for results in grid) / len(grid)
    knn = [results.baselines.knn for results in grid if results.baselines]
    pixels = Reference("k-NN on pixels", knn, "k-NN, on the first seed's draw of the images alone")
    reference = pixels if len(knn) == len(grid) else None
    return Line(axis.name, x, labels, [verdict.judged(results) for results in grid], level, reference=reference)


def write_curves(study: Study, grid: Sequence[StudyResults], folder: Path) -> tuple[Path, str]:
    """Write report.html and report.md about all places of a study; return the path of the first, and its headline."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    assert study.along is not None
    curves = list[Section]()
    answer = f"Some places have no finished run, so there is nothing to say about the {study.along.name}."
    if all(results.finished for results in grid) and study.along.of_data_sets:
        each = {results.study.place: results.verdict for results in grid}  # data sets are the places of a study
        runs = [replace(run, dataset=name) for name, own in each.items() for run in own.outcomes.runs]
        joint = over_datasets(replace(grid[0].outcomes, runs=runs), each, grid[0].verdict.design)
        answer = joint.sentence
        cells = drawing.draw(CELLS._replace(draw=lambda _, layout: draw_cells(joint, layout)), grid, folder / "figures")
        curves.append(Section("Data sets", datasets_section(joint, cells)))
    elif all(results.finished for results in grid):
        answer = best_where(line := line_of(study.along, grid))
        curves.append(Section(f"Along {study.along.name}", line_parts(line, "curves", folder / "figures")))
    above = _merged(grid, verdict.objections)
    above += [line for line in _merged(grid, verdict.remarks_above) if line not in above][: verdict.ABOVE]
    below = [line for line in _merged(grid, verdict.remarks) if line not in above]
    parts = [
        *curves,
        Section("Places", _places_section(study, study.along, grid)),
        *([Section("Remarks", [*map(Text, below)])] if below else []),
        Section("Reproduce", [Code(sections.command_of(study, folder.parent)), sections.study_file(study)]),
    ]
    finished = sum(len(results.finished) for results in grid)
    minutes = sum(own_share(study, each.run) * each.seconds for results in grid for each in results.finished) / 60
    length = "The same number of epochs" if study.budget and study.budget.kind == "epochs" else "The same budget"
    spent = f" {length} ({study.budget}) everywhere." if study.budget else ""
    level = min(results.verdict.level for results in grid)
    valid = (
        "The verdict is about their mean on these data sets."
        if study.along.of_data_sets
        else "Statements about several places are valid for all of them together: each is tested at "
        f"{level:.2g}{SPACE}/{SPACE}{len(grid)}."
    )
    where = f"on {len(grid)} data sets" if study.along.of_data_sets else f"at {len(grid)} places"
    summary = (
        f"{counted(len(study.variants), 'variant')}, {counted(len(study.seeds), 'seed')} each, {where}: "
        f"{counted(finished, 'run')}, {minutes:,.0f} minutes of training.{spent} {valid}"
    )
    document = Document(
        title=f"{study.name} – a comparison along {study.along.name}",
        kicker=f"Study “{study.name}” · {time.strftime('%Y-%m-%d')}",
        heading=answer,
        lead=[summary],
        remarks=above,
        sections=parts,
        question=study.question,
    )
    return write_document(document, folder), answer


def _merged(grid: Sequence[StudyResults], listed: Callable[[StudyResults], list[str]]) -> list[str]:
    """Return the remarks of all places, but for speeds, which the page lacks; those of some places with their names."""
    by_text: dict[str, list[str]] = {}
    for results in grid:
        of_speeds = speed_remarks(results)
        for remark in listed(results):
            if remark not in of_speeds:
                by_text.setdefault(remark, []).append(results.study.place)
    return [text if len(places) == len(grid) else f"At {joined(places)}: {text}" for text, places in by_text.items()]


def _places_section(study: Study, axis: Axis, grid: Sequence[StudyResults]) -> list[Part]:
    metric, rows = grid[0].metric, []
    for place, results in zip(axis.places, grid, strict=True):
        scores = {}
        for result in results.ranking:
            interval, digits = interval_of(result.judged, results.outcomes.dependence), results.verdict.digits
            scores[result.variant] = f"{metric.text(interval.mean, digits)} {metric.bracket(interval, digits)}"
        knn = f"{100 * results.baselines.knn:.1f}" if results.baselines else NONE
        x = place.label if axis.of_data_sets else number(place.x)
        rows.append(Row(x, [*(scores.get(variant, NONE) for variant in study.variants), knn]))
    heading = axis.name[0].upper() + axis.name[1:]
    pages = [(results.study.place, f"{results.study.folder(Path()).name}/report.html") for results in grid]
    return [
        Table("Places", [heading, *study.variants, "k-NN"], rows),
        Note(f"{metric.column}: mean, with the 95 % interval over seeds{' and test images' * grid[0].by_image}."),
        Text("Each place has its own report, in the same folder:"),
        Links(pages),
    ]


# ---- in Weights & Biases: a run with tables and figures, and a workspace that arranges them


def write_dashboard(results: StudyResults, folder: Path, online: bool) -> str:
    """Log the report of a study that has finished runs, with the page and figures in `folder`; return where it is."""
    import wandb  # here, because it takes seconds to import

    settings = results.finished[0].run.config.get("run", {}).get("wandb", {})
    project, entity = settings.get("project") or "vitlab", settings.get("entity")
    said = [verdict.verdict(results), *verdict.outlooks(results), *verdict.remarks(results)]
    frames = {"verdict": pd.DataFrame({"conclusion": said})}
    frames |= {"runs": results.table(), "pairs": results.verdict.table()}
    if results.metric.one_class:
        frames["classes"] = results.per_class.reset_index()
    with wandb.init(
        project=project,
        entity=entity,
        group=results.study.name,
        job_type="report",
        name=f"{results.study.name}: report",
        dir=folder,
        mode="online" if online else "offline",
        settings=wandb.Settings(silent=True, console="off", x_disable_stats=True, disable_git=True),
    ) as run:
        # Plain Python values, with None in empty cells.
        plain = {name: frame.astype(object).where(frame.notna(), None) for name, frame in frames.items()}
        run.log({name: wandb.Table(dataframe=frame) for name, frame in plain.items()})
        run.log({f"figures/{path.stem}": wandb.Image(str(path)) for path in sorted(folder.glob("figures/*.png"))})
        run.log({"report": wandb.Html((folder / "report.html").read_text(encoding="utf-8"), inject=False)})
        run.summary.update({f"{results.metric.label}/{r.variant}": r.score.mean for r in results.ranking})
        run.summary["verdict"] = said[0]
        if not online:
            return f"offline; to upload it: wandb sync {Path(run.dir).parent}"
        url, entity = run.url, run.entity
    workspace(results, project, entity).save()
    return str(url)


def workspace(results: StudyResults, project: str, entity: str | None) -> Any:
    """Return a view of a W&B server: the report first, then the curves of the study's runs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pydantic's, of how the package declares its classes
        import wandb_workspaces.reports.v2 as panels
        import wandb_workspaces.workspaces as ws
        from wandb_workspaces.expr import And

    metric = results.metric
    names = ["pairs", "runs", *(["classes"] if metric.one_class else [])]
    tables = [panels.WeavePanelSummaryTable(table_name=name) for name in names]
    charts = ["ranking", figures.against_cost(metric), *(["calibration"] if metric.one_class else [])]
    shown = panels.MediaBrowser(media_keys=[f"figures/{name}" for name in charts])
    curves = [panels.LinePlot(x="epoch", y=[name]) for name in (metric.validation, "val/loss", "train/loss")]
    return ws.Workspace(
        entity=entity or "",
        project=project,
        name=results.study.name,
        sections=[
            ws.Section(name="Report", panels=[shown, *tables], is_open=True),
            ws.Section(name="Learning", panels=[*curves, panels.BarPlot(metrics=[metric.test])], is_open=True),
        ],
        runset_settings=ws.RunsetSettings(filters=And(ws.Metric("Group") == results.study.name)),
    )

"""The report of a study in Weights & Biases: a run with tables and figures, and a workspace that arranges them.

Without an API key the run is written offline into the study's folder, and `wandb sync` uploads it. The workspace exists
only on the server, so it needs a key.
"""

import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import wandb

from vitlab.studies.report.figures import against_cost
from vitlab.studies.report.remarks import remarks
from vitlab.studies.report.verdict import outlooks, verdict
from vitlab.studies.results.table import StudyResults


def write_dashboard(results: StudyResults, folder: Path, online: bool) -> str:
    """Log the report of a study that has finished runs, with the page and figures in `folder`; return where it is."""
    settings = results.finished[0].run.config.get("run", {}).get("wandb", {})
    project, entity = settings.get("project") or "vitlab", settings.get("entity")
    conclusions = pd.DataFrame({"conclusion": [verdict(results), *outlooks(results), *remarks(results)]})
    frames = {"verdict": conclusions, "runs": results.table(), "pairs": results.verdict.table()}
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
        run.summary["verdict"] = verdict(results)
        if not online:
            return f"offline; to upload it: wandb sync {Path(run.dir).parent}"
        url, entity = run.url, run.entity
    workspace(results, project, entity).save()
    return str(url)


def workspace(results: StudyResults, project: str, entity: str | None) -> Any:
    """Return a `wandb_workspaces` view: the report first, then the curves of the study's runs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pydantic's, of how the package declares its classes
        import wandb_workspaces.reports.v2 as panels
        import wandb_workspaces.workspaces as ws
        from wandb_workspaces.expr import And

    metric = results.metric
    names = ["pairs", "runs", *(["classes"] if metric.one_class else [])]
    tables = [panels.WeavePanelSummaryTable(table_name=name) for name in names]
    charts = ["ranking", against_cost(metric), *(["calibration"] if metric.one_class else [])]
    figures = panels.MediaBrowser(media_keys=[f"figures/{name}" for name in charts])
    curves = [panels.LinePlot(x="epoch", y=[name]) for name in (metric.validation, "val/loss", "train/loss")]
    return ws.Workspace(
        entity=entity or "",
        project=project,
        name=results.study.name,
        sections=[
            ws.Section(name="Report", panels=[figures, *tables], is_open=True),
            ws.Section(name="Learning", panels=[*curves, panels.BarPlot(metrics=[metric.test])], is_open=True),
        ],
        runset_settings=ws.RunsetSettings(filters=And(ws.Metric("Group") == results.study.name)),
    )

"""The report of a study in Weights & Biases: a run of tables and pictures, and a workspace that lays them out.

Without a key the run is written offline, below the study's folder; `wandb sync` uploads it. The workspace lives on the
server alone, so it is saved where there is a key.
"""

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import wandb

from vitlab.studies.report.gallery import SHOWN, gallery, interesting
from vitlab.studies.report.verdict import outlooks, remarks, verdict
from vitlab.studies.results import StudyResults
from vitlab.studies.workshop import Images


class Place(NamedTuple):
    """Where in W&B a study's runs are."""

    project: str
    entity: str | None  # None: the key's own


def write_dashboard(results: StudyResults, images: Images, folder: Path, online: bool) -> str:
    """Log the report of a study that has finished runs; return where it is to be seen, or how to upload it.

    Args:
        folder: Of the report, which is written already: its figures and its page are logged too.
        online: Upload at once; False writes an offline run, which `wandb sync` uploads.
    """
    place = _place(results)
    with wandb.init(
        project=place.project,
        entity=place.entity,
        group=results.study.name,
        job_type="report",
        name=f"{results.study.name}: report",
        dir=folder,
        mode="online" if online else "offline",
        settings=wandb.Settings(silent=True, console="off", x_disable_stats=True, disable_git=True),
    ) as run:
        run.log(_tables(results, images))
        run.log({f"figures/{path.stem}": wandb.Image(str(path)) for path in sorted(folder.glob("figures/*.png"))})
        run.log({"report": wandb.Html((folder / "report.html").read_text(encoding="utf-8"), inject=False)})
        run.summary.update({f"accuracy/{r.variant}": r.accuracy.mean for r in results.ranking})
        run.summary["verdict"] = verdict(results)
        if not online:
            return f"offline; to upload it: wandb sync {Path(run.dir).parent}"
        url, entity = run.url, run.entity
    workspace(results, Place(place.project, entity)).save()
    return str(url)


def workspace(results: StudyResults, place: Place) -> Any:
    """Return a `wandb_workspaces` view: the report first, then the curves of the study's runs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pydantic's, of how the package declares its classes
        import wandb_workspaces.reports.v2 as panels
        import wandb_workspaces.workspaces as ws
        from wandb_workspaces.expr import And

    tables = [panels.WeavePanelSummaryTable(table_name=name) for name in ("pairs", "runs", "classes", "gallery")]
    figures = panels.MediaBrowser(
        media_keys=["figures/ranking", "figures/accuracy_against_cost", "figures/calibration"]
    )
    curves = [panels.LinePlot(x="epoch", y=[metric]) for metric in ("val/top1", "val/loss", "train/loss")]
    return ws.Workspace(
        entity=place.entity or "",
        project=place.project,
        name=results.study.name,
        sections=[
            ws.Section(name="Report", panels=[figures, *tables], is_open=True),
            ws.Section(name="Learning", panels=[*curves, panels.BarPlot(metrics=["test/top1"])], is_open=True),
        ],
        runset_settings=ws.RunsetSettings(filters=And(ws.Metric("Group") == results.study.name)),
    )


def _tables(results: StudyResults, images: Images) -> dict[str, wandb.Table]:
    """Return what the page tells in tables: runs, pairs, classes, and the gallery with every variant's answer."""
    pairs = pd.DataFrame(
        {
            "first": pair.better.variant,
            "second": pair.worse.variant,
            "difference": pair.comparison.difference.mean,
            "low": pair.comparison.difference.low,
            "high": pair.comparison.difference.high,
            "p corrected": pair.p,
            "Cohen's d": pair.comparison.effect,
            "verdict": "better" if pair.separable else "not separable",
            "seeds": pair.comparison.seeds,
        }
        for pair in results.pairs
    )
    said = pd.DataFrame({"says": [verdict(results), *outlooks(results), *remarks(results)]})
    frames = {"verdict": said, "runs": results.table(), "pairs": pairs, "classes": results.per_class.reset_index()}
    return {name: wandb.Table(dataframe=_plain(frame)) for name, frame in frames.items()} | {
        "gallery": _gallery(results, images)
    }


def _gallery(results: StudyResults, images: Images) -> wandb.Table:
    variants = [result.variant for result in results.ranking]
    table = wandb.Table(columns=["image", "name", "label", *variants])
    indices = interesting(results)[:SHOWN].tolist()
    for card, pixels in zip(gallery(results, images), images.raw_images("test", indices), strict=True):
        says = {a.variant: f"{a.predicted} ({a.confidence:.0%}, {a.seeds_right}/{a.seeds})" for a in card.answers}
        table.add_data(wandb.Image(pixels), card.name, card.label, *(says.get(variant) for variant in variants))
    return table


def _plain(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table of W&B's types: no pandas scalars, and None where a cell is empty."""
    return frame.astype(object).where(frame.notna(), None)


def _place(results: StudyResults) -> Place:
    settings = results.finished[0].run.config.get("run", {}).get("wandb", {})
    return Place(settings.get("project") or "vitlab", settings.get("entity"))

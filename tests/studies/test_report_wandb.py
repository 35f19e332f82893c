import json
from pathlib import Path

import pytest
from fake_study import Digits, results, right

from vitlab.studies.report.page import workspace, write_dashboard, write_report
from vitlab.studies.results import StudyResults


@pytest.fixture
def study(tmp_path: Path) -> StudyResults:
    study = results({name: {seed: right(a, 300, seed) for seed in (1, 2)} for name, a in {"A": 0.9, "B": 0.7}.items()})
    object.__setattr__(study.study, "path", tmp_path / "study.yaml")
    study.study.path.write_text("name: Study")
    return study


@pytest.mark.slow
def test_without_a_key_the_report_is_logged_offline(study: StudyResults, digits: Digits, tmp_path: Path) -> None:
    write_report(study, digits, tmp_path)
    place = write_dashboard(study, tmp_path, online=False)
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    assert place == f"offline; to upload it: wandb sync {run}"
    media = run / "files" / "media"
    (pairs,) = (media / "table").glob("pairs_*.json")
    table = json.loads(pairs.read_text())
    row = dict(zip(table["columns"], table["data"][0], strict=True))
    assert (row["better"], row["worse"], row["verdict"]) == ("A", "B", "better")
    assert row["lead"] == pytest.approx(20)
    assert {path.stem.split("_")[0] for path in (media / "images" / "figures").iterdir()} >= {"ranking", "calibration"}
    assert list((media / "html").glob("report_*.html"))


@pytest.mark.slow(edge=True)
def test_the_workspace_shows_the_tables_and_the_studys_runs_alone(study: StudyResults) -> None:
    view = workspace(study, "vitlab", "team")
    assert (view.entity, view.project, view.name) == ("team", "vitlab", "Study")
    definition = view._to_model().model_dump_json()  # what `save` would send
    for name in ("pairs", "runs", "classes", "val/top1", "figures/ranking", "Study"):
        assert name in definition

from collections.abc import Callable
from pathlib import Path

import pytest

import vitlab
from vitlab.studies.report.verdict import verdict

Write = Callable[..., Path]


def test_a_study_in_python_trains_what_is_missing_and_reads_what_is_there(
    write_study: Write, tmp_path: Path, in_process: None, no_figures: None
) -> None:
    study = vitlab.Study(write_study(seeds=[1, 2]), tmp_path)
    with pytest.raises(FileNotFoundError, match=r"There is no /.*small-study\. Call run\(\), or give `root`"):
        study.results()
    assert not list(study.folder.glob("*/seed-*"))

    results = study.run()
    assert results.sentence in (study.folder / "report.html").read_text()
    assert results.sentence == verdict(results.details)
    assert results._repr_html_().count("<tr") == 1 + len(results.ranking)
    scores = [result.score.mean for result in results.ranking]
    assert scores == sorted(scores, reverse=True)
    assert len(results.pairs) == len(scores) * (len(scores) - 1) // 2

    trained = {path: path.stat().st_mtime_ns for path in study.folder.glob("*/seed-*/summary.json")}
    assert study.results().sentence == study.run().sentence == results.sentence
    assert trained == {path: path.stat().st_mtime_ns for path in study.folder.glob("*/seed-*/summary.json")}


def test_a_study_along_an_axis_is_refused_before_it_trains(write_study: Write, tmp_path: Path) -> None:
    along = write_study(along={"epochs": [1, 2]}, budget=None)
    with pytest.raises(ValueError, match="verdict at each place; use `python -m vitlab compare`"):
        vitlab.Study(along, tmp_path)

from collections.abc import Callable
from pathlib import Path

import pytest

import vitlab
from vitlab.config import load_yaml
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


def test_a_study_may_be_a_mapping_of_the_keys_of_its_file(
    write_study: Write, tmp_path: Path, in_process: None, no_figures: None
) -> None:
    file = write_study(seeds=[1, 2], question="Is <b> best?")
    content = load_yaml(file) | {"base": file.parent / "base.yaml"}
    study = vitlab.Study(content, tmp_path / "runs")
    assert study.folder == tmp_path / "runs/small-study"
    shown = study._repr_html_()
    assert "Is &lt;b&gt; best?" in shown
    assert [shown.count(f"<td>{name}</td>") for name in content["variants"]] == [3, 3, 3]
    sentence = study.run().sentence
    assert vitlab.Study(content, tmp_path / "runs").results().sentence == sentence
    assert vitlab.Study(study.path, tmp_path / "runs").results().sentence == sentence
    assert vitlab.Study(file, tmp_path / "other").run().sentence == sentence
    with pytest.raises(ValueError, match="needs a `name`"):
        vitlab.Study({key: value for key, value in content.items() if key != "name"}, tmp_path)

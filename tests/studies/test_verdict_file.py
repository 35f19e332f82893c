"""verdict.json and the command that asks it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_study import plain, results, right

from vitlab.__main__ import main
from vitlab.studies.file.runs import Difference
from vitlab.studies.report.verdict import write_verdict
from vitlab.studies.results import StudyResults


def study(accuracies: dict[str, float], **changes: object) -> StudyResults:
    return results(
        {
            name: {seed: right(accuracy, seed=10 * index + seed) for seed in range(4)}
            for index, (name, accuracy) in enumerate(accuracies.items())
        },
        **changes,
    )


def with_margin(study: StudyResults, margin: float) -> StudyResults:
    object.__setattr__(study.study, "margin", margin)
    return study


def written(study: StudyResults, folder: Path) -> dict:
    write_verdict(study, folder)
    return json.loads((folder / "verdict.json").read_text())


def status(folder: Path, *options: str) -> int:
    return main(["verdict", str(folder), *options])


def test_a_settled_study_is_status_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = written(study({"A": 0.95, "B": 0.85}), tmp_path)
    assert record["verdict"] == "better"
    (pair,) = record["pairs"]
    assert pair["mean"] == pytest.approx(10)
    assert 0 < pair["low"] < 10 < pair["high"]
    assert pair["adjusted_p"] < 0.05
    assert status(tmp_path) == 0
    assert capsys.readouterr().out == f"{record['headline']}\n"
    assert status(tmp_path, "--better", "A", "--than", "B") == 0
    assert status(tmp_path, "--better", "B") == 5


def test_a_study_is_named_by_its_folder_or_by_its_file(
    tmp_path: Path, write_study: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "runs" / "small-study"
    folder.mkdir(parents=True)
    headline = written(study({"A": 0.95, "B": 0.85}), folder)["headline"]
    file = str(write_study())
    for named in ([str(folder)], [file, "--root", str(folder.parent)]):
        assert main(["verdict", *named]) == 0
        assert capsys.readouterr().out == f"{headline}\n"
    assert main(["verdict"]) == 2
    assert "`python -m vitlab verdict` needs: STUDY" in capsys.readouterr().err
    place = tmp_path / "axis" / "8-epochs"
    place.mkdir(parents=True)
    (place / "verdict.json").write_text("{}")
    assert main(["verdict", str(place.parent)]) == 2
    assert f"has a verdict for each place of its axis; give one of {place}." in capsys.readouterr().err


@pytest.mark.parametrize("command", ["compare", "plan"])
def test_a_study_needs_no_config_and_an_experiment_is_sent_to_fit(
    command: str, tmp_path: Path, write_study: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command]) == 2
    assert capsys.readouterr().err.startswith(f"error: {command} takes one study, got none. For example: {command}")
    write_study()
    assert main([command, str(tmp_path / "base.yaml")]) == 2
    assert "this is an experiment, not a study: it has no variants. Train it with `fit`" in capsys.readouterr().err
    misspelled = write_study(metric="top1")
    assert main([command, str(misspelled)]) == 2
    assert f"error: {misspelled}: metric: 'top1'. Expected" in capsys.readouterr().err


def test_a_study_given_to_fit_is_sent_to_compare(
    write_study: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", str(write_study())]) == 2
    assert "This is a study, not an experiment" in capsys.readouterr().err


def test_an_open_study_is_status_1_though_one_pair_is_settled(tmp_path: Path) -> None:
    assert written(study({"A": 0.95, "B": 0.949, "C": 0.85}), tmp_path)["verdict"] == "no winner yet"
    assert status(tmp_path) == 1
    assert status(tmp_path, "--better", "A", "--than", "C") == 0
    assert status(tmp_path, "--better", "A", "--than", "B") == 1


def test_a_leader_that_equals_some_and_beats_the_rest_is_equal(tmp_path: Path) -> None:
    record = written(with_margin(study({"A": 0.95, "B": 0.95, "C": 0.85}), 5.0), tmp_path)
    assert "equal to within 5 points" in plain(record["headline"])
    assert record["verdict"] == "equal"
    assert status(tmp_path) == status(tmp_path, "--better", "A") == 3


def test_a_single_seed_writes_valid_json(tmp_path: Path) -> None:
    one = results({"A": {0: right(0.9)}, "B": {0: right(0.8)}})
    record = written(one, tmp_path)
    assert record["pairs"][0]["adjusted_p"] is None
    assert status(tmp_path) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "verdict.json does not exist"),
        (("--better", "Z"), "'Z' is not a variant"),
        (("--better", "A", "--than", "A"), "two"),
    ],
)
def test_mistakes_are_status_2(
    options: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if options:
        written(study({"A": 0.95, "B": 0.85}), tmp_path)
    assert status(tmp_path, *options) == 2
    assert message in capsys.readouterr().err


def test_a_void_comparison_is_status_4_though_its_leader_is_far_ahead(tmp_path: Path) -> None:
    differences = [Difference("model.init_args.optimizer.init_args.lr", {"A": 1e-3, "B": 1e-4}, declared=False)]
    record = written(study({"A": 0.95, "B": 0.85}, differences=differences), tmp_path)
    assert record["headline"].startswith("Not comparable: not a pure comparison of what the study declares")
    assert "learning rate differs too" in record["headline"]
    assert record["objections"] == record["remarks"][:1]
    assert status(tmp_path) == 4
    assert status(tmp_path, "--better", "A", "--than", "B") == 4

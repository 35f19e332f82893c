import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fake_study import AHEAD, SIX, plain, results, right, seeds
from referee.formats import SPACE
from referee.plan import pilot_of
from referee.statistics.power import detectable, need

from vitlab.__main__ import main
from vitlab.studies.file.format import duration
from vitlab.studies.file.runs import Difference
from vitlab.studies.report.verdict import outlooks, verdict, write_verdict
from vitlab.studies.results import StudyResults


def test_between_equal_variants_there_is_no_winner_yet() -> None:
    tied = results({"A": seeds([0.95, 0.94, 0.96]), "B": seeds([0.949, 0.952, 0.948], first=5)})
    text = plain(verdict(tied))
    assert text.startswith("No winner yet (3 seeds each)")
    assert "by 0.0 points (−" in text  # with the interval of the lead
    assert tied.verdict.pairs[0].interval.low < 0 < tied.verdict.pairs[0].interval.high
    assert not tied.verdict.pairs[0].settled


def test_a_leader_may_be_better_than_one_and_undecided_against_another() -> None:
    study = {"Swin": seeds(SIX), "ViT": seeds([0.9] * 6), "Swin v2": seeds([0.951, 0.949, 0.95, 0.951, 0.953, 0.95], 9)}
    text = plain(verdict(results(study)))
    assert text.startswith("Swin v2 is better than ViT by 5.1 points (")
    assert "no winner yet against Swin" in text


def test_seeds_need_no_partner() -> None:
    unequal = {"Swin": AHEAD["Swin"], "ViT": {seed: AHEAD["ViT"][seed % 6] for seed in (7, 8, 9)}}
    text = plain(verdict(results(unequal)))
    assert text.startswith("Swin is better than ViT by 5")
    assert "(3 to 6 seeds each)" in text


def test_one_seed_tells_no_difference() -> None:
    text = verdict(results({"A": seeds([0.99]), "B": seeds([0.7])}))
    assert plain(text) == "A scored highest (99.0 %), but a single seed cannot distinguish a difference from chance."


def test_seeds_that_agree_do_not_make_three_images_a_lead() -> None:
    # Three images of 1,000 more in each of eight seeds: certain over seeds, not over images.
    base = right(0.95)
    better = base.copy()
    better[np.flatnonzero(~base)[:3]] = True
    text = verdict(results({"A": dict.fromkeys(range(8), better), "B": dict.fromkeys(range(8), base)}))
    assert text.startswith("No winner yet")


def test_nothing_to_compare_is_said() -> None:
    assert verdict(results({"A": seeds([0.9])})).startswith("Only A has finished runs")
    none = dataclasses.replace(results({"A": seeds([0.9])}), finished=[])
    assert verdict(none) == "No run finished, so there is nothing to compare."


def test_many_leads_that_are_not_settled_are_told_by_their_range() -> None:
    shares = {"A": 0.8, "B": 0.79, "C": 0.78, "D": 0.77, "E": 0.76, "F": 0.2}
    study = results({name: {seed: right(share, 100) for seed in range(3)} for name, share in shares.items()})
    told = plain(verdict(study))
    assert "no winner yet against B, C, D and E, which it leads by 1.0 to 4.0 points (3 seeds each)." in told
    assert told.startswith("A is better than F by 60.0 points (")


# verdict.json and the command that asks it


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


# What would settle an open lead, and what the study could have found


def lines(study: StudyResults) -> list[str]:
    return [line.replace(SPACE, " ") for line in outlooks(study)]


CLOSE = {"A": seeds([0.95, 0.96, 0.957]), "B": seeds([0.945, 0.95, 0.948], 50)}


def test_seeds_and_minutes_that_settle_a_lead_are_told() -> None:
    """The study has been looked at with 3 seeds, so that more seeds of it are tested at a stricter level."""
    study = results(CLOSE)
    pilot = study.verdict.pilot
    assert pilot is not None
    assert pilot.level(7) < 0.05
    plan, found = lines(study)
    small, large = need(pilot, 0.007).seeds, need(pilot, 0.01).seeds
    start = r"To settle a true lead of 0\.7 points here, plan"
    assert re.fullmatch(rf"{start} {small} seeds of each variant \((.*)\); of 1 point, {large}\.", plan)
    # Two variants of 60 s a run, as many at a time as there are cores.
    alone = lines(dataclasses.replace(study, study=dataclasses.replace(study.study, jobs=1)))[0]
    least = duration(small.low * 120, small.low * 120).replace(SPACE, " ")
    assert f"({least} or more)" in alone
    amount = f"{100 * detectable(pilot, 3):.1f}"
    assert found == (
        f"This study would have found a true difference of {amount} points in 4 of 5 repetitions; smaller ones may "
        "have been missed."
    )


def test_what_could_be_found_depends_on_the_pair_where_spreads_do() -> None:
    """B repeats A; C, as good, differs between seeds by two points."""
    study = results(CLOSE | {"C": seeds([0.93, 0.97, 0.95], 100)})
    assert study.verdict.pilot is not None
    pairs = [pair for pair in study.verdict.pairs if pair.better is study.verdict.ranking[0]]
    found = sorted(100 * detectable(pilot_of(pair, study.verdict, study.verdict.pilot), 3) for pair in pairs)
    assert found[1] > 1.5 * found[0]
    assert f"a true difference of {found[0]:.1f} to {found[1]:.1f} points, by pair, in 4 of 5" in lines(study)[-1]


def test_a_settled_study_has_no_outlook() -> None:
    assert outlooks(results({"A": seeds([0.95, 0.951]), "B": seeds([0.85, 0.851])})) == []
    assert outlooks(results({"A": seeds([0.95]), "B": seeds([0.94])})) == []  # a single seed tells no variance


def test_after_many_seeds_what_is_excluded_is_told() -> None:
    ten = [0.95, 0.951, 0.949, 0.95, 0.952, 0.95, 0.95, 0.948, 0.951, 0.95]
    study = results({"A": seeds(ten), "B": seeds(ten[::-1], 50)})
    (pair,) = study.verdict.pairs
    limit = f"{100 * max(-pair.interval.low, pair.interval.high):.1f}"
    assert lines(study)[0] == f"Undecided after 10 seeds; a true difference above {limit} points is excluded."


def test_where_seeds_cannot_help_the_images_are_named() -> None:
    # Twenty of 1,000 images tell A from B, the same ones with each seed: seeds add nothing to what the images say.
    hard = np.arange(1000) >= 20
    a, b = hard.copy(), hard.copy()
    a[:11], b[11:20] = True, True
    study = results({"A": dict.fromkeys(range(6), a), "B": dict.fromkeys(range(6), b)})
    # var(a − b) = 0.02, so ± 1.96 √(0.02 / 1,000) = 0.9 points
    assert re.fullmatch(
        r"More seeds alone will not settle a lead of 0\.2 points here: the choice of 1,000 test images moves it by "
        r"± 0\.9\. It takes at least [\d,]+ to [\d,]+ test images; with twice as many, [\d,]+( to [\d,]+)? seeds "
        r"of each variant\.",
        lines(study)[0],
    )


def test_a_pilot_that_cannot_exclude_seeds_sends_nobody_for_images() -> None:
    """Images are named only if even their low end is too much."""
    study = results(CLOSE)
    assert study.verdict.pilot is not None
    point = study.verdict.pilot.point._replace(images=1e-4)
    vague = study.verdict.pilot._replace(point=point, low=point._replace(images=1e-7), high=point)
    study.__dict__["verdict"] = dataclasses.replace(study.verdict, pilot=vague)
    assert need(vague, 0.007).images is None
    assert re.search(r"\d+ or more seeds", lines(study)[0])


def test_the_pilot_averages_the_images_over_pairs() -> None:
    three = results({**CLOSE, "C": seeds([0.94, 0.942, 0.944], 80)}).verdict
    pairs = [pair.difference.images for pair in three.pairs]
    assert min(pairs) < three.pilot.point.images < max(pairs)

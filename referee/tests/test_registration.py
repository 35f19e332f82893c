"""`referee watch`: looks are registered before any result, and neither they nor what they judged changes."""

import re
import shlex
from pathlib import Path

import pandas as pd
import pytest
from conftest import simulated
from referee.__main__ import main

REGISTER, LATER = re.findall(
    r"^referee (watch .*?) +#", (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8"), re.MULTILINE
)
Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(table: pd.DataFrame) -> None:
    for (variant, seed), rows in table.groupby(["variant", "seed"]):
        file = Path(f"study/{variant}/seed-{seed}.csv")
        file.parent.mkdir(parents=True, exist_ok=True)
        rows[["item", "correct"]].to_csv(file, index=False)


def status(command: str) -> int:
    return main(shlex.split(command))


def test_looks_of_the_readme_are_registered_and_decide(capsys: Output) -> None:
    Path("study").mkdir()
    Path("study/README.md").write_text("no result")
    assert status(REGISTER) == 1
    assert status(LATER) == 1
    table = simulated({"A": 0.9, "B": 0.7}, seeds=5)
    write(table[table["seed"] < 4])
    capsys.readouterr()
    assert status(LATER) == 1
    assert capsys.readouterr().out == "No look yet: the first comes after 4 seeds of each variant.\n"  # no score either
    write(table[table["seed"] == 4])
    assert status(LATER) == 0
    first = capsys.readouterr().out
    assert first.splitlines()[1].startswith("A is better than B by")
    assert first.endswith("Look 1 of at most 12, the last: decided.\n")
    assert status(f"{LATER} --better B") == 5
    capsys.readouterr()
    write(table)
    assert status(LATER) == 0
    assert "R009 seeds were added beyond look 1, the last: 5." in (told := capsys.readouterr().out)
    assert told.splitlines()[1] == first.splitlines()[1]


def test_an_open_study_goes_on_to_its_last_look(capsys: Output) -> None:
    assert status("watch --seeds 4..6 --margin 0.5 study") == 1
    table = simulated({"A": 0.7, "B": 0.7}, seeds=12)
    write(table[table["seed"].isin((2, 10, 11, 12))])
    assert status("watch study") == 1
    assert "Look 1 of at most 3, the next after 5 seeds of A and B." in capsys.readouterr().out
    write(table[table["seed"].isin((1, 3))])  # which do not come into look 1
    assert status("watch study") == 1
    assert "Look 3 of at most 3, the last: out of budget." in capsys.readouterr().out


def test_results_before_the_registration_are_refused(capsys: Output) -> None:
    write(simulated({"A": 0.9, "B": 0.7}))
    assert status(REGISTER) == 2
    assert "study/ has results already, like study/A/seed-1.csv" in capsys.readouterr().err
    assert not Path("study.looks.json").exists()


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--margin 1", "--margin 1.0: study.looks.json registered 0.5 on"),
        ("--seeds 4..5", "--looks [4, 5]: study.looks.json registered [4, 5, 6,"),
        ("--test paired", "--test paired: study.looks.json registered pooled on"),
        ("--seeds 3..5", "3..5. Give numbers from 4 on"),
        ("--seeds 4-5", "4-5. Give numbers from 4 on, like 4..15"),
        ("--seeds 4..1000000", "4..1000000. Give numbers from 4 on, like 4..15, and at most 200."),
        ("--items 100", "--items 100: this is for variants with one seed each"),
    ],
)
def test_another_plan_is_refused(capsys: Output, option: str, words: str) -> None:
    assert status(REGISTER) == 1
    before = Path("study.looks.json").read_text()
    assert status(f"{LATER} {option}") == 2
    assert words in capsys.readouterr().err
    assert Path("study.looks.json").read_text() == before
    assert status(REGISTER) == 1  # the same plan


@pytest.mark.parametrize(
    "plan",
    [
        *("--looks 5 3", "--seeds 4..1000000", "--seeds 4..201", "--seeds 1..6"),
        *(f"--seeds 4..6 {each}" for each in ("--margin -1", "--test t", "--read (")),
    ],
)
def test_a_plan_that_could_never_be_judged_is_not_registered(capsys: Output, plan: str) -> None:
    assert status(f"watch study {plan}") == 2
    assert len(capsys.readouterr().err) < 600  # not every look of a million
    assert not Path("study.looks.json").exists()


@pytest.mark.parametrize("changed", ["A, seed 2", "C"])
def test_another_result_of_a_judged_run_is_refused(capsys: Output, changed: str) -> None:
    status(REGISTER)
    write(simulated({"A": 0.7, "B": 0.7}))
    assert status(LATER) == 1
    table = simulated({"A": 0.9, "B": 0.7, "C": 0.5})
    write(table[(table["seed"] == 2) & (table["variant"] == changed[0])])
    assert status(LATER) == 2
    assert f"{changed}: these results are not those of look 1 in study.looks.json" in capsys.readouterr().err
    Path("study").rename("elsewhere")
    assert status(LATER) == 2
    told = capsys.readouterr()
    assert "study/: there is no such file" in told.err
    assert not told.out


@pytest.mark.parametrize("places", ["study", "study/A study/B", "study/{variant}/seed-{seed}.csv"])
def test_a_judgment_beside_the_registered_looks_is_a_finding(capsys: Output, places: str) -> None:
    status(REGISTER)
    write(simulated({"A": 0.9, "B": 0.7}))
    assert status(places) == 0
    assert capsys.readouterr().out.count("R009 study.looks.json registers looks; this is one more.") == 1


def test_a_failure_to_write_keeps_the_registration(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    status(REGISTER)
    before = Path("study.looks.json").read_text()
    write(simulated({"A": 0.9, "B": 0.7}))

    def cut(self: Path, text: str, **_: object) -> None:
        self.open("w").close()
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_text", cut)
    assert status(LATER) == 2
    assert Path("study.looks.json").read_text() == before


def test_the_direction_may_be_told_when_the_first_results_ask_for_it(capsys: Output) -> None:
    assert status("watch --seeds 4..5 study") == 1
    for name, middle in (("A", 1.0), ("B", 2.0)):
        for seed in (1, 2, 3, 4):
            Path(f"study/{name}").mkdir(parents=True, exist_ok=True)
            Path(f"study/{name}/{seed}.csv").write_text(f"value\n{middle + seed / 100}\n")
    assert status("watch study") == 2
    assert "Give --higher or --lower" in capsys.readouterr().err
    assert status("watch study --lower") == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("A is better")
    assert status("watch study --higher") == 2

"""The command in real processes: statuses, files, one line for a mistake, and no torch."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pytest
from referee.__main__ import main

import referee


def test_the_status_is_the_verdict(three: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    three.to_csv(tmp_path / "table.csv", index=False)
    file = str(tmp_path / "table.csv")
    assert main([file]) == 0
    assert main([file, "--better", "B", "--than", "A"]) == 5
    assert main([file, "--better", "B", "--than", "C"]) == 1
    assert "B against C: no winner yet." in capsys.readouterr().out


def test_blanks_around_a_name_are_no_other_variant(three: pd.DataFrame) -> None:
    known = referee.judge(three)
    three.loc[three["seed"] == three["seed"].max(), "variant"] += " "
    assert referee.judge(three).sentence == known.sentence


def test_a_report_is_one_page_without_a_network(three: pd.DataFrame, tmp_path: Path) -> None:
    three["variant"] += "<b>"
    three.to_parquet(tmp_path / "table.parquet")
    assert main([str(tmp_path / "table.parquet"), "--out", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "A&lt;b&gt; is better than" in page
    assert "<b>" not in page
    assert "http" not in page.replace("http://www.w3.org", "")
    record = json.loads((tmp_path / "out" / "verdict.json").read_text(encoding="utf-8"))
    assert record["verdict"] == "better"
    assert len(record["pairs"]) == 3
    assert (tmp_path / "out" / "figures" / "differences.pdf").stat().st_size > 1_000
    assert (tmp_path / "out" / "report.md").read_text(encoding="utf-8").startswith("# A")


def test_a_table_for_a_paper_compiles_its_names(
    three: pd.DataFrame, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    three["variant"] = "my_" + three["variant"]
    three.to_csv(tmp_path / "t.csv", index=False)
    main([str(tmp_path / "t.csv"), "--latex"])
    table = capsys.readouterr().out
    assert r"my\_A & 4 & $\mathbf{" in table
    assert table.count(r"\\") == 4


def test_a_table_for_a_paper_has_the_whole_interval_and_takes_no_runs_too(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Also where the interval of a fraction ends at 100 %: Student's t of 97 and 99 gives 12.7."""
    rows = {"variant": ["a^", "a^", "b"], "seed": [1, 2, 1], "accuracy": [0.97, 0.99, None]}
    pd.DataFrame(rows).to_csv(tmp_path / "t.csv", index=False)
    main([str(tmp_path / "t.csv"), "--latex"])
    assert r"a\textasciicircum{} & 2 & $\mathbf{98.0 \pm 12.7}$" in capsys.readouterr().out
    pd.DataFrame({**rows, "accuracy": None}).to_csv(tmp_path / "t.csv", index=False)
    assert main([str(tmp_path / "t.csv"), "--latex"]) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.csv"], "nowhere.csv: there is no such file"),
        (["{table}", "--better", "D"], "'D' is not a variant"),
        (["{table}", "--test", "t"], "test t: give one of pooled"),
        (["{table}", "--margn", "1"], "--margn"),
        (["plan", "{table}", "--difference", "0"], "--difference 0.0"),
        (["{table}", "--read", "("], "not a regular expression"),
        (["{table}", "--best"], "--best chooses among the rows of a log, or the matches of --read"),
        (["{table}", "--read", "seed"], "has 0 groups. Put the score alone in parentheses"),
        (
            ["plan", "{table}", "{table}.csv", "--difference", "1"],
            "table.csv.csv, row 0 is a second one of A, seed 1, beside ",
        ),
    ],
)
def test_a_mistake_is_one_message_and_status_2(
    three: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    three.to_csv(tmp_path / "table.csv", index=False)
    three.to_csv(tmp_path / "table.csv.csv", index=False)  # the same runs again
    assert main([each.format(table=tmp_path / "table.csv") if each != "(" else each for each in arguments]) == 2
    assert words in capsys.readouterr().err


def test_a_plan_says_what_a_difference_takes(
    three: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    three.to_csv(tmp_path / "table.csv", index=False)
    assert main(["plan", str(tmp_path / "table.csv"), "--difference", "10"]) == 0
    assert "Four of five such studies find a true difference of 10" in capsys.readouterr().out


@pytest.mark.parametrize(("used", "not_needed"), [
    ("referee", {"scipy", "pandas", "matplotlib"}),
    ("referee.judging", {"torch", "vitlab", "matplotlib", "scipy.stats", "scipy.optimize"}),  # longer than all the rest
])  # fmt: skip
def test_a_process_starts_without_what_it_does_not_need(used: str, not_needed: set[str]) -> None:
    code = f"import sys, {used}; print({not_needed} & {{*sys.modules}})"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "set()"


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"referee {version('referee')}\n"
    assert referee.__version__ == version("referee")

"""The examples: each table in examples/ gives the sentence that examples/README.md shows for its command."""

import math
import re
import shlex
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
from referee.__main__ import main
from scipy import stats

import referee

EXAMPLES = Path(__file__).parents[1] / "examples"
SHOWN = re.findall(
    r"```sh\nreferee (.+)\n```\n```text\n(.+)\n```", (EXAMPLES / "README.md").read_text(encoding="utf-8")
)
OF_A_TABLE = [(command, text) for command, text in SHOWN if (EXAMPLES / command.split()[0]).is_file()]
LOSS_OF_STEPS, DEVIATION = 0.0045 / 100, 0.0013  # the track's own


@pytest.mark.parametrize(("command", "text"), OF_A_TABLE)
def test_an_example_gives_the_sentence_that_is_shown(
    command: str, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(EXAMPLES)
    main(shlex.split(command))
    sentence = capsys.readouterr().out.splitlines()[1].replace("\u00a0", " ")
    assert sentence == text or (text.endswith("…") and sentence.startswith(text[:-1]))


def test_every_table_is_an_example_and_small() -> None:
    tables = {file.name: file.stat().st_size for file in EXAMPLES.glob("*.csv")}
    assert tables.keys() - {command.split()[0] for command, _ in SHOWN} == {"nanogpt_track3.csv"}  # of its records
    assert max(tables.values()) < 60_000
    assert sum(tables.values()) < 300_000
    assert len(SHOWN) == 13


def test_the_records_are_rows_of_the_track() -> None:
    runs, records = (pd.read_csv(EXAMPLES / f"nanogpt_{name}.csv") for name in ("track3", "records"))
    assert runs.loc[runs["record"] == "yes", list(records)].reset_index(drop=True).equals(records)


def test_eight_of_the_successions_of_a_record_are_beyond_chance() -> None:
    verdict = referee.judge(EXAMPLES / "nanogpt_records.csv", metric="steps_to_3.28", lower=True)
    scores = {name: verdict.outcomes.of(name) for name in verdict.outcomes.variants}
    several = [name for name, runs in scores.items() if len(runs) > 1]
    settled = {(pair.better.name, pair.worse.name) for pair in verdict.pairs if pair.settled}
    better = [new for old, new in pairwise(several) if (new, old) in settled]
    assert (len(several) - 1, better) == (17, ["#9", "#14", "#20", "#29", "#30", "#44", "#45", "#46"])
    assert ("#43", "#30") in settled
    assert verdict.between("#43", "#42") == "better"  # asked alone

    table = pd.read_csv(EXAMPLES / "nanogpt_records.csv").groupby("variant", sort=False)["steps_to_3.28"]
    size, mean = table.size(), table.mean()
    leads = [(mean[old] - mean[new]) * LOSS_OF_STEPS / math.sqrt(1 / size[old] + 1 / size[new])
             for old, new in pairwise(mean.index)]  # fmt: skip
    assert len(leads) == 19
    assert sum(lead >= 0.004 for lead in leads) == 8
    assert sum(2 * stats.norm.sf(lead / DEVIATION) < 0.05 for lead in leads) == 10


def test_the_spread_of_a_run_of_the_track_is_below_its_owners() -> None:
    losses = pd.read_csv(EXAMPLES / "nanogpt_track3.csv").groupby("variant")["val_loss"]
    freedom = losses.size() - 1
    pooled = math.sqrt((losses.var()[freedom > 0] * freedom[freedom > 0]).sum() / freedom.sum())
    assert ((freedom > 0).sum(), freedom.sum()) == (42, 486)
    assert pooled == pytest.approx(0.00112, abs=5e-6)

"""Averages over data sets and over a grid's factors, against closed forms and scipy."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from referee.__main__ import main
from referee.effects import beside
from referee.judging import of_trainings
from referee.outcomes import Outcomes, Reading, from_frame
from referee.report.effects import effects_section
from referee.verdict import Design
from scipy import special, stats

from referee import judge

DATASETS = ("cola", "mrpc", "rte", "sst", "qnli")
LEADS = {"cola": 5.0, "mrpc": 4.0, "rte": 6.0, "sst": -7.0, "qnli": 6.0}


def on_datasets(leads: Mapping[str, float], seeds: int = 4, variants: str = "AB") -> pd.DataFrame:
    """Return scores of variants on data sets, the first ahead of the others by a lead on each."""
    rng = np.random.default_rng(5)
    rows = [
        (v, d, s, 50 + 7 * k + leads[d] * (v == "A") + rng.normal(0, 1 + k))
        for v, (k, d), s in product(variants, enumerate(leads), range(seeds))
    ]
    return pd.DataFrame(rows, columns=["variant", "dataset", "seed", "score"])


def test_a_lead_over_data_sets_is_their_mean_with_the_variances_added() -> None:
    table = on_datasets(LEADS)
    cells = table.groupby(["dataset", "variant"], sort=False)["score"]
    mean, squared = cells.mean().unstack(), (cells.var() / 4).unstack()
    leads, V = mean["A"] - mean["B"], squared.to_numpy().sum() / 25
    freedom = squared.to_numpy().sum() ** 2 / (squared.to_numpy() ** 2 / 3).sum()
    (pair,) = judge(table, lower=False).pairs
    assert pair.lead == pytest.approx(leads.mean())
    assert pair.difference is not None
    assert pair.difference[1:4] == pytest.approx((V, 0, freedom))
    assert pair.p == pytest.approx(2 * stats.t.sf(leads.mean() / math.sqrt(V), freedom))


def test_other_data_sets_are_judged_by_a_t_test_of_the_leads() -> None:
    table = on_datasets(LEADS)
    mean = table.groupby(["dataset", "variant"], sort=False)["score"].mean().unstack()
    leads = (mean["A"] - mean["B"]).to_numpy()
    row = judge(table, lower=False).table().iloc[0]
    assert row["p_in_general"] == pytest.approx(stats.ttest_1samp(leads, 0).pvalue)
    half = stats.t.ppf(0.975, 4) * leads.std(ddof=1) * math.sqrt(1 + 1 / 5)
    assert [row["low_elsewhere"], row["high_elsewhere"]] == pytest.approx([leads.mean() - half, leads.mean() + half])
    four = judge(table[table["dataset"] != "rte"], lower=False)
    assert not four.general
    assert "in_general" not in four.table()


def test_items_of_a_data_set_add_their_variance_alone() -> None:
    rng = np.random.default_rng(1)
    rows = [
        (v, d, s, f"{d}{i}", bool(rng.random() < 0.6 + 0.2 * (v == "A")))
        for v, (d, items), s in product("AB", (("small", 60), ("large", 300)), range(3))
        for i in range(items)
    ]
    table = pd.DataFrame(rows, columns=["model", "task", "seed", "item", "correct"])
    verdict = judge(table)
    (pair,) = verdict.pairs
    alone = [judge(table[table["task"] == d].drop(columns="task")).pairs[0] for d in ("small", "large")]
    for name in ("seeds", "images"):
        assert getattr(pair.difference, name) == pytest.approx(sum(getattr(p.difference, name) for p in alone) / 4)
    assert [p.lead for p in (verdict.datasets[d].pairs[0] for d in ("small", "large"))] == [p.lead for p in alone]
    assert "dataset: the column task." in verdict.outcomes.notes


def test_the_words_say_where_a_variant_is_ahead() -> None:
    verdict = judge(on_datasets(LEADS), lower=False)
    text = verdict.sentence.replace("\u00a0", " ")
    assert text.startswith("Over these 5 data sets A leads B by ")
    ahead = sum(of.pairs[0].better.name == "A" for of in verdict.datasets.values())
    settled = sum(of.between("A", "B") == "better" for of in verdict.datasets.values())
    assert text.endswith(f"4 seeds each): ahead on {ahead}, settled on {settled}; behind on {5 - ahead}.")
    (general,) = beside(verdict)
    assert general.startswith("On another such data set the lead may be ")
    three = judge(on_datasets(LEADS, variants="ABC"), lower=False)
    assert three.sentence.startswith(("Over these 5 data sets A is better than ", "Over these 5 data sets no winner"))


def test_one_seed_on_each_data_set_is_about_others_alone() -> None:
    verdict = judge(on_datasets(dict.fromkeys(DATASETS, 20.0), seeds=1), lower=False)
    assert [check.code for check in verdict.checks] == ["R004", "R020"]
    assert verdict.verdict == "no winner yet"
    assert verdict.between("A", "B", in_general=True) == "better"
    assert verdict.between("B", in_general=True) == "worse"


def test_a_variant_without_a_data_set_is_named_and_not_compared() -> None:
    table = on_datasets(dict.fromkeys((*DATASETS, "wnli"), 20.0))
    verdict = judge(table[(table["variant"] != "B") | (table["dataset"] != "rte")], lower=False)
    assert verdict.sentence == "Not comparable: B lacks rte. Add these runs, or leave the variant or the data set out."
    assert [*verdict.datasets] == ["cola", "mrpc", "sst", "qnli", "wnli"]
    assert verdict.between("A", in_general=True) == "better"


def test_a_data_set_that_is_most_of_the_mean_is_named() -> None:
    codes = {check.code: check.text for check in judge(on_datasets(LEADS | {"rte": 900.0}), lower=False).checks}
    assert codes["R018"].startswith("rte has 9")
    assert "R018" not in {check.code for check in judge(on_datasets(LEADS), lower=False).checks}


def test_unlike_scales_ask_for_logarithms_in_which_a_lead_is_a_factor() -> None:
    rng = np.random.default_rng(0)
    rows = [
        (v, env, s, size * (1.2 if v == "A" else 1.0) * math.exp(rng.normal(0, 0.02)))
        for v, (env, size), s in product("AB", (("Pong", 20), ("Breakout", 400)), range(4))
    ]
    table = pd.DataFrame(rows, columns=["algorithm", "env", "seed", "return"])
    assert "R019" in {check.code for check in judge(table, score="return", lower=False).checks}
    verdict = judge(table, score="return", lower=False, scale="log")
    assert "R019" not in {check.code for check in verdict.checks}
    means = np.log(table["return"]).groupby([table["env"], table["algorithm"]]).mean().unstack()
    assert verdict.table()["lead"][0] == pytest.approx(math.exp((means["A"] - means["B"]).mean()))
    assert "by a factor of 1.2" in verdict.sentence
    with pytest.raises(ValueError, match="A, seed 0 has a score of 0 or less"):
        judge(table.assign(**{"return": 0.0}), score="return", lower=False, scale="log")
    with pytest.raises(ValueError, match="a factor above 1"):
        judge(table, score="return", lower=False, scale="log", margin=0.5)


def test_a_column_with_one_data_set_a_variant_is_none_and_several_refuse_looks() -> None:
    table = on_datasets({"cola": 1.0})
    assert not judge(table, lower=False).datasets
    assert not judge(table, dataset="dataset", lower=False).datasets
    assert not judge(table.assign(dataset=table["variant"]), lower=False).datasets
    for setting in ({"looks": [4, 5]}, {"test": "exact"}):
        with pytest.raises(ValueError, match=r"(looks|test exact): not for several data sets"):
            judge(on_datasets(LEADS), lower=False, **setting)  # type: ignore[arg-type]


# ---- factors


def grid(means: Mapping[tuple[str, str], float]) -> Outcomes:
    """Return four runs of each cell, all of the variance 20/3 in points, and the factors of the cells."""
    rows = [(", ".join(cell), s, m + x) for cell, m in means.items() for s, x in enumerate((-3.0, -1.0, 1.0, 3.0))]
    outcomes = from_frame(pd.DataFrame(rows, columns=["variant", "seed", "score"]), Reading(lower=False))
    factors = {name: {", ".join(cell): cell[f] for cell in means} for f, name in enumerate(("network", "objective"))}
    return replace(outcomes, factors=factors)


# Of equal variances s̃² is above s², since ln χ² is on average below ln of its mean (Smyth 2004).
S2 = 20 / 3 * math.exp(math.log(1.5) - special.digamma(1.5))
FULL = dict(zip(product(("ViT", "Swin"), ("labels", "SimMIM", "MSN")), (50, 54, 40, 58, 70, 47), strict=True))


def test_a_main_effect_is_the_lead_averaged_over_the_other_factor() -> None:
    effects = judge(grid(FULL)).effects
    assert effects is not None
    network, *objectives = effects.main
    assert (network.factor, network.levels, network.at) == ("network", ("Swin", "ViT"), "")
    assert network.estimate == pytest.approx((8 + 16 + 7) / 3)
    V = 6 * (S2 / 4) / 9
    half = stats.t.ppf(0.975, 6 * 18) * math.sqrt(V)  # Satterthwaite over six cells, each of the pooled 18
    assert network.interval == pytest.approx((31 / 3, 31 / 3 - half, 31 / 3 + half))
    assert network.p == pytest.approx(max(1e-12, 2 * stats.t.sf(31 / 3 / math.sqrt(V), 108)))
    assert [each.levels for each in objectives] == [("SimMIM", "labels"), ("SimMIM", "MSN"), ("labels", "MSN")]
    assert {(each.at, each.estimate) for each in effects.simple if each.factor == "network"} == {
        ("labels", 8), ("SimMIM", 16), ("MSN", 7)
    }  # fmt: skip


def test_interactions_are_corrected_for_all_of_them() -> None:
    effects = judge(grid(FULL)).effects
    assert effects is not None
    assert [each.estimate for each in effects.interactions] == pytest.approx([9, 8, 1])
    first, second, last = effects.interactions
    assert (first.levels, first.at, first.than) == (("Swin", "ViT"), "SimMIM", "MSN")
    p = 2 * stats.t.sf(9 / math.sqrt(S2), 4 * 18)
    assert first.p == pytest.approx(3 * p)
    half = stats.t.isf(0.05 / 6, 4 * 18) * math.sqrt(S2)
    assert first.interval == pytest.approx((9, 9 - half, 9 + half))
    assert [each.word for each in (first, second, last)] == ["depends", "depends", "no winner yet"]


def test_a_grid_with_holes_compares_the_cells_that_both_levels_have() -> None:
    holes = {cell: mean for cell, mean in FULL.items() if cell not in (("Swin", "MSN"), ("ViT", "labels"))}
    effects = judge(grid(holes)).effects
    assert effects is not None
    network, *objectives = effects.main
    assert (network.levels, network.estimate) == (("Swin", "ViT"), 16)
    assert {each.levels: each.estimate for each in objectives if not math.isnan(each.p)} == {
        ("SimMIM", "labels"): 12, ("SimMIM", "MSN"): 14
    }  # fmt: skip
    assert not effects.interactions


def test_a_grid_of_models_is_judged_over_items() -> None:
    rng = np.random.default_rng(2)
    easy = rng.normal(size=400)
    rows = [(a, b, i, easy[i] + (a == "y") + rng.normal() > 0)
            for a, b in product("xy", "uv") for i in range(400)]  # fmt: skip
    verdict = judge(pd.DataFrame(rows, columns=["size", "data", "item", "correct"]), variant="size,data")
    assert verdict.of_models
    assert verdict.effects is not None
    right = pd.DataFrame(rows).groupby([0, 2])[3].mean().unstack(level=0)
    lead = right["y"] - right["x"]
    assert verdict.effects.main[0].p == pytest.approx(stats.ttest_1samp(lead, 0).pvalue, rel=1e-6)


def test_three_factors_average_over_both_others() -> None:
    rng = np.random.default_rng(0)
    rows = [(*cell, s, 10 * (cell[0] == "b") + 5 * (cell[:2] == ("b", "d")) + rng.normal())
            for cell in product("ab", "cd", "ef") for s in range(4)]  # fmt: skip
    table = pd.DataFrame(rows, columns=["one", "two", "three", "seed", "score"])
    verdict = judge(table, variant="one,two,three", lower=False)
    assert verdict.effects is not None
    means = table.groupby(["one", "two", "three"])["score"].mean()
    assert verdict.effects.main[0].estimate == pytest.approx(means["b"].mean() - means["a"].mean())
    assert {each.at for each in verdict.effects.simple if each.factor == "one"} == {"c, e", "c, f", "d, e", "d, f"}
    most = verdict.effects.interactions[0]
    assert (most.factor, most.levels, most.at, most.than) == ("one and two", ("b", "a"), "d", "c")


# ---- the command


def test_the_command_judges_data_sets_and_others_of_the_kind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "t.csv", tmp_path / "out"
    on_datasets(dict(zip(DATASETS, (40.0, 50.0, 45.0, 42.0, 48.0), strict=True))).to_csv(file, index=False)
    asked = [str(file), "--higher", "--dataset", "dataset"]
    assert main([*asked, "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "Over these 5 data sets A leads B by 4" in shown
    page = (out / "report.md").read_text(encoding="utf-8")
    assert "Each by itself, not corrected over data sets" in page
    assert "Other data sets of the kind" in page
    record = json.loads((out / "verdict.json").read_text(encoding="utf-8"))
    assert [*record["datasets"]] == [*DATASETS]
    assert record["pairs"][0]["in_general"] == "better"
    assert main([*asked, "--in-general"]) == 0
    assert main([*asked, "--in-general", "--better", "B"]) == 5
    on_datasets(LEADS | {"sst": -30.0}).to_csv(file, index=False)
    assert main([*asked, "--in-general"]) == 1
    on_datasets(dict.fromkeys(DATASETS[:4], 30.0)).to_csv(file, index=False)
    assert main([*asked, "--in-general"]) == 2
    assert "--in-general needs five data sets or more" in capsys.readouterr().err


def test_the_command_reads_a_variant_of_two_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcomes, file, out = grid(FULL), tmp_path / "t.csv", tmp_path / "out"
    rows = [(*run.variant.split(", "), run.seed, float(run.outcomes[0])) for run in outcomes.runs]
    table = pd.DataFrame(rows, columns=["Network", "objective", "seed", "score"])
    table.to_csv(file, index=False)
    assert main([str(file), "--variant", "network,objective", "--higher", "--out", str(out)]) == 0
    shown = capsys.readouterr().out.replace("\u00a0", " ")
    assert shown.partition("\n")[2].startswith("Network, on average: Swin is better than ViT by 10.3 (")
    assert "A lead depends on another factor: with SimMIM Swin leads ViT by 9.0 more (" in shown
    assert "Of the cells, Swin, SimMIM is better than " in shown
    record = json.loads((out / "verdict.json").read_text(encoding="utf-8"))
    assert record["factors"]["objective"]["Swin, MSN"] == "MSN"
    assert record["main"][0]["mean"] == pytest.approx(31 / 3)
    assert len(record["interactions"]) == 3
    assert (out / "figures" / "cells.png").stat().st_size > 1_000
    assert "<em>interaction</em>" in (out / "report.html").read_text(encoding="utf-8")
    assert main([str(file), "--variant", "network,colour", "--higher"]) == 2
    assert "--variant network,colour: there is no column colour. There are Network, " in capsys.readouterr().err


def test_a_section_has_every_effect() -> None:
    text = str(effects_section(judge(grid(FULL)), None))
    for cell in FULL.values():
        assert f"{cell}.0" in text
    assert text.count("Leads at each place") > 1
    plain = judge(grid(FULL).runs and replace(grid(FULL), factors=None))
    assert effects_section(plain, None) == []


def on_grid(network: float, training: float, seeds: int = 6, noise: float = 1.0, seed: int = 3) -> pd.DataFrame:
    """Return scores of two networks in three trainings, the first of each ahead by a lead."""
    rng = np.random.default_rng(seed)
    rows = [
        (n, t, s, 70 + network * (n == "ViT") + training * (t == "labels") + rng.normal(0, noise))
        for n, t, s in product(("ViT", "Swin"), ("labels", "soft", "hard"), range(seeds))
    ]
    return pd.DataFrame(rows, columns=["network", "training", "seed", "score"])


def test_a_watched_grid_ends_when_its_factors_are_settled_though_its_cells_are_not() -> None:
    table, variant = on_grid(3, 3), "network,training"
    verdict = judge(table, looks=(4, 5, 6), variant=variant, lower=False)
    assert verdict.watch is not None
    assert (verdict.watch.stop, verdict.watch.looks[-1].seeds["ViT, labels"]) == ("decided", 4)
    outcomes = from_frame(table, Reading(lower=False, columns={"variant": variant}))
    by_cells = of_trainings(outcomes, Design(looks=(4, 5, 6), until_cells=True))
    assert by_cells.watch is not None
    assert by_cells.watch.looks[-1].seeds["ViT, labels"] > 4


def test_a_watched_grid_ends_where_a_factor_has_no_effect() -> None:
    ends = {}
    for margin in (None, 2.0):
        verdict = judge(on_grid(8, 0, 10), margin, looks=tuple(range(4, 11)), variant="network,training", lower=False)
        ends[margin] = verdict.watch and verdict.watch.stop
    assert ends[None] == "hopeless"
    assert ends[2.0] in ("equal", "decided")


@pytest.mark.slow
def test_equal_levels_of_a_watched_grid_are_called_different_in_five_percent_of_studies() -> None:
    false = 0
    for study in range(150):
        table = on_grid(0, 0, 8, seed=study)
        verdict = judge(table, looks=tuple(range(4, 9)), variant="network,training", lower=False)
        assert verdict.effects is not None
        false += any(effect.word == "better" for effect in verdict.effects.main if effect.factor == "network")
    assert false <= 0.05 * 150 + 2 * math.sqrt(0.05 * 0.95 * 150)

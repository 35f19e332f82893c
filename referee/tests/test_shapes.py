"""The same runs in every shape that people hold them in give the same verdict, and what cannot be known is asked."""

import gzip
import io
import json
import re
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from referee.__main__ import main
from sklearn.datasets import load_iris
from sklearn.model_selection import cross_validate
from sklearn.tree import DecisionTreeClassifier

import referee

RNG = np.random.default_rng(0)
A, B = 0.80 + 0.01 * RNG.normal(size=5), 0.77 + 0.01 * RNG.normal(size=5)
RIGHT_A, RIGHT_B = RNG.random((4, 300)) < 0.9, RNG.random((4, 300)) < 0.7
LONG = pd.DataFrame({"model": ["a"] * 5 + ["b"] * 5, "seed": [*range(5)] * 2, "score": [*A, *B]})
OF_SCORES: dict[str, Callable[[], Any]] = {
    "arrays": lambda: {"a": A, "b": B},
    "lists": lambda: {"a": [*A], "b": tuple(B)},
    "tensors": lambda: {"a": torch.tensor(A), "b": torch.tensor(B)},
    "lists of tensors": lambda: {"a": [torch.tensor(x) for x in A], "b": [torch.tensor(x) for x in B]},
    "series": lambda: {"a": pd.Series(A), "b": pd.Series(B)},
    "by seed": lambda: {"a": dict(enumerate(A)), "b": dict(enumerate(B))},
    "records": lambda: LONG.to_dict("records"),
    "columns": lambda: LONG.to_dict("list"),
    "long": lambda: LONG,
    "polars": lambda: pl.DataFrame(LONG.to_dict("list")),
    "wide": lambda: pd.DataFrame({"a": A, "b": B}),
    "wide, polars": lambda: pl.DataFrame({"a": A, "b": B}),
    "wide, seeds as rows": lambda: LONG.pivot(index="seed", columns="model", values="score"),
    "wide, seeds as columns": lambda: LONG.pivot(index="model", columns="seed", values="score"),
    "index of two levels": lambda: LONG.set_index(["model", "seed"]),
    "runs as columns": lambda: pd.DataFrame({f"{v}_seed{i}": [x] for v, y in (("a", A), ("b", B))
                                             for i, x in enumerate(y)}),
    "named seeds, beside what is no score": lambda: LONG.pivot(index="model", columns="seed", values="score")
    .rename(columns="seed_{}".format).assign(mean=0.5, rank=[1, 2], fit_time=3.0),
    "split0_test_score": lambda: LONG.pivot(index="model", columns="seed", values="score")
    .rename(columns="run {}".format).reset_index(),
    "means": lambda: LONG.groupby("model")["score"].agg(["mean", "std", "count"]),
}  # fmt: skip
OF_ITEMS: dict[str, Callable[[], Any]] = {
    "arrays": lambda: {"a": RIGHT_A, "b": RIGHT_B},
    "numbers": lambda: {"a": RIGHT_A.astype(float).tolist(), "b": RIGHT_B.astype(int)},
    "tensors": lambda: {"a": torch.tensor(RIGHT_A), "b": torch.tensor(RIGHT_B)},
    "by seed": lambda: {"a": dict(enumerate(RIGHT_A)), "b": dict(enumerate(RIGHT_B))},
}


def ends(verdict: referee.Verdict) -> list[float]:
    return [*verdict.pairs[0].interval, verdict.pairs[0].p]


@pytest.mark.parametrize("name", OF_SCORES)
def test_scores_of_any_shape_are_judged_alike(name: str) -> None:
    verdict = referee.judge(OF_SCORES[name]())
    assert [variant.name for variant in verdict.ranking] == ["a", "b"]
    assert ends(verdict) == pytest.approx(ends(referee.judge(LONG)), rel=1e-9)
    first = verdict.outcomes.notes[0].replace("\u00a0", " ")
    assert first.startswith("2 variants")
    assert "5 seeds" in first
    assert first.endswith("score, higher is better")


@pytest.mark.parametrize("name", OF_ITEMS)
def test_outcomes_of_any_shape_are_judged_alike(name: str) -> None:
    rows = [(v, s, i, y[s, i]) for v, y in (("a", RIGHT_A), ("b", RIGHT_B)) for s in range(4) for i in range(300)]
    long = referee.judge(pd.DataFrame(rows, columns=["variant", "seed", "item", "correct"]))
    verdict = referee.judge(OF_ITEMS[name]())
    assert ends(verdict) == pytest.approx(ends(long), rel=1e-12)
    assert verdict.outcomes.notes[0].replace("\u00a0", " ").startswith("2 variants × 4 seeds × 300 items, accuracy")


def test_a_single_dimension_is_items_or_scores_and_asked_for_where_it_may_be_both() -> None:
    assert referee.judge({"a": RIGHT_A[0], "b": RIGHT_B[0]}).outcomes.by_item
    losses = {"a": RNG.random(400), "b": RNG.random(400)}
    for values, what in ((losses, "items"), ({"a": [1.0, 1.0], "b": [1.0, 1.0]}, "scores")):
        with pytest.raises(ValueError, match='Give what="scores" or what="items"'):
            referee.judge(values)
        assert referee.judge(values, what=what).outcomes.by_item == (what == "items")
    assert not referee.judge({"a": [1.0, 1.0], "b": [0.9, 0.8]}).outcomes.by_item  # not of two models
    with pytest.raises(ValueError, match=r"\(300, 4\) is \(seeds, items\)\? Give what"):
        referee.judge({"a": RIGHT_A.T, "b": RIGHT_B.T})
    with pytest.raises(ValueError, match=r"shape \(2, 5\): whose scores are these\? Give a dictionary by variant"):
        referee.judge(np.stack([A, B]))


def test_folds_of_scikit_learn_are_no_seeds() -> None:
    """By the corrected resampled t-test of Nadeau and Bengio (2003)."""
    x, y = load_iris(return_X_y=True)
    trees = {depth: DecisionTreeClassifier(max_depth=depth, random_state=0) for depth in (1, 2)}
    scores = {f"depth {depth}": cross_validate(tree, x, y, cv=5) for depth, tree in trees.items()}
    verdict = referee.judge(scores)
    d = scores["depth 2"]["test_score"] - scores["depth 1"]["test_score"]
    half = 2.776445105 * np.sqrt(d.var(ddof=1) * (1 / 5 + 1 / 4))  # Student's t, 4 degrees of freedom
    assert verdict.pairs[0].difference is not None
    assert verdict.pairs[0].difference.interval_at(0.05)[1:] == pytest.approx((d.mean() - half, d.mean() + half))
    assert "(5\u00a0folds each)" in verdict.sentence
    assert "seed" not in " ".join(map(str, verdict.checks))
    arrays = {name: each["test_score"] for name, each in scores.items()}
    assert ends(referee.judge(arrays, folds=5)) == pytest.approx(ends(verdict))


# ---- files, by the commands of the README

MEANS = {"vit": 0.70, "swin": 0.80}
RUNS = [(name, seed, round(mean + 0.01 * x, 4)) for name, mean in MEANS.items()
        for seed, x in enumerate(RNG.normal(size=5))]  # fmt: skip
TABLE = pd.DataFrame(RUNS, columns=["model", "seed", "accuracy"])
README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^\| .+ \| `referee (.+)` \|$", README, re.MULTILINE)


def event(step: int, tag: str, value: float) -> bytes:
    """Return a TFRecord of an Event with a simple value, as SummaryWriter writes it."""
    scalar = b"\x0a" + bytes([len(tag)]) + tag.encode() + b"\x15" + struct.pack("<f", value)
    summary = b"\x0a" + bytes([len(scalar)]) + scalar
    data = b"\x10" + bytes([step]) + b"\x2a" + bytes([len(summary)]) + summary
    return struct.pack("<QI", len(data), 0) + data + struct.pack("<I", 0)


def write_all(folder: Path) -> None:
    """Write the same runs in every layout of the README: all have the scores of RUNS, logs as their last values."""

    def file(name: str, content: str | bytes) -> None:
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content if isinstance(content, bytes) else content.encode())

    wide = TABLE.pivot(index="seed", columns="model", values="accuracy")
    file("scores.csv", TABLE.to_csv(index=False))
    file("wide_models.csv", wide.to_csv(index=False))
    file("wide_seeds.csv", wide.T.to_csv())
    file("arrays.npz", packed(np.savez, **{name: wide[name] for name in wide}))
    file("folds.csv", TABLE.rename(columns={"seed": "fold"}).to_csv(index=False))
    file("repeated.csv", TABLE.rename(columns={"seed": "split"}).to_csv(index=False))
    by_model = TABLE.groupby("model")["accuracy"]
    file("means.csv", "model,accuracy\n" + "".join(f"{m},{y.mean():.9f} ± {y.std():.9f}\n" for m, y in by_model))
    cells = pd.DataFrame(
        {f"set {i}": {m: f"{y.mean() - i / 100:.9f} ± {y.std():.9f}" for m, y in by_model} for i in (0, 1)}
    )
    file("paper.csv", cells.T.rename_axis("dataset").to_csv())
    file("paper_columns.csv", cells.rename_axis("method").to_csv())
    labels, rank = np.arange(400) % 4, np.arange(400) * 7 % 10
    guesses = {m: np.where(rank < 10 * mean, labels, (labels + 1) % 4) for m, mean in MEANS.items()}
    items = pd.DataFrame({"image": [f"{i}.jpg" for i in range(400)], "label": labels, **guesses})
    file("predictions_wide.csv", items.to_csv(index=False))
    chart: dict[str, list[float]] = {"Step": [0, 1]}
    runs = []
    for name, seed, score in RUNS:
        runs.append((f"{name}-seed{seed}", "finished", 12.5, score))
        chart |= {f"{name}-s{seed} - val/acc{end}": [score + 0.1, score] for end in ("", "__MIN", "__MAX")}
        file(f"tensorboard/{name}-seed{seed}/events.out.tfevents.1.host",
             event(0, "val/acc", score + 0.1) + event(1, "val/acc", score) + event(1, "train/loss", 0.5))  # fmt: skip
        log = f"epoch,step,train_loss,val_acc\n0,9,0.5,\n0,9,,{score + 0.1}\n1,19,,{score}\n"
        file(f"lightning/{name}/seed{seed}/lightning_logs/version_0/metrics.csv", log)
        record = {"eval_accuracy": score, "eval_loss": 0.1, "eval_runtime": 3.0, "epoch": 3.0}
        file(f"huggingface/{name}-seed{seed}/all_results.json", json.dumps(record))
        state = {"log_history": [{"step": 1, "eval_accuracy": 0.1}, {"step": 2, "eval_accuracy": 0.2}]}
        file(f"huggingface/{name}-seed{seed}/trainer_state.json", json.dumps(state))
        of_mlflow = f"mlruns/0/{name}{seed}f"
        file(f"{of_mlflow}/meta.yaml", "run_id: x\n")
        file(f"{of_mlflow}/params/model", name)
        file(f"{of_mlflow}/params/seed", str(seed))
        file(f"{of_mlflow}/metrics/val_acc", f"1 {score + 0.1} 0\n2 {score} 1\n")
        file(f"{of_mlflow}/metrics/train_loss", "1 0.5 0\n2 0.4 1\n")
    file("wandb_table.csv", pd.DataFrame(runs, columns=["Name", "State", "Runtime", "test/acc"]).to_csv(index=False))
    file("wandb_chart.csv", pd.DataFrame(chart).to_csv(index=False))
    for name, mean in MEANS.items():
        file(
            f"predictions/{name}.csv", items[["label", name]].set_axis(["y_true", "y_pred"], axis=1).to_csv(index=False)
        )
        task = {"alias": "arc", "acc,none": mean, "acc_stderr,none": 0.01}
        file(
            f"lm_eval/{name}/results_2026-01-0{1 + len(name) % 3}T10-00-00.json", json.dumps({"results": {"arc": task}})
        )


@pytest.mark.parametrize("command", COMMANDS)
def test_a_layout_is_read_as_the_readme_types_it(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_all(tmp_path)
    monkeypatch.chdir(tmp_path)
    place, *_ = options = command.split()
    status = main([*options, "--explain"])
    first, *lines = capsys.readouterr().out.replace("\u00a0", " ").splitlines()
    headline = next(line for line in lines if not line.startswith("  "))
    assert first.startswith("Read: 2 variants")
    assert first.endswith("higher is better")
    if place == "lm_eval/":
        assert headline.startswith("swin scored highest (80.0 %)")
    elif place.startswith("predictions"):
        assert "1 seed × 400 items" in first
        assert headline.startswith("swin is better than vit by")
    else:
        assert status == 0
        assert ("2 data sets" in first) == place.startswith("paper")
        assert ("5 folds" if place in ("folds.csv", "repeated.csv") else "5 seeds") in first
        lead = TABLE.groupby("model")["accuracy"].mean().diff().abs().iloc[-1]
        assert f"swin is better than vit by {100 * lead:.1f} points" in headline or "score" in first
    assert any("it flatters" in line for line in lines) == ("--best" in command)


def of_ultralytics(head: str, cell: str, score: float) -> str:
    """Return what its trainer's `save_metrics` writes; older versions pad cells."""
    names = ["epoch", "train/box_loss", "metrics/mAP50(B)", "metrics/mAP50-95(B)", "val/box_loss"]
    rows = [(head, names), (cell, (1, 0.5, 0.9, 0.1, 0.4)), (cell, (2, 0.4, 0.95, score, 0.3))]
    return "".join(",".join(form % each for each in row) + "\n" for form, row in rows)


def of_keras(score: float) -> str:
    """Return what Keras' CSVLogger writes: the epoch, and the sorted names of what was logged, NA where nothing was."""
    return f"epoch,accuracy,loss,val_accuracy,val_loss\r\n0,0.9,0.5,0.1,0.4\r\n1,0.95,0.4,{score},NA\r\n"


MAP = ["--metric", "metrics/mAP50-95(B)"]
LOGS: dict[str, tuple[str, Callable[[float], str], list[str]]] = {
    "Keras": ("{}/seed{}/training.log", of_keras, []),
    "DeiT": ("{}_seed{}_20260101/a.log", '{{"test_acc1": 1, "epoch": 0}}\n{{"test_acc1": {}, "epoch": 1}}'.format, []),
    "Hydra": ("2026-01-0{1}/10-0{1}-00/model={0},lr=0.1,seed={1}/results.json", '{{"test/acc": {}}}'.format, []),
    "ultralytics, padded": ("{}-{}/results.csv", partial(of_ultralytics, "%23s", "%23.5g"), MAP),
    "ultralytics": ("{}-{}/results.csv", partial(of_ultralytics, "%s", "%.6g"), MAP),
}  # fmt: skip


@pytest.mark.parametrize("name", LOGS)
def test_logs_are_read_as_their_tools_write_them(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    place, text, options = LOGS[name]
    for model, seed, score in RUNS:
        file = Path(place.format(model, seed))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text(score).encode())
    assert main([".", *options]) == 0
    first, headline, *_ = capsys.readouterr().out.replace("\u00a0", " ").splitlines()
    lead = TABLE.groupby("model")["accuracy"].mean().diff().abs().iloc[-1]
    assert first.startswith("Read: 2 variants × 5 seeds")
    assert f" by {100 * lead:.1f} points" in headline or f" by {lead:.3f} " in headline


def packed(save: Callable[..., None], *values: Any, **named: Any) -> bytes:
    file = io.BytesIO()
    save(file, *values, **named)
    return file.getvalue()


def means(form: str) -> str:
    rows = (f"{m};{form.format(y['accuracy'].mean(), y['accuracy'].std())}\n" for m, y in BY_MODEL.items())
    return "method;accuracy\n" + "".join(rows).replace(".", ",")


WIDE = TABLE.pivot(index="seed", columns="model", values="accuracy")
BY_MODEL = dict([*TABLE.groupby("model")])
OTHERS: dict[str, Callable[[], str | bytes]] = {
    "packed.csv.gz": lambda: gzip.compress(TABLE.to_csv(index=False).encode()),
    "tabs.txt": lambda: TABLE.to_csv(index=False, sep="\t"),
    "columns.json": TABLE.to_json,
    "nested.jsonl": lambda: "".join(json.dumps({"config": {"model": m, "seed": s}, "metrics": {"accuracy": y}}) + "\n"
                                    for m, s, y in RUNS),
    "arrays.npz": lambda: packed(np.savez, **{m: y["accuracy"] for m, y in BY_MODEL.items()}),
    "index.parquet": lambda: TABLE.set_index(["model", "seed"]).to_parquet(),
    "agent.csv": lambda: TABLE.rename(columns={"model": "agent"}).to_csv(index=False),
    "summary.csv": lambda: pd.concat([WIDE, WIDE.agg(["mean", "std"])]).to_csv(),
    "numbers.csv": lambda: pd.DataFrame({f"{m}_{s}": [y] for m, s, y in RUNS}).to_csv(index=False),
    "bold.md": lambda: "| net | seed | acc |\n|--|--|--|\n" + "".join(f"| {m} | {s} | **{y}** |\n" for m, s, y in RUNS),
    "plus.csv": lambda: means("{:.9f} ± {:.9f}"),
    "brackets.csv": lambda: means("{:.9f} ({:.9f})"),
    "latex.csv": lambda: means("${:.9f}_{{\\pm {:.9f}}}$"),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_other_ways_to_write_the_same_runs(name: str, tmp_path: Path) -> None:
    content = OTHERS[name]()
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    told = {"runs": 5, "spread": "sd"} if name in ("plus.csv", "brackets.csv", "latex.csv") else {}
    assert ends(referee.judge(tmp_path / name, **told)) == pytest.approx(ends(referee.judge(TABLE)), rel=1e-6)


def test_tables_of_papers_have_methods_and_data_sets(tmp_path: Path) -> None:
    """Rows are either; cells are scores, or means with their spread."""
    sets = {f"set {i}": {m: y["accuracy"] - i / 100 for m, y in BY_MODEL.items()} for i in range(5)}
    rows = [(d, m, s, y) for d, each in sets.items() for m, ys in each.items() for s, y in enumerate(ys)]
    long = referee.judge(pd.DataFrame(rows, columns=["dataset", "model", "seed", "accuracy"]))
    cells = pd.DataFrame(
        {d: {m: f"{y.mean():.9f} ± {y.std():.9f}" for m, y in each.items()} for d, each in sets.items()}
    )
    cells.T.rename_axis("dataset").to_csv(tmp_path / "rows.csv")
    cells.rename_axis("method").to_csv(tmp_path / "columns.csv")
    told = {"metric": "accuracy", "runs": 5, "spread": "sd"}
    of_rows = referee.judge(tmp_path / "rows.csv", **told)
    for verdict in (of_rows, referee.judge(tmp_path / "columns.csv", dataset="columns", **told)):
        assert ends(verdict) == pytest.approx(ends(long), rel=1e-6)
        assert "5 data sets" in verdict.outcomes.notes[0].replace("\u00a0", " ")
    means = pd.DataFrame({m: {d: each[m].mean() for d, each in sets.items()} for m in MEANS})
    means.rename_axis("corpus").to_csv(tmp_path / "corpora.csv")
    with pytest.raises(ValueError, match=r"What are set 0, set 1, set 2 and 2 more\? Give dataset=\"corpus\", item"):
        referee.judge(tmp_path / "corpora.csv")
    alone = referee.judge(tmp_path / "corpora.csv", dataset="corpus", metric="accuracy")
    assert alone.general[0].elsewhere == pytest.approx(of_rows.general[0].elsewhere, rel=1e-6)
    means.T.rename_axis("method").to_csv(tmp_path / "methods.csv")
    with pytest.raises(ValueError, match=r"If set 0, .* are data sets: dataset=\"columns\", with"):
        referee.judge(tmp_path / "methods.csv")


@pytest.mark.parametrize(("separator", "comment"), [("|", ""), (",", "# lr: 0.1, 0.2, 0.3\n"), (";", "# ")])
def test_a_score_is_known_by_its_name_with_any_separator(separator: str, comment: str, tmp_path: Path) -> None:
    for way, name in (("lower", "latency_ms"), ("lower", "val_bpb"), ("higher", "pass@1"), ("higher", "mAP50-95(B)")):
        text = TABLE.rename(columns={"accuracy": name}).to_csv(index=False, sep=separator)
        (tmp_path / "t.csv").write_text(comment + text)
        assert referee.judge(tmp_path / "t.csv").outcomes.notes[0].endswith(f"{name}, {way} is better")


def test_what_published_means_lack_is_asked_for(tmp_path: Path) -> None:
    write_all(tmp_path)
    with pytest.raises(ValueError, match=r"accuracy: means of how many runs\? Give --runs N, or a column n"):
        referee.judge(tmp_path / "means.csv")
    with pytest.raises(ValueError, match=r"standard deviation of the runs or its standard error\? Give --spread sd"):
        referee.judge(tmp_path / "means.csv", runs=5)
    with pytest.raises(ValueError, match="exact and paired, need the score of each run"):
        referee.judge(tmp_path / "means.csv", runs=5, spread="sd", test="exact")


def test_more_folds_than_one_cross_validation_has_are_asked_for() -> None:
    table = pd.DataFrame([(m, i, s + i / 1000) for m, s in MEANS.items() for i in range(25)],
                         columns=["model", "fold", "accuracy"])  # fmt: skip
    with pytest.raises(ValueError, match=r"25 folds: into how many parts .* Give --folds K"):
        referee.judge(table)
    assert referee.judge(table, folds=5).outcomes.overlap == 1 + 25 / 4
    repeated = table.assign(repeat=table["fold"] // 5, fold=table["fold"] % 5)
    assert ends(referee.judge(repeated)) == pytest.approx(ends(referee.judge(table, folds=5)))


def test_items_of_folds_are_judged_as_vitlab_judges_its_own() -> None:
    """By `vitlab.studies.results.variance_inflation`, K / (K - 1)."""
    rows = [(v, s, i, (i + s) % 5, bool(y[s, i])) for v, y in (("a", RIGHT_A), ("b", RIGHT_B))
            for s in range(4) for i in range(300)]  # fmt: skip
    table = pd.DataFrame(rows, columns=["variant", "seed", "item", "fold", "correct"])
    outcomes = referee.judge(table).outcomes
    assert (outcomes.overlap, outcomes.unit) == (5 / 4, "item")
    alone = referee.judge(table.drop(columns="fold")).pairs[0].difference
    folded = referee.judge(table).pairs[0].difference
    assert alone is not None
    assert folded is not None
    assert folded.images == pytest.approx(alone.images * 5 / 4)

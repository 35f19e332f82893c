"""A run that starts from another experiment trains that first, with its own seed, and equals the two done by hand."""

import itertools
import json
import logging
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from tests.conftest import edges
from vitlab.commands.dispatch import run
from vitlab.config import Config, load_yaml, merge
from vitlab.evaluation.predictions import read_predictions
from vitlab.experiment.chain import Source
from vitlab.experiment.experiment import SECONDS_BETWEEN_TRIES, Experiment
from vitlab.runs.lock import run_lock
from vitlab.studies.compare import results_of
from vitlab.studies.report.verdict import objections, remarks

pytestmark = pytest.mark.filterwarnings("ignore")  # those of libraries, as `fit` leaves them out
Write = Callable[..., Path]
SIMMIM: Config = {"model": {"class_path": "vitlab.objectives.SimMIM", "init_args": {"mask_patch_size": 4}}}
MAKE_FIRST = {"model": {"init_args": {"init_from": "first.yaml"}}}
SHORT: Config = {"trainer": {"limit_train_batches": 2}}


def weights(directory: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(directory / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    return state


def test_a_setting_names_an_experiment_or_weights() -> None:
    source = Source.parse("experiments/mae.yaml@01234567 model.mask_ratio=0.5 trainer.max_epochs=2")
    assert source == (Path("experiments/mae.yaml"), ("model.mask_ratio=0.5", "trainer.max_epochs=2"), "01234567")
    for weights_file in (None, "runs/mae/seed-0", "weights.safetensors", "timm/vit_small", "mae.yaml and more"):
        assert Source.parse(weights_file) is None


@pytest.mark.slow
@pytest.mark.parametrize("touched", [False, True])  # the objective, before `fit`
def test_a_chain_equals_the_two_runs_by_hand(tiny: Write, touched: bool) -> None:
    tiny(SIMMIM, "first")
    assert run("fit", ["--config", "first.yaml", "--seed_everything", "3"]) == 0
    by_hand = Experiment(
        tiny(name="hand"), "seed_everything=3", {"model": {"init_args": {"init_from": "runs/first/seed-3"}}}
    )
    by_hand.fit()

    chain = Experiment(tiny(MAKE_FIRST, "chain"), "seed_everything=3", "run.root=elsewhere")
    if touched:
        assert chain.objective.init_from is not None
    chain.fit()

    (before,) = Path("elsewhere/before").glob("first-*/seed-3")
    for ours, theirs in ((before, Path("runs/first/seed-3")), (chain.directory, by_hand.directory)):
        assert all(torch.equal(value, weights(theirs)[name]) for name, value in weights(ours).items())
    summary = json.loads((chain.directory / "summary.json").read_text())
    assert summary["seconds_before"] == json.loads((before / "summary.json").read_text())["seconds"] > 0
    environment = json.loads((chain.directory / "environment.json").read_text())
    recorded = environment["weights"]["model.init_args.init_from"]
    assert recorded["path"] == str(before)
    assert recorded["hash"] is not None


@pytest.mark.slow
def test_runs_share_what_they_start_from_and_settings_part_it(tiny: Write) -> None:
    tiny(SIMMIM, "first")
    long = " ".join(["model.mask_ratio=0.3"] * 13)  # longer than the name of a file may be
    start = {"model": {"init_args": {"init_from": f"first.yaml {long}"}}}
    for name, changes in {"a": MAKE_FIRST, "b": MAKE_FIRST, "c": start}.items():
        Experiment(tiny(changes, name)).fit()
    before = sorted(Path("runs/before").iterdir())
    assert len(before) == 2
    ratios = {load_yaml(path / "seed-0/config.yaml")["model"]["init_args"]["mask_ratio"] for path in before}
    assert 0.3 in ratios
    assert len(ratios) == 2


@pytest.mark.slow
def test_another_version_of_the_first_is_another_run(tiny: Write, capsys: pytest.CaptureFixture[str]) -> None:
    tiny(SIMMIM, "first")
    path = tiny(MAKE_FIRST, "chain")
    assert run("fit", ["--config", str(path)]) == 0
    tiny(merge(SIMMIM, {"trainer": {"max_epochs": 2}}), "first")
    assert run("fit", ["--config", str(path)]) == 2
    assert "init_from: first.yaml@" in capsys.readouterr().err
    assert run("fit", ["--config", "runs/chain/seed-0", "--run.overwrite", "true"]) == 2
    assert "first.yaml has changed since this configuration was written" in capsys.readouterr().err
    assert run("fit", ["--config", str(path), "--run.overwrite", "true"]) == 0
    assert len(list(Path("runs/before").iterdir())) == 2


def test_a_finished_run_is_read_without_the_file_that_it_started_from(tiny: Write) -> None:
    tiny(merge(SIMMIM, SHORT), "first")
    Experiment(tiny(merge(MAKE_FIRST, SHORT), "chain")).fit()
    Path("first.yaml").unlink()
    assert 0 < Experiment.load("runs/chain/seed-0").test()["test/top1"] <= 1


def test_a_first_experiment_that_is_missing_or_wrong_is_refused_before_training(
    tiny: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tiny(MAKE_FIRST, "chain")
    assert run("fit", ["--config", str(path)]) == 2
    assert "No configuration first.yaml" in capsys.readouterr().err
    tiny(merge(SIMMIM, {"model": {"init_args": {"mask_ratio": 1.5}}}), "first")
    assert run("fit", ["--config", str(path)]) == 2
    assert "mask_ratio" in capsys.readouterr().err
    assert not Path("runs").exists()


@pytest.mark.slow(edge=True)
def test_a_trial_of_a_chain_is_short_and_keeps_nothing(tiny: Write) -> None:
    tiny(merge(SIMMIM, {"trainer": {"max_epochs": 10_000}}), "first")
    assert run("fit", ["--config", str(tiny(MAKE_FIRST, "chain")), "--trainer.fast_dev_run", "true"]) == 0
    assert not Path("runs").exists()


@contextmanager
def written_by_another(directory: Path) -> "Iterator[subprocess.Popen[str]]":
    """Let another process write to a run until its input ends."""
    code = (
        "import sys, time; from pathlib import Path; from vitlab.runs.lock import run_lock\n"
        "with run_lock(Path(sys.argv[1])): print('locked', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        yield other
        other.communicate("")


def test_a_run_waits_while_another_trains_what_it_starts_from(
    tiny: Write, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("vitlab"), "propagate", True)  # which a command of another test turned off
    caplog.set_level(logging.INFO, logger="vitlab")
    tiny(merge(SIMMIM, SHORT), "first")
    chain = Experiment(tiny(merge(MAKE_FIRST, SHORT), "chain"))
    (first,) = chain.before().values()
    usual, tries = time.sleep, itertools.count()

    def sleep(seconds: float) -> None:
        if seconds == SECONDS_BETWEEN_TRIES:
            if next(tries) == 2:
                other.communicate("")
        else:  # of another thread, like that of a progress bar
            usual(seconds)

    monkeypatch.setattr(time, "sleep", sleep)
    with written_by_another(first.directory) as other:
        chain.fit()
    assert other.returncode == 0
    assert "Waiting:" in caplog.text
    assert next(tries) == 3
    assert not pd.read_csv(first.directory / "metrics.csv").duplicated().any()  # one logger, after three tries
    with run_lock(first.directory):
        assert (first.directory / "summary.json").is_file()


def test_several_processes_do_not_wait_for_what_another_trains(tiny: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the first of them meets the lock; the others, where torchrun began them, would train alone, and hang."""
    monkeypatch.setenv("LOCAL_RANK", "0")
    several = {"trainer": {"devices": 2, "strategy": "ddp"}}
    tiny(merge(SIMMIM, several), "first")
    chain = Experiment(tiny(merge(MAKE_FIRST, several), "chain"))
    (first,) = chain.before().values()
    with written_by_another(first.directory), pytest.raises(ValueError, match=r"written by .*\nOne process would wait"):
        chain.fit()


@pytest.mark.slow(edge=True)
def test_a_teacher_is_trained_first(tiny: Write) -> None:
    tiny(name="taught_by")
    distill = {
        "model": {
            "class_path": "vitlab.objectives.Distillation",
            "init_args": {
                "backbone": {
                    "class_path": "vitlab.models.VisionTransformer",
                    "init_args": {"patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "distilled": True},
                },
                "target": {"class_path": "vitlab.objectives.HardTarget"},
                "teacher": {"weights": "taught_by.yaml trainer.max_epochs=3"},
            },
        }
    }
    student = Experiment(tiny(distill, "student"))
    student.fit()
    (teacher,) = Path("runs/before").glob("taught_by-*/seed-0")
    assert yaml.safe_load((teacher / "config.yaml").read_text())["trainer"]["max_epochs"] == 3
    decided = [
        read_predictions(run / "predictions.parquet").logits.argmax(axis=1) for run in (teacher, student.directory)
    ]
    metrics = json.loads((student.directory / "summary.json").read_text())["metrics"]
    assert metrics["test/agreement"] == pytest.approx(np.mean(decided[0] == decided[1]))


@pytest.mark.slow
def test_a_study_draws_the_seed_of_the_pretraining_with_that_of_the_run(tiny: Write, forked_runs: None) -> None:
    tiny(SIMMIM, "first")
    tiny(name="base")
    study: Config = {
        "base": "base.yaml",
        "variants": {"from scratch": {"model": {"init_args": {"init_from": None}}}, "SimMIM": MAKE_FIRST},
        "seeds": [1, 2],
        "may_differ": ["model.init_args.init_from"],
    }
    Path("study.yaml").write_text(yaml.safe_dump(study))
    assert run("compare", ["--config", "study.yaml"]) == 0

    assert {path.name for path in Path("runs/study/before").glob("first-*/*")} == {"seed-1", "seed-2"}
    results, _ = results_of(Path("study.yaml"))
    assert objections(results) == []
    starts = [remark for remark in remarks(results) if "of SimMIM starts from a run of first.yaml@" in remark]
    assert len(starts) == 1
    assert results.context.left_out == []
    for result in results.finished:
        assert (result.seconds > result.summary["seconds"]) == (result.run.variant == "SimMIM")


def with_start(start: Config, seeds: list[int]) -> Path:
    """Write a study of two variants, one of which takes weights from elsewhere."""
    study: Config = {
        "base": "base.yaml",
        "variants": {"from scratch": {"model": {"init_args": {"label_smoothing": 0.1}}}, "started": start},
        "seeds": seeds,
        "may_differ": ["model"],
    }
    Path("study.yaml").write_text(yaml.safe_dump(study))
    return Path("study.yaml")


@pytest.mark.parametrize("where", ["before.yaml", *edges("timm/vit_tiny_patch16_224")])
def test_weights_that_are_missing_are_refused_once_before_any_run(
    where: str, tiny: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("vitlab.studies.compare.run_all", lambda *args, **options: pytest.fail("trained"))
    tiny(name="base")
    tiny(merge(SIMMIM, {"model": {"init_args": {"init_from": "runs/gone/seed-0"}}}), "before")
    assert run("compare", ["--config", str(with_start({"model": {"init_args": {"init_from": where}}}, [1, 2, 3]))]) == 2
    error = capsys.readouterr().err
    assert error.count("init_from: ") == 1
    assert ("could not download timm/" if "timm" in where else "no weights at ") in error


@pytest.mark.slow
def test_a_finished_study_is_reported_without_the_weights_that_it_began_with(
    tiny: Write, forked_runs: None, no_figures: None, capsys: pytest.CaptureFixture[str]
) -> None:
    Experiment(tiny()).fit()
    tiny(name="base")
    start = {"model": {"init_args": {"init_from": "runs/tiny/seed-0"}}}
    assert run("compare", ["--config", str(with_start(start, [1, 2]))]) == 0
    shutil.rmtree("runs/tiny")
    assert run("compare", ["--config", "study.yaml"]) == 0
    assert run("compare", ["--config", str(with_start(start, [1, 2, 3]))]) == 2
    assert "init_from: no weights at runs/tiny/seed-0" in capsys.readouterr().err


@pytest.mark.slow
def test_a_source_with_a_seed_is_one_run_for_all_and_a_chain_of_three_shares_it(tiny: Write) -> None:
    tiny(SIMMIM, "first")
    tiny(merge(SIMMIM, {"model": {"init_args": {"init_from": "first.yaml seed_everything=7"}}}), "second")
    for name, source in {"a": "first.yaml seed_everything=7", "b": "second.yaml"}.items():
        for seed in (1, 2):
            changes = {"model": {"init_args": {"init_from": source}}}
            Experiment(tiny(changes, name), f"seed_everything={seed}").fit()
    trained = sorted(f"{path.parent.name.partition('-')[0]} {path.name}" for path in Path("runs/before").glob("*/*"))
    assert trained == ["first seed-7", "second seed-1", "second seed-2"]

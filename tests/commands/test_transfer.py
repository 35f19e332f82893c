"""Trained models at other image sizes: what their windows and biases become, and `transfer` on a run."""

import json
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from vitlab.commands.dispatch import run
from vitlab.commands.transfer import fine_tuning, resized, summary
from vitlab.config import load_yaml
from vitlab.experiment.experiment import Experiment
from vitlab.models import Backbone, SwinTransformer, SwinTransformerV2, VisionTransformer
from vitlab.models.weights import load_weights, save_weights
from vitlab.models.windows import look_up, relative_coords, relative_position_index

Write = Callable[..., Path]
SWIN = {"patch_size": 2, "in_chans": 1, "embed_dim": 8, "depths": [2, 2], "num_heads": [1, 2], "window_size": 4}
SWIN_V2 = {**SWIN, "pretrained_window_sizes": (0, 0, 0, 0)}
VIT = {"patch_size": 4, "in_chans": 1, "embed_dim": 16, "depth": 2, "num_heads": 2}


def build(kind: type[Backbone], arguments: dict[str, Any]) -> Any:
    """Build a model as the command line does, which makes tuples of YAML's lists."""
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in arguments.items()})


def test_windows_grow_with_the_image_and_the_trained_ones_stay_the_measure() -> None:
    """32 px in patches of 2: maps of 16 and 8 tokens a side. The second stage's 8 was cut down from 9."""
    arguments = {**SWIN_V2, "window_size": 9}
    model = build(SwinTransformerV2, {**arguments, "img_size": 32})
    assert model.arguments_at(64, arguments) == {
        "img_size": 64,
        "window_size": [18, 18],
        "pretrained_window_sizes": [9, 8],
    }
    assert model.arguments_at(64, {**arguments, "pretrained_window_sizes": (6, 0)})["pretrained_window_sizes"] == [6, 8]
    assert build(SwinTransformer, {**SWIN, "img_size": 32}).arguments_at(64, SWIN) == {
        "img_size": 64,
        "window_size": [8, 8],
    }
    assert build(VisionTransformer, {**VIT, "img_size": 32}).arguments_at(64, VIT) == {"img_size": 64}
    with pytest.raises(ValueError, match="does not divide into patches of 2 px"):
        model.arguments_at(33, arguments)
    arguments = {**SWIN_V2, "window_size": [4, 8]}
    with pytest.raises(ValueError, match="Only square windows"):
        build(SwinTransformerV2, {**arguments, "img_size": 32}).arguments_at(64, arguments)


@pytest.mark.parametrize("position_bias", ["linear", "log", "table"])
def test_only_a_continuous_bias_keeps_what_it_said_of_an_offset(position_bias: str, tmp_path: Path) -> None:
    """The paper's section 3.3: offsets within the trained window keep their bias, those beyond are extrapolated."""
    torch.manual_seed(0)
    arguments = {**SWIN_V2, "position_bias": position_bias}
    model = build(SwinTransformerV2, {**arguments, "img_size": 32})
    save_weights(model, tmp_path / "trained.safetensors")
    larger = build(SwinTransformerV2, arguments | model.arguments_at(64, arguments))
    load_weights(larger, tmp_path / "trained.safetensors")
    old, new = (by_offset(m.layers[0].blocks[0].attn.bias(), window) for m, window in ((model, 4), (larger, 8)))
    same = [torch.allclose(bias, new[offset], atol=1e-6) for offset, bias in old.items()]
    assert len(new) == 15**2
    assert all(same) == (position_bias != "table")


def by_offset(bias: torch.Tensor, window: int) -> dict[tuple[float, ...], torch.Tensor]:
    """Return the bias (h,) of each offset (rows, columns)."""
    places = relative_coords((window, window))
    index = relative_position_index((window, window))
    offsets = look_up(places, index).flatten(1).T  # (N·N, 2)
    return {tuple(o): b for o, b in zip(offsets.tolist(), bias.flatten(1).T, strict=True)}


@pytest.mark.parametrize(("kind", "arguments"), [(SwinTransformer, SWIN), (VisionTransformer, VIT)])
def test_a_model_built_anew_is_the_trained_one_resized_in_place(
    kind: type[Backbone], arguments: dict, tmp_path: Path
) -> None:
    """`set_input_size` and loading weights resize by paths of their own."""
    model = build(kind, {**arguments, "img_size": 16})
    save_weights(model, tmp_path / "trained.safetensors")
    larger = build(kind, {**arguments, **model.arguments_at(24, arguments)})
    load_weights(larger, tmp_path / "trained.safetensors")
    model.set_input_size(24)
    images = torch.randn(2, 1, 24, 24)
    torch.testing.assert_close(larger.eval()(images), model.eval()(images))


@pytest.mark.slow
def test_a_run_is_tested_at_other_sizes_as_it_is_and_fine_tuned(tiny: Write, capsys: pytest.CaptureFixture) -> None:
    backbone = {"class_path": "vitlab.models.SwinTransformerV2", "init_args": {**SWIN, "patch_size": 1}}
    del backbone["init_args"]["in_chans"]
    muon = {"class_path": "vitlab.optim.Muon", "init_args": {"lr": 1e-3, "muon_lr": 1e-2, "head_lr": 5e-3}}
    changes = {"backbone": backbone, "ema": {"decay": 0.9}, "optimizer": muon, "init_raw": True}
    config = tiny({"model": {"init_args": changes}}, "swin")
    assert run("fit", ["--config", str(config)]) == 0
    trained = "runs/swin/seed-0/config.yaml"
    asked = ["--config", trained, "--sizes", "8", "12", "--epochs", "1", "--out", "out"]
    assert run("transfer", [*asked, "--trainer.limit_train_batches", "2"]) == 0

    table = pd.read_csv("out/transfer.csv", dtype={"window": str})
    assert table[["name", "trained_at", "image_size", "window", "images"]].values.tolist() == [
        ["swin", 8, 8, "4", 599],
        ["swin", 8, 12, "6", 599],
    ]
    assert table["bias"].tolist() == ["log", "log"]
    metrics = json.loads(Path("runs/swin/seed-0/summary.json").read_text())["metrics"]
    assert table["direct"][0] == pytest.approx(metrics["test_ema/top1"], abs=1e-7)  # of the weights that are exported
    assert table["tuned"].isna().tolist() == [True, False]
    first, second = (f"{100 * value:.1f}" for value in table["direct"])
    assert f"swin        {first}  {second} → {100 * table['tuned'][1]:.1f}" in capsys.readouterr().out

    tuned = load_yaml("out/swin-12px/seed-0/config.yaml")
    assert tuned["data"]["init_args"]["image_size"] == 12
    rates = tuned["model"]["init_args"]["optimizer"]["init_args"]
    assert [rates[key] for key in ("lr", "muon_lr", "head_lr")] == pytest.approx([4e-5, 4e-4, 2e-4])
    assert tuned["model"]["init_args"]["init_raw"] is False
    metrics = json.loads(Path("out/swin-12px/seed-0/summary.json").read_text())["metrics"]
    assert table["tuned"][1] == pytest.approx(metrics["test_ema/top1"], abs=1e-7)

    written = Path("out/transfer.csv").read_text()
    predicted = Path("out/swin-12px/seed-0/predictions.parquet").stat().st_mtime_ns
    assert run("transfer", [*asked, "--trainer.limit_train_batches", "2"]) == 0
    assert Path("out/transfer.csv").read_text() == written
    assert Path("out/swin-12px/seed-0/predictions.parquet").stat().st_mtime_ns == predicted  # not tuned again
    assert run("transfer", [*asked, "16"]) == 2
    assert "16" in capsys.readouterr().err  # is no size there, and not merged into the runs
    others = ["--trainer.limit_train_batches", "3"]
    assert run("transfer", [*asked, *others]) == 2
    assert "replace that one with --run.overwrite true" in capsys.readouterr().err
    assert run("transfer", [*asked, *others, "--run.overwrite", "true"]) == 0
    assert load_yaml("out/swin-12px/seed-0/config.yaml")["trainer"]["limit_train_batches"] == 3


@pytest.mark.slow
def test_mistakes_are_named_before_anything_runs(tiny: Write, capsys: pytest.CaptureFixture) -> None:
    short = ["--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1", "--run.test", "false"]
    assert run("fit", ["--config", str(tiny()), *short]) == 0
    assert run("fit", ["--config", str(tiny()), *short, "--run.root", "other", "--data.split_seed", "1"]) == 0
    config, other = "runs/tiny/seed-0/config.yaml", "other/tiny/seed-0/config.yaml"
    capsys.readouterr()
    for arguments, message in (
        ([config, "--sizes", "8", "--epochs", "-1"], "--epochs: "),
        ([config, "--sizes", "8", "--epochs", "1", "--lr", "0"], "--lr: "),
        ([config, "--sizes", "8", "--lr", "0.1"], "--lr 0.1: give --epochs"),
        ([config, other, "--sizes", "8"], "a second run called tiny, seed 0"),
        ([config, "--sizes", "10"], "does not divide into patches of 4 px"),
        ([config, "--sizes", "8", "--ckpt_path", "none"], "not a finished run of a classifier"),
    ):
        assert run("transfer", ["--config", *arguments, "--out", "out"]) == 2
        assert message in capsys.readouterr().err


def test_a_size_that_a_model_cannot_have_is_refused_before_it_is_measured(tiny: Write) -> None:
    run = Experiment(tiny())
    assert resized(run, 12)["data"]["init_args"]["image_size"] == 12
    with pytest.raises(ValueError, match="does not divide into patches of 4 px"):
        resized(run, 9)


def test_fine_tuning_takes_all_rates_down_in_proportion_and_neither_pauses_nor_keeps_what_is_to_be_replaced(
    tiny: Write,
) -> None:
    """The rates of Swin's released configurations: training at 224 px, then 22kto1k_finetune.yaml, which has 4 %."""
    schedule = {"warmup_lr": 5e-7, "min_lr": 5e-6}
    changes = {"optimizer": {"init_args": {"lr": 5e-4}}, "schedule": {"init_args": schedule}}
    pausing = {"checkpoint": {"pause_after": 1, "best": True}}
    trained = Experiment(tiny({"model": {"init_args": changes}, "run": pausing}), "run.overwrite=true")
    for lr, share in ((None, 0.04), (1e-4, 0.2)):
        options = Namespace(epochs=30, lr=lr, out=Path("out"))
        tuning = fine_tuning(resized(trained, 12), Path("last.ckpt"), options)
        recipe = tuning.config["model"]["init_args"]
        found = recipe["optimizer"]["init_args"]["lr"], *(recipe["schedule"]["init_args"][key] for key in schedule)
        assert found == pytest.approx([share * 5e-4, share * 5e-7, share * 5e-6])
        assert recipe["schedule"]["init_args"]["warmup_epochs"] == pytest.approx(5)
    settings = tuning.run
    assert (settings.checkpoint.pause_after, settings.checkpoint.best, settings.overwrite) == (None, True, True)
    assert not fine_tuning(resized(Experiment(tiny()), 12), Path("last.ckpt"), options).run.overwrite


def test_several_seeds_are_averaged() -> None:
    rows = [("a", 8, 0.5, None), ("a", 8, 0.7, None), ("a", 12, 0.4, 0.9), ("a", 12, 0.2, 0.7), ("b", 8, 0.1, None)]
    table = pd.DataFrame(rows, columns=["name", "image_size", "direct", "tuned"])
    assert [line.split() for line in summary(table).splitlines()[2:]] == [
        ["a", "60.0", "30.0", "→", "80.0"],
        ["b", "10.0"],
    ]

"""Trained models at other image sizes: what their windows and biases become, and `transfer` on a run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from vitlab.analysis.transfer import draw_transfer, markdown, over_seeds
from vitlab.commands.dispatch import run
from vitlab.config import load_yaml
from vitlab.models import Backbone, SwinTransformer, SwinTransformerV2, VisionTransformer
from vitlab.models.bias_tables import look_up, relative_coords, relative_position_index
from vitlab.models.weights import load_weights, save_weights

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
    assert model.arguments_at(64, {**arguments, "pretrained_window_sizes": (6, 0)})["pretrained_window_sizes"] == [
        6,
        8,
    ]
    assert build(SwinTransformer, {**SWIN, "img_size": 32}).arguments_at(64, SWIN) == {
        "img_size": 64,
        "window_size": [8, 8],
    }
    assert build(VisionTransformer, {**VIT, "img_size": 32}).arguments_at(64, VIT) == {"img_size": 64}
    with pytest.raises(ValueError, match="does not divide into patches of 2 px"):
        model.arguments_at(33, arguments)
    arguments = {**SWIN_V2, "window_size": [4, 8]}
    with pytest.raises(ValueError, match="are no squares"):
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
    assert Path("out/transfer.png").is_file()
    assert "| swin (4, 6) |" in Path("out/transfer.md").read_text()
    assert "ImageNet" not in capsys.readouterr().out  # of which the paper's table is: nothing about these images

    tuned = load_yaml("out/swin-12px/seed-0/config.yaml")
    assert tuned["data"]["init_args"]["image_size"] == 12
    rates = tuned["model"]["init_args"]["optimizer"]["init_args"]
    assert [rates[key] for key in ("lr", "muon_lr", "head_lr")] == pytest.approx([4e-5, 4e-4, 2e-4])
    assert tuned["model"]["init_args"]["init_raw"] is False
    metrics = json.loads(Path("out/swin-12px/seed-0/summary.json").read_text())["metrics"]
    assert table["tuned"][1] == pytest.approx(metrics["test_ema/top1"], abs=1e-7)

    written, page = Path("out/transfer.csv").read_text(), Path("out/transfer.md").read_text()
    Path("out/transfer.csv").write_text("\n".join(written.splitlines()[:2]))  # as after a kill at 12 px
    Path("out/transfer.md").unlink()
    predicted = Path("out/swin-12px/seed-0/predictions.parquet").stat().st_mtime_ns
    assert run("transfer", [*asked, "--trainer.limit_train_batches", "2"]) == 0
    assert "1 of 2 measurements are already in" in capsys.readouterr().err
    assert (Path("out/transfer.csv").read_text(), Path("out/transfer.md").read_text()) == (written, page)
    assert Path("out/swin-12px/seed-0/predictions.parquet").stat().st_mtime_ns == predicted
    assert run("transfer", ["--config", trained, "--sizes", "12", "--images", "60", "--out", "fewer"]) == 0
    assert capsys.readouterr().err.count("Weights: ") == 1
    assert pd.read_csv("fewer/transfer.csv")["images"].tolist() == [60, 60]


def test_mistakes_are_named_before_anything_runs(tiny: Write, capsys: pytest.CaptureFixture) -> None:
    short = ["--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1", "--run.test", "false"]
    assert run("fit", ["--config", str(tiny()), *short]) == 0
    assert run("fit", ["--config", str(tiny()), *short, "--run.root", "other", "--data.split_seed", "1"]) == 0
    config, other = "runs/tiny/seed-0/config.yaml", "other/tiny/seed-0/config.yaml"
    capsys.readouterr()
    for arguments, message in (
        ([config, "--sizes", "8", "--epochs", "-1"], "--epochs -1"),
        ([config, "--sizes", "8", "--images", "0"], "--images 0"),
        ([config, other, "--sizes", "8"], "a second run called tiny, seed 0"),
        ([config, "--sizes", "10"], "does not divide into patches of 4 px"),
        ([config, "--sizes", "8", "--ckpt_path", "none"], "not a finished run of a classifier"),
    ):
        assert run("transfer", ["--config", *arguments, "--out", "out"]) == 2
        assert message in capsys.readouterr().err


def test_several_seeds_are_averaged_and_a_single_one_has_its_own_interval() -> None:
    row = {"window": "", "bias": "", "partial": "", "images": 10, "tuned": float("nan")}
    rows = [
        {"name": "two", "seed": 1, "image_size": 8, "direct": 0.5, "direct_low": 0.1, "direct_high": 0.9},
        {"name": "two", "seed": 2, "image_size": 8, "direct": 0.7, "direct_low": 0.3, "direct_high": 0.95},
        {"name": "one", "seed": 1, "image_size": 8, "direct": 0.4, "direct_low": 0.2, "direct_high": 0.6},
    ]
    table = pd.DataFrame([row | r for r in rows]).assign(tuned_low=float("nan"), tuned_high=float("nan"))
    found = over_seeds(table, "direct")[["mean", "low", "high"]]
    assert found.loc[("two", 8)].tolist() == pytest.approx([0.6, 0.5, 0.7])
    assert found.loc[("one", 8)].tolist() == pytest.approx([0.4, 0.2, 0.6])
    assert "| two | 60.0 [50.0, 70.0] |" in markdown(table)


def test_the_papers_table_stands_beside_a_comparison_of_position_biases_alone() -> None:
    row = {"seed": 1, "window": "4", "partial": "", "images": 10, "image_size": 8}
    row |= {f"{kind}{end}": 0.5 for kind in ("direct", "tuned") for end in ("", "_low", "_high")}
    table = pd.DataFrame([row | {"name": name, "bias": bias} for name, bias in (("a", "linear"), ("b", "log"))])
    text = markdown(table)
    assert "81.7 → 83.8" in text  # log-spaced at 512 px, direct and fine-tuned: Liu et al. 2022, Table 1
    assert "## The paper's table, on other images" in text
    assert len(draw_transfer(table).axes) == 2
    for biases in (["log", "log"], ["", "log"], ["", ""]):  # one Swin v2, or none: the paper has no such comparison
        flowers = table.assign(bias=biases)
        assert "Liu" not in markdown(flowers)
        assert len(draw_transfer(flowers).axes) == 1


def test_a_run_that_was_cut_short_is_named_under_the_table() -> None:
    row = {"name": "a", "seed": 1, "window": "", "bias": "", "images": 10, "image_size": 8}
    row |= {f"{kind}{end}": 0.5 for kind in ("direct", "tuned") for end in ("", "_low", "_high")}
    table = pd.DataFrame([row | {"partial": "not finished"}])
    assert "**Incomplete run, not a result: a, seed 1 (not finished).**" in markdown(table)
    assert "Incomplete" not in markdown(table.assign(partial=""))

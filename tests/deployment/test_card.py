"""What `export` writes: files that give what the run's encoder gives, and a card whose code and figures are right."""

import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vitlab.commands.dispatch import run
from vitlab.data import Digits
from vitlab.data.decoding import decode, read_regular
from vitlab.deployment.card import Exported, write_card
from vitlab.evaluation.predictions import read_predictions
from vitlab.experiment.experiment import Experiment
from vitlab.objectives import Objective, Supervised

Write = Callable[..., Path]


def export(run_directory: Path, *arguments: object) -> str:
    """Export into `files`; return the card."""
    given = ["--config", str(run_directory / "config.yaml"), "--out", "files", *map(str, arguments)]
    assert run("export", given) == 0
    return Path("files/README.md").read_text()


class ManyLabels(Objective):
    """An objective of a user's own, whose outputs exclude each other as little as its labels do."""

    monitor = None
    loss = Supervised.loss
    encoder = property(lambda self: self.backbone)


def code(card: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card, re.DOTALL)


@pytest.fixture
def picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty directory, in which `files` holds a photograph."""
    monkeypatch.chdir(tmp_path)
    Path("files").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("files/picture.jpg")
    return Path("files/picture.jpg")


@pytest.mark.slow
def test_the_cards_code_gives_what_the_encoder_gives(
    trained: Path, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = export(trained)
    experiment = Experiment.load(trained)
    encoder = experiment.model.eval()
    view = experiment.data.preprocessing(Image.fromarray(decode(read_regular(picture))))[None]
    monkeypatch.chdir("files")
    classes, prepare, *ways = code(card)
    names: dict[str, Any] = {}
    exec(classes + prepare, names)
    assert names["classes"] == experiment.data.class_names
    torch.testing.assert_close(names["images"], view)
    assert len(ways) == 3
    for way in ways:
        names["images"] = view
        exec(way, names)
        with torch.no_grad():
            torch.testing.assert_close(torch.as_tensor(names["logits"]), encoder(torch.as_tensor(names["images"])))


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "tolerance"), [((8, 8), 1e-4), ((30, 50), 0.02), ((90, 40), 0.02)])
def test_an_onnx_file_is_used_without_vitlab(
    shape: tuple[int, int], tolerance: float, trained: Path, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oracle is evaluation's transform, in another process; 0.02: Pillow's resize has levels off by one."""
    *_, lines = code(export(trained, "--format", "onnx"))
    experiment = Experiment.load(trained)
    rows = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    Image.fromarray(rows).save("files/picture.png")
    lines = lines.replace("picture.jpg", "picture.png") + "\nimport sys\nassert 'vitlab' not in sys.modules"
    told = [sys.executable, "-c", lines + "\nprint(json.dumps(logits.tolist()))"]
    logits = json.loads(subprocess.run(told, cwd="files", check=True, capture_output=True, text=True).stdout)
    with torch.no_grad():
        expected = experiment.model.eval()(experiment.data.preprocessing(Image.fromarray(rows))[None])
    assert (torch.tensor(logits) - expected).abs().max() <= tolerance * expected.abs().max()


def test_the_card_states_the_accuracy_of_the_weights_exported(trained: Path, picture: Path) -> None:
    predictions = read_predictions(trained / "predictions.parquet")
    assert predictions.logits_ema is not None
    n, z = len(predictions.labels), 1.959964
    for logits, options in ((predictions.logits_ema, []), (predictions.logits, ["--raw"])):
        p = float((logits.argmax(axis=1) == predictions.labels).mean())
        center = (p + z**2 / (2 * n)) / (1 + z**2 / n)  # Wilson (1927)
        half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
        expected = f"**{100 * p:.1f} % [{100 * (center - half):.1f}, {100 * (center + half):.1f}]**"
        assert expected in export(trained, "--format", "safetensors", *options)


def head(card: str) -> dict[str, Any]:
    """Return the front matter, as the Hub reads it."""
    from huggingface_hub import ModelCard

    return ModelCard(card, ignore_metadata_errors=False).data.to_dict()


def test_the_hub_reads_task_and_result_with_its_interval(trained: Path, picture: Path) -> None:
    card = export(trained, "--format", "safetensors")
    told = head(card)
    assert (told["library_name"], told["pipeline_tag"]) == ("vitlab", "image-classification")
    assert told["tags"] == ["vitlab", "VisionTransformer", "Supervised", "Digits"]
    (result,) = told["model-index"][0]["results"]
    (metric,) = result["metrics"]
    summary = json.loads((trained / "summary.json").read_text())["metrics"]
    assert (result["dataset"]["name"], result["dataset"]["split"]) == ("Digits", "test")
    assert (metric["type"], metric["name"]) == ("accuracy", "Accuracy of seed 0")
    assert metric["value"] == pytest.approx(summary["test_ema/top1"], abs=1e-5)
    low, high = metric["args"]["interval"]
    assert low < metric["value"] < high
    assert f"[{100 * low:.1f}, {100 * high:.1f}]" in card
    assert metric["args"]["over"] == "test images"
    assert "model-index" not in head(export(trained, "--format", "safetensors", "--ckpt_path", "best"))


def test_the_hub_is_told_where_the_weights_start(trained: Path, picture: Path) -> None:
    experiment = Experiment.load(trained)
    for start, told in (("timm/vit_tiny_patch16_224.augreg_in21k", True), ("runs/other/seed-0", False), (None, False)):
        model = experiment.config["model"]
        config = experiment.config | {"model": model | {"init_args": model["init_args"] | {"init_from": start}}}
        exported = Exported(experiment.model, experiment.data, trained, config, None, averaged=True)
        card = write_card(exported, [], Path("files")).read_text()
        assert head(card).get("base_model") == (start if told else None)


def test_no_class_name_begins_html_or_ends_the_code(
    trained: Path, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["<script>alert(1)</script>", "a|b", "it's \\< <b>", *map(str, range(7))]
    experiment = Experiment.load(trained)
    monkeypatch.setattr(Digits, "class_names", names)
    exported = Exported(experiment.model, experiment.data, trained, experiment.config, None, averaged=True)
    literal, *_ = code(write_card(exported, [], Path("files")).read_text())
    told: dict[str, Any] = {}
    exec(literal, told)
    assert told["classes"] == names
    assert "<" not in literal


@pytest.mark.slow(edge=True)
def test_the_card_states_no_accuracy_of_other_weights(trained: Path, picture: Path) -> None:
    assert "accuracy of these weights is not known" in export(trained, "--format", "safetensors", "--ckpt_path", "best")
    shutil.copytree(trained, "runs/tiny/seed-0")
    summary = json.loads((trained / "summary.json").read_text())
    summary["metrics"]["test_ema/top1"] += 0.01
    Path("runs/tiny/seed-0/summary.json").write_text(json.dumps(summary))
    assert "accuracy of these weights is not known" in export(trained, "--format", "safetensors", "--run.root", "runs")


@pytest.mark.slow(edge=True)
def test_a_run_that_is_tested_by_its_features_states_no_accuracy_of_its_outputs(trained: Path, picture: Path) -> None:
    card = export(trained, "--format", "safetensors", "--run.probe", "knn")
    assert "accuracy of these weights is not known" in card
    assert "\nrun:\n  probe: knn\n" in card


@pytest.mark.slow(edge=True)
def test_no_file_of_something_else_is_replaced(
    trained: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine").mkdir()
    for name in ("README.md", "config.json"):
        Path("mine", name).write_text("{}")
        assert run("export", ["--config", str(trained), "--format", "safetensors", "--out", "mine"]) == 2
        assert f"mine/{name} is of something else" in capsys.readouterr().err
        Path("mine", name).unlink()
    for _ in range(2):
        assert run("export", ["--config", str(trained), "--format", "safetensors", "--out", "mine"]) == 0


@pytest.mark.slow(edge=True)
def test_the_card_says_when_the_validation_images_were_the_test_images(trained: Path, picture: Path) -> None:
    shutil.copytree(trained, "runs/tiny/seed-0")
    for alike in (True, False):
        facts = {"classes": [], "splits": {}, "test_is_validation": alike}  # as the data module states them
        Path("runs/tiny/seed-0/data.json").write_text(json.dumps(facts))
        card = export(trained, "--format", "safetensors", "--run.root", "runs")
        assert ("on the validation images" in card) is alike


def test_fit_with_the_cards_recipe_is_the_same_run(tiny: Write, trained: Path, picture: Path) -> None:
    """RandAugment is on by default: the null that turns it off must not become that default."""
    for name in ("a", "b"):
        Path("photos", name).mkdir(parents=True)
        shutil.copy(picture, Path("photos", name, "1.jpg"))
    data = {"class_path": "vitlab.data.ImageFolder", "init_args": {"root": "photos", "augment": {"rand_augment": None}}}
    path = tiny({"data": data, "trainer": {"gradient_clip_val": 1.0, "check_val_every_n_epoch": None}})
    original = Experiment(path)
    exported = Exported(original.model, original.data, trained, original.config, None, averaged=False)
    (recipe,) = re.findall(r"```yaml\n(.*?)```", write_card(exported, [], Path("files")).read_text(), re.DOTALL)
    Path("recipe.yaml").write_text(recipe)
    assert Experiment("recipe.yaml", "run.name=tiny").config == original.config


def test_the_card_of_another_objective_takes_no_softmax(trained: Path, picture: Path) -> None:
    experiment = Experiment.load(trained)
    checkpoint = experiment.checkpoint()
    config = experiment.config | {"model": experiment.config["model"] | {"class_path": f"{__name__}.ManyLabels"}}
    exported = Exported(experiment.model, experiment.data, trained, config, checkpoint, averaged=False)
    card = write_card(exported, [], Path("files")).read_text()
    assert "no softmax belongs to it" in card
    assert "makes probabilities" not in card
    assert "Test accuracy" not in card
    assert re.search(r"^# \w+ on \w+$", card, re.MULTILINE)


@pytest.mark.slow(edge=True)
def test_the_best_variant_of_a_study_is_exported_with_the_verdict(
    trained: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained, "study/vit-b/seed-2")
    shutil.copytree(trained, "study/vit-b/seed-1")
    Path("study/vit-b/seed-1/summary.json").unlink()  # a run that is not finished
    shutil.copytree(trained, "study/swin/seed-1")
    shutil.copytree(trained, "study/vit-b/before/first/seed-1")  # what its runs start from
    interval = {"low": 91.0, "high": 93.0}
    ranked = [
        {"variant": "ViT B", "mean": 92.04, "seeds": 4, **interval},
        {"variant": "Swin", "mean": 90.0, "seeds": 1},
    ]
    verdict = {"study": "mine", "headline": "ViT B is better than Swin.", "metric": "top1"}
    record = {**verdict, "variants": [ranked[0], {**ranked[1], "low": None, "high": None}]}
    Path("study/verdict.json").write_text(json.dumps(record))
    assert run("export", ["--study", "study", "--out", "files", "--format", "safetensors"]) == 0
    assert "ViT B: study/vit-b/seed-2" in capsys.readouterr().out
    card = Path("files/README.md").read_text()
    assert "In the study *mine*: ViT B is better than Swin.\n\n- ViT B: 92.0 [91.0, 93.0], 4 seeds\n" in card
    assert "- Swin: 90.0, 1 seed\n" in card
    assert "In the study" not in export(trained, "--format", "safetensors")
    shutil.copytree(trained, "study/before/first/seed-1")  # no variant either
    assert "In the study" not in export(Path("study/before/first/seed-1"), "--format", "safetensors")


def test_a_study_and_a_run_are_not_exported_together(
    trained: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The study's best run would be named, and the other one exported."""
    assert run("export", ["--study", "runs/quickstart", "--config", str(trained)]) == 2
    assert "--study runs/quickstart chooses a run, but --config" in capsys.readouterr().err


def test_a_study_without_a_network_to_export_says_so(picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("export", ["--study", "study"]) == 2
    assert "no verdict.json in it" in capsys.readouterr().err
    Path("study").mkdir()
    Path("study/verdict.json").write_text(json.dumps({"variants": [{"variant": "frozen, k-NN"}]}))
    assert run("export", ["--study", "study"]) == 2
    assert "frozen, k-NN leads, and has no checkpoint" in capsys.readouterr().err

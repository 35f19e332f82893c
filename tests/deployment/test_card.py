"""What `export` writes: files that give what the run's encoder gives, and a card whose code and figures are right."""

import json
import math
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from vitlab.commands.dispatch import run
from vitlab.data import Digits, ImageDataModule, ImageFolder
from vitlab.data.decoding import open_rgb
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


def test_the_cards_code_gives_what_the_encoder_gives(
    trained: Path, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = export(trained)
    experiment = Experiment.load(trained)
    encoder = experiment.model.eval()
    view = experiment.data.view_of([open_rgb(picture)], torch.device("cpu"))
    monkeypatch.chdir("files")
    classes, prepare, *ways = code(card)
    names: dict[str, Any] = {}
    exec(classes + prepare, names)
    assert names["classes"] == experiment.data.class_names
    assert names["images"].shape == view.shape  # its values: the next test
    assert len(ways) == 4
    for way in ways:
        exec(way, names)
        with torch.no_grad():
            torch.testing.assert_close(torch.as_tensor(names["logits"]), encoder(names["images"]))


@pytest.mark.parametrize("data", [Digits(image_size=16), "crop", "squash"], ids=["enlarged", "crop", "squash"])
def test_the_cards_preparation_is_that_of_evaluation(data: ImageDataModule | str, picture: Path, trained: Path) -> None:
    if isinstance(data, str):
        for name in ("a", "b"):
            Path("photos", name).mkdir(parents=True)
            shutil.copy(picture, Path("photos", name, "1.jpg"))
        data = ImageFolder(root="photos", image_size=20, crop_pct=0.8 if data == "crop" else None)
    experiment = Experiment.load(trained)
    exported = Exported(experiment.model, data, trained, experiment.config, None, averaged=True)
    prepare = code(write_card(exported, [], Path("files")).read_text())[1]
    names: dict[str, Any] = {}
    exec(prepare.replace("picture.jpg", str(picture)), names)
    view = data.view_of([open_rgb(picture)], torch.device("cpu"))
    levels = torch.tensor(data.std).view(-1, 1, 1) * 255  # of which resizing may round one otherwise
    assert ((names["images"] - view) * levels).abs().max() <= 1.01


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


def test_the_card_of_a_studys_run_has_the_mean_over_seeds_and_the_verdict(trained: Path, picture: Path) -> None:
    """The keys are those of docs/verdict.md."""
    shutil.copytree(trained, "runs/digits/swin-v2/seed-0")
    rows = [{"variant": name, "mean": 98.7, "low": 98.3, "high": 99.1, "seeds": 7} for name in ("ViT", "Swin v2")]
    rows[0]["mean"] = 1.0
    verdict = {"study": "digits", "metric": "top1", "verdict": "no winner yet", "headline": "No winner: chance."}
    Path("runs/digits/verdict.json").write_text(json.dumps(verdict | {"variants": rows}))
    card = export(Path("runs/digits/swin-v2/seed-0"), "--format", "safetensors")
    expected = (
        "of the study <code>digits</code>, whose mean top1 over 7 seeds is 98.7 [98.3, 99.1]. Its verdict: No winner"
    )
    assert expected in card
    (metric,) = head(card)["model-index"][0]["results"][0]["metrics"]
    assert metric["args"]["study"] == verdict | rows[1]


def test_the_hub_is_told_where_the_weights_start(trained: Path, picture: Path) -> None:
    experiment = Experiment.load(trained)
    for start, told in (("timm/vit_tiny_patch16_224.augreg_in21k", True), ("runs/other/seed-0", False), (None, False)):
        model = experiment.config["model"]
        config = experiment.config | {"model": model | {"init_args": model["init_args"] | {"init_from": start}}}
        exported = Exported(experiment.model, experiment.data, trained, config, None, averaged=True)
        card = write_card(exported, [], Path("files")).read_text()
        assert head(card).get("base_model") == (start if told else None)


def test_the_card_says_in_prose_what_pre_trained_weights_the_training_started_from(
    trained: Path, picture: Path
) -> None:
    experiment = Experiment.load(trained)
    plain = {"class_path": "vitlab.models.VisionTransformer", "init_args": {}}
    timms = {"class_path": "vitlab.models.TimmModel", "init_args": {"name": "resnet18", "pretrained": True}}
    for start, backbone, told in (
        ("runs/simmim/seed-0", plain, "<code>runs/simmim/seed-0</code>."),
        (None, timms, "<code>timm/resnet18</code>."),
        (None, plain, None),
    ):
        model = experiment.config["model"]
        changed = {"init_from": start, "backbone": backbone, "teacher": {"weights": "runs/teacher/seed-0"}}
        config = experiment.config | {"model": model | {"init_args": model["init_args"] | changed}}
        exported = Exported(experiment.model, experiment.data, trained, config, None, averaged=True)
        prose = write_card(exported, [], Path("files")).read_text().split("## How good")[0]
        assert ("pre-trained" in prose) is bool(told)
        assert told is None or f"The weights were pre-trained: training started from {told}" in prose


def test_no_name_begins_html_or_a_cell_in_the_card(
    trained: Path, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outside of code, which renderers escape; within the literal of the classes too, which still is their names."""
    evil = "<script>alert(1)</script>"
    names = [evil, "a|b", "```", "it's \\< <b>", *map(str, range(6))]
    experiment = Experiment.load(trained)
    run_directory = Path("runs") / "<img src=x onerror=alert(1)>`" / "seed-0"
    shutil.copytree(trained, run_directory)
    verdict = {"study": evil, "metric": "top1", "verdict": "no winner yet", "headline": f"{evil} | leads\n# so"}
    data = experiment.config["data"]
    config = experiment.config | {"data": data | {"init_args": data["init_args"] | {"root": f"{evil}`x\n```\n{evil}"}}}
    environment = {"command": f"fit {evil} | x", "folder": evil}
    (run_directory / "environment.json").write_text(json.dumps(environment))
    monkeypatch.setattr(Digits, "class_names", names)
    checkpoint = run_directory / "checkpoints/last.ckpt"
    exported = Exported(experiment.model, experiment.data, run_directory, config, checkpoint, averaged=True)
    standing = verdict | {"variant": evil, "mean": 90.0, "low": None, "high": None, "seeds": 3}
    card = write_card(exported, [Path("files/model.safetensors")], Path("files"), study=standing).read_text()
    told: dict[str, Any] = {}
    exec(code(card)[0], told)
    assert told["classes"] == names
    assert "<" not in code(card)[0]
    body = card.split("\n---\n", 1)[1]  # after the front matter, which is no Markdown
    prose = re.sub(r"^(`{3,})\w+\n.*?\n\1$", "", body, flags=re.DOTALL | re.MULTILINE)
    assert set(re.findall(r"</?\w*", prose)) == {"<code", "</code"}
    assert evil.replace("<", "&lt;").replace(">", "&gt;") in prose
    (row,) = [line for line in prose.splitlines() if line.startswith("| command ")]
    assert row.count("|") == 3


def test_the_card_states_no_accuracy_of_other_weights(trained: Path, picture: Path) -> None:
    best = export(trained, "--format", "safetensors", "--ckpt_path", "best")
    assert "the run's result is that of last.ckpt" in best
    shutil.copytree(trained, "runs/tiny/seed-0")
    summary = json.loads((trained / "summary.json").read_text())
    summary["metrics"]["test_ema/top1"] += 0.01
    Path("runs/tiny/seed-0/summary.json").write_text(json.dumps(summary))
    assert "with other weights" in export(trained, "--format", "safetensors", "--run.root", "runs")


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
    assert "ManyLabels learns no classes by softmax" in card
    assert "Test accuracy" not in card


@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_others_may_read_the_files_as_the_umask_says(umask: int, trained: Path, picture: Path) -> None:
    before = os.umask(umask)
    try:
        export(trained, "--format", "safetensors")
    finally:
        os.umask(before)
    assert Path("files/model.safetensors").stat().st_mode & 0o777 == 0o666 & ~umask


def test_the_files_say_what_they_expect(trained: Path, picture: Path) -> None:
    export(trained, "--format", "safetensors")
    with safe_open("files/model.safetensors", "pt") as file:
        told = {name: json.loads(value) for name, value in file.metadata().items()}
    data = Digits()
    assert told["class_names"] == data.class_names
    assert (told["mean"], told["std"]) == ([*data.mean], [*data.std])
    assert (told["image_size"], told["in_chans"], told["crop_pct"]) == (8, 1, 1.0)


def test_an_unknown_format_is_refused(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("export", ["--config", str(trained / "config.yaml"), "--format", "tflite"]) == 2
    message = capsys.readouterr().err
    assert "tflite" in message
    assert "onnx" in message

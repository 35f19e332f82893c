"""`vitlab.load`: the oracle is the run itself, its predictions.parquet and its objective."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import ExifTags, Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from vitlab import Experiment, load
from vitlab.commands.dispatch import run
from vitlab.data import Digits
from vitlab.data.photos import Framing, Preprocessing
from vitlab.deployment.load import LoadedModel, activated, of_experiment
from vitlab.evaluation.predictions import probabilities, read_predictions

Write = Callable[..., Path]


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("pictures").mkdir()
    for i, image in enumerate(Digits().raw_images("test", range(6))):
        Image.fromarray(image[..., 0]).save(f"pictures/{i}.png")
    return Path("pictures")


def expect_the_runs_predictions(model: LoadedModel, trained: Path, pictures: Path, raw: bool = False) -> None:
    stored = read_predictions(trained / "predictions.parquet")
    logits = stored.logits if raw else stored.logits_ema
    assert logits is not None
    table = model.predict(pictures)
    columns = [f"p_{name}" for name in model.class_names]
    assert model.class_names == Digits().class_names
    np.testing.assert_allclose(table[columns], probabilities(logits[:6]), atol=1e-5)


def test_a_run_is_loaded_from_its_directory_or_a_checkpoint(trained: Path, pictures: Path) -> None:
    expect_the_runs_predictions(load(trained), trained, pictures)
    expect_the_runs_predictions(load(trained, raw=True), trained, pictures, raw=True)
    expect_the_runs_predictions(load(trained / "checkpoints" / "last.ckpt"), trained, pictures)


def test_an_exported_folder_is_loaded_here_and_from_the_hub(
    trained: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--config", str(trained), "--format", "safetensors", "--out", "exported"]
    assert run("export", arguments) == 0
    expect_the_runs_predictions(load("exported"), trained, pictures)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda name, file, **_: Path("exported", file))
    expect_the_runs_predictions(load("someone/digits"), trained, pictures)


@pytest.mark.slow(edge=True)
def test_raw_weights_are_not_asked_of_an_export_that_has_their_average(trained: Path, pictures: Path) -> None:
    for out, more in (("averaged", []), ("raw", ["--raw"])):
        given = ["--config", str(trained), "--format", "safetensors", "--out", out, *more]
        assert run("export", given) == 0
    with pytest.raises(ValueError, match=r"averaged/model\.safetensors has only the average of the weights\. Load the"):
        load("averaged", raw=True)
    expect_the_runs_predictions(load("raw", raw=True), trained, pictures, raw=True)
    file = Path("averaged/model.safetensors")
    with safe_open(file, "pt") as opened:
        facts = {name: value for name, value in opened.metadata().items() if name != "averaged"}
    save_file(load_file(file), file, facts)  # as earlier versions did
    expect_the_runs_predictions(load("averaged", raw=True), trained, pictures)


def test_a_model_is_on_the_gpu_if_there_is_one(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a run alone and with its configuration changed, which are read in two ways; by what torch is asked for."""
    asked: list[Any] = []
    experiment = Experiment(trained)
    _ = experiment.objective
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, device: asked.append(device) or self)
    for model in (load(trained), of_experiment(experiment)):
        assert not model.model.training
    assert asked == ["cuda", "cuda"]


def test_a_finished_run_without_checkpoint_is_not_sent_to_training(tiny: Write) -> None:
    """`fit` answers such a run that it is finished."""
    assert run("fit", ["--config", str(tiny({"trainer": {"max_epochs": 0}}))]) == 0
    with pytest.raises(FileNotFoundError, match="no whole checkpoint; it was removed, or never written: by 0 epochs"):
        load("runs/tiny/seed-0")


def test_embeddings_are_the_encoders(trained: Path, pictures: Path) -> None:
    table = load(trained).embed(pictures)
    experiment = Experiment.load(trained)
    images, _ = next(experiment.data.batches("test", "cpu"))
    with torch.inference_mode():
        expected = experiment.model.eval().embed(images[0][:6])
    assert table["file"].tolist() == [f"{i}.png" for i in range(6)]
    np.testing.assert_allclose(np.stack(table["embedding"].tolist()), expected.numpy(), atol=1e-5)


def test_python_and_the_command_give_the_same_table_of_embeddings(trained: Path, pictures: Path) -> None:
    assert run("embed", ["--config", str(trained), "--images", str(pictures), "--out", "out"]) == 0
    pd.testing.assert_frame_equal(load(trained).embed(pictures), pd.read_parquet("out/features.parquet"))


def test_files_images_arrays_and_lists_of_these_are_the_same_pictures(trained: Path, pictures: Path) -> None:
    model, files = load(trained), sorted(pictures.iterdir())
    expected = model.predict(pictures).drop(columns="file")
    images = [Image.open(file) for file in files]
    turned = [image.transpose(Image.Transpose.ROTATE_90) for image in images]
    for image in turned:
        image.getexif()[ExifTags.Base.Orientation] = 6  # a viewer turns it clockwise
    gray = [np.asarray(image) for image in images]
    ways: dict[str, tuple[Any, ...]] = {
        "one by one": tuple(map(str, files)),
        "paths": (files,),
        "images": (images,),
        "mixed": (images[0], [images[1], gray[2]], iter(gray[3:])),
        "arrays (H, W)": (gray,),
        "arrays (H, W, 1)": ([image[..., None] for image in gray],),
        "arrays in color": ([np.repeat(image[..., None], 3, axis=2) for image in gray],),
        "transparent images": ([image.convert("RGBA") for image in images],),
        "turned": (turned,),
    }
    for way, given in ways.items():
        table = model.predict(*given)
        assert table["file"][2] in ("2.png", "picture 2"), way
        pd.testing.assert_frame_equal(table.drop(columns="file"), expected, check_exact=False, atol=1e-6), way
    embedding = np.stack(model.embed(gray)["embedding"].tolist())
    np.testing.assert_allclose(embedding, np.stack(model.embed(files)["embedding"].tolist()), atol=1e-6)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "No picture: give files or folders, Pillow images"),
        ([None], "NoneType is no picture: give files"),
        ([np.zeros((8, 8, 1), np.float32)], r"picture 0: an array \(8, 8, 1\) of float32; expected"),
        ([[np.zeros((8, 8), np.uint8), np.zeros((2, 8, 8, 1), np.uint8)]], r"picture 1: an array \(2, 8, 8, 1\)"),
        (["pictures", np.zeros((8, 8), np.uint8)], "Both files and pictures in memory"),
    ],
    ids=str,
)
def test_what_is_no_picture_is_refused_in_one_message(
    given: list[Any], message: str, trained: Path, pictures: Path
) -> None:
    model = load(trained)
    for use in (model.predict, model.embed):
        with pytest.raises(ValueError, match=message):
            use(*given)


def test_a_picture_of_other_channels_than_the_models_is_refused() -> None:
    transform = Preprocessing(Framing(8, 1.0, "bicubic"), 8, (0.5,) * 5, (0.5,) * 5, "array")
    assert transform(np.zeros((8, 8, 5), np.uint8)).shape == (5, 8, 8)
    with pytest.raises(ValueError, match="a picture of 3 channels, and the model takes 5"):
        transform(np.zeros((8, 8, 3), np.uint8))


def test_a_pretrained_run_embeds_and_has_no_classes(tiny: Write, pictures: Path) -> None:
    model = {"class_path": "vitlab.objectives.SimMIM", "init_args": {"mask_patch_size": 4}}
    config = tiny({"model": model, "trainer": {"limit_train_batches": 2}}, "simmim")
    assert run("fit", ["--config", str(config)]) == 0
    model = load("runs/simmim/seed-0")
    assert model.class_names == []
    assert model.embed(pictures)["embedding"][5].shape == (model.model.num_features,)
    with pytest.raises(ValueError, match="SimMIM learns no classes"):
        model.predict(pictures)


def test_a_damaged_file_is_refused_in_one_message(trained: Path, tmp_path: Path) -> None:
    whole = (trained / "checkpoints/last.ckpt").read_bytes()
    other = tmp_path / "other.ckpt"
    torch.save(torch.zeros(2), other)
    with pytest.raises(ValueError, match=r"was written neither by `fit`"):
        load(other)
    (tmp_path / "cut.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut\.ckpt is damaged, or was written neither by `fit`"):
        load(tmp_path / "cut.ckpt")
    (tmp_path / "model.safetensors").write_bytes(b"version https://git-lfs")
    with pytest.raises(ValueError, match=r"is not a file of weights"):
        load(tmp_path)
    save_file({"x": torch.zeros(2)}, tmp_path / "model.safetensors", {"title": "another program's"})
    with pytest.raises(ValueError, match="it names no model"):
        load(tmp_path)


def test_outputs_of_an_objective_that_is_not_here_have_no_meaning() -> None:
    with pytest.raises(ValueError, match=r"^gone\.Two, which knows what logits mean, is not here"):
        activated("gone.Two", torch.zeros(1, 2))


@pytest.mark.parametrize(
    ("source", "message"),
    [*((path, "neither a run directory") for path in ("nowhere", "empty", "a/b/c")), ("a/b", "could not download")],
)
def test_a_wrong_source_is_refused_in_one_message(
    source: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str, file: str, **_: object) -> None:
        raise OSError("no connection")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    Path("empty").mkdir()
    with pytest.raises(FileNotFoundError, match=message):
        load(source)


@pytest.mark.slow
def test_without_network_a_download_ends_at_once_and_in_one_message(tmp_path: Path) -> None:
    code = """
import vitlab
from vitlab.objectives.objective import weights_path
for read, name in ((vitlab.load, "a/b"), (weights_path, "timm/no_model")):
    try:
        read(name)
    except (OSError, ValueError) as error:
        print(error)
"""
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
    script = [sys.executable, "-c", code]
    done = subprocess.run(script, capture_output=True, text=True, check=True, env={**os.environ, **nowhere})
    assert done.stderr == ""  # tried once
    assert done.stdout.count("it cannot be reached, and its cache lacks the file") == 2
    assert len(done.stdout.splitlines()) == 2


@pytest.mark.slow
def test_loading_needs_neither_lightning_nor_timm(trained: Path) -> None:
    code = "import sys, vitlab; vitlab.load(sys.argv[1]); print(*{'lightning', 'timm', 'pandas'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code, str(trained)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []

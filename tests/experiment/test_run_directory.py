"""A run directory is the run: renamed, copied, from another folder, with its images elsewhere or gone."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from lightning import Callback, LightningModule, Trainer
from PIL import Image

from tests.conftest import TINY
from vitlab.commands.dispatch import run
from vitlab.config import load_yaml, merge
from vitlab.experiment.experiment import Experiment
from vitlab.models import TimmModel
from vitlab.models.layers import resize_pos_embed
from vitlab.models.weights import load_weights, save_weights
from vitlab.studies.file.registration import conflicting
from vitlab.studies.file.runs import Run as StudyRun

Write = Callable[..., Path]
RUN = Path("runs/tiny/seed-0")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photographs and a finished run on them."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        rng = np.random.default_rng(0)
        for label, name in enumerate(("cat", "dog")):
            (folder / "photos" / name).mkdir(parents=True)
            for i in range(20):
                pixels = rng.integers(100 * label, 100 * label + 100, (20, 20, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / "photos" / name / f"{i}.png")
        Path("tiny.yaml").write_text(yaml.safe_dump(merge(TINY, PHOTOS)))
        assert run("fit", ["--config", "tiny.yaml"]) == 0
    return folder


PHOTOS = {
    "data": {
        "class_path": "vitlab.data.ImageFolder",
        "init_args": {"root": "photos", "image_size": 16, "batch_size": 4, "num_workers": 0},
    },
    "trainer": {"max_epochs": 2},
}


@pytest.fixture
def trained(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a copy of that folder; return the run's directory."""
    shutil.copytree(made, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return RUN


def result(directory: Path) -> str:
    return f"test/top1 {json.loads((directory / 'summary.json').read_text())['metrics']['test/top1']:.4f}"


@pytest.mark.slow
def test_a_renamed_run_is_not_taken_for_the_one_that_has_its_name_now(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a user met it: the second run's figures came out under the first one's folder."""
    Path("runs/tiny").rename("runs/old")
    assert run("fit", ["--config", "tiny.yaml", "--trainer.limit_train_batches", "1"]) == 0
    old = torch.load("runs/old/seed-0/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    new = torch.load(trained / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert not torch.equal(old["backbone.pos_embed"], new["backbone.pos_embed"])
    before = pd.read_parquet("runs/old/seed-0/predictions.parquet")
    capsys.readouterr()
    for config in ("runs/old/seed-0/config.yaml", "runs/old/seed-0"):
        assert run("test", ["--config", config]) == 0
        said = capsys.readouterr().err
        assert "Weights: runs/old/seed-0/checkpoints/last.ckpt" in said
        assert result(Path("runs/old/seed-0")) in said
    pd.testing.assert_frame_equal(pd.read_parquet("runs/old/seed-0/predictions.parquet"), before)


@pytest.mark.slow
def test_every_command_takes_a_copied_directory_from_another_folder(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = tmp_path / "elsewhere" / "mine"
    shutil.copytree(trained, copied)
    picture = Path("photos/cat/0.png").absolute()
    shutil.rmtree("runs")
    expected = result(copied)
    before = pd.read_parquet(copied / "predictions.parquet")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert run("test", ["--config", str(copied)]) == 0
    pd.testing.assert_frame_equal(pd.read_parquet(copied / "predictions.parquet"), before)
    assert expected in capsys.readouterr().err
    assert run("validate", [str(copied)]) == 0
    assert run("probe", ["--config", str(copied)]) == 0
    assert run("export", ["--config", str(copied), "--format", "safetensors"]) == 0
    assert run("visualize", ["--config", str(copied), "--out", "drawn"]) == 0
    assert run("predict", ["--config", str(copied), "--images", str(picture), "--out", "named"]) == 0
    assert run("fit", ["--config", str(copied)]) == 0  # finished
    assert not Path("runs").exists()
    assert (copied / "export" / "model.safetensors").is_file()


@pytest.mark.slow
def test_an_interrupted_run_continues_where_it_was_copied_with_the_same_images_elsewhere(
    trained: Path, tmp_path: Path
) -> None:
    """The local disk of a cluster's machine has another path in each job. Expected: the undisturbed run, to the bit."""
    (trained / "summary.json").unlink()
    whole = torch.load(trained / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    (trained / "checkpoints/last.ckpt").unlink()
    # One epoch of two: what a run leaves that was killed there.
    half = ["--config", "tiny.yaml", "--run.name", "half", "--run.overwrite", "true"]
    script = (
        "import sys; from vitlab.runs.record import RunRecord as R; from vitlab.__main__ import main\n"
        "R.on_train_epoch_start = lambda s, t, m: t.current_epoch and sys.exit(9)\n"
        f"main(['fit', *{half!r}])"
    )
    subprocess.run([sys.executable, "-c", script], check=False, capture_output=True)
    moved = tmp_path / "moved"
    shutil.move("runs/half/seed-0", moved)
    assert not (moved / "summary.json").exists()
    shutil.move("photos", tmp_path / "fast_disk")
    assert run("fit", ["--config", str(moved), "--data.root", str(tmp_path / "fast_disk")]) == 0
    continued = torch.load(moved / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(whole[name], continued[name]) for name in whole)


def test_a_table_of_the_same_images_gives_the_same_run_and_may_move(trained: Path) -> None:
    rows = sorted(f"{name}/{i}.png,{name}\n" for name in ("dog", "cat") for i in range(20))
    Path("photos/labels.csv").write_text("file,species\n" + "".join(rows))
    given = ["--run.name", "table", "--data.root", "null", "--data.columns.label", "species"]
    assert run("fit", ["--config", "tiny.yaml", *given, "--data.table", "photos/labels.csv"]) == 0
    states = [torch.load(f"runs/{name}/seed-0/checkpoints/last.ckpt", weights_only=True) for name in ("tiny", "table")]
    assert all(torch.equal(x, states[1]["state_dict"][key]) for key, x in states[0]["state_dict"].items())
    Path("photos").rename("moved")
    assert run("test", ["runs/table/seed-0", "--data.table", "moved/labels.csv"]) == 0
    assert run("fit", ["--config", "tiny.yaml", *given, "--data.table", "moved/labels.csv"]) == 0  # finished
    assert run("predict", ["runs/table/seed-0", "--images", "moved/labels.csv", "--out", "named"]) == 0
    assert sorted(pd.read_csv("named/predictions.csv")["file"]) == sorted(row.split(",")[0] for row in rows)


def test_other_images_are_another_run(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (trained / "summary.json").unlink()
    shutil.copytree("photos", "others")
    Path("others/cat/0.png").rename("others/cat/zero.png")
    assert run("fit", ["--config", "tiny.yaml", "--data.root", "others"]) == 2
    assert "began with other images" in capsys.readouterr().err


@pytest.mark.slow
def test_another_state_replaces_no_interrupted_run(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (trained / "summary.json").unlink()
    shutil.copyfile(trained / "checkpoints/last.ckpt", "other.ckpt")
    before = sorted((trained / "checkpoints").iterdir())
    for state in ("none", "other.ckpt"):  # would erase what an interrupted run has
        assert run("fit", ["--config", "tiny.yaml", "--ckpt_path", state]) == 2
        assert "has begun. Leave out --ckpt_path" in capsys.readouterr().err
    assert sorted((trained / "checkpoints").iterdir()) == before


@pytest.mark.slow
def test_a_run_does_not_continue_after_images_were_deleted(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The splits would be drawn again from the images that are left, and test on some that were trained on."""
    (trained / "summary.json").rename("summary.json")
    recorded = (trained / "data.json").read_text()
    shutil.copytree("photos", "whole")
    for number in range(0, 20, 4):
        Path(f"photos/cat/{number}.png").unlink()
    for more in ([], ["--ckpt_path", "last"]):
        assert run("fit", ["--config", "tiny.yaml", *more]) == 2
        said = capsys.readouterr().err
        assert "train: 32 images then, 28 now" in said
        assert said.count("error: ") == 1
    assert (trained / "data.json").read_text() == recorded

    Path("summary.json").rename(trained / "summary.json")  # a finished run is what it was
    assert run("fit", ["--config", "tiny.yaml"]) == 0
    assert "was trained on other images than these (train: 32 images then, 28 now" in capsys.readouterr().err

    (trained / "summary.json").unlink()
    (trained / "data.json").unlink()  # as the message about a damaged one says
    assert run("fit", ["--config", "tiny.yaml"]) == 0

    shutil.rmtree("photos")
    Path("whole").rename("photos")
    assert run("fit", ["--config", "tiny.yaml", "--run.overwrite", "true"]) == 0
    assert (trained / "data.json").read_text() == recorded


@pytest.mark.slow
def test_another_test_leaves_the_results_of_a_finished_run(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("predictions.parquet", "per_class.csv", "confusion.csv", "summary.json")
    own = {name: (trained / name).read_bytes() for name in names}
    last = trained / "checkpoints" / "last.ckpt"
    shutil.copy(last, "previous.ckpt")
    for more, reason in (
        (["--ckpt_path", "none"], "weights: the initial ones"),
        (["--ckpt_path", "previous.ckpt"], "weights: previous.ckpt"),
        (["--trainer.limit_test_batches", "1"], "trainer.limit_test_batches: None there, 1 now"),
        (["--data.crop_pct", "0.5"], "data.init_args.crop_pct: 0.875 there, 0.5 now"),
    ):
        assert run("test", ["--config", str(trained), *more]) == 0
        said = capsys.readouterr().err
        assert reason in said
        assert str(trained / "other_test") in said
        assert {name: (trained / name).read_bytes() for name in names} == own
    assert (trained / "other_test" / "predictions.parquet").read_bytes() != own["predictions.parquet"]

    (trained / "predictions.parquet").write_bytes(b"of another test")
    assert run("test", ["--config", str(trained)]) == 0
    assert {name: (trained / name).read_bytes() for name in names} == own

    held_out = json.loads((trained / "data.json").read_text())
    held_out["splits"]["test"]["digest"] = "of other images"
    (trained / "data.json").write_text(json.dumps(held_out))
    assert run("test", ["--config", str(trained)]) == 0
    assert "test: 4 images then, 4 now" in capsys.readouterr().err

    shutil.copy(last, last.with_name("previous.ckpt"))
    last.write_bytes(last.read_bytes()[:-100])
    for command in ("test", "validate"):
        assert run(command, ["--config", str(trained)]) == 2
        assert "last.ckpt is damaged" in capsys.readouterr().err
    assert {name: (trained / name).read_bytes() for name in names} == own


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--ckpt_path", "none"], "is finished; nothing to do"),
        (["--ckpt_path", "none", "--model.optimizer.lr", "0.5"], ": 0.001 there, 0.5 now\nGive this run another"),
    ],
)
def test_a_checkpoint_to_start_from_replaces_no_run(
    more: list[str], said: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = {file: file.stat().st_mtime_ns for file in trained.glob("*.*")}
    run("fit", ["--config", "tiny.yaml", *more])
    assert said in capsys.readouterr().err
    assert {file: file.stat().st_mtime_ns for file in trained.glob("*.*")} == own


def test_a_run_that_replaced_another_is_finished_too(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fit", ["--config", "tiny.yaml", "--run.overwrite", "true", "--trainer.limit_train_batches", "1"]) == 0
    config = load_yaml(trained / "config.yaml")
    assert (config["run"]["overwrite"], config["trainer"]["limit_train_batches"]) == (False, 1)
    assert pd.read_csv(trained / "metrics.csv")["epoch"].is_monotonic_increasing  # no rows of the other
    capsys.readouterr()
    assert run("fit", ["--config", str(trained)]) == 0
    assert "is finished; nothing to do" in capsys.readouterr().err


def test_the_model_before_training_has_the_weights_that_it_starts_from(trained: Path) -> None:
    own = pd.read_parquet(trained / "predictions.parquet")
    assert run("test", ["--config", "tiny.yaml", "--model.init_from", str(trained), "--ckpt_path", "none"]) == 0
    pd.testing.assert_frame_equal(pd.read_parquet(trained / "other_test" / "predictions.parquet"), own)
    begun = Experiment("tiny.yaml", f"model.init_from={trained}", "ckpt_path=none")
    begun.restore()
    weights = torch.load(trained / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(begun.model.state_dict()["pos_embed"], weights["backbone.pos_embed"])


def test_a_test_before_the_training_leaves_the_weights_that_it_begins_with(tiny: Write) -> None:
    begun = TimmModel("test_resnet", num_classes=10, in_chans=1)
    save_weights(begun, "own.safetensors")
    arguments = {"name": "test_resnet", "in_chans": 1, "checkpoint_path": "own.safetensors"}
    backbone = {"class_path": "vitlab.models.TimmModel", "init_args": arguments}
    experiment = Experiment(tiny({"model": {"init_args": {"backbone": backbone}}}))
    with pytest.raises(FileNotFoundError, match="train first"):
        experiment.test()
    first = next(iter(begun.state_dict()))
    assert torch.equal(experiment.objective.backbone.state_dict()[first], begun.state_dict()[first])


@pytest.mark.slow(edge=True)
@pytest.mark.filterwarnings("ignore")  # Lightning's, which the commands leave out
def test_a_paused_run_continues_without_the_weights_that_it_began_with(tiny: Write) -> None:
    save_weights(TimmModel("test_resnet", num_classes=10, in_chans=1), "own.safetensors")
    arguments = {"name": "test_resnet", "in_chans": 1, "checkpoint_path": "own.safetensors"}
    backbone = {"class_path": "vitlab.models.TimmModel", "init_args": arguments}
    path = str(tiny({"model": {"init_args": {"backbone": backbone}}, "trainer": {"max_epochs": 2}}))
    assert run("fit", ["--config", path, "--run.checkpoint.pause_after", "1"]) == 76
    Path("own.safetensors").unlink()
    assert run("fit", ["--config", path]) == 0
    assert run("fit", ["--config", path]) == 0  # which is finished, and says so
    assert run("test", ["--config", str(RUN)]) == 0
    loaded = Experiment.load(RUN)
    assert loaded.config["model"]["init_args"]["backbone"]["init_args"]["checkpoint_path"] is not None
    name, weight = next(iter(loaded.model.state_dict().items()))
    loaded.fit()
    assert torch.equal(loaded.model.state_dict()[name], weight)


@pytest.mark.slow(edge=True)
@pytest.mark.filterwarnings("ignore")  # Lightning's, which the commands leave out
def test_the_same_object_trains_again_as_a_new_one_does(tiny: Write) -> None:
    def weights() -> dict[str, torch.Tensor]:
        state = torch.load(RUN / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        return {name: value.clone() for name, value in state.items()}

    def trained(experiment: Experiment) -> dict[str, float]:
        return {name: value for name, value in experiment.fit().items() if "/" in name}  # no times

    path = tiny({"trainer": {"limit_train_batches": 3}})
    alone = trained(Experiment(path))
    first = weights()
    again = Experiment(path, "run.overwrite=true")
    assert again.test() == {name: value for name, value in alone.items() if name.startswith("test/")}  # first
    for _ in range(2):
        assert trained(again) == alone
        assert all(torch.equal(first[name], value) for name, value in weights().items())

    broken = Experiment(path, "run.overwrite=true")
    callback = Fails()
    broken.trainer.callbacks.insert(0, callback)
    with pytest.raises(RuntimeError, match="on purpose"):
        broken.fit()
    assert trained(broken) == alone
    assert all(torch.equal(first[name], value) for name, value in weights().items())


class Fails(Callback):
    """Ends a training in its second step."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        if batch_idx == 1:
            raise RuntimeError("on purpose")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("zebra", "dog"), "was trained on the classes cat, dog; this data set has dog, zebra."),
        (("cat", "dog", "eel"), "was trained on the classes cat, dog; this data set has cat, dog, eel."),
    ],
)
def test_other_classes_are_refused(
    names: tuple[str, ...], said: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sources = ("cat", "dog", "dog")
    for source, name in zip(sources, names, strict=False):
        shutil.copytree(f"photos/{source}", f"others/{name}")
    assert run("test", ["--config", str(trained), "--data.root", "others"]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert "--model.init_from" in told
    state = str(trained / "checkpoints/last.ckpt")
    again = ["--config", str(trained), "--run.name", "other", "--data.root", "others", "--trainer.max_epochs", "9"]
    assert run("fit", [*again, "--ckpt_path", state]) == 2
    if len(names) == 2:  # else the new network's is another number of classes
        assert said in capsys.readouterr().err


def test_a_checkpoint_of_another_objective_is_refused(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("test", ["--config", str(trained), "--model.ema.decay", "0.9"]) == 2
    said = capsys.readouterr().err
    assert "does not fit this Supervised: average.module.cls_token is (absent) there, (1, 1, 16) here" in said
    assert f"--model.init_from {trained}/checkpoints/last.ckpt" in said


def test_a_study_is_measured_under_corruption_from_another_folder(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Path("runs").absolute()
    (study / "results.csv").write_text("variant,seed,status\ntiny,0,finished\n")
    monkeypatch.chdir(tmp_path)
    assert run("robustness", [str(study), "--images", "2"]) == 0


@pytest.mark.slow(edge=True)
def test_robustness_refuses_other_test_images_and_transfer_warns_of_them(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("runs/results.csv").write_text("variant,seed,status\ntiny,0,finished\n")
    robustness, transfer = ["runs", "--images", "2"], [str(trained), "--sizes", "16", "--out", "out"]
    assert run("transfer", transfer) == 0
    assert "other images" not in capsys.readouterr().err
    for split, status in (("train", 0), ("test", 2)):
        facts = json.loads((trained / "data.json").read_text())
        facts["splits"][split] = {"images": 600, "digest": "of other images"}
        (trained / "data.json").write_text(json.dumps(facts))
        assert run("robustness", robustness) == status
        (trained / "robustness.csv").unlink(missing_ok=status == 2)
    assert f"{trained} was tested on other images (test: 600 images then, 4 now)" in capsys.readouterr().err
    assert run("transfer", transfer) == 0
    assert f"{trained} was trained on other images than these (train: 600 images then, 32" in capsys.readouterr().err


def test_pictures_are_classified_where_the_training_images_are_gone(trained: Path) -> None:
    Path("photos/dog/0.png").rename("dog.png")
    shutil.rmtree("photos")
    assert run("predict", ["--config", str(trained), "--images", "dog.png", "--out", "named"]) == 0
    table = pd.read_csv("named/predictions.csv")
    assert {"p_cat", "p_dog"} <= set(table.columns)
    assert run("export", ["--config", str(trained), "--format", "safetensors"]) == 0


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "", "two\nlines"])
def test_a_name_that_leaves_the_root_or_is_no_folders_is_refused(
    name: str, tiny: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("fit", ["--config", str(tiny()), f"--run.name={name}"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: run.name ")
    assert "give a name like vit_cifar10" in message
    assert len(message) < 200
    assert not [*Path.cwd().glob("../evil"), *Path.cwd().glob("runs")]


@pytest.mark.parametrize("name", ["漢字", "a/b", "1e-3"])
def test_a_name_of_any_language_is_taken(name: str, tiny: Write) -> None:
    assert run("fit", ["--config", str(tiny()), f"--run.name={name}", "--print_config"]) == 0


def test_a_folder_of_runs_is_answered_with_the_runs(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("test", ["--config", "runs"]) == 2
    assert str(trained) in capsys.readouterr().err


# ---- round trips


def test_several_files_name_a_run_after_all_of_them(tiny: Write) -> None:
    overlay = tiny().with_name("short.yaml")
    overlay.write_text("trainer: {limit_train_batches: 1}")
    assert run("fit", ["--config", "tiny.yaml", "--config", str(overlay)]) == 0
    assert Path("runs/tiny-short/seed-0/summary.json").is_file()


def test_a_study_finds_its_runs_where_their_images_have_moved(trained: Path) -> None:
    Path("photos").rename("moved")
    config = merge(load_yaml(trained / "config.yaml"), {"data": {"init_args": {"root": "moved"}}})
    planned = StudyRun("tiny", 0, config, Path("runs/tiny"))
    assert planned.directory == trained
    assert conflicting([planned]) == []
    Path("moved/dog/0.png").unlink()
    assert conflicting([planned]) == [planned]


def test_positions_of_a_rectangle_keep_their_places(trained: Path) -> None:
    """There are as many of 4 × 2 patches as of 2 × 4, at other places."""
    assert run("fit", ["--config", "tiny.yaml", "--run.name", "high", "--data.image_size", "[16, 8]"]) == 0
    high = Experiment.load("runs/high/seed-0").model.state_dict()["pos_embed"]
    wide = Experiment("tiny.yaml", "data.image_size=[8, 16]").model
    load_weights(wide, "runs/high/seed-0/checkpoints/last.ckpt")
    found = wide.state_dict()["pos_embed"]
    torch.testing.assert_close(found, resize_pos_embed(high, 1, (4, 2), (2, 4)))
    assert not torch.allclose(found, high)

"""Pictures as a run trains: drawn when promised, of what the model predicts, and without an effect on the training."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.conftest import TINY
from tests.noise import make_noise
from tests.objectives.test_mae import mae
from tests.objectives.test_simmim import simmim
from vitlab.analysis.image_logging import some_images
from vitlab.commands.dispatch import run
from vitlab.config import Config
from vitlab.data import ImageFolder
from vitlab.objectives import MAE, Distillation, SimMIM, Teacher
from vitlab.runs.loggers import UnbreakableWandbLogger, Wandb

Write = Callable[..., Path]
FOLDER = Path("runs/tiny/seed-0/pictures")


def callback(name: str, every_n_epochs: int = 1) -> Config:
    return {"class_path": f"vitlab.analysis.image_logging.{name}", "init_args": {"every_n_epochs": every_n_epochs}}


def fit(tiny: Write, model: Config, epochs: int, callbacks: list[Config], name: str = "tiny") -> int:
    path = tiny({"model": model, "trainer": {"max_epochs": epochs, "callbacks": callbacks}}, name)
    return run("fit", ["--config", str(path)])


def weights(name: str) -> dict[str, Tensor]:
    return torch.load(f"runs/{name}/seed-0/checkpoints/last.ckpt", weights_only=True)["state_dict"]


def backbone(**arguments: object) -> Config:
    sizes = {"patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}
    return {"class_path": "vitlab.models.VisionTransformer", "init_args": sizes | arguments}


SHARED = {name: TINY["model"]["init_args"][name] for name in ("optimizer", "schedule")}
SIMMIM: Config = {
    "class_path": "vitlab.objectives.SimMIM",
    "init_args": {"backbone": backbone(drop_path_rate=0.3, depth=2), "mask_patch_size": 4, **SHARED},
}
DEIT: Config = {
    "class_path": "vitlab.objectives.Distillation",
    "init_args": {
        "backbone": backbone(distilled=True),
        "target": {"class_path": "vitlab.objectives.HardTarget"},
        "teacher": {"model": backbone(img_size=8)},
        **SHARED,
    },
}


@pytest.mark.slow
def test_reconstructions_are_drawn_every_n_epochs_and_after_the_last(tiny: Write) -> None:
    assert fit(tiny, SIMMIM, 3, [callback("Reconstructions", 2)]) == 0
    files = sorted(FOLDER.iterdir())
    assert [file.name for file in files] == ["reconstructions-epoch-0002.png", "reconstructions-epoch-0003.png"]
    with Image.open(files[0]) as image:
        assert image.width > image.height  # eight columns of four panels
    assert run("fit", ["--config", "tiny.yaml", "--trainer.max_epochs", "1", "--run.overwrite", "true"]) == 0
    assert [file.name for file in FOLDER.iterdir()] == ["reconstructions-epoch-0001.png"]


@pytest.mark.slow
def test_pictures_change_no_weight(tiny: Write) -> None:
    fit(tiny, SIMMIM, 2, [], "without")
    fit(tiny, SIMMIM, 2, [callback("Reconstructions")], "with")
    first, second = weights("without"), weights("with")
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_agreement_is_logged_and_drawn_and_changes_no_weight(tiny: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Teacher, "examine", lambda *args: None)  # an untrained one will do
    assert fit(tiny, DEIT, 2, [], "without") == 0
    assert fit(tiny, DEIT, 2, [callback("TeacherAgreement")]) == 0
    first, second = weights("without"), weights("tiny")
    assert all(torch.equal(first[name], second[name]) for name in first)
    logged = pd.read_csv("runs/tiny/seed-0/metrics.csv").dropna(subset="val/agreement")
    assert logged.epoch.tolist() == [0, 1]
    for head in ("val", "val_class", "val_distillation"):
        assert logged[f"{head}/agreement"].between(0, 1).all()
        assert (logged[f"{head}/teacher_kl"] >= 0).all()
    assert len(list(FOLDER.glob("teacher-agreement-epoch-*.png"))) == 2


@pytest.mark.parametrize(("name", "objective"), [("Reconstructions", DEIT), ("TeacherAgreement", SIMMIM)])
def test_an_objective_that_cannot_serve_is_refused(
    tiny: Write, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str, objective: Config
) -> None:
    assert fit(tiny, objective, 1, [callback(name)]) == 2
    error = capsys.readouterr().err
    assert f"error: {name}" in error
    assert not Path("runs").exists()


def test_some_images_are_of_several_classes(tmp_path: Path) -> None:
    """A folder has its images by class; the same ones are drawn each time."""
    make_noise(tmp_path, {"train": 20, "val": 40})
    data = ImageFolder(root=tmp_path, image_size=8, num_workers=0, batch_size=8)
    data.setup("fit")
    images, labels, names = some_images(data, 20, torch.device("cpu"))
    assert (len(images), len(set(names))) == (20, 20)
    assert len(set(labels[:8])) == 2
    index = data.image_names("val").index(names[3])
    assert torch.equal(images[3], data.views("val", [index], torch.device("cpu"))[0])
    assert labels[3] == data.labels("val")[index]
    assert some_images(data, 20, torch.device("cpu"))[2] == names


@pytest.mark.parametrize("objective", [simmim(norm_targets=3), simmim(), mae(), mae(norm_pix_loss=False)])
def test_a_perfect_prediction_is_filled_in_as_the_image(
    objective: SimMIM | MAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Predict what the loss compares with: whatever it normalizes, the picture must be the image again."""
    images = torch.rand(2, 1, 8, 8)
    targets: list[Tensor] = []

    def spy(pred: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        targets.append(target)
        return target.mean()

    for name in ("simmim.masked_l1", "mae.masked_mse"):
        monkeypatch.setattr(f"vitlab.objectives.{name}", spy)
    objective.loss([images], torch.zeros(2, dtype=torch.long))
    monkeypatch.setattr(objective, "reconstruct", lambda *args: targets[0])
    pred, mask = objective.fill_in(images, torch.Generator().manual_seed(0))
    torch.testing.assert_close(pred, images, atol=1e-5, rtol=1e-5)
    assert mask.shape == (2, 8, 8)
    assert mask.float().mean() == pytest.approx(objective.mask_ratio, abs=1 / 16)


def test_the_mask_depends_on_the_generator_alone() -> None:
    for objective in (simmim().eval(), mae().eval()):
        images = torch.rand(2, 1, 8, 8)
        state = torch.get_rng_state()
        first = objective.fill_in(images, torch.Generator().manual_seed(0))
        assert torch.equal(torch.get_rng_state(), state)
        torch.rand(5)
        second = objective.fill_in(images, torch.Generator().manual_seed(0))
        assert torch.equal(first[1], second[1])
        assert torch.equal(first[0], second[0])


def test_a_picture_goes_to_wandb_under_its_name_and_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[dict[str, Any]] = []
    monkeypatch.setattr(UnbreakableWandbLogger, "experiment", SimpleNamespace(log=sent.append))
    file = tmp_path / "reconstructions-epoch-0002.png"
    Image.new("L", (8, 4)).save(file)
    logger = UnbreakableWandbLogger(Wandb(mode="offline"), tmp_path, "name", {})
    logger.log_picture("pictures/reconstructions", file, 7)
    (row,) = sent
    (picture,) = row["pictures/reconstructions"]
    assert (picture.image.size, row["trainer/global_step"], logger.broken) == ((8, 4), 7, False)


@pytest.mark.slow
def test_the_teachers_answers_are_the_teachers(tiny: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """A student's logits that are the teacher's own agree on every image and diverge by nothing."""
    monkeypatch.setattr(Teacher, "examine", lambda *args: None)

    def copy(self: Distillation, images: Tensor) -> dict[str, Any]:
        return {"": self.teacher(images)}

    monkeypatch.setattr(Distillation, "outputs", copy)
    assert fit(tiny, DEIT, 1, [callback("TeacherAgreement")]) == 0
    (logged,) = pd.read_csv("runs/tiny/seed-0/metrics.csv").dropna(subset="val/agreement").to_dict("records")
    assert logged["val/agreement"] == 1
    assert abs(logged["val/teacher_kl"]) < 1e-6

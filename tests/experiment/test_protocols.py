"""`probe --protocol`: the papers' protocols run on a small experiment, twice alike, and read what they should."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from tests.conftest import EXPERIMENTS
from tests.noise import make_noise
from vitlab.commands.dispatch import run
from vitlab.config import Config, load_yaml
from vitlab.data import BatchAugment, Digits, ImageFolder, Mixup, PhotoAugment
from vitlab.evaluation.classifiers import weighted_votes
from vitlab.evaluation.probe import fit_logistic, preprocess
from vitlab.experiment.experiment import Experiment
from vitlab.experiment.protocols import Protocol, simply_augmented

Write = Callable[..., Path]
RUN = Path("runs/tiny/seed-0")


def changed(protocol: str, section: str, **settings: Any) -> str:
    """Write a shipped protocol with other settings, as a user would; return its file."""
    content = load_yaml(EXPERIMENTS / f"probes/{protocol}.yaml")
    Path(f"{protocol}.yaml").write_text(yaml.safe_dump({**content, section: {**content[section], **settings}}))
    return f"{protocol}.yaml"


def probed(path: Path, protocol: str, *more: str) -> dict[str, Any]:
    arguments = ["--config", str(path), "--ckpt_path", "none", "--protocol", protocol, *more]
    assert run("probe", arguments) == 0
    result: dict[str, Any] = json.loads((RUN / f"probe-none-{Path(protocol).stem}.json").read_text())
    return result


def features(experiment: Experiment, split: Any) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        model = experiment.model.eval()
        parts = [(model.forward_features(x).prefix[:, 0], y) for (x,), y in experiment.data.batches(split, "cpu")]  # type: ignore[operator]
    return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])


@pytest.mark.slow
def test_dinos_protocol_votes_among_all_images_and_trains_a_classifier_for_each_rate(
    tiny: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tiny({"trainer": {"max_epochs": 2}})
    few = changed("dino", "linear", rates=[0.01, 0.3])
    found = probed(path, few, "--epochs", "2")
    assert (found["protocol"], found["train_images"], found["test_images"]) == ("dino", 1198, 599)
    assert found["features"] == 2 * 16  # the class tokens of both blocks
    assert list(found["knn"]) == ["10", "20", "100", "200"]
    assert found["linear"]["rates"].keys() == {"0.01", "0.3"}
    assert found["linear"]["last"]["low"] > 0.1  # chance, also of untrained features
    printed = capsys.readouterr().out
    assert "protocol dino: 32 features, 1,198 training images" in printed
    assert "k-NN (k = 10)     " in printed
    assert probed(path, few, "--epochs", "2") == found

    experiment = Experiment(path)
    splits = [features(experiment, split) for split in ("train", "val", "test")]
    bank, labels = (torch.cat([splits[0][i], splits[1][i]]) for i in (0, 1))
    right = weighted_votes(splits[2][0], bank, labels, 10, k=10).argmax(dim=1) == splits[2][1]
    assert found["knn"]["10"]["value"] == pytest.approx(float(right.float().mean()))


@pytest.mark.slow
def test_maes_protocol_is_one_rate(tiny: Write) -> None:
    found = probed(tiny(), "mae", "--epochs", "3")
    assert found["features"] == 16
    assert found["linear"]["rates"].keys() == {"0.1"}
    assert found["knn"] == {}
    learned = probed(tiny(), changed("mae", "linear", rates=[0.1, 10.0]), "--epochs", "20")["linear"]
    assert (learned["rate"], learned["last"]["low"] > 0.15) == (10, True)  # 0.1 is for thousands of steps
    assert probed(tiny(), "mae", "--epochs", "3") == found
    seed = ["--ckpt_path", "none", "--protocol", "mae", "--seed_everything", "1"]
    assert run("probe", ["--config", str(tiny()), *seed, "--epochs", "3"]) == 0
    assert json.loads(Path("runs/tiny/seed-1/probe-none-mae.json").read_text()) != found


@pytest.mark.slow
def test_msns_protocol_has_the_published_numbers_of_labels(tiny: Write, capsys: pytest.CaptureFixture[str]) -> None:
    path = tiny()
    found = probed(path, "msn")
    kinds = [(each["name"], len(each["draws"]), each["images"]) for each in found["low_shot"]]
    expected = [("1 label per class", 3, 10), ("2 labels per class", 3, 20), ("5 labels per class", 3, 50)]
    assert kinds == [*expected, ("1 % of the labels", 1, 12)]
    assert "5 labels per class  " in capsys.readouterr().out
    assert probed(path, "msn") == found

    # The same labels from a list of names, and the accuracy by the released steps, written out.
    experiment = Experiment(path)
    data = experiment.data
    Path("mine.txt").write_text("\n".join(data.image_names("train")[:40]))
    (mine,) = probed(path, changed("msn", "few_labels", labeled=["mine.txt"]))["low_shot"]
    Path("none.txt").write_text("\n")
    listed = ["--protocol", changed("msn", "few_labels", labeled=["none.txt"])]
    assert run("probe", ["--config", str(path), "--ckpt_path", "none", *listed]) == 2
    assert "none.txt lists no image; list names like " in capsys.readouterr().err
    assert (mine["name"], mine["images"], mine["strength"]) == ("mine", 40, 0.075)
    model = experiment.model.eval()
    tokens: list[torch.Tensor] = []
    model.blocks[-1].register_forward_hook(lambda module, inputs, output: tokens.append(output[:, 0].detach()))
    labels = [features(experiment, split)[1] for split in ("train", "test")]
    raw = torch.cat(tokens)
    weight, _ = fit_logistic(preprocess(raw[:40]), labels[0][:40], 0.075, intercept=False)
    classes = labels[0][:40].unique()
    predicted = classes[(preprocess(raw[len(labels[0]) :]).double() @ weight.T).argmax(dim=1)]
    assert mine["draws"] == [pytest.approx(float((predicted == labels[1]).float().mean()))]


def test_where_validation_is_the_test_no_test_image_is_labeled(tiny: Write) -> None:
    """ImageNet's folders, train and val: of noise, all would be right where an image finds itself."""
    make_noise(Path("photos"), {"train": 30, "val": 50})
    arguments = {"root": "photos", "image_size": 8, "num_workers": 0, "eval_batch_size": 7}
    path = tiny({"data": {"class_path": "vitlab.data.ImageFolder", "init_args": arguments}})
    found = probed(path, "dino", "--epochs", "1")
    assert (found["train_images"], found["test_images"]) == (60, 100)
    assert list(found["knn"]) == ["10", "20"]  # of 60 images
    assert all(accuracy["low"] < 0.5 < accuracy["high"] for accuracy in found["knn"].values())


@pytest.mark.slow
def test_an_encoder_without_a_class_token_is_read_or_refused(tiny: Write, capsys: pytest.CaptureFixture[str]) -> None:
    mean = {"class_token": False, "global_pool": "avg"}
    path = tiny({"model": {"init_args": {"backbone": {"init_args": mean}}}})
    assert probed(path, "dino", "--epochs", "1")["features"] == 16
    assert run("probe", ["--config", str(path), "--ckpt_path", "none", "--protocol", "msn"]) == 2
    assert "which VisionTransformer does not have" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("protocol", "section", "settings", "message"),
    [
        ("dino", "linear", {"rates": [-1]}, '"linear.rates": Not of type PositiveFloat: -1 does not conform'),
        ("msn", "few_labels", {"labeled": ["missing.txt"]}, "missing.txt"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    protocol: str, section: str, settings: Config, message: str, tiny: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--config", str(tiny()), "--ckpt_path", "none", "--protocol", changed(protocol, section, **settings)]
    assert run("probe", given) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [([], "--epochs changes a --protocol"), (["--protocol", "msn"], "--epochs changes `linear`, which ")],
)
def test_epochs_are_of_a_linear_probe(
    options: list[str], message: str, tiny: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("probe", ["--config", str(tiny()), "--ckpt_path", "none", *options, "--epochs", "3"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("file", sorted((EXPERIMENTS / "probes").glob("*.yaml")), ids=lambda file: file.stem)
def test_shipped_protocols_are_found_by_their_name_and_their_file(file: Path) -> None:
    protocol = Protocol.read(file.stem)
    assert protocol == Protocol.read(str(file)) == Protocol.read(f"experiments/probes/{file.name}")
    assert protocol.knn or protocol.linear or protocol.few_labels


def test_a_linear_probe_sees_crops_and_flips_whatever_the_run_saw() -> None:
    digits = simply_augmented(Digits(mixup=Mixup(), augment=BatchAugment(shift=2, erase_prob=0.5)), "bicubic")
    assert digits.augment == BatchAugment(crop_scale=(0.08, 1.0), flip_prob=0.5)
    assert digits.mixup is None
    photos = simply_augmented(ImageFolder(root="x", augment=PhotoAugment(eval_interpolation="area")), "bilinear")
    assert photos.augment == PhotoAugment(
        interpolation="bilinear", eval_interpolation="area", rand_augment=None, erase_prob=0.0
    )
    assert simply_augmented(ImageFolder(root="x"), "bilinear").framing.interpolation == "bicubic"  # as it evaluates


def test_a_pass_has_each_image_once_an_epoch_augmented_as_in_training() -> None:
    data = Digits(batch_size=50, augment=BatchAugment(shift=2), train_images=230)
    cpu = torch.device("cpu")
    passes = list(data.training_passes(range(2), 100, cpu, drop_last=False))
    assert [len(labels) for _, labels in passes] == 2 * [50, 50, 50, 50, 30]
    for epoch, number in ((0, 0), (0, 3), (1, 2)):
        (images,), labels = data.training_batch(epoch, number, cpu)[0]
        assert torch.equal(passes[5 * epoch + number][0][0], images)
        assert torch.equal(passes[5 * epoch + number][1], labels)
    counts = torch.cat([labels for _, labels in passes[:5]]).bincount()
    assert counts.tolist() == np.bincount(data.labels("train")).tolist()
    later = next(iter(data.training_passes(range(1, 2), 100, cpu, drop_last=False)))  # of a continued probe
    assert torch.equal(later[0][0], passes[5][0][0])
    dropped = [len(labels) for _, labels in data.training_passes(range(1), 100, cpu, drop_last=True)]
    assert dropped == [50, 50, 50, 50]

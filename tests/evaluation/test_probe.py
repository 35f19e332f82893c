"""The probe on features whose answer is known."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.noise import make_noise
from vitlab.commands.dispatch import run
from vitlab.evaluation.probe import Accuracy, hold_out, probe_features
from vitlab.models import TimmModel
from vitlab.models.weights import save_weights


def splits_of(separable: bool) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    splits = {}
    for split, n in (("train", 200), ("val", 60), ("test", 100)):
        labels = torch.randint(4, (n,), generator=generator)
        noise = torch.randn(n, 6, generator=generator)
        splits[split] = (10.0 * separable * torch.eye(6)[labels] + noise, labels)
    return splits


def test_separated_classes_are_found_and_noise_is_chance() -> None:
    good, bad = probe_features(splits_of(True), 4), probe_features(splits_of(False), 4)
    assert good.knn.value == good.linear.value == 1.0
    assert bad.knn.low < 0.25 < bad.knn.high
    assert bad.linear.low < 0.25 < bad.linear.high
    assert (good.train_images, good.test_images, good.features) == (260, 100, 6)


def test_a_tenth_of_each_class_is_held_out() -> None:
    labels = torch.arange(200) % 4
    splits = hold_out((torch.arange(200.0)[:, None], labels))
    assert splits["val"][1].bincount().tolist() == [5] * 4
    assert torch.equal(torch.cat([splits[s][0] for s in splits]).flatten().sort().values, torch.arange(200.0))
    assert all(torch.equal(labels[features[:, 0].long()], kept) for features, kept in splits.values())


def test_no_class_is_held_out_whole() -> None:
    labels = torch.tensor([0] * 10 + [1] * 2 + [2])
    splits = hold_out((torch.randn(13, 2), labels))
    assert splits["train"][1].bincount().tolist() == [9, 1, 1]
    with pytest.raises(ValueError, match="no class has two training images"):
        hold_out((torch.randn(3, 2), torch.arange(3)))


def test_test_images_that_also_validate_are_not_their_own_neighbors(tiny: Callable[..., Path]) -> None:
    """ImageNet's folders, train and val: of noise, half is right by chance, and all where an image finds itself."""
    make_noise(Path("photos"), {"train": 40, "val": 100})
    arguments = {"root": "photos", "image_size": 8, "num_workers": 0}
    path = tiny({"data": {"class_path": "vitlab.data.ImageFolder", "init_args": arguments}})
    assert run("probe", ["--config", str(path), "--ckpt_path", "none"]) == 0
    found = json.loads(Path("runs/tiny/seed-0/probe-none.json").read_text())
    assert (found["train_images"], found["test_images"]) == (80, 200)
    assert found["knn"]["low"] < 0.5 < found["knn"]["high"]
    assert found["linear"]["low"] < 0.5 < found["linear"]["high"]


def test_a_probe_stands_beside_pixels_and_the_untrained_network(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("probe", ["--config", "tiny.yaml"]) == 0
    told = capsys.readouterr().out.splitlines()
    found = json.loads((finished / "probe-last.json").read_text())
    assert [line.partition(":")[0] for line in told[:2]] == ["raw pixels", "untrained"]
    assert run("probe", ["--config", "tiny.yaml", "--ckpt_path", "none"]) == 0
    none = json.loads((finished / "probe-none.json").read_text())
    assert none["knn_raw_pixels"] == found["knn_raw_pixels"]
    assert found["knn_raw_pixels"]["value"] > 0.9  # 98.8 % among all training images
    assert "knn_untrained" not in none
    assert found["knn_untrained"] == none["knn"]  # of the same weights, among the same images


def test_a_model_that_was_built_with_weights_is_not_called_untrained(
    tiny: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    save_weights(TimmModel("test_resnet", num_classes=10, in_chans=1), "own.safetensors")
    arguments = {"name": "test_resnet", "in_chans": 1, "checkpoint_path": "own.safetensors"}
    backbone = {"class_path": "vitlab.models.TimmModel", "init_args": arguments}
    path = str(tiny({"model": {"init_args": {"backbone": backbone}}, "trainer": {"limit_train_batches": 1}}))
    assert run("fit", ["--config", path, "--run.test", "false"]) == 0
    capsys.readouterr()
    assert run("probe", ["--config", path]) == 0
    assert "untrained" not in capsys.readouterr().out


def test_the_interval_is_wilsons() -> None:
    # 8 of 10: (8 + z²/2) / (10 + z²) ± z/(10 + z²) · sqrt(8·2/10 + z²/4) with z = 1.96
    accuracy = Accuracy.of(torch.tensor([0] * 8 + [1] * 2), torch.zeros(10))
    assert (accuracy.low, accuracy.high) == pytest.approx((0.4902, 0.9433), abs=1e-3)

"""`run.probe` tests an objective without labels by its features, so that studies rank it by accuracy.

With `trainer.max_epochs: 0` it tests weights as they are given.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vitlab
from vitlab.commands.dispatch import run
from vitlab.config import merge
from vitlab.data import Digits
from vitlab.deployment.load import load
from vitlab.evaluation.classifiers import LinearProbe, fit_linear_probe, predict_weighted
from vitlab.evaluation.features import Features, extract
from vitlab.evaluation.predictions import read_predictions
from vitlab.evaluation.probe import SPLITS, probe_features
from vitlab.experiment import results
from vitlab.experiment.experiment import Experiment
from vitlab.experiment.same_images import warn_of_normalization
from vitlab.models import VisionTransformer
from vitlab.runs.directory import RunDirectory
from vitlab.studies.file.metric import TOP1, metric_of

Write = Callable[..., Path]
SIMMIM = {"model": {"class_path": "vitlab.objectives.SimMIM", "init_args": {"mask_patch_size": 4}}}
pytestmark = pytest.mark.filterwarnings("ignore")  # those of libraries, as `fit` leaves them out


@pytest.mark.slow
@pytest.mark.parametrize("how", ["knn", "linear"])
def test_the_accuracy_is_that_of_the_probe(tiny: Write, how: str) -> None:
    path = tiny(merge(SIMMIM, {"run": {"probe": how}}))
    experiment = Experiment(path)
    assert metric_of(experiment) == TOP1
    untrained = _accuracy(Experiment(path), how)
    metrics = experiment.fit()
    stored = read_predictions(experiment.directory / "predictions.parquet")
    assert np.mean(stored.logits.argmax(axis=1) == stored.labels) == pytest.approx(metrics["test/top1"])
    assert (experiment.directory / "per_class.csv").is_file()

    assert metrics["test/top1"] == pytest.approx(_accuracy(experiment, how), abs=2e-3)
    assert metrics["test/top1_untrained"] == pytest.approx(untrained, abs=2e-3)


def _accuracy(experiment: Experiment, how: str) -> float:
    """Return what the probe gives; k-NN's bank is without the validation images here."""
    data, cpu = experiment.data, torch.device("cpu")
    splits = {split: extract(experiment.model, data.batches(split, cpu)) for split in SPLITS}
    if how == "linear":
        return probe_features(splits, 10).linear.value
    right = predict_weighted(splits["test"][0], *splits["train"], 10) == splits["test"][1]
    return float(right.float().mean())


def test_features_are_held_against_those_that_the_training_began_with(
    tiny: Write, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Weights that are given are no untrained network: a run that changes none of them has the same accuracy after."""
    monkeypatch.setattr(vitlab.log, "propagate", True)  # which a command of another test turned off
    path = tiny(merge(SIMMIM, {"run": {"probe": "knn"}, "trainer": {"limit_train_batches": 2}}))
    Experiment(path, {"seed_everything": 5, "run": {"name": "first"}}).fit()
    still = {"class_path": "vitlab.optim.AdamW", "init_args": {"lr": 1e-12, "weight_decay": 0.0}}
    model = {"init_args": {"optimizer": still, "init_from": "runs/first/seed-5"}}
    metrics = Experiment(path, {"model": model}).fit()
    assert metrics["test/top1"] == metrics["test/top1_untrained"]
    assert "The training improved no features" in caplog.text


@pytest.mark.slow(edge=True)
def test_no_strength_is_chosen_on_test_images(tiny: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of data whose validation images are the test images, a tenth of the training images chooses."""
    experiment = Experiment(tiny(merge(SIMMIM, {"run": {"probe": "linear"}})))
    images: list[int] = []

    def fit(train: Features, val: Features, num_classes: int) -> Any:
        images.extend((len(train[0]), len(val[0])))
        return fit_linear_probe(train, val, num_classes)

    monkeypatch.setattr(results, "fit_linear_probe", fit)
    monkeypatch.setattr(type(experiment.data), "image_names", lambda self, split: [str(i) for i in range(599)])
    model, data = experiment.model, experiment.data
    results.classify_by_features(model, model, data, "linear", torch.device("cpu"), Path())
    of_class = np.bincount(experiment.data.labels("train")).tolist()
    held_out = sum(round(n / 10) for n in of_class)
    assert images == 2 * [sum(of_class) - held_out, held_out]


def test_a_sharded_encoder_is_not_probed(tiny: Write, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--trainer.strategy", "fsdp2", "--run.probe", "knn"]
    assert run("fit", ["--config", str(tiny(SIMMIM)), *arguments]) == 2
    assert "run.probe: knn needs the full encoder, which fsdp2 shards" in capsys.readouterr().err


def test_labels_that_are_no_classes_are_refused_before_the_training(
    tiny: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Digits, "labels", lambda self, split: np.zeros((9, 2), np.float32))
    assert run("fit", ["--config", str(tiny(SIMMIM)), "--run.probe", "knn"]) == 2
    assert "Labels (B, 2) torch.float32 are not one class per image" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_a_test_of_the_network_leaves_the_results_of_the_probe(tiny: Write, capsys: pytest.CaptureFixture[str]) -> None:
    experiment = Experiment(tiny({"run": {"probe": "knn"}, "trainer": {"limit_train_batches": 2}}))
    experiment.fit()
    own = (experiment.directory / "predictions.parquet").read_bytes()
    assert run("test", ["--config", str(experiment.directory)]) == 0
    assert "run.probe: knn there, the network's own head now" in capsys.readouterr().err
    assert (experiment.directory / "predictions.parquet").read_bytes() == own


def test_without_it_an_objective_without_labels_has_no_result(tiny: Write) -> None:
    experiment = Experiment(tiny(SIMMIM))
    with pytest.raises(ValueError, match=r"run\.probe: knn"):
        metric_of(experiment)
    assert "test/top1" not in experiment.fit()
    assert run("test", ["--config", str(experiment.directory)]) == 2


def test_strata_are_told_of_frozen_features_too(tiny: Write) -> None:
    placed = {"class_path": "vitlab.data.PlacedDigits", "init_args": {"image_size": 16, "digit_sizes": [8, 16]}}
    short = {"max_epochs": 1, "limit_train_batches": 1}
    experiment = Experiment(tiny(merge(SIMMIM, {"run": {"probe": "knn"}, "data": placed, "trainer": short})))
    metrics = experiment.fit()
    strata = read_predictions(experiment.directory / "predictions.parquet").strata["size in pixels"]
    parts = [metrics[f"test/top1_size_in_pixels_{size}"] * np.mean(strata == str(size)) for size in (8, 16)]
    assert sum(parts) == pytest.approx(metrics["test/top1"])


# ---- weights as they are given

GIVEN = {"trainer": {"max_epochs": 0}}


def test_a_frozen_encoder_is_a_network_with_the_probe_for_a_classifier(
    tiny: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    """The oracle is the probe by itself, fitted on features of the same weights."""
    path = tiny(merge(GIVEN, {"run": {"probe": "linear"}}))
    fresh, cpu = Experiment(path), torch.device("cpu")
    splits = {split: extract(fresh.model, fresh.data.batches(split, cpu)) for split in SPLITS}
    expected = fit_linear_probe(splits["train"], splits["val"], 10).logits(splits["test"][0])

    experiment = Experiment(path)
    metrics = experiment.fit()
    summary = RunDirectory(experiment.directory).summary
    assert (summary["partial"], summary["epochs"], summary["steps"]) == ([], 0, 0)
    assert summary["images_seen"] == len(splits["train"][1]) + len(splits["val"][1])
    stored = read_predictions(experiment.directory / "predictions.parquet").logits
    np.testing.assert_allclose(stored, expected, atol=1e-4)
    assert "test/top1_untrained" not in metrics  # it is the same network
    trained = load(experiment.directory).model
    (images,), _ = next(iter(fresh.data.batches("test", cpu)))
    with torch.no_grad():
        torch.testing.assert_close(trained(images), expected[: len(images)], atol=1e-3, rtol=1e-3)
    capsys.readouterr()
    assert run("test", ["--config", str(experiment.directory)]) == 0
    assert f"test/top1 {metrics['test/top1']:.4f}" in capsys.readouterr().err


@pytest.mark.slow(edge=True)
def test_features_of_a_frozen_encoder_are_computed_once(tiny: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    embed = VisionTransformer.embed

    def counting(self: VisionTransformer, images: torch.Tensor) -> torch.Tensor:
        asked.append(len(images))
        return embed(self, images)

    monkeypatch.setattr(VisionTransformer, "embed", counting)
    path = tiny(GIVEN)
    results = []
    for name, how in (("a", "linear"), ("b", "linear"), ("c", "knn")):
        results.append(Experiment(path, f"run.name={name}", f"run.probe={how}").fit()["test/top1"])
    images = sum(len(Experiment(path).data.labels(split)) for split in SPLITS)
    assert sum(asked) == images + 3  # and one each for the width
    assert results[0] == results[1]
    assert len(list(Path("runs/features").iterdir())) == 1
    Experiment(path, "run.name=d", "run.probe=knn", "seed_everything=5").fit()  # other weights
    assert len(list(Path("runs/features").iterdir())) == 2


def test_votes_are_no_network(tiny: Write, capsys: pytest.CaptureFixture[str]) -> None:
    experiment = Experiment(tiny(merge(GIVEN, {"run": {"probe": "knn"}})))
    assert 0 < experiment.fit()["test/top1"] < 1
    assert run("test", ["--config", str(experiment.directory)]) == 2
    assert "`run.probe: linear` alone gives a network" in capsys.readouterr().err


@pytest.mark.parametrize("change", [{"run": {"test": False}}, {"trainer": {"devices": 2}}])
def test_a_frozen_encoder_is_tested_by_one_process(
    tiny: Write, change: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tiny(merge(merge(GIVEN, {"run": {"probe": "knn"}}), change))
    with pytest.raises(ValueError, match=r"of frozen weights needs trainer.devices: 1 and run.test: true"):
        Experiment(path).fit()


def test_a_classifier_goes_into_a_head_of_its_form() -> None:
    probe = LinearProbe(torch.randn(3, 8), torch.randn(3), torch.randn(8), torch.rand(8) + 0.5, 0.1)
    x, model = torch.randn(5, 3, 16, 16), VisionTransformer(16, 4, num_classes=3, embed_dim=8, depth=1, num_heads=2)
    assert results.give_classifier(model, probe)
    with torch.no_grad():
        torch.testing.assert_close(model(x), probe.logits(model.embed(x)), atol=1e-4, rtol=1e-4)
    two = VisionTransformer(16, 4, num_classes=3, embed_dim=8, depth=1, num_heads=2, distilled=True)
    before = [p.clone() for p in two.head_parameters()]
    assert not results.give_classifier(two, probe)
    assert all(torch.equal(a, b) for a, b in zip(before, two.head_parameters(), strict=True))


def test_images_normalized_otherwise_than_those_of_the_weights_are_told(caplog: pytest.LogCaptureFixture) -> None:
    """timm states the mean and deviation of each file; those of augreg are 0.5, those of DeiT ImageNet's."""
    data = Digits()
    data.mean, data.std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    for name, told in (("vit_small_patch16_224.augreg_in1k", 1), ("deit_small_patch16_224.fb_in1k", 0)):
        caplog.clear()
        with caplog.at_level("WARNING", logger="vitlab"):
            warn_of_normalization({"model": {"init_args": {"init_from": f"timm/{name}"}}}, data)
        assert [f"timm/{name} was trained on images of mean [0.5" in line for line in caplog.messages] == [True] * told

"""Supervised training: the loss against timm's mixup targets, exact metrics, EMA beside the raw weights."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score
from sklearn.utils.class_weight import compute_class_weight
from timm.loss import SoftTargetCrossEntropy
from torch import Tensor, nn

from tests.objectives.small import BACKBONES, batch, quick_trainer
from vitlab.data import Digits, PlacedDigits
from vitlab.models import Backbone, ImageModel, TimmModel, VisionTransformer
from vitlab.models.layers import PatchEmbed
from vitlab.models.weights import save_weights
from vitlab.models.whitening import whiten_patches
from vitlab.objectives import Supervised
from vitlab.objectives.classification import ClassificationTask
from vitlab.objectives.ema import Ema
from vitlab.optim import AdamW, WarmupCosine


def supervised(backbone: str = "vit", **kwargs: object) -> Supervised:
    torch.manual_seed(0)
    return Supervised(BACKBONES[backbone](), AdamW(3e-3), WarmupCosine(), **kwargs)  # type: ignore[arg-type]


def test_loss_equals_timms_on_smoothed_mixed_targets() -> None:
    objective = supervised(label_smoothing=0.1)
    (images,), labels = batch(16)
    one_hot = nn.functional.one_hot(labels, 10).float()
    mixed = 0.7 * one_hot + 0.3 * one_hot.flip(0)
    # timm.data.mixup.mixup_target: off = smoothing / classes, on = 1 - smoothing + off, then the mixture
    smoothed = 0.9 * mixed + 0.1 / 10
    expected = SoftTargetCrossEntropy()(objective.backbone(images), smoothed)
    torch.testing.assert_close(objective.loss([images], mixed), expected)


def started(objective: Supervised, **data: object) -> tuple[Tensor, Tensor]:
    """Set up training on uneven digits; return logits and labels of all training images."""
    digits = PlacedDigits(image_size=8, imbalance=20, batch_size=32, num_workers=0, **data)  # type: ignore[arg-type]
    quick_trainer(max_steps=1, limit_val_batches=0).fit(objective, datamodule=digits)
    labels = torch.from_numpy(digits.labels("train"))
    return torch.randn(len(labels), 10, generator=torch.Generator().manual_seed(0)), labels


@pytest.mark.parametrize("given", ["balanced", [3.0, *range(1, 10)]])
def test_class_weights_are_scikit_learns_and_the_loss_is_torchs_over_all_images(given: str | list[float]) -> None:
    objective = supervised(label_smoothing=0.1, class_weights=given)
    logits, labels = started(objective)
    if given == "balanced":
        weights = torch.tensor(compute_class_weight("balanced", classes=np.arange(10), y=labels.numpy())).float()
        torch.testing.assert_close(objective.loss_weight_per_class, weights)
    else:
        weights = torch.tensor(given)
    expected = nn.functional.cross_entropy(logits, labels, weights, label_smoothing=0.1)
    torch.testing.assert_close(objective.label_loss(logits, labels), expected)
    mixed = nn.functional.one_hot(labels, 10).float()
    torch.testing.assert_close(objective.label_loss(logits, mixed), expected)
    halves = [objective.label_loss(logits[i::2][:183], labels[i::2][:183]) for i in range(2)]
    torch.testing.assert_close(sum(halves) / 2, objective.label_loss(logits[:366], labels[:366]))
    assert not any("loss_weight" in key for key in objective.state_dict())


def test_logits_are_adjusted_in_training_alone_by_the_papers_equation_10() -> None:
    objective = supervised(logit_adjustment=0.7)
    logits, labels = started(objective)
    prior = labels.bincount() / len(labels)
    margins = (prior[None] / prior[labels][:, None]) ** 0.7 * (logits - logits.gather(1, labels[:, None])).exp()
    torch.testing.assert_close(objective.label_loss(logits, labels), margins.sum(dim=1).log().mean())
    (images,), _ = batch()
    torch.testing.assert_close(objective.eval().outputs(images)[""], objective.backbone(images))


def test_two_corrections_of_uneven_classes_contradict() -> None:
    with pytest.raises(ValueError, match=r"class_weights and logit_adjustment both .*; set one of them"):
        supervised(class_weights="balanced", logit_adjustment=1.0)
    for option in ({"class_weights": "balanced"}, {"logit_adjustment": 1.0}):
        with pytest.raises(ValueError, match=f"data.balance and {next(iter(option))} both"):
            started(supervised(**option), balance=0.5)
    with pytest.raises(ValueError, match=r"class_weights are \[1.0, 2.0\], but the data have 10 classes"):
        started(supervised(class_weights=[1.0, 2.0]))


def test_metrics_are_exact_whatever_the_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(101, 7, generator=generator), torch.randint(7, (101,), generator=generator)
    whole, parts = (ClassificationTask().metrics(7, "test/") for _ in range(2))
    whole.update(logits, labels)
    for part in range(0, 101, 32):
        parts.update(logits[part : part + 32], labels[part : part + 32])
    expected = {
        "test/top1": (logits.argmax(1) == labels).float().mean(),
        "test/top5": (logits.topk(5).indices == labels[:, None]).any(1).float().mean(),
        "test/loss": nn.functional.cross_entropy(logits, labels),
        "test/balanced_accuracy": torch.tensor(balanced_accuracy_score(labels, logits.argmax(1))).float(),
        "test/macro_f1": torch.tensor(f1_score(labels, logits.argmax(1), average="macro")).float(),
    }
    for name, value in parts.compute().items():
        torch.testing.assert_close(value, whole.compute()[name])
        if name in expected:
            torch.testing.assert_close(value, expected[name])


def test_raw_and_averaged_weights_are_both_evaluated_and_kept() -> None:
    objective = supervised(ema=Ema(0.9))
    trainer = quick_trainer()
    trainer.fit(objective, datamodule=Digits(batch_size=64))
    assert {"val/top1", "val_ema/top1", "val/loss", "val_ema/loss"} <= set(trainer.callback_metrics)
    assert trainer.callback_metrics["val/loss"] != trainer.callback_metrics["val_ema/loss"]
    names = set(objective.state_dict())
    assert {"backbone.head.weight", "average.module.head.weight"} <= names
    in_optimizer = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
    assert not any(id(p) in in_optimizer for p in objective.average.parameters())  # type: ignore[union-attr]


def test_an_evaluation_computes_a_position_bias_once_and_training_at_each_step() -> None:
    objective = supervised("swin_v2")
    calls = []
    for block in objective.backbone.layers[0].blocks:  # type: ignore[union-attr, index]
        block.attn.bias = lambda bias=block.attn.bias: (calls.append(1), bias())[1]  # type: ignore
    trainer = quick_trainer(limit_train_batches=3, limit_val_batches=4)
    trainer.fit(objective, datamodule=Digits(batch_size=32))
    assert len(calls) == 2 * (3 + 1)  # two blocks; three steps, and one validation of four batches


def test_the_average_moves_once_an_optimizer_step_not_once_a_batch() -> None:
    calls = []
    objective = supervised(ema=Ema(0.9))
    update = objective.average.update  # type: ignore[union-attr]
    objective.average.update = lambda *args: (calls.append(1), update(*args))  # type: ignore
    trainer = quick_trainer(accumulate_grad_batches=4, limit_train_batches=8)
    trainer.fit(objective, datamodule=Digits(batch_size=32))
    assert len(calls) == trainer.global_step == 2


@pytest.mark.parametrize(("reference_batch", "scale"), [(None, 1), (32, 2)])
def test_the_learning_rate_follows_the_schedule_at_every_step(reference_batch: int | None, scale: int) -> None:
    objective = supervised()
    objective.optimizer = AdamW(3e-3, reference_batch=reference_batch)
    objective.schedule = WarmupCosine(warmup_epochs=0.5, min_lr=1e-5, scale_with_batch=True)
    rates = []
    objective.on_before_optimizer_step = lambda optimizer: rates.append(optimizer.param_groups[0]["lr"])  # type: ignore
    trainer = quick_trainer(epochs=2, limit_train_batches=8, accumulate_grad_batches=2)
    trainer.fit(objective, datamodule=Digits(batch_size=32))
    schedule = WarmupCosine(warmup_epochs=0.5, min_lr=scale * 1e-5)
    assert rates == pytest.approx([schedule.lr(scale * 3e-3, step, 8, 2) for step in range(8)])


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_head_scaled_by_a_thousandth_starts_as_in_maes_fine_tuning(backbone: str) -> None:
    # main_finetune.py:255 of facebookresearch/mae draws the weights with a deviation of 2e-5, here 0.02 · 0.001.
    published, scaled = supervised(backbone, ema=Ema()), supervised(backbone, ema=Ema(), head_init_scale=1e-3)
    heads = {id(p) for model in scaled.modules() if isinstance(model, Backbone) for p in model.head_parameters()}
    for ours, theirs in zip(scaled.parameters(), published.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs * (1e-3 if id(ours) in heads else 1))
    assert len(heads) == 4  # weight and bias, of the backbone and of its average


def test_a_head_that_comes_with_the_weights_is_not_scaled(tmp_path: Path) -> None:
    trained = supervised().backbone
    save_weights(trained, tmp_path / "trained.safetensors")
    objective = supervised(head_init_scale=0.0)
    assert not any(p.any() for p in objective.backbone.head_parameters())
    objective.load_backbone(tmp_path / "trained.safetensors")
    for ours, theirs in zip(objective.backbone.head_parameters(), trained.head_parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_classes_that_contradict_the_data_are_refused() -> None:
    objective = Supervised(
        VisionTransformer(img_size=8, patch_size=4, embed_dim=16, depth=1, num_heads=2, in_chans=1, num_classes=7),
        AdamW(1e-3),
        WarmupCosine(),
    )
    with pytest.raises(ValueError, match="backbone has 7 classes and the data 10"):
        quick_trainer().fit(objective, datamodule=Digits(batch_size=64))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_whitening_starts_a_run_and_its_average_but_no_continued_one(backbone: str, tmp_path: Path) -> None:
    data, objective = Digits(batch_size=64), supervised(backbone, ema=Ema(), whiten=True)
    expected = copy.deepcopy(patch_embed(objective.backbone))
    whiten_patches(expected, (images for (images,), _ in data.batches("train", "cpu")))
    assert not torch.equal(patch_embed(objective.backbone).proj.weight, expected.proj.weight)
    trainer = quick_trainer(limit_train_batches=0)
    trainer.fit(objective, datamodule=data)
    for model in (objective.backbone, objective.encoder):
        assert torch.equal(patch_embed(model).proj.weight, expected.proj.weight)

    trainer.save_checkpoint(tmp_path / "state.ckpt")
    state = torch.load(tmp_path / "state.ckpt", weights_only=True)
    state["state_dict"]["backbone.patch_embed.proj.weight"].zero_()
    torch.save(state, tmp_path / "state.ckpt")
    continued = supervised(backbone, ema=Ema(), whiten=True)
    quick_trainer(limit_train_batches=0).fit(continued, datamodule=data, ckpt_path=tmp_path / "state.ckpt")
    assert not patch_embed(continued.backbone).proj.weight.any()


def patch_embed(model: ImageModel) -> PatchEmbed:
    assert isinstance(model, Backbone)
    return model.patch_embed


def test_raw_weights_of_a_run_are_found_in_a_wrapper_too() -> None:
    file = Path("last.ckpt")
    wrapped = Supervised(
        TimmModel("resnet10t", num_classes=10, img_size=32), AdamW(1e-3), WarmupCosine(), init_raw=True
    )
    assert wrapped.prefix_in(file) == "backbone.net."
    assert supervised("vit", init_raw=True).prefix_in(file) == "backbone."
    assert supervised("vit", init_raw=True).prefix_in(file.with_suffix(".safetensors")) is None


def test_whitening_and_loaded_weights_contradict() -> None:
    with pytest.raises(ValueError, match="whiten is true, but init_from weights"):
        Supervised(BACKBONES["vit"](), AdamW(1e-3), WarmupCosine(), whiten=True, init_from="weights.ckpt")


def test_a_classifier_starts_from_listed_rows_of_one_with_more_classes(tmp_path: Path) -> None:
    """As Swin's from ImageNet-22k: head.weight[map22kto1k] (utils.py, load_pretrained)."""
    for family in ("vit", "swin"):
        torch.manual_seed(1)
        large, file, rows = BACKBONES[family](), tmp_path / f"{family}.safetensors", tmp_path / "rows.txt"
        large.reset_classifier(25)
        save_weights(large, file)
        listed = [24, 3, 0, 7, 9, 9, 11, 2, 5, 1]
        rows.write_text("\n".join(map(str, listed)))
        model = supervised(family, init_from=str(file), head_rows=str(rows), ema=Ema())
        model.load_backbone(file)
        parameters = zip(model.backbone.head_parameters(), large.head_parameters(), strict=True)
        assert all(torch.equal(own, theirs[listed]) for own, theirs in parameters)
        averaged = zip(model.encoder.parameters(), model.backbone.parameters(), strict=True)
        assert all(torch.equal(average, raw) for average, raw in averaged)
        state = {f"backbone.{name}": value for name, value in large.state_dict().items()}
        torch.save({"state_dict": state, "vitlab_encoder": "backbone."}, tmp_path / "last.ckpt")  # of a run
        for raw in (False, True):
            model = supervised(family, init_from="last.ckpt", head_rows=str(rows), init_raw=raw)
            model.load_backbone(tmp_path / "last.ckpt")
            parameters = zip(model.backbone.head_parameters(), large.head_parameters(), strict=True)
            assert all(torch.equal(own, theirs[listed]) for own, theirs in parameters)

    with pytest.raises(ValueError, match="init_from, which is null"):
        supervised("vit", head_rows="rows.txt")

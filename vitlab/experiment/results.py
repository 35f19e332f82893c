"""The results of a run: its metrics, why they may be no result, and a test by frozen features (`run.probe`).

That test fits a classifier on features, the network stays as it is: of an objective without labels after its training
and, with `trainer.max_epochs: 0`, of weights as they are given. It is in evaluation's view, without augmentation. The
linear probe chooses its weight decay by the validation images, or where these are the test images by a tenth of the
training images; k-NN (DINO's, k = 20, among training images; `vitlab probe` adds validation images) chooses nothing.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Timer
from torch import Tensor
from torchmetrics import MetricCollection

from vitlab import log
from vitlab.data import ImageDataModule
from vitlab.evaluation.classifiers import LinearProbe, fit_linear_probe, weighted_votes
from vitlab.evaluation.features import Features, extract
from vitlab.evaluation.per_class import stratum_metrics, write_per_class
from vitlab.evaluation.predictions import Predictions, top_k_accuracy, write_predictions
from vitlab.evaluation.probe import hold_out
from vitlab.models import ImageModel
from vitlab.models.backbone import in_eval_mode
from vitlab.objectives import Distillation, Objective
from vitlab.objectives.labeled import LabeledObjective
from vitlab.objectives.output_cache import OutputCache, fingerprint
from vitlab.runs.directory import PREDICTIONS
from vitlab.runs.knn_monitor import KnnMonitor
from vitlab.runs.measures import Measure
from vitlab.runs.trainer import Probe

FEATURES = "features"  # the folder in `run.root` that keeps those of frozen encoders
Embed = Callable[[Tensor], Tensor]
Metrics = dict[str, float]


def unfinished(trainer: Trainer) -> list[str]:
    """Return why a training ended before its time: no step, or max_time; nothing where a callback stopped it."""
    if trainer.global_step == 0:
        return ["no training step was taken, the weights are as they were at the start"]
    done = trainer.current_epoch >= (trainer.max_epochs or 0) >= 0 or trainer.global_step >= trainer.max_steps >= 0
    timers = [each for each in trainer.callbacks if isinstance(each, Timer)]  # type: ignore[attr-defined]
    left = [seconds for each in timers if (seconds := each.time_remaining()) is not None]  # None: without a limit
    if min(left, default=1.0) <= 0 and not done:
        return [f"max_time ended the training in epoch {trainer.current_epoch} of {trainer.max_epochs}"]
    return []


def batches_left_out(trainer: Trainer, split: Literal["val", "test"]) -> list[str]:
    """Return, in words, that a limit of the Trainer left batches out of an evaluation; nothing if it used all."""
    loader, batches = getattr(trainer, f"{split}_dataloaders"), getattr(trainer, f"num_{split}_batches")
    if loader is None or sum(batches) >= len(loader):
        return []
    return [f"{'validated' if split == 'val' else 'tested'} on {sum(batches):g} of {len(loader)} batches of images"]


def show(metrics: Mapping[str, float], partial: Sequence[str], data: ImageDataModule) -> None:
    """Print metrics, after the reasons why they are not a result."""
    if partial:
        log.warning("Not a result: %s.", "; ".join(partial))
    shown = {name: value for name, value in metrics.items() if data.num_classes > 5 or not name.endswith("/top5")}
    log.info("%s", "  ".join(f"{name} {value:.4f}" for name, value in sorted(shown.items())))


def final_metrics(objective: Objective, callbacks: Iterable[Callback]) -> dict[str, bool | None] | None:
    """Return by name, like `test/top1`, whether higher is better; None where that is not known.

    None for the whole: classes of somebody else may log anything, or the metrics are those of the features.
    """
    callbacks = [*callbacks]
    ours = all(type(each).__module__.startswith(("vitlab.", "lightning.")) for each in (objective, *callbacks))
    if not ours or objective.task is None:
        return None
    known: dict[str, bool | None] = dict.fromkeys(objective.epoch_metrics)
    if isinstance(objective, LabeledObjective):
        for split, metrics in objective.metrics.items():
            assert isinstance(metrics, MetricCollection)
            if not split.endswith("_ema") or objective.average is not None:
                inner = {name: getattr(metric, "wrapped_metric", metric) for name, metric in metrics.items()}
                known |= {str(name): metric.higher_is_better for name, metric in inner.items()}
    if isinstance(objective, Distillation):
        known["test/agreement"] = None
    for each in callbacks:
        if isinstance(each, KnnMonitor | Measure):
            known |= dict.fromkeys(each.LOGGED)
    return known


# ---- a test by frozen features


def classify_by_features(
    encoder: ImageModel,
    untrained: ImageModel | None,
    data: ImageDataModule,
    how: Probe,
    device: torch.device,
    directory: Path,
    cache: Path | None = None,
) -> Metrics:
    """Write predictions.parquet as a classifier's test does, and return its metrics; warn where nothing was learned.

    A linear classifier becomes the encoder's own, where it has a head of that form.

    Args:
        untrained: the encoder as the training began, of which `test/top1_untrained` is the accuracy; None: no training.
        cache: a folder for the features of encoders that stay as they are; None: the features are not kept.
    """
    labels = data.labels("test").astype(np.int64)
    logits, held_out, fitted = _logits(encoder.to(device), data, how, device, cache)
    predictions = Predictions(data.image_names("test"), labels, logits, strata=data.strata("test"))
    write_predictions(directory / PREDICTIONS, predictions)
    write_per_class(directory, predictions, data.class_names)
    top1, top5 = (top_k_accuracy(predictions.logits, labels, k) for k in (1, 5))
    metrics = {"val/top1": held_out} if held_out is not None else {}
    metrics |= {"test/top1": top1, "test/top5": top5, **stratum_metrics(predictions)}
    if untrained is not None:
        before = top_k_accuracy(_logits(untrained.to(device), data, how, device)[0], labels, 1)
        metrics["test/top1_untrained"] = before
        if top1 <= before:
            log.warning("The training improved no features: %.1f %%, untrained %.1f %%.", 100 * top1, 100 * before)
    if isinstance(fitted, LinearProbe) and not give_classifier(encoder, fitted):
        log.info("%s has no single linear classifier that could take the probe's weights.", type(encoder).__name__)
    return metrics


def _logits(
    encoder: ImageModel,
    data: ImageDataModule,
    how: Probe,
    device: torch.device,
    cache: Path | None = None,
) -> tuple[np.ndarray, float | None, object]:
    """Return the logits of the test images, the accuracy on held-out ones if there are any, and what was fitted."""
    embed: Embed = encoder.embed
    kept = None
    if cache is not None:
        with torch.no_grad(), in_eval_mode(encoder):
            width = embed(data.views("train", [0], device)).shape[1]
        kept = OutputCache(cache / fingerprint(encoder, False), width)  # False: not of tokens, as in older folders
        embed = partial(kept.outputs, network=encoder.embed)

    def features(split: Literal["train", "val", "test"]) -> Features:
        return extract(encoder, data.batches(split, device), embed=embed)

    train, test = features("train"), features("test")
    splits = {"train": train}
    if data.tests_on_validation:
        splits = splits if how == "knn" else hold_out(train, data.probe_images)  # k-NN chooses nothing
    else:
        splits["val"] = features("val")
    if kept is not None:
        kept.flush()

    def votes(queries: Tensor) -> Tensor:
        return (weighted_votes(queries, *train, data.num_classes) + torch.finfo(torch.float32).tiny).log()

    fitted: object = None
    classify: Embed = votes
    if how != "knn":
        fitted = linear = fit_linear_probe(splits["train"], splits["val"], data.num_classes)
        classify = linear.logits
    held_out = None
    if "val" in splits:
        features_of_val, truth = splits["val"]
        held_out = float((classify(features_of_val).argmax(dim=1) == truth).float().mean())
    return classify(test[0]).numpy(), held_out, fitted


def give_classifier(model: ImageModel, probe: LinearProbe) -> bool:
    """Make a probe on the embedding the model's own classifier; return False for a model whose head has another form.

    W x' + b with x' = (x − mean) / std is (W / std) x + (b − (W / std) mean).
    """
    weight, bias = ([p for p in model.head_parameters() if (p.ndim > 1) is matrix] for matrix in (True, False))
    if len(weight) != 1 or len(bias) != 1 or weight[0].numel() != probe.weight.numel():
        return False
    scaled = probe.weight.double() / probe.std.double()
    with torch.no_grad():
        weight[0].copy_(scaled.view_as(weight[0]))
        bias[0].copy_(probe.bias.double() - scaled @ probe.mean.double())
    return True

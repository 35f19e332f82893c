"""A test by frozen features (`run.probe`): a classifier is fitted on them, the network stays as it is.

It tests an objective without labels after its training, and, with `trainer.max_epochs: 0`, weights as they are given: a
pre-trained model that nobody fine-tunes. In evaluation's view, without augmentation. The linear probe chooses its
weight decay by the validation images, or where these are the test images by a tenth of the training images; k-NN
(DINO's, k = 20, among training images; `vitlab probe` adds the validation images) chooses nothing.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vitlab import log
from vitlab.data import ImageDataModule
from vitlab.evaluation.classifiers import LinearProbe, fit_linear_probe, weighted_votes
from vitlab.evaluation.features import Features, extract
from vitlab.evaluation.per_class import stratum_metrics, write_per_class
from vitlab.evaluation.predictions import Predictions, top_k_accuracy, write_predictions
from vitlab.evaluation.probe import hold_out
from vitlab.experiment.results import Metrics
from vitlab.models import ImageModel
from vitlab.models.backbone import in_eval_mode
from vitlab.objectives.output_cache import OutputCache, fingerprint
from vitlab.runs.directory import PREDICTIONS
from vitlab.runs.trainer import Probe

FEATURES = "features"  # the folder in `run.root` that keeps those of frozen encoders
Embed = Callable[[Tensor], Tensor]


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
    logits, held_out, fitted = _logits(encoder.to(device), data, how, device, cache, validated=True)
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
    validated: bool = False,
) -> tuple[np.ndarray, float | None, object]:
    """Return the logits of the test images, the accuracy on held-out ones if `validated`, and what was fitted."""
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
    elif validated or how != "knn":
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
    if validated and "val" in splits:
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

"""The test of an objective without labels: its frozen features classify the test images."""

import logging
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from vitlab.data import ImageDataModule
from vitlab.evaluation.features import extract
from vitlab.evaluation.knn import weighted_votes
from vitlab.evaluation.linear import fit_linear_probe
from vitlab.evaluation.per_class import stratum_metrics, write_per_class
from vitlab.evaluation.predictions import Predictions, top_k_accuracy, write_predictions
from vitlab.evaluation.probe import hold_out
from vitlab.experiment.results import Metrics
from vitlab.models import ImageModel
from vitlab.runs.directory import PREDICTIONS

log = logging.getLogger("vitlab")


def classify_by_features(
    encoder: ImageModel,
    untrained: ImageModel,
    data: ImageDataModule,
    how: Literal["knn", "linear"],
    device: torch.device,
    directory: Path,
) -> Metrics:
    """Write predictions.parquet as a classifier's test does, and return its metrics; warn where nothing was learned.

    Training images are as in evaluation, without augmentation. The linear classifier chooses its weight decay on the
    validation images, or where these are the test images on a tenth of the training images; k-NN (DINO's, k = 20)
    chooses nothing.

    Args:
        untrained: the encoder as the training began; `test/top1_untrained` is its accuracy.
    """
    labels = data.labels("test").astype(np.int64)
    before = top_k_accuracy(_logits(untrained.to(device), data, how, device), labels, 1)
    names, strata = data.image_names("test"), data.strata("test")
    predictions = Predictions(names, labels, _logits(encoder.to(device), data, how, device), strata=strata)
    write_predictions(directory / PREDICTIONS, predictions)
    write_per_class(directory, predictions, data.class_names)
    top1, top5 = (top_k_accuracy(predictions.logits, labels, k) for k in (1, 5))
    if top1 <= before:
        log.warning("The training improved no features: %.1f %%, untrained %.1f %%.", 100 * top1, 100 * before)
    return {"test/top1": top1, "test/top1_untrained": before, "test/top5": top5, **stratum_metrics(predictions)}


def _logits(
    encoder: ImageModel, data: ImageDataModule, how: Literal["knn", "linear"], device: torch.device
) -> np.ndarray:
    train, test = (extract(encoder, data.batches(split, device)) for split in ("train", "test"))
    if how == "knn":
        return (weighted_votes(test[0], *train, data.num_classes) + torch.finfo(torch.float32).tiny).log().numpy()
    if data.tests_on_validation:
        known = hold_out(train)
    else:
        known = {"train": train, "val": extract(encoder, data.batches("val", device))}
    return fit_linear_probe(known["train"], known["val"], data.num_classes).logits(test[0]).numpy()

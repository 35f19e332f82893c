"""The test of an objective without labels: its frozen features classify the test images."""

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

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


def classify_by_features(
    encoder: ImageModel, data: ImageDataModule, how: Literal["knn", "linear"], device: torch.device, directory: Path
) -> Metrics:
    """Write predictions.parquet as a classifier's test does, and return its metrics.

    Training images are as in evaluation, without augmentation. The linear classifier chooses its weight decay on the
    validation images, or where these are the test images on a tenth of the training images; k-NN (DINO's, k = 20)
    chooses nothing.
    """
    encoder = encoder.to(device)
    train, test = (extract(encoder, data.batches(split, device)) for split in ("train", "test"))
    if how == "knn":
        logits = (weighted_votes(test[0], *train, data.num_classes) + torch.finfo(torch.float32).tiny).log()
    else:
        if data.tests_on_validation:
            known = hold_out(train)
        else:
            known = {"train": train, "val": extract(encoder, data.batches("val", device))}
        logits = fit_linear_probe(known["train"], known["val"], data.num_classes).logits(test[0])
    labels: Tensor = test[1]
    names, strata = data.image_names("test"), data.strata("test")
    predictions = Predictions(names, labels.numpy().astype(np.int64), logits.numpy(), strata=strata)
    write_predictions(directory / PREDICTIONS, predictions)
    write_per_class(directory, predictions, data.class_names)
    top1, top5 = (top_k_accuracy(predictions.logits, predictions.labels, k) for k in (1, 5))
    return {"test/top1": top1, "test/top5": top5, **stratum_metrics(predictions)}

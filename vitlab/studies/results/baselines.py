"""Two baselines that every model must beat: predicting the most frequent class, and k-NN on raw pixels.

Reports mark the runs that do not exceed them, which would otherwise go unnoticed. Features that a probe tests are
held against pixels by the k-NN that tests features; all others against k-NN by Euclidean distance, among a sample.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vitlab.atomic_files import read_cache, write_text
from vitlab.config import Config
from vitlab.evaluation import features
from vitlab.evaluation.knn import MOST_NEIGHBORS, choose_k, predict, predict_weighted
from vitlab.studies.file.images import Images, Split

NEIGHBORS = (1, 3, 5, 10, 20)
BANK_IMAGES = 10_000  # at most; of the training split
CHOICE_IMAGES = 2_000  # at most; of the validation split
TEST_IMAGES = 10_000  # at most
SIDE = 32  # px to which larger images are resized
SEED = 0  # of the subsamples: the same for every study


@dataclass(frozen=True)
class Baselines:
    """Accuracies on the test split, and how they were measured."""

    majority: float
    majority_class: str
    knn: float
    k: int
    bank_images: int
    test_images: int
    subsampled: bool
    side: int
    folds: int = 0  # over which the accuracies are averaged
    as_features: bool = False  # by the protocol of `run.probe: knn`

    @property
    def lines(self) -> dict[str, float]:
        """The accuracy of each baseline."""
        return {"majority class": self.majority, "k-NN on raw pixels": self.knn}

    def describe_knn(self, tested_on_validation: bool = False) -> str:
        """Describe how k-NN was run."""
        if self.as_features:
            part = "of the " if self.subsampled else ""
            return f"as k-NN tests features, k = {self.k}, among {self.bank_images:,} {part}training images"
        part = "a stratified sample of " if self.subsampled else ""
        chosen_on = "these same images, which biases it upwards" if tested_on_validation else "the validation split"
        k = f"k of each of {self.folds} folds" if self.folds else f"k = {self.k}"
        return f"{k}, chosen on {chosen_on}, among {part}{self.bank_images:,} training images"


def baselines(images: Images, data: Config, cache: Path, as_features: bool = False) -> Baselines:
    """Return the baselines of a data set, from the cache if that has the same `data` section and the same images."""
    splits = images.facts()["splits"]  # a folder may have other images than before
    key = {"data": data, "splits": splits, "as_features": as_features}
    known = read_cache(cache, {})
    if {name: known.get(name) for name in key} == key:
        return Baselines(**known["baselines"])
    measured = _averaged([measure_baselines(part, as_features) for part in getattr(images, "parts", [images])])
    write_text(cache, json.dumps(key | {"baselines": asdict(measured)}, indent=2) + "\n")
    return measured


def _averaged(parts: Sequence[Baselines]) -> Baselines:
    """Return the baselines over the test images of all folds."""
    if len(parts) == 1:
        return parts[0]
    weights = [part.test_images for part in parts]
    majority, knn = np.average([(part.majority, part.knn) for part in parts], axis=0, weights=weights)
    return replace(parts[0], majority=float(majority), knn=float(knn), test_images=sum(weights), folds=len(parts))


def stratified_sample(labels: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Return sorted indices of at most `size` images, stratified by class."""
    if len(labels) <= size:
        return np.arange(len(labels))
    order = rng.permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]  # classes one after the other, each shuffled
    # Equidistant picks meet each class in proportion to its length, to within one image.
    return np.sort(by_class[(2 * np.arange(size) + 1) * len(labels) // (2 * size)])


def pixels(images: Images, split: Split, indices: np.ndarray, side: int) -> Tensor:
    """Return images as rows of pixels in [0, 1], each resized to side × side. (N, side · side · C)"""
    rows = []
    for index in indices.tolist():  # one at a time: photos are large before they are resized
        (image,) = images.raw_images(split, [index])
        pixel = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float() / 255  # (C, H, W)
        if pixel.shape[1:] != (side, side):
            pixel = F.interpolate(pixel[None], (side, side), mode="bilinear", antialias=True)[0]
        rows.append(pixel.flatten())
    return torch.stack(rows)


def measure_baselines(images: Any, as_features: bool = False) -> Baselines:
    """Return the baselines of images; those held against features are of images that have views, as a data module's."""
    train, test = images.labels("train"), images.labels("test")
    if as_features:
        bank, labels = features.extract_pixels(images.batches("train", "cpu", every=-(-len(train) // MOST_NEIGHBORS)))
        queries, truth = features.extract_pixels(images.batches("test", "cpu"))
        k, side = 20, SIDE
        found = predict_weighted(queries, bank, labels, images.num_classes)
    else:
        rng = np.random.default_rng(SEED)
        (first,) = images.raw_images("train", [0])
        side = min(SIDE, max(first.shape[:2]))

        def sample(split: Split, size: int) -> tuple[Tensor, Tensor]:
            part = stratified_sample(images.labels(split), size, rng)
            return pixels(images, split, part, side), torch.from_numpy(images.labels(split)[part])

        bank, labels = sample("train", BANK_IMAGES)
        k = choose_k(*sample("val", CHOICE_IMAGES), bank, labels, NEIGHBORS, images.num_classes)
        queries, truth = sample("test", TEST_IMAGES)
        found = predict(queries, bank, labels, k, images.num_classes)
    majority = int(np.bincount(train, minlength=images.num_classes).argmax())
    return Baselines(
        majority=float((test == majority).mean()),
        majority_class=images.class_names[majority],
        knn=float((found == truth).double().mean()),
        k=k,
        bank_images=len(bank),
        test_images=len(queries),
        subsampled=len(bank) < len(train),
        side=side,
        as_features=as_features,
    )

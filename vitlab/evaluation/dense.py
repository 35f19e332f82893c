"""Linear and k-NN segmentation probes on frozen features: the maps of a model's stages.

    linear   multinomial logistic regression on the features of places, see `vitlab.evaluation.classifiers`
    k-NN     the weighted vote of the most similar places of the training images, see `knn.weighted_votes`

Scores of places are resized to pixels (bilinear), and the largest is the answer. Its quality is the intersection over
union, of each class summed over the test images, and the mean over classes (mIoU). The classes are those of the data,
inside the objects' masks, and the ground around them.

Letters: N images, K classes with the ground first, H x W pixels, h x w places of C channels, M places of the training.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from vitlab.evaluation.classifiers import fit_linear_probe, weighted_votes
from vitlab.evaluation.predictions import jackknifed
from vitlab.models import ImageModel

MOST_STAGES = 4  # of the network, evenly spaced, the last among them
MOST_PLACES = 20_000  # of the training images, evenly spaced; as many at most are held out


class StageResult(NamedTuple):
    """The mIoU of one stage's maps on the test images, each as the values by image of `iou_by_image`."""

    linear: np.ndarray
    knn: np.ndarray
    held_out: np.ndarray  # of the linear probe, on the validation images


Labeled = tuple[Iterable[tuple[list[Tensor], Tensor]], Bool[Tensor, "N H W"]]
"""Batches of (views, labels) in order, and the objects' masks."""
Places = tuple[Float[Tensor, "M C"], Int64[Tensor, "M"]]
"""Features of places, and their classes."""
Answer = Callable[[Float[Tensor, "M C"]], Float[Tensor, "M K"]]
"""Scores of the classes from the features of places."""


@torch.no_grad()
def segment(model: ImageModel, split: Callable[[Any], Labeled], num_classes: int) -> list[StageResult]:
    """Fit on "train", choose the strength on "val", measure on "test", for each stage; classes without the ground."""
    stages = model.feature_info
    taken = sorted(set(np.linspace(len(stages) - 1, 0, MOST_STAGES).round().astype(int).tolist()))
    train, held_out = (places_of(model, *split(name), taken) for name in ("train", "val"))
    answers: list[dict[str, Answer]] = []
    for bank, chosen_by in zip(train, held_out, strict=True):
        with torch.enable_grad():
            linear = fit_linear_probe(bank, chosen_by, num_classes + 1).logits
        knn = partial(weighted_votes, bank=bank[0], labels=bank[1], num_classes=num_classes + 1)
        answers.append({"linear": linear, "knn": knn})
    scores = measure(model, *split("test"), taken, answers, num_classes + 1)
    linears = [{"held_out": own["linear"]} for own in answers]
    validation = measure(model, *split("val"), taken, linears, num_classes + 1)
    return [StageResult(**found, **held_out) for found, held_out in zip(scores, validation, strict=True)]


def places_of(
    model: ImageModel,
    batches: Iterable[tuple[list[Tensor], Tensor]],
    masks: Bool[Tensor, "N H W"],
    stages: list[int],
) -> list[Places]:
    """Return features and classes of places, by stage; the class of a place is that of most of its pixels."""
    parts: list[tuple[list[Tensor], list[Tensor]]] = [([], []) for _ in stages]
    done = 0
    for truth, maps in _maps(model, batches, masks, stages):
        done += len(truth)
        for (features, classes), x, stage in zip(parts, maps, stages, strict=True):
            height, width = x.shape[1:3]
            most = max(1, MOST_PLACES // len(masks))  # of an image
            every = -(-height * width // most)
            down, right = (a - b for a, b in zip(_covered(model, stage, x, truth), truth.shape[1:], strict=True))
            pixels = F.pad(F.one_hot(truth).movedim(-1, 1).float(), (0, right, 0, down))
            shares = F.adaptive_avg_pool2d(pixels, (height, width))
            offsets = torch.arange(len(truth)) + done  # other places in each image
            chosen = torch.stack([(torch.arange(height * width) + o) % every == 0 for o in offsets]).flatten()
            features.append(x.flatten(0, 2)[chosen])
            classes.append(shares.argmax(dim=1).flatten()[chosen])
    return [(torch.cat(features), torch.cat(classes)) for features, classes in parts]


def measure(
    model: ImageModel,
    batches: Iterable[tuple[list[Tensor], Tensor]],
    masks: Bool[Tensor, "N H W"],
    stages: list[int],
    answers: list[dict[str, Answer]],
    num_classes: int,
) -> list[dict[str, np.ndarray]]:
    """Return the mIoU of each way to answer, by image as `iou_by_image` does, by stage."""
    counts: list[dict[str, list[Tensor]]] = [{name: [] for name in own} for own in answers]
    for truth, maps in _maps(model, batches, masks, stages):
        height, width = truth.shape[1:]
        for x, own, found, stage in zip(maps, answers, counts, stages, strict=True):
            for name, answer in own.items():
                scores = answer(x.flatten(0, 2)).view(*x.shape[:3], -1).movedim(-1, 1)
                pixels = F.interpolate(scores, _covered(model, stage, x, truth), mode="bilinear")
                predicted = pixels[..., :height, :width].argmax(dim=1)
                found[name].append(overlaps(predicted, truth, num_classes))
    return [{name: iou_by_image(torch.cat(parts)) for name, parts in found.items()} for found in counts]


def semantic(masks: Bool[Tensor, "B H W"], labels: Int64[Tensor, "B"]) -> Int64[Tensor, "B H W"]:
    """Return the class of each pixel: 0 is the ground, k + 1 the object of an image of class k."""
    return masks * (labels + 1)[:, None, None]


def overlaps(
    predicted: Int64[Tensor, "B H W"], truth: Int64[Tensor, "B H W"], num_classes: int
) -> Int64[Tensor, "B 2 K"]:
    """Return the number of pixels in both maps and in either, by image and class."""
    offsets = num_classes * torch.arange(len(truth))[:, None, None]

    def count(classes: Tensor) -> Tensor:
        return (classes + offsets).flatten().bincount(minlength=num_classes * len(truth)).view(-1, num_classes)

    right = predicted == truth
    both = (truth + offsets)[right].bincount(minlength=num_classes * len(truth)).view(-1, num_classes)
    return torch.stack([both, count(predicted) + count(truth) - both], dim=1)


def mean_iou(counts: Int64[Tensor, "N 2 K"]) -> float:
    """Return the mIoU over the classes that occur."""
    both, either = counts.sum(dim=0).double().numpy()
    present = either > 0
    return float(np.mean(both[present] / either[present]))


def iou_by_image(counts: Int64[Tensor, "N 2 K"]) -> np.ndarray:
    """Return values of the images, (N,), whose mean is the mIoU."""
    if len(counts) == 1:  # without it there is none
        return np.array([mean_iou(counts)])
    both, either = (counts.sum(dim=0) - counts).double().numpy().swapaxes(0, 1)  # without each image, (N, K)
    without = np.divide(both, either, out=np.full_like(both, np.nan), where=either > 0)
    return jackknifed(mean_iou(counts), np.nanmean(without, axis=1))


def _covered(
    model: ImageModel, stage: int, places: Float[Tensor, "B h w C"], pixels: Int64[Tensor, "B H W"]
) -> tuple[int, int]:
    """Return height and width of what a map is of. Swin pads a map of odd sides at the right and the bottom."""
    stride = model.feature_info[stage]["reduction"]
    height, width = (max(stride * n, size) for n, size in zip(places.shape[1:3], pixels.shape[1:], strict=True))
    return height, width


def _maps(
    model: ImageModel, batches: Iterable[tuple[list[Tensor], Tensor]], masks: Bool[Tensor, "N H W"], stages: list[int]
) -> Iterator[tuple[Int64[Tensor, "B H W"], list[Float[Tensor, "B h w C"]]]]:
    """Yield the classes of the pixels of each batch, and the maps of the stages."""
    done = 0
    for (images,), labels in batches:
        maps: list[Tensor] = model.forward_intermediates(images, stages, intermediates_only=True)
        truth = semantic(masks[done : done + len(images)], labels.cpu())
        done += len(images)
        yield truth, [x.float().permute(0, 2, 3, 1).cpu() for x in maps]

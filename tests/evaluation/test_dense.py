"""Segmentation by the maps of a model's stages. Expected overlaps are scikit-learn's."""

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import jaccard_score
from torch import Tensor

from vitlab.evaluation.dense import iou_by_image, mean_iou, measure, overlaps, places_of, segment, semantic
from vitlab.models import SwinTransformer, TimmModel, VisionTransformer


def test_overlaps_are_scikit_learns() -> None:
    torch.manual_seed(0)
    predicted, truth = torch.randint(0, 4, (5, 6, 7)), torch.randint(0, 3, (5, 6, 7))  # class 3 is only predicted
    result = mean_iou(overlaps(predicted, truth, 5))
    expected = jaccard_score(truth.flatten(), predicted.flatten(), average="macro")  # of the classes that occur
    assert result == pytest.approx(expected)


def _pictures(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return images (N, 3, 16, 16) of a red or a green square on gray, their classes and masks."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    masks = torch.zeros(count, 16, 16, dtype=torch.bool)
    for i, (top, left) in enumerate(torch.randint(0, 3, (count, 2), generator=random).tolist()):
        masks[i, 4 * top : 4 * top + 8, 4 * left : 4 * left + 8] = True
    images = 0.1 * torch.randn(count, 3, 16, 16, generator=random)
    for i in range(count):
        images[i, int(labels[i]), masks[i]] += 1.0
    return images, labels, masks


class Data:
    def __call__(self, split: str) -> tuple[Iterator[Any], Tensor]:
        images, labels, masks = _pictures(40, seed=len(split))
        batches = (([x], y) for x, y in zip(images.split(16), labels.split(16), strict=True))
        return batches, masks


class Colors(torch.nn.Module):
    """Its only stage is the image itself, reduced to places of 4 px."""

    def __init__(self, useful: bool) -> None:
        super().__init__()
        self.feature_info = [{"module": "colors", "reduction": 4, "num_chs": 3}]
        self.useful = useful

    def forward_intermediates(self, images: Tensor, indices: list[int], intermediates_only: bool) -> list[Tensor]:
        assert intermediates_only
        maps = F.avg_pool2d(images, 4)
        return [maps if self.useful else torch.randn(maps.shape, generator=torch.Generator().manual_seed(0))]


def test_colors_tell_the_squares_and_noise_tells_nothing() -> None:
    (useful,) = segment(Colors(True), Data(), num_classes=2)  # type: ignore[arg-type]
    (useless,) = segment(Colors(False), Data(), num_classes=2)  # type: ignore[arg-type]
    assert useful.linear.mean() > 0.7  # bilinear scores blur the borders of the squares
    assert useful.knn.mean() > 0.75
    assert useless.linear.mean() < 0.4
    assert useless.knn.mean() < 0.4


class Padded(torch.nn.Module):
    """Its only stage has places of 8 px; the last ones reach beyond an image of 12 px, as in a Swin of odd sides."""

    feature_info: ClassVar = [{"module": "stage", "reduction": 8, "num_chs": 3}]

    def forward_intermediates(self, images: Tensor, indices: list[int], intermediates_only: bool) -> list[Tensor]:
        return [F.avg_pool2d(F.pad(images, (0, 4, 0, 4)), 8)]


def test_a_place_beyond_the_border_moves_no_other() -> None:
    masks = torch.zeros(1, 12, 12, dtype=torch.bool)
    masks[:, 3:8] = True  # 5 of the 8 rows of the upper places, 3 of 6 were they 6 px high
    batches = [([torch.zeros(1, 3, 12, 12)], torch.zeros(1, dtype=torch.long))]
    ((_, classes),) = places_of(Padded(), batches, masks, [0])  # type: ignore[arg-type]
    assert classes.tolist() == [1, 1, 0, 0]

    masks[:, :8] = True
    upper = {"upper": lambda places: torch.tensor([[-1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, -1.0]])}
    (found,) = measure(Padded(), batches, masks, [0], [upper], num_classes=2)  # type: ignore[arg-type,list-item]
    assert found["upper"].tolist() == [1.0]  # the border between the places is at 8 px


@pytest.mark.parametrize(
    ("model", "stages"),
    [
        (lambda: VisionTransformer(16, 4, embed_dim=16, depth=6, num_heads=2, num_classes=2), 4),
        (lambda: SwinTransformer(16, 2, embed_dim=8, depths=(1, 1), num_heads=(1, 2), window_size=2, num_classes=2), 2),
        (lambda: TimmModel("test_resnet", num_classes=2), 4),
    ],
    ids=["vit", "swin", "timm"],
)
def test_every_architecture_is_measured_by_stage(model: Any, stages: int) -> None:
    torch.manual_seed(0)
    results = segment(model().eval(), Data(), num_classes=2)
    assert len(results) == stages
    assert all(0 < result.linear.mean() <= 1 and 0 < result.knn.mean() <= 1 for result in results)


def test_values_by_image_have_the_miou_as_their_mean_and_the_jackknifes_spread() -> None:
    rng = np.random.default_rng(0)
    predicted, truth = (torch.from_numpy(rng.integers(0, 3, (20, 4, 4))) for _ in range(2))
    truth[:, 0] = predicted[:, 0]
    counts = overlaps(predicted, truth, 4)  # the fourth class never occurs
    values = iou_by_image(counts)
    assert values.mean() == pytest.approx(mean_iou(counts), abs=1e-12)
    without = np.array([mean_iou(torch.cat([counts[:i], counts[i + 1 :]])) for i in range(20)])
    variance = 19 / 20 * ((without - without.mean()) ** 2).sum()  # Tukey's, of the mIoU
    assert values.var(ddof=1) / 20 == pytest.approx(variance)


def test_semantic_maps_have_the_class_inside_the_mask() -> None:
    masks = torch.tensor([[[True, False]], [[True, True]]])
    assert semantic(masks, torch.tensor([0, 4])).tolist() == [[[1, 0]], [[5, 5]]]

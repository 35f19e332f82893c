"""Shapes in signatures hold: a wrong one fails at the call. The calls below need the hook of `make unit`."""

import random
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from jaxtyping import Float, TypeCheckError, jaxtyped
from torch import Tensor

from tests.shapes import check
from vitlab.data import BatchAugment, MultiCrop
from vitlab.data.augment import normalize
from vitlab.data.counter_rng import Draws
from vitlab.data.dataset import Batch
from vitlab.data.digits import Digits
from vitlab.data.mixup import mix_labels
from vitlab.data.photos import central_crop
from vitlab.data.sampler import by_open_blocks
from vitlab.models import Features, VisionTransformer
from vitlab.objectives import DINO, MAE, MultiLabel, Regression, SimMIM, Supervised
from vitlab.objectives.masking import gather_tokens
from vitlab.optim import AdamW, WarmupCosine

HOOKED = hasattr(VisionTransformer.forward, "__wrapped__")
hooked = pytest.mark.skipif(not HOOKED, reason="make unit checks shapes, by --jaxtyping-packages")


class Pair(NamedTuple):
    first: Float[Tensor, "B C"]
    second: Float[Tensor, "B C"]


def summed(pair: Pair, weight: Float[Tensor, "C"], name: str) -> Float[Tensor, "B"]:
    return (pair.first + pair.second) @ weight


def test_the_fields_of_a_named_tuple_are_checked_with_the_signature_they_stand_in() -> None:
    checked = jaxtyped(summed, typechecker=check)
    x = torch.zeros(2, 3)
    assert checked(Pair(x, x), torch.zeros(3), "any").shape == (2,)
    with pytest.raises(TypeCheckError):
        checked(Pair(x, torch.zeros(4, 3)), torch.zeros(3), "two batches")
    with pytest.raises(TypeCheckError):
        checked(Pair(x, x), torch.zeros(4), "two widths")


def stacked(parts: list[Float[Tensor, "B C"]]) -> Float[Tensor, "N B C"]:
    return torch.stack(parts)


def test_all_elements_of_a_list_are_checked_and_none_is_drawn_from_the_generator_of_a_training() -> None:
    checked = jaxtyped(stacked, typechecker=check)
    x, before = torch.zeros(2, 3), random.getstate()
    assert checked([x, x, x]).shape == (3, 2, 3)
    assert random.getstate() == before
    for place in range(3):
        parts = [x, x, x]
        parts[place] = x.long()
        with pytest.raises(TypeCheckError):
            checked(parts)


def test_what_has_no_shape_is_left_to_others() -> None:
    x = torch.zeros(2, 3)
    assert jaxtyped(summed, typechecker=check)(Pair(x, x), torch.zeros(3), None).shape == (2,)  # type: ignore[arg-type]


def vit(**arguments: object) -> VisionTransformer:
    return VisionTransformer(8, 4, num_classes=3, embed_dim=8, depth=1, num_heads=1, **arguments)  # type: ignore[arg-type]


def loss_of(objective: type, images: Tensor, labels: Tensor, **arguments: object) -> Tensor:
    return objective(vit(), AdamW(1e-3), WarmupCosine(), **arguments).loss([images], labels)


images, labels = torch.zeros(2, 3, 8, 8), torch.zeros(2, dtype=torch.long)
photo = np.zeros((8, 8, 3), np.uint8)

WRONG: dict[str, Callable[[], object]] = {
    "ViT, three dimensions": lambda: vit()(images[0]),
    "ViT, integers": lambda: vit()(images.long()),
    "ViT, two batches in features": lambda: vit().pool(Features(images[:, :1, 0], images[:1, :, 0])),
    "supervised, another batch of labels": lambda: loss_of(Supervised, images, labels[:1]),
    "supervised, classes as floats": lambda: loss_of(Supervised, images, labels.float()),
    "regression, no column": lambda: loss_of(Regression, images, labels.float()),
    "multi-label, no column": lambda: loss_of(MultiLabel, images, labels.float()),
    "MAE, one image": lambda: loss_of(MAE, images[0], labels, decoder_embed_dim=8, decoder_num_heads=1),
    "SimMIM, one image": lambda: loss_of(SimMIM, images[0], labels, mask_patch_size=4),
    "DINO, views of two batches": lambda: DINO(
        vit(), AdamW(1e-3), WarmupCosine(), out_dim=8, hidden_dim=8, bottleneck_dim=8
    ).loss([images, images[:1]], labels[:1]),
    "masking, another batch of indices": lambda: gather_tokens(images[:, 0], labels[:1, None]),
    "a batch whose indices are others": lambda: Digits().on_after_batch_transfer(
        Batch(torch.zeros(2, 1, 8, 8).byte(), labels, labels[:1], None, 0), 0
    ),
    "mixup, labels of several columns": lambda: mix_labels(labels[:, None], 3, 0.5),
    "augmentation of one image": lambda: BatchAugment(shift=1).distort(images[0].byte(), Draws(0, 0, labels)),
    "normalization without its last axes": lambda: normalize(images, torch.zeros(3), torch.ones(3)),
    "crops of one image": lambda: MultiCrop().views_of_batch(images[0].byte(), Draws(0, 0, labels)),
    "a photograph in torch's order of axes": lambda: central_crop(photo[0], 4, None, "bicubic"),
    "order, blocks of other images": lambda: by_open_blocks(np.arange(4), np.arange(3), 0, 0),
}


@hooked
@pytest.mark.parametrize("call", WRONG.values(), ids=WRONG)
def test_a_wrong_shape_is_an_error(call: Callable[[], object]) -> None:
    with pytest.raises(TypeCheckError):
        call()


@hooked
def test_the_right_shapes_are_none() -> None:
    assert vit()(images).shape == (2, 3)
    loss_of(Supervised, images, labels)
    loss_of(Supervised, images, torch.full((2, 3), 1 / 3))
    normalize(images, torch.zeros(3, 1, 1), torch.ones(3, 1, 1))

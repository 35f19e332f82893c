"""Mixup and CutMix against timm's."""

import numpy as np
import pytest
import timm.data.mixup as timm_mixup
import torch

from vitlab.data import Digits
from vitlab.data.mixup import Box, Mixup, draw_groups, draw_mixup, mix_groups, mix_images, mix_labels
from vitlab.distributed import places

_LABELS = torch.tensor([0, 3, 3, 1, 4, 2])


def _images() -> torch.Tensor:
    return torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_blending_equals_timms(monkeypatch: pytest.MonkeyPatch) -> None:
    timm = timm_mixup.Mixup(mixup_alpha=0.8, num_classes=5, label_smoothing=0.0)
    monkeypatch.setattr(timm, "_params_per_batch", lambda: (0.3, False))
    images, labels = timm(_images(), _LABELS)
    torch.testing.assert_close(mix_images(_images(), 0.3, None), images)
    torch.testing.assert_close(mix_labels(_LABELS, 5, 0.3), labels)


def test_pasting_equals_timms(monkeypatch: pytest.MonkeyPatch) -> None:
    # timm's box (2 … 9, 5 … 16) covers 77 of 256 pixels; its λ is what is left.
    timm = timm_mixup.Mixup(cutmix_alpha=1.0, num_classes=5, label_smoothing=0.0)
    monkeypatch.setattr(timm, "_params_per_batch", lambda: (0.3, True))
    monkeypatch.setattr(timm_mixup, "rand_bbox", lambda *args, **kwargs: (2, 9, 5, 16))
    images, labels = timm(_images(), _LABELS)
    box = Box(2, 9, 5, 16)
    assert torch.equal(mix_images(_images(), 1 - 77 / 256, box), images)
    torch.testing.assert_close(mix_labels(_LABELS, 5, 1 - 77 / 256), labels)


def test_mixing_leaves_the_batch_it_was_given() -> None:
    images = _images()
    mix_images(images, 0.5, Box(0, 8, 0, 8))
    assert torch.equal(images, _images())


def test_choices_and_weights_are_distributed_as_timms() -> None:
    # 4,000 batches each: share left alone, share of CutMix, mean and deviation of λ.
    settings = Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, prob=0.9, switch_prob=0.3)
    ours = [draw_mixup(settings, 0, epoch, first, 32, 32) for epoch in range(40) for first in range(100)]
    timm = timm_mixup.Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, prob=0.9, switch_prob=0.3)
    np.random.seed(0)  # noqa: NPY002  (timm draws from this one)
    theirs = []
    for _ in range(4000):
        lam, cut = timm._params_per_batch()
        if cut:
            _, lam = timm_mixup.cutmix_bbox_and_lam((6, 3, 32, 32), lam)
        theirs.append((float(lam), cut))
    for select in (lambda cut: cut, lambda cut: not cut):
        a = np.array([lam for lam, box in ours if select(box is not None)])
        b = np.array([lam for lam, cut in theirs if select(cut)])
        assert len(a) / len(ours) == pytest.approx(len(b) / len(theirs), abs=0.035)
        assert a.mean() == pytest.approx(b.mean(), abs=0.03)
        assert a.std() == pytest.approx(b.std(), abs=0.03)
    assert np.mean([lam == 1 and box is None for lam, box in ours]) == pytest.approx(0.1, abs=0.02)


def test_weight_is_the_area_that_is_left() -> None:
    # Boxes are cut off at the border; λ must be what remains, not what was drawn.
    settings = Mixup(mixup_alpha=0.0, cutmix_alpha=1.0)
    for first in range(200):
        lam, box = draw_mixup(settings, 0, 0, first, 20, 12)
        assert box is not None
        assert 0 <= box.top <= box.bottom <= 20
        assert 0 <= box.left <= box.right <= 12
        assert lam == pytest.approx(1 - (box.bottom - box.top) * (box.right - box.left) / 240)
        assert draw_mixup(Mixup(cutmix_alpha=0.0), 0, 0, first, 20, 12)[1] is None


def mixed_by(world_size: int, group: int, batch: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images and targets, mixed by several processes and put back at their places."""
    images = torch.randn(batch, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(batch) % 5
    mixed, targets = torch.empty_like(images), torch.empty(batch, 5)
    for rank in range(world_size):
        own = places(batch // world_size, rank, world_size)

        def draw(number: int) -> tuple[float, Box | None]:
            return draw_mixup(Mixup(group=group), 0, 0, 7, 8, 8, number)

        mix = draw_groups(group, own.numpy(), batch, draw)
        mixed[own], targets[own] = mix_groups(images[own], labels[own], 5, mix)
    return mixed, targets


@pytest.mark.parametrize("group", [2, 8, 10, 64])
def test_groups_are_mixed_alike_on_any_number_of_processes(group: int) -> None:
    expected = mixed_by(1, group)
    for world_size in (2, 3, 6):
        for found, value in zip(mixed_by(world_size, group), expected, strict=True):
            assert torch.equal(found, value)


def test_each_group_is_a_batch_of_timms_with_draws_of_its_own() -> None:
    """Images 0, 3, 6, 9 of 24 and their partners are mixed as timm mixes the batch of one of three devices."""
    images, labels = torch.randn(24, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 5
    mixed, targets = mixed_by(1, 8)
    drawn = set()
    for number in range(3):
        first = list(range(number, 12, 3))
        members = torch.tensor([*first, *(23 - i for i in reversed(first))])
        lam, box = draw_mixup(Mixup(group=8), 0, 0, 7, 8, 8, number)
        drawn.add((lam, box))
        torch.testing.assert_close(mixed[members], mix_images(images[members], lam, box))
        torch.testing.assert_close(targets[members], mix_labels(labels[members], 5, lam))
    assert len(drawn) == 3
    assert {box is None for _, box in drawn} == {True, False}


def test_data_mix_by_groups_and_by_default_once_for_the_batch() -> None:
    for group, draws in ((None, 1), (8, 8)):
        data = Digits(batch_size=64, mixup=Mixup(mixup_alpha=1.0, cutmix_alpha=0.0, group=group))
        (_, targets), _ = data.training_batch(0, 0, torch.device("cpu"))
        own = targets.amax(dim=1)
        assert len({round(float(lam), 5) for lam in own if lam < 1}) == draws

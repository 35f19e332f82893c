"""The probe on features whose answer is known."""

import pytest
import torch

from vitlab.evaluation.probe import Accuracy, probe


def splits_of(separable: bool) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    splits = {}
    for split, n in (("train", 200), ("val", 60), ("test", 100)):
        labels = torch.randint(4, (n,), generator=generator)
        noise = torch.randn(n, 6, generator=generator)
        splits[split] = (10.0 * separable * torch.eye(6)[labels] + noise, labels)
    return splits


def test_separated_classes_are_found_and_noise_is_chance() -> None:
    good, bad = probe(splits_of(True), 4), probe(splits_of(False), 4)
    assert good.knn.value == good.linear.value == 1.0
    assert bad.knn.low < 0.25 < bad.knn.high
    assert bad.linear.low < 0.25 < bad.linear.high
    assert (good.train_images, good.test_images, good.features) == (260, 100, 6)


def test_the_interval_is_wilsons() -> None:
    # 8 of 10: (8 + z²/2) / (10 + z²) ± z/(10 + z²) · sqrt(8·2/10 + z²/4) with z = 1.96
    accuracy = Accuracy.of(torch.tensor([0] * 8 + [1] * 2), torch.zeros(10))
    assert (accuracy.low, accuracy.high) == pytest.approx((0.4902, 0.9433), abs=1e-3)

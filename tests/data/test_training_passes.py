"""Whole passes over the training images, without a trainer."""

import numpy as np
import torch

from vitlab.data import BatchAugment, Digits


def test_a_pass_has_each_image_once_an_epoch_augmented_as_in_training() -> None:
    data = Digits(batch_size=50, augment=BatchAugment(shift=2), train_images=230)
    cpu = torch.device("cpu")
    passes = list(data.training_passes(range(2), 100, cpu, drop_last=False))
    assert [len(labels) for _, labels in passes] == 2 * [50, 50, 50, 50, 30]
    for epoch, number in ((0, 0), (0, 3), (1, 2)):
        (images,), labels = data.training_batch(epoch, number, cpu)[0]
        assert torch.equal(passes[5 * epoch + number][0][0], images)
        assert torch.equal(passes[5 * epoch + number][1], labels)
    counts = torch.cat([labels for _, labels in passes[:5]]).bincount()
    assert counts.tolist() == np.bincount(data.labels("train")).tolist()
    later = next(iter(data.training_passes(range(1, 2), 100, cpu, drop_last=False)))
    assert torch.equal(later[0][0], passes[5][0][0])
    dropped = [len(labels) for _, labels in data.training_passes(range(1), 100, cpu, drop_last=True)]
    assert dropped == [50, 50, 50, 50]

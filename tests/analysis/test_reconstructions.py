"""The four panels of a reconstruction."""

import numpy as np

from vitlab.analysis.canvas import to_pixels
from vitlab.analysis.figures import GRAY, panels


def test_the_visible_part_is_the_image_and_the_hidden_part_the_prediction() -> None:
    images, pred = np.full((1, 2, 2, 1), 0.2), np.full((1, 2, 2, 1), 0.9)
    mask = np.array([[[True, False], [False, False]]])
    shown = panels(images, pred, mask)
    assert shown["visible"].ravel().tolist() == [GRAY, 0.2, 0.2, 0.2]
    assert shown["filled in"].ravel().tolist() == [0.9, 0.2, 0.2, 0.2]
    assert (shown["image"] == 0.2).all()
    assert (shown["prediction"] == 0.9).all()


def test_pixels_are_those_from_before_the_normalization() -> None:
    import torch

    pixels = torch.rand(2, 3, 4, 5)
    mean, std = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1), torch.tensor([0.5, 0.6, 0.7]).view(3, 1, 1)
    back = to_pixels((pixels - mean) / std, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    np.testing.assert_allclose(back, pixels.permute(0, 2, 3, 1).numpy(), atol=1e-6)

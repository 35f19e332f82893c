"""What is drawn of shifted windows is what `models.windows` computes."""

import numpy as np
import pytest
import torch

from vitlab.analysis.windows import draw_masks, draw_pictures, draw_tokens, regions
from vitlab.models.windows import join_windows, shift_mask


@pytest.mark.parametrize(("size", "window", "shift"), [((8, 8), (4, 4), (2, 2)), ((6, 12), (6, 4), (0, 2))])
def test_two_tokens_of_a_window_are_of_one_region_where_the_mask_lets_them_see_each_other(
    size: tuple[int, int], window: tuple[int, int], shift: tuple[int, int]
) -> None:
    mask = shift_mask(size, window, shift)
    assert mask is not None
    found = regions(mask)
    assert torch.equal(found[:, :, None] == found[:, None, :], mask == 0)
    assert len(found.unique()) == (size[0] // window[0] + bool(shift[0])) * (size[1] // window[1] + bool(shift[1]))


def test_a_line_runs_wherever_neighbors_are_of_different_groups() -> None:
    # Four windows of 4 × 4: two borders of 8 tokens each; shifted by 2, four of them.
    mask = shift_mask((8, 8), (4, 4), (2, 2))
    assert mask is not None
    rolled = join_windows(regions(mask).float()[:, None, :, None], (4, 4), (8, 8))
    in_place = rolled.roll((2, 2), dims=(1, 2))[0, ..., 0].int().numpy()
    windows = np.arange(8)[:, None] // 4 * 2 + np.arange(8) // 4
    groups = {"windows": windows, "shifted": in_place}
    figures = {
        1: draw_tokens(dict.fromkeys(groups, np.arange(64).reshape(8, 8)), groups),
        5: draw_pictures(dict.fromkeys(groups, np.zeros((40, 40, 3))), groups),
    }
    for side, figure in figures.items():
        plain, shifted = (axes.collections[0].get_segments() for axes in figure.axes)
        assert (len(plain), len(shifted)) == (16, 32)
        assert {len_ for a, b in plain for len_ in np.abs(b - a)} == {0, side}
        assert np.unique(np.concatenate(plain)[:16, 1]).tolist() == [4 * side - 0.5]  # across first, then down


def test_each_window_has_its_mask() -> None:
    mask = shift_mask((8, 8), (4, 4), (2, 2))
    assert mask is not None
    figure = draw_masks(mask.numpy())
    assert [axes.get_title() for axes in figure.axes] == [f"window {n}" for n in (1, 2, 3, 4)]
    np.testing.assert_array_equal(figure.axes[3].images[0].get_array(), mask[3])

"""Drawings take every size, and put maps where the image has them."""

import math

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from vitlab.analysis import figures
from vitlab.analysis.agreement import agreement, decisions, divergence, draw_agreement, right_and_wrong
from vitlab.analysis.canvas import show_image, to_pixels
from vitlab.analysis.figures import GRAY, panels
from vitlab.analysis.windows import draw_masks, draw_pictures, draw_tokens, regions
from vitlab.models.windows import join_windows, shift_mask


@pytest.mark.parametrize("side", [2, 16])
def test_a_mosaic_has_a_map_for_each_position_or_for_each_n_th(side: int) -> None:
    similarity = np.random.default_rng(0).uniform(-1, 1, (side, side, side, side))
    axes = figures.draw_positions(similarity).axes[0]
    drawn = np.asarray(axes.images[0].get_array())
    shown = min(side, 8)  # 16 is more than fit: every second
    assert drawn.shape == (shown * (side + 1) - 1,) * 2
    first = 0 if side == 2 else 1
    np.testing.assert_array_equal(drawn[:side, :side], similarity[first, first])
    assert np.isnan(drawn[side]).all()


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_images_of_any_channels_are_shown(channels: int) -> None:
    axes = Figure().subplots()
    show_image(axes, np.full((4, 6, channels), 0.5))
    assert axes.images[0].get_array().shape == ((4, 6, 3) if channels == 3 else (4, 6))


def test_a_coarse_map_covers_its_image() -> None:
    figure = Figure()
    axes = figure.subplots()
    figures.overlay(axes, np.zeros((12, 8, 3)), np.ones((3, 2)))
    image, heat = axes.images
    assert list(heat.get_extent()) == list(image.get_extent())


def test_maps_have_the_models_answers_below_them() -> None:
    images = np.zeros((2, 4, 4, 1))
    captions = {"a": [("cat  90%", True), ("dog  60%", False)], "pretrained": []}
    maps = {name: np.ones((2, 2, 2)) for name in captions}
    figure = figures.draw_maps(dict.fromkeys(captions, images), maps, captions, ["one", "two"])
    assert [axes.get_xlabel() for axes in figure.axes] == ["one", "cat  90%", "", "two", "dog  60%", ""]
    right, wrong = (figure.axes[i].xaxis.label.get_color() for i in (1, 4))
    assert (right, wrong) == (figures.RIGHT, figures.WRONG)


def test_images_have_their_captions_and_rooms_left_over_are_empty() -> None:
    images = [np.full((2, 2, 1), shade) for shade in (0, 0.5, 1)]
    captions = [("cat", True), ("dog", False), ("eel", None)]
    figure = figures.draw_images(images, captions, columns=2)
    assert [axes.get_xlabel() for axes in figure.axes] == ["cat", "dog", "eel", ""]
    assert [len(axes.images) for axes in figure.axes] == [1, 1, 1, 0]


def test_a_head_that_looks_everywhere_alike_is_told_from_one_that_does_not() -> None:
    even, one = np.full((4, 4), 1 / 16), np.zeros((4, 4))
    one[1, 2] = 0.9
    figure = figures.draw_class_token(np.zeros((1, 8, 8, 3)), np.stack([even, one])[None], ["frog"])
    assert [axes.get_title() for axes in figure.axes] == ["image", "head 1", "head 2"]
    assert [axes.get_xlabel() for axes in figure.axes] == ["frog", "6%", "90%"]


# The four panels of a reconstruction


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


# Student against teacher, counted by hand


TEACHER = torch.eye(3)[[0, 1, 2, 1]]
STUDENT = torch.eye(3)[[0, 2, 2, 1]]
LABELS = torch.tensor([0, 2, 0, 1])


def test_agreement_is_of_decisions() -> None:
    assert agreement(STUDENT, 5 * TEACHER).tolist() == [True, False, True, True]


def test_divergence_is_of_the_teacher_from_the_student() -> None:
    """KL(p ‖ q) = Σ p log(p / q) for p = (3/4, 1/4), q = (1/2, 1/2)."""
    teacher, student = torch.tensor([[0.75, 0.25]]).log(), torch.zeros(1, 2)
    assert float(divergence(student, teacher)) == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))


def test_decisions_are_counted_by_teacher_then_student() -> None:
    assert decisions(STUDENT, TEACHER).tolist() == [[1, 0, 0], [0, 1, 1], [0, 0, 1]]


def test_who_is_right_is_counted_by_teacher_then_student() -> None:
    # Image 1: both right. Image 2: the student alone. Image 3: neither. Image 4: both.
    assert right_and_wrong(STUDENT, TEACHER, LABELS).tolist() == [[0.5, 0], [0.25, 0.25]]


def test_the_drawing_takes_many_classes() -> None:
    torch.manual_seed(0)
    teacher, student = torch.randn(2, 200, 40)
    names = [f"class {k}" for k in range(40)]
    figure = draw_agreement({"student": student}, teacher, torch.randint(40, (200,)), names, "epoch 1")
    assert "20 classes" in figure.axes[2].get_title()


# Shifted windows are drawn as `models.windows` computes them


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

"""Drawings take every size, and put maps where the image has them."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from vitlab.analysis import figures
from vitlab.analysis.canvas import show_image


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

"""The embedded shapes: what is drawn, what is known of it, and that it cannot be told by brightness."""

import numpy as np
import pytest
import torch

from vitlab.data import Shapes
from vitlab.data.dataset import SPLITS
from vitlab.data.shapes import SHAPES, SIDE, draw


@pytest.fixture(scope="module")
def shapes() -> Shapes:
    return Shapes()


def test_splits_are_a_partition_and_the_test_images_the_same_for_every_seed(shapes: Shapes) -> None:
    names = [name for split in SPLITS for name in shapes.image_names(split)]
    assert len(names) == len(set(names)) == 4800
    assert [len(shapes.labels(split)) for split in SPLITS] == [3240, 360, 1200]
    for split, count in (("train", 540), ("val", 60), ("test", 200)):
        assert np.bincount(shapes.labels(split)).tolist() == [count] * 6  # type: ignore[arg-type]
    other = Shapes(seed=3, split_seed=1)
    assert other.image_names("test") == shapes.image_names("test")
    assert other.image_names("val") != shapes.image_names("val")
    assert other.facts()["splits"]["test"] == shapes.facts()["splits"]["test"]


def test_an_image_is_a_function_of_its_number_and_label() -> None:
    labels = np.arange(24) % 6
    whole, part = draw(labels), draw(labels[:10])
    for ours, theirs in zip(part, whole, strict=True):
        assert np.array_equal(ours, theirs[:10])


def test_each_mask_has_the_area_of_its_size_and_lies_inside(shapes: Shapes) -> None:
    masks, sizes = shapes.masks("test"), shapes.sizes("test")
    assert masks.shape == (1200, SIDE, SIDE)
    ratio = masks.flatten(1).sum(1).numpy() / sizes**2
    for k in range(6):
        assert ratio[shapes.labels("test") == k].mean() == pytest.approx(1, abs=0.01)
    assert ratio.std() < 0.05  # of an object cut off at the border, a part would be missing
    assert sizes.min() >= 7
    assert sizes.max() <= 16


@pytest.mark.parametrize(("name", "moment"), [("disk", 1 / (2 * np.pi)), ("square", 1 / 6), ("bar", 5 / 18)])
def test_a_shape_is_what_it_is_called(name: str, moment: float) -> None:
    """Its area is 1, and its mean squared distance from the center that of the textbook."""
    line = np.linspace(-1, 1, 801)
    x, y = np.meshgrid(line, line)
    inside = SHAPES[name](x[None], y[None])[0]
    assert inside.mean() * 4 == pytest.approx(1, abs=0.01)
    assert (x**2 + y**2)[inside].mean() == pytest.approx(moment, rel=0.01)


def test_no_threshold_outlines_the_objects(shapes: Shapes) -> None:
    """The best of all thresholds on brightness or a channel, over all images, misses most of them."""
    pictures = np.stack(shapes.raw_images("test", range(400))).astype(float)
    masks = shapes.masks("test")[:400].numpy()
    best = 0.0
    for channel in (pictures.mean(-1), *np.moveaxis(pictures, -1, 0)):
        for level in range(0, 256, 16):
            for chosen in (channel >= level, channel <= level):
                best = max(best, ((chosen & masks).sum((1, 2)) / (chosen | masks).sum((1, 2))).mean())
    assert best < 0.33
    assert masks.mean() == pytest.approx(0.14, abs=0.01)


def test_masks_and_strata_follow_the_images(shapes: Shapes) -> None:
    few = Shapes(train_images=60)
    assert few.masks("train").shape == (60, SIDE, SIDE)
    place = {name: number for number, name in enumerate(shapes.image_names("train"))}
    chosen = [place[name] for name in few.image_names("train")]
    assert torch.equal(few.masks("train"), shapes.masks("train")[chosen])
    strata, sizes = shapes.strata("test")["size in pixels"], shapes.sizes("test")
    for name, least, most in (("7 to 10", 7, 10), ("10 to 13", 10, 13), ("13 to 16", 13, 16)):
        assert ((sizes >= least) & (sizes < most) == (strata == name)).all()
        assert (strata == name).sum() > 350
    assert Shapes(image_size=48).masks("test").shape == (1200, 48, 48)

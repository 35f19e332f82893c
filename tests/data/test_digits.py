"""The embedded data sets: its splits and what a batch looks like."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from vitlab.data import BatchAugment, Crops, Digits, Mixup, MultiCrop, PlacedDigits, Shapes
from vitlab.data.counter_rng import Draws
from vitlab.data.dataset import SPLITS, Split
from vitlab.data.in_memory import InMemoryDataModule
from vitlab.data.shapes import SHAPES, SIDE, draw
from vitlab.data.tables import groups_by_name

_SPLITS: tuple[Split, ...] = ("train", "val", "test")


def test_splits_are_a_partition_with_a_third_to_test() -> None:
    data = Digits()
    names = [name for split in _SPLITS for name in data.image_names(split)]
    assert len(names) == len(set(names)) == 1797
    assert len(data.labels("test")) == pytest.approx(1797 / 3, abs=5)  # a third of each class, rounded
    assert len(data.labels("val")) == pytest.approx(0.1 * 1198, abs=5)


def test_splits_are_stratified() -> None:
    data = Digits(val_fraction=0.2)
    counts = np.bincount(load_digits().target)
    for split, share in (("test", 1 / 3), ("val", 0.2 * 2 / 3)):
        assert np.abs(np.bincount(data.labels(split)) - share * counts).max() <= 1


def test_names_labels_and_pixels_belong_together() -> None:
    source = load_digits()
    data = Digits()
    for split in _SPLITS:
        places = [int(name.split("/")[1]) for name in data.image_names(split)]
        assert np.array_equal(data.labels(split), source.target[places])
        (image,) = data.raw_images(split, [3])
        assert image.shape == (8, 8, 1)
        assert image.dtype == np.uint8
        assert np.array_equal(np.rint(image[..., 0] * (16 / 255)), source.images[places[3]])


@pytest.mark.parametrize("kind", [Digits, PlacedDigits, Shapes])
def test_default_statistics_are_those_of_the_images(kind: type[InMemoryDataModule]) -> None:
    data = kind()
    pixels = np.concatenate([data.raw_images(split, range(len(data.labels(split)))) for split in _SPLITS]) / 255
    assert data.mean == pytest.approx(pixels.mean((0, 1, 2)), abs=0.005)
    assert data.std == pytest.approx(pixels.std((0, 1, 2)), abs=0.005)


def test_by_default_a_quarter_of_the_training_images_moves() -> None:
    data = Digits(batch_size=1000)
    batch = next(iter(data.train_dataloader()))
    (images,), labels = data.on_after_batch_transfer(batch, 0)
    (still,), _ = data.on_after_batch_transfer(batch._replace(epoch=None), 0)
    moved = (images != still).flatten(1).any(1).float().mean().item()
    assert moved == pytest.approx(0.25 * 8 / 9, abs=0.04)  # of 9 places, one is the old one
    assert labels.dtype == torch.int64


def test_training_batch_does_not_depend_on_its_size() -> None:
    # The k-th image of an epoch is the same picture, distorted the same, in batches of 16 or of 64.
    def first_images(batch_size: int) -> torch.Tensor:
        data = Digits(batch_size=batch_size, augment=BatchAugment(shift=2, flip_prob=0.5, erase_prob=0.5))
        loader = iter(data.train_dataloader())
        views = [data.on_after_batch_transfer(next(loader), 0)[0][0] for _ in range(64 // batch_size)]
        return torch.cat(views)

    torch.testing.assert_close(first_images(16), first_images(64), rtol=0, atol=0)


def test_workers_that_have_nothing_to_do_are_refused() -> None:
    with pytest.raises(ValueError, match="hold_on_device: false"):
        Digits(num_workers=2)


# Digits that are put anywhere


def seen(data: PlacedDigits, epoch: int = 0, batches: int = 1) -> Tensor:
    """Return the first training batches in 0 … 255, (N, 1, H, W)."""
    views = [data.training_batch(epoch, number, torch.device("cpu"))[0][0][0] for number in range(batches)]
    return (torch.cat(views) * data.std[0] + data.mean[0]).mul(255).round().to(torch.uint8)


def cut_out(image: np.ndarray) -> np.ndarray:
    """Return what is inside the smallest box that is not black."""
    rows, columns = image.any(1).nonzero()[0], image.any(0).nonzero()[0]
    return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def test_the_images_are_those_of_the_digits_in_the_same_splits() -> None:
    placed, digits = PlacedDigits(val_fraction=0.2, split_seed=3), Digits(val_fraction=0.2, split_seed=3)
    for split in SPLITS:
        assert placed.image_names(split) == digits.image_names(split)
        assert np.array_equal(placed.labels(split), digits.labels(split))
        pictures = placed.raw_images(split, range(100)), digits.raw_images(split, range(100))
        for ours, original in zip(*pictures, strict=True):
            assert ours.shape == (16, 16, 1)
            assert np.array_equal(cut_out(ours[..., 0]), cut_out(original[..., 0]))


def test_masks_are_the_ink_of_chosen_images_too() -> None:
    data = PlacedDigits(train_images=50, test_places=2)
    for split, count in (("train", 50), ("test", 2 * 599)):
        masks, pictures = data.masks(split).numpy(), data.raw_images(split, range(count))
        assert np.array_equal(masks, np.stack(pictures)[..., 0] >= 128)
        assert 0.08 < masks.mean() < 0.12  # a third of a digit's square, itself a quarter of the canvas


def test_a_training_image_has_a_new_place_in_each_epoch_and_keeps_its_pixels() -> None:
    data = PlacedDigits(batch_size=1078, order_seed=0)
    first, second = seen(data, epoch=0), seen(data, epoch=1)
    names = [data.training_batch(epoch, 0, torch.device("cpu"))[1] for epoch in (0, 1)]
    again = second[[names[1].index(name) for name in names[0]]]
    same = (first == again).flatten(1).all(1).float().mean()
    assert same == pytest.approx(1 / 81, abs=0.015)  # 9 · 9 places
    for one, other in zip(first[:200, 0].numpy(), again[:200, 0].numpy(), strict=True):
        assert np.array_equal(cut_out(one), cut_out(other))


def test_every_place_is_as_likely_and_none_cuts_a_digit() -> None:
    data = PlacedDigits(image_size=11)
    places = data._places(Draws(0, 0, torch.arange(160_000)), torch.full((160_000,), 8))
    counts = (places[:, 0] * 4 + places[:, 1]).bincount()
    assert len(counts) == 16
    assert (counts.float() / 10_000 - 1).abs().max() < 0.05  # five standard errors
    assert places.max() == 11 - 8


def test_training_places_depend_on_seed_epoch_and_image_alone() -> None:
    data = PlacedDigits(batch_size=64)
    assert torch.equal(seen(data), seen(PlacedDigits(batch_size=16), batches=4))
    moved = PlacedDigits(batch_size=64, order_seed=0, augment_seed=1)
    assert moved.training_batch(0, 0, torch.device("cpu"))[1] == data.training_batch(0, 0, torch.device("cpu"))[1]
    assert not torch.equal(seen(data), seen(moved))


def test_evaluation_places_depend_on_the_split_seed_alone() -> None:
    data, other_seed = PlacedDigits(), PlacedDigits(seed=1)
    assert data.facts() == other_seed.facts()
    for split in ("val", "test"):
        (image,), _ = next(iter(data.batches(split, "cpu")))
        (again,), _ = next(iter(other_seed.batches(split, "cpu")))
        assert torch.equal(image, again)
    digits, ours = Digits(split_seed=1), PlacedDigits(split_seed=1)
    assert ours.image_names("test") == digits.image_names("test") != data.image_names("test")
    assert not np.isin(data.dataset("test").contents(), ours.dataset("test").contents()).all()


def test_evaluation_batches_galleries_and_predictions_show_one_image() -> None:
    data = PlacedDigits(eval_batch_size=599)
    (images,), _ = next(iter(data.batches("test", "cpu")))
    raw = data.raw_images("test", range(599))
    shown = torch.from_numpy(np.stack(raw)).permute(0, 3, 1, 2)
    torch.testing.assert_close(images, (shown / 255 - data.mean[0]) / data.std[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(data.preprocessing(raw[3]), images[3])


def test_other_augmentation_comes_on_top() -> None:
    data = PlacedDigits(batch_size=64, mixup=Mixup(prob=1.0), augment=BatchAugment(shift=2))
    ((images,), labels), _ = data.training_batch(0, 0, torch.device("cpu"))
    assert images.shape == (64, 1, 16, 16)
    assert labels.shape == (64, 10)
    plain = PlacedDigits(batch_size=64)
    assert not torch.equal(seen(plain), seen(replace(plain, augment=BatchAugment(shift=2))))


def test_views_are_cut_from_the_new_place() -> None:
    whole = Crops(number=1, size=16, scale=(1.0, 1.0), blur_prob=(0.0,), solarize_prob=(0.0,))
    none = replace(whole, number=0, size=8)
    multi_crop = MultiCrop(global_crops=whole, local_crops=none, flip_prob=0.0, jitter_prob=0.0, gray_prob=0.0)
    views = PlacedDigits(batch_size=64, multi_crop=multi_crop)
    assert torch.equal(seen(views), seen(PlacedDigits(batch_size=64)))


def test_digits_of_several_sizes_stay_whole_wherever_they_are_put() -> None:
    data = PlacedDigits(image_size=32, digit_sizes=(8, 16, 24), batch_size=300)
    sizes = data.strata("train")["size in pixels"].astype(int)
    assert np.bincount(sizes)[[8, 16, 24]] == pytest.approx(len(sizes) / 3, abs=60)
    names = data.image_names("train")
    still = dict(zip(names, data.raw_images("train", range(len(names))), strict=True))
    size_of = dict(zip(names, sizes, strict=True))
    for image, name in zip(seen(data)[:, 0].numpy(), data.training_batch(0, 0, torch.device("cpu"))[1], strict=True):
        assert np.array_equal(cut_out(image), cut_out(still[name][..., 0]))
        height, width = cut_out(image).shape
        assert max(height, width) <= size_of[name]
        assert height > 0.8 * size_of[name]  # a digit is as high as its image
    assert data.strata("test").keys() == {"size in pixels"}
    few = PlacedDigits(image_size=32, digit_sizes=(8, 16, 24), train_images=50)
    chosen = [names.index(name) for name in few.image_names("train")]
    assert np.array_equal(few.strata("train")["size in pixels"].astype(int), sizes[chosen])
    assert PlacedDigits().strata("test") == {}


def test_a_canvas_smaller_than_a_digit_is_refused() -> None:
    with pytest.raises(ValueError, match="image_size is 7, but a digit is 8 wide"):
        PlacedDigits(image_size=7)
    with pytest.raises(ValueError, match="but a digit is 20 wide"):
        PlacedDigits(digit_sizes=(8, 20))


def test_a_test_digit_at_ten_places_is_ten_images_of_one_group() -> None:
    once, often = PlacedDigits(), PlacedDigits(test_places=10)
    for split in ("train", "val"):
        assert often.dataset(split).names == once.dataset(split).names
    test = often.dataset("test")
    assert len(test) == 5990
    assert torch.equal(test.images[:599], once.dataset("test").images)
    digits = test.images.sort(dim=-1).values.flatten(1).sum(1).view(10, 599)
    assert (digits == digits[0]).all()  # the same digits, nothing cut off
    assert sum(len(np.unique(test.images[i::599].flatten(1).numpy(), axis=0)) > 5 for i in range(599)) > 590
    groups = groups_by_name("(digits/[0-9]+)", test.names)
    assert groups == 10 * once.dataset("test").names
    assert np.array_equal(test.labels, np.tile(once.dataset("test").labels, 10))


def test_uneven_digits_fall_from_class_to_class_by_one_factor() -> None:
    data, whole = PlacedDigits(imbalance=20), PlacedDigits()
    counts = np.bincount(data.labels("train"))
    assert counts.tolist() == np.rint(np.bincount(whole.labels("train")) * 20 ** (-np.arange(10) / 9)).tolist()
    assert set(data.image_names("train")) < set(whole.image_names("train"))
    assert [data.facts()["splits"][split] for split in ("val", "test")] == [
        whole.facts()["splits"][split] for split in ("val", "test")
    ]


# Shapes on textures


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

"""RandAugment on batches, against timm's on Pillow's pictures.

The oracles: timm's own functions of one picture and one level for the pixels, timm's own functions from a magnitude to
a level, and what timm's RandAugment does, written down, for how often what is done.
"""

import random
from collections import defaultdict
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from timm.data import auto_augment
from torch import Tensor

from vitlab.data import CIFAR10, BatchAugment, Digits, ImageFolder
from vitlab.data.augment import flip, normalize
from vitlab.data.counter_rng import Draws, Stream
from vitlab.data.photos import PhotoAugment
from vitlab.data.rand_augment import Group, RandAugment, _levels, timms_rand_augment

PhotoFolder = Callable[[dict[str, int]], Path]

_MEAN = (0.49, 0.48, 0.44)
_FILL = (125, 122, 112)
_SWIN = "rand-m9-mstd0.5-inc1"
_DESCRIPTIONS = (
    _SWIN,
    "rand-m9-n3-mmax20",
    "rand-m8-p0.7-mstd101-t3a",
    "rand-m5-n4-inc1-tweights",
    "rand-m9-mstd1-t3aw",
)
_COUNT = 12


def _pictures(channels: int = 3, side: int = 32) -> Tensor:
    """Noise, a dark one, one of a single gray level, one that is half flat, one of two levels, and a smooth one."""
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (_COUNT, channels, side, side), dtype=np.uint8))
    images[1] //= 3
    images[2] = 77
    images[3, :, : side // 2] = 200
    images[4] = images[4] // 128 * 255
    images[5] = torch.arange(side)[:, None] * 3 + torch.arange(side) * 4
    return images


def _to_pillow(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).squeeze(2).numpy())


def _from_pillow(picture: Image.Image) -> Tensor:
    pixels = np.array(picture)
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1)


def _by_timm(images: Tensor, name: str, levels: list, resampling: Image.Resampling | None = None) -> Tensor:
    fill = {"fillcolor": _FILL[: images.shape[1]], "resample": resampling}
    rows = [
        _from_pillow(auto_augment.NAME_TO_OP[name](_to_pillow(image), *([] if level is None else [level]), **fill))
        for image, level in zip(images, levels, strict=True)
    ]
    return torch.stack(rows)


def _by_us(images: Tensor, name: str, levels: list, cubic: bool = False) -> Tensor:
    numbers = np.array([0.0 if level is None else level for level in levels], dtype=np.float64)
    numbers = 1 - numbers if name == "Desaturate" else numbers  # timm's function subtracts, and our levels are ready
    group = Group(name, np.arange(len(images)), numbers, np.full(len(images), cubic))
    return RandAugment(_SWIN, 32, _MEAN[: images.shape[1]])._apply(images, [group])


_LEVELS: dict[str, list] = {
    "AutoContrast": [None] * _COUNT,
    "Equalize": [None] * _COUNT,
    "Invert": [None] * _COUNT,
    "Posterize": [1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4],
    "Solarize": [0, 1, 50, 77, 78, 127, 128, 200, 254, 255, 256, 100],
    "SolarizeAdd": [0, 1, 50, 99, 110, 127, 128, 5, 30, 60, 90, 120],
    **{name: np.linspace(0.1, 2.8, _COUNT).tolist() for name in ("Color", "Contrast", "Brightness", "Sharpness")},
    "Desaturate": np.linspace(0.5, 1.0, _COUNT).tolist(),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", _LEVELS)
def test_changes_of_color_are_pillows_to_the_bit(name: str, channels: int) -> None:
    images = _pictures(channels)
    assert torch.equal(_by_us(images, name, _LEVELS[name]), _by_timm(images, name, _LEVELS[name]))


def test_blur_is_pillows_but_for_its_rounding() -> None:
    # Pillow rounds after each of six passes, as in test_multi_crop, where the same function is tried at other radii.
    images, radii = _pictures(), np.linspace(0.1, 2.0, _COUNT).tolist()
    difference = _by_us(images, "GaussianBlur", radii).int() - _by_timm(images, "GaussianBlur", radii).int()
    assert difference.abs().max() <= 3
    assert difference.abs().float().mean() < 0.8


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("resampling", [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC])
@pytest.mark.parametrize(
    ("name", "most"), [("Rotate", 60), ("ShearX", 0.6), ("ShearY", 0.6), ("TranslateXRel", 0.9), ("TranslateYRel", 0.9)]
)
def test_changes_of_place_are_pillows(name: str, most: float, resampling: Image.Resampling, channels: int) -> None:
    # Pillow computes in double precision and cuts the fraction off: where that is tiny, as with a shear by 0.6, a value
    # may be a level off, but never the filling.
    images = _pictures(channels)
    levels = [0.0, most, -most, *np.random.default_rng(1).uniform(-most, most, _COUNT - 3)]
    ours = _by_us(images, name, levels, resampling == Image.Resampling.BICUBIC)
    difference = ours.int() - _by_timm(images, name, levels, resampling).int()
    assert difference.abs().max() <= 1
    assert (difference != 0).float().mean() < 0.004
    assert torch.equal(ours[0], images[0])


@pytest.mark.parametrize("description", _DESCRIPTIONS)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_levels_are_timms(description: str, sign: float, monkeypatch: pytest.MonkeyPatch) -> None:
    # timm negates where Python's generator says more than 1/2. Magnitudes up to those that -mmax20 permits.
    monkeypatch.setattr(random, "random", lambda: 0.9 if sign < 0 else 0.1)
    timms: Any = timms_rand_augment(description, 32, _MEAN, None)
    magnitudes = np.linspace(0, 20, 101)
    for operation in timms.ops:
        ours = _levels(operation, magnitudes, np.full(101, sign))
        expected = [0.0] * 101
        if operation.level_fn is not None:
            expected = [operation.level_fn(x, operation.hparams)[0] for x in magnitudes]
        if operation.name == "Desaturate":
            expected = [min(1, max(0, 1 - x)) for x in expected]  # in timm's function of the picture
        np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-12)
        if operation.name.startswith("Posterize"):
            assert min(ours) >= 1


Record = list[tuple[str, float, Any]]  # of one picture: name, level, interpolation


@cache
def _done_by_timm(description: str, count: int = 4000) -> list[Record]:
    """Write down what timm's RandAugment does, to no picture at all."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  (timm draws from this one)
    timms: Any = timms_rand_augment(description, 32, _MEAN, None)
    record: Record = []

    def written_down(name: str) -> Callable:
        def write(picture: None, *level: float, **settings: Any) -> None:
            cubic = auto_augment._interpolation({"resample": settings["resample"]}) == Image.Resampling.BICUBIC
            record.append((name, level[0] if level else 0.0, cubic))

        return write

    for operation in timms.ops:
        operation.aug_fn = written_down(operation.name.removesuffix("Increasing"))
    done = []
    for _ in range(count):
        timms(None)
        done.append(record[:])
        record.clear()
    return done


@cache
def _done_by_us(description: str, count: int = 20_000) -> list[Record]:
    done: list[Record] = [[] for _ in range(count)]
    for groups in RandAugment(description, 32, _MEAN).draw(Draws(0, 0, torch.arange(count))):
        for group in groups:
            for row, level, cubic in zip(*(x.tolist() for x in group[1:]), strict=True):
                done[row].append((group.name, 1 - level if group.name == "Desaturate" else level, cubic))
    return done


def _assert_equally_frequent(ours: list, theirs: list) -> None:
    kinds = sorted({*ours, *theirs}, key=str)
    counts = [[some.count(kind) for kind in kinds] for some in (ours, theirs)]
    assert len(kinds) == 1 or stats.chi2_contingency(counts).pvalue > 0.001


@pytest.mark.parametrize("description", _DESCRIPTIONS)
def test_as_much_is_done_as_by_timm(description: str) -> None:
    # How many operations reach a picture, which, and which at once, of which -tweights and -t3aw take none twice.
    ours, theirs = _done_by_us(description), _done_by_timm(description)
    _assert_equally_frequent([len(done) for done in ours], [len(done) for done in theirs])
    names = [[[name for name, *_ in done] for done in some] for some in (ours, theirs)]
    _assert_equally_frequent(*([name for done in some for name in done] for some in names))
    _assert_equally_frequent(*([done[0] for done in some if len(done) > 1] for some in names))
    _assert_equally_frequent(*([done[1] for done in some if len(done) > 1] for some in names))
    _assert_equally_frequent(*([len(done) - len(set(done)) for done in some] for some in names))
    _assert_equally_frequent(*([cubic for done in some for *_, cubic in done] for some in (ours, theirs)))


@pytest.mark.parametrize("description", _DESCRIPTIONS)
def test_levels_are_distributed_as_timms(description: str) -> None:
    # Sign, noise and clipping together, for each operation by Kolmogorov and Smirnov, with fixed draws.
    levels: list[dict[str, list[float]]] = [defaultdict(list), defaultdict(list)]
    for of, some in zip(levels, (_done_by_us(description), _done_by_timm(description)), strict=True):
        for done in some:
            for name, level, _ in done:
                of[name].append(level)
    for name, ours in levels[0].items():
        if len(set(ours)) > 1:
            assert stats.ks_2samp(np.round(ours, 9), np.round(levels[1][name], 9)).pvalue > 0.0005, name
        else:
            assert set(levels[1][name]) == set(ours)


def test_draws_of_an_image_are_independent() -> None:
    # Levels of the first and second layer, and of neighboring images, are not correlated: |r| < 4 / sqrt(n).
    done = _done_by_us("rand-m9-n3-mmax20".replace("-mmax20", "-mstd101-p1"))
    brightness = [[level for name, level, _ in images if name == "Brightness"] for images in done]
    pairs = np.array([some[:2] for some in brightness if len(some) > 1])
    assert abs(np.corrcoef(pairs.T)[0, 1]) < 4 / len(pairs) ** 0.5
    first = np.array([images[0][0] == images[1][0] for images in done])
    assert first.mean() == pytest.approx(1 / 15, abs=4 * (14 / 225 / len(done)) ** 0.5)


@pytest.mark.parametrize("description", _DESCRIPTIONS)
def test_a_batch_is_what_timms_functions_make_of_each_image(description: str) -> None:
    # The drawn operations, one after the other on Pillow's pictures; a level off in one may be more after the next.
    ours = RandAugment(description, 32, _MEAN)
    images = _pictures().repeat(8, 1, 1, 1)
    draws = Draws(3, 1, torch.arange(len(images)))
    expected = images.clone()
    for groups in ours.draw(draws):
        for group in groups:
            for row, level, cubic in zip(*(x.tolist() for x in group[1:]), strict=True):
                if group.name in ("AutoContrast", "Equalize", "Invert"):
                    level = None
                elif group.name in ("Posterize", "Solarize", "SolarizeAdd"):
                    level = int(level)
                elif group.name == "Desaturate":
                    level = 1 - level
                resampling = Image.Resampling.BICUBIC if cubic else Image.Resampling.BILINEAR
                expected[row] = _by_timm(expected[row][None], group.name, [level], resampling)[0]
    difference = (ours(images, draws).int() - expected.int()).abs().float().flatten(1)
    assert not torch.equal(expected, images)
    assert difference.mean() < (0.3 if "t3a" in description else 0.02)  # -t3a blurs


@pytest.mark.parametrize("description", _DESCRIPTIONS)
def test_an_images_result_does_not_depend_on_its_batch(description: str) -> None:
    ours = RandAugment(description, 32, _MEAN)
    images = _pictures()
    indices = torch.arange(100, 100 + _COUNT)
    together = ours(images, Draws(1, 2, indices))
    order = torch.randperm(_COUNT, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ours(images[order], Draws(1, 2, indices[order])), together[order])
    alone = [ours(image[None], Draws(1, 2, index[None]))[0] for image, index in zip(images, indices, strict=True)]
    assert torch.equal(torch.stack(alone), together)
    assert not torch.equal(ours(images, Draws(1, 3, indices)), together)


def test_host_indices_take_the_place_of_the_devices() -> None:
    # On a GPU the indices themselves would have to be waited for.
    ours = RandAugment(_SWIN, 32, _MEAN)
    elsewhere = Draws(1, 2, torch.zeros(_COUNT, dtype=torch.long), np.arange(_COUNT))
    assert torch.equal(ours(_pictures(), elsewhere), ours(_pictures(), Draws(1, 2, torch.arange(_COUNT))))


def test_nothing_is_drawn_from_the_global_generators() -> None:
    # timm's level functions draw signs from Python's: in the training process that would change what comes after.
    before = random.getstate(), torch.get_rng_state()
    RandAugment(_SWIN, 32, _MEAN)(_pictures(), Draws(0, 0, torch.arange(_COUNT)))
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


@pytest.mark.parametrize("description", _DESCRIPTIONS)
@pytest.mark.parametrize("side", [8, 32])
def test_gray_images_become_what_they_do_as_color_images(description: str, side: int) -> None:
    gray = _pictures(1, side).repeat(8, 1, 1, 1)
    draws = Draws(0, 0, torch.arange(len(gray)))
    as_gray = RandAugment(description, side, (0.3,))(gray, draws)
    as_color = RandAugment(description, side, (0.3, 0.3, 0.3))(gray.repeat(1, 3, 1, 1), draws)
    difference = (as_gray.int() - as_color.int()).abs()
    assert as_gray.shape == gray.shape
    assert difference.max() <= 1  # a channel's sums may be added up in another order
    assert (difference > 0).float().mean() < 0.001


def test_no_layer_leaves_images_as_they_are() -> None:
    for description in ("rand-n0", "rand-p0"):
        assert torch.equal(
            RandAugment(description, 32, _MEAN)(_pictures(), Draws(0, 0, torch.arange(_COUNT))), _pictures()
        )


def test_it_follows_the_flip_and_comes_before_normalization(cifar_root: Path) -> None:
    augment = BatchAugment(flip_prob=0.5, rand_augment=_SWIN)
    data = CIFAR10(root=str(cifar_root), batch_size=64, augment=augment)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    (ours,), _ = data.on_after_batch_transfer(batch, 0)
    draws = Draws(data.seed, 0, batch.indices)
    flipped = flip(batch.images, draws.uniform(Stream.FLIP, 1), 0.5)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (data.mean, data.std))
    assert torch.equal(ours, normalize(RandAugment(_SWIN, 32, data.mean)(flipped, draws), mean, std))


def test_photographs_are_distorted_on_the_device(photo_folder: PhotoFolder) -> None:
    # Instead of in the workers, after the same crops and flips, with the crops' interpolation and the mean's color.
    root = photo_folder({"train/a": 6, "train/b": 6, "val/a": 1, "val/b": 1})
    views = []
    for settings in ({"rand_augment": None}, {"rand_augment": "rand-m9-p1", "rand_augment_on_device": True}):
        data = ImageFolder(
            str(root), 32, 6, num_workers=0, augment=PhotoAugment(interpolation="bilinear", erase_prob=0.0, **settings)
        )
        batch = next(iter(data.train_dataloader()))
        assert batch.host_indices is not None
        views.append(data.on_after_batch_transfer(batch, 0)[0][0])
    draws = Draws(data.seed, 0, batch.indices)
    distort = RandAugment("rand-m9-p1", 32, data.mean, Image.Resampling.BILINEAR)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (data.mean, data.std))
    plain = (255 * (views[0] * std + mean)).round().to(torch.uint8)
    torch.testing.assert_close(views[1], normalize(distort(plain, draws), mean, std))
    assert not torch.equal(views[0], views[1])


def test_digits_can_be_distorted() -> None:
    data = Digits(batch_size=64, augment=BatchAugment(rand_augment=_SWIN))
    plain = Digits(batch_size=64, augment=BatchAugment())
    views = []
    for module in (data, plain):
        module.setup("fit")
        views.append(module.on_after_batch_transfer(next(iter(module.train_dataloader())), 0)[0][0])
    assert views[0].shape == views[1].shape
    changed = (views[0] != views[1]).flatten(1).any(1).float().mean().item()
    # 3/4 are chosen for something, of which colors, equalizing (too few pixels) and stretching may change nothing.
    assert 0.45 < changed < 0.8


@pytest.mark.parametrize("settings", [BatchAugment, PhotoAugment])
@pytest.mark.parametrize("text", ["rand-x9", "augmix-m3", "", "rand-m9-inc", "rand-m9-tfoo", "rand-m9 -inc1"])
def test_description_that_timm_does_not_understand_is_refused(settings: Any, text: str) -> None:
    with pytest.raises(ValueError, match="write rand and any of") as error:
        settings(rand_augment=text)
    assert repr(text) in str(error.value)


def test_more_weighted_layers_than_operations_are_refused() -> None:
    # NumPy, by which timm chooses, raises an error for the first picture.
    with pytest.raises(ValueError, match="-n14 or less"):
        RandAugment("rand-n15-t3aw", 32, _MEAN)
    assert len(RandAugment("rand-n14-t3aw", 32, _MEAN).draw(Draws(0, 0, torch.arange(2)))) == 14


def test_off_by_default() -> None:
    assert BatchAugment().rand_augment is None

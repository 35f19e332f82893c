"""Multi-crop: batches on the device and photographs in workers, against each other and against the published code.

The oracle of the whole is the augmentation of DINO's and MSN's released code, written out in torchvision's transforms.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter, ImageOps
from scipy import stats
from torch import Tensor
from torchvision import transforms as T
from torchvision.transforms import functional as TF

from tests.conftest import edges
from tests.data.conftest import PhotoFolder
from vitlab.data import CIFAR10, Crops, Digits, ImageFolder, Mixup, MultiCrop, pillow
from vitlab.data.counter_rng import Draws
from vitlab.data.multi_crop import _DRAWS, ViewParams

_SMALL = MultiCrop(  # as released but for its sizes
    global_crops=Crops(number=2, size=32, scale=(0.4, 1.0), blur_prob=(1.0, 0.1), solarize_prob=(0.0, 0.2)),
    local_crops=Crops(number=3, size=16, scale=(0.05, 0.4), blur_prob=(0.5,)),
)
_PLAIN = MultiCrop(  # nothing but crops
    global_crops=replace(_SMALL.global_crops, blur_prob=(0.0,), solarize_prob=(0.0,)),
    local_crops=replace(_SMALL.local_crops, blur_prob=(0.0,)),
    flip_prob=0.0,
    jitter_prob=0.0,
    gray_prob=0.0,
)


def _pictures(count: int, side: int = 32) -> Tensor:
    """Colored pictures with some texture for a blur to take, brighter to the right, so that a mirrored one is seen."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.uniform(0, 190, (count, 3, 6, 6)).astype(np.float32))
    smooth = F.interpolate(coarse, (side, side), mode="bicubic", align_corners=False)
    texture = torch.from_numpy(rng.uniform(-25, 25, (count, 1, side, side)).astype(np.float32))
    return (smooth + texture + torch.linspace(0, 60, side)).round().clamp(0, 255).to(torch.uint8)


def _to_pillow(image: Tensor) -> Image.Image:
    return Image.fromarray(image.to(torch.uint8).permute(1, 2, 0).numpy())


def _from_pillow(images: Sequence[Image.Image]) -> Tensor:
    return torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1).float() for image in images])


def _on_device(settings: MultiCrop, images: Tensor, epoch: int = 0) -> list[Tensor]:
    return settings.views_of_batch(images, Draws(0, epoch, torch.arange(len(images))))


def _in_workers(settings: MultiCrop, images: Tensor, epoch: int = 0) -> list[Tensor]:
    draws = settings.draw(Draws(0, epoch, torch.arange(len(images)))).split(1, dim=1)
    photos = [settings.views_of_photo(np.array(_to_pillow(x)), draw) for x, draw in zip(images, draws, strict=True)]
    return [torch.stack(views).float() for views in zip(*photos, strict=True)]


_PIPELINES = pytest.mark.parametrize("make_views", [_on_device, _in_workers])
Pipeline = Callable[[MultiCrop, Tensor], list[Tensor]]


# Each operation on a batch, against Pillow's or torchvision's on one image with the same parameters.


@pytest.mark.parametrize("size", [12, 32, 45])
@pytest.mark.parametrize("filter", [Image.Resampling.BICUBIC, Image.Resampling.BILINEAR])
def test_resized_boxes_are_pillows(size: int, filter: Image.Resampling) -> None:
    # Nearly all are equal; off by one where a pass ends half-way between two gray levels. Boxes that grow and shrink.
    images = _pictures(4)
    boxes = [(0, 0, 32, 32), (3, 4, 20, 10), (1, 26, 5, 6), (0, 2, 12, 30)]  # top, left, height, width
    ours = pillow.resized_boxes(
        images.float(), *torch.tensor(boxes).float().T, size, cubic=filter == Image.Resampling.BICUBIC
    )
    expected = _from_pillow(
        [
            _to_pillow(image).crop((left, top, left + width, top + height)).resize((size, size), filter)
            for image, (top, left, height, width) in zip(images, boxes, strict=True)
        ]
    )
    assert (ours - expected).abs().max() <= 2
    assert (ours != expected).float().mean() < 0.1


@pytest.mark.parametrize(
    ("operation", "function"),
    [
        (pillow.BRIGHTNESS, TF.adjust_brightness),
        (pillow.CONTRAST, TF.adjust_contrast),
        (pillow.SATURATION, TF.adjust_saturation),
    ],
)
def test_blends_are_pillows(operation: int, function: Callable[[Image.Image, float], Image.Image]) -> None:
    # By amounts that are exact in binary: else the last bit of a product, which is a matter of kernels, would decide
    # which whole number lies below.
    images = _pictures(9).float()
    amounts = torch.arange(1, 10) / 4
    factors = torch.tensor([1.0, 1.0, 1.0, 0.0]).repeat(9, 1)
    factors[:, operation] = amounts
    ours = pillow.jitter(images, torch.rand(9, 4).argsort(1), factors)  # whatever the order: the others do nothing
    expected = _from_pillow([function(_to_pillow(x), f) for x, f in zip(images, amounts.tolist(), strict=True)])
    assert (ours - expected).abs().max() <= 1
    assert (ours != expected).float().mean() < 0.001


def test_hue_is_torchvisions() -> None:
    # torchvision computes hues of float images exactly as here, and those of Pillow's images in 8 bits.
    images = torch.cat([_pictures(9), torch.full((2, 3, 32, 32), 77, dtype=torch.uint8)]).float()  # gray ones too
    turns = torch.linspace(-0.5, 0.5, 11)
    ours = pillow.turn_hue(images, turns)
    exact = torch.stack([TF.adjust_hue(x / 255, t) * 255 for x, t in zip(images, turns.tolist(), strict=True)])
    assert (ours - exact).abs().max() <= 0.501  # whole numbers
    in_8_bits = _from_pillow([TF.adjust_hue(_to_pillow(x), t) for x, t in zip(images, turns.tolist(), strict=True)])
    assert (ours - in_8_bits).abs().mean() < 1.5
    assert torch.equal(pillow.turn_hue(images, torch.zeros(11)), images)


def test_jitter_follows_each_images_own_order() -> None:
    # All 24 orders. Wrong ones would differ by 10 gray levels and more, where clipping or the mean gray come in.
    orders = torch.cartesian_prod(*[torch.arange(4)] * 4)
    orders = orders[(orders.sort(dim=1).values == torch.arange(4)).all(dim=1)]
    assert len(orders) == 24
    images = _pictures(1).float().repeat(24, 1, 1, 1)
    factors = torch.tensor([1.5, 1.4, 1.9, 0.15])
    functions = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)

    def one_by_one(order: Sequence[int]) -> Image.Image:
        picture = _to_pillow(images[0])
        for operation in order:
            picture = functions[operation](picture, factors[operation].item())
        return picture

    expected = _from_pillow([one_by_one(order) for order in orders.tolist()])
    ours = pillow.jitter(images, orders, factors.repeat(24, 1))
    assert (ours - expected).abs().mean(dim=(1, 2, 3)).max() < 3  # the hue's 8 bits, enhanced by what follows
    brightness_last = pillow.jitter(images, orders.flip(1), factors.repeat(24, 1))
    assert (brightness_last - expected).abs().mean(dim=(1, 2, 3)).median() > 6


def test_gray_is_pillows() -> None:
    images = _pictures(6).float()
    ours = pillow.to_gray(images).expand_as(images)
    expected = _from_pillow([_to_pillow(image).convert("L").convert("RGB") for image in images])
    assert (ours - expected).abs().max() <= 1  # Pillow's weights have 16 bits


@pytest.mark.parametrize("largest", [0.5, 2.0, 6.0])
def test_blur_is_pillows(largest: float) -> None:
    # Pillow rounds after each of six passes, 0.7 together where no pass smooths the one before. Noise, and edges.
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (8, 3, 24, 20))).float()
    radii = torch.linspace(0.1, largest, 8)
    ours = pillow.blur(images, radii, largest)
    expected = _from_pillow(
        [
            _to_pillow(x).filter(ImageFilter.GaussianBlur(radius))
            for x, radius in zip(images, radii.tolist(), strict=True)
        ]
    )
    assert (ours - expected).abs().max() <= 3
    assert (ours - expected).abs().mean() < 0.8
    assert torch.equal(pillow.blur(images, torch.zeros(8), largest), images)


def test_solarize_is_pillows() -> None:
    images = _pictures(4).float()
    chosen = torch.tensor([True, False, True, False])
    expected = _from_pillow([ImageOps.solarize(_to_pillow(image), threshold=128) for image in images])
    assert torch.equal(pillow.solarize(images, chosen), torch.where(chosen[:, None, None, None], expected, images))


# The two pipelines.


def test_device_and_workers_make_the_same_views() -> None:
    # From the same draws. What differs is rounding and the hue's 8 bits; one other decision, e.g. a solarized view
    # that should not be, is 30 gray levels.
    images = _pictures(150)
    for ours, theirs in zip(_on_device(_SMALL, images), _in_workers(_SMALL, images), strict=True):
        assert ours.shape == theirs.shape
        difference = ours - theirs
        assert difference.abs().mean() < 1
        assert difference.abs().mean(dim=(1, 2, 3)).max() < 4
        assert difference.mean().abs() < 0.2  # neither is brighter


def _dino(blur_radius: float) -> list[T.Compose]:
    """The released DINO's three kinds of view at 32 and 16 pixels."""
    flip_and_color = [
        T.RandomHorizontalFlip(p=0.5),
        T.RandomApply([T.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)], p=0.8),
        T.RandomGrayscale(p=0.2),
    ]
    crop = partial(T.RandomResizedCrop, interpolation=T.InterpolationMode.BICUBIC)
    blur = partial(_random_blur, largest=blur_radius)
    return [
        T.Compose([crop(32, scale=(0.4, 1.0)), *flip_and_color, partial(blur, 1.0)]),
        T.Compose([crop(32, scale=(0.4, 1.0)), *flip_and_color, partial(blur, 0.1), T.RandomSolarize(128, p=0.2)]),
        T.Compose([crop(16, scale=(0.05, 0.4)), *flip_and_color, partial(blur, 0.5)]),
    ]


def _msn(blur_radius: float) -> list[T.Compose]:
    """MSN's two kinds with the strength 0.5 of its shipped configuration; its global views are all alike."""
    color = [T.RandomApply([T.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8), T.RandomGrayscale(p=0.2)]
    rest = [T.RandomHorizontalFlip(), *color, partial(_random_blur, 0.5, largest=blur_radius)]
    return [
        T.Compose([T.RandomResizedCrop(size, scale=scale), *rest])
        for size, scale in ((32, (0.3, 1.0)), (32, (0.3, 1.0)), (16, (0.05, 0.3)))
    ]


def _random_blur(prob: float, image: Image.Image, largest: float) -> Image.Image:
    if random.random() >= prob:
        return image
    return image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, largest)))


_AS_RELEASED = {
    "dino": (replace(_SMALL, local_crops=replace(_SMALL.local_crops, number=1)), _dino),
    "msn": (
        MultiCrop(
            global_crops=Crops(number=2, size=32, scale=(0.3, 1.0), blur_prob=(0.5,)),
            local_crops=Crops(number=1, size=16, scale=(0.05, 0.3), blur_prob=(0.5,)),
            interpolation="bilinear",
            saturation=0.4,
        ),
        _msn,
    ),
}


@cache
def _published(method: str, count: int) -> list[Tensor]:
    """Views of `_pictures(count)` by the released code, one a kind."""
    random.seed(0)
    torch.manual_seed(0)
    pictures = [_to_pillow(image) for image in _pictures(count)]
    return [_from_pillow([transform(picture) for picture in pictures]) for transform in _AS_RELEASED[method][1](2.0)]


def _moments(views: Tensor) -> dict[str, Tensor]:
    """What the distortions change, (B,) each: a mean over images is a first moment, of a square the second."""
    x = views.float() / 255
    red, green, blue = x.mean(dim=(2, 3)).unbind(1)
    across = (x[..., 1:] - x[..., :-1]).mean(dim=1)
    spread = x.amax(dim=1) - x.amin(dim=1)
    return {
        "mean": x.mean(dim=(1, 2, 3)),
        "deviation": x.std(dim=(1, 2, 3)),
        "red": red,
        "green": green,
        "blue": blue,
        "gray images": (spread.amax(dim=(1, 2)) == 0).float(),
        "colorfulness": spread.mean(dim=(1, 2)),
        "roughness": across.abs().mean(dim=(1, 2)),
        "brighter to the right": across.mean(dim=(1, 2)),
        "dark pixels": (x < 0.25).float().mean(dim=(1, 2, 3)),
        "bright pixels": (x > 0.75).float().mean(dim=(1, 2, 3)),
    }


@_PIPELINES
@pytest.mark.parametrize("method", ["dino", *edges("msn")])
def test_views_are_distributed_as_the_released_codes(make_views: Pipeline, method: str) -> None:
    # First and second moments of 11 statistics of each of three views, image by image, within 4 standard errors of the
    # difference: 66 comparisons, of which one fails by chance in 240 choices of the draws, which are fixed.
    settings, _ = _AS_RELEASED[method]
    views = make_views(settings, _pictures(500))
    for view, (ours, theirs) in enumerate(zip(views, _published(method, 500), strict=True)):
        expected = _moments(theirs)
        for name, values in _moments(ours).items():
            for power in (1, 2):
                difference = values.double() ** power - expected[name].double() ** power
                error = (difference.std() / len(difference) ** 0.5).clamp(min=1e-6)
                assert difference.mean().abs() < 4 * error, (view, name, power)


def test_what_is_drawn_has_the_published_laws() -> None:
    # Shares within 4 standard errors, amounts by Kolmogorov and Smirnov; the laws are those of the released code.
    count = 10_000
    (_, globals_), (_, locals_) = _SMALL.params_of(_SMALL.draw(Draws(0, 0, torch.arange(count))))
    views = [*zip(*(x.chunk(2) for x in globals_), strict=True), *zip(*(x.chunk(3) for x in locals_), strict=True)]
    laws = ((1.0, 0), (0.1, 0.2), (0.5, 0), (0.5, 0), (0.5, 0))
    for view, (blurred, solarized) in zip(map(ViewParams._make, views), laws, strict=True):
        jittered = (view.factors != torch.tensor([1.0, 1.0, 1.0, 0.0])).any(dim=1)
        shares = ((jittered, 0.8), (view.gray, 0.2), (view.radius > 0, blurred), (view.solarize, solarized))
        for chosen, share in shares:
            assert abs(chosen.float().mean().item() - share) <= 4 * (share * (1 - share) / count) ** 0.5
        for amounts, low, high in zip(
            view.factors[jittered].T, (0.6, 0.6, 0.8, -0.1), (1.4, 1.4, 1.2, 0.1), strict=True
        ):
            assert stats.kstest(amounts.numpy(), "uniform", (low, high - low)).pvalue > 0.001
        radii = view.radius[view.radius > 0]
        assert stats.kstest(radii.numpy(), "uniform", (0.1, 1.9)).pvalue > 0.001
        orders = (view.order * torch.tensor([64, 16, 4, 1])).sum(dim=1).unique(return_counts=True)[1]
        assert len(orders) == 24
        assert stats.chisquare(orders.numpy()).pvalue > 0.001


# What the draws depend on.


def test_a_view_depends_on_seed_epoch_image_and_view_alone() -> None:
    images = _pictures(1).repeat(6, 1, 1, 1)  # one picture, as six images
    together = _SMALL.views_of_batch(images, Draws(1, 2, torch.arange(6)))
    alone = _SMALL.views_of_batch(images[:1], Draws(1, 2, torch.tensor([4])))
    more = replace(_SMALL, local_crops=replace(_SMALL.local_crops, number=5))
    further = more.views_of_batch(images, Draws(1, 2, torch.arange(6)))
    for view, (batch, single) in enumerate(zip(together, alone, strict=True)):
        torch.testing.assert_close(batch[4], single[0], rtol=0, atol=1)  # a product of other shapes rounds otherwise
        torch.testing.assert_close(further[view], batch, rtol=0, atol=1)
        assert len({image.numpy().tobytes() for image in batch}) == 6
    for other in (Draws(2, 2, torch.tensor([4])), Draws(1, 3, torch.tensor([4]))):
        for ours, theirs in zip(alone, _SMALL.views_of_batch(images[:1], other), strict=True):
            assert not torch.equal(ours, theirs)


def test_views_of_an_image_share_no_draw() -> None:
    # Views of the same kind from one number each would be the same view several times.
    draw = _SMALL.draw(Draws(0, 0, torch.arange(2000)))
    assert draw.shape == (5, 2000, sum(_DRAWS))
    correlations = torch.corrcoef(draw.transpose(0, 1).flatten(1).T) - torch.eye(5 * sum(_DRAWS))
    assert correlations.abs().max() < 5.5 / 2000**0.5  # 36,000 pairs


# In the data modules.


def test_device_batch_is_global_views_then_local_ones(cifar_root: Path) -> None:
    data = CIFAR10(root=str(cifar_root), batch_size=20, multi_crop=_SMALL)
    data.setup("fit")
    views, labels = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    assert [tuple(view.shape) for view in views] == [(20, 3, 32, 32)] * 2 + [(20, 3, 16, 16)] * 3
    assert labels.shape == (20,)
    assert all(view.is_contiguous() and view.dtype == torch.float32 for view in views)
    (images,), _ = data.on_after_batch_transfer(next(iter(data.val_dataloader())), 0)
    assert images.shape[1:] == (3, 32, 32)


def test_views_are_normalized(cifar_root: Path) -> None:
    # A view of the whole, resized to its own size, is the image: normalized as in evaluation.
    whole = Crops(number=1, size=32, scale=(1.0, 1.0), blur_prob=(0.0,))
    settings = replace(_PLAIN, global_crops=whole, local_crops=replace(whole, number=0), ratio=(1.0, 1.0))
    data = CIFAR10(root=str(cifar_root), batch_size=20, multi_crop=settings)
    batch = next(iter(data.train_dataloader()))
    (view,), _ = data.on_after_batch_transfer(batch, 0)
    (expected,), _ = data.on_after_batch_transfer(batch._replace(epoch=None), 0)
    torch.testing.assert_close(view, expected)


def test_photographs_do_not_depend_on_the_number_of_workers(photo_folder: PhotoFolder) -> None:
    root = photo_folder({"train/a": 6, "train/b": 6, "val/a": 2, "val/b": 2})
    batches = []
    for workers in (0, 2):
        data = ImageFolder(root=str(root), image_size=32, batch_size=4, num_workers=workers, multi_crop=_SMALL)
        batches.append(list(data.train_dataloader()))
    assert len(batches[0]) == 3
    for ours, theirs in zip(*batches, strict=True):
        assert [tuple(view.shape) for view in ours.images] == [(4, 3, 32, 32)] * 2 + [(4, 3, 16, 16)] * 3
        assert all(torch.equal(a, b) for a, b in zip(ours.images, theirs.images, strict=True))
        views, _ = data.on_after_batch_transfer(ours, 0)
        expected = (ours.images[1] / 255 - torch.tensor(data.mean)[:, None, None]) / torch.tensor(data.std)[
            :, None, None
        ]
        torch.testing.assert_close(views[1], expected)  # and nothing of `augment`, e.g. erasing
    (images,), _ = data.on_after_batch_transfer(next(iter(data.val_dataloader())), 0)
    assert images.shape == (4, 3, 32, 32)


# Mistakes.


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="1 or more"):
        MultiCrop(global_crops=Crops(number=0, size=16, scale=(0.1, 0.4), blur_prob=(0.5,)))
    with pytest.raises(ValueError, match="set one of them to null"):
        Digits(image_size=32, multi_crop=_SMALL, mixup=Mixup())
    # `multi_crop: {}` for small images: 224 pixels, at 49 times the cost, for a model of 32.
    with pytest.raises(ValueError, match=r"size is 224, but .* image_size 32"):
        Digits(image_size=32, multi_crop=MultiCrop()).setup("fit")
    Digits(image_size=256, multi_crop=MultiCrop()).setup("fit")  # trained at 224, evaluated at 256

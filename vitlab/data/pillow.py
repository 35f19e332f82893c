"""Pillow's operations of self-supervised pipelines on whole batches on their device, with parameters per image.

Images are floats with integer values in 0 … 255 after each operation, as in Pillow, because this is visible: Pillow
truncates after blending, and a color jitter darkens pictures by one gray level. Two things are exact here but not in
Pillow: hues, which it keeps in 8 bits, and blur, which it rounds after every pass.

These functions draw nothing, select nothing by a mask and never synchronize a GPU.

Letters: R images, C channels (1 or 3), H rows, W columns, S the side of the result.
"""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601-2, Pillow's "L"

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)  # the operations of a color jitter, as `jitter` numbers them

Views = Float[Tensor, "R C H W"]
PerImage = Float[Tensor, "R"]
Flags = Bool[Tensor, "R"]


def resized_boxes(
    images: Views, top: PerImage, left: PerImage, height: PerImage, width: PerImage, size: int, cubic: bool
) -> Float[Tensor, "R C S S"]:
    """Crop a box of whole pixels from each image and resize it by two matrices, low-pass filtered where it shrinks."""
    rows = _resize_weights(top, height, size, images.shape[-2], cubic)  # (R, S, H)
    columns = _resize_weights(left, width, size, images.shape[-1], cubic)  # (R, S, W)
    across = (images @ columns[:, None].mT).round_().clamp_(0, 255)  # (R, C, H, S)
    return (rows[:, None] @ across).round_().clamp_(0, 255)


def _resize_weights(start: PerImage, length: PerImage, size: int, pixels: int, cubic: bool) -> Float[Tensor, "R S P"]:
    """Return how much each of P pixels counts in each of S: a kernel as wide as the larger of the two grids' steps."""
    place = torch.arange(pixels, device=start.device)
    start, length = start[:, None, None], length[:, None, None]
    step = length / size
    centers = start + (torch.arange(size, device=start.device)[:, None] + 0.5) * step  # (R, S, 1)
    x = (place + 0.5 - centers).abs() / step.clamp(min=1)  # (R, S, P)
    weights = (1 - x).clamp(min=0)
    if cubic:  # Keys's kernel with Pillow's a = -1/2
        near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
        weights = torch.where(x < 1, near, far) * (x < 2)
    weights = weights * ((place >= start) & (place < start + length))  # nothing is seen of what lies outside the box
    return weights / weights.sum(dim=-1, keepdim=True)


def jitter(images: Views, order: Int64[Tensor, "R 4"], factors: Float[Tensor, "R 4"]) -> Views:
    """Change brightness, contrast, saturation and hue in each image's own order: torchvision's ColorJitter.

    `order` names the operations, first to last; `factors` are in the operations' fixed order. The hue is by far the
    most expensive: it is turned once, between two rounds of the others, which act in the round of their image's order.
    """
    one = torch.ones_like(factors)
    blends = torch.where(order == HUE, one, factors.gather(1, order))  # (R, 4), in each image's order
    before = (order == HUE).cumsum(dim=1) == 0  # (R, 4): this step comes before the hue's
    first, second = torch.where(before, blends, one), torch.where(before, one, blends)
    for step in (0, 1, 2):
        images = blend(images, order[:, step], first[:, step])
    images = turn_hue(images, factors[:, HUE])
    for step in (1, 2, 3):
        images = blend(images, order[:, step], second[:, step])
    return images


def blend(images: Views, operation: Int64[Tensor, "R"], factor: PerImage) -> Views:
    """Move each image to or from black (brightness), its mean gray (contrast) or its own gray (saturation)."""
    gray = to_gray(images)  # (R, 1, H, W)
    operation, factor = _over_pixels(operation), _over_pixels(factor)
    base = torch.where(operation == CONTRAST, gray.mean(dim=(2, 3), keepdim=True).round(), gray)
    return torch.lerp(base * (operation != BRIGHTNESS), images, factor).clamp_(0, 255).floor_()


def to_gray(images: Views) -> Float[Tensor, "R 1 H W"]:
    if images.shape[1] == 1:
        return images
    red, green, blue = images.split(1, dim=1)
    return (_LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue).round_()


def turn_hue(images: Views, turn: PerImage) -> Views:
    """Turn the hue by a fraction of the circle, in HSV, where saturation and value stay; one channel has none."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.split(1, dim=1)
    low, high = images.amin(dim=1, keepdim=True), images.amax(dim=1, keepdim=True)
    chroma = high - low
    unit = chroma.clamp(min=1e-6)  # gray pixels have no hue, and need none
    sextant = torch.where(
        high == red,
        (green - blue) / unit,
        torch.where(high == green, (blue - red) / unit + 2, (red - green) / unit + 4),
    )
    sextant = sextant + 6 * _over_pixels(turn)
    from_opposite = torch.cat([sextant, sextant + 4, sextant + 2], dim=1).remainder(6) - 3  # of each channel's own hue
    return torch.addcmul(low, chroma, from_opposite.abs_().sub_(1).clamp_(0, 1)).round_()


def blur(images: Views, radius: PerImage, largest: float) -> Views:
    """Blur by Pillow's GaussianBlur, three passes of a box blur of the same variance; a radius of 0 changes nothing.

    `largest` is the host's upper bound of `radius`. At the small radii of small images a sampled Gaussian would hardly
    blur at all, while Pillow's passes keep the variance.
    """
    rows, columns = (_box_weights(radius, side, largest)[:, None] for side in images.shape[-2:])  # (R, 1, P, P)
    return ((rows @ rows @ rows) @ images @ (columns @ columns @ columns).mT).round_()


def _box_weights(radius: PerImage, pixels: int, largest: float) -> Float[Tensor, "R P P"]:
    """Return the matrix of one pass: whole weight up to `whole` pixels away, a part of it one further; ends repeat.

    Gwosdek et al., "Theoretical foundations of Gaussian convolution by extended box filtering", 2011, section 2.
    """
    variance = radius[:, None, None].square() / 3  # (R, 1, 1), of one pass
    whole = (((12 * variance + 1).sqrt() - 1) / 2).floor()
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1).square()))

    reach = int(((4 * largest**2 + 1) ** 0.5 - 1) / 2) + 1
    to = torch.arange(pixels, device=radius.device)[:, None]
    of = torch.arange(-reach, pixels + reach, device=radius.device)
    distance = (to - of).abs()  # (P, reach + P + reach)
    weights = ((distance <= whole) + part * (distance == whole + 1)) / (2 * (whole + part) + 1)
    inner = weights[..., reach:-reach].clone()
    inner[..., 0] += weights[..., :reach].sum(dim=-1)
    inner[..., -1] += weights[..., -reach:].sum(dim=-1)
    return inner


def solarize(images: Views, chosen: Flags) -> Views:
    """Invert what is brighter than the middle, threshold 128, in the chosen images."""
    return torch.where(_over_pixels(chosen) & (images >= 128), 255 - images, images)


def _over_pixels(values: Tensor) -> Tensor:
    return values[:, None, None, None]

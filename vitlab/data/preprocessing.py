"""From any picture to a model's input, as in evaluation. Needs neither the data set nor Lightning."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float32
from PIL import Image
from torch import Tensor

from vitlab.data.augment import normalize, resize
from vitlab.data.decoding import PictureMode, Pixels, Size, Window, to_array, upright
from vitlab.data.photos import Framing, central_crop


@dataclass(frozen=True)
class Preprocessing:
    """A transform: `preprocessing(picture)` is the normalized image (C, H, W), float32.

    Args:
        framing: how a picture of any shape is resized and cropped.
        image_size: H = W, or H and W; where it is not the framing's size, the crop is resized once more, bicubic.
        mean, std: per channel, on the scale 0 … 1.
        picture_mode: Pillow's name of the channels.
        window: the values of a picture that become 0 and 255; None: it has 8 bits. An array has pixels in 0 … 255.
    """

    framing: Framing
    image_size: Size
    mean: tuple[float, ...]
    std: tuple[float, ...]
    picture_mode: PictureMode
    window: Window | None = None

    def __call__(self, picture: Image.Image | Pixels) -> Float32[Tensor, "C h w"]:
        how = self.picture_mode, self.window
        pixels = picture if isinstance(picture, np.ndarray) else to_array(upright(picture), *how)
        if pixels.shape[2] != len(self.mean):
            raise ValueError(f"a picture of {pixels.shape[2]} channels, and the model takes {len(self.mean)}")
        images = central_crop(pixels, *self.framing)[None]
        if self.image_size != self.framing.size:
            images = resize(images, self.image_size)
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return normalize(images, mean, std)[0]

    def metadata(self) -> dict[str, Any]:
        """Return plain values that describe it in a checkpoint or an exported file."""
        return {
            "in_chans": len(self.mean),
            "image_size": self.image_size,
            "mean": self.mean,
            "std": self.std,
            "crop_size": self.framing.size,
            "crop_pct": self.framing.crop_pct,
            "interpolation": self.framing.interpolation,
            "picture_mode": self.picture_mode,
            "window": self.window,
        }

    @classmethod
    def from_metadata(cls, values: Mapping[str, Any]) -> Self:
        """Return what `metadata` described."""
        size, image_size = (x if isinstance(x, int) else tuple(x) for x in (values["crop_size"], values["image_size"]))
        framing = Framing(size, values["crop_pct"], values["interpolation"])
        statistics = tuple(values["mean"]), tuple(values["std"])
        window = values.get("window")  # which older files lack
        return cls(framing, image_size, *statistics, values["picture_mode"], window and tuple(window))

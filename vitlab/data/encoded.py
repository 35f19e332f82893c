"""Random crops of photographs that are still files: decoded, cut and resized on the device, on a GPU by nvJPEG.

Workers then read files and draw boxes. nvJPEG rounds otherwise than libjpeg-turbo, which decodes on the host: the two
differ by a gray level or two.

Letters: B photographs, H rows, W columns, N bytes, S pixels a side of a crop.
"""

from collections.abc import Sequence

import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg  # type: ignore[import-untyped]

from vitlab.data.photos import Interpolation

File = UInt8[np.ndarray, "N"] | UInt8[np.ndarray, "H W 3"]


class EncodedCrops:
    """A batch of them. Not a tuple: nothing of it is to be moved to a device before it is decoded.

    Args:
        names: what to call the photographs in messages.
        files: of each a JPEG's bytes, or the pixels of what nvJPEG would not decode as `read_photo` does.
        boxes: of each the part to cut out: top, left, height, width.
        mirrored: of each whether left becomes right.
        size: S.
        interpolation: how a part is resized.
    """

    def __init__(
        self,
        names: Sequence[str],
        files: Sequence[File],
        boxes: Sequence[tuple[int, int, int, int]],
        mirrored: Sequence[bool],
        size: int,
        interpolation: Interpolation,
    ) -> None:
        assert len(names) == len(files) == len(boxes) == len(mirrored)
        self.names, self.files, self.boxes, self.mirrored = names, files, boxes, mirrored
        self.size, self.interpolation = size, interpolation

    def on(self, device: torch.device) -> UInt8[Tensor, "B 3 S S"]:
        """Decode them there.

        Raises:
            ValueError: a file is damaged; the message names it.
        """
        crops = []
        for pixels, (top, left, height, width), mirror in zip(
            self._decode(device), self.boxes, self.mirrored, strict=True
        ):
            crop = self._resize(pixels[:, top : top + height, left : left + width])
            crops.append(crop.flip(-1) if mirror else crop)
        return torch.stack(crops)

    def _resize(self, part: UInt8[Tensor, "3 H W"]) -> UInt8[Tensor, "3 S S"]:
        on_host = part.device.type == "cpu"  # where torch resizes bytes too
        images = part[None] if on_host else part[None].float()
        size = (self.size, self.size)
        resized = F.interpolate(images, size, mode=self.interpolation, antialias=True, align_corners=False)[0]
        return resized if on_host else resized.round_().clamp_(0, 255).to(torch.uint8)

    def _decode(self, device: torch.device) -> list[Tensor]:
        """Return the pixels (3, H, W) of each, all JPEGs in one call."""
        jpegs = {place: torch.tensor(file) for place, file in enumerate(self.files) if file.ndim == 1}
        decoded = dict(zip(jpegs, self._decode_jpegs(jpegs, device), strict=True))
        return [
            decoded[place] if place in decoded else torch.tensor(file).permute(2, 0, 1).to(device)
            for place, file in enumerate(self.files)
        ]

    def _decode_jpegs(self, jpegs: dict[int, Tensor], device: torch.device) -> list[Tensor]:
        if not jpegs:
            return []
        try:
            return decode_jpeg(list(jpegs.values()), ImageReadMode.RGB, device)
        except RuntimeError:  # one of them, which is not said: a rare kind of JPEG, or a damaged file
            return [self._decode_one(place, jpeg, device) for place, jpeg in jpegs.items()]

    def _decode_one(self, place: int, jpeg: Tensor, device: torch.device) -> Tensor:
        try:
            return decode_jpeg(jpeg, ImageReadMode.RGB, device)
        except RuntimeError:
            pass
        try:
            return torch.from_numpy(simplejpeg.decode_jpeg(jpeg.numpy())).permute(2, 0, 1).to(device)
        except ValueError as error:
            raise ValueError(
                f"{self.names[place]} cannot be decoded any more: {error}. Start again: the files are checked."
            ) from None

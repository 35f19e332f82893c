"""Photographs from files to RGB."""

import io
import logging
import os
import stat
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from vitlab.internals import silence_libtiff

# What Pillow reads without further programs, of files that hold one picture. Compared in lower case. Not .psd: many
# leave the whole picture out, and Pillow then shows a page that says so. Not .heic, .svg, .dng: Pillow knows none.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".jpe", ".mpo", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".avif"),
    *(".tga", ".dds", ".ico", ".qoi", ".pcx", ".sgi"),
)
# What Pillow says of data beside the picture, which is decoded all the same, once for each worker and file. What cannot
# be decoded raises an error, which says why.
warnings.filterwarnings("ignore", "", UserWarning, "PIL")
logging.getLogger("PIL").setLevel(logging.CRITICAL)
# Pillow's too, above its limit on an image's pixels; such images are refused here. Once per process: filters are not
# for threads.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)
LEAST_SIDE = 2  # pixels: less is a placeholder or a tracking pixel, not a photograph
MOST_RATIO = 100  # of the sides: a crop of 224 from 30,000 × 2 pixels would first be resized to 3.8 million columns
_START_OF_JPEG, _START_OF_SCAN, _APP1 = b"\xff\xd8", 0xDA, 0xE1  # markers: ITU-T T.81, table B.1
SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")


silence_libtiff()

Pixels = UInt8[np.ndarray, "H W 3"]
Half = Callable[[int, int], bool]  # of height and width: whether half of each will do


def open_rgb(path: str | Path) -> Image.Image:
    """Return the pixels of `read_rgb` as a picture of Pillow's."""
    return Image.fromarray(read_rgb(path))


def read_rgb(path: str | Path, half: Half | None = None) -> Pixels:
    """Return the pixels of `read_photo`."""
    return read_photo(path, half)[0]


def read_photo(path: str | Path, half: Half | None = None) -> tuple[Pixels, bytes | None]:
    """Decode one file as the picture that a viewer would show: upright, RGB, 8 bits a channel.

    Transparent pixels become white, as on a page: the color stored under them is often rubbish. 16-bit gray is scaled
    by 1/257, where Pillow's own conversion would cut everything above 255 off. Of an animation the first frame counts.

    Size and shape are looked at before anything is decoded: an image that says it has more pixels than Pillow's
    `Image.MAX_IMAGE_PIXELS` (89 million) would take seconds and a gigabyte in every epoch and worker, if it is a
    photograph at all.

    The file's bytes come along where they are a JPEG that simplejpeg decodes to the same pixels. Of such a one, half of
    the rows and columns are returned where `half`, given height and width, says that they will do: three fifths of the
    time, since a block's higher frequencies are read but not transformed.

    Raises:
        ValueError: nothing can be decoded, or it is no photograph; the message says why, not which file.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("not a regular file")  # opening a pipe would wait for ever
        with open(path, "rb") as file:
            jpeg = file.read() if file.peek(2)[:2] == _START_OF_JPEG else None
            pixels = None if jpeg is None else _pixels_of_jpeg(jpeg, half)
            if pixels is not None:
                return pixels, jpeg
            file.seek(0)
            with Image.open(file) as image:
                _check_size(*image.size)
                image.load()
                return np.array(_to_rgb(_upright(image))), None
    except UnidentifiedImageError:
        raise ValueError("empty file" if status.st_size == 0 else "not an image that Pillow knows") from None
    except Exception as error:  # Pillow's decoders raise whatever damaged bytes lead them to
        raise ValueError(str(error) or type(error).__name__) from None


def _pixels_of_jpeg(content: bytes, half: Half | None = None) -> Pixels | None:
    """Decode an upright JPEG, color or gray, to Pillow's very pixels in half of its time; None: leave it to Pillow.

    Both call libjpeg-turbo with the same settings; Pillow's way through its own buffers takes as long again. Where
    simplejpeg complains of anything, even of what it can go on after, Pillow decides whether there is a picture.
    """
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(content)
        _check_size(width, height)
        if colors in ("CMYK", "YCCK") or not _is_upright(content):
            return None
        if half is not None and half(height, width):
            return simplejpeg.decode_jpeg(content, min_height=-(-height // 2), min_width=-(-width // 2))
        return simplejpeg.decode_jpeg(content)
    except Exception:  # whatever it is, Pillow will say it
        return None


def _is_upright(content: bytes) -> bool:
    """Say whether a JPEG is not to be turned; Pillow is asked only if there is EXIF or XMP ahead of the picture."""
    place = 2
    while content[place] == 0xFF and content[place + 1] not in (_APP1, _START_OF_SCAN):
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")  # a marker's two bytes, and its segment
    if content[place] == 0xFF and content[place + 1] == _START_OF_SCAN:
        return True
    with Image.open(io.BytesIO(content)) as image:
        return _orientation(image) == 1


def _check_size(width: int, height: int) -> None:
    size = f"{width} x {height} pixels"
    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        raise ValueError(f"{size}, more than {Image.MAX_IMAGE_PIXELS:,}: could be a decompression bomb")
    if min(width, height) < LEAST_SIDE:
        raise ValueError(size)
    if max(width, height) > MOST_RATIO * min(width, height):
        raise ValueError(f"{size}, one side more than {MOST_RATIO} times the other")


def as_text(name: str) -> str:
    """Return a file's name as text that any file can hold; bytes in it that are no UTF-8 are written as escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 where the image lies upright; so does one whose EXIF block is damaged."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # as above
        return 1


def _upright(image: Image.Image) -> Image.Image:
    """Turn the image as its EXIF orientation says, where that can be done."""
    if _orientation(image) == 1:
        return image  # exif_transpose would copy it
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # as above
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode in SIXTEEN_BIT:
        values = np.asarray(image).clip(0, 65535) / 257
        return Image.fromarray(values.round().astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels, whose range is unknown")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        page = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(page, rgba).convert("RGB")
    return image.convert("RGB")

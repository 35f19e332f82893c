"""Photographs from files to pixels."""

import io
import logging
import os
import stat
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import simplejpeg
from jaxtyping import Float32, UInt8
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

from vitlab.internals import silence_libtiff

# Formats of single pictures that Pillow reads by itself, in lower case. Not .psd: many lack the composed picture, and
# Pillow then returns a placeholder.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".jpe", ".mpo", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".avif"),
    *(".tga", ".dds", ".ico", ".qoi", ".pcx", ".sgi"),
)
# Pillow's names of their formats: it goes by the content, whatever a file is called, and starts Ghostscript for EPS.
FORMATS = (
    *("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF"),
    *("TGA", "DDS", "ICO", "QOI", "PCX", "SGI"),
)
# Pillow warns of odd metadata, once per worker and file, and decodes the picture all the same.
warnings.filterwarnings("ignore", "", UserWarning, "PIL")
logging.getLogger("PIL").setLevel(logging.CRITICAL)
# `_check_size` rejects such images. Set once per process: filters are not thread-safe.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)
LEAST_SIDE = 2  # pixels: smaller is a placeholder or a tracking pixel, not a photograph
MOST_RATIO = 100  # of the sides: a crop of 224 from 30,000 × 2 pixels would first be resized to 3.8 million columns
_TILES = "cut it into tiles, as `vips dzsave` or `gdal_retile.py` do, which `data.groups` keeps in one split"
_START_OF_JPEG, _START_OF_SCAN, _APP1 = b"\xff\xd8", 0xDA, 0xE1  # markers: ITU-T T.81, table B.1
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # how files of it begin, the last two of BigTIFF
SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")


silence_libtiff()

# Pillow's names: gray, color, color with transparency; and other channels, from a source of the user's own.
PictureMode = Literal["L", "RGB", "RGBA", "array"]
Pixels = UInt8[np.ndarray, "H W C"] | Float32[np.ndarray, "H W C"]  # 0 … 255
Window = tuple[float, float] | tuple[str, str]  # the values that become 0 and 255, or percentiles: ("1%", "99%")
Half = Callable[[int, int], bool]  # of height and width: whether half the resolution is enough
Size = int | tuple[int, int]  # of a square, or height and width


def height_and_width(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def read_regular(path: str | Path) -> bytes:
    """Return the content of a file, or raise ValueError with the reason."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ValueError("not a regular file")  # opening a pipe would wait forever
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(str(error)) from None


def decode(content: bytes, mode: PictureMode = "RGB", half: Half | None = None, window: Window | None = None) -> Pixels:
    """Decode the bytes of a file to the picture that a viewer shows: upright, 8 bits per channel.

    In RGB and gray, transparent pixels become white: the color stored under them is often arbitrary. 16-bit gray is
    divided by 257; floating-point pixels, whose range is unknown, are rejected. With a `window` the values are floats,
    see `windowed`. The first frame of an animation counts. Where `half(height, width)` is true, a JPEG is decoded at
    half its size, in three fifths of the time.

    Raises:
        ValueError: the bytes cannot be decoded, or are not a photograph; the message gives the reason, not the file.
    """
    fast = _decode_jpeg(content, mode, half) if window is None else None
    if fast is not None:
        return fast
    try:
        if content[:4] in _TIFF and (mode == "array" or (window is not None and mode == "RGBA")):
            bands = _bands(content)
            return checked(bands) if window is None else windowed(bands, window)
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            _check_size(*image.size)
            if window is not None and has_deep_colors(image):  # of which Pillow gives 8 bits
                if content[:4] not in _TIFF:
                    raise ValueError("colors of 16 bits in a format other than TIFF")
                return windowed(_bands(content), window)
            image.load()
            return to_array(upright(image), mode, window)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError(f"more than {Image.MAX_IMAGE_PIXELS:,} pixels; {_TILES}") from None
    except UnidentifiedImageError:
        raise ValueError("not an image of a known format" if content else "empty file") from None
    except Exception as error:  # Pillow's decoders raise errors of any type for damaged bytes
        raise ValueError(str(error) or type(error).__name__) from None


def windowed(values: np.ndarray, window: Window) -> Float32[np.ndarray, "H W C"]:
    """Return values (H, W) or (H, W, C) as floats from 0, at `window[0]`, to 255, at `window[1]`, clipped; nan is 0.

    Percentiles are those of the image itself, of each channel; one that has a single value becomes 0.
    """
    values = values[..., None] if values.ndim == 2 else values
    ends: Any = window
    if isinstance(window[0], str):
        ends = np.nanpercentile(values, [float(str(end).rstrip("%")) for end in window], axis=(0, 1)).astype(np.float32)
        ends[1, ends[0] == ends[1]] = np.inf
    low, high = ends  # numbers, or (C,)
    return np.nan_to_num((values.astype(np.float32) - low) * (255 / (high - low)), nan=0.0).clip(0, 255)


def _bands(content: bytes) -> np.ndarray:
    """Return the values (H, W, C) of a TIFF file, whose bands are samples of a pixel, planes or pages."""
    try:
        import tifffile
    except ModuleNotFoundError:
        raise ValueError("its bands need the package tifffile: pip install 'vitlab[tiff]'") from None
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        series = file.series[0]
        sides = [side for axis, side in zip(series.axes, series.shape, strict=True) if axis in "XY"]
        if len(sides) != 2 or len(series.shape) > 3:
            raise ValueError(f"an array {series.shape} of the axes {series.axes}; expected height, width and bands")
        _check_size(sides[1], sides[0])
        values, band = series.asarray(), [i for i, axis in enumerate(series.axes) if axis not in "XY"]
    return np.moveaxis(values, band, [2]) if band else values[..., None]


def has_deep_colors(image: Image.Image) -> bool:
    """Return whether a file, not yet loaded, has colors of 16 bits, of which Pillow gives 8."""
    deep = isinstance(image, ImageFile.ImageFile) and any(";16" in str(tile.args) for tile in image.tile)
    return deep and image.mode not in SIXTEEN_BIT


def checked(pixels: np.ndarray) -> Pixels:
    """Return an array (H, W) or (H, W, C) as (H, W, C), if it is a picture."""
    if pixels.ndim not in (2, 3) or pixels.dtype != np.uint8:
        wanted = "(H, W) or (H, W, C) of uint8, or data.window: [LOW, HIGH]"
        raise ValueError(f"an array {pixels.shape} of {pixels.dtype}; expected {wanted}")
    _check_size(pixels.shape[1], pixels.shape[0])
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _decode_jpeg(content: bytes, mode: PictureMode, half: Half | None) -> Pixels | None:
    """Decode an upright color or gray JPEG to Pillow's exact pixels in half of its time; None: Pillow decides."""
    if content[:2] != _START_OF_JPEG or mode not in ("L", "RGB"):
        return None
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(content)
        _check_size(width, height)
        if colors in ("CMYK", "YCCK"):
            return None
        place = 2
        while content[place] == 0xFF and content[place + 1] not in (_APP1, _START_OF_SCAN):
            place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")  # a marker's two bytes, and its segment
        if content[place] != 0xFF or content[place + 1] != _START_OF_SCAN:  # there are EXIF or XMP data
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                if _orientation(image) != 1:
                    return None
        smaller = {}
        if half is not None and half(height, width):
            smaller = {"min_height": -(-height // 2), "min_width": -(-width // 2)}
        pixels = simplejpeg.decode_jpeg(content, **smaller)
    except Exception:  # Pillow will report it
        return None
    return pixels if mode == "RGB" else to_array(Image.fromarray(pixels), mode)


def _check_size(width: int, height: int) -> None:
    size = f"{width} x {height} pixels"
    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        raise ValueError(f"{size}, more than {Image.MAX_IMAGE_PIXELS:,}; {_TILES}")
    if min(width, height) < LEAST_SIDE:
        raise ValueError(size)
    if max(width, height) > MOST_RATIO * min(width, height):
        raise ValueError(f"{size}, one side more than {MOST_RATIO} times the other")


def as_text(name: str) -> str:
    """Return a file's name as valid text; bytes that are not UTF-8 are written as escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def some(names: Sequence[str], most: int = 8) -> str:
    """Return the first names for a message, and how many more there are."""
    return ", ".join(map(as_text, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation; 1, upright, where the EXIF block is damaged."""
    with suppress(Exception):  # decoders raise errors of any type
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    return 1


def upright(image: Image.Image) -> Image.Image:
    """Rotate the image as its EXIF orientation requires, where this is possible."""
    with suppress(Exception):  # as above
        if _orientation(image) != 1:  # exif_transpose would copy it
            return ImageOps.exif_transpose(image)
    return image


def to_array(image: Image.Image, mode: PictureMode, window: Window | None = None) -> Pixels:
    """Return the pixels of any Pillow image in a mode; RGB where a data set has other channels than Pillow knows."""
    if window is not None:
        if image.mode not in (*SIXTEEN_BIT, "F", "L", "RGB"):
            raise ValueError(f"pixels of Pillow's mode {image.mode}; a window takes gray or color values")
        values = windowed(np.asarray(image), window)
        return values.repeat(3, axis=2) if mode == "RGB" and values.shape[2] == 1 else values
    if mode == "RGBA" and image.mode not in (*SIXTEEN_BIT, "F"):
        return np.array(image.convert("RGBA"))
    converted = np.array(_to_rgb(image) if mode in ("RGB", "array") else _to_rgb(image).convert(mode))
    return converted.reshape(*converted.shape[:2], -1)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode in SIXTEEN_BIT:
        values = np.asarray(image).clip(0, 65535) / 257
        return Image.fromarray(values.round().astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        low, high = image.getextrema()
        raise ValueError(f"floating-point pixels from {low:g} to {high:g}, whose range is unknown; give data.window")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        page = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(page, rgba).convert("RGB")
    return image.convert("RGB")

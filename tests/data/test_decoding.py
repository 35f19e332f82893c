"""Files to RGB: what is converted, and how."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from vitlab.data import decoding
from vitlab.data.checking import is_faint
from vitlab.data.decoding import FORMATS, IMAGE_SUFFIXES, decode, read_regular
from vitlab.data.photos import Framing, Preprocessing


def _rgb(path: Path) -> np.ndarray:
    pixels = decode(read_regular(path))
    assert pixels.shape[2] == 3
    return pixels


def test_a_picture_is_turned_upright_as_a_file_is(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright, and a viewer turns the stored picture by 90 degrees clockwise
    _noise(40, 20).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    transform = Preprocessing(Framing(20, None, "bicubic"), 20, (0.5,) * 3, (0.5,) * 3, "RGB")
    with Image.open(tmp_path / "turned.jpg") as picture:
        torch.testing.assert_close(transform(picture), transform(_rgb(tmp_path / "turned.jpg")))


@pytest.mark.filterwarnings("ignore:.*orrupt EXIF data")  # as the module does; pytest forgets its filters
def test_damaged_exif_does_not_cost_the_picture(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff\x01")
    assert _rgb(tmp_path / "a.jpg").shape == (8, 8, 3)


def test_grayscale_becomes_three_equal_channels(tmp_path: Path) -> None:
    Image.new("L", (4, 4), 77).save(tmp_path / "a.png")
    assert (_rgb(tmp_path / "a.png") == 77).all()
    Image.new("1", (4, 4), 1).save(tmp_path / "b.png")
    assert (_rgb(tmp_path / "b.png") == 255).all()


def test_sixteen_bits_are_scaled_not_cut(tmp_path: Path) -> None:
    # Pillow's convert("RGB") makes everything above 255 white: a 16-bit photograph would be a white page.
    values = np.array([[0, 257, 128 * 257, 65535], [0, 0, 0, 0]], np.uint16)
    for name in ("a.png", "b.tif"):
        Image.fromarray(values).save(tmp_path / name)
        assert _rgb(tmp_path / name)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_palette_and_cmyk_keep_their_colors(tmp_path: Path) -> None:
    colors = Image.new("RGB", (8, 8), (200, 30, 60))
    colors.convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "a.png")
    assert (_rgb(tmp_path / "a.png") == (200, 30, 60)).all()
    colors.convert("CMYK").save(tmp_path / "b.jpg", quality=100)
    assert np.abs(_rgb(tmp_path / "b.jpg").astype(int) - (200, 30, 60)).max() <= 4


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_are_white(tmp_path: Path, mode: str) -> None:
    # Dropping the alpha channel would show what the program that wrote the file left under it, here black.
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    image.paste((10, 10, 10, 255), (0, 0, 2, 4))
    image = image.quantize(4) if mode == "P" else image.convert(mode)
    image.save(tmp_path / "a.png")
    seen = _rgb(tmp_path / "a.png")
    assert (seen[:, 3] == 255).all()
    assert (seen[:, 0] < 20).all()


def test_of_an_animation_the_first_frame_counts(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (_rgb(tmp_path / "a.gif") == (255, 0, 0)).all()


# JPEGs, of which most are decoded by another library than Pillow.

_FLAVORS = {
    "4:2:0": {"subsampling": 2},
    "4:2:2": {"subsampling": 1},
    "4:4:4": {"subsampling": 0, "quality": 95},
    "progressive": {"progressive": True},
    "restart markers": {"restart_marker_blocks": 2},
    "optimized": {"optimize": True, "quality": 30},
    "stored as RGB": {"keep_rgb": True},
    "gray": {},
}


def _by_pillow(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def _by_simplejpeg(path: Path) -> np.ndarray | None:
    return decoding._decode_jpeg(path.read_bytes(), "RGB", None)


def _noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", [(64, 48), (37, 53), (2, 3), (17, 16)], ids=str)
@pytest.mark.parametrize("flavor", _FLAVORS)
def test_a_jpeg_is_decoded_to_pillows_very_pixels(tmp_path: Path, flavor: str, size: tuple[int, int]) -> None:
    path = tmp_path / "a.jpg"
    _noise(*size).convert("L" if flavor == "gray" else "RGB").save(path, **_FLAVORS[flavor])
    pixels = _by_simplejpeg(path)
    assert pixels is not None
    assert np.array_equal(pixels, _by_pillow(path))
    assert np.array_equal(decode(read_regular(path)), pixels)


@pytest.mark.parametrize("orientation", range(10))  # 0 and 9 are none
def test_a_turned_jpeg_is_upright(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    _noise(24, 40).save(tmp_path / "a.jpg", exif=exif)
    assert np.array_equal(decode(read_regular(tmp_path / "a.jpg")), _by_pillow(tmp_path / "a.jpg"))
    assert (_by_simplejpeg(tmp_path / "a.jpg") is None) == (orientation != 1)


def test_other_files_are_left_to_pillow(tmp_path: Path) -> None:
    _noise(24, 40).convert("CMYK").save(tmp_path / "a.jpg")
    _noise(24, 40).save(tmp_path / "b.jpg", format="PNG")
    for name in ("a.jpg", "b.jpg"):
        assert _by_simplejpeg(tmp_path / name) is None
        assert np.array_equal(decode(read_regular(tmp_path / name)), _by_pillow(tmp_path / name))


def test_of_several_pictures_in_a_jpeg_the_first_counts(tmp_path: Path) -> None:
    # A telephone's MPO: after the picture another of its depth, or of its brightness.
    _noise(24, 40).save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[_noise(12, 20)])
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.format == "MPO"
    assert np.array_equal(decode(read_regular(tmp_path / "a.jpg")), _by_pillow(tmp_path / "a.jpg"))


def test_of_a_damaged_jpeg_pillow_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # libjpeg goes on after much damage, with a warning that Pillow does not hear: such a picture is kept as it is.
    rng = np.random.default_rng(0)
    path = tmp_path / "a.jpg"
    said = {}
    for turn in range(300):
        out = io.BytesIO()
        _noise(48, 32).save(out, "jpeg", **list(_FLAVORS.values())[turn % 6])
        content = bytearray(out.getvalue())
        for place in rng.integers(2, len(content), size=turn % 5):
            content[place] = rng.integers(256)
        path.write_bytes(content[: len(content) - turn % 7])
        for way in ("ours", "Pillow's"):
            with monkeypatch.context() as patch:
                if way == "Pillow's":
                    patch.setattr(decoding, "_decode_jpeg", lambda *_: None)
                try:
                    said[way] = decode(read_regular(path)).tobytes()
                except ValueError as error:
                    said[way] = str(error).encode()
        assert said["ours"] == said["Pillow's"]


@pytest.mark.parametrize("name", ["EPS", "PDF", "WMF", "FITS", "PSD"])
def test_formats_of_no_photograph_are_not_opened_whatever_the_file_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Pillow starts Ghostscript for EPS, without a limit of time."""
    start = {"EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PDF": b"%PDF-1.4", "PSD": b"8BPS\0\1"}
    start |= {"WMF": b"\xd7\xcd\xc6\x9a\0\0" + bytes(40), "FITS": b"SIMPLE  =                    T"}
    file = tmp_path / "photo.png"
    file.write_bytes(start[name] + b"\n" * 3000)
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was started"))
    with pytest.raises(ValueError, match="not an image of a known format"):
        decode(read_regular(file))
    assert not is_faint(file, np.zeros((9, 9, 3), np.uint8))


def test_what_is_opened_is_what_the_suffixes_mean() -> None:
    Image.init()
    meant = {Image.EXTENSION[suffix] for suffix in IMAGE_SUFFIXES}
    assert set(FORMATS) == meant - {"MPO"} | {"DIB"}  # several JPEGs in a file open as JPEG; .dib is written as DIB

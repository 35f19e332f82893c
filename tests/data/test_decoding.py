"""Files to RGB: what is converted, what is refused, what is remembered."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from vitlab.data import decoding
from vitlab.data.decoding import Pixels, find_broken, open_rgb, read_rgb


def _rgb(path: Path) -> np.ndarray:
    image = open_rgb(path)
    assert image.mode == "RGB"
    return np.asarray(image)


def test_orientation_is_honoured(tmp_path: Path) -> None:
    # Orientation 6: the camera was held upright, and a viewer turns the stored picture by 90 degrees clockwise.
    stored = Image.new("RGB", (40, 20), "black")
    stored.paste("white", (0, 0, 20, 20))  # left half white
    exif = Image.Exif()
    exif[0x0112] = 6
    stored.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    seen = _rgb(tmp_path / "turned.jpg")
    assert seen.shape == (40, 20, 3)
    assert seen[5, 10, 0] > 250
    assert seen[35, 10, 0] < 5


@pytest.mark.filterwarnings("ignore:.*orrupt EXIF data")  # as the module does; pytest forgets its filters
def test_damaged_exif_does_not_cost_the_picture(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff\x01")
    assert _rgb(tmp_path / "a.jpg").shape == (8, 8, 3)


def test_greyscale_becomes_three_equal_channels(tmp_path: Path) -> None:
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


def test_palette_and_cmyk_keep_their_colours(tmp_path: Path) -> None:
    colours = Image.new("RGB", (8, 8), (200, 30, 60))
    colours.convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "a.png")
    assert (_rgb(tmp_path / "a.png") == (200, 30, 60)).all()
    colours.convert("CMYK").save(tmp_path / "b.jpg", quality=100)
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
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (_rgb(tmp_path / "a.gif") == (255, 0, 0)).all()


# JPEGs, of which most are decoded by another library than Pillow.

_FLAVOURS = {
    "4:2:0": {"subsampling": 2},
    "4:2:2": {"subsampling": 1},
    "4:4:4": {"subsampling": 0, "quality": 95},
    "progressive": {"progressive": True},
    "restart markers": {"restart_marker_blocks": 2},
    "optimised": {"optimize": True, "quality": 30},
    "stored as RGB": {"keep_rgb": True},
    "grey": {},
}


def _by_pillow(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def _by_simplejpeg(path: Path) -> np.ndarray | None:
    return decoding._pixels_of_jpeg(path.read_bytes())


def _noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", [(64, 48), (37, 53), (2, 3), (17, 16)], ids=str)
@pytest.mark.parametrize("flavour", _FLAVOURS)
def test_a_jpeg_is_decoded_to_pillows_very_pixels(tmp_path: Path, flavour: str, size: tuple[int, int]) -> None:
    path = tmp_path / "a.jpg"
    _noise(*size).convert("L" if flavour == "grey" else "RGB").save(path, **_FLAVOURS[flavour])
    pixels = _by_simplejpeg(path)
    assert pixels is not None
    assert np.array_equal(pixels, _by_pillow(path))
    assert np.array_equal(read_rgb(path), pixels)


@pytest.mark.parametrize("orientation", range(10))  # 0 and 9 are none
def test_a_turned_jpeg_is_upright(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    _noise(24, 40).save(tmp_path / "a.jpg", exif=exif)
    assert np.array_equal(read_rgb(tmp_path / "a.jpg"), _by_pillow(tmp_path / "a.jpg"))
    assert (_by_simplejpeg(tmp_path / "a.jpg") is None) == (orientation != 1)


def test_other_files_are_left_to_pillow(tmp_path: Path) -> None:
    _noise(24, 40).convert("CMYK").save(tmp_path / "a.jpg")
    _noise(24, 40).save(tmp_path / "b.jpg", format="PNG")
    for name in ("a.jpg", "b.jpg"):
        assert _by_simplejpeg(tmp_path / name) is None
        assert np.array_equal(read_rgb(tmp_path / name), _by_pillow(tmp_path / name))


def test_of_several_pictures_in_a_jpeg_the_first_counts(tmp_path: Path) -> None:
    # A telephone's MPO: after the picture another of its depth, or of its brightness.
    _noise(24, 40).save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[_noise(12, 20)])
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.format == "MPO"
    assert np.array_equal(read_rgb(tmp_path / "a.jpg"), _by_pillow(tmp_path / "a.jpg"))


def test_of_a_damaged_jpeg_pillow_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # libjpeg goes on after much damage, with a warning that Pillow does not hear: such a picture is kept as it is.
    rng = np.random.default_rng(0)
    path = tmp_path / "a.jpg"
    said = {}
    for turn in range(300):
        out = io.BytesIO()
        _noise(48, 32).save(out, "jpeg", **list(_FLAVOURS.values())[turn % 6])
        content = bytearray(out.getvalue())
        for place in rng.integers(2, len(content), size=turn % 5):
            content[place] = rng.integers(256)
        path.write_bytes(content[: len(content) - turn % 7])
        for way in ("ours", "Pillow's"):
            with monkeypatch.context() as patch:
                if way == "Pillow's":
                    patch.setattr(decoding, "_pixels_of_jpeg", lambda *_: None)
                try:
                    said[way] = read_rgb(path).tobytes()
                except ValueError as error:
                    said[way] = str(error).encode()
        assert said["ours"] == said["Pillow's"]


def _broken(folder: Path, kind: str) -> str:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    name = f"{kind}.png" if kind in ("float", "bomb", "truncated_png") else f"{kind}.jpg"
    path = folder / name
    match kind:
        case "empty":
            path.touch()
        case "text":
            path.write_text("not an image")
        case "one_pixel":
            Image.new("RGB", (1, 1)).save(path)
        case "line":
            Image.new("RGB", (100, 1)).save(path)
        case "missing":
            path.symlink_to("nowhere.jpg")
        case "truncated" | "truncated_png":
            picture.save(path)
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        case "bomb":
            Image.new("1", (20_000, 10_000)).save(path)
        case "large":
            Image.new("1", (10_000, 9_500)).save(path, format="PNG")
        case "float":
            Image.fromarray(np.zeros((4, 4), np.float32)).save(path, format="TIFF")
    return name


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("empty", "empty file"),
        ("text", "not an image"),
        ("one_pixel", "1 x 1 pixels"),
        ("line", "100 x 1 pixels"),
        ("missing", "No such file"),
        ("truncated", "truncated"),
        ("truncated_png", ""),
        ("bomb", "decompression bomb"),
        ("large", "decompression bomb"),  # between Pillow's warning and its error
        ("float", "range is unknown"),
    ],
)
def test_broken_file_is_found_with_its_reason(tmp_path: Path, kind: str, why: str) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "good.jpg")
    name = _broken(tmp_path, kind)
    broken, listing = find_broken(tmp_path, ["good.jpg", name])
    assert list(broken) == [name]
    assert why in broken[name]
    assert str(tmp_path / name) in listing.read_text()


def test_second_check_decodes_only_what_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{i}.png" for i in range(5)]
    for name in names:
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    opened: list[str] = []

    def spy(path: Path) -> Pixels:
        opened.append(path.name)
        return read_rgb(path)

    monkeypatch.setattr(decoding, "read_rgb", spy)
    find_broken(tmp_path, names)
    assert sorted(opened) == names
    opened.clear()
    assert find_broken(tmp_path, names)[0] == {}
    assert opened == []
    (tmp_path / "3.png").write_bytes(b"damaged since")
    assert list(find_broken(tmp_path, names)[0]) == ["3.png"]
    assert opened == ["3.png"]


def test_check_of_the_same_bytes_in_another_folder_is_its_own(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / folder / "x.png")
    find_broken(tmp_path / "a", ["x.png"])
    (tmp_path / "b" / "x.png").write_bytes(b"")
    assert list(find_broken(tmp_path / "b", ["x.png"])[0]) == ["x.png"]


def test_interrupted_check_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_CHUNK", 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    names = [f"{i}.png" for i in range(6)]
    for name in names:
        Image.new("RGB", (4, 4)).save(tmp_path / name)

    def interrupt(path: Path) -> Pixels:
        if path.name == "3.png":
            raise KeyboardInterrupt
        return read_rgb(path)

    monkeypatch.setattr(decoding, "read_rgb", interrupt)
    with pytest.raises(KeyboardInterrupt):
        find_broken(tmp_path, names)

    opened: list[str] = []
    monkeypatch.setattr(decoding, "read_rgb", lambda path: opened.append(path.name) or read_rgb(path))
    find_broken(tmp_path, names)
    assert sorted(opened) == ["3.png", "4.png", "5.png"]


def test_damaged_or_unwritable_cache_only_costs_time(tmp_path: Path, own_cache: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "x.png")
    find_broken(tmp_path, ["x.png"])
    (cache,) = (own_cache / "vitlab").glob("*.npy")
    cache.write_bytes(b"rubbish")
    assert find_broken(tmp_path, ["x.png"])[0] == {}
    os.environ["XDG_CACHE_HOME"] = str(tmp_path / "x.png")  # a file: nothing can be written below it
    assert find_broken(tmp_path, ["x.png"])[0] == {}

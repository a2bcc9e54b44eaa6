import io
import logging
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
import torch
from PIL import Image, ImageCms

from hyperinverter.contracts import UserError
from hyperinverter.data import opening, squares
from hyperinverter.data.opening import unreadable_header
from hyperinverter.data.transforms import (
    load_rgb,
    read_photo,
    read_pixels,
    save_png,
    to_image,
    to_pixels,
    to_tensor,
)
from hyperinverter.system import terminal

MakeImage = Callable[..., Image.Image]


@pytest.fixture(autouse=True)
def _nothing_told_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "_warned", set())


def assert_like(pixels: np.ndarray, image: Image.Image, tolerance: int) -> None:
    """Pixels equal an image of the same size up to a few levels."""
    expected = np.asarray(image.convert("RGB")).astype(int)
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).max() <= tolerance


def test_photo_becomes_a_tensor_in_range(tmp_path: Path) -> None:
    image = Image.new("RGB", (20, 20), (255, 0, 51))
    image.save(tmp_path / "x.png")
    photo = read_photo(tmp_path / "x.png", 20)
    assert photo.shape == (1, 3, 20, 20)
    assert photo.dtype == torch.float32
    torch.testing.assert_close(photo[0, :, 3, 7], torch.tensor([1.0, -1.0, -0.6]))


def test_every_level_survives_there_and_back(tmp_path: Path) -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    np.testing.assert_array_equal(to_pixels(to_tensor(pixels)), pixels)
    save_png(to_tensor(pixels), tmp_path / "x.png")
    np.testing.assert_array_equal(read_pixels(tmp_path / "x.png", 16), pixels)
    assert [p.name for p in tmp_path.iterdir()] == ["x.png"]


def test_out_of_range_is_clamped_not_wrapped() -> None:
    image = torch.tensor([-3.0, 0.0, 3.0]).view(3, 1, 1)
    assert to_pixels(image).tolist() == [[[0, 128, 255]]]
    assert to_pixels(image.bfloat16()).tolist() == [[[0, 128, 255]]]


def test_what_cannot_become_an_image() -> None:
    with pytest.raises(ValueError, match="NaN"):
        to_pixels(torch.full((3, 2, 2), float("nan")))
    with pytest.raises(ValueError, match="one RGB image"):
        to_image(torch.zeros(2, 3, 4, 4))
    assert to_image(torch.zeros(1, 3, 4, 4)).size == (4, 4)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tiff"])
def test_formats(tmp_path: Path, make_image: MakeImage, suffix: str) -> None:
    image = make_image()
    image.save(tmp_path / f"x.{suffix}")
    assert_like(
        read_pixels(tmp_path / f"x.{suffix}", 40), image, 0 if suffix in ("png", "bmp", "tiff") else 25
    )


OLD_PILLOW = pytest.mark.skipif(
    int(PIL.__version__.split(".")[0]) < 13, reason="before 13, Pillow cannot read the YCbCr TIFF it writes"
)


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", pytest.param("YCbCr", marks=OLD_PILLOW), "CMYK"])
def test_modes(tmp_path: Path, make_image: MakeImage, mode: str) -> None:
    image = make_image().convert(mode)
    path = tmp_path / ("x.tiff" if mode in ("YCbCr", "CMYK") else "x.png")
    image.save(path)
    assert_like(read_pixels(path, 40), image, 1)


def test_cmyk_jpeg_keeps_light_light(tmp_path: Path) -> None:
    Image.new("CMYK", (32, 32), (0, 0, 0, 0)).save(tmp_path / "white.jpg")
    Image.new("CMYK", (32, 32), (0, 255, 255, 0)).save(tmp_path / "red.jpg")
    assert read_pixels(tmp_path / "white.jpg", 32).min() > 245
    red = read_pixels(tmp_path / "red.jpg", 32)[16, 16]
    assert red[0] > 240
    assert red[1:].max() < 15


@pytest.mark.parametrize("dtype", [np.dtype("<u2"), np.dtype(">u2")])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path, dtype: np.dtype) -> None:
    values = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(dtype)
    for suffix in ("png", "tiff"):
        path = tmp_path / f"x.{suffix}"
        Image.frombytes("I;16" if dtype.str == "<u2" else "I;16B", (32, 32), values.tobytes()).save(path)
        pixels = read_pixels(path, 32).astype(int)
        assert np.abs(pixels[..., 0] - values.astype(float) / 257).max() <= 0.5 + 1e-9
        assert (pixels == pixels[..., :1]).all()


def test_sixteen_bits_in_a_32_bit_mode(tmp_path: Path) -> None:
    values = np.array([0, 257, 65535], np.int32).repeat(16)[None].repeat(48, 0)
    Image.fromarray(values).save(tmp_path / "x.tiff")
    assert read_pixels(tmp_path / "x.tiff", 48)[0, [0, 20, 47], 0].tolist() == [0, 1, 255]


@pytest.mark.parametrize("values", [np.full((20, 20), 70000, np.int32), np.full((20, 20), 0.5, np.float32)])
def test_pixels_whose_white_is_unknown(tmp_path: Path, values: np.ndarray) -> None:
    Image.fromarray(values).save(tmp_path / "x.tiff")
    with pytest.raises(UserError, match=r"x\.tiff has 32-bit pixels .* save it with 8 or 16 bits"):
        read_photo(tmp_path / "x.tiff", 16)


def test_transparency_lies_over_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (16, 0, 32, 32))
    image.paste((0, 0, 0, 51), (0, 16, 16, 32))
    image.save(tmp_path / "x.png")
    pixels = read_pixels(tmp_path / "x.png", 32)
    assert pixels[4, 4].tolist() == [255, 255, 255]
    assert pixels[4, 24].tolist() == [0, 0, 255]
    assert pixels[24, 4].tolist() == [204, 204, 204]


def test_transparent_palette_colour_is_white(tmp_path: Path) -> None:
    image = Image.new("P", (32, 32), 1)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.paste(0, (0, 0, 16, 32))
    image.save(tmp_path / "x.png", transparency=1)
    pixels = read_pixels(tmp_path / "x.png", 32)
    assert pixels[0, 0].tolist() == [10, 20, 30]
    assert pixels[0, 31].tolist() == [255, 255, 255]


def test_photo_is_turned_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (32, 32))
    image.paste((255, 255, 255), (0, 0, 32, 16))  # light above
    turned = image.rotate(90)  # as a camera held sideways stores it
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to show
    turned.save(tmp_path / "x.png", exif=exif)
    pixels = read_pixels(tmp_path / "x.png", 32)
    assert pixels[:16].min() == 255
    assert pixels[16:].max() == 0


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "lime", "blue")]
    for suffix in ("png", "webp", "gif", "tiff"):
        path = tmp_path / f"x.{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=50)
        assert (np.abs(read_pixels(path, 32)[16, 16].astype(int) - [255, 0, 0]) <= 3).all(), suffix


def test_middle_square_of_a_wide_and_a_tall_photo(tmp_path: Path) -> None:
    wide = Image.new("RGB", (96, 32), "red")
    wide.paste((0, 0, 255), (32, 0, 64, 32))
    wide.save(tmp_path / "wide.png")
    wide.rotate(90, expand=True).save(tmp_path / "tall.png")
    for name in ("wide.png", "tall.png"):
        for resolution in (16, 32):
            pixels = read_pixels(tmp_path / name, resolution)
            assert (pixels == np.array([0, 0, 255])).all(), name  # not one red pixel bleeds in


def test_shrinking_averages(tmp_path: Path) -> None:
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "x.png")
    pixels = read_pixels(tmp_path / "x.png", 16)
    assert np.abs(pixels[:, 1:-1].astype(int) - 127).max() <= 2
    assert read_pixels(tmp_path / "x.png", 16, "box").std() < 1


def test_enlarging_is_told_once(
    tmp_path: Path, make_image: MakeImage, caplog: pytest.LogCaptureFixture
) -> None:
    make_image().save(tmp_path / "x.png")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert read_photo(tmp_path / "x.png", 64).shape == (1, 3, 64, 64)
        read_photo(tmp_path / "x.png", 32)
    assert [r.getMessage() for r in caplog.records] == [
        "photos smaller than 64 px are enlarged (the first has 40 px)"
    ]


def _profile(red: tuple[float, float]) -> bytes:
    """An sRGB profile whose red primary lies elsewhere: a wide-gamut camera, say."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert red != (0, 0)
    changed = bytearray(profile)
    start = profile.index(b"rXYZ")
    offset = int.from_bytes(profile[start + 4 : start + 8], "big")
    for i, value in enumerate(red):
        changed[offset + 8 + 4 * i : offset + 12 + 4 * i] = int(value * 65536).to_bytes(4, "big")
    return bytes(changed).replace("sRGB".encode("utf-16-be"), "Cam1".encode("utf-16-be"))


def test_colour_profile_is_followed(tmp_path: Path) -> None:
    image = Image.new("RGB", (32, 32), (200, 100, 100))
    image.save(tmp_path / "wide.png", icc_profile=_profile((0.6, 0.3)))
    image.save(
        tmp_path / "srgb.png", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    )
    wide, srgb = read_pixels(tmp_path / "wide.png", 32)[0, 0], read_pixels(tmp_path / "srgb.png", 32)[0, 0]
    assert srgb.tolist() == [200, 100, 100]
    assert wide[0] > 210  # the same numbers mean a redder red there


def test_useless_colour_profile_is_told_and_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = Image.new("RGB", (32, 32), (200, 100, 50))
    image.save(tmp_path / "x.png", icc_profile=b"not a profile at all")
    with caplog.at_level(logging.WARNING):
        assert read_pixels(tmp_path / "x.png", 32)[0, 0].tolist() == [200, 100, 50]
    assert "x.png: its colour profile cannot be used" in caplog.text
    image.convert("L").save(tmp_path / "grey.png", icc_profile=_profile((0.6, 0.3)))  # an RGB leftover
    assert len(set(read_pixels(tmp_path / "grey.png", 32)[0, 0].tolist())) == 1


def damaged(path: Path, image: Image.Image, kind: str) -> Path:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG" if kind == "jpg" else kind.upper())
    path.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    return path


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "bmp", "tiff", "gif"])
def test_truncated_file_is_named(tmp_path: Path, make_image: MakeImage, kind: str) -> None:
    path = damaged(tmp_path / f"cut.{kind}", make_image((200, 200)), kind)
    with pytest.raises(UserError, match=rf"cut\.{kind} cannot be read as an image .* may be damaged"):
        read_photo(path, 64)


def test_what_is_no_photo(tmp_path: Path) -> None:
    (tmp_path / "page.jpg").write_text("<html>quota exceeded</html>")
    (tmp_path / "empty.png").touch()
    with pytest.raises(
        UserError, match=r"page\.jpg is a web page, which is not read as a photo; download it"
    ):
        read_photo(tmp_path / "page.jpg", 64)
    (tmp_path / "noise.jpg").write_bytes(bytes(range(99)))
    with pytest.raises(UserError, match=r"noise\.jpg cannot be read as an image \(none of PNG, JPEG, .*\)"):
        read_photo(tmp_path / "noise.jpg", 64)
    with pytest.raises(UserError, match=r"empty\.png is an empty file"):
        read_photo(tmp_path / "empty.png", 64)
    with pytest.raises(UserError, match=r"no photo at .*missing\.png"):
        read_photo(tmp_path / "missing.png", 64)
    with pytest.raises(UserError, match="no photo at"):
        read_photo(tmp_path, 64)


@pytest.mark.parametrize("size", [(1, 1), (400, 15)])
def test_tiny_photo(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size).save(tmp_path / "x.png")
    with pytest.raises(UserError, match=rf"x\.png is {size[0]}x{size[1]} pixels.*at least 16"):
        read_photo(tmp_path / "x.png", 64)
    assert "at least 16" in unreadable_header(tmp_path / "x.png")


def test_huge_photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (3000, 1500)).save(tmp_path / "x.png")
    monkeypatch.setattr(opening, "MAX_PIXELS", 5_000_000)
    assert load_rgb(tmp_path / "x.png").size == (3000, 1500)
    monkeypatch.setattr(opening, "MAX_PIXELS", 4_000_000)
    for read in (lambda path: read_photo(path, 64), load_rgb):
        with pytest.raises(UserError, match=r"x\.png has more than 4 megapixels; save it smaller"):
            read(tmp_path / "x.png")
    assert "megapixels" in unreadable_header(tmp_path / "x.png")


def test_pillows_own_limit_is_the_same_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (300, 150)).save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000)
    with pytest.raises(UserError, match="megapixels"):
        read_photo(tmp_path / "x.png", 64)


def test_only_photos_are_decoded_whatever_a_file_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n%%EOF\n"
    (tmp_path / "photo.png").write_bytes(page)
    started: list[object] = []
    monkeypatch.setattr("subprocess.Popen", lambda *given, **_: started.append(given))
    monkeypatch.setattr("subprocess.check_call", lambda *given, **_: started.append(given))
    with pytest.raises(UserError, match="is an EPS drawing, which is not read"):
        read_photo(tmp_path / "photo.png", 64)
    assert started == []


def test_unknown_filter(tmp_path: Path, make_image: MakeImage) -> None:
    make_image().save(tmp_path / "x.png")
    with pytest.raises(UserError, match="unknown resize filter 'nearest'; choose one of bilinear"):
        read_photo(tmp_path / "x.png", 32, "nearest")


def test_photos_that_are_not_square_become_what_was_asked_and_are_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image = Image.new("RGB", (64, 32), "black")
    image.paste("red", (0, 0, 16, 32))  # outside of the middle square
    image.save(tmp_path / "x.png")
    crop, pad, squeeze = (read_pixels(tmp_path / "x.png", 32, fit=fit) for fit in squares.FITS)
    assert crop.max() == 0
    assert (pad[[0, -1]] == 255).all()
    for picture in (pad[12:20], squeeze):
        assert (picture[:, :7, 0] == 255).all()
        assert (picture[:, 9:] == 0).all()
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == (
        "photos that are not square lose what lies outside of their middle square (the first is 64x32): data.fit=crop "
        "(of a command: --fit crop); there are also pad and squeeze"
    )
    with pytest.raises(
        UserError, match=r"unknown way to make a photo square 'stretch'; choose one of crop, pad"
    ):
        read_pixels(tmp_path / "x.png", 32, fit="stretch")


@pytest.mark.parametrize(("white", "largest"), [(4095, 4000), (255, 250)])
def test_bits_that_hold_less_than_they_could_are_reported_and_white_can_be_given(
    white: int, largest: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values = np.linspace(0, largest, 256).reshape(16, 16).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "x.tif")
    assert read_pixels(tmp_path / "x.tif", 16).max() <= 16
    assert f"no value above {largest}, so it comes out nearly black; data.white={white}" in caplog.text
    caplog.clear()
    pixels = read_pixels(tmp_path / "x.tif", 16, white=white)
    assert pixels.max() == round(largest / white * 255)
    assert not caplog.records


def test_only_a_file_called_tga_is_read_as_one(tmp_path: Path) -> None:
    """The format has no beginning of its own: nearly any bytes could be one."""
    Image.new("RGB", (20, 20), "red").save(tmp_path / "x.tga")
    assert read_pixels(tmp_path / "x.tga", 20)[0, 0].tolist() == [255, 0, 0]
    (tmp_path / "x.tga").rename(tmp_path / "x.png")
    with pytest.raises(UserError, match="cannot be read as an image"):
        read_pixels(tmp_path / "x.png", 20)


@pytest.mark.parametrize(("largest", "white"), [(1000, 1023), (4000, 4095), (16000, 16383)])
def test_greys_of_ten_to_fourteen_bits_name_their_white(
    largest: int, white: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Image.fromarray(np.linspace(0, largest, 1024).astype(np.uint16).reshape(32, 32)).save(tmp_path / "x.tif")
    load_rgb(tmp_path / "x.tif")
    assert f"data.white={white} " in caplog.text
    caplog.clear()
    assert np.asarray(load_rgb(tmp_path / "x.tif", white)).max() >= 248
    assert not caplog.text


def test_colours_of_twelve_bits_in_sixteen_are_said_to_be_dark(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for brightest, said in ((65535, False), (4095, True)):
        values = np.linspace(0, brightest, 32 * 32 * 3).astype(">u2").reshape(32, 32, 3)
        rows = b"".join(b"\0" + row.tobytes() for row in values)
        header = struct.pack(">IIBBBBB", 32, 32, 16, 2, 0, 0, 0)
        chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
        content = b"".join(
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
            for name, data in chunks
        )
        (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
        load_rgb(tmp_path / "x.png")
        assert ("comes out dark" in caplog.text) is said


def test_the_limit_of_pixels_is_an_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("1", (1500, 1000)).save(tmp_path / "x.png")
    monkeypatch.setenv(opening.LIMIT, "1")
    with pytest.raises(
        UserError, match="more than 1 megapixels; .*raise the limit with the variable HYPERINVERTER_MAX"
    ):
        load_rgb(tmp_path / "x.png")
    monkeypatch.setenv(opening.LIMIT, "2")
    assert load_rgb(tmp_path / "x.png").size == (1500, 1000)
    monkeypatch.setenv(opening.LIMIT, "many")
    with pytest.raises(UserError, match="must be a whole number from 1 to 178, got many"):
        load_rgb(tmp_path / "x.png")


@pytest.mark.parametrize(
    "wanted", [{"resolution": 0}, {"resolution": "64"}, {"white": 0}, {"white": "4095"}, {"white": True}]
)
def test_sizes_and_whites_that_are_none(wanted: dict[str, Any], tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "x.png")
    with pytest.raises(UserError, match="is a whole number from 1 to"):
        read_photo(tmp_path / "x.png", **({"resolution": 32} | wanted))


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".tif"])
def test_of_several_pictures_in_a_file_the_first_is_taken_and_that_is_said_once(
    suffix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / f"a{suffix}"
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("white", "black")]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    for _ in range(2):
        assert float(read_photo(path, 16).min()) > 0.9
    assert caplog.text.count("holds several pictures: the first one of such files is taken") == 1


def test_what_is_no_photo_is_named_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(50))
    with pytest.raises(UserError, match="is a HEIC photo, which is not read as a photo; save it as PNG"):
        read_photo(tmp_path / "a.heic", 16)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.png", b"x")
    with pytest.raises(UserError, match="is a zip archive that holds 1 photos, .*unpack it: unzip"):
        read_photo(tmp_path / "a.zip", 16)


@pytest.mark.parametrize("start", [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"])
def test_a_damaged_photo_is_called_damaged(tmp_path: Path, start: bytes) -> None:
    (tmp_path / "broken.png").write_bytes(start + bytes(50))
    with pytest.raises(UserError, match="cannot be read as an image .* it may be damaged"):
        read_photo(tmp_path / "broken.png", 64)

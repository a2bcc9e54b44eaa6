"""Pasting changes what was edited and nothing else, in every mode of a photo."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageDraw

from hyperinverter.alignment import Crop, Edit, paste, paste_all
from hyperinverter.alignment.crop import cut
from hyperinverter.contracts import UserError
from hyperinverter.data.colours import to_rgb

SIZE = (200, 160)
CORNERS = np.array([[52.0, 38.0], [40.0, 118.0], [120.0, 130.0], [132.0, 50.0]])
CROP = Crop.of(CORNERS, 64)


def photo(mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(20, 230, (9, 11, 4), dtype=np.uint8)
    pixels[..., 3] = 255
    pixels[:2, :2, 3] = 60  # a corner that shows what is behind it
    smooth = Image.fromarray(pixels).resize(SIZE, Image.Resampling.BICUBIC)
    if mode == "I;16":
        return Image.fromarray(np.asarray(smooth.convert("L")).astype(np.uint16) * 257 + 3)
    return smooth.convert(mode)


def own_crop(image: Image.Image) -> Image.Image:
    return cut(to_rgb(image, "photo"), CROP.corners, 64)


def values(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


KEPT = ["RGB", "L", "RGBA", "LA", "CMYK", "I;16"]


@pytest.mark.parametrize("mode", KEPT)
@pytest.mark.parametrize("way", ["face", "difference"])
def test_without_an_edit_not_one_pixel_changes(mode: str, way: str) -> None:
    before = photo(mode)
    crop = own_crop(before)
    pasted = paste(before, crop, CROP, inversion=crop, mode=way)
    assert pasted.image.mode == mode
    assert not pasted.mask.any()
    assert np.array_equal(values(pasted.image), values(before))


@pytest.mark.parametrize("mode", KEPT)
@pytest.mark.parametrize("way", ["face", "difference"])
def test_outside_the_mask_nothing_changes_and_inside_the_edit_shows(mode: str, way: str) -> None:
    before = photo(mode)
    crop = own_crop(before)
    edited = crop.point(lambda value: min(255, value + 40))
    pasted = paste(before, edited, CROP, inversion=crop, mode=way)
    change = values(pasted.image) - values(before)
    assert np.all(change[~pasted.mask] == 0)
    assert 0.2 < pasted.mask.mean() < 0.3  # the square without its rim: 80 x 80 of 200 x 160 pixels
    bands = before.getbands()
    if bands[-1] == "A":
        assert np.all(change[..., -1] == 0)
        change = change[..., :-1]
    unit = {"I;16": 257, "CMYK": -1}.get(mode, 1)
    centre = change[80:90, 80:90]
    colours = centre[..., :3] if centre.ndim == 3 else centre  # of CMYK, black has its own rules
    assert np.abs(colours.mean() / unit - 40) < 4


def test_only_the_changed_part_of_a_crop_is_pasted() -> None:
    before = photo()
    edited = own_crop(before)
    ImageDraw.Draw(edited).rectangle((28, 28, 35, 35), fill="red")
    pasted = paste(before, edited, CROP)
    rows, columns = np.nonzero(pasted.mask)
    assert np.ptp(rows) < 30
    assert np.ptp(columns) < 30
    assert values(pasted.image)[84, 86].tolist() == pytest.approx([255, 0, 0], abs=3)


def test_a_crop_comes_back_to_where_it_was() -> None:
    """An upright crop with twice the pixels of its place, all of them changed by 2: geometry and filters show."""
    before = photo()
    crop = Crop.of(np.array([[40.0, 30.0], [40.0, 130.0], [140.0, 130.0], [140.0, 30.0]]), 200)
    edited = cut(before, crop.corners, 200).point(lambda value: value + 2)
    change = (values(paste(before, edited, crop).image) - values(before))[60:100, 70:110]
    assert np.abs(change - 2).mean() < 1  # a shift by half a pixel would be 3
    assert change.mean() == pytest.approx(1.5, abs=0.25)  # Pillow's bilinear filter cuts off half a level


def test_an_edit_of_another_size_is_pasted_to_the_same_place() -> None:
    before = photo()
    small = paste(before, Image.new("RGB", (64, 64), "blue"), CROP)
    large = paste(before, Image.new("RGB", (256, 256), "blue"), CROP)
    assert np.abs(values(small.image) - values(large.image)).max() <= 3


def test_the_mask_is_soft_and_the_oval_leaves_the_corners() -> None:
    before, white = photo(), Image.new("RGB", (64, 64), "white")
    square, oval = (paste(before, white, CROP, shape=shape) for shape in ("square", "oval"))
    steps = np.abs(np.diff(values(square.image) - values(before), axis=0))
    assert steps.max() < 60  # over 12 pixels, not over one
    assert oval.mask.sum() == pytest.approx(np.pi / 4 * square.mask.sum(), rel=0.05)
    assert not (oval.mask & ~square.mask).any()


def test_the_edge_of_the_photo_fades_where_the_crop_ran_over_it() -> None:
    """There the crop was blurred, and so would the photo be."""
    before = photo()
    crop = Crop.of(CORNERS - np.array([90.0, 0.0]), 64)
    pasted = paste(before, Image.new("RGB", (64, 64), "white"), crop)
    change = np.abs(values(pasted.image) - values(before)).sum(axis=-1)
    assert change[:, 0].max() < 10 < change[:, 8].max()


@functools.cache  # a profile carries the time of its making
def profile() -> bytes:
    """sRGB under another name with another red primary, as of a camera with a wide gamut."""
    made = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    made = made.replace("sRGB".encode("utf-16-be"), "wide".encode("utf-16-be"))
    entry = made.index(b"rXYZ")
    place = int.from_bytes(made[entry + 4 : entry + 8], "big")
    made[place + 8 : place + 12] = round(0.6 * 65536).to_bytes(4, "big")
    return bytes(made)


@pytest.mark.parametrize("way", ["face", "difference"])
def test_colours_go_through_the_profile_and_back(way: str) -> None:
    before = photo()
    before.info["icc_profile"] = profile()
    seen = to_rgb(before, "photo")
    assert np.abs(values(seen) - values(before)).max() > 5  # the profile does something
    crop = cut(seen, CROP.corners, 64)
    edited = crop.point(lambda value: min(255, value + 20))
    pasted = paste(before, edited, CROP, inversion=crop, mode=way)
    change = values(to_rgb(pasted.image, "photo")) - values(seen)
    assert change[80:90, 80:90].mean() == pytest.approx(20, abs=2)


def test_colour_profile_and_size_are_kept_and_exif_is_dropped(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "photo.png"
    photo().save(path, icc_profile=profile(), exif=exif)
    with Image.open(path) as image:
        upright = image.transpose(Image.Transpose.ROTATE_270)
    pasted = paste(path, Image.new("RGB", (64, 64), "white"), CROP)
    with Image.open(pasted.save(tmp_path, "photo")) as written:
        written.load()
    assert written.info["icc_profile"] == profile()
    assert written.getexif().get(0x0112, 1) == 1
    assert (written.size, written.mode) == (upright.size, "RGB")
    assert np.array_equal(values(written)[~pasted.mask], values(upright)[~pasted.mask])


def test_a_palette_is_written_as_colours_and_said() -> None:
    before = photo().quantize(16)
    pasted = paste(before, Image.new("RGB", (64, 64), "white"), CROP)
    assert (pasted.image.mode, "mode P" in pasted.note) == ("RGB", True)
    assert np.array_equal(values(pasted.image)[~pasted.mask], values(before.convert("RGB"))[~pasted.mask])


def test_inks_are_written_as_tiff(tmp_path: Path) -> None:
    pasted = paste(photo("CMYK"), Image.new("RGB", (64, 64), "white"), CROP)
    path = pasted.save(tmp_path, "photo")
    assert path.name == "photo.pasted.tif"
    with Image.open(path) as written:
        assert np.array_equal(values(written), values(pasted.image))


def test_several_edits_of_one_photo_do_not_undo_each_other() -> None:
    before = photo()
    neighbour = Crop.of(CORNERS + np.array([40.0, 0.0]), 64)
    red, untouched = Image.new("RGB", (64, 64), "red"), cut(before, neighbour.corners, 64)
    both = paste_all(before, [Edit(red, CROP), Edit(untouched, neighbour)])
    assert np.array_equal(values(both.image), values(paste(before, red, CROP).image))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"mode": "differnce"}, "modes face, difference"),
        ({"shape": "round"}, "shapes square, oval"),
        ({"feather": 0.0}, "feather"),
        ({"mode": "difference"}, "needs the inversion"),
        ({"mode": "difference", "inversion": Image.new("RGB", (32, 32))}, "differ in size"),
    ],
)
def test_wrong_options_are_named(options: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        paste(photo(), Image.new("RGB", (64, 64)), CROP, **options)


def test_an_edit_is_square() -> None:
    with pytest.raises(UserError, match="64x32"):
        paste(photo(), Image.new("RGB", (64, 32)), CROP)


def test_a_crop_outside_the_photo_changes_nothing() -> None:
    pasted = paste(photo(), Image.new("RGB", (64, 64)), Crop.of(CORNERS + 5000, 64))
    assert np.array_equal(values(pasted.image), values(photo()))

"""Faces at known places are found where they are, cut as FFHQ cuts them, and put back without a trace."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from matplotlib.cbook import get_sample_data
from PIL import Image

from hyperinverter.alignment import Crop, align, detect, framing_of, paste
from hyperinverter.alignment.align import AlignedFace
from hyperinverter.alignment.geometry import face_square
from hyperinverter.commands import main
from hyperinverter.contracts import UserError
from hyperinverter.data.digiface import accepted_indices, sample_faces

BOUND = 0.02  # of the crop's side; MTCNN's points alone jitter by 1 % of a face


class Placed(NamedTuple):
    """A photo with a face at a known place: face pixels x -> photo pixels ``turn @ x + shift``."""

    photo: Image.Image
    turn: np.ndarray
    shift: np.ndarray


def face(number: int) -> Image.Image:
    """A face of the built-in domain, 256 px."""
    pixels = sample_faces(accepted_indices()[number : number + 1])[0]
    return Image.fromarray(pixels).resize((256, 256), Image.Resampling.BICUBIC)


def place(
    number: int,
    size: tuple[int, int],
    centre: tuple[float, float],
    side: float,
    degrees: float,
    onto: Image.Image | None = None,
) -> Placed:
    """Put a face onto a plain photo."""
    angle, scale = np.deg2rad(degrees), side / 256
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shift = np.array(centre) - turn @ np.array([128, 128])
    back = np.linalg.inv(turn)
    matrix = (*back[0], *(-back @ shift)[:1], *back[1], *(-back @ shift)[1:])
    source, covered = face(number), Image.new("L", (256, 256), 255)
    photo = onto or Image.linear_gradient("L").resize(size).convert("RGB").point(
        lambda value: 90 + value // 4
    )
    warped = source.transform(size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
    photo.paste(
        warped, (0, 0), covered.transform(size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    )
    return Placed(photo, turn, shift)


@pytest.fixture(scope="module")
def truth() -> dict[int, np.ndarray]:
    """Corners of each face's crop in its own pixels, found where it stands upright in the middle."""
    found = {}
    for number in (0, 1):
        placed = place(number, (640, 640), (320, 320), 256, 0)
        corners = align(placed.photo, 256).face.crop.corners
        found[number] = (corners - placed.shift) @ np.linalg.inv(placed.turn).T
    return found


def error(found: AlignedFace, placed: Placed, truth: np.ndarray) -> float:
    """Largest distance of a corner from its true place, in sides of the crop."""
    distances = np.linalg.norm(found.crop.corners - (truth @ placed.turn.T + placed.shift), axis=1)
    return float(distances.max() / found.crop.side)


PLACES = {
    "rotated": ((900, 700), (500, 300), 256, 20),
    "tilted far": ((900, 700), (400, 300), 256, -35),
    "at the border": ((500, 400), (92, 200), 180, 0),
    "small": ((500, 400), (250, 200), 110, 0),
    "4000 px": ((4000, 3000), (2500, 1500), 900, 5),
}


@pytest.mark.parametrize("number", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name", ["rotated", *(pytest.param(name, marks=pytest.mark.slow) for name in list(PLACES)[1:])]
)
def test_corners_are_where_the_face_is(name: str, number: int, truth: dict[int, np.ndarray]) -> None:
    size, centre, side, degrees = PLACES[name]
    placed = place(number, size, centre, side, degrees)
    result = align(placed.photo, 256)
    assert result.status == "aligned"
    assert error(result.face, placed, truth[number]) < BOUND
    assert (result.face.padding > 0) == (name == "at the border")


def test_several_faces_by_size_all_of_them_or_one(truth: dict[int, np.ndarray]) -> None:
    large = place(0, (1000, 600), (280, 300), 300, 0)
    small = place(1, (1000, 600), (760, 320), 180, 8, onto=large.photo)
    result = align(small.photo, 128, face="all")
    assert result.status == "several"
    assert result.found == 2
    assert error(result.faces[0], large, truth[0]) < BOUND
    assert error(result.faces[1], small, truth[1]) < BOUND
    assert align(small.photo, 128, face=1).face.number == 1
    missing = align(small.photo, 128, face=2)
    assert not missing.ok
    assert "2 faces (numbers 0 to 1)" in missing.message


@pytest.mark.parametrize(
    "kind", ["exif", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("grey", "cmyk", "alpha"))]
)
def test_what_photos_look_like_on_disk(kind: str, truth: dict[int, np.ndarray], tmp_path: Path) -> None:
    placed = place(0, (700, 600), (350, 300), 256, 0)
    path = tmp_path / ("photo.jpg" if kind in ("exif", "cmyk") else "photo.png")
    if kind == "exif":
        exif = Image.Exif()
        exif[0x0112] = 5  # mirrored and turned
        placed.photo.transpose(Image.Transpose.TRANSPOSE).save(path, exif=exif, quality=95)
    elif kind == "cmyk":
        placed.photo.convert("CMYK").save(path, quality=95)
    elif kind == "grey":
        placed.photo.convert("L").save(path)
    else:
        placed.photo.convert("RGBA").save(path)
    result = align(path, 256)
    assert result.photo_size == (700, 600)
    assert error(result.face, placed, truth[0]) < BOUND


def test_faces_that_are_known_are_not_searched_again(
    truth: dict[int, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    placed = place(0, (500, 400), (250, 200), 220, 6)
    found = detect.find_faces(placed.photo)
    monkeypatch.setattr(detect, "_search", lambda *_: pytest.fail("MTCNN was asked again"))
    assert error(align(placed.photo, 64, faces=found).face, placed, truth[0]) < BOUND
    assert align(placed.photo, 64, faces=[]).status == "no face"


@pytest.mark.parametrize("far", [0.1, 0.6])
def test_points_that_are_far_off_are_read_again(far: float, truth: dict[int, np.ndarray]) -> None:
    """As where the photo's border cuts a face off, and MTCNN stretches what is left of it."""
    placed = place(0, (500, 400), (250, 200), 220, 0)
    (found,) = detect.find_faces(placed.photo)
    middle = found.points.mean(axis=0)
    wrong = detect.Face(found.box, found.score, middle + (found.points - middle) * (1 + far, 1))
    assert error(align(placed.photo, 64, faces=[wrong]).face, placed, truth[0]) < BOUND


def test_what_is_no_face_stays_as_it_was() -> None:
    points = np.array([[80.0, 80.0], [120.0, 80.0], [100.0, 100.0], [85.0, 120.0], [115.0, 120.0]])
    strange = detect.Face((60.0, 60.0, 140.0, 150.0), 0.95, points)
    assert detect.look_again(Image.new("RGB", (200, 200), (120, 130, 140)), strange) is strange


def test_the_square_of_68_points_is_ffhqs() -> None:
    points = np.random.default_rng(0).uniform(0, 1, (68, 2)) * 20
    points[36:42] += (80, 100)
    points[42:48] += (160, 104)
    points[48], points[54] = (90, 180), (150, 184)
    left, right = points[36:42].mean(0), points[42:48].mean(0)
    mouth = (points[48] + points[54]) / 2
    eye, down = right - left, mouth - (left + right) / 2
    x = eye - np.array([-down[1], down[0]])
    x = x / np.hypot(*x) * max(2.0 * np.hypot(*eye), 1.8 * np.hypot(*down))
    y = np.array([-x[1], x[0]])
    centre = (left + right) / 2 + 0.1 * down
    expected = np.stack([centre - x - y, centre - x + y, centre + x + y, centre + x - y])
    np.testing.assert_allclose(
        face_square(points) - 0.5, expected, atol=0.51
    )  # index or continuous coordinates
    np.testing.assert_allclose(np.diff(face_square(points), axis=0), np.diff(expected, axis=0), atol=1e-6)


def test_five_points_give_the_square_of_68(truth: dict[int, np.ndarray]) -> None:
    points = np.zeros((68, 2))
    points[36:42], points[42:48] = (100, 120), (180, 120)
    points[48], points[54], points[30] = (104, 205), (176, 205), (140, 160)
    five = np.stack([points[36], points[42], points[30], points[48], points[54]])
    one, other = face_square(points), face_square(five)
    side = np.hypot(*(one[3] - one[0]))
    # MTCNN's eyes lie further out than dlib's, so its distances count 0.977 times
    assert np.linalg.norm(one - other, axis=1).mean() / side < 0.02


@pytest.mark.parametrize("mode", ["face", "difference"])
def test_pasting_without_an_edit_gives_the_photo_back(mode: str) -> None:
    photo = place(0, (420, 400), (200, 190), 200, 12).photo
    crop = Crop.of(np.array([[90.0, 100], [110, 300], [310, 280], [290, 80]]), 128)
    square = align(photo, 128, framing="centre").face.image
    own = photo.transform(
        (128, 128),
        Image.Transform.AFFINE,
        tuple(np.linalg.inv(crop.matrix)[:2].flatten()),
        Image.Resampling.BICUBIC,
    )
    edited = own if mode == "face" else square
    pasted = paste(photo, edited, crop, inversion=edited, mode=mode)
    before, after = np.asarray(photo).astype(int), np.asarray(pasted.image).astype(int)
    assert np.array_equal(before[~pasted.mask], after[~pasted.mask])
    if mode == "difference":
        assert np.abs(before - after).max() <= 1
    else:
        assert np.abs(before - after)[pasted.mask].mean() < 2  # a crop of 128 px resampled twice


def test_an_edit_changes_the_inside_only_and_modes_stay() -> None:
    for mode, name in (("RGB", "png"), ("L", "png"), ("RGBA", "png"), ("CMYK", "tif")):
        photo = place(0, (300, 280), (150, 140), 160, 0).photo.convert(mode)
        crop = Crop.of(np.array([[70.0, 60], [70, 220], [230, 220], [230, 60]]), 64)
        red = Image.new("RGB", (64, 64), (200, 30, 30))
        pasted = paste(photo, red, crop)
        assert (pasted.image.mode, pasted.image.size) == (mode, photo.size), name
        before, after = np.asarray(photo).astype(int), np.asarray(pasted.image).astype(int)
        assert np.array_equal(before[~pasted.mask], after[~pasted.mask])
        assert np.abs(before - after)[140, 150].max() > 10
        assert not pasted.mask[:50].any()
    with pytest.raises(UserError, match="needs the inversion"):
        paste(photo, red, crop, mode="difference")


def test_a_broken_file_and_a_photo_without_a_face_do_not_stop_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    place(0, (500, 400), (250, 200), 200, 0).photo.save(photos / "a face.png")
    Image.linear_gradient("L").resize((300, 300)).save(photos / "wall.png")
    (photos / "broken.png").write_bytes(b"not an image")
    assert main(["align", str(photos), "--out", str(tmp_path / "out"), "--size", "128"]) == 1
    with (tmp_path / "out" / "report.csv").open(newline="") as file:
        rows = {row["photo"]: row["status"] for row in csv.DictReader(file)}
    statuses = {Path(name).name: status for name, status in rows.items()}
    assert statuses == {"a face.png": "aligned", "wall.png": "no face", "broken.png": "unreadable"}
    assert "1 of 3 aligned" in capsys.readouterr().out
    with Image.open(tmp_path / "out" / "a face.png") as crop:
        assert crop.size == (128, 128)
    assert json.loads((tmp_path / "out" / "alignment.json").read_text())


def test_wrong_options_are_one_sentence(tmp_path: Path) -> None:
    photo = Image.new("RGB", (64, 64))
    with pytest.raises(UserError, match="framing"):
        align(photo, 64, framing="passport")
    with pytest.raises(UserError, match="face"):
        align(photo, 64, face="best")
    with pytest.raises(UserError, match="RGB"):
        align(photo.convert("L"), 64)
    assert align(tmp_path / "missing.png", 64).status == "unreadable"


# Middle of each eye and of the mouth's corners in portraits that libraries ship, from dlib 20.0's 68 points.
PORTRAITS = {
    "hopper": ([223.7, 192.3], [305.3, 189.2], [266.5, 279.0]),
    "astronaut": ([203.2, 101.5], [246.5, 104.2], [223.5, 140.0]),
}


def portrait(name: str) -> Path:
    if name == "hopper":
        return Path(get_sample_data("grace_hopper.jpg", asfileobj=False))
    return Path(pytest.importorskip("skimage.data").__file__).parent / "astronaut.png"


@pytest.mark.parametrize(("name", "limit"), [("hopper", 0.055), ("astronaut", 0.03)])
def test_five_points_against_68_on_portraits(name: str, limit: float) -> None:
    """On 34 faces the mean is 2.0 % (outputs/published/editor); the first of these is hard for dlib, too."""
    points = np.zeros((68, 2))
    points[36:42], points[42:48], middle = PORTRAITS[name]
    points[48] = points[54] = middle
    truth = align(portrait(name), 64, points=[points]).face.crop
    found = align(portrait(name), 64).face.crop
    assert np.hypot(*(found.corners - truth.corners).T).mean() / truth.side < limit


def test_a_face_below_half_the_size_is_refused_unless_allowed() -> None:
    photo = Image.new("RGB", (200, 200))
    points = [np.array([[80.0, 80.0], [120.0, 80.0], [100.0, 100.0], [85.0, 120.0], [115.0, 120.0]])]
    side = align(photo, 64, points=points).face.crop.side
    small = align(photo, int(side * 2.2), points=points)
    assert (small.status, small.found, small.ok) == ("too small", 1, False)
    assert align(photo, int(side * 2.2), points=points, min_side=0.4).ok
    with pytest.raises(UserError, match="px wide in the photo"):
        _ = small.face


@pytest.mark.parametrize("size", [(400, 300), (4000, 17)])
def test_no_face(size: tuple[int, int]) -> None:
    found = align(Image.new("RGB", size, (120, 130, 140)), 64)
    assert (found.status, found.found, found.faces) == ("no face", 0, [])
    with pytest.raises(UserError, match="no face found"):
        _ = found.face


def test_noise_is_no_face_and_no_failure() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    assert align(Image.fromarray(noise), 64).status == "no face"


def test_the_centre_needs_no_face() -> None:
    found = align(Image.new("RGB", (300, 200)), 200, framing="centre")
    assert (found.status, found.found, found.face.face) == ("aligned", None, None)
    assert found.face.crop.corners == pytest.approx(np.array([[50, 0], [50, 200], [250, 200], [250, 0]]))


def test_the_framing_of_a_domain() -> None:
    assert framing_of("digiface", True) == "digiface"
    assert framing_of("faces", True) == "ffhq"
    assert framing_of("churches", False) == "centre"


OUTSIDE = np.array([[80.0, 80.0], [120.0, 80.0], [100.0, 100.0], [85.0, 120.0], [115.0, 120.0]]) + 1e6


@pytest.mark.parametrize("points", [np.zeros((5, 2)), np.zeros((7, 2)), np.full((68, 2), np.nan), OUTSIDE])
def test_points_that_are_no_face(points: np.ndarray) -> None:
    with pytest.raises(UserError, match="points"):
        align(Image.new("RGB", (100, 100)), 64, points=[points])


@pytest.mark.slow
def test_built_in_photos_map_onto_themselves() -> None:
    """The framing of that domain, on 20 photos: half the crops lie within a tenth of the picture itself."""
    sides, centres = [], []
    for number in range(300, 320):
        placed = place(number, (640, 640), (320, 320), 256, 0)
        crop = align(placed.photo, 64, framing="digiface").face.crop
        sides.append(crop.side / 256)
        centres.append((crop.corners.mean(axis=0) - 320) / 256)
    assert np.median(sides) == pytest.approx(1, abs=0.04)
    assert np.median(centres, axis=0) == pytest.approx([0, 0], abs=0.02)

"""The ways in which published benchmarks went wrong, each fed to this one: it is caught, or cannot happen."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from blurring import Blurring
from PIL import Image

from hyperinverter.commands import main
from hyperinverter.evaluation import report
from hyperinverter.evaluation.measure import Measuring, Photos
from hyperinverter.evaluation.protocol import Protocol
from hyperinverter.evaluation.scoring import Scorer, rounded
from hyperinverter.networks.generator import Generator

CPU = torch.device("cpu")


def photos_of(pixels: dict[str, np.ndarray]) -> Photos:
    names = list(pixels)
    return Photos(
        "here",
        {name: f"{name}.png" for name in names},
        {name: f"{i:064x}" for i, name in enumerate(names)},
        lambda wanted: np.stack([pixels[name] for name in wanted]),
    )


@pytest.fixture
def pixels() -> dict[str, np.ndarray]:
    """Seven pictures that differ in brightness: whoever pairs wrongly is far off."""
    draw = np.random.default_rng(0)
    names = ("b", "a10", "a9", "c", "A", "z", "k")
    return {n: draw.integers(20 * i, 20 * i + 60, (32, 32, 3)).astype(np.uint8) for i, n in enumerate(names)}


def measured(
    model: Blurring, photos: Photos, protocol: Protocol, out: Path, batch: int = 3
) -> report.Results:
    measuring = Measuring(
        {"blurred": model}, photos, protocol, Scorer(protocol, {}, out, CPU), out, batch=batch
    )
    report.write_record(out, measuring)
    measuring.run()
    return report.write_report(out, protocol)


def test_the_last_batch_counts(
    small_generator: Generator, pixels: dict[str, np.ndarray], protocol: Protocol, tmp_path: Path
) -> None:
    results = measured(Blurring(small_generator), photos_of(pixels), protocol, tmp_path, batch=4)
    assert len(results.models["blurred"].names) == 7


def test_photos_meet_their_own_image_whatever_their_names_sort_to(
    small_generator: Generator, pixels: dict[str, np.ndarray], protocol: Protocol, tmp_path: Path
) -> None:
    results = measured(Blurring(small_generator, 0.1), photos_of(pixels), protocol, tmp_path)
    found = results.models["blurred"]
    assert found.names == list(pixels)
    assert found.numbers["l2"] == pytest.approx(
        np.full(7, 0.1**2 / 2), rel=0.1
    )  # not the distance of two photos
    with (tmp_path / "per_photo.csv").open() as file:
        assert [row["photo"] for row in csv.DictReader(file)] == list(pixels)


def test_a_wrong_range_shows(small_generator: Generator, protocol: Protocol) -> None:
    scorer = Scorer(protocol, {}, Path(), CPU)
    photo = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    seen = scorer.look(photo)
    assert scorer.score(photo, seen)["l2"] == pytest.approx([0, 0])
    assert scorer.score(photo, seen)["psnr"].min() > 60
    halved = rounded(torch.from_numpy(photo).permute(0, 3, 1, 2).float() / 255)  # [0, 1] taken for [-1, 1]
    assert scorer.score(halved, seen)["l2"].min() > 0.2
    with pytest.raises(ValueError, match="NaN"):
        rounded(torch.full((1, 3, 4, 4), float("nan")))


def test_psnr_is_at_the_usual_scale_and_averaged_by_photo(protocol: Protocol) -> None:
    photo = np.full((2, 32, 32, 3), 100, np.uint8)
    image = photo.copy()
    image[0] += 10
    image[1] += 40
    found = Scorer(protocol, {}, Path(), CPU)
    psnr = found.score(image, found.look(photo))["psnr"]
    assert psnr == pytest.approx([20 * np.log10(255 / 10), 20 * np.log10(255 / 40)], rel=1e-5)


def test_images_are_rounded_and_clamped_before_anything_is_measured(
    small_generator: Generator, protocol: Protocol, tmp_path: Path
) -> None:
    white = {"white": np.full((32, 32, 3), 255, np.uint8), "grey": np.full((32, 32, 3), 128, np.uint8)}
    results = measured(Blurring(small_generator, 0.5), photos_of(white), protocol, tmp_path / "far")
    assert results.models["blurred"].numbers["l2"][0] == 0  # beyond white is white
    results = measured(Blurring(small_generator, 0.003), photos_of(white), protocol, tmp_path / "near")
    assert results.models["blurred"].numbers["l2"][1] == 0  # less than half a step is nothing


def test_jpeg_photos_are_compared_with_pngs(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Results go to PNG whatever the photo was, so that no compression of results is in the numbers."""
    with Image.open(faces / "a.png") as picture:
        picture.save(tmp_path / "a.jpg", quality=60)
    typed = ["evaluate", "digiface", "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--save-images"]
    assert main([*typed, *(f"--without={n}" for n in ("st_lpips_alex", "id_descriptor"))]) == 0
    saved = (tmp_path / "out" / "images" / "digiface" / "a.png").read_bytes()
    assert saved.startswith(b"\x89PNG")
    with Image.open(io.BytesIO(saved)) as image, Image.open(tmp_path / "a.jpg") as photo:
        difference = np.asarray(image.convert("RGB"), float) - np.asarray(photo.convert("RGB"), float)
    with (tmp_path / "out" / "per_photo.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["l2"]) == pytest.approx((difference**2).mean() / 127.5**2, rel=1e-4)


def test_shares_of_two_processes_are_the_whole(
    small_generator: Generator, pixels: dict[str, np.ndarray], protocol: Protocol, tmp_path: Path
) -> None:
    alone = measured(Blurring(small_generator), photos_of(pixels), protocol, tmp_path / "alone", batch=2)
    out = tmp_path / "shared"
    shares = []
    for part in range(2):
        scorer = Scorer(protocol, {}, out, CPU)
        models = {"blurred": Blurring(small_generator)}
        measuring = Measuring(models, photos_of(pixels), protocol, scorer, out, batch=2)
        shares.append(measuring.left(part, 2))
        measuring.run(part, 2)
    assert shares == [4, 3]
    report.write_record(out, measuring)
    together = report.write_report(out, protocol)
    for name in ("l2", "psnr", "ssim"):
        np.testing.assert_array_equal(
            together.models["blurred"].numbers[name], alone.models["blurred"].numbers[name]
        )


def test_a_model_measured_before_on_fewer_photos_joins_the_table(
    small_generator: Generator, pixels: dict[str, np.ndarray], protocol: Protocol, tmp_path: Path
) -> None:
    photos, few = photos_of(pixels), photos_of(dict(list(pixels.items())[:3]))
    scorer = Scorer(protocol, {}, tmp_path, CPU)
    for label, error, some in (("slow", 0.05, few), ("fast", 0.2, photos), ("slow", 0.05, few)):
        model = Blurring(small_generator, error)
        measuring = Measuring({label: model}, some, protocol, scorer, tmp_path)
        report.write_record(tmp_path, measuring)
        measuring.run()
    assert model.calls == 0  # the third time there was nothing left to do
    results = report.write_report(tmp_path, protocol)
    assert {label: len(m.names) for label, m in results.models.items()} == {"slow": 3, "fast": 7}
    assert {len(m.names) for m in results.shared.values()} == {3}
    table = (tmp_path / "table.md").read_text()
    assert "On the 3 photos that all of them have:" in table
    # three pairs are too few for any test
    assert "On 3 photos, **slow** does not differ measurably from fast" in table


def test_conclusions_name_the_better_and_its_size(
    small_generator: Generator, protocol: Protocol, tmp_path: Path
) -> None:
    draw = np.random.default_rng(0)
    pixels = {f"p{i:02d}": draw.integers(60, 190, (32, 32, 3)).astype(np.uint8) for i in range(40)}
    scorer = Scorer(protocol, {}, tmp_path, CPU)
    models = {"a": Blurring(small_generator, 0.2), "b": Blurring(small_generator, 0.1)}
    measuring = Measuring(models, photos_of(pixels), protocol, scorer, tmp_path)
    report.write_record(tmp_path, measuring)
    measuring.run()
    report.write_report(tmp_path, protocol)
    (line,) = (x for x in (tmp_path / "table.md").read_text().splitlines() if x.startswith("- On 40 photos"))
    assert line.startswith("- On 40 photos, **a** is worse than b in l2 (+29")  # four times, but for rounding
    assert "better on 0 % of photos, p < 0.001" in line
    with (tmp_path / "pairs.csv").open() as file:
        first = next(iter(csv.DictReader(file)))
    assert (first["a"], first["b"], first["number"], first["n"]) == ("a", "b", "l2", "40")
    assert float(first["ratio"]) == pytest.approx(4, rel=0.05)

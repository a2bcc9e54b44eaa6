"""Metrics: right formulas, one row per photo, every photo counted once."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from hyperinverter.judges.base import Embedding, Judge
from hyperinverter.judges.identity import DescriptorIdentity
from hyperinverter.judges.perceptual import EffNetPerceptual
from hyperinverter.metrics import MS_SSIM_MIN_SIZE, MetricSuite, to_unit_range


class MeanColour(Judge):
    """A fast judge that counts how often it looks."""

    label = "lpips_colour"
    higher_is_closer = False

    def __init__(self) -> None:
        super().__init__()
        self.looks = 0

    def _embed(self, image: Tensor) -> Embedding:
        self.looks += 1
        return [image.mean(dim=(2, 3))]

    def _compare(self, a: Embedding, b: Embedding) -> Tensor:
        return (a[0] - b[0]).abs().sum(dim=1)


def pictures(count: int, size: int = 16, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Smooth random photos and disturbed images of them, some pixels beyond [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    photo = F.interpolate(torch.rand(count, 3, 8, 8, generator=generator), size=size, mode="bilinear") * 2 - 1
    strength = torch.linspace(0.02, 0.4, count).view(-1, 1, 1, 1)
    return photo + strength * torch.randn(photo.shape, generator=generator), photo


def names(count: int) -> list[str]:
    return [f"photo{i:03d}" for i in range(count)]


def test_l2_and_psnr_follow_their_formulas() -> None:
    image, photo = pictures(3)
    values = MetricSuite(16).update(image, photo, names(3))
    for i in range(3):
        a, b = image[i].numpy(), photo[i].numpy()
        assert_close(values["l2"][i].item(), float(((a - b) ** 2).mean()))
        unit_a, unit_b = np.clip((a + 1) / 2, 0, 1), (b + 1) / 2
        mse = float(((unit_a - unit_b) ** 2).mean())
        assert_close(values["psnr"][i].item(), -10 * math.log10(mse), rtol=1e-4, atol=1e-4)
    assert values["l2"][0] < values["l2"][2]  # the order of the batch is kept


def slow_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Wang et al. 2004, with an 11-pixel Gaussian of sigma 1.5, borders reflected as torchmetrics does."""
    a, b = (np.pad(x, ((0, 0), (5, 5), (5, 5)), mode="reflect") for x in (a, b))
    line = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    values = []
    for channel in range(3):
        for y in range(a.shape[1] - 10):
            for x in range(a.shape[2] - 10):
                p, q = a[channel, y : y + 11, x : x + 11], b[channel, y : y + 11, x : x + 11]
                mp_, mq = (window * p).sum(), (window * q).sum()
                vp, vq = (window * p * p).sum() - mp_**2, (window * q * q).sum() - mq**2
                cov = (window * p * q).sum() - mp_ * mq
                c1, c2 = 0.01**2, 0.03**2
                values.append((2 * mp_ * mq + c1) * (2 * cov + c2) / ((mp_**2 + mq**2 + c1) * (vp + vq + c2)))
    return float(np.mean(values))


def test_ssim_equals_a_slow_version() -> None:
    image, photo = pictures(2, size=20)
    got = MetricSuite(20).update(image, photo, names(2))["ssim"]
    want = [slow_ssim(*(to_unit_range(x[i]).double().numpy() for x in (image, photo))) for i in range(2)]
    assert_close(got.double(), torch.tensor(want, dtype=torch.float64), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("size", "extra"),
    [(10, set()), (16, {"ssim"}), (MS_SSIM_MIN_SIZE - 1, {"ssim"}), (MS_SSIM_MIN_SIZE, {"ssim", "ms_ssim"})],
)
def test_metrics_that_do_not_fit_are_left_out(size: int, extra: set[str]) -> None:
    image, photo = pictures(1, size=size)
    suite = MetricSuite(size)
    values = suite.update(image, photo, names(1))
    assert set(values) == {"l2", "psnr"} | extra
    assert list(values) == suite.names
    assert all(value.shape == (1,) and value.isfinite().all() for value in values.values())


def test_equal_images_reach_the_ends_of_the_scales() -> None:
    _, photo = pictures(2, size=MS_SSIM_MIN_SIZE)
    values = MetricSuite(MS_SSIM_MIN_SIZE, MeanColour()).update(photo, photo, names(2))
    assert_close(values["l2"], torch.zeros(2))
    assert values["psnr"].isinf().all()
    assert_close(values["ssim"], torch.ones(2))
    assert_close(values["ms_ssim"], torch.ones(2))


def test_judges_appear_under_their_labels() -> None:
    image, photo = pictures(2, size=64)
    perceptual, identity = EffNetPerceptual(), DescriptorIdentity()
    values = MetricSuite(64, perceptual, identity).update(image, photo, names(2))
    assert_close(values["effnet_lite0"], perceptual(image, photo))
    assert_close(values["id_descriptor"], identity(image, photo))
    assert not any(value.requires_grad for value in values.values())


def test_two_images_share_one_look_at_the_photo() -> None:
    image, photo = pictures(3)
    judge = MeanColour()
    suite = MetricSuite(16, judge)
    values = suite.update({"": image, "phase1/": photo}, photo, names(3))
    assert judge.looks == 3
    assert_close(values["phase1/lpips_colour"], torch.zeros(3))
    assert values["lpips_colour"].min() > 0
    means = suite.compute()
    assert set(means) == set(values)
    assert_close(means["l2"], values["l2"].mean())


def test_batch_size_order_and_repeats_change_no_digit() -> None:
    image, photo = pictures(7)
    everything = names(7)
    whole = MetricSuite(16, MeanColour())
    whole.update(image, photo, everything)
    for order in ([0, 1, 2, 3, 4, 5, 6], [6, 3, 1, 0, 5, 2, 4]):
        single = MetricSuite(16, MeanColour())
        for i in [*order, order[0], order[3]]:  # two photos come twice, as a padding sampler would do
            single.update(image[i : i + 1], photo[i : i + 1], [everything[i]])
        assert single.count == 7
        for name, value in whole.compute().items():
            assert_close(single.compute()[name], value, rtol=1e-6, atol=0)


def test_rows_are_sorted_by_name_and_complete() -> None:
    image, photo = pictures(3)
    suite = MetricSuite(16)
    values = suite.update(image, photo, ["c", "a", "b"])
    rows = suite.per_image()
    assert [row["name"] for row in rows] == ["a", "b", "c"]
    assert_close(rows[2]["l2"], values["l2"][0].item())
    suite.reset()
    assert suite.per_image() == []
    assert suite.compute() == {}


def test_one_name_for_two_photos_is_noticed() -> None:
    image, photo = pictures(2)
    suite = MetricSuite(16)
    suite.update(image[:1], photo[:1], ["twin"])
    with pytest.raises(ValueError, match=r"photo 'twin' was measured before with other results"):
        suite.update(image[1:], photo[1:], ["twin"])


def test_wrong_inputs_are_refused() -> None:
    image, photo = pictures(2)
    suite = MetricSuite(16)
    with pytest.raises(ValueError, match=r"photos must lie in \[-1, 1\], got values up to 255"):
        suite.update(image, torch.full_like(photo, 255), names(2))
    with pytest.raises(ValueError, match=r"expected images \(2, 3, 16, 16\) for 2 names"):
        suite.update(image[:1], photo, names(2))
    with pytest.raises(ValueError, match=r"expected images \(3, 3, 16, 16\) for 3 names"):
        suite.update(image, photo, names(3))


def test_autocast_changes_nothing() -> None:
    image, photo = pictures(2)
    plain = MetricSuite(16, MeanColour()).update(image, photo, names(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = MetricSuite(16, MeanColour()).update(image, photo, names(2))
    for name, value in plain.items():
        assert_close(mixed[name], value)


def test_nan_is_reported_not_hidden() -> None:
    image, photo = pictures(2)
    suite = MetricSuite(16)
    suite.update(torch.full_like(image, float("nan")), photo, names(2))
    suite.update(torch.full_like(image, float("nan")), photo, names(2))  # a NaN row equals itself
    assert suite.compute()["l2"].isnan()


def rank(index: int, rendezvous: str, results: str) -> None:
    """One of two processes: each sees every second of five photos; the sampler pads with the first."""
    torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=index, world_size=2)
    image, photo = pictures(5)
    mine = [[0, 2, 4], [1, 3, 0]][index]
    suite = MetricSuite(16)
    suite.update(image[mine], photo[mine], [names(5)[i] for i in mine])
    torch.save({"means": suite.compute(), "rows": len(suite.per_image())}, f"{results}/{index}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_count_each_photo_once(tmp_path: Path) -> None:
    mp.spawn(rank, args=((tmp_path / "rendezvous").as_uri(), str(tmp_path)), nprocs=2)
    image, photo = pictures(5)
    alone = MetricSuite(16)
    alone.update(image, photo, names(5))
    for index in range(2):
        result = torch.load(tmp_path / f"{index}.pt", weights_only=True)
        assert result["rows"] == 5
        for name, value in alone.compute().items():
            assert_close(result["means"][name], value, rtol=1e-6, atol=0)

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from hyperinverter.networks import fusion as fusions
from hyperinverter.networks.fusion import (
    AddFusion,
    AttentionFusion,
    ConcatFusion,
    DifferenceFusion,
    FilmFusion,
    Fusion,
    GatedFusion,
    MultiplyFusion,
    PhotoOnlyFusion,
)

ALL = [
    ConcatFusion,
    AddFusion,
    DifferenceFusion,
    MultiplyFusion,
    GatedFusion,
    AttentionFusion,
    FilmFusion,
    PhotoOnlyFusion,
]


def maps() -> tuple[torch.Tensor, torch.Tensor]:
    """Of the photo, and of the phase-I image."""
    return torch.randn(3, 16, 8, 8), torch.randn(3, 16, 8, 8)


def finish(fusion: Fusion, mixed: torch.Tensor) -> torch.Tensor:
    """What follows every mix, written out."""
    x = F.conv2d(mixed, fusion.get_parameter("0.weight"), fusion.get_parameter("0.bias"))
    mean, var = x.mean(dim=(2, 3), keepdim=True), x.var(dim=(2, 3), keepdim=True, unbiased=False)
    return ((x - mean) / (var + 1e-5).sqrt()).clamp(min=0)


def test_no_operator_is_forgotten_here() -> None:
    defined = {
        value for value in vars(fusions).values() if isinstance(value, type) and issubclass(value, Fusion)
    }
    assert defined == {Fusion, *ALL}


@pytest.mark.parametrize("make", ALL)
def test_keeps_the_shape_and_every_image_apart(make: type[Fusion]) -> None:
    fusion = make(16).train()
    photo, w_image = maps()
    together = fusion(photo=photo, w_image=w_image)
    assert together.shape == photo.shape
    alone = [fusion(photo=photo[i : i + 1], w_image=w_image[i : i + 1]) for i in range(3)]
    assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", ALL)
def test_every_parameter_learns(make: type[Fusion]) -> None:
    fusion = make(16)
    photo, w_image = maps()
    (fusion(photo=photo, w_image=w_image) * torch.randn(3, 16, 8, 8)).sum().backward()
    silent = [name for name, p in fusion.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent in ([], ["0.bias"])  # InstanceNorm takes a constant per channel out again


@pytest.mark.parametrize("make", ALL)
def test_who_listens_to_the_phase_one_image(make: type[Fusion]) -> None:
    fusion = make(16)
    photo, w_image = maps()
    before = fusion(photo=photo, w_image=w_image)
    assert torch.equal(before, fusion(photo=photo, w_image=w_image.flip(2))) is (make is PhotoOnlyFusion)
    assert not torch.equal(before, fusion(photo=photo.flip(2), w_image=w_image))


def test_concat_puts_the_phase_one_image_first() -> None:
    fusion = ConcatFusion(16)
    photo, w_image = maps()
    assert {name: tuple(p.shape) for name, p in fusion.named_parameters()} == {
        "0.weight": (16, 32, 1, 1),
        "0.bias": (16,),
    }
    assert_close(fusion(photo=photo, w_image=w_image), finish(fusion, torch.cat([w_image, photo], dim=1)))


@pytest.mark.parametrize(
    ("make", "mix"),
    [
        (AddFusion, lambda photo, w_image: photo + w_image),
        (DifferenceFusion, lambda photo, w_image: photo - w_image),
        (PhotoOnlyFusion, lambda photo, w_image: photo),
    ],
)
def test_parameter_free_mixes(make: type[Fusion], mix: object) -> None:
    fusion = make(16)
    photo, w_image = maps()
    assert_close(fusion(photo=photo, w_image=w_image), finish(fusion, mix(photo, w_image)))  # type: ignore[operator]


def test_multiply_does_not_depend_on_the_size_of_features() -> None:
    fusion = MultiplyFusion(16)
    photo, w_image = maps()
    assert_close(
        fusion(photo=photo, w_image=w_image),
        fusion(photo=10 * photo, w_image=10 * w_image),
        rtol=1e-3,
        atol=1e-3,
    )


def test_gate_chooses_between_the_two() -> None:
    fusion = GatedFusion(16)
    photo, w_image = maps()
    torch.nn.init.zeros_(fusion.gate.weight)
    for bias, expected in ((50.0, photo), (-50.0, w_image), (0.0, (photo + w_image) / 2)):
        torch.nn.init.constant_(fusion.gate.bias, bias)  # type: ignore[arg-type]
        assert_close(fusion.mix(photo=photo, w_image=w_image), expected)


def test_attention_equals_the_slow_way() -> None:
    fusion = AttentionFusion(16, key_channels=4)
    photo, w_image = (x.double() for x in maps())
    fusion.double()
    mixed = fusion.mix(photo=photo, w_image=w_image)
    queries = fusion.query(F.instance_norm(photo))
    keys, values = fusion.key(F.instance_norm(w_image)), fusion.value(w_image)
    for n, row, column in ((0, 0, 0), (1, 3, 5), (2, 7, 7)):
        scores = torch.stack(
            [queries[n, :, row, column] @ keys[n, :, i, j] / 2 for i in range(8) for j in range(8)]
        )
        found = sum(s * values[n, :, i // 8, i % 8] for i, s in enumerate(scores.softmax(0)))
        assert_close(mixed[n, :, row, column], photo[n, :, row, column] + found)


def test_film_without_modulation_is_the_phase_one_image() -> None:
    fusion = FilmFusion(16)
    torch.nn.init.zeros_(fusion.modulation.weight)
    torch.nn.init.zeros_(fusion.modulation.bias)  # type: ignore[arg-type]
    photo, w_image = maps()
    assert_close(fusion.mix(photo=photo, w_image=w_image), w_image)


@pytest.mark.parametrize("make", ALL)
def test_works_under_bfloat16_autocast(make: type[Fusion]) -> None:
    fusion = make(16)
    photo, w_image = maps()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = fusion(photo=photo.bfloat16(), w_image=w_image)
    assert mixed.isfinite().all()

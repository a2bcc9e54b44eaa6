from __future__ import annotations

import pytest
import torch
from tiny import make_generator
from torch import Tensor
from torch.testing import assert_close

from hyperinverter.inversion.phase1 import WInverter
from hyperinverter.networks.backbones import ResNet34, TinyBackbone
from hyperinverter.networks.encoders import WEncoder
from hyperinverter.networks.generator import Generator


@pytest.fixture
def inverter(generator: Generator) -> WInverter:
    return WInverter(generator, WEncoder(TinyBackbone((8, 8, 8), (1, 1, 1)), generator.w_dim, head="flatten"))


def test_w_is_relative_to_the_generators_mean(inverter: WInverter, photos: Tensor) -> None:
    inversion = inverter(photos)
    assert_close(inversion.w, inverter.generator.w_avg + inverter.encoder(photos))
    assert inversion.residuals == {}
    assert inversion.image is inversion.w_image
    assert_close(inversion.image, inverter.generator.synthesis(inversion.w))


def test_batch_equals_one_by_one(inverter: WInverter, photos: Tensor) -> None:
    together = inverter.invert(photos).image
    alone = [inverter.invert(photo[None]).image for photo in photos]
    assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-4)


def test_gradients_reach_the_whole_encoder_and_nothing_else(inverter: WInverter, photos: Tensor) -> None:
    inverter.train()
    inverter(photos).image.square().mean().backward()
    for name, parameter in inverter.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
    assert all(parameter.grad is None for parameter in inverter.generator.parameters())
    assert {id(p) for p in inverter.trainable_parameters()} == {id(p) for p in inverter.encoder.parameters()}


def test_checkpoint_holds_the_encoder_alone(inverter: WInverter, photos: Tensor) -> None:
    assert {name.split(".")[0] for name in inverter.state_dict()} == {"encoder"}
    twin = WInverter(inverter.generator, WEncoder(TinyBackbone((8, 8, 8), (1, 1, 1)), 16, head="flatten"))
    twin.load_state_dict(inverter.state_dict(), strict=True)
    assert torch.equal(twin.invert(photos).image, inverter.invert(photos).image)


def test_generator_stays_in_eval_mode_and_moves_along(inverter: WInverter) -> None:
    inverter.train()
    assert not any(module.training for module in inverter.generator.modules())
    inverter.double()
    assert inverter.generator.w_avg.dtype == torch.double


def test_invert_neither_learns_nor_changes_the_mode() -> None:
    generator = make_generator()
    backbone = ResNet34()
    inverter = WInverter(generator, WEncoder(backbone, generator.w_dim)).train()
    inverter.encoder.backbone.bn1.eval()
    before = {name: tensor.clone() for name, tensor in inverter.state_dict().items()}
    backbone.input_size = 32  # what is tested does not depend on the paper's 256
    inversion = inverter.invert(torch.rand(1, 3, 16, 16))
    assert not inversion.image.requires_grad
    assert_close(inverter.state_dict(), before, rtol=0, atol=0)
    assert inverter.training
    assert inverter.encoder.backbone.body[0].bn1.training
    assert not inverter.encoder.backbone.bn1.training


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 1, 16, 16), (1, 3, 0, 16)])
def test_other_shapes_are_refused(inverter: WInverter, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected photos \(B, 3, H, W\)"):
        inverter(torch.zeros(shape))


@pytest.mark.parametrize("size", [(64, 64), (100, 30), (7, 9)])
def test_photos_of_other_sizes_are_what_the_encoder_would_see(
    inverter: WInverter, size: tuple[int, int]
) -> None:
    photo = torch.rand(2, 3, *size) * 2 - 1
    seen = torch.nn.functional.interpolate(photo, (64, 64), mode="bilinear", align_corners=False)
    inversion = inverter.invert(photo)
    assert inversion.image.shape == (2, 3, 16, 16)
    assert torch.equal(inversion.w, inverter.invert(seen).w)


def test_invert_takes_what_is_meant_and_says_what_is_not(generator: Generator, photos: Tensor) -> None:
    model = WInverter(generator, WEncoder(TinyBackbone(), generator.w_dim, head="pool"))
    whole = model.invert(photos).w
    assert_close(model.invert(photos[0]).w, whole[:1], rtol=1e-4, atol=1e-5)
    assert_close(model.invert(photos.double()).w, whole)
    pixels = ((photos + 1) * 127.5).byte()
    for wrong, kind, sentence in (
        (pixels, TypeError, "got torch.uint8; bytes become photos by"),
        (pixels.numpy(), TypeError, "got ndarray"),
        ("me.jpg", TypeError, "got str; read_photo"),
        (photos[:0], ValueError, "no photo in this batch"),
        (pixels.float(), ValueError, "its values reach"),
        (photos * torch.nan, ValueError, "not finite"),
        (photos[:, :1], ValueError, r"expected photos \(B, 3, H, W\)"),
    ):
        with pytest.raises(kind, match=sentence):
            model.invert(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("w", "error", "said"),
    [
        (None, TypeError, "got NoneType"),
        (torch.zeros(1, 16).numpy(), TypeError, "got ndarray"),
        (torch.zeros(1, 16, dtype=torch.int64), TypeError, "got torch.int64"),
        (torch.zeros(16), ValueError, r"got \(16,\)"),
        (torch.zeros(1, 3), ValueError, r"got \(1, 3\)"),
    ],
)
def test_what_is_no_code_is_said_with_its_shape_and_type(
    inverter: WInverter, w: object, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=rf"expected codes w .*{said}"):
        inverter.render(w)  # type: ignore[arg-type]


def test_codes_in_double_precision_are_taken_and_other_strengths_refused(inverter: WInverter) -> None:
    assert torch.equal(inverter.render(torch.zeros(1, 16).double()), inverter.render(torch.zeros(1, 16)))
    with pytest.raises(TypeError, match="expected strength as a number"):
        inverter.render(torch.zeros(1, 16), strength="a")  # type: ignore[arg-type]

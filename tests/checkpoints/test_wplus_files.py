"""Files of pSp and e4e: their encoder to W+ and the generator in the same file, against a slow version by hand."""

from __future__ import annotations

from pathlib import Path

import official
import pytest
import torch
import torch.nn.functional as F
from official import Shape
from torch import Tensor
from torch.testing import assert_close

from hyperinverter.checkpoints import authors, load_generator, load_inverter, load_w_encoder
from hyperinverter.checkpoints.unwrapping import Unwrapped
from hyperinverter.contracts import UserError
from hyperinverter.inversion.phase1 import WInverter
from hyperinverter.inversion.specification import build_w_encoder
from hyperinverter.networks.backbones import IRSE50
from hyperinverter.networks.frozen import load_strictly

SHAPE = Shape()  # 32 px, 8 style layers


def by_hand(photo: Tensor, method: str, state: dict[str, Tensor]) -> Tensor:
    """W+ codes without the mean, from the published names."""
    backbone = IRSE50().eval()
    backbone.load_state_dict({n: t for n, t in state.items() if n.startswith(("input_layer", "body"))})
    c1, c2, c3 = backbone(F.interpolate(photo, (256, 256), mode="bilinear", align_corners=False))

    def joined(coarse: Tensor, fine: Tensor, name: str) -> Tensor:
        lateral = F.conv2d(fine, state[f"{name}.weight"], state[f"{name}.bias"])
        return F.interpolate(coarse, fine.shape[2:], mode="bilinear", align_corners=True) + lateral

    p2 = joined(c3, c2, "latlayer1")
    p1 = joined(p2, c1, "latlayer2")
    codes = []
    for index in range(8):
        x = c3 if index < 3 else p2 if index < 7 else p1
        step = 0
        while x.shape[-1] > 1:
            name = f"styles.{index}.convs.{2 * step}"
            x = F.leaky_relu(F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], 2, 1), 0.01)
            step += 1
        weight = state[f"styles.{index}.linear.weight"] / 512**0.5
        codes.append(F.linear(x.flatten(1), weight, state[f"styles.{index}.linear.bias"]))
    found = torch.stack(codes, 1)
    if method == "e4e":
        found[:, 1:] += found[:, :1]
    return found


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return official.wplus_encoder_state(SHAPE.w_dim, 8)


def close(found: Tensor, expected: Tensor) -> None:
    assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.std()))


@pytest.fixture
def photo() -> Tensor:
    return torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize(
    ("options", "method"),
    [
        ({"encoder_type": "Encoder4Editing"}, "e4e"),
        pytest.param({"encoder_type": "GradualStyleEncoder"}, "psp", marks=pytest.mark.slow),
        pytest.param({}, "psp", marks=pytest.mark.slow),
    ],
)
def test_codes_are_those_of_the_published_network(
    options: dict[str, str], method: str, state: dict[str, Tensor], photo: Tensor
) -> None:
    stored = {f"encoder.{name}": tensor for name, tensor in state.items()}
    found = Unwrapped(stored, around=({"opts": options},))
    assert authors.is_wplus_encoder(found)
    spec, width, count, tensors = authors.read_wplus_encoder(found, lambda names: dict(names))
    assert (spec.method, width, count) == (method, SHAPE.w_dim, 8)
    with torch.device("meta"):
        encoder = build_w_encoder(spec, width, count)
    load_strictly(encoder, tensors, Path("psp.pt"))
    with torch.no_grad():
        close(encoder.eval()(photo), by_hand(photo, method, state))


@pytest.mark.slow  # 200 MB
def test_a_file_brings_its_own_generator(tmp_path: Path, state: dict[str, Tensor], photo: Tensor) -> None:
    file = official.write_wplus_encoder(tmp_path / "e4e_ffhq_encode.pt", SHAPE, "Encoder4Editing")
    model = load_inverter(file)
    assert isinstance(model, WInverter)
    inversion, inside = model.invert(photo), load_generator(file)
    with torch.no_grad():
        close(inversion.w, by_hand(photo, "e4e", state) + inside.w_avg)
        assert torch.equal(inversion.image, inside.synthesis(inversion.w))
    other = official.write_rosinality(tmp_path / "g.pt", Shape(resolution=16, widths=(8, 8, 8)))
    with pytest.raises(UserError, match="gives 8 codes of .* numbers, the generator .* takes 6 of"):
        load_inverter(file, other)
    with pytest.raises(UserError, match=r"is an encoder for W\+.*load_inverter reads this one"):
        load_w_encoder(file)

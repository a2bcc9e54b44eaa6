"""The face networks reproduce the package they come from, and the tests notice plausible mistakes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from hyperinverter.judges import faces
from hyperinverter.judges.efficientnet import SameConv2d
from hyperinverter.judges.faces import (
    CROP52,
    CROP58,
    FULL,
    FaceDescriptor,
    FaceExpression,
    FaceLandmarks68,
    FaceNetwork,
    ResidualBlock,
    resize,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "face_golden.npz"

# network, golden input at its size, output of the reference, tolerance, output from 64 px (tolerance 1e-4)
CASES = [
    (FaceDescriptor, "in150", "descriptor_in150", 1e-3, "torch_descriptor_crop52"),
    (FaceExpression, "in112", "expression_logits_in112", 1e-3, "torch_expression_logits_crop58"),
    (FaceLandmarks68, "in112", "landmarks_in112", 1e-5, "torch_landmarks_full"),
]


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in np.load(GOLDEN).items()}


def pixels(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2).float()


def errors(make: Callable[[], FaceNetwork], case: tuple, golden: dict[str, Tensor]) -> tuple[float, float]:
    """Largest deviations from the reference and from the pinned framing, in units of their tolerances."""
    _, given, reference, tolerance, framed = case
    net = make()
    with torch.no_grad():
        direct = (net.network(pixels(golden[given])) - golden[reference]).abs().max()
        cut = (net(pixels(golden["faces64"]) / 127.5 - 1) - golden[framed]).abs().max()
    return float(direct) / tolerance, float(cut) / 1e-4


@pytest.mark.parametrize("case", CASES, ids=lambda c: c[0].__name__)
def test_equals_the_reference(case: tuple, golden: dict[str, Tensor]) -> None:
    direct, cut = errors(case[0], case, golden)
    assert direct <= 1
    assert cut <= 1


def test_expression_probabilities(golden: dict[str, Tensor]) -> None:
    with torch.no_grad():
        probabilities = FaceExpression().network(pixels(golden["in112"])).softmax(dim=1)
    assert_close(probabilities, golden["expression_prob_in112"], rtol=0, atol=1e-4)


# Mistakes an implementer can make: each must push at least one comparison out of its tolerance. -------


def by_256(x: Tensor) -> Tensor:
    return (x - x.new_tensor(faces.MEAN_RGB).view(1, 3, 1, 1)) / 256


def by_one(x: Tensor) -> Tensor:
    return x - x.new_tensor(faces.MEAN_RGB).view(1, 3, 1, 1)


def bgr(x: Tensor) -> Tensor:
    return (x.flip(1) - x.new_tensor(faces.MEAN_RGB).view(1, 3, 1, 1)) / 255


@pytest.mark.parametrize("mistake", [by_256, by_one, bgr])
@pytest.mark.parametrize("case", CASES, ids=lambda c: c[0].__name__)
def test_wrong_normalisation_is_caught(
    case: tuple, mistake: Callable, golden: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faces, "normalise", mistake)
    assert max(errors(case[0], case, golden)) > 1


def block_forward(
    pad_main: tuple[int, ...] = (0, 1, 0, 1), zeros_first: bool = False
) -> Callable[[ResidualBlock, Tensor], Tensor]:
    """The forward pass of a residual block with chosen padding habits."""

    def forward(self: ResidualBlock, x: Tensor) -> Tensor:
        out = self.conv2(F.relu(self.conv1(x)))
        if self.down:
            x = F.avg_pool2d(x, 2)
            if out.shape[-1] < x.shape[-1]:
                out = F.pad(out, pad_main) if pad_main else F.interpolate(out, size=tuple(x.shape[-2:]))
            new = out.shape[1] - x.shape[1]
            x = F.pad(x, (0, 0, 0, 0, new, 0) if zeros_first else (0, 0, 0, 0, 0, new))
        return F.relu(x + out)

    return forward


def test_the_mutable_block_is_the_real_one(
    golden: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ResidualBlock, "forward", block_forward())
    assert max(errors(FaceDescriptor, CASES[0], golden)) <= 1


@pytest.mark.parametrize(
    "wrong",
    [block_forward((1, 0, 1, 0)), block_forward(()), block_forward(zeros_first=True)],
    ids=["zeros on the wrong side", "stretched instead of zeros", "new channels before the old ones"],
)
def test_wrong_shortcut_is_caught(
    wrong: Callable, golden: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ResidualBlock, "forward", wrong)
    assert min(errors(FaceDescriptor, CASES[0], golden)) > 1


def test_symmetric_padding_is_caught(golden: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    def symmetric(self: SameConv2d, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, self.stride, self.kernel_size[0] // 2, 1, self.groups)

    monkeypatch.setattr(SameConv2d, "forward", symmetric)
    for case in CASES[1:]:
        assert min(errors(case[0], case, golden)) > 1


def test_entry_taken_before_its_relu_is_caught(
    golden: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(self: faces.DenseBlock, x: Tensor) -> Tensor:
        first = self.conv0(x)
        total = first + self.conv1(F.relu(first))
        total = total + self.conv2(F.relu(total))
        total = total + self.conv3(F.relu(total))
        return F.relu(total)

    monkeypatch.setattr(faces.DenseBlock, "forward", wrong)
    for case in CASES[1:]:
        assert min(errors(case[0], case, golden)) > 1


# Framing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("crop", "size", "want"),
    [(CROP52, 64, (12, 64, 6, 58)), (CROP58, 64, (6, 64, 3, 61)), (CROP52, 256, (48, 256, 24, 232))],
)
def test_crops_scale_with_the_picture(crop: faces.Crop, size: int, want: tuple) -> None:
    grid = torch.arange(size * size).view(1, 1, size, size)
    top, bottom, left, right = want
    assert_close(crop.cut(grid), grid[:, :, top:bottom, left:right])


def test_full_crop_is_the_whole_picture() -> None:
    image = torch.randn(1, 3, 20, 20)
    assert FULL.cut(image).shape == image.shape


def test_resize_is_antialiased_only_when_shrinking() -> None:
    image = torch.rand(1, 1, 32, 32)
    assert resize(image, 32) is image
    assert_close(resize(image, 8), F.interpolate(image, size=8, mode="bilinear", antialias=True))
    assert_close(resize(image, 50), F.interpolate(image, size=50, mode="bilinear"))


def test_parameter_counts() -> None:
    counts = [sum(p.numel() for p in case[0]().parameters()) for case in CASES]
    assert counts == [5_607_488, 323_687, 356_840]


def test_stay_frozen_inside_a_training_module() -> None:
    owner = nn.Sequential(FaceExpression()).train()
    assert not any(m.training for m in owner[0].modules())
    assert not any(p.requires_grad for p in owner.parameters())

"""The EfficientNet-lite0 features: same numbers as the original package, frozen, strict."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from hyperinverter.contracts import UserError
from hyperinverter.judges.efficientnet import EfficientNetLite0, EfficientNetLite0Features, pad_same
from hyperinverter.networks.frozen import load_strictly

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def features() -> EfficientNetLite0Features:
    return EfficientNetLite0Features()


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / "judges_golden.npz"))


@pytest.fixture(scope="module")
def photo() -> Tensor:
    faces = np.load(GOLDEN / "face_golden.npz")["faces64"]
    return torch.from_numpy(faces).permute(0, 3, 1, 2).float() / 127.5 - 1


def test_taps_equal_the_original_package(
    features: EfficientNetLite0Features, golden: dict[str, np.ndarray], photo: Tensor
) -> None:
    for index, tap in enumerate(features(photo[:1])):
        want = torch.from_numpy(golden[f"effnet_tap{index}"])
        # the golden taps come from float32 weights, ours are stored as float16
        assert (tap - want).norm() / want.norm() < 5e-3
        assert tap.shape == want.shape


def test_taps_have_the_documented_channels_and_strides(features: EfficientNetLite0Features) -> None:
    taps = features(torch.zeros(1, 3, 64, 64))
    sides = [64 // stride for stride in features.strides]
    want = [(1, c, s, s) for c, s in zip(features.channels, sides, strict=True)]
    assert [tuple(tap.shape) for tap in taps] == want


def test_gradient_reaches_the_image_but_no_weight(features: EfficientNetLite0Features) -> None:
    x = torch.randn(1, 3, 64, 64, requires_grad=True)
    sum(tap.square().mean() for tap in features(x)).backward()
    assert x.grad is not None
    assert x.grad.abs().max() > 0
    assert not any(p.requires_grad for p in features.parameters())


def test_train_keeps_eval_mode(features: EfficientNetLite0Features) -> None:
    assert not any(m.training for m in features.train().modules())


@pytest.mark.parametrize(("size", "kernel", "stride"), [(64, 3, 2), (7, 5, 2), (8, 5, 2), (9, 3, 1)])
def test_same_padding_keeps_ceil_of_size_over_stride(size: int, kernel: int, stride: int) -> None:
    padded = pad_same(torch.ones(1, 1, size, size), kernel, stride)
    assert (padded.shape[-1] - kernel) // stride + 1 == -(-size // stride)
    left, right = padded[0, 0, size // 2].ne(0).nonzero()[0], padded.shape[-1] - 1
    right = right - padded[0, 0, size // 2].ne(0).nonzero()[-1]
    assert int(right - left) in (0, 1)  # an odd column goes right


def test_weights_of_another_network_are_refused() -> None:
    foreign = {"stem.weight": torch.zeros(2), "other": torch.zeros(1)}
    with pytest.raises(UserError, match=r"95 missing.*1 unexpected \(first: other\).*1 of another shape"):
        load_strictly(EfficientNetLite0(), foreign, "foreign")


def test_batch_equals_one_by_one(features: EfficientNetLite0Features, photo: Tensor) -> None:
    together = features(photo[:3])
    for index in range(3):
        for tap, alone in zip(together, features(photo[index : index + 1]), strict=True):
            assert_close(tap[index : index + 1], alone, rtol=1e-4, atol=1e-4)

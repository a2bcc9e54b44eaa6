"""The sum of named terms."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from hyperinverter.losses.reconstruction import PixelLoss
from hyperinverter.losses.weighted import WeightedLoss


class Brightness(nn.Module):
    """A term that counts how often it looks at a photo, and remembers the side of what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.looks = 0
        self.sides: set[int] = set()

    def target(self, photo: Tensor) -> Tensor:
        self.looks += 1
        self.sides.add(photo.shape[-1])
        return photo.mean()

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        self.sides.add(image.shape[-1])
        return (image.mean() - target).abs()


def test_total_is_the_weighted_sum_and_parts_are_named_without_weight() -> None:
    image, photo = torch.randn(2, 3, 8, 8, requires_grad=True), torch.randn(2, 3, 8, 8)
    loss = WeightedLoss({"l2": (2.0, PixelLoss()), "light": (0.5, Brightness())})
    total, parts = loss(image, photo)
    assert list(parts) == ["l2", "light"]
    assert_close(parts["l2"], F.mse_loss(image, photo).detach())
    assert_close(total, 2 * F.mse_loss(image, photo) + 0.5 * (image.mean() - photo.mean()).abs())
    assert total.requires_grad
    assert not any(part.requires_grad for part in parts.values())


def test_a_target_serves_several_images() -> None:
    term = Brightness()
    loss = WeightedLoss({"light": (1.0, term)})
    photo = torch.randn(1, 3, 8, 8)
    target = loss.target(photo)
    first, second = torch.randn(2, 1, 3, 8, 8)
    assert_close(loss(first, photo, target)[0], WeightedLoss({"light": (1.0, Brightness())})(first, photo)[0])
    loss(second, photo, target)
    assert term.looks == 1


def test_gradient_does_not_enter_the_photo() -> None:
    photo = torch.randn(1, 3, 8, 8, requires_grad=True)
    total, _ = WeightedLoss({"l2": (1.0, PixelLoss())})(torch.randn(1, 3, 8, 8, requires_grad=True), photo)
    total.backward()
    assert photo.grad is None


@pytest.mark.parametrize(("size", "seen"), [(4, 4), (None, 16), (32, 16)])
def test_bigger_images_are_average_pooled_first(size: int | None, seen: int) -> None:
    term = Brightness()
    loss = WeightedLoss({"l2": (1.0, PixelLoss()), "light": (1.0, term)}, size=size)
    image, photo = torch.randn(2, 2, 3, 16, 16)
    _, parts = loss(image, photo)
    assert term.sides == {seen}
    factor = 16 // seen
    assert_close(parts["l2"], F.mse_loss(F.avg_pool2d(image, factor), F.avg_pool2d(photo, factor)))


def test_a_nan_is_not_hidden() -> None:
    image = torch.full((1, 3, 8, 8), float("nan"))
    total, parts = WeightedLoss({"l2": (1.0, PixelLoss())})(image, torch.zeros(1, 3, 8, 8))
    assert total.isnan()
    assert parts["l2"].isnan()


def test_wrong_terms_and_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one term"):
        WeightedLoss({})
    for weight in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="weight of loss term 'l2' must be above zero"):
            WeightedLoss({"l2": (weight, PixelLoss())})
    with pytest.raises(ValueError, match="differ in shape"):
        WeightedLoss({"l2": (1.0, PixelLoss())})(torch.zeros(2, 3, 8, 8), torch.zeros(1, 3, 8, 8))

"""Terms that compare an image with its photo."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from hyperinverter.judges.base import Embedding, Judge
from hyperinverter.judges.identity import DescriptorIdentity
from hyperinverter.judges.perceptual import EffNetPerceptual
from hyperinverter.losses.reconstruction import IdentityLoss, PerceptualLoss, PixelLoss


class MeanColour(Judge):
    """A judge that is easy to follow: compares mean colours, and counts how often it looks."""

    label = "colour"

    def __init__(self, higher_is_closer: bool) -> None:
        super().__init__()
        self.higher_is_closer = higher_is_closer
        self.looks = 0

    def _embed(self, image: Tensor) -> Embedding:
        self.looks += 1
        return [image.mean(dim=(2, 3))]

    def _compare(self, a: Embedding, b: Embedding) -> Tensor:
        return (a[0] * b[0] if self.higher_is_closer else (a[0] - b[0]).square()).sum(dim=1)


def images() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    image, photo = torch.rand(2, 4, 3, 8, 8, generator=generator) * 2 - 1
    return image.requires_grad_(), photo


def test_pixel_loss_is_the_mean_squared_error() -> None:
    image, photo = images()
    loss = PixelLoss()(image, PixelLoss().target(photo))
    assert_close(loss, sum((a - b) ** 2 for a, b in zip(image.flatten(), photo.flatten(), strict=True)) / 768)


def test_perceptual_loss_is_the_mean_distance() -> None:
    image, photo = images()
    term = PerceptualLoss(MeanColour(higher_is_closer=False))
    want = (image.mean(dim=(2, 3)) - photo.mean(dim=(2, 3))).square().sum(dim=1).mean()
    assert_close(term(image, term.target(photo)), want)


def test_identity_loss_is_one_minus_the_mean_similarity() -> None:
    image, photo = images()
    term = IdentityLoss(MeanColour(higher_is_closer=True))
    want = 1 - (image.mean(dim=(2, 3)) * photo.mean(dim=(2, 3))).sum(dim=1).mean()
    assert_close(term(image, term.target(photo)), want)


def test_targets_carry_no_gradient() -> None:
    image, photo = images()
    photo.requires_grad_()
    for term in (PixelLoss(), PerceptualLoss(MeanColour(False)), IdentityLoss(MeanColour(True))):
        term(image, term.target(photo)).backward()
    assert photo.grad is None
    assert image.grad is not None


def test_a_judge_of_the_wrong_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="PerceptualLoss needs a distance, colour measures similarity"):
        PerceptualLoss(MeanColour(higher_is_closer=True))
    with pytest.raises(ValueError, match="IdentityLoss needs a similarity, colour measures distance"):
        IdentityLoss(MeanColour(higher_is_closer=False))


def test_descent_on_real_judges_brings_a_face_closer() -> None:
    torch.manual_seed(0)
    photo = torch.rand(1, 3, 64, 64) * 2 - 1
    for term in (PerceptualLoss(EffNetPerceptual()), IdentityLoss(DescriptorIdentity())):
        target = term.target(photo)
        image = (photo + 0.3 * torch.randn_like(photo)).requires_grad_()
        optimizer = torch.optim.Adam([image], lr=0.02)
        values = []
        for _ in range(6):
            loss = term(image, target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            values.append(loss.item())
        assert values[-1] < 0.7 * values[0]


def test_share_judges_the_first_part_of_a_batch() -> None:
    photo, image = torch.rand(5, 3, 8, 8), torch.rand(5, 3, 8, 8, requires_grad=True)
    whole, half = PerceptualLoss(MeanColour(False)), PerceptualLoss(MeanColour(False), share=0.5)
    value = half(image, half.target(photo))
    assert_close(value, whole(image[:3], whole.target(photo[:3])))
    (gradient,) = torch.autograd.grad(value, image)
    assert gradient[:3].abs().sum(dim=(1, 2, 3)).min() > 0
    assert not gradient[3:].any()
    for share in (0.0, 1.5):
        with pytest.raises(ValueError, match="share must be above 0 and at most 1"):
            PerceptualLoss(MeanColour(False), share=share)

"""The adversarial losses against their formulas."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from hyperinverter.losses.adversarial import discriminator_loss, generator_loss, r1_penalty


def log1pexp(x: float) -> float:
    return math.log(1 + math.exp(x))


def test_generator_loss_is_non_saturating() -> None:
    logits = [-3.0, 0.5]
    want = (log1pexp(3.0) + log1pexp(-0.5)) / 2
    assert_close(generator_loss(torch.tensor(logits)).item(), want)
    # a clearly rejected image must still be pulled with full strength
    logit = torch.tensor([-30.0], requires_grad=True)
    generator_loss(logit).backward()
    assert_close(logit.grad, torch.tensor([-1.0]))


def test_discriminator_loss_is_the_halved_logistic_loss() -> None:
    real, fake = [2.0, -1.0], [0.3, 0.7]
    want = sum(log1pexp(-x) for x in real) / 4 + sum(log1pexp(x) for x in fake) / 4
    assert_close(discriminator_loss(torch.tensor(real), torch.tensor(fake)).item(), want)


def test_losses_stay_float32_for_half_precision_logits() -> None:
    logits = torch.tensor([0.1, -0.2], dtype=torch.bfloat16)
    assert generator_loss(logits).dtype == torch.float32
    assert discriminator_loss(logits, logits).dtype == torch.float32


class Quadratic(nn.Module):
    """A discriminator with known gradient: ``a * sum(x^2)``, so ``2 a x``."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.7))

    def forward(self, x: Tensor) -> Tensor:
        return self.a * x.square().sum(dim=(1, 2, 3))


def test_r1_penalty_is_the_mean_squared_gradient_and_teaches_the_discriminator() -> None:
    discriminator = Quadratic()
    photo = torch.randn(3, 3, 4, 4)
    squares = photo.square().sum(dim=(1, 2, 3)).mean()
    photo.requires_grad_()
    penalty = r1_penalty(discriminator(photo)[:, None], photo)
    assert_close(penalty, (2 * discriminator.a) ** 2 * squares)
    penalty.backward()
    assert_close(discriminator.a.grad, 8 * discriminator.a.detach() * squares)


def test_r1_penalty_needs_photos_with_gradients() -> None:
    photo = torch.randn(2, 3, 4, 4)
    with pytest.raises(ValueError, match="photos that require gradients"):
        r1_penalty(Quadratic()(photo), photo)

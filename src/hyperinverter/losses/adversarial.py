"""Learning from a discriminator: the non-saturating loss and the R1 penalty.

All functions take the discriminator's outputs (logits, positive for "photo"), ``(B,)`` or ``(B, 1)``, and compute
in float32, also under autocast.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from hyperinverter.ops.convolution import without_kernel_gradients
from hyperinverter.ops.precision import at_least_float32


def generator_loss(fake: Tensor) -> Tensor:
    """Non-saturating loss, mean of ``softplus(-D(image))`` (Goodfellow et al. 2014, section 3)."""
    return F.softplus(-at_least_float32(fake)).mean()


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Logistic loss of the discriminator; halved as in HyperInverter's training.

    ``(mean softplus(-D(photo)) + mean softplus(D(image))) / 2``

    Args:
        real: Outputs for photos.
        fake: Outputs for images, which must be detached from the network that made them.
    """
    return (F.softplus(-at_least_float32(real)).mean() + F.softplus(at_least_float32(fake)).mean()) / 2


def r1_penalty(real: Tensor, photo: Tensor) -> Tensor:
    """Mean squared length of the discriminator's gradient at the photos (Mescheder et al. 2018, Eq. 9).

    Its weight is ``gamma / 2``; computed on every n-th step only, n times that (lazy regularisation,
    Karras et al. 2020).

    Args:
        real: Outputs for ``photo``, still attached to it.
        photo: ``(B, 3, R, R)``, or codes ``(B, D)``, with ``requires_grad`` set before the discriminator saw it.

    Raises:
        ValueError: If ``real`` does not depend on ``photo`` with gradients.
    """
    if not photo.requires_grad or not real.requires_grad:
        raise ValueError("r1_penalty needs photos that require gradients, and the logits of these photos")
    with without_kernel_gradients():
        (gradient,) = torch.autograd.grad(at_least_float32(real).sum(), photo, create_graph=True)
    return at_least_float32(gradient).square().sum(dim=tuple(range(1, gradient.ndim))).mean()

"""StyleGAN2's discriminator: sizes, the filter before halving, the minibatch statistic, two derivatives."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.testing import assert_close

from hyperinverter.losses.adversarial import r1_penalty
from hyperinverter.networks.discriminator import Discriminator, DiscriminatorBlock, DiscriminatorConv
from hyperinverter.networks.generator import GeneratorConfig
from hyperinverter.ops.resample import fir_kernel

SMALL = GeneratorConfig(img_resolution=16, channel_base=64, channel_max=4)

# Parameters, and tensors in the state dict of the published files (which hold constant filters too).
PUBLISHED = {
    32: (21_507_073, 37),
    64: (26_488_833, 46),
    128: (28_389_121, 55),
    256: (28_864_129, 64),
    512: (28_982_849, 73),
    1024: (29_012_513, 82),
}


@pytest.mark.parametrize("resolution", PUBLISHED)
def test_as_many_parameters_as_the_published_files(resolution: int) -> None:
    config = GeneratorConfig(img_resolution=resolution)
    with torch.device("meta"):
        discriminator = Discriminator(config)
    parameters, tensors = PUBLISHED[resolution]
    assert sum(p.numel() for p in discriminator.parameters()) == parameters
    blocks = len(config.resolutions) - 1
    assert len(discriminator.state_dict()) == tensors - 4 * blocks - 2


def slow_conv(x: Tensor, layer: DiscriminatorConv) -> Tensor:
    """Filter, convolve, keep every second pixel: what StyleGAN2's layer says before anyone made it fast."""
    weight = layer.weight.double() / math.sqrt(layer.weight[0].numel())
    side = weight.shape[-1]
    if layer.down:
        taps = fir_kernel().double().expand(x.shape[1], 1, 4, 4)
        # padding so that filter (4 taps) and kernel together halve the size exactly
        pad = (2 + side // 2, 1 + side // 2) * 2 if side == 1 else (2, 2, 2, 2)
        x = F.conv2d(F.pad(x, pad), taps, groups=x.shape[1])
        x = F.conv2d(x, weight)
        x = x[..., ::2, ::2] if side == 3 else x[..., 1::2, 1::2]
    else:
        x = F.conv2d(x, weight, padding=side // 2)
    if layer.gain is None:
        return x * math.sqrt(0.5)
    x = x if layer.bias is None else x + layer.bias.double()[:, None, None]
    x = torch.where(x < 0, 0.2 * x, x) * layer.gain
    return x if layer.clamp is None else x.clamp(-layer.clamp, layer.clamp)


@pytest.mark.parametrize(
    "arguments",
    [
        {"kernel": 1},
        {"kernel": 3},
        {"kernel": 3, "clamp": 0.5},
        {"kernel": 3, "down": True, "gain": 1.0},
        {"kernel": 1, "down": True, "bias": False, "gain": None},
    ],
)
def test_layer_equals_filter_then_convolution_then_every_second_pixel(arguments: dict) -> None:
    layer = DiscriminatorConv(2, 3, **arguments).double()
    if layer.bias is not None:
        torch.nn.init.normal_(layer.bias)
    x = torch.randn(2, 2, 8, 8, dtype=torch.double)
    out = layer(x)
    assert out.shape[-1] == (4 if layer.down else 8)
    assert_close(out, slow_conv(x, layer), rtol=1e-5, atol=1e-6)


def test_block_adds_shortcut_and_branch() -> None:
    block = DiscriminatorBlock(SMALL, 16).double()
    image = torch.randn(2, 3, 16, 16, dtype=torch.double)
    x = slow_conv(image, block.fromrgb)
    expected = slow_conv(x, block.skip) + slow_conv(slow_conv(x, block.conv0), block.conv1)
    assert_close(block(image), expected, rtol=1e-5, atol=1e-6)


def test_block_has_two_derivatives() -> None:
    block = DiscriminatorBlock(GeneratorConfig(img_resolution=8, channel_base=16, channel_max=2), 8).double()
    image = torch.randn(1, 3, 8, 8, dtype=torch.double, requires_grad=True)

    def score(image: Tensor) -> Tensor:  # squared: leaky ReLU alone has no second derivative
        return block(image).square().sum()

    assert gradcheck(score, image)
    assert gradgradcheck(score, image)


def test_r1_penalty_teaches_every_weight_that_an_image_passes() -> None:
    discriminator = Discriminator(SMALL)
    photo = torch.randn(4, 3, 16, 16, requires_grad=True)
    penalty = r1_penalty(discriminator(photo), photo)
    assert penalty > 0
    penalty.backward()
    for name, parameter in discriminator.named_parameters():
        if name.endswith(".weight"):
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name


def spread(x: Tensor, group: int) -> Tensor:
    """Mean over channels and pixels of the standard deviation inside a group of images, one group at a time."""
    out = torch.empty(len(x), dtype=torch.double)
    count = len(x) // group
    for g in range(count):
        members = list(range(g, len(x), count))  # images g, g + count, ... as in the published networks
        stacked = x[members].double()
        out[members] = (stacked.var(dim=0, unbiased=False) + 1e-8).sqrt().mean()
    return out


@pytest.mark.parametrize(("batch", "group"), [(1, 1), (2, 2), (3, 3), (4, 4), (5, 1), (6, 3), (8, 4)])
def test_minibatch_statistic(batch: int, group: int) -> None:
    epilogue = Discriminator(SMALL, group_size=4).b4
    x = torch.randn(batch, 4, 4, 4)
    seen: list[Tensor] = []
    epilogue.conv.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    assert epilogue(x).shape == (batch, 1)
    assert torch.equal(seen[0][:, :4], x)
    expected = spread(x, group).float().view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    assert_close(seen[0][:, 4:], expected, rtol=1e-4, atol=1e-5)


def test_logits_of_a_whole_group() -> None:
    discriminator = Discriminator(SMALL)
    photo = torch.randn(4, 3, 16, 16)
    assert discriminator(photo).shape == (4, 1)
    assert_close(discriminator(photo.flip(0)), discriminator(photo).flip(0), rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert discriminator(photo).isfinite().all()

"""The method written the obvious way, with the weights of our modules: what tests and ``recipes.bench`` compare with.

One image after the other is drawn, each with kernels that are made, modulated and demodulated for it alone; the
image is enlarged by stuffing zeros between pixels and filtering; features of photo and phase-I image are two calls;
in training, gradients of the frozen parts are recorded and computed like all others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperinverter.inversion.phase2 import HyperInverter
from hyperinverter.networks.generator import Block, StyledConv, Synthesis, ToRGB


def draw(synthesis: Synthesis, w: Tensor, residuals: Mapping[str, Tensor]) -> Tensor:
    """Draw ``(B, 3, R, R)`` from codes ``(B, D)`` and residuals ``(B, *shape)``, one image at a time."""
    return torch.cat(
        [
            _draw_one(synthesis, code[None], {name: delta[i] for name, delta in residuals.items()})
            for i, code in enumerate(w)
        ]
    )


def invert(model: HyperInverter, photo: Tensor) -> Tensor:
    """Photos -> phase II images, ``(B, 3, R, R)``."""
    w = model.w_inverter.encode(photo)
    w_image = draw(model.generator.synthesis, w, {})
    photo_features = model.feature_encoder(photo)
    initial_features = model.feature_encoder(w_image)
    residuals = model.hypernet(initial_features, photo_features)
    return draw(model.generator.synthesis, w, residuals)


def phase1(model: HyperInverter, photo: Tensor) -> Tensor:
    """Photos -> phase I images, ``(B, 3, R, R)``."""
    return draw(model.generator.synthesis, model.w_inverter.encode(photo), {})


def step(model: HyperInverter, photo: Tensor) -> Tensor:
    """Forward and backward pass of a training step with the pixel loss; returns the loss."""
    model.w_inverter.requires_grad_(True)
    model.generator.requires_grad_(True)
    loss = F.mse_loss(invert(model, photo), photo)
    loss.backward()
    return loss.detach()


def _draw_one(synthesis: Synthesis, w: Tensor, residuals: Mapping[str, Tensor]) -> Tensor:
    image: Tensor | None = None
    x = torch.empty(0)
    for resolution in synthesis.resolutions:
        name = f"b{resolution}"
        block = synthesis.get_submodule(name)
        assert isinstance(block, Block)
        if block.first:
            x = block.const[None]
        else:
            x = _styled(block.conv0, x, w, f"{name}.conv0", residuals)
        x = _styled(block.conv1, x, w, f"{name}.conv1", residuals)
        colours = _colours(block.torgb, x, w, f"{name}.torgb", residuals)
        image = colours if image is None else _enlarged(image, block.conv0.fir) + colours
    assert image is not None
    return image


def _weight(stored: Tensor, name: str, residuals: Mapping[str, Tensor]) -> Tensor:
    return stored + residuals[name] if name in residuals else stored


def _style(layer: StyledConv | ToRGB, w: Tensor, name: str, residuals: Mapping[str, Tensor]) -> Tensor:
    weight = _weight(layer.affine.weight, f"{name}.affine.weight", residuals)
    return F.linear(w, weight * layer.affine.weight_gain, layer.affine.bias * layer.affine.bias_gain)


def _styled(layer: StyledConv, x: Tensor, w: Tensor, name: str, residuals: Mapping[str, Tensor]) -> Tensor:
    style = _style(layer, w, name, residuals)
    kernel = _weight(layer.weight, f"{name}.weight", residuals) * style[0, None, :, None, None]
    kernel = kernel * (kernel.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).rsqrt()
    if layer.up:
        x = F.conv_transpose2d(x, kernel.transpose(0, 1), stride=2)
        x = _filtered(F.pad(x, (1, 1, 1, 1)), layer.fir)
    else:
        x = F.conv2d(x, kernel, padding=1)
    x = x + layer.noise_const * layer.noise_strength
    x = F.leaky_relu(x + layer.bias[None, :, None, None], 0.2) * math.sqrt(2)
    return x if layer.clamp is None else x.clamp(-layer.clamp, layer.clamp)


def _colours(layer: ToRGB, x: Tensor, w: Tensor, name: str, residuals: Mapping[str, Tensor]) -> Tensor:
    style = _style(layer, w, name, residuals) * layer.gain
    kernel = _weight(layer.weight, f"{name}.weight", residuals) * style[0, None, :, None, None]
    x = F.conv2d(x, kernel) + layer.bias[None, :, None, None]
    return x if layer.clamp is None else x.clamp(-layer.clamp, layer.clamp)


def _enlarged(image: Tensor, fir: Tensor) -> Tensor:
    batch, channels, height, width = image.shape
    stuffed = image.new_zeros(batch, channels, height, 2, width, 2)
    stuffed[:, :, :, 0, :, 0] = image
    stuffed = stuffed.view(batch, channels, 2 * height, 2 * width)
    return _filtered(F.pad(stuffed, (2, 1, 2, 1)), fir)


def _filtered(x: Tensor, fir: Tensor) -> Tensor:
    channels = x.shape[1]
    return F.conv2d(x, fir.expand(channels, 1, 4, 4), groups=channels)

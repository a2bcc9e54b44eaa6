"""The method written the obvious way, with the weights of our modules: what ``hyperinverter bench`` compares with.

One image after the other is drawn, each with kernels that are made, modulated and demodulated for it alone; every
resampling is one function that stuffs zeros between pixels, pads and filters with the full 4x4 kernel; noise, bias,
activation and gain are a pass each; features of photo and phase-I image are two calls; in training, gradients of the
frozen parts are recorded and computed like all others; every convolution is a direct one. So do the authors of
StyleGAN2-ADA (without their CUDA kernels) and of HyperInverter. Photos are read and decoded again for every batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from hyperinverter.inversion.phase2 import HyperInverter
from hyperinverter.networks.generator import Synthesis
from hyperinverter.networks.styled import Block, StyledConv, ToRGB
from hyperinverter.ops.policy import policy


def draw(synthesis: Synthesis, w: Tensor, residuals: Mapping[str, Tensor]) -> Tensor:
    """Draw ``(B, 3, R, R)`` from codes ``(B, D)`` and residuals ``(B, *shape)``, one image at a time."""
    return torch.cat(
        [
            _draw_one(synthesis, code[None], {name: delta[i] for name, delta in residuals.items()})
            for i, code in enumerate(w)
        ]
    )


@policy(winograd="never", regressors="loop")
def invert(model: HyperInverter, photo: Tensor) -> Tensor:
    """Photos -> phase II images, ``(B, 3, R, R)``."""
    w = model.w_inverter.encode(photo)
    w_image = draw(model.generator.synthesis, w, {})
    photo_features = model.feature_encoder(photo)
    w_image_features = model.feature_encoder(w_image)
    assert model.hypernet is not None  # the method of the paper is what is measured
    residuals = model.hypernet(photo=photo_features, w_image=w_image_features)
    return draw(model.generator.synthesis, w, residuals)


@policy(winograd="never")
def phase1(model: HyperInverter, photo: Tensor) -> Tensor:
    """Photos -> phase I images, ``(B, 3, R, R)``."""
    return draw(model.generator.synthesis, model.w_inverter.encode(photo), {})


@policy(winograd="never", regressors="loop")
def step(model: HyperInverter, photo: Tensor, half: bool = False) -> Tensor:
    """Forward and backward pass of a training step with the pixel loss; returns the loss."""
    model.w_inverter.requires_grad_(True)
    model.generator.requires_grad_(True)
    with torch.autocast(photo.device.type, torch.bfloat16, enabled=half):
        loss = F.mse_loss(invert(model, photo), photo)
    loss.backward()
    return loss.detach()


def load(files: Sequence[Path]) -> Tensor:
    """Read photos of one size into ``(B, 3, R, R)``, RGB in [-1, 1]."""
    photos = []
    for file in files:
        with Image.open(file, formats=["PNG", "JPEG"]) as image:
            pixels = np.array(image.convert("RGB"))
        photos.append(torch.from_numpy(pixels).permute(2, 0, 1).float() / 127.5 - 1)
    return torch.stack(photos)


def _draw_one(synthesis: Synthesis, w: Tensor, residuals: Mapping[str, Tensor]) -> Tensor:
    image: Tensor | None = None
    x = w.new_empty(0)
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
        image = colours if image is None else _resampled(image, block.conv0.fir, 2, 2, 1) + colours
    assert image is not None
    return image


def _weight(stored: Tensor, name: str, residuals: Mapping[str, Tensor]) -> Tensor:
    return stored + residuals[name] if name in residuals else stored


def _style(layer: StyledConv | ToRGB, w: Tensor, name: str, residuals: Mapping[str, Tensor]) -> Tensor:
    weight = _weight(layer.affine.weight, f"{name}.affine.weight", residuals)
    return F.linear(w, weight * (1 / math.sqrt(weight.shape[1])), layer.affine.bias)


def _styled(layer: StyledConv, x: Tensor, w: Tensor, name: str, residuals: Mapping[str, Tensor]) -> Tensor:
    style = _style(layer, w, name, residuals)
    kernel = _weight(layer.weight, f"{name}.weight", residuals) * style[0, None, :, None, None]
    kernel = kernel * (kernel.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).rsqrt()
    if layer.up:
        x = F.conv_transpose2d(x, kernel.transpose(0, 1), stride=2)
        x = _resampled(x, layer.fir, 1, 1, 1)
    else:
        x = F.conv2d(x, kernel, padding=1)
    x = x + layer.noise_const * layer.noise_strength
    x = F.leaky_relu(x + layer.bias[None, :, None, None], 0.2) * math.sqrt(2)
    return x if layer.clamp is None else x.clamp(-layer.clamp, layer.clamp)


def _colours(layer: ToRGB, x: Tensor, w: Tensor, name: str, residuals: Mapping[str, Tensor]) -> Tensor:
    style = _style(layer, w, name, residuals) * (1 / math.sqrt(x.shape[1]))
    kernel = _weight(layer.weight, f"{name}.weight", residuals) * style[0, None, :, None, None]
    x = F.conv2d(x, kernel) + layer.bias[None, :, None, None]
    return x if layer.clamp is None else x.clamp(-layer.clamp, layer.clamp)


def _resampled(x: Tensor, fir: Tensor, up: int, before: int, after: int) -> Tensor:
    """Zeros between pixels, zeros around them, the filter."""
    batch, channels, height, width = x.shape
    x = F.pad(x.reshape(batch, channels, height, 1, width, 1), (0, up - 1, 0, 0, 0, up - 1))
    x = F.pad(x.reshape(batch, channels, height * up, width * up), (before, after, before, after))
    return F.conv2d(x, fir.repeat(channels, 1, 1, 1), groups=channels)

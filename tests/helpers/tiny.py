"""Networks small enough for tests."""

from __future__ import annotations

from typing import Any

import torch

from hyperinverter.networks.generator import Generator


def make_generator(resolution: int = 16, **overrides: Any) -> Generator:
    """A narrow random generator whose mean w and noise are not zero."""
    shape = {"z_dim": 12, "w_dim": 16, "mapping_layers": 2, "channel_base": 256, "channel_max": 16}
    generator = Generator(img_resolution=resolution, **{**shape, **overrides})
    with torch.no_grad():
        generator.mapping.w_avg.normal_()
        for name, parameter in generator.named_parameters():
            if name.endswith("noise_strength"):
                parameter.fill_(0.1)
    return generator.eval()

"""Where pretrained numbers come from."""

from hyperinverter.checkpoints.generators import (
    find_discriminator,
    load_critic,
    load_discriminator,
    load_generator,
    save_generator,
)
from hyperinverter.checkpoints.models import (
    load_hyperinverter,
    load_inverter,
    load_w_encoder,
    load_w_inverter,
    save_hyperinverter,
    save_model,
)

__all__ = [
    "find_discriminator",
    "load_critic",
    "load_discriminator",
    "load_generator",
    "load_hyperinverter",
    "load_inverter",
    "load_w_encoder",
    "load_w_inverter",
    "save_generator",
    "save_hyperinverter",
    "save_model",
]

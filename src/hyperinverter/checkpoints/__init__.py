"""Where pretrained numbers come from."""

from hyperinverter.checkpoints.loading import (
    load_generator,
    load_hyperinverter,
    load_w_inverter,
    save_generator,
    save_model,
)

__all__ = ["load_generator", "load_hyperinverter", "load_w_inverter", "save_generator", "save_model"]

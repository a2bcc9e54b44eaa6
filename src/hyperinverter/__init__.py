"""HyperInverter: StyleGAN inversion in two phases, as an experiment framework.

The names most people need, imported on first use, because torch takes seconds to load:

    from hyperinverter import directions, load_hyperinverter, load_inverter, read_photo
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hyperinverter.checkpoints import (
        load_generator,
        load_hyperinverter,
        save_hyperinverter,
    )
    from hyperinverter.data.transforms import read_photo
    from hyperinverter.editing import catalogue as directions
    from hyperinverter.editing.files import load_inversion, save_inversion
    from hyperinverter.inverters import load_inverter

__all__ = [
    "directions",
    "load_generator",
    "load_hyperinverter",
    "load_inversion",
    "load_inverter",
    "read_photo",
    "save_hyperinverter",
    "save_inversion",
]

_PLACES = {
    **dict.fromkeys(
        ("load_generator", "load_hyperinverter", "save_hyperinverter"),
        "hyperinverter.checkpoints",
    ),
    **dict.fromkeys(("load_inversion", "save_inversion"), "hyperinverter.editing.files"),
    "load_inverter": "hyperinverter.inverters",
    "read_photo": "hyperinverter.data.transforms",
}


def __getattr__(name: str) -> Any:
    if name == "directions":
        return importlib.import_module("hyperinverter.editing.catalogue")
    if name in _PLACES:
        return getattr(importlib.import_module(_PLACES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

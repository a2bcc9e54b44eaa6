"""The command that trains: as a person types it here, and as a process starts it again."""

from __future__ import annotations

import sys
from pathlib import Path

TRAIN = "hyperinverter.train"  # the module that `hyperinverter train` runs


def train_command() -> str:
    """What to type before overrides: ``python train.py`` in a checkout, ``hyperinverter train`` elsewhere."""
    if _main_module() == TRAIN:
        return "hyperinverter train"
    checkout = Path(__file__).resolve().parents[3]
    in_checkout = Path(sys.argv[0]).name == "train.py" or (checkout / "train.py").is_file()
    return "python train.py" if in_checkout else "hyperinverter train"


def again() -> list[str]:
    """What starts the program of this process again; its arguments follow."""
    module = _main_module()
    return [sys.executable, *(["-m", module] if module else [str(Path(sys.argv[0]).resolve())])]


def _main_module() -> str | None:
    """Name of the module that ``python -m`` or ``hyperinverter train`` has started; None for a script."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return None if spec is None else spec.name

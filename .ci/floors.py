"""Print the lowest versions that pyproject.toml declares, as constraints for pip: `python .ci/floors.py > FILE`."""

from __future__ import annotations

import re
from pathlib import Path


def floors(text: str) -> list[str]:
    """``NAME==VERSION`` for every ``"NAME>=VERSION..."``, the ceiling left out."""
    found = re.findall(r'"([A-Za-z0-9_.-]+)(?:\[[^\]]*\])?>=([0-9][0-9A-Za-z.]*)[^"]*"', text)
    return [f"{name}=={version}" for name, version in dict(found).items()]


if __name__ == "__main__":
    pyproject = Path(__file__).resolve().parents[1] / "pyproject.toml"
    print("\n".join(floors(pyproject.read_text(encoding="utf-8"))))

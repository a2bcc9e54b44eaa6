"""What the sliders of the page say: powers of directions and strengths of residuals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hyperinverter.contracts import UserError, shown
from hyperinverter.editing.directions import Direction
from hyperinverter.inversion.drawing import GROUPS, KINDS

STRENGTHS = ("all", *GROUPS, *KINDS)


@dataclass(frozen=True)
class Moves:
    """What the sliders say."""

    powers: Mapping[str, float] = field(default_factory=dict)
    strength: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, said: Any, known: Mapping[str, Direction]) -> Moves:
        """Read what a page sent.

        Raises:
            UserError: If it names a direction that there is not, or numbers that are none.
        """
        if not isinstance(said, Mapping):
            raise UserError("the page sent something that is no edit: load it again")
        powers = _numbers(said.get("powers"), known, 20.0)
        strength = _numbers(said.get("strength"), STRENGTHS, 2.0)
        return cls({n: p for n, p in powers.items() if p}, {n: s for n, s in strength.items() if s != 1})

    def residuals(self) -> float | dict[str, float]:
        """Strength as ``Drawing`` takes it: one number, or by group and kind; "all" multiplies both kinds."""
        if not self.strength:
            return 1.0
        every = self.strength.get("all", 1.0)
        groups = {name: value for name, value in self.strength.items() if name in GROUPS}
        kinds = {kind: every * self.strength.get(kind, 1.0) for kind in KINDS}
        return {**groups, **kinds}

    def typed(self) -> list[str]:
        """As options of ``hyperinverter edit``."""
        words = [word for name, power in self.powers.items() for word in ("-d", f"{name}={power:g}")]
        strength = self.residuals()
        if isinstance(strength, dict):
            said = ",".join(f"{name}={value:g}" for name, value in strength.items() if value != 1)
            words += ["--strength", said] if said else []
        return words


def _numbers(said: Any, known: Any, most: float) -> dict[str, float]:
    if said is None:
        return {}
    if not isinstance(said, Mapping) or len(said) > 200:
        raise UserError("the page sent something that is no edit: load it again")
    found = {}
    for name, value in said.items():
        if name not in known or isinstance(value, bool) or not isinstance(value, (int, float)):
            raise UserError("the page sent a slider that there is not: load it again")
        if not -most <= value <= most:  # also true of not-a-number
            raise UserError(f"a slider was moved to {shown(value)}, beyond {most:g}: move it back")
        found[str(name)] = float(value)
    return found

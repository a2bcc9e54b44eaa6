"""A sweep described by factors: which settings, which seeds, and which of them again with more seeds."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.utils import JobStatus
from omegaconf import OmegaConf

from hyperinverter import config, runs
from hyperinverter.contracts import UserError
from hyperinverter.sweeps.record import Planned, RecordedSweeper, flat_factors, sweep_values, typed_setting
from hyperinverter.system.command import train_command
from hyperinverter.system.terminal import write_line

PHASE2_FACTORS = ("fusion", "coverage", "features", "hypernet")


@dataclass
class Point:
    """One setting of a study: what differs from the baseline, and how it is typed."""

    settings: dict[str, Any]  # factor -> value
    name: str
    overrides: list[str] = field(default_factory=list)


class SweepFailed(UserError):
    """Some jobs failed; the others finished."""


def design_points(design: str, factors: Mapping[str, Sequence[Any]]) -> list[Point]:
    """The settings of a study, the baseline (first value of every factor) first.

    Args:
        design: ``one_at_a_time``: the baseline, then every other value alone; ``grid``: all combinations.
        factors: Key or group -> its values.

    Raises:
        UserError: For an unknown design, or a factor without values.
    """
    empty = [name for name, values in factors.items() if not values]
    if empty:
        raise UserError(f"the factor {empty[0]} of this sweep has no values")
    factors = {name: _once(values) for name, values in factors.items()}  # a value typed twice is one job
    baseline = {name: values[0] for name, values in factors.items()}
    if design == "grid":
        combinations = itertools.product(*factors.values())
        settings = [dict(zip(factors, values, strict=True)) for values in combinations]
    elif design == "one_at_a_time":
        settings = [baseline]
        settings += [baseline | {name: value} for name, values in factors.items() for value in values[1:]]
    else:
        raise UserError(f"hydra.sweeper.design must be one_at_a_time or grid, got {design!r}")
    varying = [name for name, values in factors.items() if len(values) > 1]
    return [Point(setting, _name(setting, baseline, varying, design)) for setting in settings]


def _once(values: Sequence[Any]) -> list[Any]:
    found: list[Any] = []
    for value in values:
        if not any(type(value) is type(other) and value == other for other in found):
            found.append(value)
    return found


def whole(seeds: Sequence[Any]) -> list[int]:
    """Seeds as whole numbers, each once.

    Raises:
        UserError: For one that is none.
    """
    found: dict[int, None] = {}
    for seed in seeds:
        try:
            if isinstance(seed, bool) or (isinstance(seed, float) and seed != int(seed)):
                raise ValueError
            number = int(seed)
            if not 0 <= number < 1 << 32:
                raise ValueError
        except (ValueError, TypeError, OverflowError) as error:
            raise UserError(
                f"seed={seed} is no whole number from 0 to 4294967295; write seed=0,1,2"
            ) from error
        found[number] = None
    return list(found)


def _name(
    setting: Mapping[str, Any], baseline: Mapping[str, Any], varying: Sequence[str], design: str
) -> str:
    named = varying if design == "grid" else [name for name in varying if setting[name] != baseline[name]]
    words = [f"{name}={_shown(setting[name])}" for name in named]
    if words:
        return " ".join(words)
    base = [f"{name}={_shown(setting[name])}" for name in varying]
    return f"baseline ({' '.join(base)})" if base else "baseline"


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else config.quote(value)


class StudySweeper(RecordedSweeper):
    """A sweep described by factors; the command line can fix a factor or replace its values.

    Args:
        design: ``grid`` or ``one_at_a_time``, see ``design_points``.
        factors: Key or group -> values, the baseline's first.
        seeds: Every setting once per seed; None: the run's own seed.
        top: When all are done, this many of the best settings run again ...
        top_seeds: ... with each of these seeds.
    """

    def __init__(
        self,
        design: str = "grid",
        factors: Mapping[str, Sequence[Any]] | None = None,
        seeds: Sequence[int] | None = None,
        top: int = 0,
        top_seeds: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.design, self.factors = design, flat_factors(factors or {})
        self.seeds = None if seeds is None else whole(seeds)
        self.top, self.top_seeds = top, whole(top_seeds)

    def sweep(self, arguments: list[str]) -> Any:
        """Run the study and write its comparison.

        Raises:
            SweepFailed: At the end, if any job failed.
            UserError: Before anything runs, if a job's configuration cannot be composed or nothing varies.
        """
        points, fixed = self._plan(arguments)
        for point in points:
            self.check([*fixed, *point.overrides])
        config.check_additions(fixed)
        self.begin(self.design, self.factors)
        OmegaConf.save(self._config, self.folder / "multirun.yaml")
        seeds = self.seeds or [int(OmegaConf.select(self._config, "seed", default=0))]
        with self.compared_in_any_case():
            returns = list(
                self.launch([_job(point, s, fixed, s == seeds[0]) for s in seeds for point in points])
            )
            if self.top and self.top_seeds and len(points) > 1:
                best = self._best(points)
                extra = [seed for seed in self.top_seeds if seed not in seeds]
                returns += self.launch([_job(point, seed, fixed, False) for seed in extra for point in best])
        for path in self.end():
            write_line(str(path))
        failed = [index for index, job in enumerate(returns) if job.status != JobStatus.COMPLETED]
        if failed:
            listed = ", ".join(str(index) for index in failed)
            raise SweepFailed(
                f"{len(failed)} of {len(returns)} jobs failed ({listed}): see {self.folder}/N/log.txt; when the cause "
                f"is fixed, {train_command()} resume={self.folder} runs these alone"
            )
        return returns

    def _plan(self, arguments: Sequence[str]) -> tuple[list[Point], list[str]]:
        """Points of the study, and the overrides all jobs share."""
        fixed = self._read(arguments)
        phase = OmegaConf.select(self._config, "phase.number")
        unused = [name for name in self.factors if phase == 1 and name.split(".")[0] in PHASE2_FACTORS]
        if unused:
            raise UserError(
                f"phase I has no {unused[0]}: write `{train_command()} phase=2 +sweep`, or +sweep=loss"
            )
        points = design_points(self.design, self.factors)
        for point in points:
            point.overrides = [
                typed for name, v in point.settings.items() for typed in typed_setting(name, v)
            ]
        if len(points) * len(self.seeds or [0]) < 2:
            raise UserError(
                "this sweep has a single job: give a factor several values, such as fusion=concat,gated"
            )
        return points, fixed

    def _read(self, arguments: Sequence[str]) -> list[str]:
        """Take factors and seeds from the command line; return the other overrides."""
        fixed: list[str] = []
        for override in config.parse_overrides(arguments):
            key = override.key_or_group
            if key == "seed":
                values = sweep_values(override) if override.is_sweep_override() else [str(override.value())]
                self.seeds = whole(values)
            elif override.is_sweep_override():
                self.factors[key] = sweep_values(override)
            elif key in self.factors:
                self.factors[key] = [override.value()]
            else:
                fixed.append(str(override.input_line))
        return fixed

    def _best(self, points: Sequence[Point]) -> list[Point]:
        """The ``top`` settings so far, best first."""
        ranked = runs.summary(self.folder)
        names = list(ranked[ranked.seeds > 0].name)[: self.top]
        return [point for name in names for point in points if point.name == name]


def _job(point: Point, seed: int, fixed: Sequence[str], first: bool) -> Planned:
    """One setting with one seed; the seed is in its title unless it is the first."""
    title = point.name if first else f"{point.name} seed={seed}"
    overrides = [*fixed, *point.overrides, f"seed={seed}"]
    return Planned(point.name, point.settings, overrides, {"seed": seed}, title)

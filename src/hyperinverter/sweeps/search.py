"""A search instead of a grid: Optuna proposes settings, each is a job of a sweep like any other.

Proposals are made in the one process that runs the sweep, so however many processes a job has, all train the same.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from hyperinverter import config, runs
from hyperinverter.contracts import UserError, shown
from hyperinverter.sweeps.launcher import FreshLauncher
from hyperinverter.sweeps.record import Planned, RecordedSweeper, flat_factors, sweep_values, typed_setting
from hyperinverter.system.terminal import write_line


class OptunaSweeper(RecordedSweeper):
    """Optuna chooses what to try next from what the jobs before have measured.

    Args:
        trials: How many jobs.
        at_once: Proposals made together; best as many as the launcher runs at the same time.
        space: Key -> list of choices, or ``{low, high, log}``; what is typed adds to it
            (``fusion=concat,gated``, ``phase.optimizer.lr=interval(1e-4,1e-2)``, ``tag(log,interval(...))``).
        sampler: ``tpe`` or ``random``.
        prune: Stop jobs whose validation is worse than the median of the jobs before, after as many photos.
        seed: The seed of the proposals.
    """

    def __init__(
        self,
        trials: int = 20,
        at_once: int = 1,
        space: Mapping[str, Any] | None = None,
        sampler: str = "tpe",
        prune: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if trials < 1 or at_once < 1:
            raise UserError("hydra.sweeper.trials and hydra.sweeper.at_once must be at least 1")
        if sampler not in ("tpe", "random"):
            raise UserError(f"hydra.sweeper.sampler must be tpe or random, got {sampler!r}")
        self.trials, self.at_once, self.prune, self.seed = trials, at_once, prune, seed
        self.sampler, self._space = sampler, dict(space or {})

    def sweep(self, arguments: list[str]) -> Any:
        """Run the search and write its comparison; one that was cut short goes on with its jobs.

        Raises:
            UserError: Without Optuna, without anything to vary, for pruning on a cluster, to go on over another
                space, or if no job finished.
        """
        optuna = _optuna()
        if self.prune and not isinstance(self._launcher, FreshLauncher):
            raise UserError(
                "hydra.sweeper.prune=true needs jobs on this machine: use hydra/launcher=fresh, or set it to false"
            )
        space, fixed = self._plan(arguments)
        before = list(runs.read_sweep(self.folder).get("jobs") or [])
        _check_space(before, space, self.folder)
        rank_by = str(OmegaConf.select(self._config, "phase.rank_by"))
        # With the same seed a search that goes on would propose what it has tried.
        study = optuna.create_study(
            direction="maximize" if runs.best_is_highest(rank_by) else "minimize",
            sampler=_sampler(optuna, self.sampler, self.seed + len(before)),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=4),
        )
        self.begin(f"optuna {self.sampler}", {name: _shown(domain) for name, domain in space.items()})
        self.before = before
        for job in before:  # the same proposals first; the launcher runs what has not finished
            study.enqueue_trial(job["settings"])
        finished, trials = 0, max(self.trials, len(before))
        with self.compared_in_any_case():
            while (start := len(self.record["jobs"])) < trials:
                if start < len(before) and before[start].get("pruned"):
                    self._stopped_before(optuna, study.ask(space), before[start])
                    continue
                asked = [study.ask(space) for _ in range(_together(before, start, trials, self.at_once))]
                finished += self._try(optuna, study, asked, start, fixed)
        if not finished:
            self.close()
            raise UserError(f"none of {self.trials} jobs finished: see {self.folder}/N/log.txt")
        self.end()
        write_line(f"best: job {study.best_trial.number}, {rank_by} {study.best_value:.4g}")
        return study.best_value

    def _try(self, optuna: Any, study: Any, asked: Sequence[Any], start: int, fixed: Sequence[str]) -> int:
        """Run proposals as jobs and report their scores to the study; how many of them have one."""
        pruned = self._watch(dict(enumerate(asked, start)))
        returns = self.launch([_job(trial.params, fixed) for trial in asked])
        scores = [_score(done) for done in returns]
        for trial, score in zip(asked, scores, strict=True):
            states = optuna.trial.TrialState
            ended = states.PRUNED if trial.number in pruned else states.FAIL
            study.tell(trial, score, state=ended if score is None else states.COMPLETE)
            if trial.number in pruned:
                self.record["jobs"][trial.number]["pruned"] = True
        self._save()
        return sum(score is not None for score in scores)

    def _stopped_before(self, optuna: Any, trial: Any, job: Mapping[str, Any]) -> None:
        """Report a job that an earlier session has stopped, with the validations it had by then."""
        folder = self.folder / str(job["num"])
        for images, value in validations(folder, self._monitor()[0]):
            trial.report(value, images)
        trial.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        self.record["jobs"].append(dict(job))

    def _watch(self, trials: Mapping[int, Any]) -> set[int]:
        """Have the launcher stop the jobs that fall behind; the numbers of those it stopped, as they become known."""
        if not self.prune or not isinstance(self._launcher, FreshLauncher):
            return set()
        watch = _Watch(trials, self._monitor())
        self._launcher.watch = watch
        return watch.pruned

    def _monitor(self) -> tuple[str, str]:
        """The validation number by which jobs are compared while they run, and ``min`` or ``max``."""
        mode = str(OmegaConf.select(self._config, "phase.monitor_mode"))
        return str(OmegaConf.select(self._config, "phase.monitor")), mode

    def _plan(self, arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        """What varies, as Optuna's distributions, and the overrides all jobs share."""
        space = {name: _distribution(name, domain) for name, domain in _flatten_space(self._space).items()}
        fixed = []
        for override in config.parse_overrides(arguments):
            if override.is_sweep_override():
                space[override.key_or_group] = _typed_distribution(override)
            else:
                space.pop(override.key_or_group, None)
                fixed.append(str(override.input_line))
        if not space:
            raise UserError(
                "nothing varies in this search: type fusion=concat,gated or lr=interval(1e-4,1e-2)"
            )
        config.check_additions(fixed)
        self.check(fixed)
        return space, fixed


class _Watch:
    """Reports the validations of running jobs to Optuna, and says which to stop."""

    def __init__(self, trials: Mapping[int, Any], monitor: tuple[str, str]) -> None:
        self._trials, (self._name, mode) = trials, monitor
        self._sign = 1 if mode == "min" else -1
        self._reported: dict[int, int] = {}
        self.pruned: set[int] = set()

    def __call__(self, num: int, folder: Path) -> bool:
        """Whether the job should stop."""
        trial = self._trials[num]
        for images, value in validations(folder, self._name):
            if images > self._reported.get(num, -1):
                self._reported[num] = images
                trial.report(value, images)
        if self._reported.get(num) is not None and trial.should_prune():
            self.pruned.add(trial.number)
        return trial.number in self.pruned


def validations(folder: Path, name: str) -> list[tuple[int, float]]:
    """Photos seen and the number of this name at every validation of a job so far."""
    try:
        with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return [(int(row["images"]), float(row[name])) for row in rows if row.get(name)]
    except (OSError, ValueError, KeyError):
        return []  # not there yet, or half a line


def _check_space(before: Sequence[Mapping[str, Any]], space: Mapping[str, Any], folder: Path) -> None:
    """Refuse to go on with a search over another space: its jobs would be other ones.

    Raises:
        UserError: With the first job that does not fit.
    """
    for job in before:
        settings = job.get("settings") or {}
        if set(settings) != set(space) or not all(_fits(space[name], settings[name]) for name in space):
            tried = " ".join(f"{name}={shown(value)}" for name, value in settings.items())
            raise UserError(
                f"{folder} has searched another space (job {job['num']} was {tried}): start a new search, or resume "
                "this one without changes"
            )


def _fits(domain: Any, value: Any) -> bool:
    choices = getattr(domain, "choices", None)
    if choices is not None:
        return value in choices
    return isinstance(value, (int, float)) and domain.low <= value <= domain.high


def _together(before: Sequence[Mapping[str, Any]], start: int, trials: int, at_once: int) -> int:
    """How many proposals to make together: as many as asked for, up to one that an earlier session has stopped."""
    stop = next((num for num in range(start, len(before)) if before[num].get("pruned")), trials)
    return min(at_once, stop - start)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise UserError("hydra/sweeper=optuna needs Optuna: pip install 'hyperinverter[optuna]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _sampler(optuna: Any, name: str, seed: int) -> Any:
    if name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(seed=seed, constant_liar=True)  # several proposals at once spread out


def _flatten_space(space: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, domain in space.items():
        if isinstance(domain, Mapping) and "low" not in domain:
            flat |= _flatten_space(domain, f"{prefix}{name}.")
        elif isinstance(domain, Mapping):
            flat[f"{prefix}{name}"] = dict(domain)
        else:
            flat |= {f"{prefix}{key}": value for key, value in flat_factors({name: domain}).items()}
    return flat


def _distribution(name: str, domain: Any) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    try:
        if isinstance(domain, dict):
            low, high, log = domain["low"], domain["high"], bool(domain.get("log", False))
            integers = isinstance(low, int) and isinstance(high, int)
            return (IntDistribution if integers else FloatDistribution)(low, high, log=log)
        return CategoricalDistribution(domain)
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(
            f"hydra.sweeper.space.{name} is neither a list nor low, high and log: {error}"
        ) from error


def _typed_distribution(override: Override) -> Any:
    value = override.value()
    key = override.key_or_group
    if isinstance(value, IntervalSweep):
        return _distribution(key, {"low": value.start, "high": value.end, "log": "log" in value.tags})
    return _distribution(key, sweep_values(override))


def _shown(domain: Any) -> list[Any]:
    choices = getattr(domain, "choices", None)
    return list(choices) if choices is not None else [domain.low, domain.high]


def _job(params: Mapping[str, Any], fixed: Sequence[str]) -> Planned:
    """One proposal as a job."""
    name = " ".join(f"{key}={_short(value)}" for key, value in params.items())
    typed = [line for key, value in params.items() for line in typed_setting(key, value)]
    return Planned(name, dict(params), [*fixed, *typed])


def _score(done: JobReturn) -> float | None:
    """What a job measured, None without a finite number."""
    if done.status != JobStatus.COMPLETED or not isinstance(done.return_value, (int, float)):
        return None
    return float(done.return_value) if math.isfinite(done.return_value) else None


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)

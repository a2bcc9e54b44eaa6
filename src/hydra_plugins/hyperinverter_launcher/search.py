"""A search instead of a grid: Optuna proposes settings, each is a job of a sweep like any other.

Proposals are made in the one process that runs the sweep, so however many processes a job has, all train the same.
"""

import csv
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.utils import JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.hyperinverter_launcher import _flatten, _sweep_values, _typed, compare, refuse_ranks
from hyperinverter import config, runs
from hyperinverter.config import parse_overrides, quote
from hyperinverter.contracts import UserError
from hyperinverter.system.command import train_command
from hyperinverter.system.files import write_json
from hyperinverter.system.machine import now


class OptunaSweeper(Sweeper):
    """Let Optuna choose what to try next by what the jobs before have measured.

    Args:
        trials: How many jobs.
        at_once: Proposals made together; as many as the launcher runs at the same time.
        space: Key -> list of choices, or ``{low, high, log}``; what is typed adds to it
            (``fusion=concat,gated``, ``phase.optimizer.lr=interval(1e-4,1e-2)``, ``tag(log,interval(...))``).
        sampler: ``tpe`` or ``random``.
        prune: Stop jobs whose validation falls behind the median of those before at the same moment.
        seed: Of the proposals.
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

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from hydra.core.plugins import Plugins

        refuse_ranks(os.environ)
        self._config, self._context = config, hydra_context
        self._launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Run the search and write its comparison.

        Raises:
            UserError: Without Optuna, without anything to vary, or if no job finished.
        """
        optuna = _optuna()
        space, fixed = self._plan(arguments)
        folder = Path(self._config.hydra.sweep.dir)
        if runs.read_sweep(folder):
            raise UserError(f"{folder} holds a sweep already: a search cannot be resumed, start a new one")
        rank_by = str(OmegaConf.select(self._config, "phase.rank_by"))
        study = optuna.create_study(
            direction="maximize" if runs.best_is_highest(rank_by) else "minimize",
            sampler=_sampler(optuna, self.sampler, self.seed),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=4),
        )
        folder.mkdir(parents=True, exist_ok=True)
        record: dict[str, Any] = {
            "id": folder.name,
            "command": " ".join([train_command(), *sys.argv[1:]]),
            "design": f"optuna {self.sampler}",
            "factors": {name: _shown(domain) for name, domain in space.items()},
            "started": now(),
            "jobs": [],
        }
        finished = 0
        while len(record["jobs"]) < self.trials:
            start = len(record["jobs"])
            asked = [study.ask(space) for _ in range(min(self.at_once, self.trials - start))]
            batch = []
            for number, trial in enumerate(asked, start):
                typed = [line for name, value in trial.params.items() for line in _typed(name, value)]
                name = " ".join(f"{key}={_short(value)}" for key, value in trial.params.items())
                record["jobs"].append({"num": number, "name": name, "settings": dict(trial.params)})
                batch.append([*fixed, *typed, f"name={quote(name)}", f"group={quote(folder.name)}"])
            write_json(folder / runs.SWEEP, record)
            watched = _Watch(dict(enumerate(asked, start)), self._monitor()) if self.prune else None
            if hasattr(self._launcher, "watch"):
                self._launcher.watch = watched
            for trial, done in zip(asked, self._launcher.launch(batch, initial_job_idx=start), strict=True):
                score = done.return_value if done.status == JobStatus.COMPLETED else None
                usable = isinstance(score, (int, float)) and math.isfinite(score)
                pruned = watched is not None and trial.number in watched.pruned
                states = optuna.trial.TrialState
                state = states.COMPLETE if usable else states.PRUNED if pruned else states.FAIL
                study.tell(trial, float(score) if usable else None, state=state)
                finished += usable
        record["finished"] = now()
        write_json(folder / runs.SWEEP, record)
        if not finished:
            raise UserError(f"none of {self.trials} jobs finished; see {folder}/N/log.txt")
        compare(folder, self._config)
        sys.stderr.write(f"best: job {study.best_trial.number}, {rank_by} {study.best_value:.4g}\n")
        return study.best_value

    def _monitor(self) -> tuple[str, str]:
        """The validation number that tells how a job is doing, and whether lower or higher is better."""
        mode = str(OmegaConf.select(self._config, "phase.monitor_mode"))
        return str(OmegaConf.select(self._config, "phase.monitor")), mode

    def _plan(self, arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        """What varies, as Optuna's distributions, and the overrides all jobs share."""
        space = {name: _distribution(name, domain) for name, domain in _flatten_space(self._space).items()}
        fixed = []
        for override in parse_overrides(arguments):
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
        cfg = self._context.config_loader.load_sweep_config(self._config, fixed)
        config.validate(cfg)
        return space, fixed


class _Watch:
    """Reports the validations of running jobs to Optuna, and says which to stop."""

    def __init__(self, trials: Mapping[int, Any], monitor: tuple[str, str]) -> None:
        self._trials, (self._name, mode) = trials, monitor
        self._sign = 1 if mode == "min" else -1
        self._told: dict[int, int] = {}
        self.pruned: set[int] = set()

    def __call__(self, num: int, folder: Path) -> bool:
        """Whether the job shall stop."""
        trial = self._trials[num]
        for images, value in self._validations(folder):
            if images > self._told.get(num, -1):
                self._told[num] = images
                trial.report(value, images)
        if self._told.get(num) is not None and trial.should_prune():
            self.pruned.add(trial.number)
        return trial.number in self.pruned

    def _validations(self, folder: Path) -> list[tuple[int, float]]:
        try:
            with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            return [(int(row["images"]), float(row[self._name])) for row in rows if row.get(self._name)]
        except (OSError, ValueError, KeyError):
            return []  # not there yet, or half a line


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
            flat |= {f"{prefix}{key}": value for key, value in _flatten({name: domain}).items()}
    return flat


def _distribution(name: str, domain: Any) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    try:
        if isinstance(domain, dict):
            low, high, log = domain["low"], domain["high"], bool(domain.get("log", False))
            whole = isinstance(low, int) and isinstance(high, int)
            return (IntDistribution if whole else FloatDistribution)(low, high, log=log)
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
    if isinstance(value, RangeSweep):
        return _distribution(key, [*map(int, override.sweep_iterator())])
    return _distribution(key, _sweep_values(override))


def _shown(domain: Any) -> list[Any]:
    choices = getattr(domain, "choices", None)
    return list(choices) if choices is not None else [domain.low, domain.high]


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)

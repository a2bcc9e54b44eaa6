"""What every kind of sweep does: read what varies, keep ``sweep.json``, compare the jobs at the end."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Glob, Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from hyperinverter import config, runs
from hyperinverter.contracts import UserError
from hyperinverter.system.command import train_command
from hyperinverter.system.files import held, hold, write_json, writing
from hyperinverter.system.machine import now
from hyperinverter.system.processes import refuse_ranks
from hyperinverter.system.terminal import write_line


@dataclass
class Planned:
    """A job that is about to run."""

    name: str
    settings: dict[str, Any]  # factor -> value
    overrides: list[str]
    facts: dict[str, Any] = field(default_factory=dict)  # what else the record says about it
    title: str | None = None  # what the board and W&B call it; None: its name


class RecordedSweeper(Sweeper):
    """A sweeper that lists its jobs in ``sweep.json`` and compares them at the end."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        refuse_ranks()
        self._config, self._context = config, hydra_context
        self._launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    @property
    def folder(self) -> Path:
        """Where the sweep's jobs and tables are."""
        return Path(self._config.hydra.sweep.dir)

    def begin(self, design: str, factors: Mapping[str, Any]) -> None:
        """Claim the folder and make the record; a resumed sweep keeps its first command and time.

        Raises:
            UserError: If another process runs this sweep, or the folder cannot be written.
        """
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._claim = hold(self.folder)  # until this process ends
        if self._claim is None:
            raise UserError(
                f"another process runs the sweep {self.folder} ({held(self.folder) or 'it has just ended'}): wait for "
                "it, or stop it first"
            )
        before = runs.read_sweep(self.folder)
        self.before: list[Any] = []  # jobs of an earlier session that a search goes on with
        self.record: dict[str, Any] = {
            "id": self.folder.name,
            "command": before.get("command") or " ".join([train_command(), *sys.argv[1:]]),
            "typed": before.get("typed") or sys.argv[1:],
            "design": design,
            "factors": factors,
            "started": before.get("started") or now(),
            "jobs": [],
        }

    def launch(self, jobs: Sequence[Planned]) -> Sequence[JobReturn]:
        """Write the jobs into the record and run them."""
        start, group = len(self.record["jobs"]), f"group={config.quote(self.folder.name)}"
        for num, job in enumerate(jobs, start):
            described = {"num": num, "name": job.name, **job.facts, "settings": job.settings}
            self.record["jobs"].append(described)
        self._save()
        batch = [[*job.overrides, f"name={config.quote(job.title or job.name)}", group] for job in jobs]
        return self._launcher.launch(batch, initial_job_idx=start)

    @contextmanager
    def compared_in_any_case(self) -> Iterator[None]:
        """Compare the jobs that there are when Ctrl-C ends the block."""
        try:
            yield
        except KeyboardInterrupt:
            try:
                for path in runs.write_comparison(self.folder):
                    write_line(str(path))
            except UserError as error:  # such as: no job has begun
                write_line(f"no table: {error}")
            raise

    def close(self) -> None:
        """Write the time of the end into the record."""
        self.record["finished"] = now()
        self._save()

    def end(self) -> list[Path]:
        """Close the record, then write and show the files that compare the jobs."""
        self.close()
        written = runs.write_comparison(self.folder)
        runs.show(self.folder)
        settings = {str(name): value for name, value in self._config.logger.items()}
        if settings["kind"] == "wandb" and settings["sweep"]:
            from hyperinverter.training.tracking import register_sweep  # takes seconds: only where it is used

            register_sweep(self.folder, settings, written, write_line)
        return written

    def _save(self) -> None:
        jobs = self.record["jobs"]
        write_json(self.folder / runs.SWEEP, {**self.record, "jobs": [*jobs, *self.before[len(jobs) :]]})

    def check(self, overrides: Sequence[str]) -> None:
        """Compose and check a job's configuration: a mistake in the last of twenty jobs must not wait for its turn.

        Raises:
            UserError: For a value that cannot work.
        """
        config.validate(self._context.config_loader.load_sweep_config(self._config, list(overrides)))


def flat_factors(factors: Mapping[str, Any]) -> dict[str, list[Any]]:
    """``{loss: {id: [..]}}`` and ``{loss.id: [..]}`` both give ``{"loss.id": [..]}``."""
    flat: dict[str, list[Any]] = {}
    for name, values in factors.items():
        if isinstance(values, Mapping):
            flat |= {f"{name}.{key}": value for key, value in flat_factors(values).items()}
        else:
            flat[str(name)] = list(values) if not isinstance(values, str) else values.split(",")
    return flat


def sweep_values(override: Override) -> list[Any]:
    """The values of ``KEY=a,b,c``; of ``GROUP=glob(*)`` the names of the group's options that fit.

    Raises:
        UserError: If they are not a list.
    """
    if isinstance(glob := override.value(), Glob):
        names = config.options_of(config.conf_dir(), override.key_or_group)
        if fitting := glob.filter([name for name in names if not name.startswith("_")]):
            return list(fitting)
        raise UserError(
            f"'{override.input_line}' stands for no option of a group; write {override.key_or_group}=a,b,c"
        )
    if not override.is_discrete_sweep():
        raise UserError(
            f"'{override.input_line}' is not a list of values; write {override.key_or_group}=a,b,c"
        )
    return [value if not hasattr(value, "text") else value.text for value in override.sweep_iterator()]


def typed_setting(name: str, value: Any) -> list[str]:
    """One setting as it is typed."""
    return config.normalise_overrides([f"{name}={config.quote(value)}"])

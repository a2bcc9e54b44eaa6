"""Sweeps that work with distributed training: which jobs there are, and one fresh process for each.

Hydra runs the jobs of a multirun inside one process. Lightning's helper processes then start the whole sweep
again, one rank's failure hangs the rest, and W&B and the random state carry over from job to job. A fresh process
per job has none of that. Hydra finds this package because it lies in the ``hydra_plugins`` namespace.
"""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from hyperinverter import runs
from hyperinverter.config import normalise_overrides, parse_overrides, quote
from hyperinverter.contracts import UserError
from hyperinverter.runs import CARD, read_card
from hyperinverter.system.command import again, train_command
from hyperinverter.system.files import write_json
from hyperinverter.system.machine import now

# Variables by which a launcher tells a process its place; a job must find its own.
RANK_VARIABLES = (
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_RANK", "ROLE_RANK"),
    *("GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE", "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT", "PL_GLOBAL_SEED"),
    *("PL_SEED_WORKERS", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_MAX_RESTARTS"),
    *("WANDB_RUN_ID", "WANDB_SERVICE"),
)
PHASE2_FACTORS = ("fusion", "coverage", "hypernet")


@dataclass
class Point:
    """One setting of a study: what differs from the baseline, and how it is typed."""

    settings: dict[str, Any]  # factor -> value
    name: str
    overrides: list[str] = field(default_factory=list)


class SweepFailed(UserError):
    """Some jobs failed; the others have finished."""


# Which jobs -----------------------------------------------------------------------------------------------


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


def _name(
    setting: Mapping[str, Any], baseline: Mapping[str, Any], varying: Sequence[str], design: str
) -> str:
    told = varying if design == "grid" else [name for name in varying if setting[name] != baseline[name]]
    words = [f"{name}={_plain(setting[name])}" for name in told]
    if words:
        return " ".join(words)
    base = [f"{name}={_plain(setting[name])}" for name in varying]
    return f"baseline ({' '.join(base)})" if base else "baseline"


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else quote(value)


class StudySweeper(Sweeper):
    """A sweep described by factors; what is typed on the command line pins a factor or replaces its values.

    Args:
        design: ``grid`` or ``one_at_a_time``.
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
        self.design, self.factors = design, _flatten(factors or {})
        self.seeds = None if seeds is None else [int(seed) for seed in seeds]
        self.top, self.top_seeds = top, [int(seed) for seed in top_seeds]

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from hydra.core.plugins import Plugins

        refuse_ranks(os.environ)
        self._config, self._context = config, hydra_context
        self._launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Run the study and write its comparison.

        Raises:
            SweepFailed: At the end, if any job failed.
            UserError: Before anything runs, if a job's configuration cannot be composed or nothing varies.
        """
        points, fixed = self._plan(arguments)
        folder = Path(self._config.hydra.sweep.dir)
        self._check(points, fixed)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self._config, folder / "multirun.yaml")
        before = runs.read_sweep(folder)  # of a sweep that is resumed
        self.record: dict[str, Any] = {
            "id": folder.name,
            "command": before.get("command") or " ".join([train_command(), *sys.argv[1:]]),
            "typed": before.get("typed") or sys.argv[1:],
            "design": self.design,
            "factors": self.factors,
            "started": before.get("started") or now(),
            "jobs": [],
        }
        own_seed = int(OmegaConf.select(self._config, "seed", default=0))
        plan = [(point, seed) for seed in self.seeds or [own_seed] for point in points]
        returns = list(self._launch(folder, plan, fixed))
        if self.top and self.top_seeds and len(points) > 1:
            extra = [seed for seed in self.top_seeds if seed not in (self.seeds or [own_seed])]
            best = _best(folder, points, self.top)
            returns += self._launch(folder, [(point, seed) for seed in extra for point in best], fixed)
        self._finish(folder)
        failed = [index for index, job in enumerate(returns) if job.status != JobStatus.COMPLETED]
        if failed:
            listed = ", ".join(str(index) for index in failed)
            raise SweepFailed(
                f"{len(failed)} of {len(returns)} jobs failed ({listed}); see {folder}/N/log.txt; once mended, "
                f"{train_command()} resume={folder} does these alone"
            )
        return returns

    def _plan(self, arguments: Sequence[str]) -> tuple[list[Point], list[str]]:
        """Points of the study, and the overrides all jobs share."""
        fixed: list[str] = []
        for override in parse_overrides(arguments):
            key, line = override.key_or_group, str(override.input_line)
            if key == "seed" and override.is_sweep_override():
                self.seeds = [int(value) for value in _sweep_values(override)]
            elif key == "seed":
                self.seeds = [int(str(override.value()))]
            elif override.is_sweep_override():
                self.factors[key] = _sweep_values(override)
            elif key in self.factors:
                self.factors[key] = [override.value()]
            else:
                fixed.append(line)
        phase = OmegaConf.select(self._config, "phase.number")
        idle = [name for name in self.factors if phase == 1 and name.split(".")[0] in PHASE2_FACTORS]
        if idle:
            raise UserError(
                f"phase I has no {idle[0]}: write `{train_command()} phase=2 +sweep`, or +sweep=loss"
            )
        points = design_points(self.design, self.factors)
        for point in points:
            point.overrides = [
                override for name, value in point.settings.items() for override in _typed(name, value)
            ]
        if len(points) * len(self.seeds or [0]) < 2:
            raise UserError(
                "this sweep has a single job: give a factor several values, such as fusion=concat,gated"
            )
        return points, fixed

    def _check(self, points: Sequence[Point], fixed: Sequence[str]) -> None:
        """Compose every job once: a typo in the last of twenty jobs should not wait for its turn."""
        from hyperinverter import config

        for point in points:
            cfg = self._context.config_loader.load_sweep_config(self._config, [*fixed, *point.overrides])
            config.validate(cfg)
        config.check_additions(fixed)

    def _launch(
        self, folder: Path, plan: Sequence[tuple[Point, int]], fixed: Sequence[str]
    ) -> Sequence[JobReturn]:
        start = len(self.record["jobs"])
        batch = []
        for index, (point, seed) in enumerate(plan, start):
            job = {"num": index, "name": point.name, "seed": seed, "settings": point.settings}
            self.record["jobs"].append(job)
            shown = point.name if seed == plan[0][1] and start == 0 else f"{point.name} seed={seed}"
            batch.append(
                [
                    *fixed,
                    *point.overrides,
                    f"seed={seed}",
                    f"name={quote(shown)}",
                    f"group={quote(folder.name)}",
                ]
            )
        write_json(folder / runs.SWEEP, self.record)
        return self._launcher.launch(batch, initial_job_idx=start)

    def _finish(self, folder: Path) -> None:
        self.record["finished"] = now()
        write_json(folder / runs.SWEEP, self.record)
        written = compare(folder, self._config)
        sys.stderr.write("\n".join(f"{path}" for path in written) + "\n")


def compare(folder: Path, config: DictConfig) -> list[Path]:
    """Write and show what compares the jobs of a sweep that is over; give it to W&B with ``logger.sweep=true``."""
    written = runs.write_comparison(folder)
    runs.show(folder)
    settings = {str(name): value for name, value in config.logger.items()}
    if settings["kind"] == "wandb" and settings["sweep"]:
        from hyperinverter.tasks.loggers import register_sweep  # takes seconds: only where it is used

        register_sweep(folder, settings, written, lambda line: print(line, file=sys.stderr))
    return written


def _flatten(factors: Mapping[str, Any]) -> dict[str, list[Any]]:
    """``{loss: {id: [..]}}`` and ``{loss.id: [..]}`` alike -> ``{"loss.id": [..]}``."""
    flat: dict[str, list[Any]] = {}
    for name, values in factors.items():
        if isinstance(values, Mapping):
            flat |= {f"{name}.{key}": value for key, value in _flatten(values).items()}
        else:
            flat[str(name)] = list(values) if not isinstance(values, str) else values.split(",")
    return flat


def _sweep_values(override: Override) -> list[Any]:
    if not override.is_discrete_sweep():
        raise UserError(
            f"'{override.input_line}' is not a list of values; write {override.key_or_group}=a,b,c"
        )
    return [value if not hasattr(value, "text") else value.text for value in override.sweep_iterator()]


def _typed(name: str, value: Any) -> list[str]:
    return normalise_overrides([f"{name}={quote(value)}"])


def _best(folder: Path, points: Sequence[Point], count: int) -> list[Point]:
    ranked = runs.summary(folder)
    names = list(ranked[ranked.seeds > 0].name)[:count]
    return [point for name in names for point in points if point.name == name]


# Where and how they run -----------------------------------------------------------------------------------


class FreshLauncher(Launcher):
    """Run every job in a process of its own.

    A job whose folder holds a finished run is not run again; one that was cut short goes on from its last checkpoint.

    Args:
        jobs: How many at the same time; each gets its share of the cores, and GPUs of its own.
        fail_fast: Whether the first failure ends the sweep.
        grace: Seconds a job gets to save its state when the sweep is interrupted.
    """

    def __init__(self, jobs: int = 1, fail_fast: bool = False, grace: float = 60.0) -> None:
        super().__init__()
        if jobs < 1:
            raise UserError(f"hydra.launcher.jobs must be at least 1, got {jobs}")
        self.jobs, self.fail_fast, self.grace = jobs, fail_fast, grace
        self.watch: Callable[[int, Path], bool] | None = None  # looks at a running job: shall it stop?
        self._looked = 0.0

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._config, self._context = config, hydra_context

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs; a failed one is told at once and the others go on.

        Raises:
            KeyboardInterrupt: After Ctrl-C, once the running jobs have saved their state.
            UserError: If a job's folder holds a run with other settings.
        """
        folder = Path(self._config.hydra.sweep.dir)
        every = [Job(initial_job_idx + i, list(o), folder) for i, o in enumerate(job_overrides)]
        waiting = [job for job in every if not job.finished_before()]
        running: list[Job] = []
        gpus = Gpus(visible_gpus(os.environ), self.jobs)
        with _Signals() as signals, _Board(len(every), initial_job_idx) as board:
            if len(waiting) < len(every):
                board.skipped(len(every) - len(waiting))
            while (waiting or running) and not signals.received:
                while waiting and len(running) < self.jobs:
                    needs = processes_of(self._trainer(waiting[0].overrides), len(gpus.every), self.jobs)
                    given = gpus.take(needs.gpus)
                    if given is None:  # the next job waits for GPUs; it keeps its place in the line
                        break
                    job = waiting.pop(0)
                    job.start(self._threads(needs.processes), given)
                    running.append(job)
                for job in [job for job in running if job.ended()]:
                    running.remove(job)
                    gpus.give_back(job.gpus)
                    board.ended(job)
                    if job.failed and self.fail_fast:
                        board.say("hydra.launcher.fail_fast: the remaining jobs are not started")
                        waiting.clear()
                self._look(running, board)
                board.show(running, len(waiting))
                signals.wait(0.2)
            if signals.received:
                board.say("stopping the running jobs; each saves its state first")
                self._stop(running, signals)
                board.say(f"go on with: {train_command()} resume={folder}")
                raise KeyboardInterrupt
        return [job.result() for job in every]

    def _look(self, running: Sequence["Job"], board: "_Board") -> None:
        """End the jobs that whoever watches them has given up."""
        if self.watch is None or time.monotonic() - self._looked < 1.0:
            return
        self._looked = time.monotonic()
        for job in running:
            if not job.given_up and self.watch(job.num, job.folder):
                job.given_up = True
                board.say(f"job {job.num} {job.name} has fallen behind and is stopped")
                job.signal(signal.SIGTERM)

    def _trainer(self, overrides: Sequence[str]) -> Mapping[str, Any]:
        """The trainer section of a job's configuration."""
        own = any(item.lstrip("+").split("=")[0].split(".")[0] == "trainer" for item in overrides)
        cfg = (
            self._context.config_loader.load_sweep_config(self._config, list(overrides))
            if own
            else self._config
        )
        return OmegaConf.select(cfg, "trainer") or {}

    def _threads(self, processes: int) -> int | None:
        """Threads of one process such that all jobs together have as many as there are cores; None: its own choice."""
        if self.jobs == 1:
            return None
        return max(1, (os.cpu_count() or 1) // self.jobs // processes)

    def _stop(self, running: Sequence["Job"], signals: "_Signals") -> None:
        for job in running:
            job.signal(signal.SIGINT)
        deadline = time.monotonic() + self.grace
        while (
            any(not job.ended() for job in running) and time.monotonic() < deadline and signals.received < 2
        ):
            time.sleep(0.1)
        for job in running:
            if not job.ended():
                job.signal(signal.SIGKILL)
                job.wait()


class Needs(NamedTuple):
    """What a job takes of the machine."""

    processes: int
    gpus: int


def processes_of(trainer: Mapping[str, Any], gpus: int, jobs: int) -> Needs:
    """Processes and GPUs of a job on this machine.

    Args:
        trainer: Its trainer section: ``accelerator`` and ``devices`` count.
        gpus: How many GPUs there are.
        jobs: How many jobs run at the same time; ``devices=auto`` is a fair share.
    """
    devices = trainer.get("devices", 1)
    on_gpu = trainer.get("accelerator") in ("gpu", "cuda")
    if devices in ("auto", -1, "-1"):
        devices = max(1, gpus // jobs) if on_gpu else 1
    count = devices if isinstance(devices, int) and devices > 0 else 1
    return Needs(count, count if on_gpu else 0)


def visible_gpus(environment: Mapping[str, str]) -> list[str]:
    """Names of the GPUs that may be used, as CUDA_VISIBLE_DEVICES spells them."""
    given = environment.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip() not in ("", "-1", "NoDevFiles")]
    try:  # not torch.cuda: it takes seconds to import, and a place on every GPU
        command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        found = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in found.stdout.splitlines() if line.strip()]


class Gpus:
    """GPUs handed to jobs and taken back.

    Args:
        names: All there are.
        jobs: How many jobs run at the same time.
    """

    def __init__(self, names: Sequence[str], jobs: int) -> None:
        self.every, self._free, self._jobs = list(names), list(names), jobs

    def take(self, count: int) -> list[str] | None:
        """So many free ones; None if the job has to wait. A job that wants more than exist gets all and says so."""
        count = min(count, len(self.every))
        if count > len(self._free):
            return None
        given, self._free = self._free[:count], self._free[count:]
        return given

    def give_back(self, names: Sequence[str]) -> None:
        """Make them free again."""
        self._free = [name for name in self.every if name in self._free or name in names]


class Job:
    """One job of a sweep: a process, its folder and its log."""

    def __init__(self, num: int, overrides: list[str], sweep: Path) -> None:
        self.num, self.overrides, self.folder = num, overrides, sweep / str(num)
        self.gpus: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._skipped = False
        self.given_up = False  # by whoever watches the sweep
        self._log_begin = 0  # where this session's part of the log begins
        self.name = next(
            (o.split("=", 1)[1].strip("'") for o in overrides if o.startswith("name=")), str(num)
        )

    def finished_before(self) -> bool:
        """Whether the folder holds this very job, finished.

        Raises:
            UserError: If it holds a run with other settings.
        """
        card = read_card(self.folder)
        if card is None:
            return False
        if "overrides" in card and _settings(card["overrides"]) != _settings(self.overrides):
            changed = sorted(set(_settings(card["overrides"])) ^ set(_settings(self.overrides)))
            raise UserError(
                f"{self.folder} was run with other settings ({changed[0]}): start a new sweep, or resume this one "
                "as it was"
            )
        self._skipped = card.get("status") == "finished"
        return self._skipped

    def command(self) -> list[str]:
        """What runs this job, from its last checkpoint if it has begun before."""
        command = [*again(), *self.overrides]
        command += ["resume=auto"] if (self.folder / CARD).is_file() else []
        return [*command, "hydra.mode=RUN", f"hydra.run.dir={quote(str(self.folder))}"]

    def start(self, threads: int | None = None, gpus: Sequence[str] = ()) -> None:
        """Start the process, with ``threads`` per process and these GPUs if given."""
        self.gpus = list(gpus)
        self.folder.mkdir(parents=True, exist_ok=True)
        environment = {key: value for key, value in os.environ.items() if key not in RANK_VARIABLES}
        if threads is not None:
            environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        command = self.command()
        (self.folder / "progress.json").unlink(missing_ok=True)  # of an earlier session
        for told in self.folder.glob("error*.log"):
            told.unlink()
        with (self.folder / "log.txt").open("ab") as log:
            self._log_begin = log.tell()
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches the sweep alone, which then asks its jobs to stop
            )

    def ended(self) -> bool:
        """Whether the process is gone."""
        return self._process is not None and self._process.poll() is not None

    def wait(self) -> None:
        """Until the process is gone."""
        if self._process is not None:
            self._process.wait()

    def signal(self, number: int) -> None:
        """Send a signal to the job and its helper processes."""
        if self._process is not None and self._process.poll() is None:
            try:
                os.killpg(self._process.pid, number)
            except ProcessLookupError:
                return  # ended between the two lines

    @property
    def failed(self) -> bool:
        """Whether the process ended with anything but 0."""
        return self._process is not None and bool(self._process.returncode)

    def cause(self) -> str:
        """Why it failed, in one sentence; the run card is made to say it too."""
        assert self._process is not None
        card = read_card(self.folder)
        if card and card.get("status") == "failed" and card.get("error"):
            return str(card["error"])
        code = self._process.returncode
        self._end_helpers()
        lines = [line.strip() for line in self._log().splitlines() if line.strip()]
        told = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        if told:  # also where the first process was killed because another one had failed
            cause = told[-1]
        elif code < 0:
            cause = f"ended by {signal.Signals(-code).name}"
            cause += " (most often: out of memory)" if -code == signal.SIGKILL else ""
        else:
            cause = lines[-1] if lines else f"exit status {code} and no word"
        write_json(
            self.folder / CARD, {"name": self.name, **(card or {}), "status": "failed", "error": cause}
        )
        return cause

    def result(self) -> JobReturn:
        """What Hydra wants to know: how it ended, and the number a sweeper may go by."""
        finished = self._skipped or (self._process is not None and self._process.returncode == 0)
        return job_return(self.num, self.overrides, self.folder, finished)

    def _end_helpers(self) -> None:
        """Processes of a distributed run that outlived the first one have nobody to talk to."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _log(self) -> str:
        return (self.folder / "log.txt").read_bytes()[self._log_begin :].decode(errors="replace")


def _settings(overrides: Sequence[Any]) -> list[str]:
    """What was typed for a job, without what does not change its result."""
    return sorted(str(item) for item in overrides if not str(item).startswith(("resume=", "hydra.")))


def job_return(num: int, overrides: Sequence[str], folder: Path, finished: bool) -> JobReturn:
    """A job's end as Hydra's sweepers read it."""
    done = JobReturn(overrides=list(overrides), working_dir=str(folder))
    done.status = JobStatus.COMPLETED if finished else JobStatus.FAILED
    card = read_card(folder) or {}
    score = (card.get("metrics") or {}).get(card.get("rank_by"))
    done.return_value = score if finished else RuntimeError(f"job {num} did not finish")
    return done


class _Signals:
    """Counts SIGINT, SIGTERM and SIGHUP instead of dying of them."""

    def __enter__(self) -> "_Signals":
        self.received, self._woken, self._previous = 0, threading.Event(), {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def _note(self, *_: Any) -> None:
        self.received += 1
        self._woken.set()

    def wait(self, seconds: float) -> None:
        self._woken.wait(seconds)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


class _Board:
    """Tells how the sweep goes: a line per ended job, and on a terminal one live line per running job."""

    def __init__(self, total: int, first: int) -> None:
        self._total, self._first, self._live = total, first, sys.stderr.isatty()
        self._lines, self._shown, self._done = 0, 0.0, 0

    def __enter__(self) -> "_Board":
        return self

    def __exit__(self, *_: object) -> None:
        self._clear()

    def say(self, line: str) -> None:
        self._clear()
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()

    def skipped(self, count: int) -> None:
        self._done += count
        self.say(f"{count} of {self._total} jobs have finished before")

    def ended(self, job: Any) -> None:
        self._done += 1
        head = f"[{self._done}/{self._total}] job {job.num} {job.name}"
        if getattr(job, "given_up", False) and job.failed:
            self.say(f"{head}: stopped early")
            return
        if job.failed:
            self.say(f"{head}: FAILED: {job.cause()} ({job.folder}/log.txt)")
            return
        card = read_card(job.folder) or {}
        metrics = card.get("metrics") or {}
        rank = card.get("rank_by")
        score = f"{str(rank).removeprefix('test/')} {metrics[rank]:.4g}, " if rank in metrics else ""
        self.say(f"{head}: {score}{card.get('seconds', 0):.0f} s")

    def show(self, running: Sequence[Any], waiting: int) -> None:
        if not self._live or time.monotonic() - self._shown < 1.0:
            return
        self._clear()
        lines = live_table([(job.num, job.name, job.folder) for job in running])
        lines.append(f"  {self._done} of {self._total} done, {waiting} waiting")
        width = os.get_terminal_size(sys.stderr.fileno()).columns - 1
        sys.stderr.write("".join(f"{line[:width]}\n" for line in lines))
        sys.stderr.flush()
        self._lines, self._shown = len(lines), time.monotonic()

    def _clear(self) -> None:
        if self._lines:
            sys.stderr.write(f"\x1b[{self._lines}F\x1b[J")
            self._lines = 0


def live_table(running: Sequence[tuple[int, str, Path]]) -> list[str]:
    """One aligned line per running job: what it does, photos seen, loss, rate and time left.

    Args:
        running: Number, name and folder of each.
    """
    rows = [["job", "name", "doing", "kimg", "loss", "images/s", "left"]]
    for num, name, folder in running:
        try:
            state = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
            loss, rate, left = (state.get(key) for key in ("loss", "images_per_second", "seconds_left"))
            cells = [str(state["stage"]), f"{state['images'] / 1000:.2f}/{state['total'] / 1000:g}"]
            cells += ["" if loss is None else f"{loss:.4f}", f"{rate:.1f}" if rate else ""]
            cells.append("" if left is None else f"{left:.0f} s" if left < 90 else f"{left / 60:.0f} min")
        except (OSError, ValueError, KeyError, TypeError):
            cells = ["starting", "", "", "", ""]
        rows.append([str(num), name if len(name) <= 32 else f"{name[:31]}…", *cells])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def refuse_ranks(environment: Mapping[str, str]) -> None:
    """Stop where a sweep would run once per rank.

    Raises:
        UserError: Under torchrun, or inside an srun step of several tasks.
    """
    way_out = "start the sweep without it; each job starts its own processes (trainer=ddp)"
    if "TORCHELASTIC_RUN_ID" in environment or int(environment.get("WORLD_SIZE") or 1) > 1:
        raise UserError(f"a sweep under torchrun would run once in every process: {way_out}")
    if "SLURM_STEP_ID" in environment and int(environment.get("SLURM_NTASKS") or 1) > 1:
        raise UserError(f"a sweep under srun with several tasks would run once in every task: {way_out}")

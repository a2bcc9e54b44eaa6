"""The jobs of a sweep on this machine, each in a fresh process.

Hydra runs the jobs of a multirun inside one process. Lightning's helper processes then start the complete sweep
again, one rank's failure hangs the rest, and W&B and the random state carry over from job to job. A fresh process
per job has none of that.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from hyperinverter.contracts import UserError
from hyperinverter.sweeps.board import Board, Signals
from hyperinverter.sweeps.job import Job
from hyperinverter.sweeps.resources import Gpus, processes_of, visible_gpus
from hyperinverter.system.command import train_command
from hyperinverter.system.machine import cores


class FreshLauncher(Launcher):
    """Run every job in a process of its own.

    A job whose folder holds a finished run is not run again; an interrupted one continues from its last checkpoint.

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
        self.watch: Callable[[int, Path], bool] | None = None  # number and folder of a running job: stop it?
        self._looked = 0.0
        self._elsewhere: set[int] = set()  # jobs that were running when this sweep began

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._config, self._context = config, hydra_context

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs; a failure is reported at once, and the other jobs go on.

        Raises:
            KeyboardInterrupt: After Ctrl-C, once the running jobs have saved their state.
            UserError: If a job's folder holds a run with other settings.
        """
        folder = Path(self._config.hydra.sweep.dir)
        every = [Job(initial_job_idx + i, list(o), folder) for i, o in enumerate(job_overrides)]
        waiting = [job for job in every if not job.finished_before()]
        running: list[Job] = []
        gpus = Gpus(visible_gpus(os.environ))
        with Signals() as signals, Board(len(every)) as board:
            if len(waiting) < len(every):
                board.skipped(len(every) - len(waiting))
            while (waiting or running) and not signals.received:
                free = self._free(waiting, board)
                while free and len(running) < self.jobs:
                    needs = processes_of(self._trainer(free[0].overrides), len(gpus.every), self.jobs)
                    given = gpus.take(needs.gpus)
                    if given is None:  # the next job waits for GPUs and keeps its turn
                        break
                    job = free.pop(0)
                    waiting.remove(job)
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

    def _free(self, waiting: list[Job], board: Board) -> list[Job]:
        """The jobs that may start: not those another process works on, which are waited for.

        What such a process has finished leaves ``waiting``; what it left unfinished is a job like any other.
        """
        free = []
        for job in list(waiting):
            if (who := job.elsewhere()) is not None:
                if job.num not in self._elsewhere:
                    self._elsewhere.add(job.num)
                    board.say(
                        f"job {job.num} {job.name} is still running elsewhere ({who}): it is waited for"
                    )
            elif job.num in self._elsewhere and job.finished_before():
                self._elsewhere.discard(job.num)
                waiting.remove(job)
                board.skipped(1)
            else:
                free.append(job)
        return free

    def _look(self, running: Sequence[Job], board: Board) -> None:
        """Stop the jobs that ``watch`` gives up."""
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
        cfg = self._config
        if own:
            cfg = self._context.config_loader.load_sweep_config(cfg, list(overrides))
        return OmegaConf.select(cfg, "trainer") or {}

    def _threads(self, processes: int) -> int | None:
        """Threads per process, so that all jobs together use every core once; None: each process decides."""
        if self.jobs == 1:
            return None
        return max(1, cores() // self.jobs // processes)

    def _stop(self, running: Sequence[Job], signals: Signals) -> None:
        """Ask the jobs to save and end; kill those that have not after ``grace`` seconds or a second signal."""
        for job in running:
            job.signal(signal.SIGINT)
        deadline = time.monotonic() + self.grace
        while (
            not all(job.ended() for job in running) and time.monotonic() < deadline and signals.received < 2
        ):
            time.sleep(0.1)
        for job in running:
            if not job.ended():
                job.signal(signal.SIGKILL)
                job.wait()

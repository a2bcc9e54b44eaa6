"""The jobs of a sweep as an array of Slurm jobs, submitted with submitit.

Slurm starts a supervisor for every task of a job; the supervisor starts the training in a fresh process, as the
launcher for one machine does. When Slurm takes the machine away, or the time is up, the training saves its state
first, then the job goes back into the queue and continues from that checkpoint. Hydra's own submitit launcher runs
the training inside the supervisor and requeues without asking it to save.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from hyperinverter.contracts import UserError
from hyperinverter.runs import read_card
from hyperinverter.sweeps.board import Board, Signals
from hyperinverter.sweeps.job import Job, job_return, write_failure
from hyperinverter.system.command import train_command
from hyperinverter.system.errors import first_line
from hyperinverter.system.processes import fresh_environment, rank

_KEPT_BY_SLURM = ("MASTER_ADDR", "MASTER_PORT")  # a cluster's own choice, if it makes one


class SlurmLauncher(Launcher):
    """Submit every job of a sweep to Slurm and wait for them all.

    Args:
        partition: Where to; None: the cluster's default. Likewise ``account``, ``qos`` and ``constraint``.
        timeout_min: Minutes a job may run at once; what is left then continues after a requeue.
        nodes: Machines per job (``trainer.num_nodes`` must say the same).
        tasks_per_node: Processes per machine (``trainer.devices`` must say the same); 1 leaves the starting of
            processes on one machine to the trainer.
        gpus_per_node: GPUs per machine.
        cpus_per_task: Cores per process.
        mem_gb: Memory per machine.
        jobs: At most so many jobs at the same time.
        requeues: How often a job whose time was up goes back into the queue; preempted ones always do.
        warning_seconds: How long before the end of its time a job is warned, to save its state.
        setup: Shell commands before each job (``module load ...``).
        additional: Further options of sbatch, by name.
        poll: Seconds between two looks at the jobs.
    """

    def __init__(
        self,
        partition: str | None = None,
        account: str | None = None,
        qos: str | None = None,
        constraint: str | None = None,
        timeout_min: int = 240,
        nodes: int = 1,
        tasks_per_node: int = 1,
        gpus_per_node: int | None = None,
        cpus_per_task: int | None = None,
        mem_gb: float | None = None,
        jobs: int = 256,
        requeues: int = 10,
        warning_seconds: int = 120,
        setup: Sequence[str] = (),
        additional: Mapping[str, Any] | None = None,
        poll: float = 2.0,
    ) -> None:
        super().__init__()
        self._slurm: dict[str, Any] = {
            "partition": partition,
            "account": account,
            "qos": qos,
            "constraint": constraint,
        }
        options = {"requeue": True, **(additional or {})}  # some clusters do not by default
        self._slurm |= {"setup": list(setup) or None, "additional_parameters": options}
        self._slurm |= {"array_parallelism": jobs, "signal_delay_s": warning_seconds}
        self._size: dict[str, Any] = {
            "timeout_min": timeout_min,
            "nodes": nodes,
            "tasks_per_node": tasks_per_node,
        }
        self._size |= {"gpus_per_node": gpus_per_node, "cpus_per_task": cpus_per_task, "mem_gb": mem_gb}
        self._requeues, self._patience, self._poll = requeues, warning_seconds, poll

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Submit the jobs that have not finished before, and wait.

        Raises:
            KeyboardInterrupt: After Ctrl-C; the jobs are cancelled and save their state.
            UserError: If Slurm or submitit is not there, or refuses the jobs.
        """
        folder = Path(self._config.hydra.sweep.dir).resolve()
        every = [Job(initial_job_idx + i, list(o), folder) for i, o in enumerate(job_overrides)]
        waiting = [job for job in every if not job.finished_before()]
        if not waiting:
            return [job.result() for job in every]
        submitted = self._submit(folder, waiting)
        entries = [_Submitted(job, one) for job, one in zip(waiting, submitted, strict=True)]
        with Signals() as signals, Board(len(every)) as board:
            if len(waiting) < len(every):
                board.skipped(len(every) - len(waiting))
            board.say(f"Slurm jobs {submitted[0].job_id} to {submitted[-1].job_id}")
            left, looked = list(entries), time.monotonic()
            while left and not signals.received:
                if time.monotonic() - looked > 10 * self._poll:
                    looked, there = time.monotonic(), in_queue([entry.id for entry in left])
                    for entry in left:
                        entry.note(there)
                for entry in [entry for entry in left if entry.ended()]:
                    left.remove(entry)
                    board.ended(entry)
                board.show([entry for entry in left if (entry.folder / "progress.json").is_file()], len(left))
                signals.wait(self._poll)
            if signals.received:
                board.say("cancelling the Slurm jobs; each saves its state first")
                for entry in left:
                    entry.cancel()
                board.say(f"go on with: {train_command()} resume={folder}")
                raise KeyboardInterrupt
        done = {entry.num: not entry.failed for entry in entries}
        return [job_return(j.num, j.overrides, j.folder, done.get(j.num, True)) for j in every]

    def _submit(self, folder: Path, jobs: Sequence[Job]) -> list[Any]:
        try:
            import submitit
        except ImportError as error:
            raise UserError(
                "hydra/launcher=slurm needs submitit: pip install 'hyperinverter[slurm]'"
            ) from error
        missing = [name for name in ("sbatch", "srun", "scontrol") if shutil.which(name) is None]
        if missing:
            raise UserError(
                f"hydra/launcher=slurm needs a Slurm cluster: there is no {missing[0]} command here"
            )
        logging.getLogger("submitit").setLevel(logging.ERROR)  # without accounting it warns at every poll
        executor = submitit.AutoExecutor(
            folder / ".slurm" / "%j", cluster="slurm", slurm_max_num_timeout=self._requeues
        )
        given = {key: value for key, value in self._size.items() if value is not None}
        slurm = {f"slurm_{key}": value for key, value in self._slurm.items() if value is not None}
        name = str(OmegaConf.select(self._config, "hydra.job.name") or "train")
        tasks = [Supervisor(job.command(), job.folder, self._patience) for job in jobs]
        for job in jobs:
            job.folder.mkdir(parents=True, exist_ok=True)
        try:
            executor.update_parameters(name=name, **given, **slurm)
            with executor.batch():
                return [executor.submit(task) for task in tasks]
        except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
            lines = [line.strip() for line in str(error).splitlines() if "error" in line.lower()]
            raise UserError(f"Slurm refused the jobs: {(lines or [first_line(error)])[0]}") from error


class Supervisor:
    """What Slurm starts: runs one job's command, and asks it to save when Slurm wants the machine back.

    Submitit pickles it into the sweep's folder, and calls it again after a requeue.

    Args:
        command: The job's command, as the launcher for one machine would start it.
        folder: The job's folder.
        patience: Seconds the job gets to save its state.
    """

    def __init__(self, command: list[str], folder: Path, patience: float) -> None:
        self.command, self.folder, self.patience = command, folder, patience

    def __call__(self) -> int:
        """Run the job to its end and return its exit status."""
        command = list(self.command)
        if "resume=auto" not in command:
            command.append("resume=auto")  # the first time there is nothing to resume
        environment = fresh_environment(_KEPT_BY_SLURM)
        self._terminated = False
        name = f"log.process{rank()}.txt" if rank() else "log.txt"
        with (self.folder / name).open("ab") as log:
            self._process: subprocess.Popen[bytes] | None = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment
            )
        # submitit only notes a SIGTERM; Slurm sends it when a job is cancelled or preempted
        signal.signal(signal.SIGTERM, self._forward)
        while (status := self._process.poll()) is None:  # wait() would hold a lock that checkpoint() needs
            time.sleep(0.2)
        if self._terminated:
            # A preempted job may still get the warning that requeues it; a cancelled job ends here.
            time.sleep(self.patience)
        return status

    def checkpoint(self) -> Any:
        """Called by submitit when Slurm wants the machine back; returns what runs after the requeue."""
        from submitit.helpers import DelayedSubmission

        self._ask(signal.SIGUSR2)
        deadline = time.monotonic() + self.patience
        while self._alive() and time.monotonic() < deadline:
            time.sleep(0.1)
        return DelayedSubmission(Supervisor(self.command, self.folder, self.patience))

    def _forward(self, number: int, _: FrameType | None) -> None:
        self._terminated = True
        self._ask(signal.SIGTERM)

    def _ask(self, number: int) -> None:
        if self._alive():
            assert self._process is not None
            os.kill(self._process.pid, number)

    def _alive(self) -> bool:
        """Is it running? (without reaping it)"""
        if self._process is None:
            return False
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        with contextlib.suppress(ChildProcessError):
            return os.waitid(os.P_PID, self._process.pid, options) is None
        return False


class _Submitted:
    """A job that Slurm has, as the board asks for it."""

    def __init__(self, job: Job, submitted: Any) -> None:
        self.num, self.name, self.folder, self.given_up = job.num, job.name, job.folder, False
        self._submitted = submitted
        self._status: int | None = None
        self._trouble: str | None = None
        self._missing = 0

    @property
    def id(self) -> str:
        """Slurm's name for it."""
        return str(self._submitted.job_id)

    def note(self, there: set[str] | None) -> None:
        """Remember whether the queue still has it; a job missing twice in a row has ended."""
        self._missing = 0 if there is None or self.id in there else self._missing + 1

    def ended(self) -> bool:
        """Whether Slurm is done with it."""
        if not self._submitted.paths.result_pickle.exists():
            if self._missing < 2:
                return False
            self._trouble = "Slurm ended it: cancelled, out of time, or out of memory"
            return True
        try:
            results = self._submitted.results()
            self._status = max((abs(int(result)) for result in results), default=1)
        except Exception as error:  # submitit wraps whatever went wrong on the other machine
            self._trouble = (str(error).strip() or type(error).__name__).splitlines()[-1].strip()
        return True

    @property
    def failed(self) -> bool:
        """Whether it ended without finishing."""
        return self._status != 0

    def cause(self) -> str:
        """Why, in one sentence, which is written into the run card too."""
        card = read_card(self.folder) or {}
        if card.get("status") in ("failed", "interrupted"):
            return str(card.get("error") or "interrupted")
        cause = self._trouble or f"exit status {self._status}"
        write_failure(self.folder, self.name, cause)
        return cause

    def cancel(self) -> None:
        """Have Slurm stop it; Slurm sends SIGTERM first, and the job saves its state."""
        with contextlib.suppress(Exception):  # gone by now, or Slurm does not answer
            self._submitted.cancel(check=False)


def in_queue(ids: Sequence[str]) -> set[str] | None:
    """Which of these jobs wait or run; None if Slurm does not answer."""
    command = ["squeue", "--noheader", "--array", "--format=%i %F_%K", "--jobs", ",".join(ids)]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    if answer.returncode != 0:
        return set() if "Invalid job id" in answer.stderr else None
    return set(answer.stdout.split())

"""One job of a sweep: a process, its folder and its log."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from hydra.core.utils import JobReturn, JobStatus

from hyperinverter.config import quote
from hyperinverter.contracts import UserError
from hyperinverter.runs import CARD, read_card, settings
from hyperinverter.system.command import again
from hyperinverter.system.files import held, write_json
from hyperinverter.system.processes import fresh_environment


class Job:
    """One job of a sweep: a process, its folder and its log."""

    def __init__(self, num: int, overrides: list[str], sweep: Path) -> None:
        self.num, self.overrides, self.folder = num, overrides, sweep / str(num)
        self.gpus: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._skipped = False
        self.given_up = False  # stopped because it falls behind
        self._log_begin = 0  # where this session's part of the log begins
        self.name = next(
            (o.split("=", 1)[1].strip("'") for o in overrides if o.startswith("name=")), str(num)
        )

    def finished_before(self) -> bool:
        """Whether the folder holds this same job, finished.

        Raises:
            UserError: If it holds a run with other settings.
        """
        card = read_card(self.folder)
        if card is None:
            return False
        before, now = set(settings(card.get("overrides", self.overrides))), set(settings(self.overrides))
        if before != now:
            was, is_now = (" ".join(sorted(side)) or "nothing more" for side in (before - now, now - before))
            raise UserError(
                f"{self.folder} was run with other settings ({was}; now {is_now}): start a new sweep, or resume this "
                "one without changes"
            )
        self._skipped = card.get("status") == "finished"
        return self._skipped

    def elsewhere(self) -> str | None:
        """Which process works on this job although this sweep has not started it; None if there is none.

        It was started by a session of the sweep that was killed, and goes on without it.
        """
        return held(self.folder) if self._process is None else None

    def command(self) -> list[str]:
        """What runs this job; it continues from its last checkpoint if it has begun before."""
        command = [*again(), *self.overrides]
        command += ["resume=auto"] if (self.folder / CARD).is_file() else []
        return [*command, "hydra.mode=RUN", f"hydra.run.dir={quote(str(self.folder))}"]

    def start(self, threads: int | None = None, gpus: Sequence[str] = ()) -> None:
        """Start the process, with ``threads`` per process and these GPUs if given."""
        self.gpus = list(gpus)
        self.folder.mkdir(parents=True, exist_ok=True)
        environment = fresh_environment()
        if threads is not None:
            environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        command = self.command()
        (self.folder / "progress.json").unlink(missing_ok=True)  # of an earlier session
        for old in self.folder.glob("error*.log"):
            old.unlink()
        with (self.folder / "log.txt").open("ab") as log:
            self._log_begin = log.tell()
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches the sweep only, which then asks its jobs to stop
            )

    def ended(self) -> bool:
        """Whether the process is gone."""
        return self._process is not None and self._process.poll() is not None

    def wait(self) -> None:
        """Wait until the process is gone."""
        if self._process is not None:
            self._process.wait()

    def signal(self, number: int) -> None:
        """Send a signal to the job and its helper processes."""
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it may end between the two lines
                os.killpg(self._process.pid, number)

    @property
    def failed(self) -> bool:
        """Whether the process ended with anything but 0."""
        return self._process is not None and bool(self._process.returncode)

    def cause(self) -> str:
        """Why it failed, in one sentence, which is written into the run card too."""
        assert self._process is not None
        card = read_card(self.folder)
        if card and card.get("status") == "failed" and card.get("error"):
            return str(card["error"])
        code = self._process.returncode
        self._end_helpers()
        lines = [line.strip() for line in self._log().splitlines() if line.strip()]
        said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        if said:  # also where the first process was killed because another one had failed
            cause = said[-1]
        elif code < 0:
            cause = f"ended by {signal.Signals(-code).name}"
            cause += " (most often: out of memory)" if -code == signal.SIGKILL else ""
        else:
            cause = lines[-1] if lines else f"exit status {code}, without a message"
        if held(self.folder) is None:  # else the card is another process's
            write_failure(self.folder, self.name, cause)
        return cause

    def result(self) -> JobReturn:
        """How it ended and what it measured, as Hydra wants it."""
        finished = self._skipped or (self._process is not None and self._process.returncode == 0)
        return job_return(self.num, self.overrides, self.folder, finished)

    def _end_helpers(self) -> None:
        """Kill the other processes of a distributed run whose first process is gone."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _log(self) -> str:
        return (self.folder / "log.txt").read_bytes()[self._log_begin :].decode(errors="replace")


def write_failure(folder: Path, name: str, cause: str) -> None:
    """Have a job's run card say that it failed and why; a job that died early may have written none."""
    write_json(folder / CARD, {"name": name, **(read_card(folder) or {}), "status": "failed", "error": cause})


def job_return(num: int, overrides: Sequence[str], folder: Path, finished: bool) -> JobReturn:
    """A job's end and its number for ranking, as Hydra's sweepers read them."""
    done = JobReturn(overrides=list(overrides), working_dir=str(folder))
    done.status = JobStatus.COMPLETED if finished else JobStatus.FAILED
    card = read_card(folder) or {}
    score = (card.get("metrics") or {}).get(card.get("rank_by"))
    done.return_value = score if finished else RuntimeError(f"job {num} did not finish")
    return done

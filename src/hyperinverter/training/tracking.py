"""Weights & Biases and TensorBoard next to metrics.csv; both count in photos seen."""

from __future__ import annotations

import contextlib
import csv
import netrc
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from pytorch_lightning import LightningModule
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from hyperinverter import config
from hyperinverter.config import Config
from hyperinverter.contracts import UserError, shown
from hyperinverter.system.errors import first_line
from hyperinverter.system.processes import is_first
from hyperinverter.system.terminal import say
from hyperinverter.tasks.common import images_seen
from hyperinverter.training.metrics_file import AXIS

Say = Callable[[str], None]

# W&B would follow these: every job of a sweep would then write into the same W&B run.
_UNUSED = {"WANDB_DIR", "WANDB_RUN_ID", "WANDB_RESUME", "WANDB_SWEEP_ID"}
_UNUSED_WHY = "the run folder decides where W&B's files are and which run goes on"
# What WANDB_MODE may say -> what it means here.
_MODES = {
    "online": "online",
    "run": "online",
    "offline": "offline",
    "dryrun": "offline",
    "disabled": "disabled",
}


def trackers(cfg: Config, folder: Path, task: LightningModule) -> list[Logger]:
    """The loggers that a configuration asks for besides metrics.csv.

    Raises:
        UserError: If their package is not installed.
    """

    def seen() -> int:
        return images_seen(task)

    if cfg.logger.kind == "wandb" and is_first():
        identity = {
            "name": cfg.name or os.environ.get("WANDB_NAME") or typed_name() or folder.name,
            "group": cfg.group or os.environ.get("WANDB_RUN_GROUP") or None,
            "job_type": f"phase{cfg.phase.number}",
            "config": config.to_dict(cfg),
        }
        return [WandbTracker(folder, seen, config.to_dict(cfg.logger), identity, say)]
    if cfg.logger.kind == "tensorboard":
        from pytorch_lightning.loggers import TensorBoardLogger

        try:
            return [TensorBoardLogger(str(folder), name="tensorboard", version="")]
        except ModuleNotFoundError as error:
            raise UserError(
                "logger=tensorboard needs the tensorboard package: pip install tensorboard"
            ) from error
    return []


def typed_name() -> str | None:
    """A run is called by what was typed for it, without what every run says."""
    common = ("name", "group", "resume", "phase")
    return " ".join(item for item in config.task_overrides() if item.split("=")[0] not in common) or None


def close(loggers: Sequence[Logger], summary: Mapping[str, Any], exit_code: int) -> None:
    """End the W&B run among these loggers, if there is one."""
    for logger in loggers:
        if isinstance(logger, WandbTracker):
            logger.close(summary, exit_code)


class WandbTracker(Logger):
    """One Weights & Biases run for one job. If W&B fails, its record is lost, never the run.

    Args:
        folder: The run folder; W&B's files go to ``folder/wandb``.
        seen: Says how many photos training has seen.
        settings: ``project``, ``entity``, ``mode`` (None: online with a key, else offline),
            ``timeout`` in seconds, ``artifacts`` (whether the best checkpoint goes up with a finished run).
        run: What identifies the run: ``name``, ``group``, ``job_type`` and the nested ``config``.
        say: Prints the one line that says where the record is.
    """

    def __init__(
        self,
        folder: Path,
        seen: Callable[[], int],
        settings: Mapping[str, Any],
        run: Mapping[str, Any],
        say: Say,
    ) -> None:
        super().__init__()
        self._folder, self._seen, self._say = folder, seen, say
        self._run: Any = None
        self._step = 0
        self._artifacts = bool(settings.get("artifacts"))
        if getattr(rank_zero_only, "rank", 0) == 0:
            self._start(dict(settings), dict(run))

    def _start(self, settings: dict[str, Any], run: dict[str, Any]) -> None:
        try:
            import wandb  # takes a second: only where it is used
        except ImportError as error:
            self._say(
                f"W&B is off: it cannot be imported ({first_line(error, 160)}); metrics.csv has every number"
            )
            return
        for name in sorted(_UNUSED.intersection(os.environ)):
            self._say(f"warning: {name} is not used: {_UNUSED_WHY}")
        wanted = settings.get("mode") or _wanted_mode(self._say)
        mode = str(wanted or ("online" if has_key() else "offline"))
        if mode == "disabled":
            return
        failure = ""
        for attempt in dict.fromkeys((mode, "offline")):
            try:
                with _without({*_UNUSED, "WANDB_MODE"}):
                    self._run = self._init(wandb, attempt, settings, run)
                break
            except Exception as error:  # W&B raises many kinds; none may stop a training
                failure = " ".join(str(error).split())[:160] or type(error).__name__
        if self._run is None:
            self._say(f"W&B is off: {failure}; metrics.csv has every number")
        elif self._run.offline:
            why = (
                (failure if "API key" in failure else f"the server did not answer ({failure})")
                if failure
                else "no key"
                if wanted is None
                else "as asked"
            )
            self._say(f"W&B offline ({why}): wandb sync {self._record()}")
        else:
            self._say(f"W&B: {self._run.url}")

    def _init(self, wandb: Any, mode: str, settings: Mapping[str, Any], run: Mapping[str, Any]) -> Any:
        options = wandb.Settings(
            silent=True,
            quiet=True,
            console="off",
            init_timeout=float(settings.get("timeout") or 20),
            login_timeout=float(settings.get("timeout") or 20),
            disable_git=True,
            save_code=False,
        )
        identity_file = self._folder / ".wandb_id"
        known = identity_file.read_text().strip() if identity_file.is_file() else None
        started = wandb.init(
            project=settings.get("project") or None,
            entity=settings.get("entity") or None,
            dir=str(self._folder),
            mode=mode,
            settings=options,
            id=known,
            resume="allow" if known and mode == "online" else None,
            **run,
        )
        with contextlib.suppress(OSError):  # without the file a resumed run opens a second W&B run
            identity_file.write_text(str(started.id))
        started.define_metric(AXIS)
        started.define_metric("*", step_metric=AXIS)
        return started

    def _record(self) -> str:
        place = Path(self._run.settings.sync_dir)
        with contextlib.suppress(ValueError):
            place = place.relative_to(Path.cwd())
        # A resumed run has a folder per session, all of one W&B run; W&B puts them together in order of time.
        several = (
            len(list(Path(self._run.settings.sync_dir).parent.glob(f"offline-run-*-{self._run.id}"))) > 1
        )
        return str(place.parent / f"offline-run-*-{self._run.id}") if several else str(place)

    @property
    def name(self) -> str:
        return "wandb"

    @property
    def version(self) -> str:
        return "" if self._run is None else str(self._run.id)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: the nested configuration went in at the start."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._send(lambda run: run.log({**metrics, AXIS: self._seen()}, step=self._next_step()))

    def log_panel(self, key: str, path: Path, caption: str) -> None:
        """Show one picture file."""

        def send(run: Any) -> None:
            import wandb

            picture = wandb.Image(str(path), caption=caption)
            run.log({key: picture, AXIS: self._seen()}, step=self._next_step())

        self._send(send)

    def _next_step(self) -> int:
        """W&B's count: photos seen as well, so that the rows of a resumed run follow the saved ones.

        It never falls: the best checkpoint, which is tested last, may be an earlier one.
        """
        self._step = max(self._step, self._seen())
        return self._step

    def log_comparison(self, files: Sequence[Path]) -> None:
        """Show what compares the jobs of a sweep: tables to sort, pictures, and all files as one artifact."""

        def send(run: Any) -> None:
            import wandb

            shown: dict[str, Any] = {}
            for path in files:
                if path.suffix == ".csv":
                    with path.open(newline="", encoding="utf-8") as file:
                        head, *rows = csv.reader(file)
                    table = wandb.Table(columns=list(head), allow_mixed_types=True)
                    for row in rows:
                        table.add_data(*map(_number, row))
                    shown[f"sweep/{path.stem}"] = table
                elif path.suffix == ".png":
                    shown[f"sweep/{path.stem}"] = wandb.Image(str(path))
            run.log(shown, step=self._next_step())
            artifact = wandb.Artifact(f"sweep-{run.id}", type="comparison")
            for path in files:
                artifact.add_file(str(path))
            run.log_artifact(artifact)

        self._send(send)

    def close(self, summary: Mapping[str, Any], exit_code: int) -> None:
        """Write the summary and end the W&B run with the job's exit code."""

        def send(run: Any) -> None:
            run.summary.update(dict(summary))
            if self._artifacts and exit_code == 0:
                self._send_best(run)
            run.finish(exit_code=exit_code)

        self._send(send)
        self._run = None

    def _send_best(self, run: Any) -> None:
        """The best checkpoint with its configuration and run card, as one artifact."""
        import wandb

        kept = [
            self._folder / "checkpoints" / "best.ckpt",
            self._folder / "config.yaml",
            self._folder / "run.json",
        ]
        artifact = wandb.Artifact(f"{run.config.get('domain', {}).get('name', 'run')}-{run.id}", type="model")
        for path in kept:
            if path.is_file():
                artifact.add_file(str(path))
        run.log_artifact(artifact)

    def _send(self, action: Callable[[Any], None]) -> None:
        if self._run is None:
            return
        try:
            action(self._run)
        except Exception as error:  # as above: the run folder has everything
            self._run = None
            self._say(f"W&B stopped recording: {first_line(error, 160)}; metrics.csv has every number")


def _wanted_mode(say: Say) -> str | None:
    """What WANDB_DISABLED and WANDB_MODE ask for; None if they leave it open."""
    if os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1", "yes", "on"):
        return "disabled"
    typed = os.environ.get("WANDB_MODE", "").strip().lower()
    if typed and typed not in _MODES:
        say(f"warning: WANDB_MODE={shown(typed)} is not used: it is none of {', '.join(_MODES)}")
    return _MODES.get(typed)


@contextlib.contextmanager
def _without(names: Iterable[str]) -> Iterator[None]:
    """The environment without these variables, for a while."""
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ |= kept


def register_sweep(folder: Path, settings: Mapping[str, Any], files: Sequence[Path], say: Say) -> None:
    """Make a finished sweep a W&B run of its own, in the group of its jobs and ready for a report.

    Args:
        folder: The sweep's; its name is the group.
        settings: As for ``WandbTracker``.
        files: What compares the jobs, see ``runs.write_comparison``.
        say: Prints the one line that says where the record is.
    """
    identity = {"name": folder.name, "group": folder.name, "job_type": "sweep"}
    tracker = WandbTracker(folder, lambda: 0, settings, identity, say)
    tracker.log_comparison(files)
    tracker.close({}, 0)


def _number(cell: str) -> float | str | None:
    """A cell of a CSV file as W&B can sort it."""
    try:
        return float(cell) if cell else None
    except ValueError:
        return cell


def has_key() -> bool:
    """Whether W&B would find a key without asking: in WANDB_API_KEY or in the netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    names = [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]
    for name in names:
        path = Path(name).expanduser()
        try:
            if path.is_file() and netrc.netrc(str(path)).authenticators(host):
                return True
        except (netrc.NetrcParseError, OSError):
            continue  # W&B could not read it either
    return False

"""One job: check, settle, assemble, train, test the best checkpoint, and leave a folder that says all of it."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytorch_lightning import Callback, seed_everything
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from hyperinverter import config
from hyperinverter.checkpoints.opening import read_checkpoint
from hyperinverter.config import Config
from hyperinverter.contracts import UserError
from hyperinverter.data.listing import check_root
from hyperinverter.runs import RunCard, read_card
from hyperinverter.system.command import train_command
from hyperinverter.system.errors import first_line
from hyperinverter.system.files import held, hold, writing
from hyperinverter.system.machine import GB, available_bytes
from hyperinverter.system.processes import is_first
from hyperinverter.system.terminal import duration, fail, say, short
from hyperinverter.tasks.common import PhaseTask, images_seen
from hyperinverter.training import devices, failures, memory, rehearsal, resume, tracking
from hyperinverter.training.average import Average
from hyperinverter.training.checkpointing import LAST, Checkpoints
from hyperinverter.training.metrics_file import MetricsFile
from hyperinverter.training.panels import ImagePanels
from hyperinverter.training.progress import Progress
from hyperinverter.training.stopping import (
    Interrupted,
    NanGuard,
    StopAfter,
    StopOnSignal,
    signals_are_ctrl_c,
)
from hyperinverter.training.trainer import end_helpers, guarded, make_trainer, quieten

if TYPE_CHECKING:
    from hyperinverter.assembly import Assembled


def run(cfg: Config, folder: Path | None = None) -> float:
    """Do one job and return the number a sweep ranks by.

    Failures print one sentence and leave by ``SystemExit``: 1 failed, 130 interrupted. The run card says the same,
    and ``error.log`` holds the traceback.

    Args:
        cfg: The composed configuration; left as it is.
        folder: The run folder; default the one Hydra made for this job.
    """
    folder = folder or config.run_dir()
    try:
        with signals_are_ctrl_c():
            return train(cfg, folder)
    except UserError as error:
        fail(str(error), debug=bool(cfg.debug))
    except (KeyboardInterrupt, Interrupted):
        if not is_first():
            sys.exit(0)  # after another code the launcher would kill rank 0 before it has saved
        saved = (folder / "checkpoints" / LAST).is_file()
        say(f"interrupted; go on with: {train_command()} resume={short(folder)}" if saved else "interrupted")
        sys.exit(130)
    except Exception as error:  # a fault of ours: still one sentence, and the traceback in a file
        sentence = failures.sentence(error, folder)
        fail(sentence, debug=bool(cfg.debug), everywhere=True)


def train(cfg: Config, folder: Path) -> float:
    """As ``run``, but failures arrive as exceptions (``UserError``, ``Interrupted`` and others).

    Raises:
        UserError: For anything the person can fix.
        Interrupted: After Ctrl-C, with everything saved.
    """
    config.check_references(cfg)  # before a value is read
    if cfg.resume is None and (read_card(folder) or {}).get("status") == "finished":
        raise UserError(
            f"{short(folder)} holds a finished run, which a new one would replace: choose another folder with "
            f"hydra.run.dir=PATH, or go on with it with resume={short(folder)}"
        )
    if cfg.resume == resume.AUTO and (score := resume.finished_score(folder)) is not None:
        say(f"{short(folder)} has finished before: nothing is left to do")
        return score
    with writing(folder, resume.way_out(cfg)):
        folder.mkdir(parents=True, exist_ok=True)
        claim = hold(folder) if is_first() else None
    if is_first() and claim is None:
        raise UserError(
            f"another process is working in {folder} ({held(folder) or 'it has just ended'}): wait for it, or stop it "
            "first"
        )
    try:
        return Job(cfg, folder).run()
    finally:
        if claim is not None:
            claim.close()


class Job:
    """One run in its folder, from the configuration to the score.

    Args:
        cfg: The composed configuration; what it leaves open is filled in on a copy.
        folder: The run folder, which this process holds.
    """

    def __init__(self, cfg: Config, folder: Path) -> None:
        self.cfg, self.folder = cfg, folder
        self.loggers: list[Logger] = []
        self.resumed = resume.origin(cfg, folder)
        # Read now: this run's own card replaces it.
        self.before = {} if self.resumed is None else read_card(self.resumed) or {}
        if is_first():
            failures.forget(folder)
        with writing(folder, resume.way_out(cfg)):
            self.card = RunCard(folder, identity(cfg), write=is_first())
        self.changed: dict[str, tuple[Any, Any]] = {}
        self.begun = False  # whether the folder's run is this one: until then it may be refused

    def run(self) -> float:
        """All stages; card and trackers are closed at the end, however it ends.

        Returns:
            The test number that ``phase.rank_by`` names.
        """
        try:
            self.check()
            score = self.fit_and_test(self.assemble())
        except BaseException as error:
            self._close_failed(error)
            raise
        tracking.close(self.loggers, self.card.facts["metrics"], 0)
        with writing(self.folder):
            self.card.close("finished")
        self._say_farewell()
        return score

    def check(self) -> None:
        """Everything that can be refused in a second.

        Raises:
            UserError: For a configuration or devices with which the run would fail later.
        """
        quieten()
        config.validate(self.cfg)
        self.photos = max(round(self.cfg.phase.kimg * 1000), 1)  # that training is meant to see
        config.check_additions(config.task_overrides())
        devices.check_devices(self.cfg)
        if self.resumed is not None:
            resume.check_there(self.cfg, self.before)
            self.changed = resume.changed(self.cfg, self.resumed)
        if self.cfg.data.source != "digiface":
            check_root(config.given(self.cfg, "data.root"))
        if is_first():
            rehearsal.check_cache(Path(self.cfg.paths.cache).expanduser(), str(self.cfg.data.source))
        for caution in config.cautions(self.cfg):
            say(f"warning: {caution}")
        if config.given(self.cfg, "evaluation.protocol") is not None and is_first():
            from hyperinverter.training.evaluating import scorer_of

            scorer_of(self.cfg)  # a weight file that is missing is said now, not after training

    def assemble(self) -> Assembled:
        """Settle what the configuration leaves open, save it, and build every part from it."""
        from hyperinverter import assembly  # every network: after the cheap checks

        seed_everything(self.cfg.seed, workers=True, verbose=False)
        generator = assembly.generator(self.cfg)
        drawn_by = {"path": str(self.cfg.generator.path), "sha256": generator.sha256}
        resume.check_files(self.before, {"generator": drawn_by})
        self.cfg = assembly.settle(self.cfg, generator, self.folder)
        if self.resumed is None:
            self._save_config()
        elif config.given(self.cfg, "phase.from_run") != assembly.PACKAGED_PHASE1:
            resume.check_there(self.cfg, self.before, ["phase.from_run"])
        assembled = assembly.build(self.cfg, generator, begun=self.resumed is not None)
        resume.check_files(self.before, assembled.loaded)
        self.card.update(loaded=assembled.loaded, parameters=count_parameters(assembled.task))
        if "phase1" in assembled.loaded:
            path = assembled.loaded["phase1"]["path"]
            say(f"phase I: {short(Path(path)) if Path(path).exists() else f'packaged with {path}'}")
        self._say_need(assembled.task)
        if isinstance(assembled.task, PhaseTask) and is_first():
            phase = self.cfg.phase
            rehearsal.rehearse(
                assembled.task,
                self.folder,
                rank_by=str(phase.rank_by),
                monitor=str(phase.monitor),
                average=phase.get("ema_kimg") is not None,
            )
        return assembled

    def fit_and_test(self, assembled: Assembled) -> float:
        """Train from the beginning or from a checkpoint, then measure the best weights."""
        task, cfg = assembled.task, self.cfg
        table = MetricsFile(self.folder / "metrics.csv", lambda: images_seen(task))
        self.loggers += [table, *tracking.trackers(cfg, self.folder, task)]
        checkpoints = Checkpoints(
            self.folder / "checkpoints",
            cfg.phase.monitor,
            cfg.phase.monitor_mode,
            round(cfg.trainer.save_every_kimg * 1000),
            table.count,
        )
        say(f"phase {cfg.phase.number} on {cfg.domain.name}: {short(self.folder)}")
        try:
            self.trainer = make_trainer(cfg, self.loggers, self._callbacks(checkpoints))
        except (TypeError, ValueError, MisconfigurationException) as error:
            raise UserError(f"the trainer cannot be built: {first_line(error)}; check trainer.*") from error
        self._say_processes()
        self._fit(assembled, checkpoints, self._begin(table))
        return self._test(assembled, checkpoints)

    def _callbacks(self, checkpoints: Checkpoints) -> list[Callback]:
        cfg, folder = self.cfg, self.folder
        return [
            NanGuard(),
            StopAfter(self.photos),
            devices.Together(cfg.seed),
            checkpoints,
            StopOnSignal(checkpoints),
            Progress(self.photos, folder, per_step=cfg.phase.batch_size),
            ImagePanels(folder, cfg.panels.num_photos, cfg.panels.num_saved),
            Average(_half_life(cfg)),  # the last one
        ]

    def _begin(self, table: MetricsFile) -> Path | None:
        """The checkpoint to go on from, with the table of numbers as it was then; None for a new run."""
        checkpoint = resume.find_resume(self.cfg, self.folder)
        self.begun = True
        if checkpoint is not None:
            self._save_config()
            seen = resume.go_on(checkpoint, table)
            self._note_changes(seen)
            say(f"going on from {short(checkpoint)}, {seen / 1000:g} kimg")
        elif is_first():
            with writing(self.folder):
                table.begin_again()
        return checkpoint

    def _save_config(self) -> None:
        if is_first():
            with writing(self.folder):
                config.save(self.cfg, self.folder / "config.yaml")

    def _note_changes(self, seen: int) -> None:
        """Have the card say which settings are new from here on: the command alone would not."""
        before = self.card.before.get("changes") or []
        if self.changed:
            before = [*before, {"images": seen, "settings": self.changed}]
        if before:
            self.card.update(changes=before)

    def _fit(self, assembled: Assembled, checkpoints: Checkpoints, checkpoint: Path | None) -> None:
        task, cfg = assembled.task, self.cfg
        arguments: dict[str, Any] = {
            "datamodule": assembled.data,
            "ckpt_path": None if checkpoint is None else str(checkpoint),
        }
        try:
            guarded(lambda: self.trainer.fit(task, **arguments), cfg)
        except Interrupted:
            raise
        except BaseException:
            end_helpers(self.trainer)
            raise
        finally:
            # Every epoch is rounded to complete batches: a run may be half a batch per epoch short of its length.
            rounding = math.ceil(cfg.phase.kimg / cfg.phase.epoch_kimg) * cfg.phase.batch_size / 2
            seen = images_seen(task)
            self.card.facts |= {"images_seen": seen, "complete": seen + rounding >= self.photos}
        self.card.update()
        if is_first():
            checkpoints.tidy()

    def _test(self, assembled: Assembled, checkpoints: Checkpoints) -> float:
        """Measure the best weights on the test photos.

        Raises:
            UserError: If ``phase.rank_by`` is not measured.
        """
        task, cfg, rank_by = assembled.task, self.cfg, self.cfg.phase.rank_by
        best = checkpoints.best if checkpoints.best.is_file() else checkpoints.last
        if best.is_file():
            task.load_state_dict(read_checkpoint(best)["state_dict"], strict=task.strict_loading)
        seen = images_seen(task)
        measured = guarded(
            lambda: self.trainer.test(task, datamodule=assembled.data, verbose=False), self.cfg
        )[0]
        numbers = {name: float(value) for name, value in sorted(measured.items())}
        file = str(best.relative_to(self.folder))
        self.card.update(metrics=numbers, best={"file": file, "images": seen, "score": checkpoints.score})
        if config.given(cfg, "evaluation.protocol") is not None and is_first():
            from hyperinverter.training.evaluating import evaluate_run

            evaluate_run(cfg, task.inverter, assembled.data, self.folder, best)
        if rank_by not in numbers:
            raise UserError(f"phase.rank_by={rank_by} is not measured; there are: {', '.join(numbers)}")
        failures.check_learned(numbers, rank_by)
        return numbers[rank_by]

    def _say_need(self, task: PhaseTask) -> None:
        """Say what training needs, and stop here if the device cannot have that much memory.

        Raises:
            UserError: If it is far above what is there.
        """
        cfg, device = self.cfg, devices.kind(self.cfg)
        here = devices.processes_per_machine(cfg)
        everywhere = here * cfg.trainer.num_nodes
        need = memory.memory_need(
            task,
            max(cfg.phase.batch_size // everywhere, 1),
            device=device,
            precision=config.precision(cfg),
            processes=everywhere,
            average=_half_life(cfg) is not None,
        )
        if device == "cpu":
            memory.prepare_allocator(need)
        available = available_bytes(device)
        where = "on the GPU" if device == "cuda" else "in this machine"
        trained = self.card.facts["parameters"]["trained"] / 1e6
        say(f"{trained:.2f} M trained parameters; memory {need}, {available / GB:.1f} GB {where}")
        self.card.update(memory_need_mb={name: round(size / 2**20) for name, size in need.parts().items()})
        if cfg.check_memory:
            advice = (
                f"double phase.accumulate={cfg.phase.accumulate}, halve phase.batch_size={cfg.phase.batch_size}, lower "
                "hypernet.hidden_dim, choose a smaller coverage"
            )
            # processes of one machine share its memory, those of one GPU each have their own
            memory.check_memory(need, available // (here if device == "cpu" else 1), advice)

    def _say_processes(self) -> None:
        """Note the device, and of several processes how they share a batch and what they exchange."""
        processes, batch = self.trainer.world_size, self.cfg.phase.batch_size
        self.card.update(device=devices.device_name(self.trainer), world_size=processes)
        if processes > 1:
            share = batch // processes
            # DDP averages every trained gradient once a step, in 32 bits; the ring moves about twice that per process
            gradients = 4 * self.card.facts["parameters"]["trained"] / 1e6
            self.card.update(batch_per_process=share, gradient_mb_per_step=round(gradients, 3))
            say(
                f"{processes} processes x {share} photos = batches of {batch}; "
                f"{gradients:.1f} MB of gradients per step"
            )

    def _say_farewell(self) -> None:
        facts = self.card.facts
        numbers = "  ".join(f"{name.removeprefix('test/')} {v:.4g}" for name, v in facts["metrics"].items())
        say(f"finished in {duration(facts['seconds'])}: {numbers}")
        say(f"{short(self.folder)}: run.json, metrics.csv, panels/, checkpoints/best.ckpt")

    def _close_failed(self, error: BaseException) -> None:
        interrupted = isinstance(error, (KeyboardInterrupt, Interrupted))
        why = None if interrupted else failures.note(error, self.folder)
        tracking.close(self.loggers, self.card.facts.get("metrics", {}), 130 if interrupted else 1)
        with contextlib.suppress(OSError):  # the disk may be what failed
            if self.resumed is not None and not self.begun:
                self.card.put_back()
                return
            self.card.close("interrupted" if interrupted else "failed", why)


def identity(cfg: Config) -> dict[str, Any]:
    """What tells this run from others, for its card."""
    typed = config.task_overrides()
    return {
        "name": tracking.typed_name() if cfg.name is None else str(cfg.name),
        "group": None if cfg.group is None else str(cfg.group),
        "phase": cfg.phase.number,
        "method": cfg.method.name if "method" in cfg else "hyperinverter",
        "domain": cfg.domain.name,
        "seed": cfg.seed,
        "rank_by": cfg.phase.rank_by,
        "overrides": typed,
        "command": " ".join([train_command(), *typed]),
        "metrics": {},
    }


def count_parameters(task: PhaseTask) -> Mapping[str, int]:
    """Numbers of trained and of frozen parameters."""
    counts = {"trained": 0, "frozen": 0}
    for parameter in task.parameters():
        counts["trained" if parameter.requires_grad else "frozen"] += parameter.numel()
    return counts


def _half_life(cfg: Config) -> int | None:
    """Of the average of the weights, in photos; None for none."""
    return None if cfg.phase.ema_kimg is None else max(round(cfg.phase.ema_kimg * 1000), 1)

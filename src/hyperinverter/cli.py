"""One job: seed, assemble, fit, test the best checkpoint, leave a run folder that tells the whole story."""

import contextlib
import logging
import math
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.exceptions import SIGTERMException

from hyperinverter import config, runs
from hyperinverter.checkpoints.opening import read_checkpoint
from hyperinverter.config import Config
from hyperinverter.contracts import UserError
from hyperinverter.runs import RunCard, read_card
from hyperinverter.system.command import train_command
from hyperinverter.system.errors import cause
from hyperinverter.system.files import hold, writing
from hyperinverter.system.machine import GB, available_bytes, cores, keep_freed_memory
from hyperinverter.system.processes import is_first, knows_its_node, rank, starter
from hyperinverter.system.terminal import duration, fail, say, short
from hyperinverter.tasks import callbacks, memory, saved
from hyperinverter.tasks.average import Average
from hyperinverter.tasks.callbacks import Checkpoints, Interrupted, images_seen
from hyperinverter.tasks.common import PhaseTask
from hyperinverter.tasks.loggers import MetricsFile, WandbTracker

AUTO = "auto"  # resume=auto: the same command again goes on where it was


def run(cfg: Config, folder: Path | None = None) -> float:
    """Do one job and return the number a sweep ranks by.

    Failures print one sentence and leave by ``SystemExit``: 1 failed, 130 interrupted. The run card says the same,
    and ``error.log`` holds the traceback.

    Args:
        cfg: The composed configuration.
        folder: The run folder; default the one Hydra made for this job.
    """
    folder = folder or config.run_dir()
    try:
        with _signals_are_ctrl_c():
            return train(cfg, folder)
    except UserError as error:
        fail(str(error), debug=bool(cfg.debug))
    except (KeyboardInterrupt, Interrupted):
        if not is_first():
            sys.exit(
                0
            )  # a non-zero end of a helper process would have the first one killed before it has written
        say(
            f"interrupted; go on with: {train_command()} resume={short(folder)}"
            if _last(folder)
            else "interrupted"
        )
        sys.exit(130)
    except Exception as error:  # a fault of ours: still one sentence, and the traceback in a file
        number, why = _origin(error, folder)
        where = short(folder / _error_log(number))
        who = f"process {number}: " if number else ""
        fail(f"{who}{why} (traceback in {where}, or add debug=true)", debug=bool(cfg.debug), everywhere=True)


def train(cfg: Config, folder: Path) -> float:
    """As ``run``, but failures arrive as exceptions (``UserError``, ``Interrupted`` and others).

    Raises:
        UserError: For anything the person can mend.
        Interrupted: After Ctrl-C, with everything saved.
    """
    first = is_first()
    if cfg.resume == AUTO and (done := _finished(folder)) is not None:
        say(f"{short(folder)} has finished before: nothing is left to do")
        return done
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        claim = hold(folder) if first else None
    if first and claim is None:
        raise UserError(f"another process is working in {folder}: wait for it, or stop it first")
    try:
        return _carded(cfg, folder)
    finally:
        if claim is not None:
            claim.close()


def _carded(cfg: Config, folder: Path) -> float:
    """Train with the run card and the tracker closed at the end, whatever the end is."""
    first = is_first()
    if first:
        for old in folder.glob(_error_log("*")):
            old.unlink()
    with writing(folder):
        card = RunCard(folder, _identity(cfg), write=first)
    loggers: list[Logger] = []
    try:
        score = _train(cfg, folder, card, loggers)
    except BaseException as error:
        interrupted = isinstance(error, (KeyboardInterrupt, Interrupted))
        status = "interrupted" if interrupted else "failed"
        number, why = _origin(error, folder)
        if not interrupted:
            with contextlib.suppress(OSError):  # the disk may be what failed
                text = f"{cause(error)}\n\n{traceback.format_exc()}"
                (folder / _error_log(rank())).write_text(text, encoding="utf-8")
        _close_tracker(loggers, card.facts.get("metrics", {}), 130 if interrupted else 1)
        with contextlib.suppress(OSError):
            card.close(status, None if interrupted else f"process {number}: {why}" if number else why)
        raise
    _close_tracker(loggers, card.facts["metrics"], 0)
    with writing(folder):
        card.close("finished")
    _farewell(card.facts, folder)
    return score


def _train(cfg: Config, folder: Path, card: RunCard, loggers: list[Logger]) -> float:
    from hyperinverter import assembly  # every network: after the cheap checks

    _quieten()
    config.validate(cfg)
    config.check_additions(config.task_overrides())
    _check_devices(cfg)
    if cfg.trainer.accelerator == "cpu":
        keep_freed_memory()
    for caution in config.cautions(cfg):
        say(f"warning: {caution}")
    find_phase1(cfg, folder)
    _save_configuration(cfg, folder)
    seed_everything(cfg.seed, workers=True, verbose=False)
    assembled = assembly.build(cfg)
    task, data = assembled.task, assembled.data
    _save_configuration(cfg, folder)  # now with the resolution that the generator decides
    card.update(loaded=assembled.loaded, parameters=count_parameters(task))

    if "phase1" in assembled.loaded:
        say(f"phase I: {_short_name(assembled.loaded['phase1']['path'])}")

    if isinstance(task, PhaseTask):
        _tell_need(cfg, task, card)

    total = max(round(cfg.phase.kimg * 1000), 1)
    metrics_file = MetricsFile(folder / "metrics.csv", lambda: images_seen(task))
    loggers += [metrics_file, *_tracker(cfg, folder, task)]
    checkpoints = Checkpoints(
        folder / "checkpoints",
        cfg.phase.monitor,
        cfg.phase.monitor_mode,
        round(cfg.trainer.save_every_kimg * 1000),
        metrics_file.count,
    )
    say(f"phase {cfg.phase.number} on {cfg.domain.name}: {short(folder)}")
    trainer = make_trainer(
        cfg,
        loggers,
        [
            callbacks.NanGuard(),
            callbacks.StopAfter(total),
            callbacks.Together(cfg.seed),
            checkpoints,
            callbacks.StopOnSignal(checkpoints, say),
            callbacks.Progress(total, folder, per_step=cfg.phase.batch_size),
            callbacks.ImagePanels(folder, cfg.panels.num_photos, cfg.panels.num_saved),
            Average(_half_life(cfg)),  # the last one
        ],
    )
    card.update(device=_device(trainer), world_size=trainer.world_size)
    if trainer.world_size > 1:
        per_process = cfg.phase.batch_size // trainer.world_size
        # DDP averages every trained gradient once a step, in 32 bits; the ring moves about twice that per process
        gradients = 4 * card.facts["parameters"]["trained"] / 1e6
        card.update(batch_per_process=per_process, gradient_mb_per_step=round(gradients, 3))
        say(
            f"{trainer.world_size} processes x {per_process} photos = batches of {cfg.phase.batch_size}; "
            f"{gradients:.1f} MB of gradients per step"
        )
    resume = find_resume(cfg, folder)
    if resume is not None:
        seen = _go_on(resume, metrics_file)
        say(f"going on from {short(resume)}, {seen / 1000:g} kimg")
    elif is_first():
        with writing(folder):
            metrics_file.begin_anew()
    fit_arguments: dict[str, Any] = {"datamodule": data, "ckpt_path": None if resume is None else str(resume)}
    try:
        _guarded(lambda: trainer.fit(task, **fit_arguments), cfg)
    except Interrupted:
        raise
    except BaseException:
        _end_helpers(trainer)
        raise
    finally:
        # Every epoch is rounded to whole batches: a whole run may be half a batch an epoch short of its length.
        rounding = math.ceil(cfg.phase.kimg / cfg.phase.epoch_kimg) * cfg.phase.batch_size / 2
        seen = images_seen(task)
        card.facts |= {"images_seen": seen, "complete": seen + rounding >= total}
    card.update()
    if is_first():
        checkpoints.tidy()

    best = checkpoints.best if checkpoints.best.is_file() else checkpoints.last
    if best.is_file():
        task.load_state_dict(read_checkpoint(best)["state_dict"], strict=task.strict_loading)
    seen_in_training = images_seen(task)
    measured = _guarded(lambda: trainer.test(task, datamodule=data, verbose=False), cfg)[0]
    numbers = {name: float(value) for name, value in sorted(measured.items())}
    card.update(
        metrics=numbers,
        best={"file": str(best.relative_to(folder)), "images": seen_in_training, "score": checkpoints.score},
    )
    if cfg.phase.rank_by not in numbers:
        raise UserError(f"phase.rank_by={cfg.phase.rank_by} is not measured; there are: {', '.join(numbers)}")
    return numbers[cfg.phase.rank_by]


def make_trainer(cfg: Config, loggers: list[Logger], extra: list[Callback]) -> Trainer:
    """The Lightning trainer a configuration describes; checkpoints and progress are callbacks of ours."""
    node = cfg.trainer
    epochs = math.ceil(cfg.phase.kimg / cfg.phase.epoch_kimg)
    environment = _cluster()
    strategy: str | DDPStrategy = node.strategy
    if strategy == "ddp":
        strategy = DDPStrategy(
            cluster_environment=environment,
            process_group_backend="gloo" if node.accelerator == "cpu" else None,
            timeout=timedelta(seconds=node.timeout),
            gradient_as_bucket_view=True,  # no second copy of gradients: a hypernetwork's are as large as it is
        )
    return Trainer(
        accelerator=node.accelerator,
        devices=node.devices,
        num_nodes=node.num_nodes,
        strategy=strategy,
        plugins=[environment] if isinstance(strategy, str) else None,
        # on processors there is no such thing: there the first process's running statistics are everyone's
        sync_batchnorm=not isinstance(strategy, str) and node.accelerator != "cpu",
        precision=node.precision,
        deterministic=node.deterministic,
        max_epochs=min(epochs, node.max_epochs or epochs),
        limit_train_batches=node.limit_train_batches,
        limit_val_batches=node.limit_val_batches,
        limit_test_batches=node.limit_test_batches,
        log_every_n_steps=node.log_every,
        logger=loggers,
        callbacks=extra,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # the data room shards: every photo once, no padding
    )


def _half_life(cfg: Config) -> int | None:
    """Of the average of the weights, in photos; None for none."""
    return None if cfg.phase.ema_kimg is None else max(round(cfg.phase.ema_kimg * 1000), 1)


def _save_configuration(cfg: Config, folder: Path) -> None:
    if is_first():
        with writing(folder):
            config.save(cfg, folder / "config.yaml")


def _tell_need(cfg: Config, task: PhaseTask, card: RunCard) -> None:
    """Say what training needs, and stop here if the device cannot have that much memory.

    Raises:
        UserError: If it is far above what is there.
    """
    device = (
        "cuda" if torch.cuda.is_available() and cfg.trainer.accelerator in ("gpu", "cuda", "auto") else "cpu"
    )
    processes = processes_per_machine(cfg)
    together = processes * cfg.trainer.num_nodes
    share = max(cfg.phase.batch_size // together, 1)
    need = memory.memory_need(
        task,
        share,
        device=device,
        precision=str(cfg.trainer.precision),
        processes=together,
        average=_half_life(cfg) is not None,
    )
    available = available_bytes(device)
    where = "on the GPU" if device == "cuda" else "in this machine"
    say(f"{_millions(card.facts['parameters'])}; memory {need}, {available / GB:.1f} GB {where}")
    card.update(memory_need_mb={name: round(size / 2**20) for name, size in need.parts().items()})
    if cfg.check_memory:
        advice = (
            f"double phase.accumulate={cfg.phase.accumulate}, halve phase.batch_size={cfg.phase.batch_size}, lower "
            "hypernet.hidden_dim, choose a smaller coverage"
        )
        # processes of one machine share its memory, those of one GPU each have their own
        memory.check_memory(need, available // (processes if device == "cpu" else 1), advice)


def processes_per_machine(cfg: Config) -> int:
    """How many processes ``trainer.devices`` makes on one machine."""
    devices = cfg.trainer.devices
    if devices in ("auto", "-1", -1):
        return max(torch.cuda.device_count(), 1)
    if isinstance(devices, str) and "," in devices:
        return len(devices.strip(",").split(","))
    return int(devices) if isinstance(devices, (int, str)) else len(devices)


def _end_helpers(trainer: Trainer) -> None:
    """The first process has failed: end those it started, which would wait for it, or complain about it."""
    for process in getattr(trainer.strategy.launcher, "procs", []):
        with contextlib.suppress(OSError):
            process.kill()


def _cluster() -> ClusterEnvironment:
    """Who starts the processes of a distributed run: torchrun, srun, or Lightning itself.

    Lightning's own guess takes every Slurm allocation for srun, and would requeue jobs on its own account.
    """
    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    if starter().processes > 1:
        return SLURMEnvironment(auto_requeue=False)
    return LightningEnvironment()


def find_phase1(cfg: Config, folder: Path | None = None) -> None:
    """Fill in ``phase.from_run`` of a phase II run: the newest complete phase I run of the domain, if any.

    A resumed run in ``folder`` keeps the one it began with.
    """
    if cfg.phase.number != 2 or cfg.phase.from_run is not None:
        return
    if cfg.resume is not None and folder is not None and (folder / "config.yaml").is_file():
        before = config.load(folder / "config.yaml")
        cfg.phase.from_run = before.phase.from_run or "packaged"
        return
    found = runs.latest_finished(
        Path(cfg.paths.outputs), domain=cfg.domain.name, phase=1, generator=str(cfg.generator.path)
    )
    if found is not None:
        cfg.phase.from_run = str(found)


def find_resume(cfg: Config, folder: Path | None = None) -> Path | None:
    """The checkpoint to go on from; None for a new run.

    A damaged ``last.ckpt`` is told and the one before it taken. ``resume=auto`` begins anew where nothing was saved.

    Args:
        cfg: The configuration; ``resume`` is a run folder, a checkpoint file, or ``auto``.
        folder: The folder of this run, for ``auto``.

    Raises:
        UserError: If ``resume`` leads to none.
    """
    if cfg.resume is None:
        return None
    automatic = cfg.resume == AUTO
    if automatic and folder is None:
        return None
    place = folder if automatic and folder is not None else Path(cfg.resume).expanduser()
    if place.is_file():
        read_checkpoint(place)
        return place
    found = saved.newest_readable(place / "checkpoints")
    if found is None and automatic:
        return None
    if found is None:
        missing = place / "checkpoints" / saved.LAST
        raise UserError(
            f"resume={cfg.resume} has no {missing}: the run ended before its first save, so start it anew"
        )
    path, _, trouble = found
    if trouble is not None:
        say(f"{trouble.split(': it is cut short')[0]}: it is damaged, so the run goes on from {path.name}")
    return path


def _go_on(checkpoint: Path, table: MetricsFile) -> int:
    """Cut the table of numbers to what the checkpoint stands behind; return the photos seen by then."""
    content = read_checkpoint(checkpoint)
    seen = int(content["state_dict"].get("images_seen", 0))
    if is_first():
        kept = [
            s["rows"] for s in content.get("callbacks", {}).values() if isinstance(s, dict) and "rows" in s
        ]
        if kept:
            table.keep(int(kept[0]))
        else:
            table.forget_after(seen)
    return seen


def count_parameters(task: LightningModule) -> dict[str, int]:
    """Numbers of trained and of frozen parameters."""
    counts = {"trained": 0, "frozen": 0}
    for parameter in task.parameters():
        counts["trained" if parameter.requires_grad else "frozen"] += parameter.numel()
    return counts


@contextlib.contextmanager
def _signals_are_ctrl_c() -> Iterator[None]:
    """Outside the training loop, which has handlers of its own, every request to stop is a KeyboardInterrupt."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [number for number in callbacks.STOP_SIGNALS if number != signal.SIGINT]
    previous = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _tracker(cfg: Config, folder: Path, task: LightningModule) -> list[Logger]:
    def seen() -> int:
        return images_seen(task)

    if cfg.logger.kind == "wandb" and is_first():
        identity = {
            "name": cfg.name or _typed_name() or folder.name,
            "group": cfg.group,
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


def _close_tracker(loggers: list[Logger], metrics: Mapping[str, Any], exit_code: int) -> None:
    for logger in loggers:
        if isinstance(logger, WandbTracker):
            logger.close(metrics, exit_code)


def _identity(cfg: Config) -> dict[str, Any]:
    typed = config.task_overrides()
    return {
        "name": cfg.name or _typed_name(),
        "group": cfg.group,
        "phase": cfg.phase.number,
        "domain": cfg.domain.name,
        "seed": cfg.seed,
        "rank_by": cfg.phase.rank_by,
        "overrides": typed,
        "command": " ".join([train_command(), *typed]),
        "metrics": {},
    }


def _typed_name() -> str | None:
    """A run is called by what was typed for it, without what every run says."""
    plain = [
        item
        for item in config.task_overrides()
        if item.split("=")[0] not in ("name", "group", "resume", "phase")
    ]
    return " ".join(plain) or None


def _check_devices(cfg: Config) -> None:
    """Refuse what would fail later, or train on other photos than was asked for.

    Raises:
        UserError: For devices that are not there, processes that do not fit, or a batch they cannot share.
    """
    node = cfg.trainer
    gpu = node.accelerator in ("gpu", "cuda")
    if gpu and not torch.cuda.is_available():
        raise UserError(
            "this trainer wants a CUDA GPU and PyTorch sees none: use trainer=cpu, or install CUDA drivers"
        )
    devices = node.devices
    if devices in ("auto", -1, "-1"):
        devices = torch.cuda.device_count() if gpu else 1
    if not isinstance(devices, int) or devices < 1:
        raise UserError(f"trainer.devices must be a number of devices or auto, got {node.devices!r}")
    if gpu and devices > torch.cuda.device_count():
        raise UserError(
            f"trainer.devices={devices}, but PyTorch sees {torch.cuda.device_count()} GPUs: ask for fewer"
        )
    world = devices * node.num_nodes
    if world > 1 and node.strategy == "auto":
        raise UserError(f"{world} devices need a strategy: use trainer=ddp, or trainer=ddp_cpu on processors")
    outside = starter().processes
    if outside > 1 and outside != world:
        raise UserError(
            f"{outside} processes were started from outside, but this trainer has {world}: each would train alone; "
            "choose trainer=ddp with trainer.devices and trainer.num_nodes to match, or start a single process"
        )
    if node.num_nodes > 1 and outside == 1 and not knows_its_node():
        raise UserError(
            f"trainer.num_nodes={node.num_nodes} needs a process on every node: start it with srun or torchrun, or set "
            "MASTER_ADDR, MASTER_PORT and NODE_RANK and give every node the same hydra.run.dir"
        )
    if cfg.phase.batch_size % world:
        raise UserError(
            f"a batch of {cfg.phase.batch_size} photos cannot be shared evenly by {world} processes; choose "
            f"phase.batch_size as a multiple of {world}"
        )
    if world > 1 and cfg.loss.adv > 0 and str(node.precision) == "16-mixed":
        raise UserError(
            "trainer.precision=16-mixed scales losses, which the critic's gradients over several processes do not "
            "know: use bf16-mixed or 32-true"
        )


def _guarded(action: Callable[[], Any], cfg: Config) -> Any:
    """Run a trainer's entry point; its way of telling Ctrl-C and a full GPU becomes ours."""
    try:
        return action()
    except SystemExit as error:
        # what Lightning makes of Ctrl-C, outside the batches that StopOnSignal watches
        if isinstance(error.__context__, KeyboardInterrupt) or isinstance(error, SIGTERMException):
            raise Interrupted from error
        raise
    except torch.cuda.OutOfMemoryError as error:
        raise UserError(
            f"the GPU has not enough memory for phase.batch_size={cfg.phase.batch_size}: set phase.accumulate="
            f"{2 * cfg.phase.accumulate}, or lower hypernet.hidden_dim, or choose a smaller coverage"
        ) from error


def _finished(folder: Path) -> float | None:
    """The score of the finished run in a folder; None if it has none."""
    card = read_card(folder) or {}
    if card.get("status") != "finished":
        return None
    score = (card.get("metrics") or {}).get(card.get("rank_by"))
    return None if score is None else float(score)


def _last(folder: Path) -> bool:
    return (folder / "checkpoints" / saved.LAST).is_file()


def _device(trainer: Trainer) -> str:
    device = trainer.strategy.root_device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} x{cores()}"


def _millions(parameters: Mapping[str, int]) -> str:
    return f"{parameters['trained'] / 1e6:.2f} M trained parameters"


def _short_name(name: str) -> str:
    return short(Path(name)) if Path(name).exists() else f"packaged with {name}"


def _farewell(facts: Mapping[str, Any], folder: Path) -> None:
    numbers = "  ".join(
        f"{name.removeprefix('test/')} {value:.4g}" for name, value in facts["metrics"].items()
    )
    say(f"finished in {duration(facts['seconds'])}: {numbers}")
    say(f"{short(folder)}: run.json, metrics.csv, panels/, checkpoints/best.ckpt")


def _error_log(number: int | str) -> str:
    return "error.log" if number == 0 else f"error.process{number}.log"


def _origin(error: BaseException, folder: Path) -> tuple[int, str]:
    """Number of the process that failed first, and why: the others only find that it does not answer any more."""
    if is_first() and _lost_the_others(error):
        for path in sorted(folder.glob(_error_log("*"))):
            with contextlib.suppress(OSError, IndexError):
                number = path.name.removeprefix("error.process").removesuffix(".log")
                return int(number), path.read_text(encoding="utf-8").splitlines()[0]
    return rank(), cause(error)


def _lost_the_others(error: BaseException) -> bool:
    """Whether this is how the end of another process shows in this one (torch has no class of its own for it)."""
    words = ("connection", "peer", "gloo", "nccl", "socket", "timed out", "store", "process group")
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)


def _quieten() -> None:
    """Keep libraries from speaking over the run; their errors still come through."""
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in (
        ".*does not have many workers.*",  # two cores: extra processes would cost more than they bring
        ".*number of training batches.*smaller than the logging interval.*",
        ".*Checkpoint directory.*",
        ".*module.s. in eval mode at the start of training.*",  # the frozen ones: meant so
        ".*GPU available but not used.*",
        ".*`srun` command is available on your system but is not used.*",  # a job of a sweep, or a laptop with Slurm
        ".*LeafSpec.*",
    ):
        warnings.filterwarnings("ignore", message=message)

"""What both phases share: counting photos, the learning-rate schedule, measuring."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.strategies import ParallelStrategy
from torch import Tensor, distributed, nn
from torch.optim import Optimizer

from hyperinverter.contracts import Batch, Inversion
from hyperinverter.inversion.drawing import Iterative
from hyperinverter.metrics import MetricSuite
from hyperinverter.networks.frozen import Held
from hyperinverter.networks.generator import Generator

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]


@dataclass(frozen=True)
class Schedule:
    """Learning-rate factor as a function of photos seen.

    Args:
        images: Length of training, in photos.
        warmup: The factor rises linearly from 0 over these first photos.
        kind: "cosine" falls to 0 at the end (Loshchilov & Hutter 2017), "constant" stays at 1 (the paper).
    """

    images: int
    warmup: int = 0
    kind: Literal["cosine", "constant"] = "constant"

    def __call__(self, seen: int) -> float:
        """Return the factor, in (0, 1], for the batch that begins after ``seen`` photos."""
        rise = min(1.0, (seen + 1) / self.warmup) if self.warmup > 0 else 1.0
        if self.kind == "constant":
            return rise
        done = min(seen / max(self.images, 1), 1.0)
        # A thousandth stays at the end: a batch beyond the planned length must still be a legal step.
        return rise * max(0.5 * (1 + math.cos(math.pi * done)), 1e-3)


class Pass(NamedTuple):
    """What one forward pass of training gives."""

    total: Tensor  # scalar: what is differentiated
    parts: dict[str, Tensor]  # name -> scalar, for the log
    image: Tensor  # (B, 3, R, R)

    def detached(self, share: float) -> Pass:
        """The same without gradients, its numbers times a share."""
        parts = {name: value.detach() * share for name, value in self.parts.items()}
        return Pass(self.total.detach() * share, parts, self.image.detach())


class PhaseTask(LightningModule, ABC):
    """Base of both phases: what they train, count, log and measure alike.

    The state dict holds what is trained (in phase II also the phase I encoder) and ``images_seen``; the
    generator and the judges are held outside it.

    Args:
        inverter: Photo -> ``Inversion``.
        loss: Image, photo -> total and named parts.
        metrics: Measures images against photos, one value per photo.
        optimizer: Makes the optimizer from parameters.
        schedule: Photos seen -> factor of the learning rate.
        accumulate: Parts that a batch is computed in, one after the other, with their gradients added: the step of the
            complete batch with the activations of one part. Only BatchNorm in training, and the discriminator's
            standard deviation over a group, see a part instead of the batch.
    """

    images_seen: Tensor

    def __init__(
        self,
        inverter: nn.Module,
        loss: nn.Module,
        metrics: MetricSuite,
        optimizer: MakeOptimizer,
        schedule: Schedule,
        *,
        accumulate: int = 1,
    ) -> None:
        super().__init__()
        self.inverter = inverter
        self.accumulate = accumulate
        self.automatic_optimization = accumulate == 1
        self.schedule = schedule
        self._loss = Held(loss)
        self._metrics = Held(metrics)
        self.make_optimizer = optimizer
        # Photos over all processes: every schedule reads it, because Lightning's global_step counts optimizer
        # steps, two per batch once the discriminator has joined.
        self.register_buffer("images_seen", torch.zeros((), dtype=torch.int64))
        # The same on the host: to read a tensor on a GPU is to wait for all that was asked of it.
        self._seen: int | None = 0
        self.register_load_state_dict_post_hook(_forget_counts)

    def forget_counts(self) -> None:
        """A checkpoint was loaded: its counts are read when they are needed."""
        self._seen = None

    @property
    def seen(self) -> int:
        """Photos trained on so far, over all processes, without waiting for the device."""
        if self._seen is None:
            self._seen = int(self.images_seen)
        return self._seen

    @property
    def loss(self) -> nn.Module:
        """The loss, held outside the state dict."""
        return self._loss.network

    @property
    def metrics(self) -> MetricSuite:
        """The measures, held outside the state dict."""
        return self._metrics.network

    def setup(self, stage: str) -> None:
        """Say what DistributedDataParallel, which is about to wrap this module, should leave alone."""
        self._ddp_params_and_buffers_to_ignore = self.unsynchronised()

    def unsynchronised(self) -> list[str]:
        """Names of the parameters and buffers that DDP should neither broadcast nor average: all that is frozen.

        Every process has read those from the same files, and counts the same photos.
        """
        names = [name for name, parameter in self.named_parameters() if not parameter.requires_grad]
        for prefix, module in self.named_modules():
            if not any(parameter.requires_grad for parameter in module.parameters(recurse=False)):
                names += [
                    f"{prefix}.{name}" if prefix else name
                    for name, _ in module.named_buffers(recurse=False, remove_duplicate=False)
                ]
        return names

    def configure_optimizers(self) -> Optimizer:
        optimizer = self.make_optimizer([p for p in self.inverter.parameters() if p.requires_grad])
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        return optimizer

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Set the learning rate for this batch."""
        factor = self.schedule(self.seen)
        for optimizer in self.trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if self.automatic_optimization:
            step = self.forward_pass(batch["image"])
        else:
            step = self.descend(cast(Optimizer, self.optimizers()), batch["image"], self.forward_pass)
        self.log_training(step.total, step.parts, batch)
        self.count(batch)
        return step.total

    def forward_pass(self, photo: Tensor) -> Pass:
        """Draw photos ``(B, 3, R, R)`` and compare: what every training step differentiates.

        Of a way to invert in several steps the losses are added: each step has its own gradient, and they meet in the
        weights.
        """
        if not isinstance(self.inverter, Iterative):
            image = self.draw(photo)
            total, parts = self.loss(image, photo)
            return Pass(total, parts, image)
        target = self.loss.target(photo)  # type: ignore[operator]
        totals: list[Tensor] = []
        for _, image in self.inverter.steps(photo):
            total, parts = self.loss(image, photo, target)
            totals.append(total)
        return Pass(torch.stack(totals).sum(), parts, image)

    @abstractmethod
    def draw(self, photo: Tensor) -> Tensor:
        """What is trained to look like the photo: ``(B, 3, R, R)``."""

    def descend(self, optimizer: Optimizer, photo: Tensor, forward: Callable[[Tensor], Pass]) -> Pass:
        """Make one step by hand, on the gradients of ``accumulate`` parts of the batch.

        Processes exchange gradients once, with the last part's.

        Returns:
            The pass of all the photos together, without gradients.
        """
        optimizer.zero_grad()
        passes = []
        for last, share, (part,) in in_parts(self.accumulate, photo):
            with nullcontext() if last else self._without_exchange():
                done = forward(part)
                with in_full(part):  # Lightning's autocast is for the forward pass
                    self.manual_backward(done.total * share)
            passes.append(done.detached(share))
        optimizer.step()
        return Pass(
            sum_of(done.total for done in passes),
            {name: sum_of(done.parts[name] for done in passes) for name in passes[0].parts},
            torch.cat([done.image for done in passes]),
        )

    def _without_exchange(self) -> AbstractContextManager[None]:
        """Keep DDP from averaging gradients that more will be added to."""
        strategy = self.trainer.strategy
        return strategy.block_backward_sync() if isinstance(strategy, ParallelStrategy) else nullcontext()

    def count(self, batch: Batch) -> None:
        """Note that this batch, on every process, has been trained on."""
        count = len(batch["image"]) * self.trainer.world_size
        self._seen = self.seen + count
        self.images_seen += count

    def log_training(self, total: Tensor, parts: dict[str, Tensor], batch: Batch) -> None:
        """Log the total and its parts under ``train/``: of the complete batch, over all processes."""
        logged = {"loss": total.detach(), **{name: part.detach() for name, part in parts.items()}}
        if self.trainer.world_size > 1:
            # One small message instead of one per number. Equal on every process, so that a loss that is not a
            # number stops all of them at the same step.
            mean = torch.stack([value.float().mean() for value in logged.values()])
            distributed.all_reduce(mean)
            logged = dict(zip(logged, mean / self.trainer.world_size, strict=True))
        self.log_dict(
            {f"train/{name}": value for name, value in logged.items()}, batch_size=len(batch["image"])
        )

    def on_validation_epoch_start(self) -> None:
        self.metrics.reset()

    def on_test_epoch_start(self) -> None:
        self.metrics.reset()
        self._seconds: dict[str, list[float]] = {}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._measure(self.inverter(batch["image"]), batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        photo = batch["image"]
        inversion, seconds = self._timed(self.inverter, photo)
        # The first batch pays for warm caches and is not part of the time.
        if batch_idx > 0:
            self._seconds.setdefault("seconds_per_image", []).append(seconds / len(photo))
            self._time_parts(photo)
        self._measure(inversion, batch)

    def on_validation_epoch_end(self) -> None:
        self._log_metrics("val")

    def on_test_epoch_end(self) -> None:
        self._log_metrics("test")
        for name, values in self._seconds.items():
            median = torch.tensor(values).median()  # robust against a busy machine
            self.log(f"test/{name}", median, sync_dist=True)

    def _time_parts(self, photo: Tensor) -> None:
        """Time the part that comes from an earlier phase, under a name of its own in ``self._seconds``."""

    def _measure(self, inversion: Inversion, batch: Batch) -> None:
        images = {"": inversion.image}
        if inversion.image is not inversion.w_image:
            images["phase1/"] = inversion.w_image
        self.metrics.update(images, batch["image"], batch["name"])

    def _log_metrics(self, split: str) -> None:
        values = self.metrics.compute()
        # Gathered by name inside compute: equal on every process, so nothing is left to average.
        self.log_dict({f"{split}/{name}": value for name, value in values.items()}, batch_size=1)

    def _timed(self, module: Callable[[Tensor], Inversion], photo: Tensor) -> tuple[Inversion, float]:
        """Run ``module`` and say how many seconds it took, with the device's queue empty at both ends."""
        synchronise = torch.cuda.synchronize if photo.is_cuda else (lambda: None)
        synchronise()
        start = time.perf_counter()
        inversion = module(photo)
        synchronise()
        return inversion, time.perf_counter() - start

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        from hyperinverter.inversion.specification import describe

        checkpoint["model"] = describe(self.inverter).plain()  # plain values: enough to build the model again
        generator = cast(Generator, self.inverter.generator)  # named, with its hash, and not stored
        checkpoint["generator_path"], checkpoint["generator_sha256"] = generator.source, generator.sha256


def _forget_counts(task: nn.Module, _: object) -> None:
    assert isinstance(task, PhaseTask)
    task.forget_counts()


def images_seen(task: LightningModule) -> int:
    """Photos a task has been trained on so far, over all processes."""
    if isinstance(task, PhaseTask):
        return task.seen
    return int(task.images_seen)  # type: ignore[arg-type]  # a buffer of one number


def in_parts(count: int, *images: Tensor) -> Iterator[tuple[bool, float, tuple[Tensor, ...]]]:
    """Cut images ``(B, ...)`` alike into at most ``count`` parts as even as they can be, in order.

    Yields:
        Whether it is the last part, its share of the batch (shares add up to 1), and the part of each.
    """
    batch = len(images[0])
    parts = list(zip(*(image.tensor_split(min(count, batch)) for image in images), strict=True))
    for index, part in enumerate(parts):
        yield index == len(parts) - 1, len(part[0]) / batch, part


def in_full(like: Tensor) -> AbstractContextManager[None]:
    """Within, compute in the precision of the inputs, whatever autocast the caller is in."""
    return torch.autocast(like.device.type, enabled=False)


def sum_of(values: Iterable[Tensor]) -> Tensor:
    """Sum of tensors of one shape, of at least one."""
    return torch.stack(list(values)).sum(0)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over all processes, in one message."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return
    together = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(together)
    together /= distributed.get_world_size()
    for gradient, mean in zip(gradients, together.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))

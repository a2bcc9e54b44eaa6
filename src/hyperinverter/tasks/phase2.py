"""Phase II: learn residuals to the generator's weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import cast

import torch
from torch import Tensor, distributed, nn
from torch.optim import Optimizer

from hyperinverter.contracts import Batch
from hyperinverter.inversion.phase2 import HyperInverter
from hyperinverter.losses.adversarial import critic_loss, generator_loss, r1_penalty
from hyperinverter.metrics import MetricSuite
from hyperinverter.tasks.common import (
    MakeOptimizer,
    Pass,
    PhaseTask,
    Schedule,
    average_gradients,
    in_parts,
    sum_of,
)


class PhaseIIHyper(PhaseTask):
    """Phase II: learn the feature encoder and the hypernetwork; phase I and the generator stay as they are.

    Dinh et al. 2022, section 3.3 and Eqs. 6-9. With a critic it alternates two optimizers by hand.

    Args:
        inverter: The model.
        loss: Reconstruction terms.
        metrics: Measures images against photos.
        optimizer: Makes both optimizers from parameters.
        schedule: Photos seen -> factor of the learning rate.
        critic: Judges realness; None leaves the adversarial term out.
        adv: Weight of the adversarial term.
        adv_from: The critic joins after this many photos.
        r1_gamma: Weight of the R1 penalty (Mescheder et al. 2018).
        r1_every: The penalty is computed on every n-th critic step only and n times as strong (lazy
            regularisation, Karras et al. 2020).
        adv_batch_size: Photos per step and process once the critic has joined; a larger batch becomes several steps.
            None: as they come.
        accumulate: See ``PhaseTask``; the critic's batches are cut into as many parts.
    """

    critic_r1: Tensor

    def __init__(
        self,
        inverter: HyperInverter,
        loss: nn.Module,
        metrics: MetricSuite,
        optimizer: MakeOptimizer,
        schedule: Schedule,
        *,
        critic: nn.Module | None = None,
        adv: float = 0.0,
        adv_from: int = 0,
        r1_gamma: float = 10.0,
        r1_every: int = 16,
        adv_batch_size: int | None = None,
        accumulate: int = 1,
    ) -> None:
        super().__init__(inverter, loss, metrics, optimizer, schedule, accumulate=accumulate)
        self.critic = critic
        self.adv, self.adv_from = adv, adv_from
        self.r1_gamma, self.r1_every = r1_gamma, r1_every
        self.adv_batch_size = adv_batch_size
        if critic is not None:
            self.automatic_optimization = False
            # a resumed run shows it as well, until it is computed again
            self.register_buffer("critic_r1", torch.tensor(-1.0))  # below what a penalty can be: none yet

    def draw(self, photo: Tensor) -> Tensor:
        """The final image, G(w; theta + residuals)."""
        return cast(HyperInverter, self.inverter).reconstruct(photo)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if self.critic is None:
            return super().training_step(batch, batch_idx)
        joined = int(self.images_seen) >= self.adv_from
        for part in in_steps(batch, self.adv_batch_size) if joined else [batch]:
            total = self._step_with_critic(part, joined)
        return total

    def _step_with_critic(self, batch: Batch, joined: bool) -> Tensor:
        """One step of the inverter and, once it has ``joined``, of the critic."""
        assert self.critic is not None
        photo = batch["image"]
        optimizer, critic_optimizer = cast(list[Optimizer], self.optimizers())
        if joined:
            self.critic.requires_grad_(False)
            step = self.descend(optimizer, photo, self.forward_pass_with_critic)
            self.critic.requires_grad_(True)
            step.parts.update(self._teach_critic(critic_optimizer, photo, step.image))
        else:
            step = self.descend(optimizer, photo, self.forward_pass)
        self.log_training(step.total, step.parts, batch)
        self.count(batch)
        return step.total

    def forward_pass_with_critic(self, photo: Tensor) -> Pass:
        """As ``forward_pass``, and the critic's opinion of the images."""
        assert self.critic is not None
        total, parts, image = self.forward_pass(photo)
        parts["adv"] = generator_loss(self.critic(image))
        return Pass(total + self.adv * parts["adv"], parts, image)

    def critic_pass(self, photo: Tensor, image: Tensor) -> Tensor:
        """How badly the critic tells photos from images (without gradients), both ``(B, 3, R, R)``: a scalar."""
        assert self.critic is not None
        return critic_loss(self.critic(photo), self.critic(image))

    def penalty_pass(self, photo: Tensor) -> Tensor:
        """The R1 penalty of the critic on photos ``(B, 3, R, R)``: a scalar."""
        assert self.critic is not None
        real = photo.detach().requires_grad_(True)
        return r1_penalty(self.critic(real), real)

    def _teach_critic(self, optimizer: Optimizer, photo: Tensor, image: Tensor) -> dict[str, Tensor]:
        parts = {"critic": self._step_critic(optimizer, self.critic_pass, photo, image)}
        steps = (int(self.images_seen) - self.adv_from) // max(len(photo) * self.trainer.world_size, 1)
        if steps % self.r1_every == 0:
            penalty = self._step_critic(
                optimizer, self.penalty_pass, photo, weight=self.r1_gamma / 2 * self.r1_every
            )
            self._keep_r1(penalty)
        if float(self.critic_r1) != -1:
            parts["r1"] = self.critic_r1.clone()
        return parts

    def _keep_r1(self, penalty: Tensor) -> None:
        if self.trainer.world_size > 1:  # the checkpoint is the first process's, the number everyone's
            distributed.all_reduce(penalty)
            penalty = penalty / self.trainer.world_size
        self.critic_r1.copy_(penalty)

    def _step_critic(
        self, optimizer: Optimizer, loss: Callable[..., Tensor], *images: Tensor, weight: float = 1.0
    ) -> Tensor:
        """One step of the critic, on the mean gradient over all processes; returns the loss of the complete batch."""
        optimizer.zero_grad()
        values = []
        for _, share, pieces in in_parts(self.accumulate, *images):
            value = loss(*pieces)
            values.append(value.detach() * share)
            if self.trainer.world_size > 1:
                # Not through DDP: at each backward pass it would wait for the gradients of all that is trained, or
                # search the graph for unused parameters.
                (value * (share * weight)).backward()
            else:
                self.manual_backward(value * (share * weight))
        if self.trainer.world_size > 1:
            average_gradients(self.critic.parameters())  # type: ignore[union-attr]
        optimizer.step()
        return sum_of(values)

    def unsynchronised(self) -> list[str]:
        """All that is frozen, and the critic, whose gradients are averaged separately, so that it can start late."""
        names = super().unsynchronised()
        every = [*self.named_parameters(), *self.named_buffers()]
        critic = {name for name, _ in every if name.startswith("critic.")}
        return [*names, *sorted(critic.difference(names))]

    def on_fit_start(self) -> None:
        """Begin with the same critic in every process: DDP leaves it alone."""
        if self.critic is not None and self.trainer.world_size > 1:
            for tensor in (*self.critic.parameters(), *self.critic.buffers()):
                distributed.broadcast(tensor.data, 0)

    def configure_optimizers(self) -> Optimizer | list[Optimizer]:  # type: ignore[override]
        optimizer = super().configure_optimizers()
        if self.critic is None:
            return optimizer
        parameters: Iterable[nn.Parameter] = self.critic.parameters()
        critic_optimizer = self.make_optimizer(parameters)
        for group in critic_optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        return [optimizer, critic_optimizer]

    def _time_parts(self, photo: Tensor) -> None:
        assert isinstance(self.inverter, HyperInverter)
        _, seconds = self._timed(self.inverter.w_inverter, photo)
        self._seconds.setdefault("phase1/seconds_per_image", []).append(seconds / len(photo))


def in_steps(batch: Batch, size: int | None) -> list[Batch]:
    """Cut a batch into batches of at most ``size`` photos, in order; None does not cut it."""
    count = len(batch["image"])
    size = size or count
    return [
        {"image": batch["image"][start : start + size], "name": batch["name"][start : start + size]}
        for start in range(0, count, size)
    ]

"""Phase II: learn residuals to the generator's weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from torch.optim import Optimizer

from hyperinverter.contracts import Batch, current_name
from hyperinverter.inversion.phase2 import PhaseII
from hyperinverter.losses.adversarial import discriminator_loss, generator_loss, r1_penalty
from hyperinverter.metrics import MetricSuite
from hyperinverter.networks.generator import Generator
from hyperinverter.ops.resample import shrink
from hyperinverter.tasks.common import (
    MakeOptimizer,
    Pass,
    PhaseTask,
    Schedule,
    average_gradients,
    in_full,
    in_parts,
    sum_of,
)

STEP = 0.3  # of the way from one random code to another: the size of an edit
EDIT_SIDE = 16  # px at which changes are compared: finer detail is new in the final image, and moves with it


class PhaseIIHyper(PhaseTask):
    """Phase II: learn the feature encoder and the hypernetwork; phase I and the generator stay as they are.

    Dinh et al. 2022, section 3.3 and Eqs. 6-9. With a discriminator it alternates two optimizers by hand.

    Args:
        inverter: The model.
        loss: Reconstruction terms.
        metrics: Measures images against photos.
        optimizer: Makes both optimizers from parameters.
        schedule: Photos seen -> factor of the learning rate.
        discriminator: Judges realness; None leaves the adversarial term out.
        adv: Weight of the adversarial term.
        adv_from: The discriminator joins after this many photos.
        r1_gamma: Weight of the R1 penalty (Mescheder et al. 2018).
        r1_every: The penalty is computed on every n-th discriminator step only and n times as strong (lazy
            regularisation, Karras et al. 2020).
        adv_batch_size: Photos per step and process once the discriminator has joined; a larger batch becomes several
            steps. None: as they come.
        edit: Weight of the term that keeps edits alive: a step of the code should change the final image as it changes
            the initial one. Reconstruction alone teaches residuals to hold the photo whatever the code says.
        edit_share: Part of every batch that is edited.
        mirror: Weight of the squared error of photos that are moved to the codes of their mirror images, against those
            images: an edit whose result is known. Residuals that hold the face where it was are far from it.
        mirror_share: Part of every batch that is moved.
        accumulate: See ``PhaseTask``; the discriminator's batches are cut into as many parts.
    """

    discriminator_r1: Tensor

    def __init__(
        self,
        inverter: PhaseII,
        loss: nn.Module,
        metrics: MetricSuite,
        optimizer: MakeOptimizer,
        schedule: Schedule,
        *,
        discriminator: nn.Module | None = None,
        adv: float = 0.0,
        adv_from: int = 0,
        r1_gamma: float = 10.0,
        r1_every: int = 16,
        adv_batch_size: int | None = None,
        edit: float = 0.0,
        edit_share: float = 0.25,
        mirror: float = 0.0,
        mirror_share: float = 0.25,
        accumulate: int = 1,
    ) -> None:
        super().__init__(inverter, loss, metrics, optimizer, schedule, accumulate=accumulate)
        self.discriminator = discriminator
        self.edit, self.edit_share = edit, edit_share
        self.mirror, self.mirror_share = mirror, mirror_share
        self.adv, self.adv_from = adv, adv_from
        self.r1_gamma, self.r1_every = r1_gamma, r1_every
        self.adv_batch_size = adv_batch_size
        if discriminator is not None:
            self.automatic_optimization = False
            # a resumed run shows it as well, until it is computed again
            none_yet = torch.tensor(-1.0)  # below what a penalty can be
            self.register_buffer("discriminator_r1", none_yet)
            self._has_r1: bool | None = False  # on the host; None: a checkpoint was loaded

    def forget_counts(self) -> None:
        """As ``PhaseTask``, and whether there is a penalty to show."""
        super().forget_counts()
        self._has_r1 = None

    def draw(self, photo: Tensor) -> Tensor:
        """The final image, G(w; theta + residuals)."""
        return cast(PhaseII, self.inverter).reconstruct(photo)

    def forward_pass(self, photo: Tensor) -> Pass:
        """As for phase I, and with ``edit`` and ``mirror`` the terms of edits."""
        if not self.edit and not self.mirror:
            return super().forward_pass(photo)
        inverter = cast(PhaseII, self.inverter)
        first, residuals = inverter.predict(photo, factored=True)
        image = inverter.draw_unseen(first.w, residuals)
        total, parts = self.loss(image, photo)
        if self.edit:
            shift = random_steps(inverter.generator, _part_of(photo, self.edit_share))
            changes = inverter.change_by_edit(first, residuals, image, shift)
            change, wanted = (shrink(x, EDIT_SIDE) for x in changes)
            term = F.mse_loss(change, wanted)
            total, parts["edit"] = total + self.edit * term, term.detach()
        if self.mirror:
            mirrored = photo[-_part_of(photo, self.mirror_share) :].flip(-1)
            moved = inverter.moved_to_mirror(first, residuals, mirrored)
            term = F.mse_loss(moved, mirrored)
            total, parts["mirror"] = total + self.mirror * term, term.detach()
        return Pass(total, parts, image)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if self.discriminator is None:
            return super().training_step(batch, batch_idx)
        joined = self.seen >= self.adv_from
        for part in in_steps(batch, self.adv_batch_size) if joined else [batch]:
            total = self._step_with_discriminator(part, joined)
        return total

    def _step_with_discriminator(self, batch: Batch, joined: bool) -> Tensor:
        """One step of the inverter and, once it has ``joined``, of the discriminator."""
        assert self.discriminator is not None
        photo = batch["image"]
        optimizer, discriminator_optimizer = cast(list[Optimizer], self.optimizers())
        if joined:
            self.discriminator.requires_grad_(False)
            step = self.descend(optimizer, photo, self.forward_pass_with_discriminator)
            self.discriminator.requires_grad_(True)
            step.parts.update(self._train_discriminator(discriminator_optimizer, photo, step.image))
        else:
            step = self.descend(optimizer, photo, self.forward_pass)
        self.log_training(step.total, step.parts, batch)
        self.count(batch)
        return step.total

    def forward_pass_with_discriminator(self, photo: Tensor) -> Pass:
        """As ``forward_pass``, and the discriminator's opinion of the images."""
        assert self.discriminator is not None
        total, parts, image = self.forward_pass(photo)
        parts["adv"] = generator_loss(self.discriminator(image))
        return Pass(total + self.adv * parts["adv"], parts, image)

    def discriminator_pass(self, photo: Tensor, image: Tensor) -> Tensor:
        """Loss of the discriminator on photos and images (without gradients), both ``(B, 3, R, R)``: a scalar."""
        assert self.discriminator is not None
        return discriminator_loss(self.discriminator(photo), self.discriminator(image))

    def penalty_pass(self, photo: Tensor) -> Tensor:
        """The R1 penalty of the discriminator on photos ``(B, 3, R, R)``, in float32: a scalar.

        Half precision would lose some digits of it: 0.4 % in bfloat16.
        """
        assert self.discriminator is not None
        real = photo.detach().requires_grad_(True)
        with in_full(real):
            return r1_penalty(self.discriminator(real), real)

    def _train_discriminator(self, optimizer: Optimizer, photo: Tensor, image: Tensor) -> dict[str, Tensor]:
        parts = {"discriminator": self._step_discriminator(optimizer, self.discriminator_pass, photo, image)}
        steps = (self.seen - self.adv_from) // max(len(photo) * self.trainer.world_size, 1)
        if steps % self.r1_every == 0:
            penalty = self._step_discriminator(
                optimizer, self.penalty_pass, photo, weight=self.r1_gamma / 2 * self.r1_every
            )
            self._keep_r1(penalty)
        if self._has_r1 is None:
            self._has_r1 = float(self.discriminator_r1) != -1
        if self._has_r1:
            parts["r1"] = self.discriminator_r1.clone()
        return parts

    def _keep_r1(self, penalty: Tensor) -> None:
        if self.trainer.world_size > 1:  # the checkpoint is the first process's, the number everyone's
            distributed.all_reduce(penalty)
            penalty = penalty / self.trainer.world_size
        self.discriminator_r1.copy_(penalty)
        self._has_r1 = True

    def _step_discriminator(
        self, optimizer: Optimizer, loss: Callable[..., Tensor], *images: Tensor, weight: float = 1.0
    ) -> Tensor:
        """One step of the discriminator, on the mean gradient over all processes.

        Returns the loss of the complete batch.
        """
        optimizer.zero_grad()
        values = []
        for _, share, pieces in in_parts(self.accumulate, *images):
            value = loss(*pieces)
            values.append(value.detach() * share)
            with in_full(value):
                if self.trainer.world_size > 1:
                    # Not through DDP: at each backward pass it would wait for the gradients of all that is trained, or
                    # search the graph for unused parameters.
                    (value * (share * weight)).backward()
                else:
                    self.manual_backward(value * (share * weight))
        if self.trainer.world_size > 1:
            average_gradients(self.discriminator.parameters())  # type: ignore[union-attr]
        optimizer.step()
        return sum_of(values)

    def unsynchronised(self) -> list[str]:
        """All that is frozen, and the discriminator: its gradients are averaged separately, to let it start late."""
        names = super().unsynchronised()
        every = [*self.named_parameters(), *self.named_buffers()]
        discriminator = {name for name, _ in every if name.startswith("discriminator.")}
        return [*names, *sorted(discriminator.difference(names))]

    def on_fit_start(self) -> None:
        """Begin with the same discriminator in every process: DDP leaves it alone."""
        if self.discriminator is not None and self.trainer.world_size > 1:
            for tensor in (*self.discriminator.parameters(), *self.discriminator.buffers()):
                distributed.broadcast(tensor.data, 0)

    def configure_optimizers(self) -> Optimizer | list[Optimizer]:  # type: ignore[override]
        optimizer = super().configure_optimizers()
        if self.discriminator is None:
            return optimizer
        parameters: Iterable[nn.Parameter] = self.discriminator.parameters()
        discriminator_optimizer = self.make_optimizer(parameters)
        for group in discriminator_optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        return [optimizer, discriminator_optimizer]

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """As ``nn.Module`` does; names of version 0.1 are read, too."""
        renamed = {current_name(name): tensor for name, tensor in state_dict.items()}
        return super().load_state_dict(renamed, strict=strict, assign=assign)

    def _time_parts(self, photo: Tensor) -> None:
        assert isinstance(self.inverter, PhaseII)
        _, seconds = self._timed(self.inverter.w_inverter, photo)
        self._seconds.setdefault("phase1/seconds_per_image", []).append(seconds / len(photo))


def _part_of(photo: Tensor, share: float) -> int:
    """Photos in a share of the batch, at least one."""
    return max(1, round(share * len(photo)))


@torch.no_grad()
def random_steps(generator: Generator, count: int) -> Tensor:
    """Steps of codes ``(count, D)``: part of the way between two random codes, of the size of a usual edit.

    Two standard deviations along one direction are about a quarter of the way from one code to another.
    """
    z = torch.randn(2 * count, generator.z_dim, device=generator.w_avg.device)
    one, other = generator.mapping(z)[:, 0].chunk(2)
    return STEP * torch.randn(count, 1, device=z.device) * (other - one)


def in_steps(batch: Batch, size: int | None) -> list[Batch]:
    """Cut a batch into batches of at most ``size`` photos, in order; None does not cut it."""
    count = len(batch["image"])
    size = size or count
    return [
        {"image": batch["image"][start : start + size], "name": batch["name"][start : start + size]}
        for start in range(0, count, size)
    ]

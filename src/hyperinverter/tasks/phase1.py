"""Phase I: learn to place a photo in W, or in W+."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from torch.optim import Optimizer

from hyperinverter.contracts import Batch
from hyperinverter.inversion.phase1 import WInverter
from hyperinverter.losses.adversarial import discriminator_loss, r1_penalty
from hyperinverter.networks.wplus import LatentDiscriminator, WPlusEncoder
from hyperinverter.tasks.common import Pass, PhaseTask, average_gradients, in_full


@dataclass(frozen=True)
class NearW:
    """How e4e keeps codes near W (Tov et al. 2021, section 4).

    Args:
        first: Photos with one code for all layers.
        deltas: Photos during which the deltas join, one after the other.
        delta: Weight of the deltas' mean lengths, summed over layers.
        latent: Weight of the discriminator's opinion of the codes.
        lr: Learning rate of the discriminator; it follows the schedule of the run.
        r1: Weight of its R1 penalty.
        r1_every: The penalty is computed on every n-th step and n times as strong.
        pool: Codes that are kept for it.
    """

    first: int
    deltas: int
    delta: float = 2e-4
    latent: float = 0.1
    lr: float = 2e-5
    r1: float = 10.0
    r1_every: int = 16
    pool: int = 50

    def stage(self, seen: int, layers: int) -> int:
        """Deltas in use after so many photos: 0 to ``layers`` - 1."""
        if seen < self.first:
            return 0
        done = (seen - self.first) / max(self.deltas, 1)
        return min(layers - 1, 1 + int(done * (layers - 1)))


class PhaseIEncoder(PhaseTask):
    """Phase I: learn the encoder that places a photo in W; the generator stays as it is.

    Dinh et al. 2022, section 3.2: the loss compares the photo with G(w). Encoders to W+ are trained alike.

    Args:
        inverter: The model.
        given: See ``PhaseTask``.
        near_w: Keeps the codes of an e4e encoder near W; None for all others.
        options: See ``PhaseTask``.
    """

    def __init__(self, inverter: WInverter, *given: Any, near_w: NearW | None = None, **options: Any) -> None:
        super().__init__(inverter, *given, **options)
        self.near_w = near_w
        self.latent_discriminator: LatentDiscriminator | None = None
        if near_w is not None:
            self.latent_discriminator = LatentDiscriminator(inverter.generator.w_dim, near_w.pool)
            self.automatic_optimization = False

    def draw(self, photo: Tensor) -> Tensor:
        """The initial image, G(w)."""
        return cast(Tensor, self.inverter(photo).image)

    def forward_pass(self, photo: Tensor) -> Pass:
        """As ``PhaseTask``; with ``near_w``, and what keeps the codes near W."""
        if self.near_w is None:
            return super().forward_pass(photo)
        assert self.latent_discriminator is not None
        inversion = self.inverter(photo)
        total, parts = self.loss(inversion.image, photo)
        deltas = inversion.w[:, 1:] - inversion.w[:, :1]  # those that are not in use are zero
        # the length of a zero vector has no gradient: clamped below what counts
        parts["delta"] = deltas.square().sum(2).clamp_min(1e-12).sqrt().mean(0).sum()
        opinions = F.softplus(-self.latent_discriminator(inversion.w)).mean(0)  # (L,)
        active = torch.arange(len(opinions), device=opinions.device) <= self._encoder.stage
        parts["latent"] = (opinions * active).sum() / active.sum()
        total = total + self.near_w.delta * parts["delta"] + self.near_w.latent * parts["latent"]
        return Pass(total, parts, inversion.image)

    @property
    def _encoder(self) -> WPlusEncoder:
        return cast(WPlusEncoder, cast(WInverter, self.inverter).encoder)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if self.near_w is None:
            return super().training_step(batch, batch_idx)
        assert self.latent_discriminator is not None
        seen, photo = self.seen, batch["image"]
        self._encoder.stage.fill_(self.near_w.stage(seen, self._encoder.num_ws))
        optimizer, latent_optimizer = cast(Sequence[Optimizer], self.optimizers())
        latent = self._train_latent_discriminator(latent_optimizer, photo, seen)
        self.latent_discriminator.requires_grad_(False)
        step = self.descend(optimizer, photo, self.forward_pass)
        self.latent_discriminator.requires_grad_(True)
        self.log_training(step.total, {**step.parts, **latent}, batch)
        self.count(batch)
        return step.total

    def _train_latent_discriminator(
        self, optimizer: Optimizer, photo: Tensor, seen: int
    ) -> dict[str, Tensor]:
        """One step on codes of the mapping network and of the encoder, one random layer of each photo's."""
        assert self.latent_discriminator is not None
        assert self.near_w is not None
        generator = cast(WInverter, self.inverter).generator
        with torch.no_grad():
            z = torch.randn(len(photo), generator.z_dim, device=photo.device)
            codes = cast(WInverter, self.inverter).encode(photo)
            layer = torch.randint(codes.shape[1], (len(codes), 1, 1), device=codes.device)
            own = codes.gather(1, layer.expand(-1, 1, codes.shape[2]))[:, 0]
            real, fake = self.latent_discriminator.pooled(generator.mapping(z)[:, 0], own)
        judge = self.latent_discriminator
        loss = 2 * discriminator_loss(judge(real), judge(fake))  # the sum, as in e4e
        total, every = loss, self.near_w.r1_every
        if seen // max(len(photo) * self.trainer.world_size, 1) % every == 0:
            real = real.detach().requires_grad_(True)
            with in_full(real):
                penalty = r1_penalty(self.latent_discriminator(real), real)
            total = total + self.near_w.r1 / 2 * every * penalty
        optimizer.zero_grad()
        with in_full(total):
            if self.trainer.world_size > 1:  # not through DDP, as in phase II
                total.backward()
                average_gradients(self.latent_discriminator.parameters())
            else:
                self.manual_backward(total)
        optimizer.step()
        return {"latent_discriminator": loss.detach()}

    def on_fit_start(self) -> None:
        """Begin with the same discriminator in every process: DDP leaves it alone."""
        if self.latent_discriminator is not None and self.trainer.world_size > 1:
            for parameter in self.latent_discriminator.parameters():
                distributed.broadcast(parameter.data, 0)

    def unsynchronised(self) -> list[str]:
        """All that is frozen, and the discriminator of codes, whose gradients are averaged separately."""
        names = super().unsynchronised()
        every = [*self.named_parameters(), *self.named_buffers()]
        own = {name for name, _ in every if name.startswith("latent_discriminator.")}
        return [*names, *sorted(own.difference(names))]

    def configure_optimizers(self) -> Optimizer | list[Optimizer]:  # type: ignore[override]
        optimizer = super().configure_optimizers()
        if self.near_w is None or self.latent_discriminator is None:
            return optimizer
        parameters: list[nn.Parameter] = [*self.latent_discriminator.parameters()]
        latent = torch.optim.Adam(parameters, lr=self.near_w.lr)
        for group in latent.param_groups:
            group["initial_lr"] = group["lr"]
        return [optimizer, latent]

"""PTI: a code that is near, then a generator of the photo's own.

Roich et al. 2021, "Pivotal Tuning for Latent-based Editing of Real Images". The tuned generator comes as residuals to
the stored weights, so that everything that draws HyperInverter's residuals draws these: PTI is what the hypernetwork
replaces by one pass. It also refines what another way to invert has found.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperinverter.contracts import Inversion
from hyperinverter.inversion.drawing import Drawing, Strength
from hyperinverter.inversion.optimise import Distance, OnStep, Optimiser, photos_of
from hyperinverter.networks.frozen import Held
from hyperinverter.networks.generator import Generator
from hyperinverter.ops.placing import placed

_FAR = 30.0  # length of the step from the pivot to where the generator should stay as it was
_WEIGHT = 0.1  # of the two terms there


@dataclass(frozen=True)
class Tuning:
    """Steps of PTI after the pivot; the defaults are those of the authors' code.

    Args:
        steps: At most so many, of Adam.
        rate: Learning rate.
        threshold: Tuning of a photo ends when its perceptual distance is at most this.
        locality: Whether the generator should stay as it was a little way from the pivot. The paper describes it, the
            authors' code leaves it off.
    """

    steps: int = 350
    rate: float = 3e-4
    threshold: float = 0.06
    locality: bool = False

    def __post_init__(self) -> None:
        if self.steps < 0 or not 0 < self.rate < float("inf") or not self.threshold >= 0:
            raise ValueError(
                "steps and threshold are at least 0 and rate is above 0, got "
                f"{self.steps}, {self.threshold} and {self.rate}"
            )


class PivotalTuning(Drawing):
    """Tunes the generator for each photo, from what another way to invert has found.

    What is tuned is every weight that can receive a residual: convolutions, torgb and affine layers. Biases, the
    constant and the noise strengths, which the authors' code tunes too, stay: a residual has no place for them. Feature
    residuals of the start are kept as they are.

    Args:
        start: Gives the pivot: an ``Optimiser`` (PTI), or any other (refinement).
        distance: The perceptual distance of loss and threshold, at full size.
        tuning: The steps.

    Attributes:
        on_step: As of ``Optimiser``.
        trace: As of ``Optimiser``, of the search for the pivot and then of the tuning, whose photos come one after the
            other: of one photo it is complete.
        steps_taken: Of each photo of the last call.
    """

    def __init__(self, start: Drawing, distance: Distance, tuning: Tuning | None = None) -> None:
        super().__init__()
        self.start, self._frozen_generator = start, Held(start.generator)
        self.distance, self.tuning = distance, tuning or Tuning()
        self.rule, self.edit_strength, self.edit_gain = start.rule, start.edit_strength, start.edit_gain
        self.on_step: OnStep | None = None
        self.trace: list[tuple[float, Tensor]] = []
        self.steps_taken: list[int] = []
        self._began = time.perf_counter()

    @property
    def generator(self) -> Generator:
        """The frozen generator; tuned weights are residuals to its own."""
        return self._frozen_generator.network

    def invert(self, images: Tensor, strength: Strength = 1.0) -> Inversion:
        """Find the pivots of photos ``(B, 3, H, W)`` in [-1, 1], then tune the generator for each.

        Returns:
            The pivots, the residuals to every weight, and both images; ``w_image`` is the pivot's, with stored weights.
        """
        self._began = time.perf_counter()
        with torch.inference_mode(False):
            photo = photos_of(self.generator, images.clone())
        first = self._first(photo)
        self.trace = list(self.start.trace) if isinstance(self.start, Optimiser) else []
        self.steps_taken, steps = [], self.tuning.steps
        each = []
        for i in range(len(photo)):
            one = slice(i, i + 1)
            with torch.inference_mode(False), torch.enable_grad():  # also where the caller wants no gradients
                own = {name: residual[one].clone() for name, residual in first.residuals.items()}
                w = first.w[one].clone()
                each.append(self.tune(photo[one], w, own, done=i * steps, in_all=len(photo) * steps))
        residuals = {name: torch.cat([own[name] for own in each]) for name in each[0]}
        with torch.no_grad():
            image = self.draw_unseen(first.w, residuals, strength)
        return Inversion(w=first.w, residuals=residuals, w_image=first.w_image, image=image)

    def _first(self, photo: Tensor) -> Inversion:
        if isinstance(self.start, Optimiser):
            hook, in_all = self.on_step, self._searched() + self.tuning.steps * len(photo)
            self.start.on_step = None if hook is None else lambda step, _: hook(step, in_all)
        return self.start.invert(photo)

    def _searched(self) -> int:
        """Steps before the tuning."""
        return self.start.projection.steps if isinstance(self.start, Optimiser) else 0

    def tune(
        self,
        photo: Tensor,
        w: Tensor,
        residuals: Mapping[str, Tensor],
        *,
        done: int = 0,
        in_all: int | None = None,
    ) -> dict[str, Tensor]:
        """Tune for one photo.

        Args:
            photo: ``(1, 3, R, R)``.
            w: Its code, ``(1, D)`` or ``(1, L, D)``.
            residuals: Those it begins with, ``(1, *shape)``.
            done: Steps of earlier photos, for ``on_step``.
            in_all: Steps of all photos.

        Returns:
            All residuals, ``(1, *shape)``.
        """
        plan, began = self.tuning, self._began
        own = {
            kernel.name: residuals.get(kernel.name, w.new_zeros(1, *kernel.shape)).requires_grad_(True)
            for kernel in (self.generator.kernels() if plan.steps else [])
        }
        kept = {name: residual for name, residual in residuals.items() if name not in own}
        optimizer = torch.optim.Adam(own.values(), lr=plan.rate) if own else None
        target = self.distance.embed(photo)
        random = torch.Generator().manual_seed(0)
        taken = 0
        while optimizer is not None and taken < plan.steps:
            image = self.draw_unseen(w, kept | own)
            error = F.mse_loss(image, photo)
            distance = self.distance.compare(self.distance.embed(image), target).sum()
            if taken % 10 == 0:
                self.trace.append((time.perf_counter() - began, error.detach()[None]))
            if float(distance.detach()) <= plan.threshold:  # tested before the step, as by the authors
                break
            loss = error + distance
            if plan.locality:
                loss = loss + self._locality(w, own, random)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            taken += 1
            if self.on_step is not None:
                self.on_step(self._searched() + done + taken, self._searched() + (in_all or plan.steps))
        self.steps_taken.append(taken)
        return kept | {name: residual.detach() for name, residual in own.items()}

    def _locality(self, w: Tensor, own: Mapping[str, Tensor], random: torch.Generator) -> Tensor:
        """How much the tuned generator differs from the stored one a step away from the pivot."""
        z = placed(torch.randn(1, self.generator.z_dim, generator=random), w)
        pivot = w if w.ndim == 3 else w[:, None]
        with torch.no_grad():
            away = self.generator.mapping(z, truncation_psi=0.5) - pivot
            there = pivot + _FAR * away / away.norm()
            before = self.generator.synthesis(there, noise_mode="none")
        now = self.generator.synthesis(there, own, noise_mode="none")
        apart = self.distance.compare(self.distance.embed(now), self.distance.embed(before)).sum()
        return _WEIGHT * (F.mse_loss(now, before) + apart)

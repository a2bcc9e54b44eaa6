"""Ways to invert without training: a search for codes, for each photo separately.

Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN", section 5 (the projector of
stylegan2-ada-pytorch), with one code (W) or one per style layer (W+, Abdal et al. 2019); and the settings under which
other methods quote it. Slow and faithful: what one pass of a trained network is compared with.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from hyperinverter.contracts import Inversion
from hyperinverter.inversion.drawing import Drawing, Strength
from hyperinverter.inversion.given import as_photos
from hyperinverter.networks.frozen import Held
from hyperinverter.networks.generator import Generator
from hyperinverter.ops.placing import placed

LARGEST = 256  # px at which images are compared; larger ones are pooled to it
_MOST_SAMPLES = 1_000_000  # codes in memory at once
OnStep = Callable[[int, int], None]  # steps done, steps in all; raises to stop


class Distance(Protocol):
    """A network that compares images, such as ``judges.perceptual.LPIPS``."""

    label: str

    def embed(self, image: Tensor) -> list[Tensor]:
        """Of images ``(B, 3, R, R)`` in [-1, 1]."""

    def compare(self, a: list[Tensor], b: list[Tensor]) -> Tensor:
        """``(B,)``, 0 for equal images."""


@dataclass(frozen=True)
class Projection:
    """A search for codes; the defaults are those of stylegan2-ada-pytorch, but for the noise.

    Args:
        space: ``w``: one code per photo; ``w+``: one per style layer, each started at the mean.
        steps: Of Adam, with betas 0.9 and 0.999.
        rate: Largest learning rate: it rises over the first twentieth and falls over the last quarter.
        samples: Random codes whose mean is the start and whose spread scales the exploration.
        noise: ``fixed``: the stored noise, as for every encoder. ``optimised``: the noise maps are searched for as
            well, and then thrown away, as in PTI: images are drawn with the stored noise.
        l2: Weight of the mean squared error, next to the perceptual distance with weight 1.
    """

    space: Literal["w", "w+"] = "w"
    steps: int = 1000
    rate: float = 0.1
    samples: int = 10_000
    noise: Literal["fixed", "optimised"] = "fixed"
    l2: float = 0.0

    def __post_init__(self) -> None:
        if self.space not in ("w", "w+") or self.noise not in ("fixed", "optimised"):
            raise ValueError(
                f"space is w or w+ and noise is fixed or optimised, got {self.space!r} and {self.noise!r}"
            )
        fits = self.steps >= 1 and 2 <= self.samples <= _MOST_SAMPLES
        if not fits or not 0 < self.rate < math.inf or not 0 <= self.l2 < math.inf:
            raise ValueError(
                f"steps is at least 1, samples 2 to {_MOST_SAMPLES}, rate above 0 and l2 at least 0, got "
                f"{self.steps}, {self.samples}, {self.rate} and {self.l2}"
            )

    def rate_at(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        t = step / self.steps
        falling = 0.5 - 0.5 * math.cos(math.pi * min(1.0, (1 - t) / 0.25))
        return self.rate * falling * min(1.0, t / 0.05)

    def exploration_at(self, step: int) -> float:
        """Size of the noise that is added to the code, in standard deviations of w; 0 from three quarters on."""
        return 0.05 * max(0.0, 1 - step / self.steps / 0.75) ** 2


class Optimiser(Drawing):
    """W or W+ optimisation of a generator's codes.

    Photos of a batch are searched for together, each with its own numbers: results do not depend on the others.

    Args:
        generator: Put into eval mode and frozen in place.
        distance: The perceptual distance.
        projection: The search.

    Attributes:
        on_step: Called with the steps done and the steps in all; may raise to stop.
        trace: Of the last call of ``invert``: seconds since its start and the squared error of each photo, ``(B,)``, at
            every tenth step. The image drawn there has exploration noise in it.
    """

    def __init__(
        self, generator: Generator, distance: Distance, projection: Projection | None = None
    ) -> None:
        super().__init__()
        self._frozen_generator = Held(generator)
        self.distance, self.projection = distance, projection or Projection()
        self.on_step: OnStep | None = None
        self.trace: list[tuple[float, Tensor]] = []

    @property
    def generator(self) -> Generator:
        """The frozen generator."""
        return self._frozen_generator.network

    def invert(self, images: Tensor, strength: Strength = 1.0) -> Inversion:
        """Search for the codes of photos ``(B, 3, H, W)`` in [-1, 1]; ``strength`` changes nothing without residuals.

        Returns:
            Codes ``(B, D)`` or ``(B, L, D)``, and their images with the stored noise.
        """
        with torch.inference_mode(False), torch.enable_grad():  # also where the caller wants no gradients
            w = self.search(photos_of(self.generator, images.clone()))
        with torch.no_grad():
            image = self.draw_unseen(w)
        return Inversion(w=w, residuals={}, w_image=image, image=image)

    def search(self, photo: Tensor) -> Tensor:
        """The codes of photos ``(B, 3, R, R)``: ``(B, D)`` or ``(B, L, D)``."""
        plan, began = self.projection, time.perf_counter()
        self.trace = []
        mean, spread = code_statistics(self.generator, plan.samples)
        start = mean if plan.space == "w" else mean.expand(self.generator.num_ws, -1)
        w = start.repeat(len(photo), *[1] * start.ndim).requires_grad_(True)  # (B, D) or (B, L, D)
        noise = _NoiseMaps(self.generator, len(photo)) if plan.noise == "optimised" else None
        optimizer = torch.optim.Adam([w, *(noise.maps.values() if noise else ())], lr=plan.rate)
        target, small = self.distance.embed(pooled(photo)), pooled(photo)
        random = torch.Generator().manual_seed(0)  # the same steps for every photo, whatever the batch
        for step in range(plan.steps):
            for group in optimizer.param_groups:
                group["lr"] = plan.rate_at(step)
            jitter = placed(torch.randn(start.shape, generator=random), w)
            image = self._draw(w + plan.exploration_at(step) * spread * jitter, noise)
            error = (pooled(image) - small).square().mean((1, 2, 3))
            loss = (
                self.distance.compare(self.distance.embed(pooled(image)), target).sum()
                + plan.l2 * error.sum()
            )
            if noise:
                loss = loss + 1e5 * noise.roughness()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if noise:
                noise.normalise()
            if step % 10 == 0 or step == plan.steps - 1:
                self.trace.append((time.perf_counter() - began, error.detach()))
            if self.on_step is not None:
                self.on_step(step + 1, plan.steps)
        return w.detach()

    def _draw(self, w: Tensor, noise: _NoiseMaps | None) -> Tensor:
        if noise is None:
            return self.draw_unseen(w)
        return functional_call(self.generator.synthesis, noise.maps, (w,))


class _NoiseMaps:
    """The noise of every layer, of each photo of a batch, while it is searched for."""

    def __init__(self, generator: Generator, count: int) -> None:
        random = torch.Generator().manual_seed(1)
        self.maps = {
            name: torch.randn(buffer.shape, generator=random)
            .to(buffer)
            .repeat(count, 1, 1)
            .requires_grad_(True)
            for name, buffer in generator.synthesis.named_buffers()
            if name.endswith("noise_const")
        }  # (B, S, S)

    def roughness(self) -> Tensor:
        """How far each map is from white noise, at its size and at every half down to 8 px; summed over photos."""
        total = torch.zeros((), device=next(iter(self.maps.values())).device)
        for noise in self.maps.values():
            x = noise[:, None]
            while True:
                for axis in (2, 3):
                    total = total + (x * x.roll(1, axis)).mean((1, 2, 3)).square().sum()
                if x.shape[-1] <= 8:
                    break
                x = F.avg_pool2d(x, 2)
        return total

    @torch.no_grad()
    def normalise(self) -> None:
        """Give every map mean 0 and mean square 1 again."""
        for noise in self.maps.values():
            noise -= noise.mean((1, 2), keepdim=True)
            noise *= noise.square().mean((1, 2), keepdim=True).rsqrt()


def photos_of(generator: Generator, images: Any) -> Tensor:
    """What people pass to ``invert``, at the generator's size, ``(B, 3, R, R)``; antialiased where it shrinks."""
    photo, side = as_photos(images, like=generator.w_avg), generator.img_resolution
    if photo.shape[-2:] == (side, side):
        return photo
    return F.interpolate(photo, (side, side), mode="bilinear", antialias=True, align_corners=False)


def pooled(image: Tensor) -> Tensor:
    """Images larger than 256 px are compared at that size."""
    return F.adaptive_avg_pool2d(image, LARGEST) if image.shape[-1] > LARGEST else image


@torch.no_grad()
def code_statistics(generator: Generator, samples: int) -> tuple[Tensor, float]:
    """Mean of w ``(D,)`` over random codes of a fixed seed, and the root of their mean squared distance from it."""
    random = torch.Generator().manual_seed(123)
    z = placed(torch.randn(samples, generator.z_dim, generator=random), generator.w_avg)
    w = torch.cat([generator.mapping(part)[:, 0] for part in z.split(1000)])
    mean = w.mean(0)
    return mean, float((w - mean).square().sum(1).mean().sqrt())


def drift(w: Tensor, spread: float) -> Tensor:
    """How far W+ codes ``(B, L, D)`` are from one code, ``(B,)``: layers' mean distance from their mean, in spreads.

    Codes that drift far from W look right and edit badly (Tov et al. 2021). For codes ``(B, D)`` it is 0.
    """
    if w.ndim == 2:
        return w.new_zeros(len(w))
    return (w - w.mean(1, keepdim=True)).norm(dim=2).mean(1) / spread

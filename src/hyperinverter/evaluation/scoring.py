"""Compare images with their photos as a protocol says: every number is of images as their files hold them.

Anybody can compute the numbers again from the PNGs: images are rounded to 8 bits before anything else, photos come in 8
bits, and images that are compared at another side are resized from those bytes by PIL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hyperinverter import metrics
from hyperinverter.contracts import UserError
from hyperinverter.evaluation.protocol import Protocol
from hyperinverter.judges.base import Embedding, Judge
from hyperinverter.judges.catalogue import build_features, build_judge, file_of
from hyperinverter.judges.identity import DetectedFaceNetIdentity
from hyperinverter.judges.sets import SetFeatures
from hyperinverter.system.files import sha256_of

PLAIN: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {  # of images in [-1, 1], (B, 3, R, R) -> (B,)
    "l2": metrics.l2,
    "psnr": lambda image, photo: metrics.psnr(metrics.to_unit_range(image), metrics.to_unit_range(photo)),
    "ssim": lambda image, photo: metrics.inner_ssim(
        metrics.to_unit_range(image), metrics.to_unit_range(photo)
    ),
    "ms_ssim": lambda image, photo: metrics.ms_ssim(
        metrics.to_unit_range(image), metrics.to_unit_range(photo)
    ),
}
_LEAST_SIDE = {"ssim": metrics.SSIM_WINDOW, "ms_ssim": metrics.MS_SSIM_MIN_SIZE}


@dataclass
class Seen:
    """A batch of photos, looked at once for many models."""

    photo: Tensor  # (B, 3, R, R) in [-1, 1], whole steps of 2 / 255
    sides: dict[int | None, Tensor]  # the same at the sides at which a number is measured
    embedded: dict[str, Embedding] = field(default_factory=dict)


class Scorer:
    """The numbers of a protocol.

    Args:
        protocol: What is measured.
        files: Weight files by the label of their network; others are looked for where ``weights fetch`` puts them.
        cache: Folder of fetched files.
        device: Where networks run.

    Raises:
        UserError: If a weight file is missing, or is not the one the protocol names.
    """

    def __init__(
        self,
        protocol: Protocol,
        files: Mapping[str, Path],
        cache: Path,
        device: torch.device,
    ) -> None:
        self.protocol, self.device = protocol, device
        self._check_files(files, cache)
        self.judges: dict[str, Judge] = {}
        for label in protocol.photo:
            if label not in PLAIN:
                with self._explained(label, label):
                    self.judges[label] = build_judge(label, files.get(label), cache).to(device)
        self.features: dict[str, SetFeatures] = {}
        for name, settings in protocol.sets.items():
            label = settings["network"]
            if label not in self.features:
                with self._explained(name, label):
                    self.features[label] = build_features(label, files.get(label), cache).to(device)

    @contextmanager
    def _explained(self, number: str, label: str) -> Iterator[None]:
        """Add what else one can do to the sentence about a weight file."""
        try:
            yield
        except UserError as error:
            raise UserError(
                f"{error}; or name a file you have with --weights {label}=FILE, or leave the number out with --without "
                f"{number}"
            ) from error

    def _check_files(self, files: Mapping[str, Path], cache: Path) -> None:
        """Every file that is there must be the one the protocol names, or its scores could not be compared."""
        named = {
            label: settings.get("sha256")
            for label, settings in self.protocol.photo.items()
            if label not in PLAIN
        }
        named |= {settings["network"]: settings.get("sha256") for settings in self.protocol.sets.values()}
        for label in files:
            if label not in named:
                raise UserError(
                    f"the protocol {self.protocol.name} uses no network {label!r}; leave out --weights {label}"
                )
        for label, wanted in named.items():
            path = files.get(label) or file_of(label, None, cache)
            if wanted and path is not None and path.is_file() and sha256_of(path) != wanted:
                raise UserError(
                    f"{path} is not the file that the protocol {self.protocol.name} names for {label} (SHA-256 "
                    f"{wanted[:12]}...): its scores could not be compared; fetch that one, or write a protocol of your "
                    "own"
                )

    def check_side(self, side: int) -> None:
        """Refuse numbers that images of this side do not have.

        Raises:
            UserError: If a window does not fit.
        """
        for name, settings in self.protocol.photo.items():
            least, measured = _LEAST_SIDE.get(name, 1), settings.get("side") or side
            if measured < least:
                raise UserError(
                    f"{name} needs images of {least} pixels or more, these have {measured}; leave it out with "
                    f"--without {name}"
                )

    @torch.inference_mode()
    def check_faces(self, pixels: np.ndarray) -> None:
        """Refuse photos in none of which a network finds the face it compares.

        Args:
            pixels: The first photos, ``uint8 (B, R, R, 3)``.

        Raises:
            UserError: If there is no face in any of them.
        """
        for label, judge in self.judges.items():
            if not isinstance(judge, DetectedFaceNetIdentity):
                continue
            if all(torch.isnan(part).all() for part in judge.embed(self._tensor(pixels))):
                raise UserError(
                    f"{label} finds no face in any of the first {len(pixels)} photos: cut the faces out with "
                    f"`hyperinverter align`, or leave the number out with --without {label}"
                )

    @torch.inference_mode()
    def look(self, pixels: np.ndarray) -> Seen:
        """Look at photos once.

        Args:
            pixels: RGB, ``uint8 (B, R, R, 3)``.
        """
        seen = Seen(self._tensor(pixels), self._at_sides(pixels))
        for label, judge in self.judges.items():
            seen.embedded[label] = judge.embed(seen.sides[self._side(label)])
        return seen

    @torch.inference_mode()
    def score(self, pixels: np.ndarray, seen: Seen) -> dict[str, np.ndarray]:
        """Compare images with their photos.

        Args:
            pixels: The images, RGB, ``uint8 (B, R, R, 3)``, in the order of the photos.
            seen: What ``look`` returned for the photos.

        Returns:
            Name of the number -> ``float64 (B,)``; NaN where a photo or its image has no face to compare.
        """
        sides = self._at_sides(pixels)
        numbers = {}
        for name in self.protocol.photo:
            image, photo = sides[self._side(name)], seen.sides[self._side(name)]
            if name in PLAIN:
                value = PLAIN[name](image, photo)
            else:
                judge = self.judges[name]
                value = judge.compare(judge.embed(image), seen.embedded[name])
            numbers[name] = value.double().cpu().numpy()
        return numbers

    @torch.inference_mode()
    def describe(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Features of images for distances of sets: network -> ``float32 (B, F)``."""
        image = self._tensor(pixels)
        return {label: network(image).float().cpu().numpy() for label, network in self.features.items()}

    def _side(self, name: str) -> int | None:
        side = self.protocol.photo[name].get("side")
        return None if side is None else int(side)

    def _at_sides(self, pixels: np.ndarray) -> dict[int | None, Tensor]:
        wanted = {self._side(name) for name in self.protocol.photo}
        return {side: self._tensor(pixels if side is None else resized(pixels, side)) for side in wanted}

    def _tensor(self, pixels: np.ndarray) -> Tensor:
        planes = torch.from_numpy(pixels).to(self.device).movedim(-1, -3).contiguous()
        return planes.float().div_(127.5).sub_(1)


def rounded(image: Tensor) -> np.ndarray:
    """Images ``(B, 3, R, R)`` in [-1, 1] as their files hold them, ``uint8 (B, R, R, 3)``: clamped and rounded.

    Raises:
        ValueError: If an image holds NaN: no file could hold it.
    """
    if image.isnan().any():
        raise ValueError("an image with NaN cannot be measured")
    pixels = image.detach().float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    return pixels.movedim(-3, -1).contiguous().cpu().numpy()


def resized(pixels: np.ndarray, side: int) -> np.ndarray:
    """Images ``uint8 (B, R, R, 3)`` at another side, by PIL's bilinear filter, which is antialiased."""
    if pixels.shape[1] == side:
        return pixels
    small = [Image.fromarray(one).resize((side, side), Image.Resampling.BILINEAR) for one in pixels]
    return np.stack([np.asarray(one) for one in small])

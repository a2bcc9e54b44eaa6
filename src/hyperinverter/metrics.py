"""How close images are to their photos: L2, PSNR, SSIM, MS-SSIM, a perceptual distance, identity.

==============  ==================================================================  ==============
name            what                                                                better
==============  ==================================================================  ==============
l2              mean squared error of images in [-1, 1]                             lower
psnr            peak signal-to-noise ratio in dB, images clamped to [0, 1]          higher
ssim            structural similarity, 11-pixel Gaussian window, clamped to [0, 1]  higher
ms_ssim         the same at five scales; only from 176 pixels on, where they fit    higher
label of judge  the value of that network of ``judges``                             lower / higher
==============  ==================================================================  ==============

SSIM is torchmetrics': the border is reflected; other implementations drop border windows.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.distributed import all_gather_object, get_world_size, is_available, is_initialized
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from hyperinverter.judges.base import Embedding, Judge

SSIM_WINDOW = 11
MS_SSIM_MIN_SIZE = SSIM_WINDOW * 2**4  # the window must fit the coarsest of five scales

Row = dict[str, float]


class MetricSuite(nn.Module):
    """Compares images with photos: one row of numbers per photo, each photo counted once.

    Rows are kept by name and gathered from all processes in ``compute`` and ``per_image``, so the padding of
    a distributed sampler, which shows some photos twice, changes nothing. Both must be called by all
    processes, and return the same on each. Always float32, without gradients.

    Args:
        resolution: Side of the images, R. Below 11 pixels there is no ``ssim``, below 176 no ``ms_ssim``.
        perceptual: A distance, or None.
        identity: A similarity, or None (domains other than faces).
    """

    def __init__(
        self, resolution: int, perceptual: Judge | None = None, identity: Judge | None = None
    ) -> None:
        super().__init__()
        self.resolution = resolution
        self.judges = nn.ModuleList([j for j in (perceptual, identity) if j is not None])
        self._rows: dict[str, Row] = {}

    @property
    def names(self) -> list[str]:
        """Names of the metrics of one image, without prefix, in the order of the tables."""
        names = ["l2", "psnr"]
        if self.resolution >= SSIM_WINDOW:
            names.append("ssim")
        if self.resolution >= MS_SSIM_MIN_SIZE:
            names.append("ms_ssim")
        return names + [str(judge.label) for judge in self.judges]

    def reset(self) -> None:
        """Forget all rows."""
        self._rows = {}

    @torch.no_grad()
    def update(
        self, image: Tensor | Mapping[str, Tensor], photo: Tensor, names: Sequence[str]
    ) -> dict[str, Tensor]:
        """Measure a batch.

        Args:
            image: ``(B, 3, R, R)``, RGB, meant for [-1, 1]; or several such batches by prefix, for example
                ``{"": image, "phase1/": w_image}``. The photos are embedded once for all of them.
            photo: ``(B, 3, R, R)``, RGB in [-1, 1].
            names: Name of each photo, unique in the data set. A photo that was measured before is measured, but
                not counted again.

        Returns:
            Prefix + name of the metric -> one value per photo, ``(B,)``.

        Raises:
            ValueError: For shapes that do not fit, photos outside [-1, 1], or a name whose results changed.
        """
        images = {"": image} if isinstance(image, Tensor) else image
        self._check(images, photo, names)
        with torch.autocast(photo.device.type, enabled=False):
            photo = photo.float()
            embedded = [judge.embed(photo) for judge in self.judges]  # type: ignore[operator]
            values = {
                prefix + name: value
                for prefix, one in images.items()
                for name, value in self._measure(one.float(), photo, embedded).items()
            }
        self._keep(values, names)
        return values

    def compute(self) -> dict[str, Tensor]:
        """Return the mean of each metric over all photos, scalars by name; empty before any ``update``."""
        rows = self._gathered()
        if not rows:
            return {}
        # in the order of the names and in float64: the same digits for any batch size or number of processes
        ordered = [rows[name] for name in sorted(rows)]
        means = {key: torch.tensor([row[key] for row in ordered]).double().mean() for key in ordered[0]}
        return {key: mean.float() for key, mean in means.items()}

    def per_image(self) -> list[dict[str, str | float]]:
        """Return one row per photo, sorted by name: ``{"name": ..., "l2": ..., ...}``."""
        rows = self._gathered()
        return [{"name": name, **rows[name]} for name in sorted(rows)]

    @property
    def count(self) -> int:
        """Number of different photos that this process has measured."""
        return len(self._rows)

    def _measure(self, image: Tensor, photo: Tensor, embedded: list[Embedding]) -> dict[str, Tensor]:
        values = {"l2": l2(image, photo)}
        seen, wanted = to_unit_range(image), to_unit_range(photo)
        values["psnr"] = psnr(seen, wanted)
        if self.resolution >= SSIM_WINDOW:
            values["ssim"] = _per_image(
                structural_similarity_index_measure(seen, wanted, data_range=1.0, reduction="none")
            )
        if self.resolution >= MS_SSIM_MIN_SIZE:
            values["ms_ssim"] = ms_ssim(seen, wanted)
        for judge, target in zip(self.judges, embedded, strict=True):
            values[str(judge.label)] = judge.compare(judge.embed(image), target)  # type: ignore[operator]
        return values

    def _keep(self, values: dict[str, Tensor], names: Sequence[str]) -> None:
        keys = list(values)
        table = torch.stack([values[key] for key in keys], dim=1).cpu().tolist()  # one transfer from the GPU
        for name, numbers in zip(names, table, strict=True):
            row = dict(zip(keys, numbers, strict=True))
            if not _same(self._rows.setdefault(name, row), row):
                raise ValueError(
                    f"photo {name!r} was measured before with other results: names must be unique in a data "
                    "set, and reset() must come between two models"
                )

    def _gathered(self) -> dict[str, Row]:
        """Rows of all processes by name; of a photo measured twice, the first process's row."""
        if not (is_available() and is_initialized()) or get_world_size() == 1:
            return self._rows
        everyone: list[dict[str, Row]] = [{} for _ in range(get_world_size())]
        all_gather_object(everyone, self._rows)
        rows: dict[str, Row] = {}
        for part in everyone:
            for name, row in part.items():
                rows.setdefault(name, row)
        return rows

    def _check(self, images: Mapping[str, Tensor], photo: Tensor, names: Sequence[str]) -> None:
        side = self.resolution
        for batch in (photo, *images.values()):
            if tuple(batch.shape) != (len(names), 3, side, side):
                raise ValueError(
                    f"expected images ({len(names)}, 3, {side}, {side}) for {len(names)} names, "
                    f"got {tuple(batch.shape)}"
                )
        if photo.numel() and photo.abs().max() > 1.001:
            raise ValueError(f"photos must lie in [-1, 1], got values up to {photo.abs().max().item():.3g}")


def to_unit_range(image: Tensor) -> Tensor:
    """Map [-1, 1] to [0, 1] and clamp, as in an image file."""
    return ((image + 1) / 2).clamp(0, 1)


def l2(image: Tensor, photo: Tensor) -> Tensor:
    """Mean squared error, ``(B,)``; of images in [-1, 1] four times that of [0, 1]."""
    return (image - photo).square().mean(dim=(1, 2, 3))


def inner_ssim(image: Tensor, photo: Tensor) -> Tensor:
    """SSIM of images in [0, 1], ``(B,)``, averaged over complete windows only, as scikit-image and piq have it.

    ``MetricSuite`` reflects the border instead, as torchmetrics does.
    """
    found = structural_similarity_index_measure(
        image, photo, data_range=1.0, reduction="none", return_full_image=True
    )
    edge = SSIM_WINDOW // 2
    return found[1][..., edge:-edge, edge:-edge].mean(dim=(1, 2, 3))


def ms_ssim(image: Tensor, photo: Tensor) -> Tensor:
    """SSIM of images in [0, 1] at five scales, ``(B,)``; negative contrasts count as 0."""
    return _per_image(
        multiscale_structural_similarity_index_measure(
            image, photo, data_range=1.0, reduction="none", normalize="relu"
        )
    )


def psnr(image: Tensor, photo: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of images in [0, 1], dB, ``(B,)``; infinite for equal images."""
    return _per_image(peak_signal_noise_ratio(image, photo, data_range=1.0, reduction="none", dim=(1, 2, 3)))


def _per_image(value: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    """Torchmetrics drops the batch dimension of a single image; put it back."""
    assert isinstance(value, Tensor)  # tuples come only with options that are not used here
    return value.reshape(-1)


def _same(a: Row, b: Row) -> bool:
    """Whether two rows are one photo measured twice, batched differently."""
    return a.keys() == b.keys() and all(
        math.isclose(a[key], b[key], rel_tol=1e-3, abs_tol=1e-4) or (a[key] != a[key] and b[key] != b[key])
        for key in a
    )

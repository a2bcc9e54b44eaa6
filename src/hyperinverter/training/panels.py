"""Pictures of the same few photos over training, and of test photos, to compare runs with."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from hyperinverter.contracts import Batch, Inversion
from hyperinverter.networks.frozen import evaluating
from hyperinverter.pictures import save_picture, sheet, to_picture
from hyperinverter.system.files import sha256_of, write_csv, writing
from hyperinverter.tasks.common import images_seen
from hyperinverter.training.tracking import WandbTracker

_LONGEST = 100  # bytes of a folder's name; file systems end at 255


class ImagePanels(Callback):
    """Pictures of the same few photos over training, and single files of test photos to compare runs with.

    Args:
        folder: The run folder: ``panels/IMAGES.png`` after every validation, ``test_photos/NAME/`` after the test,
            and which photo has which name in ``names.csv``.
        num_photos: Rows of a panel.
        num_saved: Test photos kept as files.
    """

    def __init__(self, folder: Path, num_photos: int, num_saved: int) -> None:
        self._panels, self._photos = folder / "panels", folder / "test_photos"
        self._num_photos, self._num_saved = num_photos, num_saved
        self._held: list[Tensor] = []
        self._names: dict[str, str] = {}  # folder -> photo, of those kept as files

    def on_validation_start(self, trainer: Trainer, task: LightningModule) -> None:
        self._held = []

    def on_validation_batch_end(
        self, trainer: Trainer, task: LightningModule, outputs: Any, batch: Batch, *_: Any
    ) -> None:
        missing = self._num_photos - sum(len(photo) for photo in self._held)
        if missing > 0 and trainer.is_global_zero:
            self._held.append(batch["image"][:missing])

    def on_validation_end(self, trainer: Trainer, task: LightningModule) -> None:
        if not self._held or trainer.sanity_checking or trainer.state.fn != "fit":
            return
        photo = torch.cat(self._held)
        inversion = _invert(task, photo)
        path = self._panels / f"{images_seen(task):09d}.png"
        self._panels.mkdir(parents=True, exist_ok=True)
        panel = draw_panel(photo, inversion)
        with writing(path):
            save_picture(panel, path)
        for logger in trainer.loggers:
            if isinstance(logger, WandbTracker):
                logger.log_panel("panels/val", path, "input | initial | final | error")
            elif add_image := getattr(getattr(logger, "experiment", None), "add_image", None):  # TensorBoard
                add_image("panels/val", np.array(panel), images_seen(task), dataformats="HWC")

    def on_test_start(self, trainer: Trainer, task: LightningModule) -> None:
        self._names = {}

    def on_test_batch_end(
        self, trainer: Trainer, task: LightningModule, outputs: Any, batch: Batch, *_: Any
    ) -> None:
        missing = self._num_saved - len(self._names)
        if missing <= 0 or not trainer.is_global_zero:
            return
        photo = batch["image"][:missing]
        inversion = _invert(task, photo)
        shown = {"photo": photo, "w_image": inversion.w_image, "image": inversion.image}
        for index, name in enumerate(batch["name"][:missing]):
            place = self._photos / self._short_name(name)
            place.mkdir(parents=True, exist_ok=True)
            for kind, images in shown.items():
                path = place / f"{kind}.png"
                with writing(path):
                    to_picture(images[index]).save(path)
        with writing(self._photos):
            write_csv(self._photos / "names.csv", [("folder", "photo"), *self._names.items()])

    def _short_name(self, name: str) -> str:
        """A folder's name for a photo: short enough for every disk, and no other photo's."""
        short = safe_name(name)
        if len(short.encode()) > _LONGEST or self._names.get(short, name) != name:
            short = f"{short.encode()[:_LONGEST].decode(errors='ignore')}-{sha256_of(name)[:8]}"
        self._names[short] = name
        return short


def _invert(task: LightningModule, photo: Tensor) -> Inversion:
    with evaluating(task), torch.no_grad(), torch.random.fork_rng(devices=[]):  # as if nobody had looked
        inversion: Inversion = task.inverter(photo)  # type: ignore[operator]
    return inversion


def safe_name(name: str) -> str:
    """A photo's path as one folder name: ``a/b c.png`` becomes ``a__b_c.png``."""
    return re.sub(r"[^\w.-]", "_", name.replace("/", "__")).lstrip(".") or "photo"


def draw_panel(photo: Tensor, inversion: Inversion) -> Image.Image:
    """One row per photo: photo, phase I, phase II, absolute error (dark is right, white is off by 1 or more).

    Phase I shows three columns: it has no second image.
    """
    initial, final = inversion.w_image, inversion.image
    error = (final - photo).abs() * 2 - 1
    columns = {"photo": photo, "phase I": initial, "phase II": final, "error": error}
    if final is initial:
        del columns["phase II"]
    rows = zip(*(map(to_picture, images) for images in columns.values()), strict=True)
    return sheet(list(columns), list(rows), max(photo.shape[-1], 64))

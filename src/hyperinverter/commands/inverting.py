"""Invert many photos into a folder: batches, a report, a contact sheet, and nothing done twice."""

from __future__ import annotations

import csv
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from PIL import Image
from torch import Tensor

from hyperinverter import pictures
from hyperinverter.commands.inputs import INVERSION, Matrix, Source, framing_for, read
from hyperinverter.contracts import Inversion, UserError, cell
from hyperinverter.data.opening import photo_size
from hyperinverter.editing.files import Origin, lacks_shared, load_origin, save_inversion
from hyperinverter.inversion.drawing import Drawing
from hyperinverter.inversion.optimise import Optimiser
from hyperinverter.inversion.tuning import PivotalTuning
from hyperinverter.inverters import load_inverter
from hyperinverter.judges.catalogue import build_judge
from hyperinverter.ops.policy import policy
from hyperinverter.system.files import sha256_of, write_csv, writing
from hyperinverter.system.progress import progress
from hyperinverter.system.terminal import say

if TYPE_CHECKING:
    from rich.progress import Progress

Rows = dict[str, dict[str, str]]  # name -> its line of the report
Given = TypeVar("Given")
Made = TypeVar("Made")
REPORT = "report.csv"
DISTANCE = "st_lpips_alex"  # ships with the package, and means something on any photo
COLUMNS = ("name", "photo", "status", "l2", DISTANCE, "seconds", "message")
SMALL = 128  # px, the largest images of which several batches are inverted at once
MOST_WORKERS = 4
_SHEET_ROWS = 16


@dataclass
class Ready:
    """One photo as the model takes it."""

    source: Source
    image: Tensor  # (1, 3, R, R)
    sha256: str
    crop: Matrix | None = None
    cut: bool = True  # whether it is not the picture in the file any more: cut out or resized


class Inversions:
    """A folder of inversions.

    Args:
        model: ``digiface``, a run folder, or a model file.
        out: The folder.
        align: Whether to cut photos out as the model's domain frames them: faces are found first.
        framing: Another way to cut them out, a name of ``alignment.FRAMINGS``.
        fit, white: See ``inputs.read``.
        strength: Of the residuals in the image that is drawn; the residuals in the file are complete.
        batch: Photos in one pass; None: see ``batch_for``.
        perceptual: Whether the report says the perceptual distance too, which takes a third of the model's time.
        compact: Whether what all photos of a model share is one file of the folder; else every inversion is complete.

    Raises:
        UserError: If the model cannot be loaded or the folder cannot be written.
    """

    def __init__(
        self,
        model: str,
        out: Path,
        *,
        align: bool = False,
        framing: str | None = None,
        fit: str = "crop",
        white: int | None = None,
        strength: float | Mapping[str, float] = 1.0,
        batch: int | None = None,
        perceptual: bool = True,
        compact: bool = False,
    ) -> None:
        self.compact = compact
        self.called, self.out, self.strength, self.batch = model, out, strength, batch
        self.model = load_inverter(model)
        self.fit, self.white = fit, white
        self.framing = framing_for(self.model, framing) if align or framing else None
        self.model_sha256 = self.model.sha256
        self.distance = build_judge(DISTANCE).for_reports() if perceptual else None
        with writing(out, "give another folder with --out"):
            out.mkdir(parents=True, exist_ok=True)
        self.rows = self._rows_before()

    def run(self, found: Sequence[Source], *, again: bool = False) -> int:
        """Invert what is not done yet; 1 if a photo failed.

        Photos are read by another thread. Batches of small images are inverted side by side, see ``side_by_side``.
        """
        failed = skipped = 0
        workers, threads = side_by_side(self.model)
        size = self.batch or batch_for(len(found), workers)
        with progress() as bar, ThreadPoolExecutor(1) as reader, _workers(workers, threads) as pool:
            task = bar.add_task("inverting", total=len(found))
            show_steps(self.model, bar)

            def ready() -> Iterator[Ready]:
                nonlocal failed, skipped
                for one in ahead(reader, lambda source: self._ready(source, again), found, size):
                    if isinstance(one, Ready):
                        yield one
                    else:
                        failed += one is None
                        skipped += one is not None
                        bar.advance(task)

            for rows in ahead(pool, self._invert, batches(ready(), size), workers):
                self.rows |= rows
                failed += sum(row["status"] == "failed" for row in rows.values())
                bar.advance(task, len(rows))
        self._finish(found)
        done = len(found) - failed - skipped
        parts = [
            f"{done} inverted",
            *([f"{skipped} done before"] if skipped else []),
            *([f"{failed} failed"] if failed else []),
        ]
        say(f"{', '.join(parts)}: {self.out / REPORT}")
        return int(failed > 0)

    def _ready(self, source: Source, again: bool) -> Ready | str | None:
        """The photo; "done" if its results are there; None if it cannot be read, which the report then says."""
        try:
            digest = sha256_of(source.path) if source.path.is_file() else ""
            if not again and self._is_done(source, digest):
                return "done"
            image, crop = self._read(source)
            own_size = photo_size(source.path) == (self.model.resolution, self.model.resolution)
            return Ready(source, image, digest, crop, cut=crop is not None or not own_size)
        except UserError as error:
            say(f"{source.path.name}: {error}")
            self.rows |= _failed(source, error)
            return None

    def _read(self, source: Source) -> tuple[Tensor, Matrix | None]:
        return read(source.path, self.model.resolution, self.framing, self.fit, self.white)

    def _is_done(self, source: Source, digest: str) -> bool:
        file = self.out / f"{source.name}{INVERSION}"
        if not file.is_file() or not (self.out / f"{source.name}.inverted.png").is_file():
            return False
        before = load_origin(file)
        if lacks_shared(file):
            return False
        strength = before.strength == (
            dict(self.strength) if isinstance(self.strength, Mapping) else self.strength
        )
        same_photo = before.photo_sha256 == digest and (before.fit, before.white) == (self.fit, self.white)
        return same_photo and before.model_sha256 == self.model_sha256 and strength

    def _invert(self, photos: Sequence[Ready]) -> Rows:
        """Invert a batch and write its files; its lines of the report. A photo that fails takes no other with it."""
        try:
            return self._inverted(photos)
        except ValueError as error:
            if len(photos) > 1:
                return {name: row for photo in photos for name, row in self._invert([photo]).items()}
            say(f"{photos[0].source.path.name}: it cannot be inverted: {error}")
            return _failed(photos[0].source, error)

    @torch.no_grad()
    def _inverted(self, photos: Sequence[Ready]) -> Rows:
        images = torch.cat([photo.image for photo in photos])
        begin = time.perf_counter()
        found = self.model.invert_to_factors(images)
        if self.strength != 1:
            residuals = {**found.factors, **found.residuals}
            found = replace(found, image=self.model.render(found.w, residuals, self.strength))
        seconds = (time.perf_counter() - begin) / len(photos)
        numbers = {
            "l2": [f"{value:.5f}" for value in (found.image - images).square().mean((1, 2, 3)).tolist()]
        }
        if self.distance is not None:
            numbers[DISTANCE] = [f"{value:.4f}" for value in self.distance(found.image, images).tolist()]
        rows = {}
        shown = {"inverted": found.image, "w_image": found.w_image, "photo": images}
        drawn = {kind: pictures.to_pictures(batch) for kind, batch in shown.items()}
        for index, photo in enumerate(photos):
            part = slice(index, index + 1)
            residuals, factors = (
                {name: each[part] for name, each in parts.items()}
                for parts in (found.residuals, found.factors)
            )
            own = Inversion(found.w[part], residuals, found.w_image[part], found.image[part], factors)
            self._write(photo, own, {kind: batch[index] for kind, batch in drawn.items()})
            rows[_name(photo.source)] = {
                "name": photo.source.name,
                "photo": str(photo.source.path),
                "status": "inverted",
                **{name: values[index] for name, values in numbers.items()},
                "seconds": f"{seconds:.4f}",
            }
        return rows

    def _write(self, photo: Ready, inversion: Inversion, drawn: Mapping[str, Image.Image]) -> None:
        name = photo.source.name
        origin = Origin(
            model=self.called,
            model_sha256=self.model_sha256,
            generator_sha256=self.model.generator.sha256,
            photo=photo.source.path.name,
            photo_sha256=photo.sha256,
            crop=photo.crop,
            fit=self.fit,
            white=self.white,
            strength=dict(self.strength) if isinstance(self.strength, Mapping) else self.strength,
        )
        with writing(self.out, "give another folder with --out"):
            for kind, picture in drawn.items():
                place = self.out / f"{name}.{kind}.png"
                if kind == "photo" and not photo.cut:
                    place.unlink(missing_ok=True)  # one of an earlier call
                else:
                    pictures.save_picture(picture, place, quick=True)
            file = self.out / f"{name}{INVERSION}"
            save_inversion(inversion, file, origin, shared=self.compact, unchanged=True)

    def _rows_before(self) -> dict[str, dict[str, str]]:
        file = self.out / REPORT
        if not file.is_file():
            return {}
        with file.open(encoding="utf-8", newline="") as lines:
            return {row["name"]: dict(row) for row in csv.DictReader(lines) if row.get("name")}

    def _finish(self, found: Sequence[Source]) -> None:
        """The report of all photos of this folder, and a sheet of the first ones of this call."""
        lines = [[row.get(column, "") for column in COLUMNS] for row in self.rows.values()]
        with writing(self.out, "give another folder with --out"):
            write_csv(self.out / REPORT, [COLUMNS, *lines])
        shown = [s for s in found if (self.out / f"{s.name}.inverted.png").is_file()][:_SHEET_ROWS]
        if not shown:
            return
        kinds = {"photo": "photo", "phase I": "w_image", "inversion": "inverted"}
        rows = [[self._shown(source, kind) for kind in kinds.values()] for source in shown]
        size = max(64, min(256, self.model.resolution * math.ceil(128 / self.model.resolution)))
        with writing(self.out, "give another folder with --out"):
            pictures.save_picture(pictures.sheet(list(kinds), rows, size), self.out / "sheet.png")

    def _shown(self, source: Source, kind: str) -> Image.Image:
        """A picture for the sheet; a photo that was neither cut out nor resized is the one in its file."""
        place = self.out / f"{source.name}.{kind}.png"
        if kind == "photo" and not place.is_file():
            return pictures.to_picture(self._read(source)[0][0])
        return pictures.read_picture(place)


def _name(source: Source) -> str:
    """The name of a photo as the report has it."""
    return str(cell(source.name))


def _failed(source: Source, error: Exception) -> Rows:
    why = {"status": "failed", "message": str(error)}
    return {_name(source): {"name": source.name, "photo": str(source.path), **why}}


def ahead(pool: Executor, work: Callable[[Given], Made], items: Iterable[Given], most: int) -> Iterator[Made]:
    """What ``work`` makes of items, in their order; a pool makes up to ``most`` of them before they are asked for."""
    pending: deque[Future[Made]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) > most:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:  # also when the one who asks stops
        for future in pending:
            future.cancel()


def batches(items: Iterable[Given], size: int) -> Iterator[list[Given]]:
    """Lists of ``size`` items; the last one may be shorter."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def side_by_side(model: Drawing) -> tuple[int, int]:
    """How many batches are inverted at once, and how many threads each of them takes.

    Layers of small images are too small to be shared by threads: on two cores a batch at 64 px takes 0.85 of the time
    that it takes on one, while two batches at once take half of it each.
    """
    threads = torch.get_num_threads()
    searches = isinstance(model, (Optimiser, PivotalTuning))  # their steps are shown one by one
    if searches or model.resolution > SMALL or model.generator.w_avg.device.type != "cpu":
        return 1, threads
    workers = min(threads, MOST_WORKERS)
    return workers, threads // workers


def batch_for(photos: int, workers: int) -> int:
    """Photos in one pass: 8, or 16 where many batches of small images are inverted side by side.

    A photo in a batch of 16 takes 0.93 of the time. Without several batches for each worker, the last ones would leave
    some of them without work.
    """
    return 16 if workers > 1 and photos >= 16 * 4 * workers else 8


@contextmanager
def _workers(count: int, threads: int) -> Iterator[Executor]:
    """A pool whose workers compute with so many threads each."""
    before = torch.get_num_threads()
    # Winograd's tiles go through memory, which the workers share: without it an inversion takes 0.91 of the time
    # (64 px, one thread of an AMD EPYC whose other core was busy).
    direct = policy(winograd="never") if count > 1 else nullcontext()
    try:
        with (
            direct,
            ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(threads,)) as pool,
        ):
            yield pool
    finally:
        torch.set_num_threads(before)  # a part of it is common to all threads


def show_steps(model: Drawing, bar: Progress) -> None:
    """A second line for ways to invert that take many steps for each photo."""
    if isinstance(model, (Optimiser, PivotalTuning)):
        task = bar.add_task("steps", total=None)
        model.on_step = lambda step, steps: bar.update(task, completed=step, total=steps)

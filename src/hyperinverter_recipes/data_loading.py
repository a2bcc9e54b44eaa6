"""How long large folders take to start and large photos to load.

    python -m hyperinverter_recipes.data_loading FOLDER outputs/published/data_loading/measured.csv

Makes a nested folder of 20,000 small files, as LSUN exports have, and 64 photos of 1024 px as PNG and JPEG
below FOLDER, then times what a run does with them. Files that are there already are used again.
"""

from __future__ import annotations

import argparse
import csv
import functools
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from hyperinverter.data.folders import default_record, split_folder
from hyperinverter.data.listing import check_headers, list_photos
from hyperinverter.data.module import ImageDataModule
from hyperinverter.data.transforms import read_pixels
from hyperinverter_recipes.running import said

FILES, PHOTOS, RESOLUTION = 20_000, 64, 1024


@dataclass(frozen=True)
class Row:
    """What one thing takes. Processor time (with that of worker processes) tells more on a busy machine."""

    case: str
    count: int  # things done
    wall_seconds: float
    cpu_seconds: float


def make_many(root: Path) -> None:
    """A folder of 20,000 JPEG files of 64 px, 100 in each of 200 subfolders."""
    picture = Image.linear_gradient("L").convert("RGB").resize((64, 64))
    for i in range(FILES):
        path = root / f"{i // 1000:02d}" / f"{i // 100 % 10}" / f"{i:06d}.jpg"
        if i % 100 == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            picture.save(path)


def make_large(root: Path, suffix: str) -> None:
    """Photos of 1024 px with as much detail as a PNG of a photo has: about 1.3 MB."""
    root.mkdir(parents=True, exist_ok=True)
    draw = torch.Generator().manual_seed(0)
    for i in range(PHOTOS):
        path = root / f"{i:03d}{suffix}"
        if path.exists():
            continue
        coarse = torch.rand(3, 128, 128, generator=draw)[None]
        smooth = torch.nn.functional.interpolate(coarse, RESOLUTION, mode="bicubic")[0]
        grain = torch.randn(3, RESOLUTION, RESOLUTION, generator=draw) * 0.006
        pixels = ((smooth * 0.8 + 0.1 + grain).clamp(0, 1) * 255).to(torch.uint8)
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path, quality=92)


def timed(case: str, action: Callable[[], object], count: int = 1) -> Row:
    wall, cpu = time.perf_counter(), _cpu()
    action()
    return Row(case, count, time.perf_counter() - wall, _cpu() - cpu)


def _cpu() -> float:
    """Processor seconds of this process and of its worker processes that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def start_up(root: Path, cache: Path) -> Iterator[Row]:
    """Until a folder of 20,000 files is ready: for the first time, and every time after that."""
    shutil.rmtree(cache, ignore_errors=True)
    record = default_record(cache, root)
    yield timed("list", lambda: list_photos(root), FILES)
    yield timed("list and split, first time", lambda: split_folder(root, record), FILES)
    yield timed("list and split, again", lambda: split_folder(root, record), FILES)
    names, memo = list_photos(root).names, cache / "headers.json"
    yield timed("look at every header, first time", lambda: check_headers(root, names, memo), FILES)
    yield timed("look at every header, again", lambda: check_headers(root, names, memo), FILES)
    shutil.rmtree(cache)

    def ready() -> None:
        module = ImageDataModule(root, resolution=64, cache_dir=cache, decoded=False)
        module.prepare_data()
        module.setup("fit")

    yield timed("complete start-up, first time", ready, FILES)
    yield timed("complete start-up, again", ready, FILES)
    shutil.rmtree(cache)


def throughput(root: Path, cache: Path) -> Iterator[Row]:
    """Photos of 1024 px: one by one, through the loader, and decoded beforehand."""
    kind = root.name
    files = sorted(root.iterdir())
    megabytes = sum(file.stat().st_size for file in files) / len(files) / 1e6
    yield timed(
        f"{kind} of {megabytes:.2f} MB, decode", lambda: [read_pixels(f, RESOLUTION) for f in files], PHOTOS
    )
    for workers, decoded in ((0, False), (2, False), (0, True)):
        module = ImageDataModule(
            root,
            resolution=RESOLUTION,
            batch_size=8,
            num_workers=workers,
            epoch_kimg=0.064,
            cache_dir=cache,
            decoded=decoded,
            num_val=1,
            num_test=1,
        )
        module.prepare_data()
        how = "decoded beforehand" if decoded else f"{workers} worker processes"
        yield timed(f"{kind}, loader, {how}", functools.partial(_run_through, module), 64)
    shutil.rmtree(cache)


def _run_through(module: ImageDataModule) -> None:
    """One epoch; the workers end with the loader, so that their time is counted."""
    loader = module.train_dataloader()
    for _ in loader:
        pass
    del loader


def main() -> None:
    parser = argparse.ArgumentParser(description="Time large folders and large photos.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    make_many(args.folder / "many")
    rows = list(start_up(args.folder / "many", args.folder / "cache"))
    for suffix in (".png", ".jpg"):
        make_large(args.folder / suffix[1:], suffix)
        rows += throughput(args.folder / suffix[1:], args.folder / "cache")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["case", "count", "wall_seconds", "cpu_seconds", "cpu_milliseconds_each"])
        for row in rows:
            each = f"{1000 * row.cpu_seconds / row.count:.4g}"
            writer.writerow([row.case, row.count, f"{row.wall_seconds:.3f}", f"{row.cpu_seconds:.3f}", each])
    print(args.out.read_text(), end="")


if __name__ == "__main__":
    said(main)

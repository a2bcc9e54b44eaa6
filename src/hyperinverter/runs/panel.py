"""The same test photos through every job of a sweep, as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hyperinverter.contracts import UserError
from hyperinverter.runs.compare import summary, table
from hyperinverter.runs.find import jobs, read_sweep

_SIZE = 96  # of a photo in the panel, pixels


def panel(
    sweep: Path | str, path: Path | None = None, num_photos: int = 8, columns: Sequence[int] | None = None
) -> Path:
    """The same test photos through every job: rows are photos, columns the input, phase I, then one per job.

    Args:
        sweep: The sweep folder.
        path: Where to write the PNG; default ``panel.png`` in the sweep folder.
        num_photos: Rows.
        columns: Job numbers to show; default the first seed of every setting, best first.

    Raises:
        UserError: If no finished job kept test photos.
    """
    from hyperinverter import pictures  # brings PIL

    if columns is None:
        frame, ranked = table(sweep), list(summary(sweep).name)
        done = frame[frame.status == "finished"].drop_duplicates("name")
        columns = sorted(done.job, key=lambda job: ranked.index(done.set_index("job").name[job]))
    folders = {int(f.name): f for f in jobs(sweep) if (f / "test_photos").is_dir()}
    shown = [job for job in columns if job in folders]
    if not shown:
        raise UserError(f"no finished job of {sweep} kept test photos: panels.num_saved must be above 0")
    kept = [{p.name for p in (folders[job] / "test_photos").iterdir() if p.is_dir()} for job in shown]
    photos = sorted(set.intersection(*kept))[:num_photos]
    if not photos:
        raise UserError(
            f"the jobs of {sweep} were tested on different photos: a panel needs photos that all share"
        )
    names = {int(job["num"]): str(job["name"]) for job in read_sweep(sweep).get("jobs", [])}
    titles = ["input", "phase I", *(names.get(job, str(job)) for job in shown)]
    first = folders[shown[0]]
    cells = [(first, "photo"), (first, "w_image"), *((folders[job], "image") for job in shown)]
    rows = [
        [pictures.read_picture(folder / "test_photos" / photo / f"{kind}.png") for folder, kind in cells]
        for photo in photos
    ]
    target = path or Path(sweep) / "panel.png"
    pictures.save_picture(pictures.sheet(titles, rows, _SIZE, gap=3), target)
    return target

"""Going on with a run: which checkpoint, and the table of numbers as it was then."""

from __future__ import annotations

from pathlib import Path

from hyperinverter.checkpoints.opening import read_checkpoint
from hyperinverter.config import Config
from hyperinverter.contracts import UserError
from hyperinverter.runs import read_card
from hyperinverter.system.processes import is_first
from hyperinverter.system.terminal import say
from hyperinverter.training.checkpointing import LAST, newest_readable
from hyperinverter.training.metrics_file import MetricsFile

AUTO = "auto"  # resume=auto: the same command again goes on where it was


def find_resume(cfg: Config, folder: Path | None = None) -> Path | None:
    """The checkpoint to go on from; None for a new run.

    A damaged ``last.ckpt`` is reported and the one before it taken. ``resume=auto`` starts from the beginning where
    nothing was saved.

    Args:
        cfg: The configuration; ``resume`` is a run folder, a checkpoint file, or ``auto``.
        folder: The folder of this run, for ``auto``.

    Raises:
        UserError: If ``resume`` leads to none.
    """
    if cfg.resume is None:
        return None
    automatic = cfg.resume == AUTO
    if automatic and folder is None:
        return None
    place = folder if automatic and folder is not None else Path(cfg.resume).expanduser()
    if place.is_file():
        read_checkpoint(place)
        return place
    found = newest_readable(place / "checkpoints")
    if found is None and automatic:
        return None
    if found is None:
        missing = place / "checkpoints" / LAST
        raise UserError(
            f"resume={cfg.resume} has no {missing}: the run ended before its first save, so start it again"
        )
    path, _, trouble = found
    if trouble is not None:
        say(f"{trouble.split(': it is cut short')[0]}: it is damaged, so the run goes on from {path.name}")
    return path


def go_on(checkpoint: Path, table: MetricsFile) -> int:
    """Cut the table of numbers to what was in it when the checkpoint was saved; return the photos seen by then."""
    content = read_checkpoint(checkpoint)
    seen = int(content["state_dict"].get("images_seen", 0))
    if is_first():
        kept = [
            s["rows"] for s in content.get("callbacks", {}).values() if isinstance(s, dict) and "rows" in s
        ]
        if kept:
            table.keep(int(kept[0]))
        else:
            table.forget_after(seen)
    return seen


def finished_score(folder: Path) -> float | None:
    """The score of the finished run in a folder; None if it has none."""
    card = read_card(folder) or {}
    if card.get("status") != "finished":
        return None
    score = (card.get("metrics") or {}).get(card.get("rank_by"))
    return None if score is None else float(score)

"""Going on with a run: which checkpoint, and the table of numbers as it was then."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hyperinverter import config
from hyperinverter.checkpoints.opening import read_checkpoint
from hyperinverter.checkpoints.registry import PACKAGED
from hyperinverter.config import Config
from hyperinverter.contracts import UserError, shown
from hyperinverter.runs import read_card
from hyperinverter.system.files import OTHER_OUTPUTS
from hyperinverter.system.processes import is_first
from hyperinverter.system.terminal import say
from hyperinverter.training.checkpointing import LAST, PREVIOUS, newest_readable
from hyperinverter.training.metrics_file import MetricsFile

AUTO = "auto"  # resume=auto: the same command again goes on where it was
# Files and folders without which a run cannot go on as it was.
_NEEDED = {
    "generator.path": "the generator",
    "data.root": "the photos in",
    "data.split": "the recorded split",
    "judges.lpips_path": "the weights of LPIPS",
    "judges.identity_path": "the weights of the identity network",
    "phase.from_run": "the phase I in",
}
INPUTS = tuple(key for key in _NEEDED if key != "phase.from_run")  # known before the run is settled
_LOADED = {"generator.path": "generator", "phase.from_run": "phase1"}  # key -> part of the run card
_PARTS = {"generator": "generator (generator.path)", "phase1": "phase I (phase.from_run)"}


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


def origin(cfg: Config, folder: Path) -> Path | None:
    """The folder of the run that is resumed; None for a new run."""
    if cfg.resume is None:
        return None
    place = folder if cfg.resume == AUTO else Path(cfg.resume).expanduser()
    if place.is_file():
        return place.parent.parent
    saved = any((place / "checkpoints" / name).is_file() for name in (LAST, PREVIOUS))
    return place if saved else None


def way_out(cfg: Config) -> str:
    """What to do where the run folder cannot be written: a resumed run stays in its own."""
    return OTHER_OUTPUTS if cfg.resume is None else "copy the run to where you can write, and resume the copy"


def changed(cfg: Config, run: Path) -> dict[str, tuple[Any, Any]]:
    """Settings that a resumed run takes: key -> old and new value. What has no effect any more is reported.

    Args:
        cfg: The configuration of now.
        run: The folder of the run.

    Raises:
        UserError: For a setting that must stay as it was.
    """
    if not (run / "config.yaml").is_file():
        return {}
    found = config.changes(config.load(run / "config.yaml"), cfg)
    for line in found.idle:
        say(f"warning: {line}")
    for key, (old, new) in found.taken.items():
        say(f"{key}={shown(config.quote(new))} from here on, {shown(config.quote(old))} before")
    return found.taken


def check_there(cfg: Config, before: Mapping[str, Any], keys: Iterable[str] = INPUTS) -> None:
    """Refuse to go on without a file or folder that the run was trained with.

    Args:
        cfg: The configuration of now.
        before: The run card as it was.
        keys: Those to look at, of ``_NEEDED``.

    Raises:
        UserError: With the path that was expected and what to do.
    """
    for key in keys:
        path = config.given(cfg, key)
        if not isinstance(path, str) or not path or f"{path}_generator" in PACKAGED:
            continue
        place = Path(path).expanduser().absolute()
        if not place.exists():
            loaded = (before.get("loaded") or {}).get(_LOADED.get(key)) or {}
            sha256 = loaded.get("sha256")
            known = f", SHA-256 {shown(str(sha256)[:12])}..." if sha256 else ""
            raise UserError(
                f"this run goes on with {_NEEDED[key]} {place} ({key}{known}), and nothing is there: move it back, or "
                f"add {key}=PATH with its new place"
            )


def check_files(before: Mapping[str, Any], loaded: Mapping[str, Mapping[str, str]]) -> None:
    """Refuse to go on with a run on another generator or another phase I; the same file may have moved.

    Args:
        before: The run card as it was.
        loaded: What the resumed run has read, see ``Assembled``.

    Raises:
        UserError: With both paths.
    """
    for part, now in loaded.items():
        was = (before.get("loaded") or {}).get(part) or {}
        if was.get("sha256", now["sha256"]) != now["sha256"]:
            raise UserError(
                f"the {_PARTS.get(part, part)} of this run was {was.get('path')} and is {now['path']} now, which is "
                "another file: resume with the old one, or start a new run"
            )


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

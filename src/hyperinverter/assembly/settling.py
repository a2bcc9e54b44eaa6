"""What a configuration leaves open: the resolution, and the phase I of a phase II."""

from __future__ import annotations

import copy
from pathlib import Path

from hyperinverter import config, runs
from hyperinverter.checkpoints.opening import as_kept
from hyperinverter.config import Config
from hyperinverter.contracts import UserError
from hyperinverter.data.digiface import RESOLUTION as BUILT_IN_RESOLUTION
from hyperinverter.networks.generator import Generator

PACKAGED_PHASE1 = "packaged"  # phase.from_run=packaged: not the newest run, the one that ships


def settle(cfg: Config, generator: Generator, folder: Path | None = None) -> Config:
    """A copy of a configuration in which nothing is left open: the resolution, and the phase I of a phase II.

    Args:
        cfg: As composed; left as it is.
        generator: The one it names.
        folder: The run folder; a run that is resumed there keeps the phase I it began with.

    Raises:
        UserError: If the generator draws images of another size than the configuration or the built-in photos have.
    """
    settled = copy.deepcopy(cfg)
    settled.domain.resolution = _resolution(cfg, generator)
    settled.generator.path = as_kept(cfg.generator.path, "generator")
    config.complete_paths(settled, config.INPUTS)
    if cfg.phase.number == 2:
        chosen = cfg.phase.from_run or _phase1_run(cfg, folder)
        settled.phase.from_run = chosen if chosen == PACKAGED_PHASE1 else as_kept(chosen, "phase1")
    return settled


def _resolution(cfg: Config, generator: Generator) -> int:
    """The generator's own, which the configuration and the photos must agree to."""
    drawn, wanted = generator.img_resolution, cfg.domain.resolution
    if wanted is None and cfg.data.source == "digiface" and drawn != BUILT_IN_RESOLUTION:
        raise UserError(
            f"generator.path={cfg.generator.path} draws {drawn} px and the built-in faces have "
            f"{BUILT_IN_RESOLUTION}: give photos for it with data.root=FOLDER"
        )
    if wanted is not None and drawn != wanted:
        raise UserError(
            f"generator.path={cfg.generator.path} draws {drawn} px, domain.resolution is "
            f"{wanted}; set domain.resolution={drawn} or choose another generator"
        )
    return drawn


def _phase1_run(cfg: Config, folder: Path | None) -> str:
    """The newest complete phase I run of the domain; ``packaged`` if there is none."""
    if cfg.resume is not None and folder is not None and (folder / "config.yaml").is_file():
        before = config.load(folder / "config.yaml")
        return _moved(str(before.phase.from_run or PACKAGED_PHASE1), folder)
    found = runs.latest_finished(
        Path(cfg.paths.outputs), domain=cfg.domain.name, phase=1, generator=str(cfg.generator.path)
    )
    return PACKAGED_PHASE1 if found is None else str(found)


def _moved(phase1: str, folder: Path) -> str:
    """A run that was used before, also where it has moved together with the run folder that names it."""
    if phase1 == PACKAGED_PHASE1 or Path(phase1).expanduser().exists():
        return phase1
    name, here = Path(phase1).name, folder.absolute()
    places = [place for parent in here.parents[:3] for place in (parent / name, parent / "runs" / name)]
    return next((str(place) for place in places if place.exists()), phase1)

"""``evaluation=full``: at the end of a run, the tables of ``hyperinverter evaluate`` for its best weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hyperinverter import config
from hyperinverter.config import Config
from hyperinverter.evaluation.measure import Measuring, Photos, safe_names
from hyperinverter.evaluation.protocol import Protocol
from hyperinverter.evaluation.run import evaluate
from hyperinverter.evaluation.scoring import Scorer, rounded
from hyperinverter.inversion.drawing import Drawing
from hyperinverter.system.files import sha256_of
from hyperinverter.system.terminal import say, short

FOLDER = "evaluation"


def scorer_of(cfg: Config, device: str = "cpu") -> Scorer | None:
    """What makes the numbers; None if the run asks for none.

    Raises:
        UserError: If there is no such protocol, or a weight file of it is missing: before training, not after it.
    """
    name = config.given(cfg, "evaluation.protocol")
    if name is None:
        return None
    protocol = Protocol.of(config.option("protocol", str(name)), name)
    return Scorer(protocol, {}, Path(str(cfg.paths.cache)).expanduser(), torch.device(device))


def evaluate_run(cfg: Config, inverter: nn.Module, data: Any, folder: Path, weights: Path) -> Path | None:
    """Evaluate a run on its test photos; phase II next to the phase I it uses.

    Args:
        cfg: Of the run.
        inverter: With its best weights.
        data: Its data module, which has been tested on.
        folder: The run folder.
        weights: The checkpoint that the weights are from.

    Returns:
        The folder with the tables; None if the run asks for none.
    """
    device = "cuda" if cfg.trainer.accelerator in ("gpu", "cuda") and torch.cuda.is_available() else "cpu"
    scorer = scorer_of(cfg, device)
    if scorer is None:
        return None
    assert isinstance(inverter, Drawing)  # both phases are
    photos = _photos(data.datasets["test"], config.given(cfg, "evaluation.n"))
    scorer.check_side(inverter.resolution)
    inverter.eval().to(device)
    inverter.source, inverter.sha256 = short(folder), sha256_of(weights)
    models: dict[str, Drawing] = {f"phase{cfg.phase.number}": inverter}
    first = getattr(inverter, "w_inverter", None)
    if isinstance(first, Drawing):
        first.source, first.sha256 = f"phase I of {inverter.source}", inverter.sha256
        models = {"phase1": first, **models}
    out = folder / FOLDER
    measuring = Measuring(
        models,
        photos,
        scorer.protocol,
        scorer,
        out,
        keep_images=bool(cfg.evaluation.save_images),
        batch=int(cfg.phase.batch_size),
        device=torch.device(device),
    )
    say(f"evaluating {', '.join(models)} on {len(photos.names):,} test photos: {short(out)}")
    evaluate(measuring, out, timed=bool(cfg.evaluation.time))
    return out


def _photos(dataset: Any, n: int | None) -> Photos:
    """Test photos as an evaluation takes them."""
    files = list(dataset.names)[:n]
    names = safe_names(files)
    place = {name: i for i, name in enumerate(names)}

    def read(wanted: Sequence[str]) -> np.ndarray:
        return rounded(dataset.__getitems__([place[name] for name in wanted])["image"])

    digests = {name: sha256_of(dataset.root / file) for name, file in zip(names, files, strict=True)}
    return Photos(dataset.root.name, dict(zip(names, files, strict=True)), digests, read)

"""Which files a domain needs, where they are looked for, and in what state they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hyperinverter import config
from hyperinverter.checkpoints import load_generator
from hyperinverter.checkpoints.registry import (
    BY_HAND,
    FETCHED,
    PACKAGED,
    ByHand,
    Fetched,
    fetch_command,
    fetched_path,
    state_of,
)
from hyperinverter.checkpoints.starts import published_start
from hyperinverter.config import Config
from hyperinverter.contracts import UserError
from hyperinverter.system.files import as_path


@dataclass(frozen=True)
class Need:
    """One file a run reads."""

    role: str  # what it is for
    path: Path
    label: str | None = None  # in FETCHED, if this project knows where to get it
    source: ByHand | None = None  # where a person gets it, if not

    def state(self) -> str:
        """Say "found", "missing", "wrong hash", or why the file cannot be used."""
        if self.label is not None:
            return state_of(self.path, FETCHED[self.label])
        if not self.path.is_file():
            return "missing"
        try:
            load_generator(self.path)
        except UserError as error:
            return f"unusable: {error}"
        return "found"

    @property
    def known(self) -> Fetched | None:
        """What is known of the file, where it can be fetched."""
        return None if self.label is None else FETCHED[self.label]

    def next_step(self) -> str:
        """What to do to have it."""
        if self.label is not None:
            return f"{fetch_command(self.label)}, or download {FETCHED[self.label].page} to {self.path}"
        if self.source is not None:
            return f"download {self.source.page} ({self.source.about}) to {self.path}"
        return "give your generator with generator=FILE"


def domains() -> list[str]:
    """Names of the domains there are."""
    return [name for name in config.options_of(config.conf_dir(), "domain") if not name.startswith("_")]


def configuration(asked: Sequence[str]) -> Config:
    """The configuration that a domain's name or overrides lead to.

    Raises:
        UserError: If there is no such domain, option or key.
    """
    overrides = [item if "=" in item else f"domain={item}" for item in asked]
    return config.compose(overrides)


def needs_of(cfg: Config) -> list[Need]:
    """Every file a run with this configuration reads besides its photos, the generator first."""
    needs = []
    generator = config.given(cfg, "generator.path")
    if generator is None:
        needs.append(Need("generator", Path("generator.path")))
    elif f"{generator}_generator" not in PACKAGED:
        path = as_path(str(generator))
        needs.append(Need("generator", path, source=BY_HAND.get(path.name)))
    for label, key, role in (
        (cfg.judges.perceptual, "lpips_path", "loss and metric of perception"),
        (cfg.judges.lpips, "lpips_path", "metric of perception"),
        (cfg.judges.identity, "identity_path", "loss and metric of identity"),
    ):
        if label in FETCHED:
            path = as_path(cfg.judges.get(key) or fetched_path(label, cfg.paths.cache))
            needs.append(Need(role, path, label))
    if cfg.encoder.start == "published":
        label = published_start(config.build(cfg.encoder.backbone))
        path = as_path(cfg.encoder.start_path or fetched_path(label, cfg.paths.cache))
        needs.append(Need("start of the encoders", path, label))
    unique = {need.path: need for need in reversed(needs)}  # one file can serve two purposes
    return list(reversed(unique.values()))

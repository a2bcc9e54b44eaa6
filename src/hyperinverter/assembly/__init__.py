"""Configuration -> objects: the only place that knows how the parts fit together.

Whatever depends on another object (kernel shapes, number of style layers, channel counts) is measured on that
object here and passed in Python, so no shape is ever typed twice.
"""

from __future__ import annotations

import copy
import functools
import logging
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor, nn

from hyperinverter import config
from hyperinverter.assembly.settling import PACKAGED_PHASE1, settle
from hyperinverter.assembly.specifications import method_of, model_spec, w_encoder_spec
from hyperinverter.checkpoints import find_discriminator, load_generator, load_w_inverter
from hyperinverter.checkpoints.opening import checkpoint_of
from hyperinverter.checkpoints.registry import PACKAGED, fetched_path, packaged
from hyperinverter.checkpoints.starts import published_start, start_from_published
from hyperinverter.config import Config
from hyperinverter.contracts import UserError
from hyperinverter.data.module import ImageDataModule
from hyperinverter.inversion.phase1 import WInverter
from hyperinverter.inversion.phase2 import PhaseII
from hyperinverter.inversion.specification import build_on, build_w_inverter
from hyperinverter.judges.base import Judge
from hyperinverter.judges.catalogue import build_judge
from hyperinverter.losses.reconstruction import IdentityLoss, PerceptualLoss, PixelLoss
from hyperinverter.losses.weighted import WeightedLoss
from hyperinverter.metrics import MetricSuite
from hyperinverter.networks.backbones import for_widened
from hyperinverter.networks.discriminator import Discriminator
from hyperinverter.networks.generator import Generator
from hyperinverter.ops.policy import policy_of
from hyperinverter.system.command import train_command
from hyperinverter.system.errors import first_line
from hyperinverter.system.files import sha256_of
from hyperinverter.tasks.common import PhaseTask, Schedule
from hyperinverter.tasks.phase1 import NearW, PhaseIEncoder
from hyperinverter.tasks.phase2 import PhaseIIHyper

_log = logging.getLogger(__name__)

# of data=folder only
_FOLDER_KEYS = ("val_fraction", "test_fraction", "resize", "fit", "white", "decoded", "skip_unreadable")


@dataclass
class Assembled:
    """A run, ready for the trainer."""

    task: PhaseTask
    data: LightningDataModule
    # part -> path and SHA-256, for the run card
    loaded: dict[str, dict[str, str]] = field(default_factory=dict)


def build(cfg: Config, generator: Generator | None = None, *, begun: bool = False) -> Assembled:
    """Build every part of a run from its configuration, which is left as it is.

    Args:
        cfg: Settled, or as composed if there is no ``generator``.
        generator: The one that the configuration was settled with; None loads it and settles.
        begun: Whether a checkpoint brings the weights, so that none are needed to begin with.

    Raises:
        UserError: If parts do not fit each other, or a file is missing or damaged.
    """
    if generator is None:
        generator = load_generator(cfg.generator.path)
        cfg = settle(cfg, generator)
    if begun:
        cfg = copy.deepcopy(cfg)
        cfg.encoder.start = "random"
    loaded = {"generator": {"path": str(cfg.generator.path), "sha256": generator.sha256}}
    suite = MetricSuite(**_judged(cfg))
    common: dict[str, Any] = {
        "loss": reconstruction_loss(cfg),
        "metrics": suite,
        "optimizer": functools.partial(_optimizer, cfg),
        "schedule": schedule(cfg),
        "accumulate": cfg.phase.get("accumulate", 1),  # older runs have none
    }
    task: PhaseTask
    if cfg.phase.number == 1:
        task = PhaseIEncoder(w_inverter(cfg, generator), **common, near_w=_near_w(cfg))
    else:
        model, phase1 = hyper_inverter(cfg, generator)
        loaded["phase1"] = phase1
        discriminator = starting_discriminator(cfg, generator) if cfg.loss.adv > 0 else None
        task = PhaseIIHyper(
            model,
            **common,
            discriminator=discriminator,
            adv=cfg.loss.adv,
            adv_from=round(cfg.loss.adv_from_kimg * 1000),
            r1_gamma=cfg.loss.r1_gamma,
            r1_every=cfg.loss.r1_every,
            adv_batch_size=cfg.loss.adv_batch_size,
            edit=cfg.loss.get("edit", 0.0),  # older runs have none
            edit_share=cfg.loss.get("edit_share", 0.25),
            mirror=cfg.loss.get("mirror", 0.0),
            mirror_share=cfg.loss.get("mirror_share", 0.25),
        )
    return Assembled(task, data_module(cfg), loaded)


def generator(cfg: Config) -> Generator:
    """The generator that a configuration names.

    Raises:
        UserError: If its file is missing or damaged.
    """
    return load_generator(cfg.generator.path)


def w_inverter(cfg: Config, generator: Generator) -> WInverter:
    """Phase I with a new encoder."""
    with _from_configuration():
        first = build_w_inverter(w_encoder_spec(cfg), generator)
    if cfg.encoder.start == "published":
        start_from_published(first.encoder.backbone, start_file(first.encoder.backbone, cfg))
    return first


def hyper_inverter(cfg: Config, generator: Generator) -> tuple[PhaseII, dict[str, str]]:
    """Phase II with a new feature encoder and hypernetwork on a finished phase I; and where that came from."""
    first, source = finished_phase1(cfg, generator)
    return on_phase1(cfg, first), source


def on_phase1(cfg: Config, first: WInverter) -> PhaseII:
    """Phase II with a new feature encoder and hypernetwork on a given phase I."""
    with _from_configuration():
        model = build_on(first, model_spec(cfg, first.generator), cfg.hypernet.init)
    backbone = model.backbone
    if cfg.encoder.start == "phase1":
        start_from_phase1(backbone, first)
    elif cfg.encoder.start == "published":
        start_from_published(backbone, start_file(backbone, cfg))
    return model.use_checkpointing(cfg.phase.checkpointing)


def _near_w(cfg: Config) -> NearW | None:
    """What keeps the codes of e4e near W, its schedule in photos."""
    if method_of(cfg) != "e4e":
        return None
    photos, said = cfg.phase.kimg * 1000, cfg.method
    return NearW(
        first=round(said.first_share * photos),
        deltas=round(said.deltas_share * photos),
        delta=said.delta,
        latent=said.latent,
        lr=said.latent_lr,
        r1=said.latent_r1,
        r1_every=said.latent_r1_every,
        pool=said.pool,
    )


@contextmanager
def _from_configuration() -> Iterator[None]:
    """Turn what a network refuses into the sentence a person reads."""
    try:
        yield
    except (TypeError, ValueError, MemoryError, RuntimeError) as error:
        raise UserError(
            f"the model cannot be built from the configuration: {first_line(error)}; check encoder, fusion "
            "and hypernet"
        ) from error


def starting_discriminator(cfg: Config, generator: Generator) -> Discriminator:
    """The discriminator in the generator's file, as in the paper; a new one where the file holds none that is read.

    Raises:
        UserError: If the file's discriminator is not for images of the generator's size.
    """
    try:
        discriminator = find_discriminator(cfg.generator.path)
    except UserError as error:  # the generator was read, and that is what the run needs
        _log.warning("a new discriminator begins: %s", str(error).rpartition("; ")[0] or error)
        discriminator = None
    if discriminator is None:
        return Discriminator(generator.config)
    if discriminator.config.img_resolution != generator.img_resolution:
        raise UserError(
            f"the discriminator in {cfg.generator.path} is for {discriminator.config.img_resolution} px, the "
            f"generator draws {generator.img_resolution} px; give a file whose networks belong together"
        )
    return discriminator


def start_from_phase1(backbone: nn.Module, first: WInverter) -> None:
    """Begin phase II's backbone with the weights of phase I's, which know the domain.

    The paper begins with a published network (``encoder.start=published``); your own domain may have none,
    but it has phase I.

    Raises:
        UserError: If the two backbones are of different kinds or shapes.
    """
    trained = first.encoder.backbone
    if type(trained) is not type(backbone):
        raise UserError(
            f"phase I was trained with {type(trained).__name__}, phase II has {type(backbone).__name__}, which cannot "
            "start from it: choose the same encoder, or encoder.start=random"
        )
    weights = for_widened(trained.state_dict(), backbone)
    shapes, ours = ({n: t.shape for n, t in state.items()} for state in (weights, backbone.state_dict()))
    if shapes != ours:
        raise UserError(
            f"the backbone {type(backbone).__name__} is of another shape than phase I's, so it cannot start from it: "
            "give it the same arguments, or encoder.start=random"
        )
    backbone.load_state_dict(weights)


def start_file(backbone: nn.Module, cfg: Config) -> Path:
    """The file of published weights a backbone starts from: ``encoder.start_path``, else the cache folder's."""
    label = published_start(backbone)
    if cfg.encoder.start_path is not None:
        return Path(cfg.encoder.start_path).expanduser()
    return fetched_path(label, cfg.paths.cache)


def finished_phase1(cfg: Config, generator: Generator) -> tuple[WInverter, dict[str, str]]:
    """The phase I that a phase II run uses: ``phase.from_run``, or for ``packaged`` the domain's packaged one.

    Raises:
        UserError: If there is neither.
    """
    if cfg.phase.from_run not in (None, PACKAGED_PHASE1):
        file = checkpoint_of(cfg.phase.from_run)
        return load_w_inverter(file, generator), {"path": str(file), "sha256": sha256_of(file)}
    if f"{cfg.domain.name}_phase1" in PACKAGED and str(cfg.generator.path) == cfg.domain.name:
        _, sha256 = packaged("phase1", cfg.domain.name)
        return load_w_inverter(cfg.domain.name, generator), {"path": cfg.domain.name, "sha256": sha256}
    raise UserError(
        f"no finished phase I run for domain {cfg.domain.name!r} under {cfg.paths.outputs}; run "
        f"`{train_command()} domain={cfg.domain.name}` or pass phase.from_run=PATH"
    )


def reconstruction_loss(cfg: Config) -> WeightedLoss:
    """The sum of the terms whose weight is not zero; the others build nothing.

    Raises:
        UserError: If no term is left.
    """
    terms: dict[str, tuple[float, nn.Module]] = {}
    if cfg.loss.l2 > 0:
        terms["l2"] = (cfg.loss.l2, PixelLoss())
    if cfg.loss.lpips > 0:
        terms["lpips"] = (
            cfg.loss.lpips,
            PerceptualLoss(judge(cfg.judges.perceptual, cfg), cfg.loss.lpips_share),
        )
    if cfg.loss.id > 0:
        terms["id"] = (cfg.loss.id, IdentityLoss(judge(cfg.judges.identity, cfg)))
    if not terms:
        raise UserError(
            "every reconstruction term is off; give loss.l2, loss.lpips or loss.id a weight above 0"
        )
    return WeightedLoss(terms)


def judge(label: str, cfg: Config) -> Judge:
    """Build the network that compares images under this label.

    Raises:
        UserError: For a label that no network has, or a missing weight file.
    """
    key = "identity_path" if label.startswith("id_") else "lpips_path"
    return build_judge(label, cfg.judges.get(key), cfg.paths.cache)


def schedule(cfg: Config) -> Schedule:
    """The learning-rate schedule, in photos."""
    return Schedule(
        images=round(cfg.phase.kimg * 1000),
        warmup=round(cfg.phase.warmup_kimg * 1000),
        kind=cfg.phase.schedule,
    )


def data_module(cfg: Config) -> LightningDataModule:
    """Photos as batches; one epoch is ``phase.epoch_kimg`` long."""
    root = cfg.data.get("root")
    if cfg.data.source != "digiface" and (root is None or not str(root).strip()):
        raise UserError(
            f"data.root={'null' if root is None else ''} names no folder; give photos with data.root=PATH"
        )
    epochs = max(1, math.ceil(cfg.phase.kimg / cfg.phase.epoch_kimg))
    return ImageDataModule(
        None if cfg.data.source == "digiface" else Path(str(root)).expanduser(),
        resolution=cfg.domain.resolution,
        batch_size=cfg.phase.batch_size,
        num_workers=cfg.data.num_workers,
        epoch_kimg=cfg.phase.kimg / epochs,
        flip=cfg.data.flip,
        seed=cfg.seed,
        num_train=cfg.data.num_train,
        num_val=cfg.data.num_val,
        num_test=cfg.data.num_test,
        cache_dir=Path(cfg.paths.cache).expanduser(),
        split=cfg.data.split,
        **{key: cfg.data[key] for key in _FOLDER_KEYS if key in cfg.data},
    )


def _judged(cfg: Config) -> dict[str, Any]:
    """What the metric suite needs: the resolution and the judges that give numbers."""
    return {
        "resolution": cfg.domain.resolution,
        "perceptual": judge(cfg.judges.lpips, cfg),
        "identity": judge(cfg.judges.identity, cfg) if cfg.judges.identity else None,
    }


def _optimizer(cfg: Config, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
    parameters = list(parameters)
    try:
        optimizer: torch.optim.Optimizer = config.build(cfg.phase.optimizer)(parameters)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"phase.optimizer cannot be built: {first_line(error)}; check its arguments, or choose another with "
            "phase/optimizer=NAME"
        ) from error
    if (
        isinstance(optimizer, (torch.optim.Adam, torch.optim.AdamW))
        and policy_of(parameters[0]).fused_optimizer
    ):
        for group in optimizer.param_groups:
            if group["fused"] is None and group["foreach"] is None:  # neither was asked for
                group["fused"] = True
    meant_for = cfg.phase.get("lr_batch")
    for group in optimizer.param_groups if meant_for else ():
        group["lr"] *= cfg.phase.batch_size / meant_for  # Goyal et al. 2017, section 2.1
    return optimizer

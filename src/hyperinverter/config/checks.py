"""Whether the values make sense, before anything is built."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from hydra.core.override_parser.types import Glob
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hyperinverter.config.carried import single_values
from hyperinverter.config.explain import all_keys, near, unknown_key, unknown_option
from hyperinverter.config.groups import Config, conf_dir, groups_of, options_of
from hyperinverter.config.overrides import INPUTS, parse_overrides
from hyperinverter.config.types import check_types
from hyperinverter.config.values import given
from hyperinverter.contracts import UserError
from hyperinverter.system.errors import first_line

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]

_ABOVE_ZERO = (
    *("phase.kimg", "phase.epoch_kimg", "phase.ema_kimg", "phase.optimizer.lr", "loss.r1_gamma"),
    *("features.scale", "method.latent_lr", "method.scale"),
)
_NOT_NEGATIVE = (
    *("phase.warmup_kimg", "loss.l2", "loss.lpips", "loss.id", "loss.adv", "loss.adv_from_kimg"),
    *("loss.edit", "loss.mirror"),
    *("method.first_share", "method.deltas_share", "method.delta", "method.latent", "method.latent_r1"),
)
_WHOLE = {  # key -> least value
    "phase.batch_size": 1,
    "phase.lr_batch": 1,
    "phase.accumulate": 1,
    "seed": 0,
    "domain.resolution": 4,
    "hypernet.hidden_dim": 1,
    "hypernet.channels": 1,
    "hypernet.extractor_channels": 1,
    "features.width": 1,
    "method.channels": 1,
    "method.pool": 1,
    "method.iterations": 1,
    "method.hidden_dim": 1,
    "method.latent_r1_every": 1,
    "loss.r1_every": 1,
    "loss.adv_batch_size": 1,
    "data.num_train": 1,
    "data.num_val": 1,
    "data.num_test": 1,
    "data.num_workers": 0,
    "data.white": 1,
    "evaluation.n": 1,
    "trainer.log_every": 1,
    "panels.num_photos": 1,
    "panels.num_saved": 0,
}
_CHOICES: dict[str, tuple[Any, ...]] = {
    "phase.number": (1, 2),
    "phase.schedule": ("cosine", "constant"),
    "phase.monitor_mode": ("min", "max"),
    "phase.checkpointing": (True, False),
    "logger.kind": ("csv", "tensorboard", "wandb"),
    "logger.mode": (None, "online", "offline", "disabled"),
    "data.fit": ("crop", "pad", "squeeze"),
    "data.source": ("digiface", "folder"),
    "encoder.start": ("phase1", "published", "random"),
    "data.resize": ("bilinear", "bicubic", "lanczos", "box"),
    "trainer.accelerator": ("cpu", "gpu", "cuda", "auto", "mps"),
    "trainer.strategy": ("auto", "ddp"),
    "encoder.heads": ("layer", "resolution", "level"),
    "encoder.initial": ("full", "half", "quarter", "joint"),
    "features.rule": ("add", "fade", "warp", "follow", "picture"),
    "method.name": ("hyperinverter", "psp", "e4e", "restyle", "hyperstyle"),
}
_PRECISIONS: dict[str, Precision] = {
    "32": "32-true",
    "bf16": "bf16-mixed",
    "16": "16-mixed",
}  # short name -> Lightning's
_GROUPS = (
    "phase",
    "phase.optimizer",
    "domain",
    "data",
    "generator",
    "encoder",
    "loss",
    "judges",
    "logger",
    "trainer",
)
_NEEDED = (  # numbers that have no meaning when they are null
    *("phase.kimg", "phase.epoch_kimg", "phase.batch_size", "phase.optimizer.lr", "phase.warmup_kimg"),
    *("loss.l2", "loss.lpips", "loss.id", "loss.adv", "loss.adv_from_kimg", "seed"),
)
_OF_FLAGS = ("job", "hydra", "all")  # what follows --cfg and --info
FACE_JUDGES = ("id_descriptor", "id_facenet", "id_arcface")


def validate(cfg: Config) -> None:
    """Check what a run needs before anything is built.

    Raises:
        UserError: For the first value that cannot work, with its key, the value and what was expected.
    """
    check_references(cfg)
    own = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    missing = sorted(OmegaConf.missing_keys(own))
    if missing:
        raise UserError(f"{missing[0]} has no value: add {missing[0]}=... to the command")
    for key in _GROUPS:
        if not OmegaConf.is_dict(value := given(cfg, key)):
            raise UserError(
                f"{key} must be a group of options, got {value!r}: choose one by its name, or leave it out"
            )
    check_types(cfg)
    for key in (*_ABOVE_ZERO, *_NOT_NEGATIVE):
        value = given(cfg, key)
        if value is None and key not in _NEEDED:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
            raise UserError(f"{key} must be a number, got {value!r}")
        if value in (math.inf, -math.inf):
            raise UserError(f"{key} must be a finite number, got {value!r}")
        if value < 0 or (value == 0 and key in _ABOVE_ZERO):
            raise UserError(f"{key} must be {'above' if key in _ABOVE_ZERO else 'at least'} 0, got {value}")
    for key, least in _WHOLE.items():
        value = given(cfg, key)
        if value is None and key not in _NEEDED:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UserError(f"{key} must be a whole number of at least {least}, got {value!r}")
    for key, choices in _CHOICES.items():
        value = given(cfg, key)
        if value is not None and value not in choices:
            names = [str(choice) for choice in choices if choice is not None]
            raise UserError(
                f"{key} must be one of {', '.join(names)}, got {value!r}{near(str(value), names)}"
            )
    precision(cfg)
    _validate_together(cfg)


def precision(cfg: Config) -> Precision:
    """Lightning's name of ``trainer.precision``, for which people also write 32, 16 and bf16.

    Raises:
        UserError: For another one. Lightning has more, with which all weights are rounded: phase I becomes NaN in
            16 bits, and the networks that compare images stay in 32.
    """
    said = str(cfg.trainer.precision)
    known = _PRECISIONS.values()
    for name in known:
        if name == _PRECISIONS.get(said, said):
            return name
    raise UserError(f"trainer.precision must be one of {', '.join(known)}, got {said!r}{near(said, known)}")


def check_references(cfg: Config) -> None:
    """Refuse a reference to another key, such as ``${phase.kimg}``, that leads nowhere."""
    for name in [str(key) for key in cfg if key != "hydra"]:  # Hydra's own are known while it runs
        try:
            value = OmegaConf.select(cfg, name, throw_on_missing=False)
            if OmegaConf.is_config(value):
                OmegaConf.to_container(value, resolve=True)
        except OmegaConfBaseException as error:
            key, cause = error.full_key or name, first_line(error)
            raise UserError(
                f"{key} refers to something that is not there ({cause}): write the value itself, or \\${{...}} for the "
                "characters"
            ) from error


def _validate_together(cfg: Config) -> None:
    """Values that must fit each other."""
    if cfg.seed >= 1 << 32:
        raise UserError(f"seed must be a whole number from 0 to 4294967295, got {cfg.seed}")
    resolution = cfg.domain.resolution
    if resolution is not None and resolution & (resolution - 1):
        raise UserError(f"domain.resolution must be a power of two, as in StyleGAN2, got {resolution}")
    if not any(given(cfg, f"loss.{term}") for term in ("l2", "lpips", "id")):
        raise UserError(
            "loss.l2, loss.lpips and loss.id are all 0, so nothing compares the image with the photo: set one above 0"
        )
    if cfg.loss.id > 0 and not cfg.judges.identity:
        raise UserError(
            f"loss.id={cfg.loss.id} needs a network that compares: use judges.identity=id_moco (anything), id_arcface "
            "or id_facenet (faces), or set loss.id=0"
        )
    places = given(cfg, "features.places")
    if places is not None and not (OmegaConf.is_list(places) and all(isinstance(p, str) for p in places)):
        raise UserError(f"features.places must be a list of layers such as [b8.conv1], got {places!r}")
    for key in ("loss.edit_share", "loss.mirror_share"):
        share = given(cfg, key)
        number = isinstance(share, (int, float)) and not isinstance(share, bool)
        if share is not None and not (number and 0 < share <= 1):
            raise UserError(f"{key} must be a part of the batch, above 0 and at most 1, got {share!r}")
    if cfg.loss.adv > 0 and cfg.loss.adv_from_kimg >= cfg.phase.kimg:
        raise UserError(
            f"the discriminator would join after loss.adv_from_kimg={cfg.loss.adv_from_kimg} thousand photos, but "
            f"training ends at phase.kimg={cfg.phase.kimg}: lower the first or raise the second"
        )
    if cfg.phase.kimg * 1000 < cfg.phase.batch_size:
        raise UserError(
            f"phase.kimg={cfg.phase.kimg} is less than one batch of phase.batch_size={cfg.phase.batch_size} photos"
        )
    if not str(cfg.phase.monitor).startswith("val/"):
        raise UserError(
            f"phase.monitor must be a validation number such as val/l2, got {cfg.phase.monitor!r}"
        )
    _check_method(cfg)
    num_train = given(cfg, "data.num_train")
    if num_train is not None and num_train < cfg.phase.batch_size:
        raise UserError(
            f"data.num_train={num_train} photos do not fill one batch of phase.batch_size={cfg.phase.batch_size}"
        )


def _check_method(cfg: Config) -> None:
    method = given(cfg, "method.name")
    if method in ("psp", "e4e", "restyle") and cfg.phase.number != 1:
        raise UserError(f"method={method} is one encoder, which phase 1 trains: leave phase=2 out")
    if method != "hyperstyle":
        return
    if cfg.phase.number != 2:
        raise UserError("method=hyperstyle changes the generator on top of a phase I: add phase=2")
    if given(cfg, "features.places"):
        raise UserError("method=hyperstyle has no feature residuals: use features=none")
    for term in ("loss.edit", "loss.mirror"):
        if given(cfg, term):
            raise UserError(
                f"{term} is not part of method=hyperstyle, which is trained step by step: use {term}=0"
            )


def check_additions(overrides: Sequence[str], conf: Path | None = None) -> None:
    """Refuse ``+key=value`` for a key that nothing reads: most often a typo, which Hydra would accept.

    Further arguments of a class are allowed (``+phase.optimizer.weight_decay=0.01``).

    Raises:
        UserError: With the nearest names.
    """
    added = [
        item for item in parse_overrides(overrides) if item.is_add() and item.key_or_group not in ("sweep",)
    ]
    added = [item for item in added if not item.key_or_group.startswith("hydra")]
    if not added:
        return
    conf = conf or conf_dir()
    keys = all_keys(parse_overrides(overrides), conf)
    for override in added:
        key = override.key_or_group
        if (
            key in keys
            or key in INPUTS
            or key in groups_of(conf)
            or f"{key.rsplit('.', 1)[0]}._target_" in keys
        ):
            continue
        raise UserError(unknown_key(key, keys, conf))


def check_choices(overrides: Sequence[str], conf: Path) -> None:
    """Refuse an option of a group that is no name, such as ``experiment=3``, which Hydra answers with a traceback.

    Raises:
        UserError: With the names there are.
    """
    typed = [item for item in overrides if not item.startswith("-") and item not in _OF_FLAGS]
    for override in parse_overrides(typed):
        key = override.key_or_group
        options = [] if key.startswith("hydra") else options_of(conf, key)
        names = list(single_values(override.value())) if options else []
        if override.is_delete() and names == [None]:  # ``~GROUP``
            continue
        if wrong := [name for name in names if not isinstance(name, (str, Glob))]:
            raise UserError(unknown_option(key, "null" if wrong[0] is None else str(wrong[0]), options))
        for glob in (name for name in names if isinstance(name, Glob)):
            if not glob.filter(options):
                raise UserError(unknown_option(key, str(override.input_line).partition("=")[2], options))


def cautions(cfg: Config) -> list[str]:
    """What will run but is probably not meant, one sentence each."""
    found = []
    if cfg.loss.id > 0 and cfg.judges.identity in FACE_JUDGES and not cfg.domain.faces:
        found.append(
            f"loss.id={cfg.loss.id} compares {cfg.domain.name} with {cfg.judges.identity}, a network for faces: use "
            "judges.identity=id_moco or loss.id=0, or add domain.faces=true if these are faces"
        )
    return found

"""What a resumed run does with a setting that is not what it was: one entry for every key of ``conf/``.

A key takes its new value, keeps the old one, or is of no use any more. A new key needs one line in ``RESUMED``; a test
compares the table with ``conf/``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hyperinverter.config.groups import Config, compose_choices, conf_dir
from hyperinverter.config.overrides import PATHS, quote
from hyperinverter.config.values import to_dict
from hyperinverter.contracts import UserError, shown


@dataclass(frozen=True)
class Rule:
    """What happens to the new value of a key when a run is resumed.

    ``takes``: it acts. ``keeps``: it is refused. ``file``: it may be another path to the same file. ``idle``: it has
    no effect any more, which is said.
    """

    kind: Literal["takes", "keeps", "file", "idle"]
    why: str = ""  # the second half of a sentence


TAKES = Rule("takes")
SHAPE = Rule("keeps", "the weights of the run have the old shape")
PHOTOS = Rule("keeps", "best.ckpt was chosen on the old validation photos")
CHOICE = Rule("keeps", "best.ckpt was chosen by the old one")
FILE = Rule("file")
BEGUN = Rule("idle", "it decides how weights begin, and they have begun")
RECORDED = Rule("idle", "the recorded split decides, and new shares count for new photos only")
PLACE = Rule("idle", "a resumed run stays in its folder")

RESUMED: Mapping[str, Rule] = {
    "seed": Rule("keeps", "the order of the photos follows from it"),
    **dict.fromkeys(("name", "group", "resume", "debug", "check_memory"), TAKES),
    **dict.fromkeys(("panels.num_photos", "panels.num_saved", "paths.cache"), TAKES),
    "paths.outputs": PLACE,
    "phase.number": Rule("keeps", "the other phase is another run"),
    **dict.fromkeys(("phase.kimg", "phase.epoch_kimg", "phase.batch_size", "phase.lr_batch"), TAKES),
    **dict.fromkeys(("phase.accumulate", "phase.ema_kimg", "phase.checkpointing"), TAKES),
    **dict.fromkeys(("phase.schedule", "phase.warmup_kimg", "phase.rank_by"), TAKES),
    "phase.from_run": FILE,
    **dict.fromkeys(("phase.monitor", "phase.monitor_mode"), CHOICE),
    "phase.optimizer": TAKES,  # and every argument of the class
    "phase.optimizer._target_": Rule("keeps", "its state in the checkpoint is the old optimizer's"),
    **dict.fromkeys(("phase.optimizer.lr", "phase.optimizer.betas", "phase.optimizer.momentum"), TAKES),
    "domain.name": Rule("keeps", "another domain is another run"),
    "domain.resolution": SHAPE,
    "domain.faces": TAKES,
    "data.source": Rule(
        "keeps", "other photos are another run; phase.from_run and checkpoints carry weights over"
    ),
    **dict.fromkeys(("data.root", "data.num_train", "data.num_test", "data.num_workers"), TAKES),
    **dict.fromkeys(("data.flip", "data.split", "data.decoded", "data.skip_unreadable"), TAKES),
    **dict.fromkeys(("data.num_val", "data.resize", "data.fit", "data.white"), PHOTOS),
    **dict.fromkeys(("data.val_fraction", "data.test_fraction"), RECORDED),
    "generator.path": FILE,
    **dict.fromkeys(("encoder.backbone", "encoder.features_backbone"), SHAPE),  # and every argument of theirs
    **dict.fromkeys(("encoder.head", "encoder.heads", "encoder.initial"), SHAPE),
    **dict.fromkeys(("encoder.start", "encoder.start_path"), BEGUN),
    "method.name": Rule("keeps", "another method is another run"),
    **dict.fromkeys(
        ("method.channels", "method.pool", "method.iterations", "method.hidden_dim", "method.scale"), SHAPE
    ),
    **dict.fromkeys(("method.first_share", "method.deltas_share", "method.delta", "method.latent"), TAKES),
    **dict.fromkeys(("method.latent_lr", "method.latent_r1", "method.latent_r1_every"), TAKES),
    "fusion": SHAPE,
    "coverage.include": SHAPE,
    **dict.fromkeys(("features.places", "features.width"), SHAPE),
    "features.scale": Rule("keeps", "the weights of the run were trained with the old one"),
    "features.rule": TAKES,
    **dict.fromkeys(("method.edit_strength", "method.edit_gain"), TAKES),
    **dict.fromkeys(("hypernet.hidden_dim", "hypernet.channels", "hypernet.extractor_channels"), SHAPE),
    "hypernet.activation": Rule("keeps", "the weights of the run were trained with the old one"),
    "hypernet.residual_scale": Rule("keeps", "the weights of the run were trained with the old one"),
    "hypernet.init": BEGUN,
    **dict.fromkeys(("loss.l2", "loss.lpips", "loss.lpips_share", "loss.id"), TAKES),
    **dict.fromkeys(("loss.edit", "loss.edit_share", "loss.mirror", "loss.mirror_share"), TAKES),
    "loss.adv": TAKES,  # from 0 and to 0 it is refused: see ``_no_discriminator``
    **dict.fromkeys(("loss.adv_from_kimg", "loss.adv_batch_size", "loss.r1_gamma", "loss.r1_every"), TAKES),
    **dict.fromkeys(("judges.perceptual", "judges.lpips", "judges.identity"), TAKES),
    **dict.fromkeys(("judges.lpips_path", "judges.identity_path"), TAKES),
    **dict.fromkeys(("trainer.accelerator", "trainer.devices", "trainer.num_nodes"), TAKES),
    **dict.fromkeys(("trainer.strategy", "trainer.timeout", "trainer.precision"), TAKES),
    **dict.fromkeys(("trainer.deterministic", "trainer.max_epochs"), TAKES),
    **dict.fromkeys(("trainer.limit_train_batches", "trainer.limit_val_batches"), TAKES),
    **dict.fromkeys(("trainer.limit_test_batches", "trainer.log_every", "trainer.save_every_kimg"), TAKES),
    **dict.fromkeys(("logger.kind", "logger.project", "logger.entity", "logger.mode"), TAKES),
    **dict.fromkeys(("logger.timeout", "logger.artifacts", "logger.sweep"), TAKES),
    **dict.fromkeys(("evaluation.protocol", "evaluation.n"), TAKES),
    **dict.fromkeys(("evaluation.save_images", "evaluation.time"), TAKES),
    "hydra": TAKES,  # how jobs are started, of which a record brings nothing back but numbers and words
    "protocol": TAKES,  # of `hyperinverter evaluate`, which resumes nothing
}


@dataclass
class Changes:
    """Settings that a resumed run takes, and sentences about those that have no effect."""

    taken: dict[str, tuple[Any, Any]] = field(default_factory=dict)  # key -> old value, new value
    idle: list[str] = field(default_factory=list)


def rule(key: str) -> Rule | None:
    """The entry of a key, or of the nearest node above it; None if there is none."""
    while key:
        if key in RESUMED:
            return RESUMED[key]
        key = key.rpartition(".")[0]
    return None


def changes(before: Config, now: Config) -> Changes:
    """What is new in the configuration of a resumed run.

    Args:
        before: As the run was when it was saved, with everything settled.
        now: As composed; what it leaves open is settled as before.

    Raises:
        UserError: For the first key that must keep its value, with both values.
    """
    old, new = flat(to_dict(before)), flat(to_dict(now))
    old |= _as_before(old, new)
    found = Changes()
    for key in dict.fromkeys((*RESUMED, *old, *new)):
        if _same(key, old.get(key), new.get(key)) or _unknown(key, old) or _unknown(key, new):
            continue
        kept = rule(key) or TAKES
        was, is_now = (shown(quote(values.get(key))) for values in (old, new))
        values = f"{key} was {was} when this run was saved and is {is_now} now"
        why = _no_discriminator(key, old.get(key), new.get(key)) or kept.why
        if kept.kind == "keeps" or (why and kept.kind == "takes"):
            if new.get(key) is None and key == "domain.resolution":  # left open: the generator's own
                continue
            raise UserError(f"{values}, but {why}: resume without it, or start a new run")
        if kept.kind == "idle":
            found.idle.append(f"{values}; this changes nothing: {why}")
        elif kept.kind == "takes" and key not in ("resume", "debug"):
            found.taken[key] = (old.get(key), new.get(key))
    return found


def flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{a: {b: 1}}`` as ``{"a.b": 1}``; lists are values."""
    found: dict[str, Any] = {}
    for name, value in node.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def _unknown(key: str, values: Mapping[str, Any]) -> bool:
    """Whether a configuration knows nothing of a key: it is of another version, or the key was typed with a plus."""
    while key:
        if key in values:
            return False
        key = key.rpartition(".")[0]
    return True


def _same(key: str, old: Any, new: Any) -> bool:
    """Whether two values are the same; of paths, whether they lead to the same place."""
    if key in PATHS and isinstance(old, str) and isinstance(new, str) and old and new:
        return Path(old).expanduser().absolute() == Path(new).expanduser().absolute()
    return bool(old == new)


def _as_before(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Values that decide about weights and did not exist yet when a run was saved: it ran as the defaults of today."""
    born = [key for key in new if (rule(key) or TAKES).kind == "keeps" and _unknown(key, old)]
    if not born:
        return {}
    default = flat(to_dict(compose_choices([], conf_dir())))
    return {key: default[key] for key in born if key in default}


def _no_discriminator(key: str, old: Any, new: Any) -> str:
    if key == "loss.adv" and bool(old) != bool(new):
        return f"the checkpoint holds {'a' if old else 'no'} discriminator"
    return ""

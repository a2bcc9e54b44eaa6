"""What kind of value each key takes: a table, so that no library has to trip over a wrong one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from omegaconf import OmegaConf

from hyperinverter.config.groups import Config
from hyperinverter.config.values import given
from hyperinverter.contracts import UserError, shown
from hyperinverter.system.files import as_path


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_limit(value: Any) -> bool:
    return _is_whole(value, 0) or (isinstance(value, float) and 0 <= value <= 1)


def _is_list_of_texts(value: Any) -> bool:
    return OmegaConf.is_list(value) and all(isinstance(item, str) for item in value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_path(value: Any) -> bool:
    if not _is_text(value):
        return False
    as_path(value)  # says what is wrong with it
    return True


def _is_name(value: Any) -> bool:
    return isinstance(value, (str, int, float))


_SWITCH = (lambda value: value in (True, False), "true or false")
_PATH = (_is_path, "a path")
_NAME = (_is_name, "a name")
_TEXT = (_is_text, "a name")
_LIMIT = (_is_limit, "a whole number, or a share from 0.0 to 1.0")

# key -> whether a value fits, and what it must be. Null is refused where a key is in ``_NOT_NULL``.
_TYPES: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("data.flip", "data.skip_unreadable", "debug", "check_memory", "domain.faces"), _SWITCH),
    **dict.fromkeys(
        ("logger.artifacts", "logger.sweep", "evaluation.save_images", "evaluation.time"), _SWITCH
    ),
    "trainer.deterministic": (lambda value: value in (True, False, "warn"), "true, false or warn"),
    **dict.fromkeys(("data.split", "encoder.start_path", "judges.lpips_path", "judges.identity_path"), _PATH),
    **dict.fromkeys(("generator.path", "phase.from_run", "paths.outputs", "paths.cache", "resume"), _PATH),
    **dict.fromkeys(("name", "group"), _NAME),
    **dict.fromkeys(("domain.name", "judges.perceptual", "judges.lpips", "judges.identity"), _TEXT),
    **dict.fromkeys(("trainer.accelerator", "trainer.strategy"), _TEXT),
    "data.root": (lambda value: value == "" or _is_path(value), "a path"),  # an empty one is said elsewhere
    "coverage.include": (_is_list_of_texts, "a list such as [b16,b32]"),
    "loss.lpips_share": (lambda value: _is_number(value) and 0 < value <= 1, "above 0 and at most 1"),
    **dict.fromkeys(
        ("data.val_fraction", "data.test_fraction"),
        (lambda value: _is_number(value) and 0 <= value < 1, "a share from 0 to below 1"),
    ),
    "method.edit_strength": (lambda value: _is_number(value) and 0 <= value <= 1, "a number from 0 to 1"),
    "method.edit_gain": (lambda value: _is_number(value) and 0 < value <= 4, "above 0 and at most 4"),
    "trainer.timeout": (lambda value: _is_number(value) and value > 0, "a number of seconds above 0"),
    "trainer.save_every_kimg": (lambda value: _is_number(value) and value >= 0, "a number of at least 0"),
    "trainer.num_nodes": (lambda value: _is_whole(value, 1), "a whole number of at least 1"),
    "trainer.max_epochs": (lambda value: _is_whole(value, 0), "a whole number, or null for no limit"),
    **dict.fromkeys([f"trainer.limit_{name}_batches" for name in ("train", "val", "test")], _LIMIT),
}
_NOT_NULL = {
    *("generator.path", "paths.outputs", "paths.cache", "judges.perceptual", "judges.lpips", "domain.name"),
    *("trainer.accelerator", "trainer.strategy", "coverage.include", "loss.lpips_share", "trainer.timeout"),
    *(
        "trainer.num_nodes",
        "trainer.save_every_kimg",
        "phase.accumulate",
        "features.scale",
        "method.edit_strength",
        "method.edit_gain",
    ),
}
_GROUPS = ("panels", "paths", "evaluation", "features", "hypernet", "method", "coverage")


def _check_sizes(key: str, value: Any) -> None:
    """Refuse whole numbers that no computation takes, at any depth."""
    if isinstance(value, int) and abs(value) >= 1 << 63:
        raise UserError(f"{key} must be a number below 2**63, got {shown(value)}")
    if OmegaConf.is_dict(value):
        for name in value:
            _check_sizes(f"{key}.{name}", given(value, str(name)))
    elif OmegaConf.is_list(value):
        for item in value:
            _check_sizes(key, item)


def check_types(cfg: Config) -> None:
    """Refuse the first value that is of another kind than its key takes.

    Raises:
        UserError: With the key, the value and what it must be.
    """
    for name in (str(name) for name in cfg if name != "hydra"):  # Hydra's own are known while it runs
        _check_sizes(name, given(cfg, name))
    for key in _GROUPS:
        if key in cfg and not OmegaConf.is_dict(given(cfg, key)):
            raise UserError(
                f"{key} must be a group of options, got {shown(given(cfg, key))}: choose one by its name, or leave it "
                "out"
            )
    for key in _NOT_NULL:
        group, _, name = key.rpartition(".")
        if group in cfg and name in cfg[group] and given(cfg, key) is None:
            raise UserError(f"{key} must have a value, got null: leave it out for its default")
    for key, (fits, wanted) in _TYPES.items():
        value = given(cfg, key)
        try:
            right = value is None or fits(value)
        except UserError as error:  # of a path
            raise UserError(f"{key}={shown(value)}: {error}") from error
        if not right:
            raise UserError(f"{key} must be {wanted}, got {value!r}")

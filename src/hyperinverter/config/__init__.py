"""The configuration: what was typed, whether it makes sense, and the objects it describes.

With ``sweeps`` and train.py the only part of the project that knows Hydra and OmegaConf. Nothing here loads torch, so
that a typo is answered at once.
"""

from hyperinverter.config.checks import (
    FACE_JUDGES,
    cautions,
    check_additions,
    check_references,
    precision,
    validate,
)
from hyperinverter.config.entry import compose, front_door
from hyperinverter.config.explain import diagnose
from hyperinverter.config.groups import Config, conf_dir, groups_of, options_of
from hyperinverter.config.overrides import INPUTS, normalise_overrides, parse_overrides, quote
from hyperinverter.config.resuming import RESUMED, Changes, Rule, changes, flat, rule
from hyperinverter.config.values import (
    build,
    complete_paths,
    given,
    load,
    option,
    run_dir,
    save,
    task_overrides,
    to_dict,
)

__all__ = [
    "FACE_JUDGES",
    "INPUTS",
    "RESUMED",
    "Changes",
    "Config",
    "Rule",
    "build",
    "cautions",
    "changes",
    "check_additions",
    "check_references",
    "complete_paths",
    "compose",
    "conf_dir",
    "diagnose",
    "flat",
    "front_door",
    "given",
    "groups_of",
    "load",
    "normalise_overrides",
    "option",
    "options_of",
    "parse_overrides",
    "precision",
    "quote",
    "rule",
    "run_dir",
    "save",
    "task_overrides",
    "to_dict",
    "validate",
]

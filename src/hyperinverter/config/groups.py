"""The folder of options, and the configuration that some choices from it make."""

import os
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import overload

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from hyperinverter.contracts import UserError
from hyperinverter.system.command import train_command
from hyperinverter.system.processes import moment

Config = DictConfig
_OURS = Path("domain", "digiface.yaml")  # other projects have a conf/config.yaml too

OmegaConf.register_new_resolver("train_command", train_command, replace=True)  # for the help text
OmegaConf.register_new_resolver("moment", moment, replace=True)  # names of folders in conf/ use it


@overload
def environment(name: str, default: str) -> str: ...
@overload
def environment(name: str, default: None = None) -> str | None: ...
def environment(name: str, default: str | None = None) -> str | None:
    """A variable of the environment, with ``~`` written out; one that is empty counts as not set."""
    return os.path.expanduser(os.environ.get(name, "").strip()) or default


OmegaConf.register_new_resolver("environment", environment, replace=True)


def conf_dir() -> Path:
    """The folder ``conf/``: next to the script, of this file's checkout, here, or as it was installed.

    Raises:
        UserError: If there is none.
    """
    places = [Path(sys.argv[0]).resolve().parent, Path(__file__).resolve().parents[3], Path.cwd()]
    folders = [place / "conf" for place in places]
    folders.append(Path(str(resources.files("hyperinverter") / "conf")))
    for folder in folders:
        if (folder / "config.yaml").is_file() and (folder / _OURS).is_file():
            return folder
    raise UserError(f"the folder {folders[-1]} is missing; install hyperinverter again")


def compose_choices(overrides: Sequence[str], conf: Path) -> Config:
    """The configuration that overrides in Hydra's own grammar make; errors arrive as Hydra raises them."""
    busy = GlobalHydra.instance().hydra  # composing inside a running job must not disturb it
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf), version_base="1.3"):
            return hydra_compose("config", list(overrides))
    finally:
        if busy is not None:
            GlobalHydra.instance().initialize(busy)


def options_of(conf: Path, group: str) -> list[str]:
    """Names that can follow ``GROUP=``, or an empty list if there is no such group."""
    folder = conf / group
    if not folder.is_dir():
        return []
    return sorted(path.stem for path in folder.glob("*.yaml"))


def groups_of(conf: Path) -> list[str]:
    """Names of the groups a run chooses from; one's own defaults and the protocols of ``evaluate`` are none."""
    return sorted(
        path.name
        for path in conf.iterdir()
        if options_of(conf, path.name) and path.name not in ("local", "protocol")
    )


def default_groups(conf: Path) -> set[str]:
    """Names of the groups that ``config.yaml`` chooses from without being asked."""
    defaults = OmegaConf.to_container(OmegaConf.load(conf / "config.yaml"), resolve=False)
    assert isinstance(defaults, dict)
    return {str(name) for item in defaults["defaults"] if isinstance(item, dict) for name in item}

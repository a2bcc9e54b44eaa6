"""Values, objects and files of a configuration, and what Hydra knows about the running job."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from hyperinverter.config.groups import Config, conf_dir, options_of
from hyperinverter.config.targets import check_classes, check_targets
from hyperinverter.contracts import UserError, shown
from hyperinverter.system.errors import first_line
from hyperinverter.system.files import write_text

_LARGEST = 1 << 18  # bytes of a configuration; a run's has 5,000


def build(node: Config, *given: Any, **objects: Any) -> Any:
    """The object a leaf describes: ``_target_`` called with the leaf's values and the given objects.

    Raises:
        UserError: If the class is not one that a configuration may name, cannot be found, or refuses its arguments.
    """
    check_classes([OmegaConf.to_container(node, resolve=True), *given, objects])
    try:
        return instantiate(node, *given, _convert_="all", **objects)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, UserError):
            raise cause from error
        target = OmegaConf.select(node, "_target_")
        detail = first_line(cause if isinstance(cause, Exception) else error)
        raise UserError(f"{target} cannot be built from the configuration: {detail}") from error


def given(cfg: Config, key: str) -> Any:
    """The value of a key, None where it is null or still to be given."""
    return OmegaConf.select(cfg, key, throw_on_missing=False)


def complete_paths(cfg: Config, keys: Iterable[str]) -> None:
    """Write out the paths under these keys, so that they lead to the same place from another folder."""
    for key in keys:
        path = given(cfg, key)
        if isinstance(path, str) and path and Path(path).expanduser().exists():
            OmegaConf.update(cfg, key, str(Path(path).expanduser().absolute()))


def to_dict(cfg: Config) -> dict[str, Any]:
    """The configuration as plain dictionaries, every reference resolved."""
    plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=False)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def save(cfg: Config, path: Path) -> None:
    """Write the resolved configuration as YAML."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, OmegaConf.to_yaml(OmegaConf.create(to_dict(cfg))))


def load(path: Path) -> Config:
    """Read a configuration that ``save`` wrote, of this project or of someone else's run.

    Raises:
        UserError: If the file is missing, is not a configuration, or names classes that are not built.
    """
    try:
        if not path.is_file():  # a link to a device would be read for ever
            raise FileNotFoundError(path)
        text = path.read_text(encoding="utf-8") if path.stat().st_size <= _LARGEST else ""
        # an alias repeats what was written before; a few of them can stand for more than fits in memory
        if not text or any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise ValueError("it is empty, larger than any of a run, or repeats itself by references")
        cfg = OmegaConf.create(text)
    except FileNotFoundError as error:
        raise UserError(f"there is no {path}; give the folder of a run, which holds config.yaml") from error
    except Exception as error:  # the YAML library has a family of its own
        cause = shown(first_line(error), 200)
        raise UserError(
            f"{path} is not a readable configuration: {cause}; give the folder of another run"
        ) from error
    if not isinstance(cfg, DictConfig):
        raise UserError(f"{path} is not a configuration but a list; give the folder of another run")
    plain = OmegaConf.to_container(cfg, resolve=False)
    check_targets(plain, path)
    return OmegaConf.create(_as_text(plain))


def _as_text(value: Any) -> Any:
    """The same values, with every ``${...}`` as the text that it is.

    A saved configuration holds values. A reference in one of someone else would read this machine's environment.
    """
    if isinstance(value, dict):
        return {key: _as_text(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_text(item) for item in value]
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", lambda found: f"{found[1] * 2}\\${{", value)
    return value


def option(group: str, name: str) -> dict[str, Any]:
    """The content of a file of ``conf/GROUP``, by its name, or of a file of your own, such as a protocol.

    Raises:
        UserError: If there is none of this name.
    """
    names, own = options_of(conf_dir(), group), Path(name).expanduser()
    if name not in names and not (own.suffix in (".yaml", ".yml") and own.is_file()):
        raise UserError(
            f"there is no {group} {shown(name)!r}; there are: {', '.join(names)}, or give a file ending in .yaml"
        )
    return to_dict(load(conf_dir() / group / f"{name}.yaml" if name in names else own))


def run_dir() -> Path:
    """The folder of the running job."""
    return Path(HydraConfig.get().runtime.output_dir)


def task_overrides() -> list[str]:
    """What was typed for the running job; an empty list outside Hydra."""
    if not HydraConfig.initialized():
        return []
    return [str(override) for override in HydraConfig.get().overrides.task]

"""The configuration: what was typed, whether it makes sense, objects from leaves.

The only module of the package that knows Hydra and OmegaConf, beside train.py and the launcher plugin.
"""

import difflib
import functools
import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, InstantiationException, OverrideParseException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hyperinverter.contracts import UserError
from hyperinverter.runcard import CARD, held, read_card

Config = DictConfig
SWEEP = "sweep.json"  # what a sweep is, beside its numbered jobs

_STARTED = datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")[:-3]  # one name per process, to the millisecond


@functools.cache
def moment() -> str:
    """When this run began, as its folder says it: the same in all processes that torchrun or srun started.

    Raises:
        UserError: Under torchrun, if its processes cannot be asked.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE") or 1) > 1:
        return _agreed(_STARTED)
    if "SLURM_STEP_ID" in os.environ and int(os.environ.get("SLURM_NTASKS") or 1) > 1:
        return f"slurm-{os.environ['SLURM_JOB_ID']}-{os.environ['SLURM_STEP_ID']}"
    return _STARTED


def _agreed(mine: str) -> str:
    """What the first process to ask has said, through the store that torchrun keeps for its processes."""
    from torch.distributed import TCPStore

    try:
        place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = TCPStore(*place, is_master=False, timeout=timedelta(seconds=60))
        return store.compare_set(f"hyperinverter/{os.environ['TORCHELASTIC_RUN_ID']}", "", mine).decode()
    except (KeyError, ValueError, RuntimeError) as error:
        raise UserError(
            f"the processes of this run cannot agree on a folder ({str(error).splitlines()[0]}): give them one with "
            "hydra.run.dir=PATH"
        ) from error


OmegaConf.register_new_resolver("moment", moment, replace=True)


# What was typed ------------------------------------------------------------------------------------------


def normalise_overrides(arguments: Sequence[str]) -> list[str]:
    """Turn the short spellings of the command line into what Hydra's grammar accepts.

    ``+sweep`` becomes ``+sweep=default``; ``phase=2`` becomes ``phase='2'``; ``data.root=PATH`` alone also
    chooses ``data=folder``; ``generator=FILE`` becomes ``generator.path=FILE`` and, alone, also chooses
    ``domain=own``; ``resume=RUN`` brings back that run's overrides and folder; ``resume=SWEEP`` brings back
    the sweep's command; ``resume=auto`` is ``resume=RUN`` for the newest unfinished run of the same command, if there
    is one; ``-m`` moves to the front. The rest stays as it is.

    Raises:
        UserError: If ``resume`` names something that is neither a run folder, nor a checkpoint in one, nor a sweep.
    """
    typed = [_normalise(argument) for argument in arguments]
    has_domain = _typed(typed, "domain") is not None or _typed(typed, "experiment") not in (None, "null")
    file = _typed(typed, "generator")
    if file is not None and _is_file_name(file):
        typed = [f"generator.path={quote(file)}" if _key(item) == "generator" else item for item in typed]
        if not has_domain:
            typed.insert(0, "domain=own")
            has_domain = True
    if _typed(typed, "data.root") is not None and _typed(typed, "data") is None and not has_domain:
        typed.insert(0, "data=folder")
    typed.sort(key=lambda item: item not in ("-m", "--multirun"))  # argparse loses overrides after a flag
    resume = _typed(typed, "resume")
    if resume in (None, "", "null") or _typed(typed, "hydra.run.dir") is not None:
        return typed
    if resume == "auto":
        unfinished = _unfinished(typed)
        return typed if unfinished is None else _resumed(typed, str(unfinished))
    return _resumed(typed, str(resume))


def _normalise(argument: str) -> str:
    if argument == "+sweep":
        return "+sweep=default"
    match = re.fullmatch(r"phase=([0-9,]+)", argument)
    if match:
        return "phase=" + ",".join(f"'{number}'" for number in match[1].split(","))
    return argument


def _key(argument: str) -> str:
    return argument.split("=", 1)[0].lstrip("+")


def _is_file_name(value: str) -> bool:
    """Whether a value means a file: it has a folder or an ending in it, which no option's name has."""
    return "/" in value or "\\" in value or "." in value


def _typed(arguments: Iterable[str], key: str) -> str | None:
    """The last value given for a key, without quotes; None if it was not typed."""
    values = [a.split("=", 1)[1] for a in arguments if _key(a) == key and "=" in a]
    return values[-1].strip("'\"") if values else None


def _unfinished(typed: Sequence[str]) -> Path | None:
    """The newest run of the same command that has not finished and that nobody is working on."""
    command = sorted(i for i in typed if not i.startswith(("resume=", "hydra.", "-")))
    outputs = _typed(typed, "paths.outputs") or os.environ.get("HYPERINVERTER_OUTPUTS") or "outputs"
    found = []
    for path in (Path(outputs).expanduser() / "runs").glob(f"*/{CARD}"):
        card = read_card(path.parent) or {}
        before = [str(item) for item in card.get("overrides") or []]
        same = sorted(item for item in before if not item.startswith("resume=")) == command
        if same and card.get("status") != "finished" and not held(path.parent):
            found.append((str(card.get("started")), path.parent))
    return max(found)[1] if found else None


def _resumed(typed: list[str], resume: str) -> list[str]:
    place = Path(resume).expanduser()
    if (place / SWEEP).is_file():
        return _resumed_sweep(typed, place)
    run = place.parent.parent if place.is_file() else place
    try:
        before = json.loads((run / "run.json").read_text(encoding="utf-8"))["overrides"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"resume={resume} is not a run: {run / 'run.json'} is missing or unreadable"
        ) from error
    again = ("resume", "hydra.run.dir", "hydra.mode")
    before = [item for item in before if item.split("=", 1)[0] not in again]
    return [*before, *typed, "hydra.mode=RUN", f"hydra.run.dir={quote(str(run))}"]


def _resumed_sweep(typed: list[str], sweep: Path) -> list[str]:
    try:
        before = json.loads((sweep / SWEEP).read_text(encoding="utf-8"))["typed"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"resume={sweep} cannot be resumed: its {SWEEP} does not say what was typed for it; resume its jobs "
            f"one by one with resume={sweep}/N"
        ) from error
    again = ("resume", "hydra.sweep.dir")
    rest = [item for item in typed if item.split("=", 1)[0] not in again and item not in before]
    before = [item for item in before if item.split("=", 1)[0] not in again]
    return [*before, *rest, f"hydra.sweep.dir={quote(str(sweep))}"]


def quote(value: Any) -> str:
    """A value as Hydra's override grammar reads it back: ``a b`` becomes ``'a b'``, lists and numbers stay."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)) or OmegaConf.is_list(value):
        return "[" + ",".join(quote(item) for item in value) + "]"
    if isinstance(value, dict) or OmegaConf.is_dict(value):
        return "{" + ",".join(f"{key}:{quote(item)}" for key, item in value.items()) + "}"
    text = str(value)
    plain = re.fullmatch(r"[A-Za-z_/~][\w./~@-]*", text) and text.lower() not in (
        "null",
        "true",
        "false",
        "nan",
        "inf",
    )
    if plain:
        return text
    escaped = re.sub(r"(\\+)(?='|$)", r"\1\1", text).replace("'", r"\'")
    return f"'{escaped}'"


def parse_overrides(arguments: Sequence[str]) -> list[Override]:
    """Read overrides with Hydra's grammar.

    Raises:
        UserError: If one of them cannot be read.
    """
    try:
        return OverridesParser.create().parse_overrides(list(arguments))
    except OverrideParseException as error:
        raise UserError(_unreadable(error)) from error


# Composing and reporting ---------------------------------------------------------------------------------


def conf_dir() -> Path:
    """The folder ``conf/`` of the checkout, found from this file, from the script, or from the working folder.

    Raises:
        UserError: If there is none.
    """
    places = [Path(__file__).resolve().parents[2], Path(sys.argv[0]).resolve().parent, Path.cwd()]
    for place in places:
        if (place / "conf" / "config.yaml").is_file():
            return place / "conf"
    raise UserError(
        f"no conf/config.yaml beside {places[0]} or in {places[-1]}; run from a checkout of the project"
    )


def compose(overrides: Sequence[str] = (), conf: Path | None = None) -> Config:
    """The configuration of one job, without running anything.

    Args:
        overrides: As typed after ``python train.py``.
        conf: The folder of groups; default ``conf/`` of the checkout.

    Raises:
        UserError: For a typo in a group, an option or a key, with the nearest names.
    """
    conf = conf or conf_dir()
    typed = normalise_overrides(overrides)
    check_additions([item for item in typed if not item.startswith("-")], conf)
    try:
        return _compose(typed, conf)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(diagnose(error, typed, conf)) from error


def _compose(overrides: Sequence[str], conf: Path) -> Config:
    busy = GlobalHydra.instance().hydra  # composing inside a running job must not disturb it
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf), version_base="1.3"):
            return hydra_compose("config", list(overrides))
    finally:
        if busy is not None:
            GlobalHydra.instance().initialize(busy)


def front_door(main: Callable[[], Any]) -> NoReturn:
    """Run Hydra's ``main``; every expected failure is one sentence on stderr and exit status 1.

    Tracebacks appear with ``debug=true`` on the command line or ``HYPERINVERTER_DEBUG=1``.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its exceptions to us instead of printing them
    debug = os.environ.get("HYPERINVERTER_DEBUG") == "1" or _typed(sys.argv[1:], "debug") in (
        "true",
        "True",
        "1",
    )
    try:
        sys.argv[1:] = normalise_overrides(sys.argv[1:])
        if int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0) > 0:
            sys.argv.append(
                "hydra.output_subdir=null"
            )  # what was typed is written by the first process alone
        main()
    except UserError as error:
        _fail(str(error), debug)
    except (HydraException, OmegaConfBaseException) as error:
        _fail(diagnose(error, sys.argv[1:], conf_dir()), debug)
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted\n")
        sys.exit(130)
    sys.exit(0)


def _fail(sentence: str, debug: bool) -> NoReturn:
    if debug:
        traceback.print_exc()
    sys.stderr.write(f"error: {sentence}\n")
    sys.exit(1)


def diagnose(error: Exception, overrides: Sequence[str], conf: Path) -> str:
    """Say in one sentence which override is wrong and what was probably meant."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            return str(cause)
        if isinstance(cause, OverrideParseException):
            return _unreadable(cause)
        cause = cause.__cause__
    try:
        parsed = parse_overrides([o for o in overrides if not o.startswith("-")])
    except UserError as unreadable:
        return str(unreadable)
    sweeping = (
        any(o.key_or_group == "sweep" for o in parsed) or "-m" in overrides or "--multirun" in overrides
    )
    keys: list[str] | None = None
    for override in parsed:
        key = override.key_or_group
        if key.startswith("hydra"):
            continue
        options = options_of(conf, key)
        if options:
            wrong = [value for value in _values(override) if value not in options and value != "null"]
            if wrong:
                return _unknown_option(key, wrong[0], options)
        elif not override.is_force_add():
            keys = keys if keys is not None else _all_keys(parsed, conf)
            if key not in keys:
                return _unknown_key(key, keys, conf)
        if options and override.is_add() and key != "sweep" and key in _defaults(conf):
            return f"'{override.input_line}' has a plus too many: write {key}={override.value()}"
        if override.is_sweep_override() and not sweeping:
            return (
                f"'{override.input_line}' gives several values to {key}, which is a sweep: add -m for all "
                "combinations or +sweep for a study around them"
            )
    return _first_sentence(error)


def _unreadable(error: OverrideParseException) -> str:
    return (
        f"cannot read the override '{error.override}': write KEY=VALUE, and put values with spaces, commas, "
        "brackets or equals signs in quotes (\"key='a,b'\")"
    )


def _values(override: Override) -> list[str]:
    if override.is_sweep_override() and override.is_discrete_sweep():
        return [str(value).strip("'\"") for value in override.sweep_string_iterator()]
    return [str(override.value()).strip("'\"")]


def options_of(conf: Path, group: str) -> list[str]:
    """Names that can follow ``GROUP=``, or an empty list if there is no such group."""
    folder = conf / group
    if not folder.is_dir():
        return []
    return sorted(path.stem for path in folder.glob("*.yaml"))


def groups_of(conf: Path) -> list[str]:
    """Names of the groups a run chooses from."""
    return sorted(
        path.name for path in conf.iterdir() if options_of(conf, path.name) and path.name != "local"
    )


def _defaults(conf: Path) -> set[str]:
    defaults = OmegaConf.to_container(OmegaConf.load(conf / "config.yaml"), resolve=False)
    assert isinstance(defaults, dict)
    return {str(name) for item in defaults["defaults"] if isinstance(item, dict) for name in item}


def _unknown_option(group: str, value: str, options: list[str]) -> str:
    shown = [option for option in options if not option.startswith("_")]
    return f"{group} has no option '{value}'{_near(value, shown)}; there are: {', '.join(shown)}".replace(
        "?;", "?"
    )


def _unknown_key(key: str, keys: list[str], conf: Path) -> str:
    groups = groups_of(conf)
    near = difflib.get_close_matches(key, list(dict.fromkeys([*groups, *keys])), n=1, cutoff=0.6)
    if not near:  # "epoch_kimg" without its group is meant more often than something spelt alike
        near = [name for name in keys if name.split(".")[-1] == key.split(".")[-1]][:3]
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    parent = key.rsplit(".", 1)[0]
    siblings = [
        n
        for n in keys
        if "." in key and n.startswith(f"{parent}.") and not n.rsplit(".", 1)[1].startswith("_")
    ]
    siblings = [n for n in siblings if "." not in n[len(parent) + 1 :]]
    listed = f"; {parent} has: {', '.join(name[len(parent) + 1 :] for name in siblings)}" if siblings else ""
    if not listed:
        listed = f"; groups are: {', '.join(groups)}; `python train.py --help` lists every key"
    return f"there is no '{key}'{hint}{listed}".replace("?;", "?")


def _near(value: str, options: Iterable[str]) -> str:
    near = difflib.get_close_matches(value, list(options), n=1, cutoff=0.5)
    return f", did you mean '{near[0]}'?" if near else ""


def _all_keys(parsed: Sequence[Override], conf: Path) -> list[str]:
    """Every key of the configuration that the valid group choices lead to."""
    good = []
    for override in parsed:
        key, options = override.key_or_group, options_of(conf, override.key_or_group)
        if (
            options
            and not override.is_sweep_override()
            and _values(override)[0] in options
            and key != "sweep"
        ):
            good.append(
                f"{key}={quote(_values(override)[0])}"
                if key != "phase"
                else f"phase='{_values(override)[0]}'"
            )
    try:
        cfg = _compose(good, conf)
    except (HydraException, OmegaConfBaseException):
        cfg = _compose([], conf)
    return sorted(_flat(OmegaConf.to_container(cfg, resolve=False)))


def _flat(node: Any, prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")


def _first_sentence(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if error.__cause__ is not None and isinstance(error.__cause__, OmegaConfBaseException):
        lines += [line.strip() for line in str(error.__cause__).splitlines() if line.strip()][:1]
    text = "; ".join(lines[:2]) or type(error).__name__
    return f"the configuration cannot be composed: {text}"


# Checking ------------------------------------------------------------------------------------------------

_POSITIVE = ("phase.kimg", "phase.epoch_kimg", "phase.ema_kimg", "phase.optimizer.lr", "loss.r1_gamma")
_NOT_NEGATIVE = ("phase.warmup_kimg", "loss.l2", "loss.lpips", "loss.id", "loss.adv", "loss.adv_from_kimg")
_WHOLE = {  # key -> least value
    "phase.batch_size": 1,
    "phase.lr_batch": 1,
    "phase.accumulate": 1,
    "seed": 0,
    "domain.resolution": 4,
    "hypernet.hidden_dim": 1,
    "hypernet.channels": 1,
    "loss.r1_every": 1,
    "loss.adv_batch_size": 1,
    "data.num_train": 1,
    "data.num_val": 1,
    "data.num_test": 1,
    "data.num_workers": 0,
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
    "data.source": ("digiface", "folder"),
    "encoder.start": ("phase1", "published", "random"),
    "encoder.heads": ("layer", "resolution", "level"),
    "encoder.initial": ("full", "half", "quarter"),
}


def validate(cfg: Config) -> None:
    """Check what a run needs before anything is built.

    Raises:
        UserError: For the first value that cannot work, with its key, the value and what was expected.
    """
    own = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    missing = sorted(OmegaConf.missing_keys(own))
    if missing:
        raise UserError(f"{missing[0]} has no value: add {missing[0]}=... to the command")
    for key in (*_POSITIVE, *_NOT_NEGATIVE):
        value = _select(cfg, key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
            raise UserError(f"{key} must be a number, got {value!r}")
        if value < 0 or (value == 0 and key in _POSITIVE):
            raise UserError(f"{key} must be {'above' if key in _POSITIVE else 'at least'} 0, got {value}")
    for key, least in _WHOLE.items():
        value = _select(cfg, key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise UserError(f"{key} must be a whole number of at least {least}, got {value!r}")
    for key, choices in _CHOICES.items():
        value = _select(cfg, key)
        if value is not None and value not in choices:
            names = [str(choice) for choice in choices if choice is not None]
            raise UserError(
                f"{key} must be one of {', '.join(names)}, got {value!r}{_near(str(value), names)}"
            )
    _validate_together(cfg)


def check_additions(overrides: Sequence[str], conf: Path | None = None) -> None:
    """Refuse ``+key=value`` for a key nobody reads: most often it is a typo that Hydra would let through.

    Arguments of a class are welcome (``+phase.optimizer.weight_decay=0.01``).

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
    keys = _all_keys(parse_overrides(overrides), conf)
    for override in added:
        key = override.key_or_group
        if key in keys or key in groups_of(conf) or f"{key.rsplit('.', 1)[0]}._target_" in keys:
            continue
        raise UserError(_unknown_key(key, keys, conf))


def _validate_together(cfg: Config) -> None:
    """What no single value can see."""
    resolution = cfg.domain.resolution
    if resolution is not None and resolution & (resolution - 1):
        raise UserError(
            f"domain.resolution must be a power of two, as StyleGAN2 makes them, got {resolution}"
        )
    if not any(_select(cfg, f"loss.{term}") for term in ("l2", "lpips", "id")):
        raise UserError(
            "loss.l2, loss.lpips and loss.id are all 0, so nothing compares image and photo: raise one"
        )
    if cfg.loss.id > 0 and not cfg.judges.identity:
        raise UserError(
            f"loss.id={cfg.loss.id} needs a network that compares: use judges.identity=id_moco (anything), id_arcface "
            "or id_facenet (faces), or set loss.id=0"
        )
    if cfg.loss.adv > 0 and cfg.loss.adv_from_kimg >= cfg.phase.kimg:
        raise UserError(
            f"the critic would join after loss.adv_from_kimg={cfg.loss.adv_from_kimg} thousand photos, but training "
            f"ends at phase.kimg={cfg.phase.kimg}: lower the first or raise the second"
        )
    if cfg.phase.kimg * 1000 < cfg.phase.batch_size:
        raise UserError(
            f"phase.kimg={cfg.phase.kimg} is less than one batch of phase.batch_size={cfg.phase.batch_size} photos"
        )
    if not str(cfg.phase.monitor).startswith("val/"):
        raise UserError(
            f"phase.monitor must be a validation number such as val/l2, got {cfg.phase.monitor!r}"
        )
    num_train = _select(cfg, "data.num_train")
    if num_train is not None and num_train < cfg.phase.batch_size:
        raise UserError(
            f"data.num_train={num_train} photos do not fill one batch of phase.batch_size={cfg.phase.batch_size}"
        )


FACE_JUDGES = ("id_descriptor", "id_facenet", "id_arcface")


def cautions(cfg: Config) -> list[str]:
    """What can be run and is probably not meant, one sentence each."""
    told = []
    if cfg.loss.id > 0 and cfg.judges.identity in FACE_JUDGES and not cfg.domain.faces:
        told.append(
            f"loss.id={cfg.loss.id} asks the face network {cfg.judges.identity} about {cfg.domain.name}, which are no "
            "faces: use judges.identity=id_moco or loss.id=0, or say domain.faces=true if they are"
        )
    return told


def _select(cfg: Config, key: str) -> Any:
    return OmegaConf.select(cfg, key)


# Objects, files, and what Hydra knows about the running job -----------------------------------------------


def build(node: Config, *given: Any, **objects: Any) -> Any:
    """The object a leaf describes: ``_target_`` called with the leaf's values and the given objects.

    Raises:
        UserError: If the class cannot be found or refuses its arguments.
    """
    try:
        return instantiate(node, *given, _convert_="all", **objects)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, UserError):
            raise cause from error
        target = OmegaConf.select(node, "_target_")
        detail = str(cause if cause is not None else error).splitlines()[0]
        raise UserError(f"{target} cannot be built from the configuration: {detail}") from error


def given(cfg: Config, key: str) -> Any:
    """The value of a key, None where it is null or still to be given."""
    return OmegaConf.select(cfg, key, throw_on_missing=False)


def to_dict(cfg: Config) -> dict[str, Any]:
    """The configuration as plain dictionaries, every reference resolved."""
    plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=False)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def save(cfg: Config, path: Path) -> None:
    """Write the resolved configuration as YAML."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(OmegaConf.to_yaml(OmegaConf.create(to_dict(cfg))), encoding="utf-8")
    os.replace(scratch, path)


def load(path: Path) -> Config:
    """Read a configuration that ``save`` wrote.

    Raises:
        UserError: If the file is missing or not a configuration.
    """
    try:
        cfg = OmegaConf.load(path)
    except FileNotFoundError as error:
        raise UserError(f"there is no {path}; give the folder of a run, which holds config.yaml") from error
    except Exception as error:  # the YAML library has a family of its own
        raise UserError(f"{path} is not a readable configuration: {str(error).splitlines()[0]}") from error
    if not isinstance(cfg, DictConfig):
        raise UserError(f"{path} is not a configuration but a list")
    return cfg


def run_dir() -> Path:
    """The folder of the running job."""
    return Path(HydraConfig.get().runtime.output_dir)


def task_overrides() -> list[str]:
    """What was typed for the running job; an empty list outside Hydra."""
    if not HydraConfig.initialized():
        return []
    return [str(override) for override in HydraConfig.get().overrides.task]

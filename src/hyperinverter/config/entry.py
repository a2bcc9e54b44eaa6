"""Where a command line comes in: its configuration, and its errors in one sentence."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from hyperinverter.config.checks import check_additions, check_choices
from hyperinverter.config.explain import diagnose
from hyperinverter.config.groups import Config, compose_choices, conf_dir
from hyperinverter.config.overrides import normalise_overrides, typed_value
from hyperinverter.config.unused import check_flags, unused
from hyperinverter.contracts import UserError
from hyperinverter.system.errors import cause
from hyperinverter.system.files import OTHER_OUTPUTS
from hyperinverter.system.processes import is_first, refuse_stray_ranks
from hyperinverter.system.terminal import fail, leave, prepare_streams, say, write


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
    check_choices(typed, conf)
    check_additions([item for item in typed if not item.startswith("-")], conf)
    try:
        return compose_choices(typed, conf)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(diagnose(error, typed, conf)) from error
    except RecursionError as error:
        raise UserError("an override is nested too deeply: write fewer brackets") from error


def front_door(job: Callable[[Config], Any]) -> NoReturn:
    """Do a job with what was typed, or a sweep of them; every expected failure is one sentence and exit status 1.

    Tracebacks appear with ``debug=true`` on the command line or ``HYPERINVERTER_DEBUG=1``.
    """
    prepare_streams()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its exceptions to us instead of printing them
    debug = os.environ.get("HYPERINVERTER_DEBUG") == "1"
    debug = debug or typed_value(sys.argv[1:], "debug") in ("true", "True", "1")
    try:
        refuse_stray_ranks()
        sys.argv[1:] = normalise_overrides(sys.argv[1:])
        check_flags(sys.argv[1:])
        check_choices(sys.argv[1:], conf_dir())
        for line in unused(sys.argv[1:]):
            say(f"warning: {line}")
        if not is_first():
            sys.argv.append("hydra.output_subdir=null")  # only the first process writes what was typed
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(job)()
    except UserError as error:
        fail(str(error), debug=debug, everywhere=True)
    except (HydraException, OmegaConfBaseException) as error:
        fail(diagnose(error, sys.argv[1:], conf_dir()), debug=debug, everywhere=True)
    except KeyboardInterrupt:
        write("\ninterrupted\n")
        leave(130)
    except SystemExit as ended:
        leave(ended.code if isinstance(ended.code, int) else int(ended.code is not None))
    except BrokenPipeError:  # nobody reads on, as behind `| head`
        leave(1)
    except Exception as error:  # Hydra's own work: composing, folders, globs, its help
        fail(_unforeseen(error), debug=debug, everywhere=True)
    leave(0)


def _unforeseen(error: Exception) -> str:
    """The sentence for what Hydra, OmegaConf or the system raise before and after our own code."""
    if isinstance(error, OSError) and error.filename:
        return f"cannot write {error.filename}: {error.strerror}: {OTHER_OUTPUTS}, or hydra.run.dir=PATH"
    return f"{cause(error)}: check what was typed (debug=true shows where it happened)"

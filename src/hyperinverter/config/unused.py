"""What Hydra accepts on the command line but nothing here uses: it is said, or refused where it would mislead."""

from collections.abc import Sequence

from hyperinverter.contracts import UserError, shown

_OF_A_RUN = ("hydra.run", "hydra.job", "hydra.output_subdir")
_OF_A_SWEEP = ("hydra.sweep", "hydra.sweeper", "hydra.launcher")
_FIXED = {  # flags that would put something else in the place of conf/config.yaml
    "--experimental-rerun": "reads a pickle, which can run any code: type the command again, or resume=RUN",
    **dict.fromkeys(
        ("--config-name", "-cn", "--config-path", "-cp"),
        "is not used here: options of your own belong in a folder of groups, --config-dir=FOLDER",
    ),
    **dict.fromkeys(("--package", "-p"), "is not used here: --cfg job shows the complete configuration"),
}
_SHOWS = ("--cfg", "-c", "--info", "-i", "--shell-completion", "-sc")


def check_flags(typed: Sequence[str]) -> None:
    """Refuse flags of Hydra that mislead or exclude each other, and folders that would change what paths mean.

    Raises:
        UserError: With the one to leave out.
    """
    for item in typed:
        flag = item.partition("=")[0]
        for name, why in _FIXED.items():  # a flag may be cut short, as --config-n
            if flag == name or (len(flag) > 3 and name.startswith(flag) and flag.startswith("--")):
                raise UserError(f"{shown(item)} {why}")
        if flag in ("--config-dir", "-cd") and flag == item:
            raise UserError(f"write {flag}=FOLDER, with an equals sign")
    shows = next((item for item in typed if item.split("=")[0] in _SHOWS), None)
    if shows is not None and ("-m" in typed or "--multirun" in typed):
        raise UserError(
            f"{shows} shows the configuration of one run, and -m asks for a sweep: leave -m out, and give every key "
            "one value"
        )
    for item in typed:
        key, _, value = item.lstrip("+~").partition("=")
        if key == "hydra.job.chdir" and value.strip("'\"").lower() in ("true", "1", "yes", "on"):
            raise UserError(
                "hydra.job.chdir=true would change what relative paths mean: leave it out, and choose the run folder "
                "with hydra.run.dir=PATH"
            )


def unused(typed: Sequence[str]) -> list[str]:
    """One sentence for every setting of Hydra that has no effect on what was typed."""
    sweep = "-m" in typed or "--multirun" in typed
    sweep = sweep or any(item.startswith(("+sweep=", "hydra.mode=MULTIRUN")) for item in typed)
    found = []
    for item in typed:
        key = item.lstrip("+~").partition("=")[0].replace("/", ".")
        head = ".".join(key.split(".")[:2])
        if key == "hydra.sweep.subdir":
            found.append(
                f"{shown(item)} changes nothing: the jobs of a sweep are numbered, so that it can be resumed; choose "
                "the sweep's folder with hydra.sweep.dir=PATH"
            )
        elif sweep and head in _OF_A_RUN:
            found.append(
                f"{shown(item)} changes nothing in a sweep, whose jobs are processes of their own; choose the sweep's "
                "folder with hydra.sweep.dir=PATH"
            )
        elif not sweep and key == "hydra.job.name":
            found.append(f"{shown(item)} changes nothing in a single run: choose its name with name=TEXT")
        elif not sweep and head in _OF_A_SWEEP:
            found.append(f"{shown(item)} changes nothing in a single run: add -m or +sweep for a sweep")
    return found

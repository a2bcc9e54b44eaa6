"""Train one phase, or a sweep of runs: what ``hyperinverter train`` and ``python train.py`` start.

A module of its own, because the jobs of a sweep and the processes of a distributed run start it again, as
``python -m hyperinverter.train OVERRIDES``.
"""

from typing import NoReturn

from hyperinverter.config import Config, front_door


def job(cfg: Config) -> float:
    """Run one job and return the score a sweep compares."""
    from hyperinverter.training.job import (
        run,  # brings torch: a misspelt override should answer before that loads
    )

    return run(cfg)


def main() -> NoReturn:
    """Train as the overrides on the command line say."""
    front_door(job)


if __name__ == "__main__":
    main()

"""Train one phase: `python train.py`, `python train.py phase=2`, `python train.py phase=2 +sweep`."""

import hydra
from omegaconf import DictConfig

from hyperinverter.config import front_door


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> float:
    """Run one job and return the score a sweep compares."""
    from hyperinverter.cli import run  # brings torch: a misspelt override should answer before that loads

    return run(cfg)


if __name__ == "__main__":
    front_door(main)

"""Hydra's name for the launcher on a Slurm cluster."""

from hyperinverter.sweeps import slurm
from hyperinverter.sweeps.slurm import Supervisor as Supervisor  # the name by which queued jobs know it


class SlurmLauncher(slurm.SlurmLauncher):
    """``hydra/launcher=slurm``"""

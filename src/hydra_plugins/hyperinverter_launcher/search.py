"""Hydra's name for the search with Optuna."""

from hyperinverter.sweeps import search


class OptunaSweeper(search.OptunaSweeper):
    """``hydra/sweeper=optuna``"""

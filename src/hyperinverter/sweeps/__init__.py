"""Sweeps that work with distributed training: which jobs there are, and a fresh process for each.

``study`` and ``search`` choose the jobs; ``launcher`` runs them on this machine, ``slurm`` on a cluster. Hydra finds
all four through ``hydra_plugins.hyperinverter_launcher``.
"""

"""What Hydra insists on: launchers and sweepers that are defined below ``hydra_plugins``.

Hydra runs these files again when it looks for plugins, even if they are imported already. So they hold nothing but
names; the classes that do the work exist once, in ``hyperinverter.sweeps``.
"""

from hyperinverter.sweeps import launcher, study


class FreshLauncher(launcher.FreshLauncher):
    """``hydra/launcher=fresh``"""


class StudySweeper(study.StudySweeper):
    """``hydra/sweeper=study``"""

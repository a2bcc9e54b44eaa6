"""What Hydra finds."""

import subprocess
import sys

LOOK_TWICE = """
import hydra_plugins.hyperinverter_launcher
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hyperinverter.sweeps.launcher import FreshLauncher

found = Plugins.instance().class_name_to_class["hydra_plugins.hyperinverter_launcher.FreshLauncher"]
assert issubclass(found, FreshLauncher)
once = [launcher for launcher in Launcher.__subclasses__() if launcher.__name__ == "FreshLauncher"]
assert once == [FreshLauncher], once
"""


def test_the_launcher_exists_once_although_hydra_runs_its_plugins_again() -> None:
    done = subprocess.run([sys.executable, "-c", LOOK_TWICE], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr

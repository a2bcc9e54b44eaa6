"""Command lines are read as on a machine that nobody has used."""

import pytest


@pytest.fixture(autouse=True)
def _alone(own_home: None) -> None:
    """No test reads or writes what belongs to the person who runs it."""

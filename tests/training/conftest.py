"""Runs of a toy, and tiny tasks with a trainer that does nothing but train."""

import pytest
from tiny_tasks import make_phase1, make_phase2, make_trainer  # noqa: F401  fixtures
from toy import toy  # noqa: F401  fixtures


@pytest.fixture(autouse=True)
def _alone(own_home: None) -> None:
    """No test reads or writes what belongs to the person who runs it."""

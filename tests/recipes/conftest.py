"""The tiny tasks, and a trainer that does nothing but train."""

from tiny_tasks import make_phase1, make_phase2, make_trainer  # noqa: F401  fixtures

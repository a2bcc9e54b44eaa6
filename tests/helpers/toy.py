"""Fixtures of runs that take a moment: a toy in the place of the networks."""

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Replace the networks by a model with three parameters."""
    import stub_train

    monkeypatch.delitem(sys.modules, "hyperinverter.assembly", raising=False)
    stub_train.install()
    import hyperinverter

    monkeypatch.setattr(hyperinverter, "assembly", sys.modules["hyperinverter.assembly"], raising=False)
    yield
    sys.modules.pop("hyperinverter.assembly", None)

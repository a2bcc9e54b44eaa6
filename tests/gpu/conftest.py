"""All tests of this folder need a GPU, or ask for a rehearsal: see ``place``."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault(
    "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
)  # exact repeats; read before the first matrix product

import place
import pytest
import torch

# Side by side, each process takes its part of the cores: most of the time goes to references on the processor, and
# processes with a thread for every core each wait for one another many times as long as they compute.
_BESIDE = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if _BESIDE > 1:
    _threads = max(1, torch.get_num_threads() // _BESIDE)
    torch.set_num_threads(_threads)
    os.environ.setdefault("OMP_NUM_THREADS", str(_threads))  # for processes that tests start
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = place.missing()
    for item in items:
        if Path(__file__).parent in item.path.parents:
            if item.get_closest_marker("anywhere"):
                continue
            item.add_marker(pytest.mark.gpu)
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(params=place.TOLERANCE)
def precision(request: pytest.FixtureRequest) -> str:
    """Each of ``place.TOLERANCE`` that this card has."""
    wanted: str = request.param
    if place.missing() is None and (reason := place.unfit(wanted)):
        pytest.skip(reason)
    return wanted
